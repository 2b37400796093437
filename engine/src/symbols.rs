//! What the code at an address is and how a traceback prints it, remembered in a table of fixed size: the
//! goroutines of a program stand at a few hundred different places, however many they are.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::memory::{Addr, Bias, Error, Image, Va};
use crate::moduledata::Module;
use crate::pclntab::{Frame, InlineTrees, Pclntab, printed_name};
use crate::runtime::Runtime;
use crate::stack::{Ends, Physical, Place};

/// Places looked at before an older entry is given up.
const PROBES: usize = 4;

/// How an address is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Where a call returns to.
    Return,
    /// The instruction that comes next.
    Instruction,
    /// Where the call of `newproc` returns to: a `go` statement.
    Creation,
}

/// One line pair of a traceback, and whether it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// Where its text ends; it begins where that of the frame before ends.
    end: usize,
    /// Where it would return to.
    returns: Addr,
    /// Compiler-made, shown only when it called the runtime's panic.
    wrapper: bool,
    /// Part of panicking: a wrapper that called it is shown.
    panics: bool,
    /// `runtime.gopanic`: shown unless it is the first.
    gopanic: bool,
    /// Not one of the runtime's own.
    public: bool,
}

/// What is known of one address.
#[derive(Clone, Debug)]
struct Known {
    pc: Addr,
    meaning: Meaning,
    place: Option<Place>,
    frames: Box<[Shown]>,
    /// As printed: name and place of each frame. For [`Meaning::Creation`] the name ends at its only frame's
    /// `end`, the place follows.
    text: Box<str>,
    /// Whether a goroutine that begins here is the runtime's own.
    system: bool,
}

/// The table.
pub struct Symbols {
    table: Pclntab,
    trees: InlineTrees,
    bias: Bias,
    minor: u16,
    wrapper_id: u8,
    slots: Vec<Option<Known>>,
    text_bytes: usize,
    text_max: usize,
}

/// What of a stack is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// What is not the runtime's own.
    Public,
    /// Everything.
    All,
}

impl Symbols {
    /// An empty table that remembers at least `places` addresses and `text_max` bytes of text, for the program
    /// of `runtime`.
    ///
    /// # Errors
    /// As [`Module::find`]: without the inline trees every other stack would lack functions.
    pub fn new(
        runtime: &Runtime,
        image: &mut dyn Image,
        places: usize,
        text_max: usize,
    ) -> Result<Symbols, Error> {
        let (elf, layout) = (&runtime.elf, runtime.layout);
        let module = Module::find(elf, image, &layout.moduledata, &runtime.pclntab)?;
        let gofunc = module.address(elf, image, layout.moduledata.gofunc)?;
        let outside = Error::Malformed { what: "moduledata", at: module.at.0 };
        Ok(Symbols {
            table: runtime.pclntab,
            trees: InlineTrees(elf.file_offset(gofunc).ok_or(outside)?),
            bias: runtime.bias,
            minor: runtime.go.minor,
            wrapper_id: layout.wrapper_id,
            slots: (0..places.max(PROBES).next_power_of_two()).map(|_| None).collect(),
            text_bytes: 0,
            text_max,
        })
    }

