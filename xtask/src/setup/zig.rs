//! Zig and cargo-zigbuild from Python's package index: the C compiler, the musl and the linker of the vehicle's binary.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::go::Arch;
use crate::{cmd, paths};

const ZIG: &str = "0.17.1";
const CARGO_ZIGBUILD: &str = "0.24.0";

fn dir() -> PathBuf {
    paths::tools().join(format!("zig-{ZIG}-zigbuild-{CARGO_ZIGBUILD}"))
}

/// The zig executable, for `CARGO_ZIGBUILD_ZIG_PATH` and as `zig cc`.
pub(crate) fn zig() -> PathBuf {
    dir().join("ziglang/zig")
}

/// A compiler of C for musl, as Go takes it in `CC`.
pub(crate) fn musl_compiler(arch: Arch) -> String {
    let machine = match arch {
        Arch::Amd64 => "x86_64",
        Arch::Arm64 => "aarch64",
    };
    format!("{} cc -target {machine}-linux-musl", zig().display())
}

/// The cargo-zigbuild executable.
pub(crate) fn cargo_zigbuild() -> PathBuf {
    dir().join("bin/cargo-zigbuild")
}

/// Whether both run and are of the expected version.
pub(crate) fn ready() -> bool {
    let zigbuild = cmd::output(Command::new(cargo_zigbuild()).arg("--version"));
    zigbuild.is_ok_and(|text| text.contains(CARGO_ZIGBUILD))
        && cmd::output(Command::new(zig()).arg("version")).is_ok_and(|text| text.trim() == ZIG)
}

/// The Debian packages of pip, where it is needed and missing.
pub(crate) fn packages() -> Vec<String> {
    if ready() || cmd::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok() {
        return Vec::new();
    }
    vec!["python3".into(), "python3-pip".into()]
}

/// Installs into the tools cache; the machine's Python is not touched.
pub(crate) fn ensure() -> Result<()> {
    if ready() {
        return Ok(());
    }
    let partial = paths::tools().join(format!("zig-partial-{}", std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-warn-script-location", "--target"]).arg(&partial);
    pip.arg(format!("ziglang=={ZIG}"));
    pip.arg(format!("cargo-zigbuild=={CARGO_ZIGBUILD}"));
    cmd::step(
        &format!("installing zig {ZIG} and cargo-zigbuild {CARGO_ZIGBUILD}"),
        &mut pip,
        "check that pip reaches its package index, then repeat",
    )?;
    // Complete or not there at all: an interrupted installation must not look like one.
    if dir().exists() {
        std::fs::remove_dir_all(dir())?;
    }
    std::fs::rename(&partial, dir()).context("moving zig into the tools cache")?;
    if !ready() {
        bail!("zig was installed into {} but does not run", dir().display());
    }
    Ok(())
}
