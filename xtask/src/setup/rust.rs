//! Which Rust builds the BPF programs and the vehicle's binary: one decision for both.
//!
//! 1. What `GOLEAKGUARD_RUST` says, `rustup` or `debian`.
//! 2. rustup, when all of its parts are installed: a nightly with `rust-src` (BPF) and the target
//!    `aarch64-unknown-linux-musl` of the toolchain in use (vehicle).
//! 3. Debian's rustc-web with its sources and its ready-made `core` for BPF, installed or to be installed.
//! 4. rustup, its parts fetched now.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::apt::Apt;
use super::bpf_linker;
use crate::cmd::{self, Progress};

/// The workspace's rust-version.
const OLDEST_RUST: (u32, u32) = (1, 89);
/// A part is a few MB, a toolchain some hundred; a rustup that cannot reach its server must not hold setup up.
const PART_PATIENCE: Duration = Duration::from_secs(90);
const TOOLCHAIN_PATIENCE: Duration = Duration::from_secs(600);
/// Debian's compiler for its web browsers, kept recent in every release.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev-bpf"];
const MUSL: &str = "aarch64-unknown-linux-musl";

/// Where the compilers come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Rustup,
    Debian,
}

/// The Rust that was taken. Its Debian packages may still have to be installed.
pub(crate) struct Rust {
    way: Way,
    /// The LLVM major of the compiler for BPF.
    llvm: u32,
}

static TAKEN: OnceLock<Rust> = OnceLock::new();

/// The Rust that setup has taken.
pub(crate) fn taken() -> Result<&'static Rust> {
    TAKEN.get().context("setup has not been asked for a Rust tool chain")
}

/// Takes a Rust, once per run, and says in one line which and why.
pub(crate) fn take(apt: &mut Apt) -> Result<&'static Rust> {
    if let Some(rust) = TAKEN.get() {
        return Ok(rust);
    }
    let (rust, why) = choose(forced()?, |attempt| match attempt {
        Attempt::RustupAsInstalled => rustup(apt, false),
        Attempt::Debian => debian(apt),
        Attempt::RustupFetched => rustup(apt, true),
    })?;
    let name = match rust.way {
        Way::Rustup => "rustup's nightly with rust-src, and its musl target",
        Way::Debian => "Debian's rustc-web",
    };
    println!("setup: Rust for BPF and the vehicle: {name}, LLVM {} ({why})", rust.llvm);
    Ok(TAKEN.get_or_init(|| rust))
}

/// A way that is tried; it succeeds if everything is there or certain to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attempt {
    RustupAsInstalled,
    Debian,
    RustupFetched,
}

/// The order of the attempts, and the reason of the one that succeeded.
fn choose<T>(forced: Option<Way>, mut attempt: impl FnMut(Attempt) -> Result<T>) -> Result<(T, String)> {
    if let Some(way) = forced {
        let only = if way == Way::Rustup { Attempt::RustupFetched } else { Attempt::Debian };
        let rust = attempt(only).context("the Rust of GOLEAKGUARD_RUST cannot be used")?;
        return Ok((rust, "as GOLEAKGUARD_RUST says".into()));
    }
    let installed = match attempt(Attempt::RustupAsInstalled) {
        Ok(rust) => return Ok((rust, "all of it is installed".into())),
        Err(error) => error,
    };
    let debian = match attempt(Attempt::Debian) {
        Ok(rust) => return Ok((rust, format!("{installed:#}"))),
        Err(error) => error,
    };
    match attempt(Attempt::RustupFetched) {
        Ok(rust) => Ok((rust, format!("{debian:#}"))),
        Err(rustup) => bail!(
            "no Rust for the BPF programs and the vehicle's binary\n  rustup: {rustup:#}\n  Debian: {debian:#}\n  \
             what to do: mend one of the two; as root on Debian 12 or newer setup does everything itself"
        ),
    }
}

