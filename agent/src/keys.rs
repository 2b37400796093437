//! The device's own key, and what is signed by others: Ed25519 and SHA-256 by `ring`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use glg_engine::command::Crypto;
use glg_proto::command::{PublicKey, SIGNATURE_BYTES, Signature};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// Bytes of a private key.
const SEED_BYTES: usize = 32;

/// Why the device has no key.
#[derive(Debug)]
pub enum KeyError {
    /// The file, and what went wrong with it.
    Io(PathBuf, io::Error),
    /// The file is not one that this program wrote.
    Malformed(PathBuf),
    /// Others may read the file: its mode.
    Open(PathBuf, u32),
    /// The system gives no random numbers.
    NoRandom,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            KeyError::Malformed(path) => {
                write!(f, "{}: not a device key; delete it to have a new one made", path.display())
            }
            KeyError::Open(path, mode) => {
                write!(
                    f,
                    "{}: others may read it (mode {mode:o}): chmod 600 it, or delete it",
                    path.display()
                )
            }
            KeyError::NoRandom => f.write_str("the system gives no random numbers"),
        }
    }
}

impl std::error::Error for KeyError {}

/// The device's key, which signs its receipts.
pub struct DeviceKey(Ed25519KeyPair);

impl DeviceKey {
    /// Reads the key at `path`; makes one when there is none.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(path: &Path) -> Result<DeviceKey, KeyError> {
        let io = |error| KeyError::Io(path.to_owned(), error);
        let seed = match fs::File::open(path) {
            Ok(file) => read(path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(io(error)),
        };
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
        Ok(DeviceKey(pair.map_err(|_| KeyError::Malformed(path.to_owned()))?))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.0.public_key().as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Signs.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.0.sign(message);
        signature.as_ref().first_chunk().copied().unwrap_or([0; SIGNATURE_BYTES])
    }
}

fn read(path: &Path, file: fs::File) -> Result<[u8; SEED_BYTES], KeyError> {
    let io = |error| KeyError::Io(path.to_owned(), error);
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open(path.to_owned(), mode));
    }
    let mut bytes = Vec::new();
    file.take(SEED_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    bytes.try_into().map_err(|_| KeyError::Malformed(path.to_owned()))
}

/// Makes a key; what is at `path` afterwards is all of it or nothing.
fn make(path: &Path) -> Result<[u8; SEED_BYTES], KeyError> {
    let io = |error| KeyError::Io(path.to_owned(), error);
    let mut seed = [0; SEED_BYTES];
    SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::NoRandom)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(io)?;
    file.write_all(&seed).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(seed)
}

/// What the engine needs of cryptography.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring;

impl Crypto for Ring {
    fn verify(&self, key: &PublicKey, signed: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok()
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut sum = Context::new(&SHA256);
        parts.iter().for_each(|part| sum.update(part));
        sum.finish().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn a_device_keeps_its_key() {
        let folder = Folder::new("keys-kept");
        let path = folder.0.join("sub/device.key");
        let first = DeviceKey::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = DeviceKey::open(&path).unwrap();
        assert_eq!(first.public(), again.public());
        assert!(Ring.verify(&first.public(), b"words", &again.sign(b"words")));
        assert!(!Ring.verify(&first.public(), b"other words", &again.sign(b"words")));
        assert!(!Ring.verify(&[7; 32], b"words", &again.sign(b"words")));
    }

    #[test]
    fn rubbish_and_open_keys_are_refused() {
        let folder = Folder::new("keys-refused");
        let path = folder.0.join("device.key");
        DeviceKey::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(DeviceKey::open(&path), Err(KeyError::Open(_, 0o640))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for rubbish in [0, 31, 33, 4096] {
            fs::write(&path, vec![1; rubbish]).unwrap();
            assert!(matches!(DeviceKey::open(&path), Err(KeyError::Malformed(_))), "{rubbish}");
        }
    }

    #[test]
    fn sums_are_those_of_the_standard() {
        let sum = crate::hex::text(&Ring.sha256(&[b"a", b"", b"bc"]));
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
