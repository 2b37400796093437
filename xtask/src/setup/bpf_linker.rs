//! bpf-linker, built against the LLVM of the compiler whose bitcode it links.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use super::rust::host_cargo;
use crate::{cmd, paths};

/// The release that aya-ebpf 0.2 is built with everywhere; the LLVM major is chosen by feature.
const VERSION: &str = "0.13.0";
/// The LLVM majors bpf-linker 0.13 has features for.
pub(crate) const LLVM: RangeInclusive<u32> = 21..=23;

fn root(llvm: u32) -> PathBuf {
    paths::tools().join(format!("bpf-linker-{VERSION}-llvm{llvm}"))
}

/// The bpf-linker for this LLVM, if it runs.
pub(crate) fn path(llvm: u32) -> Option<PathBuf> {
    let linker = root(llvm).join("bin/bpf-linker");
    let text = cmd::output(Command::new(&linker).arg("--version")).ok()?;
    text.contains(VERSION).then_some(linker)
}

/// Whether there is a linker for this LLVM, or LLVM's development files to build it with, or apt offers those.
pub(crate) fn possible(llvm: u32, apt: &mut Apt) -> Result<bool> {
    let config = format!("/usr/lib/llvm-{llvm}/bin/llvm-config");
    if path(llvm).is_some() || Path::new(&config).is_file() {
        return Ok(true);
    }
    Ok(Apt::usable().is_ok() && apt.candidate(&format!("llvm-{llvm}-dev"))?.is_some())
}

/// The Debian packages to build it with, none when it is there.
pub(crate) fn packages(llvm: u32) -> Vec<String> {
    if path(llvm).is_some() {
        return Vec::new();
    }
    let mut packages = ["clang", "lld"].map(|tool| format!("{tool}-{llvm}")).to_vec();
    packages.extend([format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]);
    packages.extend(["zlib1g-dev".into(), "libzstd-dev".into()]);
    packages
}

/// Builds bpf-linker against this LLVM unless there is one that runs.
pub(crate) fn ensure(llvm: u32) -> Result<()> {
    if path(llvm).is_some() {
        return Ok(());
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut install = host_cargo();
    install.args(["install", "bpf-linker", "--version", VERSION, "--locked"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    install.arg("--force").arg("--root").arg(root(llvm));
    install.env("LLVM_PREFIX", &prefix);
    install.env("RUSTFLAGS", format!("-L native={prefix}/lib"));
    // Without it cargo install builds in a temporary folder and removes that.
    install.env_remove("CARGO_TARGET_DIR");
    cmd::step(
        &format!("building bpf-linker {VERSION} for LLVM {llvm}"),
        &mut install,
        "check that cargo reaches its registry; a linking error means that the LLVM packages are incomplete",
    )?;
    path(llvm).context("bpf-linker was built but does not run").map(|_| ())
}