/// rustup's way, if its parts are installed or, with `fetch`, can be.
fn rustup(apt: &mut Apt, fetch: bool) -> Result<Rust> {
    ensure!(cmd::which("rustup").is_some(), "there is no rustup");
    let nightly = sysroot(&mut nightly_rustc());
    if !nightly.as_ref().is_some_and(|root| has_sources(root)) {
        ensure!(fetch, "rustup has no nightly with rust-src");
        if nightly.is_some() {
            rustup_fetches(&["component", "add", "rust-src", "--toolchain", "nightly"], PART_PATIENCE)?;
        } else {
            let minimal = ["--profile", "minimal", "--component", "rust-src"];
            let install = [&["toolchain", "install", "nightly"][..], &minimal].concat();
            rustup_fetches(&install, TOOLCHAIN_PATIENCE)?;
        }
    }
    let llvm = llvm_of(&mut nightly_rustc()).context("rustup's nightly does not run, or is too old")?;
    let known = bpf_linker::LLVM;
    ensure!(
        known.contains(&llvm),
        "bpf-linker knows LLVM {} to {}, not the {llvm} of rustup's nightly",
        known.start(),
        known.end()
    );
    ensure!(
        bpf_linker::possible(llvm, apt)?,
        "the LLVM {llvm} of rustup's nightly has no development files here to build bpf-linker with"
    );
    if !rustup_has_musl() {
        ensure!(fetch, "rustup has no target {MUSL}");
        rustup_fetches(&["target", "add", MUSL], PART_PATIENCE)?;
    }
    Ok(Rust { way: Way::Rustup, llvm })
}

fn rustup_fetches(args: &[&str], limit: Duration) -> Result<()> {
    let line = format!("rustup {}", args.join(" "));
    let progress = Progress::start(&line);
    if cmd::succeeds_within(bare("rustup").args(args), limit) {
        progress.done();
        return Ok(());
    }
    progress.done_with("no");
    Err(anyhow!("`{line}` fails; run it by hand and read its words"))
}

/// Debian's way, if it is installed or the suites have it.
fn debian(apt: &mut Apt) -> Result<Rust> {
    if debian_installed()
        && let Some(llvm) = llvm_of(&mut Command::new(DEBIAN_RUSTC))
        && bpf_linker::possible(llvm, apt)?
    {
        return Ok(Rust { way: Way::Debian, llvm });
    }
    Apt::usable().map_err(|reason| anyhow!("{reason}"))?;
    let offered = apt.candidate("rustc-web")?;
    if offered.as_deref().and_then(major_minor) < Some(OLDEST_RUST) {
        let (major, minor) = OLDEST_RUST;
        bail!(
            "the suites' rustc-web is {}, wanted {major}.{minor} or newer (the suite's security updates have it)",
            offered.as_deref().unwrap_or("missing")
        );
    }
    // rust-web-llvm ties the compiler to its LLVM: `Depends: llvm-22`.
    let depends = apt.depends(&["rust-web-llvm"])?;
    let llvm = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: llvm-")?.parse().ok());
    let llvm = llvm.context("apt-cache does not say which LLVM Debian's rustc-web goes with")?;
    Ok(Rust { way: Way::Debian, llvm })
}

impl Rust {
    /// The Debian packages of this way that are missing; those of bpf-linker only for building BPF.
    pub(crate) fn packages(&self, bpf: bool) -> Vec<String> {
        let mut packages = Vec::new();
        if self.way == Way::Debian && !debian_installed() {
            packages.extend(DEBIAN_PACKAGES.iter().map(|p| (*p).to_owned()));
        }
        if bpf {
            packages.extend(bpf_linker::packages(self.llvm));
        }
        packages
    }

    /// Builds bpf-linker unless there is one that runs.
    pub(crate) fn ensure_linker(&self) -> Result<()> {
        bpf_linker::ensure(self.llvm)
    }

    /// A cargo that builds for the BPF target; the caller adds the folder, the flags and the target folder.
    pub(crate) fn bpf_cargo(&self) -> Result<Command> {
        let linker =
            bpf_linker::path(self.llvm).context("bpf-linker is missing; run cargo xtask setup bpf")?;
        let mut cargo = match self.way {
            Way::Rustup => {
                let mut cargo = bare("rustup");
                cargo.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                cargo
            }
            Way::Debian => {
                let mut cargo = bare(DEBIAN_CARGO);
                cargo.arg("build").env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        cargo.args(["--release", "--target", "bpfel-unknown-none"]);
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
        Ok(cargo)
    }

    /// A cargo-zigbuild for the vehicle's target; the caller adds package, profile and target folder.
    /// `flags` are rustc's, beyond those that it takes anyway.
    pub(crate) fn vehicle_cargo(&self, subcommand: &str, flags: &str) -> Command {
        let mut cargo = bare(super::zig::cargo_zigbuild());
        cargo.args([subcommand, "--target", MUSL]);
        cargo.env("CARGO_ZIGBUILD_ZIG_PATH", super::zig::zig());
        if self.way == Way::Debian {
            cargo.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC);
            cargo.env("RUSTC_BOOTSTRAP", "1");
            // Debian ships no musl start files for this target: zig links its own.
            cargo
                .env("RUSTFLAGS", format!("-C link-self-contained=no -C target-feature=+crt-static {flags}"));
            cargo.arg("-Zbuild-std=std,panic_abort");
        } else {
            cargo.env("RUSTFLAGS", format!("-C target-feature=+crt-static {flags}"));
        }
        cargo
    }
}

/// The host's own cargo, the one that runs this xtask.
pub(crate) fn host_cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
}

