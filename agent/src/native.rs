//! Stacks of threads that are blocked in C, from outside and without stopping them: from the innermost function
//! down to where Go has called C, or to where the thread began.
//!
//! What is read is that of a moment: the caller reads where the thread stands once more afterwards, and throws
//! the stack away when that is no longer the same, or when the thread has been switched in meanwhile.

mod calls;
mod cfi;
mod code;
mod maps;
mod module;
mod stack;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind;

use std::fmt;

use glg_engine::layout::Arch;
use glg_engine::locks::standing::Call;
use glg_engine::memory::{Addr, Error, Memory};

use code::{Code, Place};
use symbols::Wanted;
use unwind::{Step, Unwinder};

/// Frames of a stack that are shown.
pub const FRAMES_MAX: usize = 64;
/// Looks into files for one stack: some 20 for a frame, more where a return address has to be looked for.
const FUEL: u32 = 20_000;
/// Names that are remembered.
const NAMES_MAX: usize = 256;
/// Words above Go's saved stack pointer among which is the function that it has called.
const ENTRY_WORDS: usize = 6;

/// The code of one process; made once, used for all its stacks.
pub struct Native {
    code: Code,
    /// Functions that were looked up, with the index of their mapping: those without a name, too.
    names: Vec<(usize, Wanted)>,
}

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Program counter.
    pub pc: Addr,
    /// Stack pointer.
    pub sp: Addr,
    /// Frame pointer, if somebody knows it: it saves a search where code is not optimised.
    pub fp: Option<Addr>,
    /// arm64's link register, likewise; no use on amd64.
    pub lr: Option<Addr>,
}

impl From<&Call> for Start {
    fn from(call: &Call) -> Start {
        Start { pc: call.pc, sp: call.sp, fp: None, lr: None }
    }
}

/// What is known of Go below the C frames.
pub struct Beneath<'a> {
    /// Whether code is Go's.
    pub is_go: &'a dyn Fn(Addr) -> bool,
    /// `sched.sp` of the thread's `g0`: below that C begins.
    pub g0_sp: Option<Addr>,
    /// `sched.sp` of the goroutine that is in C: above that is which function it has called.
    pub g_sp: Option<Addr>,
}

impl Beneath<'_> {
    /// For a thread that Go knows nothing of.
    #[must_use]
    pub fn nothing() -> Beneath<'static> {
        Beneath { is_go: &|_| false, g0_sp: None, g_sp: None }
    }
}

/// A function that waits, or that waits for the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it goes on; where it begins if it has left no frame.
    pub pc: Addr,
    /// What it is called in its file's tables.
    pub name: Option<Box<str>>,
    /// How far `pc` is from where that begins; without a name from the beginning of the file as it is linked.
    pub offset: u64,
    /// Base name of its file; empty where there is none.
    pub module: Box<str>,
    /// How it is known.
    pub how: How,
}

/// How a frame is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By the tables that debuggers use.
    Unwound,
    /// Its return address was looked for on the stack.
    Guessed,
    /// It has jumped to the one before it as its last act: the code of the two says so, the stack does not.
    Jumped,
    /// It is what Go has called; what came between it and the one before is not known.
    Entry,
}

/// Why a stack ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Go has called; whether the frames end exactly where Go has left its stack, if that is known.
    Go {
        /// See above.
        fits: Option<bool>,
    },
    /// The thread began there.
    Beginning,
    /// There are more than [`FRAMES_MAX`].
    Cut,
    /// It could not be followed further: why.
    Lost(&'static str),
}

impl Native {
    /// The code of process `pid`; nothing is read yet.
    #[must_use]
    pub fn new(pid: u32, arch: Arch) -> Native {
        Native { code: Code::new(pid, arch), names: Vec::new() }
    }

