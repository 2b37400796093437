//! Keys that sign commands: their files, and the counter that goes with each.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use glg_proto::command::{KeyId, PublicKey, Signature};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::files;
use crate::text::{hex, unhex};

/// Bytes of the secret that a key grows from (RFC 8032).
const SEED_BYTES: usize = 32;
/// Longest name of a key, in bytes.
const NAME_MAX: usize = 32;
/// No key file is longer.
const FILE_MAX: u64 = 4096;

/// `glg keys`.
#[derive(clap::Subcommand)]
pub(crate) enum Keys {
    /// Make a key, and print what belongs into the boards' configuration
    New {
        /// Whose it is: letters, digits, dots, dashes and underscores
        #[arg(value_parser = parse_name)]
        name: String,
        /// Where to keep the secret; NAME.key by default
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the public half of a key
    Show {
        /// The key's file
        file: PathBuf,
    },
}

/// Why a file is no key.
#[derive(Debug)]
pub(crate) enum KeyError {
    /// It cannot be read.
    Io(PathBuf, io::Error),
    /// Others may read it: its mode.
    Open(PathBuf, u32),
    /// It is something else, or damaged: what is wrong.
    Damaged(PathBuf, &'static str),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            KeyError::Open(path, mode) => write!(
                f,
                "{0}: others may read this key (mode {mode:04o}): chmod 600 {0}, and make a new key if others did",
                path.display()
            ),
            KeyError::Damaged(path, what) => {
                write!(f, "{}: no key of glg, or damaged: {what}", path.display())
            }
        }
    }
}

impl std::error::Error for KeyError {}

/// A key that can sign.
pub(crate) struct Key {
    name: String,
    pair: Ed25519KeyPair,
    public: PublicKey,
    file: PathBuf,
}

/// `glg keys new`, `glg keys show`.
pub(crate) fn run(keys: &Keys) -> Result<ExitCode> {
    match keys {
        Keys::New { name, out } => {
            let file = out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.key")));
            create(name, &file)?;
            let key = Key::read(&file)?;
            println!("{} holds the secret of key {}: keep it to yourself.", file.display(), key.id());
            println!("The boards that shall obey it need this in their configuration:\n\n{}", key.snippet());
        }
        Keys::Show { file } => {
            let key = Key::read(file)?;
            println!(
                "key {} \"{}\", public {}\n\n{}",
                key.id(),
                key.name,
                hex(&key.public, 32),
                key.snippet()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
        return Err(format!("allowed are 1 to {NAME_MAX} letters, digits, dots, dashes and underscores"));
    }
    Ok(name.to_owned())
}

fn create(name: &str, file: &Path) -> Result<()> {
    let mut seed = [0; SEED_BYTES];
    SystemRandom::new().fill(&mut seed).ok().context("the system gives no random numbers")?;
    let text = format!(
        "# Secret key of glg. Who has it can command devices; its public half: glg keys show FILE\n\
         name = \"{name}\"\nseed = \"{}\"\n",
        hex(&seed, SEED_BYTES)
    );
    files::create_private(file, &text).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow::anyhow!("{}: is there already, and a key is never overwritten", file.display())
        }
        _ => anyhow::Error::new(error).context(file.display().to_string()),
    })
}

