//! What the code at an address is and how a traceback prints it, remembered in a table of fixed size: the
//! goroutines of a program stand at a few hundred different places, however many they are.

pub(crate) mod kind;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::ops::Range;

use crate::arguments::Arguments;
use crate::memory::{Addr, Bias, Error, Image, Va};
use crate::moduledata::Module;
use crate::pclntab::{Frame, InlineTrees, Live, Pclntab, printed_name};
use crate::remembered::{Remember, Remembered};
use crate::runtime::{Owner, Runtime};
use crate::stack::{Physical, Place};
use kind::Kind;

/// What code is called that the program's own function table does not cover.
pub(crate) const ELSEWHERE: &str = "code in another module";
/// What code is called whose functions alone would take more text than may be remembered.
const TOO_LONG: &str = "code with too much text";

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
    /// What stands in the text at this place: the arguments of the function that the others were compiled
    /// into. Empty for those that cannot be known.
    arguments: (usize, Arguments),
    /// Whose a goroutine is that begins here.
    owner: Owner,
}

impl Remember for Known {
    type Key = (Addr, Meaning);

    fn key(&self) -> (Addr, Meaning) {
        (self.pc, self.meaning)
    }

    fn number((pc, meaning): (Addr, Meaning)) -> u64 {
        pc.0 ^ (meaning as u64) << 61
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.arguments.1.len() + self.frames.len() * size_of::<Shown>()
    }
}

impl Known {
    /// A part of the text, with the arguments if their place is in it.
    fn lines(&self, part: Range<usize>, at: Addr) -> Lines<'_> {
        let (place, arguments) = &self.arguments;
        let has = !arguments.is_empty() && part.contains(place);
        let middle = if has { *place } else { part.end };
        Lines {
            head: self.text.get(part.start..middle).unwrap_or_default(),
            arguments: has.then_some((arguments, at)),
            tail: self.text.get(middle..part.end).unwrap_or_default(),
        }
    }
}

/// Two lines of a traceback, with a place for arguments in the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines<'k> {
    /// Before them.
    pub(crate) head: &'k str,
    /// The arguments, and where they lie.
    pub(crate) arguments: Option<(&'k Arguments, Addr)>,
    /// After them.
    pub(crate) tail: &'k str,
}

