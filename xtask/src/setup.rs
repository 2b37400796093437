//! `cargo xtask setup`: brings a fresh Debian machine to where everything builds and runs, and changes nothing
//! when all is there. Commands ask for the components they need: [`ensure`].

pub(crate) mod apt;
mod bpf_linker;
pub(crate) mod daemons;
pub(crate) mod kernel;
pub(crate) mod rust;
pub(crate) mod zig;

use std::sync::Mutex;

use anyhow::{Result, anyhow, bail};

use crate::cmd;
use apt::Apt;

/// A part of the tool chain that commands can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Component {
    /// Rust for the BPF target, and bpf-linker.
    Bpf,
    /// Rust, libc and linker for the static aarch64 musl binary.
    Vehicle,
    /// The MQTT broker and its command-line clients.
    Broker,
    /// QEMU, the tools that make its disks, an arm64 kernel and an arm64 busybox.
    Qemu,
    /// Every kernel that `cargo xtask qemu` can boot, not only the default one.
    Kernels,
    /// A C compiler for arm64, for Go programs with cgo.
    CCrossArm64,
    /// Debian's Go daemons for both architectures, unpacked and not installed.
    Daemons,
    /// The oldest supported Go, 1.19, which Debian packages.
    GoOldest,
}

/// What `cargo xtask setup` and `cargo xtask test` want.
pub(crate) const ALL: &[Component] = &[
    Component::Bpf,
    Component::Vehicle,
    Component::Broker,
    Component::Qemu,
    Component::CCrossArm64,
    Component::GoOldest,
    Component::Daemons,
];

/// A Debian package and a command line that only starts when the package works.
struct Tool {
    package: &'static str,
    probe: &'static [&'static str],
}

const fn tool(package: &'static str, probe: &'static [&'static str]) -> Tool {
    Tool { package, probe }
}

impl Component {
    /// The Debian packages a component needs besides Rust's, each with its probe.
    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Bpf | Self::Vehicle => &[],
            Self::Kernels => const { &[tool("xz-utils", &["xz", "--version"])] },
            Self::Broker => {
                const {
                    &[
                        tool("mosquitto", &["/usr/sbin/mosquitto", "-h"]),
                        tool("mosquitto-clients", &["mosquitto_sub", "--help"]),
                        tool("age", &["age", "--version"]),
                    ]
                }
            }
            Self::Qemu => {
                const {
                    &[
                        tool("qemu-system-arm", &["qemu-system-aarch64", "--version"]),
                        tool("qemu-user-static", &["qemu-aarch64-static", "--version"]),
                        tool("cpio", &["cpio", "--version"]),
                        tool("e2fsprogs", &["/sbin/mke2fs", "-V"]),
                        tool("xz-utils", &["xz", "--version"]),
                    ]
                }
            }
            Self::CCrossArm64 => {
                const {
                    &[
                        tool("gcc-aarch64-linux-gnu", &["aarch64-linux-gnu-gcc", "--version"]),
                        tool("libc6-dev-arm64-cross", &[]),
                    ]
                }
            }
            // It also says what Go has written into the daemons.
            Self::GoOldest | Self::Daemons => const { &[tool("golang-1.19-go", &[daemons::GO, "version"])] },
        }
    }
}

impl Tool {
    fn works(&self) -> bool {
        if self.probe.is_empty() {
            return Apt::missing(&[self.package.to_owned()]).is_empty();
        }
        cmd::starts(self.probe)
    }
}

/// `cargo xtask setup [component…]`.
pub(crate) fn run(components: &[Component]) -> Result<()> {
    let wanted = if components.is_empty() { ALL } else { components };
    ensure(wanted)?;
    let names: Vec<String> = wanted.iter().map(|c| format!("{c:?}")).collect();
    println!("setup: ready: {}", names.join(", "));
    Ok(())
}

/// Makes the components ready. Looks at the real thing first and costs well under a second when all is there;
/// what this process has seen ready is not looked at again.
pub(crate) fn ensure(components: &[Component]) -> Result<()> {
    static READY: Mutex<Vec<Component>> = Mutex::new(Vec::new());
    let mut ready = READY.lock().map_err(|_| anyhow!("an earlier setup panicked"))?;
    let wanted: Vec<Component> = components.iter().copied().filter(|c| !ready.contains(c)).collect();
    if !wanted.is_empty() {
        make_ready(&wanted)?;
        ready.extend(wanted);
    }
    Ok(())
}

/// First decides and collects what is missing, then installs all packages at once, then builds on them.
fn make_ready(components: &[Component]) -> Result<()> {
    let mut apt = Apt::default();
    let tools = components.iter().flat_map(|component| component.tools());
    let missing = tools.filter(|tool| !tool.works());
    let mut packages: Vec<String> = missing.map(|tool| tool.package.to_owned()).collect();
    let bpf = components.contains(&Component::Bpf);
    let vehicle = components.contains(&Component::Vehicle);
    if bpf || vehicle {
        packages.extend(rust::take(&mut apt)?.packages(bpf));
    }
    if vehicle {
        packages.extend(zig::packages());
    }
    packages.sort();
    packages.dedup();
    apt.install(&packages)?;

    for component in components {
        match component {
            Component::Bpf => rust::taken()?.ensure_linker()?,
            Component::Vehicle => zig::ensure()?,
            Component::Qemu => {
                kernel::ensure(&kernel::KERNELS[0])?;
                kernel::ensure_busybox()?;
            }
            Component::Kernels => kernel::KERNELS.iter().try_for_each(kernel::ensure)?,
            Component::Daemons => daemons::ensure()?,
            Component::Broker | Component::CCrossArm64 | Component::GoOldest => {}
        }
    }
    verify(components)
}

/// A package that apt calls installed may still not run; say so here and not in the middle of a build.
fn verify(components: &[Component]) -> Result<()> {
    let broken: Vec<&str> = components
        .iter()
        .flat_map(|component| component.tools())
        .filter(|tool| !tool.works())
        .map(|tool| tool.package)
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    bail!("installed, but not working: {0}\n  what to do: apt-get install --reinstall {0}", broken.join(" "))
}