    /// What unwinding needs to know; `None` for code that Go's table does not know.
    pub(crate) fn place(&mut self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> Option<Place> {
        self.known(image, pc, meaning)?.place
    }

    /// Whether a goroutine that starts at `pc` is the runtime's own. A start outside of Go's table is not.
    pub(crate) fn is_system(&mut self, image: &mut dyn Image, pc: Addr) -> bool {
        self.known(image, pc, Meaning::Instruction).is_some_and(|known| known.system)
    }

    /// The function and the place of a `go` statement as printed; `None` when the runtime made it.
    pub(crate) fn creation(&mut self, image: &mut dyn Image, gopc: Addr) -> Option<(&str, &str)> {
        let known = self.known(image, gopc, Meaning::Creation)?;
        let frame = known.frames.first().filter(|frame| frame.public)?;
        known.text.split_at_checked(frame.end)
    }

    /// Calls `print` with the two lines of each frame of a stack that a traceback shows, the innermost first
    /// (`traceback2`, `showfuncinfo`).
    pub(crate) fn lines(
        &mut self,
        image: &mut dyn Image,
        stack: &[Physical],
        show: Show,
        print: &mut dyn FnMut(&str),
    ) {
        let (mut first, mut callee_panics) = (true, false);
        for frame in stack {
            let meaning = if frame.stopped { Meaning::Instruction } else { Meaning::Return };
            let Some(known) = self.known(image, frame.pc, meaning) else { continue };
            let mut begin = 0;
            for shown in &known.frames {
                let elided = shown.wrapper && !callee_panics;
                let visible = !elided && (shown.public || shown.gopanic && !first);
                if visible || show == Show::All {
                    print(known.text.get(begin..shown.end).unwrap_or_default());
                    first = false;
                }
                callee_panics = shown.panics;
                begin = shown.end;
            }
        }
    }

    /// Return addresses of a stack, one for each function at work, without wrappers, at most `max`: what a
    /// profile keeps of a stack (`tracebackPCs`).
    pub(crate) fn returns(
        &mut self,
        image: &mut dyn Image,
        stack: &[Physical],
        max: usize,
        out: &mut Vec<Addr>,
    ) {
        out.clear();
        let mut callee_panics = false;
        for frame in stack {
            let meaning = if frame.stopped { Meaning::Instruction } else { Meaning::Return };
            let Some(known) = self.known(image, frame.pc, meaning) else { continue };
            for shown in &known.frames {
                if (!shown.wrapper || callee_panics) && out.len() < max {
                    out.push(shown.returns);
                }
                callee_panics = shown.panics;
            }
        }
    }

    /// The innermost function at work at a call that returns to `pc`, and the entry of the function that it was
    /// compiled into.
    pub(crate) fn at(&self, image: &mut dyn Image, pc: Addr) -> Result<(Frame, Addr), Error> {
        let call = Va(pc.unbiased(self.bias).0.wrapping_sub(1));
        let entry = self.table.entry(image, call)?.biased(self.bias);
        let mut first = None;
        self.table.frames(image, self.trees, call, |frame| {
            if first.is_none() {
                first = Some(frame.clone());
            }
        })?;
        Ok((first.unwrap_or_default(), entry))
    }

    fn known(&mut self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> Option<&Known> {
        let mask = self.slots.len() - 1;
        let mixed = (pc.0 ^ (meaning as u64) << 61).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let first = usize::try_from(mixed >> 33).unwrap_or(0);
        let places = (0..PROBES).map(|i| (first + i) & mask);
        let slot = |at: usize| self.slots.get(at).and_then(Option::as_ref);
        let found = places.clone().find(|at| slot(*at).is_some_and(|k| k.pc == pc && k.meaning == meaning));
        let at = if let Some(at) = found {
            at
        } else {
            let free = places.clone().find(|at| slot(*at).is_none());
            let at = free.unwrap_or(first & mask);
            let known = self.look_up(image, pc, meaning);
            self.remember(at, known);
            at
        };
        self.slots.get(at)?.as_ref()
    }

    fn remember(&mut self, at: usize, known: Known) {
        if self.text_bytes + known.text.len() > self.text_max {
            self.slots.fill_with(|| None);
            self.text_bytes = 0;
        }
        self.text_bytes += known.text.len();
        let old = self.slots.get_mut(at).and_then(|slot| slot.replace(known));
        self.text_bytes -= old.map_or(0, |old| old.text.len());
    }

    fn look_up(&self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> Known {
        let mut known =
            Known { pc, meaning, place: None, frames: Box::default(), text: Box::default(), system: false };
        let va = pc.unbiased(self.bias);
        let Ok(code) = self.table.code(image, va) else { return known };
        let at = if meaning == Meaning::Instruction || va == code.entry { va } else { Va(va.0 - 1) };
        let offset = va.0 - code.entry.0;
        let (mut text, mut frames, mut outer) = (String::new(), Vec::new(), Kind::default());
        if meaning == Meaning::Creation {
            // Go names the function that the statement was compiled into, with the statement's own line.
            let (mut place, mut name) = (String::new(), String::new());
            let _ = self.table.frames(image, self.trees, at, |frame| {
                if place.is_empty() {
                    let _ = write!(place, "\n\t{}:{}", frame.file, frame.line);
                }
                if !frame.inlined {
                    outer = Kind::of(&frame.function, self.minor);
                    name = printed_name(&frame.function, self.minor).concat();
                }
            });
            text = name;
            frames.push(outer.shown(text.len(), pc, false));
            text += &place;
            end_line(&mut text, offset);
        } else {
            let _ = self.table.frames(image, self.trees, at, |frame| {
                outer = Kind::of(&frame.function, self.minor);
                // Arguments would take more of the stack and of the tables than they tell.
                let name = printed_name(&frame.function, self.minor).concat();
                let _ = write!(text, "{name}(...)\n\t{}:{}", frame.file, frame.line);
                end_line(&mut text, if frame.inlined { 0 } else { offset });
                let returns = Addr(Va(frame.pc).biased(self.bias).0.wrapping_add(1));
                frames.push(outer.shown(text.len(), returns, frame.id == self.wrapper_id));
            });
        }
        let ends = match (code.top, code.switches_stack) {
            (true, _) => Ends::Always,
            // It is written so that it can be unwound at any time (`resolveInternal`).
            (false, true) if !outer.cgocallback => Ends::UnlessSyscall,
            _ => Ends::No,
        };
        let (entry, injected) = (code.entry.biased(self.bias), outer.injected);
        known.place = Some(Place { entry, frame_bytes: code.frame_bytes, ends, injected });
        (known.frames, known.text) = (frames.into_boxed_slice(), text.into_boxed_str());
        known.system = outer.system;
        known
    }
}

/// ` +0x1d` where there is an offset, and the end of the line.
fn end_line(text: &mut String, offset: u64) {
    if offset > 0 {
        let _ = write!(text, " +{offset:#x}");
    }
    text.push('\n');
}

/// What a function's name tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kind {
    public: bool,
    gopanic: bool,
    panics: bool,
    injected: bool,
    cgocallback: bool,
    system: bool,
}

impl Kind {
    fn of(name: &str, minor: u16) -> Kind {
        let gopanic = name == "runtime.gopanic";
        let exempt = matches!(name, "runtime.main" | "runtime.handleAsyncEvent" | "runtime.corostart");
        let ours = name.strip_prefix("runtime.");
        // Shown always since Go 1.25, to tell what the goroutine is.
        let runs = minor >= 25 && matches!(name, "runtime.runFinalizers" | "runtime.runCleanups");
        Kind {
            public: runs || name.contains('.') && ours.is_none_or(|rest| is_exported(rest, minor)),
            gopanic,
            panics: gopanic || matches!(name, "runtime.sigpanic" | "runtime.panicwrap"),
            injected: matches!(name, "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV2"),
            cgocallback: name == "runtime.cgocallback",
            system: ours.is_some() && !exempt,
        }
    }

    fn shown(self, end: usize, returns: Addr, wrapper: bool) -> Shown {
        Shown { end, returns, wrapper, panics: self.panics, gopanic: self.gopanic, public: self.public }
    }
}

/// `isExportedRuntime` of `runtime/traceback.go`; methods count since Go 1.23.
fn is_exported(rest: &str, minor: u16) -> bool {
    let upper = |text: &str| text.starts_with(|c: char| c.is_ascii_uppercase());
    if minor < 23 {
        return upper(rest);
    }
    match rest.rsplit_once('.') {
        None => upper(rest),
        Some((receiver, method)) => {
            let pointer = receiver.strip_prefix("(*").and_then(|r| r.strip_suffix(')'));
            let receiver = pointer.unwrap_or(receiver);
            upper(method) && (receiver.is_empty() || upper(receiver))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_depends_on_the_release() {
        for (minor, name, public) in [
            (24, "main.main", true),
            (24, "runtime.gopark", false),
            (24, "runtime.Gosched", true),
            (24, "internal/poll.runtime_pollWait", true),
            (24, "gosave_systemstack_switch", false),
            (22, "runtime.(*Func).Entry", false),
            (23, "runtime.(*Func).Entry", true),
            (23, "runtime.(*mheap).Alloc", false),
            (24, "runtime.Pinner.Pin", true),
            (24, "runtime.runFinalizers", false),
            (25, "runtime.runFinalizers", true),
            (27, "runtime.", false),
        ] {
            assert_eq!(Kind::of(name, minor).public, public, "Go 1.{minor} {name}");
        }
    }
}
