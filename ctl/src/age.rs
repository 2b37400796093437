//! Decryption of age's format (age-encryption.org/v1, <https://c2sp.org/age>) with an X25519 identity.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use x25519_dalek::{PublicKey, StaticSecret};

const FIRST_LINE: &str = "age-encryption.org/v1";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
/// Bytes that are sealed together, without their tag.
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
const FILE_KEY_BYTES: usize = 16;
/// Columns of a stanza's body; a shorter line is its last.
const COLUMNS: usize = 64;

/// Why a file cannot be decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgeError {
    /// It is no age file, or only the beginning of one.
    NotAge,
    /// It is for others.
    NotForUs,
    /// It was changed, or is cut short.
    Damaged,
}

impl fmt::Display for AgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AgeError::NotAge => "not a file of age's format",
            AgeError::NotForUs => "encrypted to somebody else: no identity in the file fits",
            AgeError::Damaged => "changed after it was encrypted, or cut short",
        })
    }
}

impl std::error::Error for AgeError {}

impl From<ring::error::Unspecified> for AgeError {
    fn from(_: ring::error::Unspecified) -> AgeError {
        AgeError::Damaged
    }
}

/// A secret key as `age-keygen` makes them.
pub(crate) struct Identity(StaticSecret);

impl Identity {
    /// Those in the text of an identity file; `None` when a line is neither one nor a comment.
    pub(crate) fn parse_all(text: &str) -> Option<Vec<Identity>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(Identity::parse).collect()
    }

    fn parse(text: &str) -> Option<Identity> {
        let decoded = CheckedHrpstring::new::<Bech32>(text).ok()?;
        if decoded.hrp() != Hrp::parse("age-secret-key-").ok()? {
            return None;
        }
        let bytes: Vec<u8> = decoded.byte_iter().collect();
        <[u8; 32]>::try_from(bytes).ok().map(|secret| Identity(StaticSecret::from(secret)))
    }

    /// The key of the file, when this stanza is for us.
    fn unwrap(&self, share: &[u8; 32], body: &[u8]) -> Option<[u8; FILE_KEY_BYTES]> {
        let secret = self.0.diffie_hellman(&PublicKey::from(*share));
        // A share of small order would give everybody the same secret.
        if !secret.was_contributory() {
            return None;
        }
        let salt = [&share[..], PublicKey::from(&self.0).as_bytes()].concat();
        let mut body = body.to_vec();
        let plain = open(&derive(&salt, secret.as_bytes(), X25519_INFO).ok()?, [0; 12], &mut body).ok()?;
        plain.try_into().ok()
    }
}

/// What stands before the sealed chunks.
struct Header<'f> {
    /// Share and body of each X25519 stanza.
    stanzas: Vec<([u8; 32], Vec<u8>)>,
    /// What the sum is over.
    summed: &'f [u8],
    mac: Vec<u8>,
    rest: &'f [u8],
}

/// The text of a file.
pub(crate) fn decrypt(file: &[u8], identities: &[Identity]) -> Result<Vec<u8>, AgeError> {
    let header = header(file).ok_or(AgeError::NotAge)?;
    let file_key = header
        .stanzas
        .iter()
        .find_map(|(share, body)| identities.iter().find_map(|identity| identity.unwrap(share, body)))
        .ok_or(AgeError::NotForUs)?;
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &derive(&[], &file_key, b"header")?);
    hmac::verify(&mac_key, header.summed, &header.mac)?;
    let (nonce, mut sealed) = header.rest.split_first_chunk::<16>().ok_or(AgeError::Damaged)?;
    let key = derive(nonce, &file_key, b"payload")?;
    let mut out = Vec::new();
    for index in 0_u64.. {
        let (chunk, rest) = sealed.split_at(sealed.len().min(CHUNK_BYTES + TAG_BYTES));
        let mut nonce = [0; 12];
        let (count, last) = nonce.split_at_mut(11);
        count[3..].copy_from_slice(&index.to_be_bytes());
        last[0] = u8::from(rest.is_empty());
        let mut chunk = chunk.to_vec();
        let plain = open(&key, nonce, &mut chunk)?;
        // An empty last chunk would be a second way to write the same.
        if plain.is_empty() && index > 0 {
            return Err(AgeError::Damaged);
        }
        out.extend_from_slice(plain);
        if rest.is_empty() {
            break;
        }
        sealed = rest;
    }
    Ok(out)
}

