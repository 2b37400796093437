//! A folder of a test's own.

use std::fs;
use std::path::PathBuf;

/// It is not there yet, and goes away with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// No other test's of this name.
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("glg-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder(path)
    }

    /// Writes a file in a folder in it.
    pub(crate) fn put(&self, folder: &str, file: &str, text: &str) {
        let place = self.0.join(folder);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(file), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
