//! Encryption to a public key, in the format of age (age-encryption.org/v1, <https://c2sp.org/age>), with one X25519
//! recipient. Its own crate is larger than the whole agent; everything below the format is `ring`'s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};

/// Bytes of the key of one file.
const FILE_KEY_BYTES: usize = 16;
/// Bytes that are sealed together.
const CHUNK_BYTES: usize = 64 << 10;
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";

/// Somebody to encrypt to: `age1…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

impl Recipient {
    /// Reads what `age-keygen` calls the public key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Recipient> {
        let decoded = CheckedHrpstring::new::<Bech32>(text).ok()?;
        if decoded.hrp() != Hrp::parse("age").ok()? {
            return None;
        }
        let bytes: Vec<u8> = decoded.byte_iter().collect();
        bytes.try_into().ok().map(Recipient)
    }
}

/// Something of `ring` failed, which tells nobody why: there are no random numbers, or the recipient is a point of
/// small order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

impl From<ring::error::Unspecified> for Failed {
    fn from(_: ring::error::Unspecified) -> Failed {
        Failed
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("encryption failed: no random numbers, or a recipient that is no key")
    }
}

impl std::error::Error for Failed {}

/// Encrypts.
///
/// # Errors
/// [`Failed`].
pub fn encrypt(recipient: &Recipient, plain: &[u8]) -> Result<Vec<u8>, Failed> {
    let random = SystemRandom::new();
    let mut file_key = [0; FILE_KEY_BYTES];
    random.fill(&mut file_key)?;
    let mut out = header(recipient, &file_key, &random)?;
    let mut nonce = [0; 16];
    random.fill(&mut nonce)?;
    out.extend_from_slice(&nonce);
    let key = sealing_key(&derive(&nonce, &file_key, b"payload")?)?;
    // The last chunk is marked; it may be empty only when all is.
    let chunks = plain.len().div_ceil(CHUNK_BYTES).max(1);
    for index in 0..chunks {
        let rest = plain.get(index * CHUNK_BYTES..).unwrap_or_default();
        let chunk = rest.get(..CHUNK_BYTES).unwrap_or(rest);
        let mut nonce = [0; 12];
        let (count, last) = nonce.split_at_mut(11);
        count[3..].copy_from_slice(&(index as u64).to_be_bytes());
        last[0] = u8::from(index + 1 == chunks);
        seal(&key, nonce, chunk, &mut out)?;
    }
    Ok(out)
}

fn header(
    recipient: &Recipient,
    file_key: &[u8; FILE_KEY_BYTES],
    random: &SystemRandom,
) -> Result<Vec<u8>, Failed> {
    let own = EphemeralPrivateKey::generate(&X25519, random)?;
    let share = own.compute_public_key()?;
    let salt = [share.as_ref(), &recipient.0].concat();
    let peer = UnparsedPublicKey::new(&X25519, &recipient.0);
    let wrapping = agree_ephemeral(own, &peer, |secret| derive(&salt, secret, X25519_INFO))??;
    let mut body = Vec::new();
    seal(&sealing_key(&wrapping)?, [0; 12], file_key, &mut body)?;
    let base64 = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
    let mut text =
        format!("age-encryption.org/v1\n-> X25519 {}\n{}\n---", base64(share.as_ref()), base64(&body));
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &derive(&[], file_key, b"header")?);
    let mac = hmac::sign(&mac_key, text.as_bytes());
    text.push(' ');
    text.push_str(&base64(mac.as_ref()));
    text.push('\n');
    Ok(text.into_bytes())
}

/// HKDF-SHA256 (RFC 5869).
fn derive(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<[u8; 32], Failed> {
    let mut key = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    prk.expand(&[info], hkdf::HKDF_SHA256)?.fill(&mut key)?;
    Ok(key)
}

fn sealing_key(key: &[u8; 32]) -> Result<LessSafeKey, Failed> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key)?))
}

fn seal(key: &LessSafeKey, nonce: [u8; 12], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
    let start = out.len();
    out.extend_from_slice(plain);
    let sealed = out.get_mut(start..).ok_or(Failed)?;
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), sealed)?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the secret key AGE-SECRET-KEY-1… in the integration test, which decrypts with another program.
    const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    #[test]
    fn recipients_as_age_writes_them() {
        assert!(Recipient::parse(RECIPIENT).is_some());
        let swapped = RECIPIENT.replace("z7h", "zh7");
        for wrong in ["", "age1", &swapped, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", &RECIPIENT[..60]] {
            assert_eq!(Recipient::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_format() {
        let recipient = Recipient::parse(RECIPIENT).unwrap();
        let header = 22 + 54 + 44 + 48;
        for (plain, chunks) in [(0, 1), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (3 * CHUNK_BYTES, 3)]
        {
            let sealed = encrypt(&recipient, &vec![7; plain]).unwrap();
            assert_eq!(sealed.len(), header + 16 + plain + 16 * chunks, "{plain}");
        }
    }
}
