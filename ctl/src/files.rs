//! Small files that are replaced whole, so that neither a crash nor a second `glg` leaves half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What only its owner may read and write.
const PRIVATE: u32 = 0o600;

/// `path` with `suffix` behind its last part.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Creates a file that others cannot read at any moment; fails where there is one.
pub(crate) fn create_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Puts `text` in the place of the file. It is on disk before this returns.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, &format!(".{}.new", std::process::id()));
    let written =
        write_new(&new, text).and_then(|()| fs::rename(&new, path)).and_then(|()| sync_folder(path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A name is on disk when its folder is.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The text of a file, if there is one.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Held until it is dropped: no other `glg` holds the same.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock that a file of this name stands for.
    pub(crate) fn wait(path: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE).open(path)?;
        file.lock()?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder of its own, gone with the test.
    pub(crate) struct Folder(pub(crate) PathBuf);

    impl Folder {
        pub(crate) fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("glg-unit-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn replaced_whole_and_private() {
        let folder = Folder::new("replace");
        let path = folder.0.join("file");
        assert_eq!(read_if_there(&path).unwrap(), None);
        replace(&path, "one").unwrap();
        replace(&path, "2").unwrap();
        assert_eq!(read_if_there(&path).unwrap().as_deref(), Some("2"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left over");
        assert!(create_private(&path, "3").is_err(), "never overwritten");
    }
}
