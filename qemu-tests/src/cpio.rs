//! Writes cpio archives in the "newc" format, the one the kernel unpacks at boot
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive in memory. Everything in it belongs to root; times are 0, so that equal contents give equal
/// bytes.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

/// A file or archive beyond the 32-bit sizes of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Name within the archive.
    pub name: String,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} does not fit into a cpio archive (4 GiB at most)", self.name)
    }
}

impl std::error::Error for TooLarge {}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; parents come first. Names have no leading slash.
    ///
    /// # Errors
    /// [`TooLarge`] for a name beyond 4 GiB.
    pub fn directory(&mut self, name: &str) -> Result<(), TooLarge> {
        self.push(&Entry { name, mode: DIRECTORY | 0o755, device: (0, 0), data: &[] })
    }

    /// Adds a file with these permission bits.
    ///
    /// # Errors
    /// [`TooLarge`] for data beyond 4 GiB.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<(), TooLarge> {
        self.push(&Entry { name, mode: REGULAR | (permissions & 0o7777), device: (0, 0), data })
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`TooLarge`] for a target beyond 4 GiB.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<(), TooLarge> {
        self.push(&Entry { name, mode: SYMLINK | 0o777, device: (0, 0), data: target.as_bytes() })
    }

    /// Adds a character device node.
    ///
    /// # Errors
    /// [`TooLarge`] for a name beyond 4 GiB.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<(), TooLarge> {
        self.push(&Entry { name, mode: CHARACTER_DEVICE | 0o600, device: (major, minor), data: &[] })
    }

    /// Ends the archive and hands out its bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.header(&Entry { name: "TRAILER!!!", mode: 0, device: (0, 0), data: &[] }, 11, 0);
        self.bytes
    }

    fn push(&mut self, entry: &Entry<'_>) -> Result<(), TooLarge> {
        let too_large = || TooLarge { name: entry.name.to_owned() };
        let name_size = u32::try_from(entry.name.len() + 1).map_err(|_| too_large())?;
        let data_size = u32::try_from(entry.data.len()).map_err(|_| too_large())?;
        self.inode += 1;
        self.header(entry, name_size, data_size);
        self.bytes.extend_from_slice(entry.data);
        self.pad();
        Ok(())
    }

    /// The magic, thirteen numbers of eight hexadecimal digits, the name with its NUL, padding.
    fn header(&mut self, entry: &Entry<'_>, name_size: u32, data_size: u32) {
        let (rdev_major, rdev_minor) = entry.device;
        let links = 1;
        let (uid, gid, mtime, dev_major, dev_minor, check) = (0, 0, 0, 0, 0, 0);
        self.bytes.extend_from_slice(b"070701");
        for field in [
            self.inode, entry.mode, uid, gid, links, mtime, data_size, dev_major, dev_minor, rdev_major,
            rdev_minor, name_size, check,
        ] {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_byte_by_byte() {
        let mut archive = Archive::new();
        archive.file("a", 0o755, b"hello").unwrap();
        let bytes = archive.finish();
        let header = "070701000000010000 81ED0000000000000000000000010000000000000005\
                      0000000000000000000000000000000000000002 00000000a\0"
            .replace(' ', "");
        assert_eq!(std::str::from_utf8(&bytes[..112]).unwrap(), header);
        assert_eq!(&bytes[112..120], b"hello\0\0\0");
        assert_eq!(&bytes[120..126], b"070701");
        assert!(bytes.windows(11).any(|w| w == b"TRAILER!!!\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
