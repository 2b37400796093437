//! Which of the program's variables a function refers to, read from its instructions: what a program without
//! symbols still says about where its variables are.
//!
//! Both decoders sweep linearly over one function of Go's compiler, which puts no data between instructions.
//! They are total: an instruction they do not know ends the sweep with an error, it is never guessed at.

mod amd64;
mod arm64;
#[cfg(test)]
mod tests;

use crate::layout::Arch;
use crate::memory::{Error, Va};

/// One mention of a fixed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Link-time address of the variable.
    pub at: Va,
    /// Words of 8 bytes that are touched from there on: 2 for arm64's pairs, else 1.
    pub words: u8,
    /// The constant that is stored there, if it is one.
    pub stored: Option<u64>,
}

/// Calls `visit` for every variable that `code`, a whole function beginning at `entry`, refers to.
///
/// # Errors
/// [`Error::Malformed`] with the address of the first instruction that cannot be decoded.
pub fn references(arch: Arch, entry: Va, code: &[u8], visit: &mut dyn FnMut(Reference)) -> Result<(), Error> {
    match arch {
        Arch::Amd64 => amd64::references(entry, code, visit),
        Arch::Arm64 => arm64::references(entry, code, visit),
    }
}
