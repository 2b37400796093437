//! The public keys of devices, each believed when it is first seen and held against the device from then on.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use glg_proto::command::PublicKey;

use crate::files;
use crate::text::{Escaped, hex, unhex};

/// The file of known devices, one a line: its name, its key in hex.
pub(crate) struct Devices {
    file: PathBuf,
}

/// Why a device's key is not believed.
#[derive(Debug)]
pub(crate) enum DeviceError {
    /// The file cannot be read or written.
    Io(PathBuf, io::Error),
    /// A line of it is damaged.
    Damaged(PathBuf, usize),
    /// The device had another key.
    Changed { file: PathBuf, device: String, known: PublicKey, now: PublicKey },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::Io(file, error) => write!(f, "{}: {error}", file.display()),
            DeviceError::Damaged(file, line) => {
                write!(f, "{} line {line}: wanted is a device's name and 64 hex digits", file.display())
            }
            DeviceError::Changed { file, device, known, now } => write!(
                f,
                "THE KEY OF {device} HAS CHANGED. It was {} and is {} now.\n  \
                 Either the device was set up anew, or somebody answers in its place. What it says is not believed.\n  \
                 If you know that it was set up anew, remove its line from {}",
                hex(known, 32),
                hex(now, 32),
                file.display(),
                device = Escaped(device),
            ),
        }
    }
}

impl std::error::Error for DeviceError {}

impl Devices {
    /// Kept in `file`, or where such things are kept.
    pub(crate) fn at(file: Option<&Path>) -> Option<Devices> {
        let usual = || {
            let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
            let config = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty());
            Some(config.map(PathBuf::from).or_else(home)?.join("glg/devices"))
        };
        Some(Devices { file: file.map(Path::to_owned).or_else(usual)? })
    }

    /// The key that is known of a device.
    pub(crate) fn known(&self, device: &str) -> Result<Option<PublicKey>, DeviceError> {
        let text = files::read_if_there(&self.file).map_err(|error| self.io(error))?.unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(char::is_whitespace).and_then(|(name, key)| {
                Some((name, PublicKey::try_from(unhex(key.trim().as_bytes())?).ok()?))
            });
            let (name, key) = parsed.ok_or_else(|| DeviceError::Damaged(self.file.clone(), number + 1))?;
            if name == device {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Whether this is the device's key; one that was never seen is remembered. `true`: it was not known before.
    pub(crate) fn check(&self, device: &str, key: &PublicKey) -> Result<bool, DeviceError> {
        match self.known(device)? {
            Some(known) if known == *key => return Ok(false),
            Some(known) => return Err(self.changed(device, known, *key)),
            None => {}
        }
        self.remember(device, key)
    }

    fn remember(&self, device: &str, key: &PublicKey) -> Result<bool, DeviceError> {
        let io = |error| self.io(error);
        if let Some(folder) = self.file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let _lock = files::Lock::wait(&files::beside(&self.file, ".lock")).map_err(io)?;
        // Another `glg` may have been faster.
        match self.known(device)? {
            Some(known) if known == *key => return Ok(false),
            Some(known) => return Err(self.changed(device, known, *key)),
            None => {}
        }
        let mut text = files::read_if_there(&self.file).map_err(io)?.unwrap_or_else(|| {
            "# Keys of devices, as first seen by glg. Remove the line of one that was set up anew.\n"
                .to_owned()
        });
        if !text.ends_with('\n') && !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{device} {}\n", hex(key, 32)));
        files::replace(&self.file, &text).map_err(io)?;
        Ok(true)
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    fn io(&self, error: io::Error) -> DeviceError {
        DeviceError::Io(self.file.clone(), error)
    }

    fn changed(&self, device: &str, known: PublicKey, now: PublicKey) -> DeviceError {
        DeviceError::Changed { file: self.file.clone(), device: device.to_owned(), known, now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Folder;

    #[test]
    fn the_first_key_counts() {
        let folder = Folder::new("devices");
        let devices = Devices::at(Some(&folder.0.join("deep/devices"))).unwrap();
        assert!(devices.check("van-7", &[1; 32]).unwrap());
        assert!(devices.check("van-8", &[2; 32]).unwrap());
        assert!(!devices.check("van-7", &[1; 32]).unwrap());
        let changed = devices.check("van-7", &[2; 32]).unwrap_err().to_string();
        assert!(changed.starts_with("THE KEY OF van-7 HAS CHANGED"), "{changed}");
        assert_eq!(devices.known("van-9").unwrap(), None);
    }

    #[test]
    fn damaged_lines_are_told() {
        let folder = Folder::new("devices-damaged");
        let file = folder.0.join("devices");
        let devices = Devices::at(Some(&file)).unwrap();
        for damaged in ["van-7", "van-7 abc", "# fine\n\nvan-7 xyz"] {
            fs::write(&file, damaged).unwrap();
            let error = devices.check("van-7", &[1; 32]).unwrap_err().to_string();
            let line = damaged.lines().count();
            assert!(error.contains(&format!("line {line}: wanted")), "{error}");
        }
    }
}