fn header(file: &[u8]) -> Option<Header<'_>> {
    let (first, mut rest) = line(file)?;
    if first != FIRST_LINE {
        return None;
    }
    let mut stanzas = Vec::new();
    loop {
        let (text, after) = line(rest)?;
        if let Some(mac) = text.strip_prefix("--- ") {
            let summed = file.get(..file.len() - rest.len() + 3)?;
            return Some(Header { stanzas, summed, mac: STANDARD_NO_PAD.decode(mac).ok()?, rest: after });
        }
        let mut words = text.strip_prefix("-> ")?.split(' ');
        let (body, after) = body(after)?;
        if words.next() == Some("X25519") {
            let share = STANDARD_NO_PAD.decode(words.next()?).ok()?.try_into().ok()?;
            stanzas.push((share, body));
        }
        rest = after;
    }
}

/// The body of a stanza.
fn body(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = String::new();
    loop {
        let (part, after) = line(rest)?;
        text.push_str(part);
        rest = after;
        if part.len() < COLUMNS {
            return Some((STANDARD_NO_PAD.decode(&text).ok()?, rest));
        }
    }
}

/// The next line of the header, all of which is text.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    Some((text, bytes.get(end + 1..)?))
}

/// HKDF-SHA256 (RFC 5869).
fn derive(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<[u8; 32], AgeError> {
    let mut key = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    prk.expand(&[info], hkdf::HKDF_SHA256)?.fill(&mut key)?;
    Ok(key)
}

fn open<'c>(key: &[u8; 32], nonce: [u8; 12], sealed: &'c mut [u8]) -> Result<&'c [u8], AgeError> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key)?);
    Ok(key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), sealed)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{program} is missing (apt-get install age): {e}"));
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        // It answers while it reads.
        let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn made() -> (String, Identity) {
        let text = String::from_utf8(run("age-keygen", &[], b"")).unwrap();
        let recipient = text.split("public key: ").nth(1).unwrap().lines().next().unwrap().to_owned();
        (recipient, Identity::parse_all(&text).unwrap().remove(0))
    }

    #[test]
    fn what_age_encrypts() {
        let (recipient, identity) = made();
        let (other, stranger) = made();
        for len in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let plain: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let sealed = run("age", &["-r", &other, "-r", &recipient], &plain);
            assert!(decrypt(&sealed, &[identity_again(&identity)]).unwrap() == plain, "{len}");
            let sealed = run("age", &["-r", &recipient], &plain);
            assert_eq!(decrypt(&sealed, &[identity_again(&stranger)]), Err(AgeError::NotForUs));
        }
    }

    fn identity_again(identity: &Identity) -> Identity {
        Identity(identity.0.clone())
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_told() {
        let (recipient, identity) = made();
        let sealed = run("age", &["-r", &recipient], b"records");
        let identities = [identity];
        assert_eq!(decrypt(&sealed, &identities).unwrap(), b"records");
        for at in 0..sealed.len() {
            assert!(decrypt(&sealed[..at], &identities).is_err(), "{at}");
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(decrypt(&changed, &identities).is_err(), "{at}");
        }
        assert_eq!(decrypt(b"-----BEGIN AGE ENCRYPTED FILE-----\n", &identities), Err(AgeError::NotAge));
    }

    #[test]
    fn identities_as_age_keygen_writes_them() {
        let file = "# public key: age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj\n\
                    AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n";
        assert_eq!(Identity::parse_all(file).unwrap().len(), 1);
        let swapped = file.replace("4EGAEX", "4EGEAX");
        assert!(Identity::parse_all(&swapped).is_none());
        assert!(
            Identity::parse_all("age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj").is_none()
        );
    }
}
