//! Debian's arm64 cloud kernels and busybox for the QEMU runs, unpacked into the tools cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::ForeignApt;
use crate::{cmd, paths};

/// A kernel the agent is run on: one row per kernel.
pub(crate) struct Kernel {
    /// The name on the command line, `--kernel 6.1`.
    pub(crate) name: &'static str,
    /// The Debian release whose kernel it is.
    suite: &'static str,
}

/// The first row is the default.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel { name: "6.1", suite: "bookworm" },
    Kernel { name: "5.10", suite: "bullseye" },
    Kernel { name: "6.12", suite: "trixie" },
];

/// Depends on a suite's newest build of its kernel.
const META_PACKAGE: &str = "linux-image-cloud-arm64";

/// virtio is in modules of these kernels (6.12 has the first two built in); this is the order to insert them in.
pub(crate) const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net", "virtio_blk"];

const BUSYBOX_SUITE: &str = "bookworm";

impl Kernel {
    /// The row of a name, or an error that lists the names there are.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        let found = KERNELS.iter().find(|kernel| kernel.name == name);
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        found.with_context(|| format!("no kernel {name:?}; there are: {}", names.join(", ")))
    }

    fn dir(&self) -> PathBuf {
        paths::tools().join("kernels").join(self.name)
    }

    /// The kernel image, for QEMU's `-kernel`.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir().join("vmlinuz")
    }

    /// The modules of [`MODULES`] that are not built in, uncompressed, in the order to insert them.
    pub(crate) fn modules(&self) -> Vec<PathBuf> {
        let dir = self.dir().join("modules");
        let file = |name: &&str| dir.join(format!("{name}.ko"));
        MODULES.iter().map(file).filter(|path| path.is_file()).collect()
    }

    fn ready(&self) -> bool {
        // The release file is written last, into a folder that is moved into place as a whole.
        self.image().is_file() && self.dir().join("release").is_file()
    }
}

/// The static arm64 busybox.
pub(crate) fn busybox() -> PathBuf {
    paths::tools().join("busybox-arm64")
}

/// Downloads a kernel unless it is there.
pub(crate) fn ensure(kernel: &Kernel) -> Result<()> {
    if kernel.ready() {
        return Ok(());
    }
    let apt = foreign_apt(kernel.suite)?;
    // The meta package names the newest build: linux-image-6.1.0-NN-cloud-arm64.
    let build = apt
        .depends(META_PACKAGE)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{META_PACKAGE} of {} names no kernel", kernel.suite))?;
    let release = build.trim_start_matches("linux-image-").to_owned();
    if !release.starts_with(&format!("{}.", kernel.name)) {
        bail!("the kernel of Debian {} is {release}, not {}", kernel.suite, kernel.name);
    }

    let partial = Partial::new(&format!("kernel-{}", kernel.name))?;
    let tree = partial.0.join("tree");
    apt.unpack(&build, &tree)?;
    let ready = partial.0.join("ready");
    fs::create_dir_all(ready.join("modules"))?;
    let image = tree.join("boot").join(format!("vmlinuz-{release}"));
    fs::copy(&image, ready.join("vmlinuz")).with_context(|| image.display().to_string())?;
    // Below /usr from trixie on.
    let places = ["usr/lib/modules", "lib/modules"].map(|place| tree.join(place).join(&release));
    let modules = places.iter().find(|place| place.is_dir());
    let modules = modules.with_context(|| format!("{build} holds no modules"))?;
    for name in MODULES {
        take_module(modules, name, &ready.join("modules"))?;
    }
    fs::write(ready.join("release"), format!("{release}\n"))?;
    replace(&ready, &kernel.dir())
}

/// Downloads busybox unless it is there.
pub(crate) fn ensure_busybox() -> Result<()> {
    if busybox().is_file() {
        return Ok(());
    }
    let apt = foreign_apt(BUSYBOX_SUITE)?;
    let partial = Partial::new("busybox")?;
    apt.unpack("busybox-static", &partial.0)?;
    replace(&partial.0.join("bin/busybox"), &busybox())
}

fn foreign_apt(suite: &str) -> Result<ForeignApt> {
    ForeignApt::open(&paths::tools().join(format!("apt/{suite}-arm64")), suite, "arm64")
}

/// Copies one module, uncompressed. A module that is built into this kernel is none.
fn take_module(tree: &Path, name: &str, into: &Path) -> Result<()> {
    let built_in = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    if built_in.lines().any(|l| l.ends_with(&format!("/{name}.ko"))) {
        return Ok(());
    }
    let Some(found) = find(tree, &[format!("{name}.ko"), format!("{name}.ko.xz")]) else {
        bail!("the kernel package has no module {name}, and it is not built in");
    };
    let copy = into.join(found.file_name().unwrap_or_default());
    fs::copy(&found, &copy)?;
    if copy.extension().is_some_and(|e| e == "xz") {
        cmd::output(Command::new("xz").arg("-d").arg(&copy))?;
    }
    Ok(())
}

fn find(dir: &Path, names: &[String]) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return find(&path, names);
        }
        let name = entry.file_name();
        names.iter().any(|n| name == n.as_str()).then_some(path)
    })
}

/// Moves a finished file or folder into its place in the cache.
pub(super) fn replace(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if to.is_dir() {
        fs::remove_dir_all(to)?;
    }
    fs::rename(from, to).with_context(|| format!("moving {} into place", to.display()))
}

/// A work folder in the cache that disappears with its owner.
pub(super) struct Partial(pub(super) PathBuf);

impl Partial {
    pub(super) fn new(name: &str) -> Result<Self> {
        let dir = paths::tools().join(format!("partial-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
