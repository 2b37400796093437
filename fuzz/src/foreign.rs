//! What the targets read: bytes that stand for a file, and the small program that is their seed.

use glg_engine::memory::{Error, Image};

#[path = "../../engine/tests/synthetic/program.rs"]
pub mod program;

/// A file whose bytes are the input.
pub struct File<'d>(pub &'d [u8]);

impl Image for File<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.read_at(offset, out)
    }
}

/// Small programs of both architectures, fixed and moved, with sections and without.
#[must_use]
pub fn programs() -> Vec<Vec<u8>> {
    use program::{AMD64, ARM64, Program};
    let make = |machine, pie, go, sections| Program { machine, pie, go, sections }.build();
    vec![
        make(AMD64, false, "go1.24.11", true),
        make(ARM64, true, "go1.27.3", true),
        make(ARM64, false, "go1.19.8", false),
        make(AMD64, true, "go1.26.6", false),
    ]
}
