//! The ways in which a Go program can be linked and stripped: what a test program is built as.

use std::process::Command;

use super::Arch;
use crate::cmd;
use crate::setup::zig;

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// `go build`: static, with symbols and DWARF.
    Plain,
    /// Plain, its DWARF left uncompressed, for readers without zlib.
    Dwarf,
    /// Without symbols and DWARF, as most are shipped.
    Stripped,
    /// Position-independent, linked by Go.
    Pie,
    /// The same without symbols.
    PieStripped,
    /// With C in it: dynamic, linked by the C compiler.
    Cgo,
    /// The same without symbols.
    CgoStripped,
    /// With C in it and position-independent, as Debian builds its own.
    CgoPie,
    /// The same without symbols.
    CgoPieStripped,
    /// Plain, but without the paths of the machine that builds it: what is kept of it names no machine.
    Trimmed,
    /// The same without symbols.
    TrimmedStripped,
    /// With C in it that is not optimised.
    CgoO0,
    /// With C in it and static: linked with musl.
    Musl,
    /// The same without symbols.
    MuslStripped,
    /// For the 32-bit processor that the 64-bit one can be as well.
    Bits32,
    /// With C in it and fit for plugins: built as they are.
    PluginHost,
    /// A plugin.
    Plugin,
}

impl Variant {
    /// All ways that a process can be met in.
    pub(crate) const MET: [Variant; 8] = [
        Variant::Plain,
        Variant::Stripped,
        Variant::Pie,
        Variant::PieStripped,
        Variant::Cgo,
        Variant::CgoStripped,
        Variant::CgoPie,
        Variant::CgoPieStripped,
    ];

    /// The ways in which the program is built that waits for locks in C.
    pub(crate) const OF_LOCKS: [Variant; 6] = [
        Variant::Cgo,
        Variant::CgoStripped,
        Variant::CgoPie,
        Variant::CgoO0,
        Variant::Musl,
        Variant::MuslStripped,
    ];

    /// Whether a C compiler has to be there.
    pub(crate) fn has_c(self) -> bool {
        use Variant::{Cgo, CgoO0, CgoPie, CgoPieStripped, CgoStripped, Plugin, PluginHost};
        matches!(self, Cgo | CgoStripped | CgoO0 | CgoPie | CgoPieStripped | PluginHost | Plugin)
    }

    /// What `go build` has to be told.
    pub(super) fn set(self, build: &mut Command, arch: Arch) {
        if self.has_c() {
            build.env("CGO_ENABLED", "1").env("CC", c_compiler(arch));
            // Up to Go 1.24 arm64 is linked by gold (cmd/link/internal/ld/lib.go), which newer systems lack; their
            // own linker does not have the fault any more that it was avoided for.
            if arch == Arch::Arm64 && !cmd::starts(&[&format!("{}ld.gold", tools(arch)), "--version"]) {
                build.arg("-ldflags=-extldflags=-fuse-ld=bfd");
            }
        }
        match self {
            Variant::Plain | Variant::Cgo | Variant::CgoStripped => {}
            Variant::CgoO0 => {
                build.env("CGO_CFLAGS", "-O0 -g");
            }
            Variant::Musl | Variant::MuslStripped => {
                build.env("CGO_ENABLED", "1").env("CC", zig::musl_compiler(arch));
                build.arg("-ldflags=-linkmode external -extldflags -static");
            }
            Variant::Bits32 => {
                build.env("GOARCH", if arch == Arch::Arm64 { "arm" } else { "386" });
            }
            Variant::PluginHost | Variant::Trimmed => {
                build.arg("-trimpath");
            }
            Variant::TrimmedStripped => {
                build.args(["-trimpath", "-ldflags=-s -w"]);
            }
            Variant::Plugin => {
                build.args(["-trimpath", "-buildmode=plugin"]);
            }
            Variant::Dwarf => {
                build.arg("-ldflags=-compressdwarf=false");
            }
            Variant::Stripped => {
                build.arg("-ldflags=-s -w");
            }
            Variant::Pie | Variant::CgoPie | Variant::CgoPieStripped => {
                build.arg("-buildmode=pie");
            }
            Variant::PieStripped => {
                build.args(["-buildmode=pie", "-ldflags=-s -w"]);
            }
        }
    }

    /// Whether `strip -s` is to take from it what Go's linker has left.
    pub(super) fn is_stripped_after(self) -> bool {
        matches!(self, Variant::CgoStripped | Variant::CgoPieStripped | Variant::MuslStripped)
    }

    /// What is added to the name of the program.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Variant::Plain => "",
            Variant::Dwarf => "-dwarf",
            Variant::Stripped => "-stripped",
            Variant::Pie => "-pie",
            Variant::PieStripped => "-pie-stripped",
            Variant::Cgo => "-cgo",
            Variant::CgoStripped => "-cgo-stripped",
            Variant::CgoPie => "-cgo-pie",
            Variant::CgoPieStripped => "-cgo-pie-stripped",
            Variant::Trimmed => "-trimmed",
            Variant::TrimmedStripped => "-stripped-trimmed",
            Variant::CgoO0 => "-cgo-O0",
            Variant::Musl => "-musl",
            Variant::MuslStripped => "-musl-stripped",
            Variant::Bits32 => "-32",
            Variant::PluginHost => "-host",
            Variant::Plugin => ".so",
        }
    }
}

/// The C compiler for an architecture.
pub(crate) fn c_compiler(arch: Arch) -> String {
    match tools(arch) {
        "" => "cc".to_owned(),
        tools => format!("{tools}gcc"),
    }
}

fn tools(arch: Arch) -> &'static str {
    arch.gnu_tools().unwrap_or_default()
}
