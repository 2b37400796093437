//! The guest's root file system: busybox as init and shell, the kernel's drivers, the agent as a service,
//! the watched programs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpio::{Archive, TooLarge};

/// What the host adds to the files of `guest/`.
pub struct Parts<'a> {
    /// A static busybox for arm64.
    pub busybox: &'a Path,
    /// Modules of the kernel that boots, uncompressed, in the order to insert them: virtio and its network.
    pub modules: &'a [PathBuf],
    /// The agent, static, for arm64.
    pub agent: &'a Path,
    /// The agent's configuration files, name and text, for `/etc/goleakguard`; it runs on `board.toml`.
    pub board_files: &'a [(String, String)],
    /// The watched programs, static, for arm64: `leaky` and `healthy`.
    pub programs: [&'a Path; 2],
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

/// Directories, parents first.
const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "etc/goleakguard",
    "lib",
    "lib/modules",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/sbin",
    "var",
];

/// The system's own files.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/inittab", 0o644, include_str!("../guest/inittab")),
    ("etc/rc", 0o755, include_str!("../guest/rc")),
    ("etc/program", 0o755, include_str!("../guest/program")),
    ("etc/commands", 0o755, include_str!("../guest/commands")),
    ("etc/stop", 0o755, include_str!("../guest/stop")),
];

/// Builds the initial file system, which is also the only one.
///
/// # Errors
/// See [`ImageError`].
pub fn initramfs(parts: &Parts<'_>) -> Result<Vec<u8>, ImageError> {
    let mut image = Archive::new();
    for directory in DIRECTORIES {
        image.directory(directory)?;
    }
    // The kernel opens it for init before anything is mounted (init/main.c, console_on_rootfs).
    image.character_device("dev/console", 5, 1)?;
    for (name, permissions, text) in FILES {
        image.file(name, *permissions, text.as_bytes())?;
    }
    image.file("bin/busybox", 0o755, &read(parts.busybox)?)?;
    image.symlink("bin/sh", "busybox")?;
    image.symlink("sbin/init", "../bin/busybox")?;
    image.file("usr/sbin/goleakguard", 0o755, &read(parts.agent)?)?;
    for (name, text) in parts.board_files {
        image.file(&format!("etc/goleakguard/{name}"), 0o644, text.as_bytes())?;
    }
    for (name, path) in ["usr/bin/leaky", "usr/bin/healthy"].into_iter().zip(parts.programs) {
        image.file(name, 0o755, &read(path)?)?;
    }
    add_modules(&mut image, parts.modules)?;
    Ok(image.finish())
}

fn add_modules(image: &mut Archive, modules: &[PathBuf]) -> Result<(), ImageError> {
    let mut order = String::new();
    for path in modules {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        image.file(&format!("lib/modules/{file}"), 0o644, &read(path)?)?;
        order.push_str(&file);
        order.push('\n');
    }
    image.file("lib/modules/order", 0o644, order.as_bytes())?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|e| ImageError::Read(path.to_path_buf(), e))
}
