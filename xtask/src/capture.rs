//! `cargo xtask capture`: takes the captures in `engine/tests/images` anew, of test programs of every supported Go
//! release on both architectures. The engine's tests read them on machines that have neither Go nor root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::go::{self, Arch, Build, Variant};
use crate::qemu::agent_tests::{self, Tests};
use crate::setup::kernel::KERNELS;
use crate::setup::{self, Component};
use crate::{build, cmd, paths, test};

/// What `agent/tests/capture.rs` captures.
const PROGRAMS: [(&str, Variant); 2] = [("kinds", Variant::TrimmedStripped), ("stacks", Variant::Trimmed)];
/// Processors that the programs may use: more would only add to the files.
const GOMAXPROCS: &str = "2";
/// How the files are packed; unpacking takes the memory of this dictionary.
const PACK: [&str; 3] = ["--format=lzma", "--lzma1=preset=9e,dict=4MiB", "--stdout"];
/// Bytes that all captures together may take of the repository.
const BYTES_MAX: u64 = 3 << 20;

/// Takes the captures of one architecture, or of both.
pub(crate) fn run(arch: Option<Arch>) -> Result<()> {
    for arch in Arch::ALL.into_iter().filter(|one| arch.is_none_or(|arch| arch == *one)) {
        let programs = programs(arch)?;
        let captures = match arch {
            _ if arch == Arch::host() => here(&programs)?,
            Arch::Arm64 => in_guest(&programs)?,
            Arch::Amd64 => bail!("processes of amd64 programs are captured on an amd64 machine"),
        };
        replace(&captures, arch)?;
    }
    let all = size()?;
    println!("    {} KiB in {}", all / 1024, images().display());
    if all > BYTES_MAX {
        bail!("the captures are larger than the {} KiB that they may have", BYTES_MAX / 1024);
    }
    let mut tests = test::cargo("test");
    tests.args(["--locked", "--package", "glg-engine", "--test", "captured"]);
    cmd::step("testing the engine on the captures", &mut tests, "mend what the tests name")
}

fn programs(arch: Arch) -> Result<Vec<Build>> {
    let mut builds = Vec::new();
    for version in go::versions()? {
        builds.extend(PROGRAMS.map(|(program, variant)| Build {
            version: version.clone(),
            program: program.to_owned(),
            arch,
            variant,
        }));
    }
    Ok(builds)
}

/// Captures processes of this machine; the folder with the captures.
fn here(programs: &[Build]) -> Result<PathBuf> {
    setup::ensure(&[Component::Bpf])?;
    build::bpf()?;
    go::build_programs(programs)?;
    let folder = paths::target().join("captures");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let mut tests = test::cargo("test");
    tests.args(["--locked", "--package", "goleakguard", "--test", "capture"]);
    tests.env("GLG_CAPTURES", &folder).env("GOMAXPROCS", GOMAXPROCS);
    cmd::step("capturing processes of this machine", &mut tests, "run as root; mend what the test names")?;
    Ok(folder)
}

/// Captures processes of an arm64 system in QEMU; the folder with the captures.
fn in_guest(programs: &[Build]) -> Result<PathBuf> {
    let environment = [("GLG_CAPTURES", "/out"), ("GOMAXPROCS", GOMAXPROCS)];
    let tests = Tests { name: "capture", only: Some("capture"), programs, environment: &environment };
    let (count, out) = agent_tests::run_some(&KERNELS[0], &tests)?;
    if count.failed > 0 {
        bail!("the processes in the guest cannot be captured; mend what the test names");
    }
    Ok(out)
}

/// Packs what is in `folder` into the repository, in place of what was there of this architecture.
fn replace(folder: &Path, arch: Arch) -> Result<()> {
    let of_arch = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        path.extension().is_some_and(|e| e == "lzma") && stem.ends_with(arch.as_str())
    };
    let mut captures = files(folder)?;
    captures.retain(|path| path.to_string_lossy().ends_with(arch.as_str()));
    if captures.is_empty() {
        bail!("there are no captures in {}", folder.display());
    }
    for old in files(&images())?.iter().filter(|path| of_arch(path)) {
        fs::remove_file(old).with_context(|| format!("removing {}", old.display()))?;
    }
    for capture in &captures {
        let name = capture.file_name().unwrap_or_default().to_string_lossy();
        let packed = images().join(format!("{name}.lzma"));
        let file = File::create(&packed).with_context(|| format!("creating {}", packed.display()))?;
        let status = Command::new("xz").args(PACK).arg(capture).stdout(file).status();
        let status = status.context("starting xz, of Debian's package xz-utils")?;
        if !status.success() {
            bail!("xz cannot pack {}: {status}", capture.display());
        }
    }
    Ok(())
}

fn images() -> PathBuf {
    paths::repo().join("engine/tests/images")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn size() -> Result<u64> {
    files(&images())?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
}