/// A command without the environment that `cargo run` and rustup's proxy gave this process, so that another
/// toolchain does not take it for its own.
fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        let ours = name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if ours
            || matches!(
                &*name,
                "CARGO"
                    | "RUSTC"
                    | "RUSTDOC"
                    | "RUSTUP_TOOLCHAIN"
                    | "RUSTFLAGS"
                    | "CARGO_ENCODED_RUSTFLAGS"
                    | "LD_LIBRARY_PATH"
            )
        {
            command.env_remove(&key);
        }
    }
    command
}

fn forced() -> Result<Option<Way>> {
    match std::env::var("GOLEAKGUARD_RUST").as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("rustup") => Ok(Some(Way::Rustup)),
        Ok("debian") => Ok(Some(Way::Debian)),
        Ok(other) => bail!("GOLEAKGUARD_RUST={other:?}: allowed are rustup and debian"),
    }
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let text = cmd::output(rustc.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(text.trim()))
}

fn nightly_rustc() -> Command {
    let mut rustc = bare("rustup");
    rustc.args(["run", "nightly", "rustc"]);
    rustc
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

fn rustup_has_musl() -> bool {
    sysroot(&mut bare("rustc")).is_some_and(|root| {
        root != Path::new("/usr") && root.join("lib/rustlib").join(MUSL).join("lib").is_dir()
    })
}

/// `LLVM version: 22.1.4` → 22, of a compiler that is new enough.
fn llvm_of(rustc: &mut Command) -> Option<u32> {
    let text = cmd::output(rustc.arg("-vV")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?;
    if major_minor(release)? < OLDEST_RUST {
        return None;
    }
    field("LLVM version: ")?.split('.').next()?.parse().ok()
}

/// `1.97.0-nightly`, `1.96.0+dfsg1-1` → (1, 97), (1, 96).
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Debian's compiler, its sources and its `core` for BPF are there.
fn debian_installed() -> bool {
    let rustlib = Path::new("/usr/lib/rustlib");
    Path::new(DEBIAN_CARGO).is_file()
        && has_sources(Path::new("/usr"))
        && rustlib.join("bpfel-unknown-none/lib").is_dir()
        && llvm_of(&mut Command::new(DEBIAN_RUSTC)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `choose` tries, in order, when only the attempts of `good` succeed, and what it takes.
    fn chosen(forced: Option<Way>, good: &[Attempt]) -> (Vec<Attempt>, Result<(Attempt, String)>) {
        let mut tried = Vec::new();
        let result = choose(forced, |attempt| {
            tried.push(attempt);
            ensure!(good.contains(&attempt), "{attempt:?} is no way");
            Ok(attempt)
        });
        (tried, result)
    }

    #[test]
    fn installed_rustup_then_debian_then_fetching() {
        use Attempt::{Debian, RustupAsInstalled, RustupFetched};
        let order = [RustupAsInstalled, Debian, RustupFetched];
        for taken in 0..order.len() {
            let (tried, result) = chosen(None, &order[taken..]);
            assert_eq!(tried, order[..=taken]);
            let (attempt, why) = result.unwrap();
            assert_eq!(attempt, order[taken]);
            if taken > 0 {
                assert_eq!(why, format!("{:?} is no way", order[taken - 1]));
            }
        }
        let (_, result) = chosen(None, &[]);
        let words = result.unwrap_err().to_string();
        assert!(words.contains("RustupFetched is no way") && words.contains("Debian is no way"), "{words}");
    }

    #[test]
    fn a_forced_way_is_the_only_one_tried() {
        let all = [Attempt::RustupAsInstalled, Attempt::Debian, Attempt::RustupFetched];
        for (way, only) in [(Way::Rustup, Attempt::RustupFetched), (Way::Debian, Attempt::Debian)] {
            let (tried, result) = chosen(Some(way), &all);
            assert_eq!((tried, result.unwrap().0), (vec![only], only));
            let (tried, result) = chosen(Some(way), &[]);
            assert_eq!(tried, [only]);
            assert!(result.is_err());
        }
    }

    #[test]
    fn versions_of_both_origins() {
        assert_eq!(major_minor("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(major_minor("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(major_minor("none"), None);
    }
}