    /// Reads again which files it has mapped. This is done for a stack in unknown code without being asked; ask
    /// before the first stack of a look, lest a library has taken the place of another.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.names.clear();
        self.code.refresh().map_err(|_| Error::Gone)
    }

    /// Fills in the frames of a thread, the innermost first.
    ///
    /// # Errors
    /// [`Error::Gone`]; others when its stack cannot be read.
    pub fn stack(
        &mut self,
        memory: &mut dyn Memory,
        start: Start,
        beneath: &Beneath<'_>,
        out: &mut Vec<Frame>,
    ) -> Result<End, Error> {
        out.clear();
        self.code.refuel(FUEL);
        if self.code.mapping(start.pc.0).is_none() {
            self.refresh()?;
        }
        let mut found = Vec::new();
        let end = self.walk(memory, start, beneath, &mut found)?;
        found.truncate(FRAMES_MAX);
        self.name(&found, out);
        Ok(end)
    }

    /// The function that a goroutine has called in C, from the `sched.sp` of the goroutine. Go has it as an
    /// argument of `asmcgocall`, whose frame differs between releases; of the words there it is the only one
    /// that is an address of C code.
    pub fn entry_function(
        &mut self,
        memory: &mut dyn Memory,
        g_sp: Addr,
        is_go: &dyn Fn(Addr) -> bool,
    ) -> Option<Addr> {
        if self.code.is_empty() {
            self.refresh().ok()?;
        }
        let mut bytes = [0; 8 * ENTRY_WORDS];
        memory.read(g_sp, &mut bytes).ok()?;
        let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        words.find(|word| self.code.mapping(*word).is_some() && !is_go(Addr(*word))).map(Addr)
    }

    fn walk(
        &mut self,
        memory: &mut dyn Memory,
        start: Start,
        beneath: &Beneath<'_>,
        out: &mut Vec<Found>,
    ) -> Result<End, Error> {
        let entry = beneath.g_sp.and_then(|g_sp| self.entry_function(memory, g_sp, beneath.is_go));
        let entry = entry.map(|entry| entry.0);
        let mut unwinder = Unwinder::new(&mut self.code, memory, start, beneath, entry)?;
        let mut how = How::Unwound;
        loop {
            if out.len() >= FRAMES_MAX {
                return Ok(End::Cut);
            }
            let callee = unwinder.callee();
            let start = callee.bounds.as_ref().map(|bounds| bounds.start);
            out.push(Found { pc: unwinder.pc(), within: unwinder.within(), start, how });
            let end = match unwinder.step() {
                Step::Caller { guessed } => {
                    how = if guessed { How::Guessed } else { How::Unwound };
                    out.extend(
                        unwinder.jumped(&callee).iter().rev().map(|at| Found::first(*at, How::Jumped)),
                    );
                    continue;
                }
                Step::Beginning => return Ok(End::Beginning),
                Step::Go { fits } => End::Go { fits },
                Step::Lost(why) => End::Lost(why),
            };
            if let Some(entry) = entry.filter(|entry| !callee.is_at(*entry)) {
                let path = if matches!(end, End::Go { .. }) { unwinder.path(entry, &callee) } else { None };
                match path {
                    Some(path) => out.extend(path.iter().rev().map(|at| Found::first(*at, How::Jumped))),
                    None => out.push(Found::first(entry, How::Entry)),
                }
            }
            return Ok(end);
        }
    }

    /// Finds the names of what was found, those of one file at once.
    fn name(&mut self, found: &[Found], out: &mut Vec<Frame>) {
        let places: Vec<Option<Place>> = found.iter().map(|found| self.code.place(found.within)).collect();
        let mut wanted: Vec<(usize, Wanted)> = Vec::new();
        for (found, place) in found.iter().zip(&places).filter_map(|(found, place)| Some((found, (*place)?)))
        {
            let start = found.start.map(|start| Addr(start).unbiased(place.bias));
            let one = (place.mapping, Wanted { va: place.va, start, name: None });
            if self.known(&place).is_none() && wanted.iter().all(|other| *other != one) {
                wanted.push(one);
            }
        }
        wanted.sort_by_key(|(mapping, _)| *mapping);
        if self.names.len() + wanted.len() > NAMES_MAX {
            self.names.clear();
        }
        for of_one in wanted.chunk_by(|a, b| a.0 == b.0) {
            let mut functions: Vec<Wanted> = of_one.iter().map(|(_, wanted)| wanted.clone()).collect();
            let Some((mapping, _)) = of_one.first() else { continue };
            if let Some(module) = self.code.module(*mapping) {
                symbols::fill(module, &mut functions);
            }
            self.names.extend(functions.into_iter().map(|function| (*mapping, function)));
        }
        out.extend(found.iter().zip(&places).map(|(found, place)| self.frame(found, place.as_ref())));
    }

    fn known(&self, place: &Place) -> Option<&Wanted> {
        self.names
            .iter()
            .find(|(mapping, known)| *mapping == place.mapping && known.va == place.va)
            .map(|(_, w)| w)
    }

    fn frame(&self, found: &Found, place: Option<&Place>) -> Frame {
        let (pc, how) = (Addr(found.pc), found.how);
        let Some(place) = place else {
            let module = self.code.mapping(found.within).map_or("", |mapping| self.code.name(mapping));
            return Frame { pc, name: None, offset: found.pc, module: module.into(), how };
        };
        let name = self.known(place).and_then(|known| known.name.as_ref());
        let from = name.map_or(0, |(_, start)| start.0);
        let offset = pc.unbiased(place.bias).0.wrapping_sub(from);
        let name = name.map(|(name, _)| name.clone());
        Frame { pc, name, offset, module: self.code.name(place.mapping).into(), how }
    }
}

/// A frame without its name.
struct Found {
    pc: u64,
    /// An address that certainly is in its function.
    within: u64,
    /// Where that begins.
    start: Option<u64>,
    how: How,
}

impl Found {
    /// A function that stands nowhere in particular.
    fn first(start: u64, how: How) -> Found {
        Found { pc: start, within: start, start: Some(start), how }
    }
}

impl fmt::Display for Frame {
    /// `pthread_mutex_lock+0x112 (libc.so.6)`, `libfoo.so+0x1234`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) if self.how == How::Jumped || self.how == How::Entry => {
                write!(f, "{name} ({})", self.module)
            }
            Some(name) => write!(f, "{name}+{:#x} ({})", self.offset, self.module),
            None => write!(f, "{}+{:#x}", self.module, self.offset),
        }
    }
}