impl Key {
    /// Reads a key from its file, which nobody else may be able to read.
    pub(crate) fn read(file: &Path) -> Result<Key, KeyError> {
        let io = |error| KeyError::Io(file.to_owned(), error);
        let damaged = |what| KeyError::Damaged(file.to_owned(), what);
        let about = fs::metadata(file).map_err(io)?;
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open(file.to_owned(), mode));
        }
        if about.len() > FILE_MAX {
            return Err(damaged("it is too long"));
        }
        let text = fs::read_to_string(file).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => damaged("it is no text"),
            _ => io(error),
        })?;
        let (name, seed) = parse(&text).map_err(damaged)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| damaged("the seed is none"))?;
        let public = PublicKey::try_from(pair.public_key().as_ref());
        let public = public.map_err(|_| damaged("the seed is none"))?;
        Ok(Key { name, pair, public, file: file.to_owned() })
    }

    /// Which key.
    pub(crate) fn id(&self) -> KeyId {
        KeyId::of(&self.public)
    }

    /// A signature of it.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Signature {
        let mut out = [0; 64];
        out.copy_from_slice(self.pair.sign(bytes).as_ref());
        out
    }

    /// What belongs into the configuration of a board.
    fn snippet(&self) -> String {
        format!(
            "[[command.key]]\nname = \"{}\"\npublic = \"{}\"\n\
             roles = [\"look\"]            # look: locks, leaks; dump; set; audit. Every key may ping",
            self.name,
            hex(&self.public, 32)
        )
    }

    /// A counter that this key has not used: milliseconds since 1970, or more. It counts as used from now on.
    pub(crate) fn counter(&self, now_ms: u64) -> Result<u64> {
        self.raise(|last| now_ms.max(last.saturating_add(1)))
    }

    /// A device knows that this key has used counters up to this one.
    pub(crate) fn raise_to(&self, used: u64) -> Result<()> {
        self.raise(|last| last.max(used)).map(|_| ())
    }

    fn raise(&self, next: impl FnOnce(u64) -> u64) -> Result<u64> {
        let path = files::beside(&self.file, ".counter");
        let name = || format!("{}, where the last counter of this key is kept", path.display());
        let _lock = files::Lock::wait(&files::beside(&self.file, ".lock")).with_context(name)?;
        let last = match files::read_if_there(&path).with_context(name)? {
            None => 0,
            Some(text) => text.trim().parse().ok().with_context(|| {
                format!("{}: damaged: remove it, if the clock of this computer is right", name())
            })?,
        };
        let next = next(last);
        if next != last {
            files::replace(&path, &format!("{next}\n")).with_context(name)?;
        }
        Ok(next)
    }
}

/// Name and seed.
fn parse(text: &str) -> Result<(String, [u8; SEED_BYTES]), &'static str> {
    let (mut name, mut seed) = (None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once('=').ok_or("a line is neither `name = ...` nor `seed = ...`")?;
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "name" => name = Some(parse_name(value).map_err(|_| "the name has other characters")?),
            "seed" => {
                let bytes =
                    unhex(value.as_bytes()).and_then(|bytes| <[u8; SEED_BYTES]>::try_from(bytes).ok());
                seed = Some(bytes.ok_or("the seed has to have 64 hex digits")?);
            }
            _ => return Err("a line is neither `name = ...` nor `seed = ...`"),
        }
    }
    Ok((name.ok_or("there is no name")?, seed.ok_or("there is no seed")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Folder;
    use ring::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn made_read_and_used() {
        let folder = Folder::new("keys");
        let file = folder.0.join("night.key");
        create("night", &file).unwrap();
        assert!(create("night", &file).unwrap_err().to_string().contains("never overwritten"));
        let key = Key::read(&file).unwrap();
        assert_eq!(key.name, "night");
        let signature = key.sign(b"x");
        UnparsedPublicKey::new(&ED25519, key.public).verify(b"x", &signature).unwrap();
        assert!(key.snippet().contains(&format!("public = \"{}\"", hex(&key.public, 32))));
    }

    #[test]
    fn counters_only_rise() {
        let folder = Folder::new("counters");
        let file = folder.0.join("k");
        create("k", &file).unwrap();
        let key = Key::read(&file).unwrap();
        assert_eq!(key.counter(1000).unwrap(), 1000);
        assert_eq!(key.counter(1000).unwrap(), 1001);
        assert_eq!(key.counter(5).unwrap(), 1002, "the clock of the computer went back");
        key.raise_to(2000).unwrap();
        key.raise_to(1500).unwrap();
        assert_eq!(Key::read(&file).unwrap().counter(7).unwrap(), 2001);
        fs::write(folder.0.join("k.counter"), "1o").unwrap();
        assert!(format!("{:#}", key.counter(7).unwrap_err()).contains("remove it"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let folder = Folder::new("damaged");
        let file = folder.0.join("k");
        let read = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            Key::read(&file).err().unwrap().to_string()
        };
        let seed = "ab".repeat(32);
        let good = format!("# a key\nname = \"k\"\nseed = \"{seed}\"\n");
        assert!(read(&good, 0o640).contains("chmod 600"));
        for (text, what) in [
            ("", "there is no name"),
            ("name = k", "there is no seed"),
            ("-----BEGIN PRIVATE KEY-----", "a line is neither"),
            ("name = k\nseed = abcd", "64 hex digits"),
            ("name = \"a b\"", "other characters"),
            (&good.repeat(100), "too long"),
        ] {
            assert!(read(text, 0o600).contains(what), "{text}");
        }
        fs::remove_file(&file).unwrap();
        assert!(Key::read(&file).err().unwrap().to_string().contains("No such file"));
        fs::write(&file, good).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(Key::read(&file).ok().unwrap().id().to_string().len(), 16);
    }
}
