//! The guest's root file system: busybox as init and shell, the kernel's drivers, and either the agent as a service
//! with the watched programs, or an errand.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpio::{Archive, TooLarge};

/// What every guest is made of.
pub struct Base<'a> {
    /// A static busybox for arm64.
    pub busybox: &'a Path,
    /// Modules of the kernel that boots, uncompressed, in the order to insert them: virtio, its network and disk.
    pub modules: &'a [PathBuf],
}

/// The agent as a service.
pub struct Service<'a> {
    /// The agent, static, for arm64.
    pub agent: &'a Path,
    /// The agent's configuration files, name and text, for `/etc/goleakguard`; it runs on `board.toml`.
    pub board_files: &'a [(String, String)],
    /// The watched programs, static, for arm64: `leaky`, `healthy` and `stuck`.
    pub programs: [&'a Path; 3],
}

/// A script that is run once. The guest says `errand: ended with N` then, writes what the script has left in
/// `/out` to its disk as a tar archive, and powers off.
pub struct Errand<'a> {
    /// Where a file goes, without a leading slash, and which it is.
    pub files: &'a [(String, PathBuf)],
    /// For busybox's shell.
    pub script: &'a str,
}

/// Why there is no image.
#[derive(Debug)]
pub enum ImageError {
    /// A part cannot be read.
    Read(PathBuf, io::Error),
    /// A part is too large.
    TooLarge(TooLarge),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Read(path, e) => write!(f, "reading {}: {e}", path.display()),
            ImageError::TooLarge(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ImageError {}

impl From<TooLarge> for ImageError {
    fn from(e: TooLarge) -> Self {
        ImageError::TooLarge(e)
    }
}

/// Directories that are there whatever is put in.
const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var"];

const RC: &str = include_str!("../guest/rc");

/// The system that runs the agent as a service, on a file system in memory.
///
/// # Errors
/// See [`ImageError`].
pub fn service(base: &Base<'_>, service: &Service<'_>) -> Result<Vec<u8>, ImageError> {
    let mut image = Image::new(base)?;
    image.text("etc/inittab", 0o644, include_str!("../guest/inittab"))?;
    image.text("etc/program", 0o755, include_str!("../guest/program"))?;
    image.text("etc/commands", 0o755, include_str!("../guest/commands"))?;
    image.text("etc/stop", 0o755, include_str!("../guest/stop"))?;
    image.file("usr/sbin/goleakguard", service.agent)?;
    for (name, text) in service.board_files {
        image.text(&format!("etc/goleakguard/{name}"), 0o644, text)?;
    }
    for (name, path) in
        ["usr/bin/leaky", "usr/bin/healthy", "usr/bin/stuck"].into_iter().zip(service.programs)
    {
        image.file(name, path)?;
    }
    Ok(image.archive.finish())
}

/// The system that runs an errand.
///
/// # Errors
/// See [`ImageError`].
pub fn errand(base: &Base<'_>, errand: &Errand<'_>) -> Result<Vec<u8>, ImageError> {
    let mut image = Image::new(base)?;
    image.text("etc/inittab", 0o644, include_str!("../guest/errand-inittab"))?;
    image.text("etc/errand", 0o755, include_str!("../guest/errand"))?;
    image.text("etc/errand.sh", 0o755, errand.script)?;
    for (name, path) in errand.files {
        image.file(name, path)?;
    }
    Ok(image.archive.finish())
}

/// An archive that makes the directories of what is put in.
#[derive(Default)]
struct Image {
    archive: Archive,
    directories: BTreeSet<String>,
}

impl Image {
    /// What every guest has.
    fn new(base: &Base<'_>) -> Result<Image, ImageError> {
        let mut image = Image::default();
        for directory in DIRECTORIES {
            image.directory(directory)?;
        }
        // The kernel opens it for init before anything is mounted (init/main.c, console_on_rootfs).
        image.archive.character_device("dev/console", 5, 1)?;
        image.text("etc/rc", 0o755, RC)?;
        image.file("bin/busybox", base.busybox)?;
        image.archive.symlink("bin/sh", "busybox")?;
        image.archive.symlink("sbin/init", "../bin/busybox")?;
        let mut order = String::new();
        for path in base.modules {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            image.file(&format!("lib/modules/{file}"), path)?;
            order.push_str(&file);
            order.push('\n');
        }
        image.text("lib/modules/order", 0o644, &order)?;
        Ok(image)
    }

    fn directory(&mut self, name: &str) -> Result<(), ImageError> {
        for (end, _) in name.match_indices('/').chain([(name.len(), "")]) {
            if self.directories.insert(name[..end].to_owned()) {
                self.archive.directory(&name[..end])?;
            }
        }
        Ok(())
    }

    fn text(&mut self, name: &str, permissions: u32, text: &str) -> Result<(), ImageError> {
        self.put(name, permissions, text.as_bytes())
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<(), ImageError> {
        let bytes = std::fs::read(path).map_err(|e| ImageError::Read(path.to_path_buf(), e))?;
        self.put(name, 0o755, &bytes)
    }

    fn put(&mut self, name: &str, permissions: u32, bytes: &[u8]) -> Result<(), ImageError> {
        if let Some((directory, _)) = name.rsplit_once('/') {
            self.directory(directory)?;
        }
        Ok(self.archive.file(name, permissions, bytes)?)
    }
}
