//! Flash as a directory of small files: what the engine keeps there outlives the agent and power cuts.
//!
//! Names tell kind and number (`critical-00000012.seg`). A file that is replaced is first written under its
//! name with `.new` behind it. Files of other names are left alone. The directory belongs to one agent at a
//! time: a lock on the file `lock` in it says whose it is, and ends with that process.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use glg_engine::flash::{File, Flash, FlashError, Kind};
use nix::fcntl::{Flock, FlockArg, OFlag};

/// What a new file is called before it takes the old one's place.
const NEW: &str = ".new";

/// A directory that is used by this process alone.
pub struct FlashDir {
    path: PathBuf,
    /// For its own `fsync`, which makes names durable.
    folder: fs::File,
    /// Files that were created and whose names are not durable yet.
    fresh: Vec<File>,
    _lock: Flock<fs::File>,
}

impl FlashDir {
    /// Takes a directory for this process; creates it if need be, with access for its owner alone.
    ///
    /// # Errors
    /// When it cannot be created or written, or another agent has it.
    pub fn open(path: &Path) -> io::Result<FlashDir> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let lock = Flock::lock(options.open(path.join("lock"))?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => io::Error::other("another agent uses it"),
            error => error.into(),
        })?;
        for entry in fs::read_dir(path)?.flatten() {
            // An agent was cut off while it replaced a file.
            let name = entry.file_name();
            if name.to_str().and_then(|name| name.strip_suffix(NEW)).and_then(file_of).is_some() {
                fs::remove_file(entry.path())?;
            }
        }
        let folder = fs::File::open(path)?;
        // Names too that an earlier agent gave and did not come to make durable.
        folder.sync_all()?;
        Ok(FlashDir { path: path.to_owned(), folder, fresh: Vec::new(), _lock: lock })
    }

    fn path(&self, file: File) -> PathBuf {
        self.path.join(name_of(file))
    }

    /// Never through a link that somebody has laid there, and never waiting for the other side of a pipe.
    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.mode(0o600).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
        options
    }

    fn write_new(&self, new: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = FlashDir::options().write(true).create_new(true).open(new)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn try_replace(&self, file: File, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(file);
        let mut new = path.clone().into_os_string();
        new.push(NEW);
        let new = PathBuf::from(new);
        remove(&new)?;
        if let Err(error) = self.write_new(&new, bytes) {
            // It may be all the room there is.
            let _ = remove(&new);
            return Err(error);
        }
        fs::rename(&new, path)?;
        self.folder.sync_all()
    }
}

impl Flash for FlashDir {
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        for entry in fs::read_dir(&self.path).map_err(error)? {
            let entry = entry.map_err(error)?;
            let Some(file) = entry.file_name().to_str().and_then(file_of) else { continue };
            // Not what a link points to.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() {
                each(file, meta.len());
            }
        }
        Ok(())
    }

    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError> {
        let from = FlashDir::options().read(true).open(self.path(file)).map_err(error)?;
        let mut read = 0;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match from.read_at(rest, at.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(error(e)),
            }
        }
        Ok(read)
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        let path = self.path(file);
        let mut to = match FlashDir::options().append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = FlashDir::options().append(true).create_new(true).open(&path);
                self.fresh.extend(new.is_ok().then_some(file));
                new
            }
            other => other,
        }
        .map_err(error)?;
        to.write_all(bytes).map_err(error)
    }

    fn sync(&mut self, file: File) -> Result<(), FlashError> {
        let fresh = self.fresh.iter().position(|other| *other == file);
        let to = FlashDir::options().append(true).open(self.path(file)).map_err(error)?;
        to.sync_data().map_err(error)?;
        if let Some(fresh) = fresh {
            self.folder.sync_all().map_err(error)?;
            self.fresh.swap_remove(fresh);
        }
        Ok(())
    }

    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.try_replace(file, bytes).map_err(error)
    }

    fn remove(&mut self, file: File) -> Result<(), FlashError> {
        self.fresh.retain(|other| *other != file);
        remove(&self.path(file)).and_then(|()| self.folder.sync_all()).map_err(error)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn error(error: io::Error) -> FlashError {
    use io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        NotFound => FlashError::Missing,
        StorageFull | QuotaExceeded => FlashError::NoSpace,
        PermissionDenied | ReadOnlyFilesystem => FlashError::Unavailable,
        _ => FlashError::Io,
    }
}