/// The table.
pub struct Symbols {
    table: Pclntab,
    trees: InlineTrees,
    bias: Bias,
    /// Where the code is that the table covers.
    code: Range<Va>,
    minor: u16,
    wrapper_id: u8,
    known: Remembered<Known>,
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
    /// Bytes that a table takes.
    #[must_use]
    pub fn bytes(places: usize, text_max: usize) -> usize {
        Remembered::<Known>::bytes(places, text_max)
    }

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
        Ok(Symbols {
            table: runtime.pclntab,
            trees: module.inline_trees(elf, image, &layout.moduledata)?,
            bias: runtime.bias,
            code: runtime.code.clone(),
            minor: runtime.go.minor,
            wrapper_id: layout.wrapper_id,
            known: Remembered::new(places, text_max),
            text_max,
        })
    }

    /// What unwinding needs to know; `None` for code that Go's table does not know.
    pub(crate) fn place(&mut self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> Option<Place> {
        let slot = self.find(image, pc, meaning);
        let place = self.known.get(slot)?.place?;
        Some(Place { slot: u32::try_from(slot).unwrap_or(u32::MAX), ..place })
    }

    /// Whose a goroutine that starts at `pc` is: when that is outside of Go's table, the user's.
    pub(crate) fn owner(&mut self, image: &mut dyn Image, pc: Addr) -> Owner {
        self.known(image, pc, Meaning::Instruction).map_or(Owner::User, |known| known.owner)
    }

    /// Whether the code at `pc` is not the one that this table is of.
    pub(crate) fn is_elsewhere(&self, pc: Addr) -> bool {
        pc.0 != 0 && !self.code.contains(&pc.unbiased(self.bias))
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
        print: &mut dyn FnMut(Lines<'_>),
    ) {
        let (mut first, mut callee_panics) = (true, false);
        for frame in stack {
            let Some(known) = self.known_of(image, frame) else { continue };
            let mut begin = 0;
            for shown in &known.frames {
                let elided = shown.wrapper && !callee_panics;
                let visible = !elided && (shown.public || shown.gopanic && !first);
                if visible || show == Show::All {
                    print(known.lines(begin..shown.end, frame.arguments));
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
            let Some(known) = self.known_of(image, frame) else { continue };
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

    /// Which words of a frame are still in use.
    pub(crate) fn live(&self, image: &mut dyn Image, frame: &Physical) -> Result<Live, Error> {
        let pc = frame.pc.unbiased(self.bias);
        // Before its first instruction it has called nothing.
        let begins = self.table.entry(image, pc).is_ok_and(|entry| entry == pc);
        let at = if frame.stopped || begins { pc } else { Va(pc.0.saturating_sub(1)) };
        self.table.live(image, self.trees, at)
    }

    fn known(&mut self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> Option<&Known> {
        let slot = self.find(image, pc, meaning);
        self.known.get(slot)
    }

    /// What is known of where a frame goes on: still in the slot where unwinding has met it, as a rule.
    fn known_of(&mut self, image: &mut dyn Image, frame: &Physical) -> Option<&Known> {
        let meaning = if frame.stopped { Meaning::Instruction } else { Meaning::Return };
        let slot = usize::try_from(frame.slot).unwrap_or(usize::MAX);
        let slot = match self.known.get(slot) {
            Some(known) if known.key() == (frame.pc, meaning) => slot,
            _ => self.find(image, frame.pc, meaning),
        };
        self.known.get(slot)
    }

    /// The slot in which an address is known from now on.
    fn find(&mut self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> usize {
        self.known.find((pc, meaning)).unwrap_or_else(|at| {
            let known = self.look_up(image, pc, meaning);
            self.known.put(at, known);
            at
        })
    }

    fn look_up(&self, image: &mut dyn Image, pc: Addr, meaning: Meaning) -> Known {
        let mut known = Known {
            pc,
            meaning,
            place: None,
            frames: Box::default(),
            text: Box::default(),
            arguments: Default::default(),
            owner: Owner::User,
        };
        let va = pc.unbiased(self.bias);
        let Ok(code) = self.table.code(image, va) else {
            // Another module has brought it along (`runtime/symtab.go`, `moduledata.next`): a plugin. No name of
            // this module's is the right one.
            if self.is_elsewhere(pc) {
                describe_as(&mut known, ELSEWHERE);
            }
            return known;
        };
        let at = if meaning == Meaning::Instruction || va == code.entry { va } else { Va(va.0 - 1) };
        let offset = va.0 - code.entry.0;
        let outer = if meaning == Meaning::Creation {
            self.describe_creation(image, &mut known, at, offset)
        } else {
            self.describe(image, &mut known, at, offset)
        };
        let argument_bytes = known.arguments.1.reach();
        known.place = Some(Place { argument_bytes, ..outer.place(&code, self.bias) });
        known.owner = outer.owner;
        if known.bytes() > self.text_max {
            known.arguments = Default::default();
            describe_as(&mut known, TOO_LONG);
        }
        known
    }

    /// The functions at work at `at`, and the arguments of the outermost.
    fn describe(&self, image: &mut dyn Image, known: &mut Known, at: Va, offset: u64) -> Kind {
        let (mut text, mut frames, mut outer) = (String::new(), Vec::new(), Kind::default());
        let mut stands_at = at;
        if self.minor <= 20 {
            // It asked where the outermost inlined call stands (`runtime/traceback.go`, `tracepc`).
            let _ = self.table.frames(image, self.trees, at, |frame| stands_at = Va(frame.pc));
        }
        let arguments = self.table.arguments(image, self.trees, stands_at);
        let _ = self.table.frames(image, self.trees, at, |frame| {
            outer = Kind::of(&frame.function, self.minor);
            if text.len() > self.text_max {
                return; // all of it is given up
            }
            text += &printed_name(&frame.function, self.minor).concat();
            text.push('(');
            match &arguments {
                Ok(arguments) if !frame.inlined => known.arguments = (text.len(), arguments.clone()),
                _ => text += "...",
            }
            let _ = write!(text, ")\n\t{}:{}", frame.file, frame.line);
            end_line(&mut text, if frame.inlined { 0 } else { offset });
            let returns = Addr(Va(frame.pc).biased(self.bias).0.wrapping_add(1));
            frames.push(outer.shown(text.len(), returns, frame.id == self.wrapper_id));
        });
        (known.frames, known.text) = (frames.into_boxed_slice(), text.into_boxed_str());
        outer
    }

    /// Go names the function that a `go` statement was compiled into, with the statement's own line.
    fn describe_creation(&self, image: &mut dyn Image, known: &mut Known, at: Va, offset: u64) -> Kind {
        let (mut place, mut text, mut outer) = (String::new(), String::new(), Kind::default());
        let _ = self.table.frames(image, self.trees, at, |frame| {
            if place.is_empty() {
                let _ = write!(place, "\n\t{}:{}", frame.file, frame.line);
            }
            if !frame.inlined {
                outer = Kind::of(&frame.function, self.minor);
                text = printed_name(&frame.function, self.minor).concat();
            }
        });
        known.frames = Box::new([outer.shown(text.len(), known.pc, false)]);
        text += &place;
        end_line(&mut text, offset);
        known.text = text.into_boxed_str();
        outer
    }
}

/// Code of which the address is all that is shown.
fn describe_as(known: &mut Known, what: &str) {
    let text = format!("{what}\n\tpc={}\n", known.pc);
    let end = if known.meaning == Meaning::Creation { what.len() } else { text.len() };
    known.frames = Box::new([Kind { public: true, ..Kind::default() }.shown(end, known.pc, false)]);
    known.text = text.into_boxed_str();
}

/// ` +0x1d` where there is an offset, and the end of the line.
fn end_line(text: &mut String, offset: u64) {
    if offset > 0 {
        let _ = write!(text, " +{offset:#x}");
    }
    text.push('\n');
}
