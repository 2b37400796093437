//! The Go below a call of C, or around a wait in Go: the frames that a person would look at.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::gather::each_alone;
use crate::memory::{Addr, Error};
use crate::pclntab::printed_name;
use crate::runtime::Runtime;
use crate::stack::Copied;
use crate::step::Process;
use crate::symbols::Symbols;
use crate::traces::{Answer, Target, follow, read_again, read_still};

/// Bytes of a stack that are looked at.
const STACK_BYTES: usize = 16 << 10;
/// Frames that are looked at.
const FRAMES: usize = 64;
/// Places that are remembered while one stack is looked at, and bytes of their text.
const PLACES: usize = 64;
const TEXT_BYTES: usize = 8 << 10;

/// A function at work, the innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoFrame {
    /// Its name as Go prints it.
    pub function: String,
    /// Base name of its file.
    pub file: String,
    /// The line that it is at.
    pub line: u32,
}

impl GoFrame {
    /// Whether it is what led into the wait and not the program's own: of the runtime, of the standard library's
    /// locks, or made by cgo.
    #[must_use]
    pub fn is_machinery(&self) -> bool {
        let of =
            |package: &str| self.function.strip_prefix(package).is_some_and(|rest| rest.starts_with('.'));
        ["runtime", "sync", "internal/sync", "syscall", "runtime/cgo"].into_iter().any(of)
            || self.function.contains("._Cfunc_")
            || self.function.contains("._cgo")
    }
}

/// The stack of the goroutine at `g`, the innermost frame first; empty when it runs, or cannot be read.
///
/// # Errors
/// [`Error::Gone`].
pub fn stack_in_go(runtime: &Runtime, process: &mut Process<'_>, g: Addr) -> Result<Vec<GoFrame>, Error> {
    match frames(runtime, process, g) {
        Err(Error::Gone) => Err(Error::Gone),
        other => Ok(other.unwrap_or_default()),
    }
}

fn frames(runtime: &Runtime, process: &mut Process<'_>, g: Addr) -> Result<Vec<GoFrame>, Error> {
    let mut symbols = Symbols::new(runtime, process.image, PLACES, TEXT_BYTES)?;
    let (mut stack, mut physical, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let Some(seen) = read_still(process.memory, runtime.layout, g)? else { return Ok(found) };
    let before = seen.0;
    let Some(run) = before.head(STACK_BYTES) else { return Ok(found) };
    stack.resize(run.len, 0);
    each_alone(process.memory, &[run], &mut stack)?;
    let again = read_again(process.memory, runtime.layout, g, &seen)?;
    if !again.is_some_and(|(_, still)| still) {
        return Ok(found);
    }
    let mut target = Target { runtime, memory: process.memory, image: process.image, symbols: &mut symbols };
    let copied = Copied { at: run.at, bytes: &stack };
    // However it ends: what was found until then is true.
    let _: Answer = follow(&mut target, &before, copied, FRAMES, &mut physical);
    let mut returns = Vec::new();
    symbols.returns(process.image, &physical, FRAMES, &mut returns);
    for pc in returns {
        let Ok((frame, _)) = symbols.at(process.image, pc) else { continue };
        let mut function = String::new();
        for piece in printed_name(&frame.function, runtime.go.minor) {
            let _ = function.write_str(piece);
        }
        let file = frame.file.rsplit('/').next().unwrap_or_default();
        found.push(GoFrame { function, file: String::from(file), line: frame.line });
    }
    Ok(found)
}

/// The innermost frame of the program's own.
///
/// # Errors
/// As [`stack_in_go`].
pub fn place_in_go(runtime: &Runtime, process: &mut Process<'_>, g: Addr) -> Result<GoFrame, Error> {
    let frames = stack_in_go(runtime, process, g)?;
    Ok(frames.into_iter().find(|frame| !frame.is_machinery()).unwrap_or_default())
}
