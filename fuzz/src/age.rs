//! Files of age's format, as `glg audit` decrypts them, and the identities it does that with.
//!
//! The seeds were made by age itself (`age -r`, with one recipient and with two), for the identity below, which is that
//! of age's own test vectors.

use crate::glg::age::{Identity, decrypt};

const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
/// What is in the seeds.
const TEXTS: [&[u8]; 2] = [b"records", b""];

/// Any bytes are refused, or decrypt to what was encrypted.
///
/// # Panics
/// When something comes out that nobody has put in.
pub fn check(data: &[u8]) {
    if let Some(text) = decrypted(data) {
        assert!(TEXTS.contains(&&text[..]), "nobody has encrypted {text:?}");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Identity::parse_all(text);
    }
}

fn decrypted(file: &[u8]) -> Option<Vec<u8>> {
    decrypt(file, &Identity::parse_all(IDENTITY)?).ok()
}

/// Files of one recipient and of two, and an identity.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../seeds/age-one").to_vec(),
        include_bytes!("../seeds/age-two").to_vec(),
        IDENTITY.as_bytes().to_vec(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_for_the_identity() {
        let [one, two, identity] = &seeds()[..] else { panic!("three seeds") };
        assert_eq!([one, two].map(|seed| decrypted(seed)), TEXTS.map(|text| Some(text.to_vec())));
        assert!(
            Identity::parse_all(std::str::from_utf8(identity).unwrap()).is_some_and(|all| all.len() == 1)
        );
    }
}
