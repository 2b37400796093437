//! The ways in which a Go program can be linked and stripped: what a test program is built as.

use std::process::Command;

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
}

impl Variant {
    /// All ways that a process can be met in; those with C only for this machine, which has its compiler.
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

    /// Whether a C compiler has to be there.
    pub(crate) fn has_c(self) -> bool {
        use Variant::{Cgo, CgoPie, CgoPieStripped, CgoStripped};
        matches!(self, Cgo | CgoStripped | CgoPie | CgoPieStripped)
    }

    /// What `go build` has to be told.
    pub(super) fn set(self, build: &mut Command) {
        if self.has_c() {
            build.env("CGO_ENABLED", "1").env("CC", "cc");
        }
        match self {
            Variant::Plain | Variant::Cgo | Variant::CgoStripped => {}
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
        matches!(self, Variant::CgoStripped | Variant::CgoPieStripped)
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
        }
    }
}