/// Beginning and end of the names of a kind.
fn words(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Routine => ("routine", "seg"),
        Kind::Warning => ("warning", "seg"),
        Kind::Critical => ("critical", "seg"),
        Kind::Ledger => ("ledger", "dat"),
        Kind::History => ("history", "dat"),
        Kind::Counter => ("counter", "dat"),
        Kind::Audit => ("audit", "seg"),
    }
}

fn name_of(file: File) -> String {
    let (word, end) = words(file.kind);
    format!("{word}-{:08}.{end}", file.number)
}

/// The file of a name; none for a name that [`name_of`] does not give.
fn file_of(name: &str) -> Option<File> {
    let (word, rest) = name.split_once('-')?;
    let number = rest.split_once('.')?.0.parse().ok()?;
    let kind = Kind::ALL.into_iter().find(|kind| words(*kind).0 == word)?;
    Some(File { kind, number }).filter(|file| name_of(*file) == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;
    use std::os::unix::fs::PermissionsExt;

    const ONE: File = File { kind: Kind::Critical, number: 12 };

    #[test]
    fn names_are_readable_and_unique() {
        assert_eq!(name_of(ONE), "critical-00000012.seg");
        for kind in Kind::ALL {
            for number in [0, 7, 99_999_999, u32::MAX] {
                let file = File { kind, number };
                assert_eq!(file_of(&name_of(file)), Some(file));
            }
        }
        for odd in
            ["critical-12.seg", "critical-+0000012.seg", "critical-00000012.dat", "lock", "x-1.seg", ""]
        {
            assert_eq!(file_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn files_are_kept_and_strangers_left_alone() {
        let folder = Folder::new("flash-kept");
        let path = folder.0.join("deep/er");
        let mut flash = FlashDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(FlashDir::open(&path).is_err_and(|error| error.to_string() == "another agent uses it"));
        let mut buffer = [0; 8];
        assert_eq!(flash.read(ONE, 0, &mut buffer), Err(FlashError::Missing));
        flash.append(ONE, b"one").unwrap();
        flash.append(ONE, b"two").unwrap();
        flash.sync(ONE).unwrap();
        assert_eq!((flash.read(ONE, 2, &mut buffer), &buffer[..4]), (Ok(4), &b"etwo"[..]));
        flash.replace(ONE, b"new").unwrap();
        drop(flash);
        for (name, text) in [("critical-00000013.seg.new", "cut off"), ("notes.new", "a stranger's")] {
            fs::write(path.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", path.join("audit-00000001.seg")).unwrap();
        let mut flash = FlashDir::open(&path).unwrap();
        assert!(!path.join("critical-00000013.seg.new").exists() && path.join("notes.new").exists());
        let mut found = Vec::new();
        flash.list(&mut |file, size| found.push((file, size))).unwrap();
        assert_eq!(found, [(ONE, 3)]);
        assert_eq!(flash.read(ONE, 0, &mut buffer), Ok(3));
        let link = File { kind: Kind::Audit, number: 1 };
        assert!(flash.read(link, 0, &mut buffer).is_err() && flash.append(link, b"x").is_err());
        flash.remove(ONE).unwrap();
        flash.remove(ONE).unwrap();
        assert_eq!(flash.read(ONE, 0, &mut buffer), Err(FlashError::Missing));
    }

    #[test]
    fn what_cannot_be_a_directory_is_told() {
        assert!(FlashDir::open(Path::new("/proc/self/nothing")).is_err());
        assert!(FlashDir::open(Path::new("/dev/null")).is_err());
    }
}
