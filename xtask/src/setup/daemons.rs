//! Go programs that nobody here built: Debian's daemons, unpacked into the tools cache, nothing of them installed.
//! Per architecture one small root file system: the programs, and the shared libraries they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, elf};

use super::apt::ForeignApt;
use super::kernel::{Partial, replace};
use crate::go::Arch;
use crate::{cmd, paths};

/// The Debian release whose daemons they are.
const SUITE: &str = "bookworm";

/// A package, and what is wanted of it: the program first.
struct Package {
    name: &'static str,
    files: &'static [&'static str],
}

const PACKAGES: &[Package] = &[
    Package { name: "etcd-server", files: &["usr/bin/etcd"] },
    Package { name: "nats-server", files: &["usr/sbin/nats-server"] },
    Package { name: "prometheus", files: &["usr/bin/prometheus"] },
    Package { name: "caddy", files: &["usr/bin/caddy"] },
    Package { name: "prometheus-node-exporter", files: &["usr/bin/prometheus-node-exporter"] },
    Package { name: "syncthing", files: &["usr/bin/syncthing"] },
    // snapd ends when it cannot ask snap-seccomp for its version.
    Package {
        name: "snapd",
        files: &["usr/lib/snapd/snapd", "usr/lib/snapd/snap-seccomp", "usr/lib/snapd/info"],
    },
];

/// Where their shared libraries are.
const LIBRARIES: &[&str] = &["libc6", "libseccomp2", "libzstd1"];

/// Reads what Go has written into a program; of package golang-1.19-go.
pub(super) const GO: &str = "/usr/lib/go-1.19/bin/go";
/// What that says of the programs, for the tests.
const BUILD_INFO: &str = "buildinfo";
/// Written last; says which versions the suite served.
const MARKER: &str = "versions";

/// The folder with one root file system per architecture; the tests find it by `GLG_DAEMONS`.
pub(crate) fn dir() -> PathBuf {
    paths::tools().join("debian-daemons")
}

/// Downloads them for both architectures unless they are there.
pub(crate) fn ensure() -> Result<()> {
    Arch::ALL.into_iter().filter(|arch| !ready(*arch)).try_for_each(make)
}

fn ready(arch: Arch) -> bool {
    let root = dir().join(arch.as_str());
    let mut files = PACKAGES.iter().flat_map(|package| package.files);
    let made = [BUILD_INFO, MARKER].iter().all(|file| root.join(file).is_file());
    made && files.all(|file| root.join(file).is_file())
}

fn make(arch: Arch) -> Result<()> {
    let name = format!("{SUITE}-{}", arch.as_str());
    let apt = ForeignApt::open(&paths::tools().join("apt").join(&name), SUITE, arch.as_str())?;
    let partial = Partial::new(&format!("daemons-{name}"))?;
    let (all, root) = (partial.0.join("all"), partial.0.join("root"));
    for package in PACKAGES.iter().map(|package| package.name).chain(LIBRARIES.iter().copied()) {
        apt.unpack(package, &all)?;
    }
    let tree = Tree { arch, all: &all, root: &root };
    PACKAGES.iter().flat_map(|package| package.files).try_for_each(|file| tree.take(Path::new(file)))?;
    let programs = PACKAGES.iter().filter_map(|package| package.files.first());
    let mut go = Command::new(GO);
    let build_info = cmd::output(go.args(["version", "-m"]).args(programs).current_dir(&root))?;
    fs::write(root.join(BUILD_INFO), build_info)?;
    let mut versions = String::new();
    for package in PACKAGES {
        versions += &format!("{} {}\n", package.name, apt.version(package.name)?);
    }
    fs::write(root.join(MARKER), versions)?;
    replace(&root, &dir().join(arch.as_str()))
}

/// Unpacked packages, and the root file system that is made of some of their files.
struct Tree<'a> {
    arch: Arch,
    all: &'a Path,
    root: &'a Path,
}

impl Tree<'_> {
    /// Copies a file, and with a program its loader and its libraries; what is there already is left alone.
    fn take(&self, file: &Path) -> Result<()> {
        let to = self.root.join(file);
        if to.is_file() {
            return Ok(());
        }
        // The loader and the libraries are below /usr from trixie on.
        let from = self.real(file).or_else(|| self.real(&Path::new("usr").join(file)));
        let from = from.with_context(|| format!("no package of Debian's holds {}", file.display()))?;
        fs::create_dir_all(to.parent().context("a file without a folder")?)?;
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        let needed = needed(&fs::read(&to)?, self.libraries()).with_context(|| to.display().to_string())?;
        for other in &needed {
            self.take(other).with_context(|| format!("needed by {}", file.display()))?;
        }
        Ok(())
    }

    /// The file that a name leads to; absolute links lead from the root of the packages, not this machine's.
    fn real(&self, name: &Path) -> Option<PathBuf> {
        let mut name = name.to_owned();
        for _ in 0..8 {
            let path = self.all.join(&name);
            let Ok(link) = fs::read_link(&path) else { return path.is_file().then_some(path) };
            name = match link.strip_prefix("/") {
                Ok(absolute) => absolute.to_owned(),
                Err(_) => name.parent()?.join(link),
            };
        }
        None
    }

    /// Debian's folder for the libraries of an architecture, where its loader looks.
    fn libraries(&self) -> &'static Path {
        Path::new(match self.arch {
            Arch::Amd64 => "lib/x86_64-linux-gnu",
            Arch::Arm64 => "lib/aarch64-linux-gnu",
        })
    }
}

/// The loader and the libraries that a program or library names, as files of a root file system; none for
/// what is neither.
fn needed(bytes: &[u8], libraries: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(file) = ElfFile64::<Endianness>::parse(bytes) else { return Ok(files) };
    let endian = file.endian();
    for segment in file.elf_header().program_headers(endian, bytes)? {
        if let Some(loader) = segment.interpreter(endian, bytes)? {
            files.push(PathBuf::from(str::from_utf8(loader)?.trim_start_matches('/')));
        }
    }
    let sections = file.elf_section_table();
    let Some((entries, strings)) = sections.dynamic(endian, bytes)? else { return Ok(files) };
    let strings = sections.strings(endian, bytes, strings)?;
    for entry in entries.iter().filter(|entry| entry.tag32(endian) == Some(elf::DT_NEEDED)) {
        files.push(libraries.join(str::from_utf8(entry.string(endian, strings)?)?));
    }
    Ok(files)
}
