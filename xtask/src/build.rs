//! `cargo xtask build`: the BPF objects, the vehicle's static aarch64 binary, and this machine's programs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, elf};

use crate::setup::{self, Component, rust};
use crate::{cmd, paths};

/// The vehicle's flash budget for the agent, in bytes.
pub(crate) const BINARY_BUDGET: u64 = 5 * 1000 * 1000;

/// Architectures whose registers the probes read; each has its own BPF object.
const BPF_ARCHITECTURES: &[&str] = &["x86_64", "aarch64"];

/// `cargo xtask build [--host]`.
pub(crate) fn run(with_host: bool) -> Result<()> {
    vehicle()?;
    if with_host {
        host()?;
    }
    Ok(())
}

/// The static aarch64 musl agent in `dist/`.
pub(crate) fn vehicle_agent() -> PathBuf {
    paths::dist().join("goleakguard-aarch64")
}

/// This machine's agent in `dist/`.
pub(crate) fn host_agent() -> PathBuf {
    paths::dist().join("goleakguard-x86_64")
}

/// The operator's tool in `dist/`.
pub(crate) fn glg() -> PathBuf {
    paths::dist().join("glg")
}

/// Builds the BPF object once per architecture, to `target/bpf/goleakguard-<arch>.bpf.o`. The agent's build
/// script embeds them.
pub(crate) fn bpf() -> Result<()> {
    setup::ensure(&[Component::Bpf])?;
    // One folder for both: cargo keeps the architectures apart by their flags and shares the build tools.
    let target = paths::target().join("ebpf");
    for arch in BPF_ARCHITECTURES {
        let mut cargo = rust::taken()?.bpf_cargo()?;
        cargo.current_dir(paths::repo().join("ebpf")).arg("--locked");
        cargo.arg("--target-dir").arg(&target);
        // Added to the flags in ebpf/.cargo/config.toml, which RUSTFLAGS would replace.
        let cfg = format!(r#""--cfg=bpf_target_arch=\"{arch}\"""#);
        cargo.arg("--config").arg(format!("target.bpfel-unknown-none.rustflags=[{cfg}]"));
        cmd::step(
            &format!("building eBPF programs for {arch}"),
            &mut cargo,
            "mend what the compiler names in ebpf/; a failing linker is repaired by cargo xtask setup bpf",
        )?;
        let object = target.join("bpfel-unknown-none/release/goleakguard-ebpf");
        let place = paths::bpf_objects().join(format!("goleakguard-{arch}.bpf.o"));
        copy_if_changed(&object, &place)?;
    }
    Ok(())
}

/// Builds the agent for the vehicle into `dist/`, checks that it is what the vehicle needs, and prints its size.
pub(crate) fn vehicle() -> Result<()> {
    bpf()?;
    setup::ensure(&[Component::Vehicle])?;
    let built = link_vehicle(&[])?;
    check_vehicle(&built)?;
    copy_if_changed(&built, &vehicle_agent())?;
    let size = fs::metadata(vehicle_agent())?.len();
    println!("dist/goleakguard-aarch64: {}", against_budget(size));
    if size > BINARY_BUDGET {
        bail!(
            "the vehicle's binary is over its budget\n  what to do: cargo xtask size --crates shows where the bytes are"
        );
    }
    Ok(())
}

/// Links the vehicle's agent and returns where; `flags` are rustc's for its last step only, for a closer look
/// (a change of the profile would compile everything again).
pub(crate) fn link_vehicle(flags: &[&str]) -> Result<PathBuf> {
    let target = paths::target().join("vehicle");
    // It aborts where it would panic: a sixth of it would be tables for unwinding that nobody reads.
    let mut cargo = rust::taken()?.vehicle_cargo("rustc", "-C force-unwind-tables=no");
    cargo.args(["--profile", "vehicle", "--locked", "--package", "goleakguard", "--bin", "goleakguard"]);
    cargo.env("CARGO_TARGET_DIR", &target);
    cargo.env("GOLEAKGUARD_BPF_DIR", paths::bpf_objects());
    if !flags.is_empty() {
        cargo.arg("--").args(flags);
    }
    cmd::step(
        "building the vehicle's static aarch64 binary (minutes the first time)",
        cargo.current_dir(paths::repo()),
        "mend what the compiler names; if the linker is at fault, cargo xtask setup vehicle",
    )?;
    Ok(target.join("aarch64-unknown-linux-musl/vehicle/goleakguard"))
}

/// Builds the agent's real-process tests for the vehicle's processor, optimised no more than for this machine;
/// returns them with their names.
pub(crate) fn vehicle_tests() -> Result<Vec<(String, PathBuf)>> {
    setup::ensure(&[Component::Vehicle])?;
    bpf()?;
    let build = || -> Result<Command> {
        let mut cargo = rust::taken()?.vehicle_cargo("zigbuild", "");
        cargo.args(["--locked", "--package", "goleakguard", "--test", "*"]);
        cargo.env("CARGO_TARGET_DIR", paths::target().join("vehicle"));
        cargo.env("GOLEAKGUARD_BPF_DIR", paths::bpf_objects());
        // They go into the guest's memory.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "false").env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
        cargo.current_dir(paths::repo());
        Ok(cargo)
    };
    let advice = "mend what the compiler names; if the linker is at fault, cargo xtask setup vehicle";
    cmd::step("building the agent's tests for aarch64 (minutes the first time)", &mut build()?, advice)?;
    // Again, for their names.
    let messages = cmd::output(build()?.arg("--message-format=json"))?;
    Ok(messages.lines().filter_map(test_of).collect())
}

/// Name and file of a test that was built, out of cargo's message about it.
fn test_of(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let (name, file) = (target["name"].as_str()?, message["executable"].as_str()?);
    is_test.then(|| (name.to_owned(), file.into()))
}

/// Builds this machine's agent and the operator's tool into `dist/`.
pub(crate) fn host() -> Result<()> {
    bpf()?;
    let mut cargo = rust::host_cargo();
    cargo.args(["build", "--release", "--locked"]);
    cargo.args(["--package", "goleakguard", "--package", "glg"]);
    cargo.env("CARGO_TARGET_DIR", paths::host_target());
    cargo.env("GOLEAKGUARD_BPF_DIR", paths::bpf_objects());
    cmd::step(
        "building this machine's goleakguard and glg",
        cargo.current_dir(paths::repo()),
        "mend what the compiler names",
    )?;
    let built = paths::host_target().join("release");
    copy_if_changed(&built.join("goleakguard"), &host_agent())?;
    copy_if_changed(&built.join("glg"), &glg())
}

/// `1,449,952 bytes, 29 % of the budget of 5,000,000`.
pub(crate) fn against_budget(size: u64) -> String {
    let share = size * 100 / BINARY_BUDGET;
    format!("{} bytes, {share} % of the budget of {}", grouped(size), grouped(BINARY_BUDGET))
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The vehicle has no dynamic loader, no other architecture and no room for symbols.
fn check_vehicle(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let elf: ElfFile64<Endianness> = ElfFile64::parse(&*bytes)?;
    let endian = elf.endian();
    let interpreted = elf
        .elf_header()
        .program_headers(endian, &*bytes)?
        .iter()
        .any(|segment| segment.p_type(endian) == elf::PT_INTERP);
    let mut faults = Vec::new();
    if elf.architecture() != Architecture::Aarch64 {
        faults.push("is not for aarch64");
    }
    if interpreted {
        faults.push("is linked dynamically");
    }
    if elf.symbols().next().is_some() {
        faults.push("still has symbols");
    }
    if !faults.is_empty() {
        bail!(
            "{} {}\n  what to do: look at profile.vehicle in Cargo.toml and at the flags in xtask/src/setup/rust.rs",
            file.display(),
            faults.join(", ")
        );
    }
    Ok(())
}

/// Keeps the old file, with its time, when the bytes are the same: nobody rebuilds for nothing. A new file is
/// renamed into place, since the old one may be running.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let fresh = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == fresh) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let name = to.file_name().unwrap_or(OsStr::new("file"));
    let partial = to.with_file_name(format!(".{}.partial", name.display()));
    fs::copy(from, &partial).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("writing {}", to.display()))
}
