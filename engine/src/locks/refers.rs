//! Edges through Go: what a parked goroutine waits for, and which other goroutines could end that.
//!
//! Neither a channel nor a `sync.Mutex` says who will use it next. Who refers to it, could: its address is in a
//! word of the goroutine's stack that is still in use, or a few pointers away from there, or a function at work
//! there mentions the variable that holds it. That is a conclusion and no proof, and is marked as such.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use glg_proto::wire::Wait;

use super::threads::{OnThread, goroutine};
use crate::code::references;
use crate::gather::each_alone;
use crate::goroutines::Allgs;
use crate::heap::{self, Heap};
use crate::layout::{Layout, Status};
use crate::memory::{Addr, Error, Image, Memory, Va, le};
use crate::runtime::{Owner, Runtime};
use crate::stack::{Copied, End, Physical};
use crate::symbols::Symbols;
use crate::traces::{Answer, Target, follow, read_one};

/// Bytes of a stack looked at, from its innermost end.
const STACK_MAX: usize = 32 << 10;
/// Bytes of an object that are looked at.
const OBJECT_MAX: usize = 512;
/// Bytes of what lies on a stack itself that are looked at.
const ON_STACK: u64 = 64;
/// Pointers from a stack to the object, at most.
const STEPS: u32 = 3;
/// Bytes of a lock before its semaphore (`sync.RWMutex`).
const LOCK_BYTES: u64 = 16;
/// Pointers that are followed from one stack; with more, it may refer to anything.
const POINTERS_MAX: usize = 2048;
/// Frames of a stack that are looked at.
const FRAMES_MAX: usize = 256;
/// Places whose meaning is remembered while all stacks are looked at, and bytes of their text.
const PLACES: usize = 256;
const TEXT_BYTES: usize = 32 << 10;
/// Channels of one `select`.
const CASES_MAX: usize = 32;
/// Bytes of the innermost frames in which a semaphore's sudog is searched for, up to Go 1.25.
const PARK_BYTES: usize = 1024;
/// Functions of which is remembered whether they mention what is searched for.
const FUNCTIONS_MAX: usize = 1024;
/// Longest function that is read.
const CODE_MAX: u64 = 64 << 10;
/// No object lies below.
const LOWEST: u64 = 1 << 16;

/// What goroutines wait for: a channel, exactly; a lock, or what it is a member of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// `hchan`.
    Channel(Addr),
    /// The semaphore of a lock.
    Lock(Addr),
}

impl Object {
    /// Its address.
    #[must_use]
    pub fn at(self) -> Addr {
        match self {
            Object::Channel(at) | Object::Lock(at) => at,
        }
    }

    /// Whether a word is its address.
    fn is(self, word: u64) -> bool {
        match self {
            Object::Channel(at) => word == at.0,
            Object::Lock(at) => word <= at.0 && at.0 - word <= LOCK_BYTES,
        }
    }
}

/// What a parked goroutine waits for; empty when that is nothing of which it is known who could end it.
///
/// # Errors
/// [`Error::Gone`].
pub fn waits_for(
    runtime: &Runtime,
    memory: &mut dyn Memory,
    g: &OnThread,
) -> Result<heapless::Vec<Object, CASES_MAX>, Error> {
    let found = match wait_reason(runtime, memory, g) {
        Ok(Wait::ChanReceive | Wait::ChanSend | Wait::Select) => channels(runtime.layout, memory, g),
        Ok(
            Wait::MutexLock | Wait::RwMutexLock | Wait::RwMutexRLock | Wait::Semacquire | Wait::WaitGroupWait,
        ) => semaphore(runtime.layout, memory, g).map(|at| at.map(Object::Lock).into_iter().collect()),
        Ok(_) => Ok(heapless::Vec::new()),
        Err(error) => Err(error),
    };
    match found {
        Err(Error::Gone) => Err(Error::Gone),
        other => Ok(other.unwrap_or_default()),
    }
}

fn wait_reason(runtime: &Runtime, memory: &mut dyn Memory, g: &OnThread) -> Result<Wait, Error> {
    if !matches!(g.status, Status::Waiting | Status::Leaked) {
        return Ok(Wait::Running);
    }
    let mut reason = [0u8];
    memory.read(g.g.plus(runtime.layout.g.waitreason.into())?, &mut reason)?;
    Ok(runtime.layout.wait(reason[0]))
}

fn word(memory: &mut dyn Memory, at: Addr, offset: u16) -> Result<u64, Error> {
    memory.word(at.plus(offset.into())?)
}

fn channels(
    layout: &Layout,
    memory: &mut dyn Memory,
    g: &OnThread,
) -> Result<heapless::Vec<Object, CASES_MAX>, Error> {
    let mut found = heapless::Vec::new();
    let mut sudog = word(memory, g.g, layout.g.waiting)?;
    while sudog != 0 {
        let at = Addr(sudog);
        let channel = word(memory, at, layout.sudog.c)?;
        if word(memory, at, layout.sudog.g)? != g.g.0 || channel == 0 {
            return Err(Error::Malformed { what: "sudog", at: sudog });
        }
        if found.push(Object::Channel(Addr(channel))).is_err() {
            // Others could end it that are not known: nothing is concluded.
            return Ok(heapless::Vec::new());
        }
        sudog = word(memory, at, layout.sudog.waitlink)?;
    }
    Ok(found)
}

/// The semaphore that a goroutine waits for: of its sudog, which `g.waiting` names since Go 1.26, and before
/// that only the frames that wait.
fn semaphore(layout: &Layout, memory: &mut dyn Memory, g: &OnThread) -> Result<Option<Addr>, Error> {
    let own = word(memory, g.g, layout.g.waiting)?;
    if own != 0 {
        return element(layout, memory, g, Addr(own));
    }
    let mut stack = vec![0; PARK_BYTES];
    let used = stack_of(layout, memory, g, &mut stack)?;
    for pointer in stack.get(..used).unwrap_or_default().chunks_exact(8) {
        let pointer = le::u64(pointer, 0)?;
        if !is_pointer(pointer) {
            continue;
        }
        match element(layout, memory, g, Addr(pointer)) {
            Ok(None) => {}
            Err(Error::Gone) => return Err(Error::Gone),
            Err(_) => {}
            found => return found,
        }
    }
    Ok(None)
}

/// What the sudog at `at` is for, if it is one of this goroutine's.
fn element(layout: &Layout, memory: &mut dyn Memory, g: &OnThread, at: Addr) -> Result<Option<Addr>, Error> {
    if word(memory, at, layout.sudog.g)? != g.g.0 {
        return Ok(None);
    }
    let element = word(memory, at, layout.sudog.elem)?;
    Ok((element != 0).then_some(Addr(element)))
}

/// Fills in what there is of a stack that is in use, at most as much as there is room.
fn stack_of(layout: &Layout, memory: &mut dyn Memory, g: &OnThread, into: &mut [u8]) -> Result<usize, Error> {
    let (low, high) = (word(memory, g.g, layout.g.stack_lo)?, word(memory, g.g, layout.g.stack_hi)?);
    let implausible = Error::Malformed { what: "stack of a goroutine", at: g.g.0 };
    if !(low..high).contains(&g.sp.0) || !g.sp.0.is_multiple_of(8) {
        return Err(implausible);
    }
    let len = usize::try_from(high - g.sp.0).unwrap_or(usize::MAX).min(into.len());
    let into = into.get_mut(..len).ok_or(implausible)?;
    memory.read(g.sp, into)?;
    Ok(len)
}

fn is_pointer(word: u64) -> bool {
    word >= LOWEST && word.is_multiple_of(8)
}

/// Searches for the goroutines that refer to something; made for each search, because it is rare.
pub struct Referrers<'r> {
    runtime: &'r Runtime,
    heap: Heap,
    object: Object,
    /// What the object is a member of.
    whole: Option<heap::Object>,
    symbols: Symbols,
    stack: Vec<u8>,
    frames: Vec<Physical>,
    /// Functions by entry, and whether they mention what is searched for.
    functions: Vec<(Va, bool)>,
    /// Pointers that were followed from the stack at hand.
    followed: Vec<u64>,
    /// Where that is.
    own: Range<u64>,
}

impl<'r> Referrers<'r> {
    /// Searches for `object`.
    ///
    /// # Errors
    /// As [`Symbols::new`] and [`Heap::find`].
    pub fn new(
        runtime: &'r Runtime,
        memory: &mut dyn Memory,
        image: &mut dyn Image,
        object: Object,
    ) -> Result<Referrers<'r>, Error> {
        let symbols = Symbols::new(runtime, image, PLACES, TEXT_BYTES)?;
        let heap = Heap::find(runtime, memory, image)?;
        let whole = heap.object(runtime, memory, object.at())?;
        let (stack, frames, functions, followed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Referrers { runtime, heap, object, whole, symbols, stack, frames, functions, followed, own: 0..0 })
    }

    /// Calls `visit` for each goroutine of the user but `except` that refers to the object; `false` when there
    /// are more than `max` goroutines, and not all of them were looked at.
    ///
    /// # Errors
    /// [`Error::Gone`], or what the list of all goroutines could not be read for.
    pub fn find(
        &mut self,
        memory: &mut dyn Memory,
        image: &mut dyn Image,
        except: Addr,
        max: u64,
        visit: &mut dyn FnMut(&OnThread),
    ) -> Result<bool, Error> {
        let (mut places, mut bytes, mut pointers) = (Allgs::new(0, max), [0u8; 1024], Vec::new());
        while places.read(self.runtime, memory, &mut bytes, &mut pointers)? {
            for g in pointers.iter().map(|g| Addr(*g)).filter(|g| *g != except) {
                let found = match goroutine(self.runtime, memory, g) {
                    Ok(Some(found)) => found,
                    Err(Error::Gone) => return Err(Error::Gone),
                    Ok(None) | Err(_) => continue,
                };
                if self.refers(memory, image, &found)? {
                    visit(&found);
                }
            }
        }
        Ok(places.skipped == 0)
    }

    /// Whether a goroutine refers to the object, as far as its stack shows. Of what cannot be followed to its end
    /// that is assumed.
    fn refers(
        &mut self,
        memory: &mut dyn Memory,
        image: &mut dyn Image,
        g: &OnThread,
    ) -> Result<bool, Error> {
        let Some(traced) = read_one(memory, self.runtime.layout, g.g)? else { return Ok(false) };
        if self.symbols.owner(image, traced.startpc) != Owner::User {
            return Ok(false);
        }
        self.followed.clear();
        self.own = g.sp.0..g.sp.0.saturating_add(STACK_MAX as u64);
        let Some(run) = traced.head(STACK_MAX) else {
            return self.runs_with(memory, g);
        };
        let mut stack = core::mem::take(&mut self.stack);
        stack.resize(run.len, 0);
        each_alone(memory, &[run], &mut stack)?;
        let copied = Copied { at: run.at, bytes: &stack };
        let (runtime, symbols) = (self.runtime, &mut self.symbols);
        let mut target = Target { runtime, memory: &mut *memory, image: &mut *image, symbols };
        let answer = follow(&mut target, &traced, copied, FRAMES_MAX, &mut self.frames);
        let frames = core::mem::take(&mut self.frames);
        let mut found = Ok(!matches!(answer, Answer::Stack(End::Complete)));
        for frame in &frames {
            if found != Ok(false) {
                break;
            }
            found = self.frame_refers(memory, image, frame, copied);
        }
        (self.stack, self.frames) = (stack, frames);
        found
    }

    fn frame_refers(
        &mut self,
        memory: &mut dyn Memory,
        image: &mut dyn Image,
        frame: &Physical,
        stack: Copied<'_>,
    ) -> Result<bool, Error> {
        if self.mentions(memory, image, frame.pc) {
            return Ok(true);
        }
        let Ok(live) = self.symbols.live(image, frame) else { return Ok(true) };
        // Both architectures save two words between a frame's own and its arguments: the return address or
        // link register's place, and the frame pointer.
        let own = frame.arguments.0.wrapping_sub(16).wrapping_sub(8 * live.locals.len as u64);
        let words = live.locals.live().map(|i| own.wrapping_add(8 * i as u64));
        let arguments = live.arguments.live().map(|i| frame.arguments.0.wrapping_add(8 * i as u64));
        for at in words.chain(arguments) {
            // What lies beyond the copy belongs to no frame that was found in it.
            let Some(word) = stack.get(at, 8) else { continue };
            if self.leads_there(memory, le::u64(word, 0)?, STEPS)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One that runs has no frames that could be relied on: whatever is on its stack.
    fn runs_with(&mut self, memory: &mut dyn Memory, g: &OnThread) -> Result<bool, Error> {
        let layout = self.runtime.layout;
        let (low, high) = (word(memory, g.g, layout.g.stack_lo)?, word(memory, g.g, layout.g.stack_hi)?);
        let len = usize::try_from(high.saturating_sub(low)).unwrap_or(usize::MAX).min(STACK_MAX);
        let mut stack = vec![0; len];
        match memory.read(Addr(high.saturating_sub(len as u64)), &mut stack) {
            Err(Error::Gone) => return Err(Error::Gone),
            Err(_) => return Ok(true),
            Ok(()) => {}
        }
        for word in stack.chunks_exact(8) {
            if self.leads_there(memory, le::u64(word, 0)?, STEPS)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a pointer leads to the object in at most so many steps.
    fn leads_there(&mut self, memory: &mut dyn Memory, pointer: u64, steps: u32) -> Result<bool, Error> {
        if self.object.is(pointer) {
            return Ok(true);
        }
        if pointer < LOWEST {
            return Ok(false);
        }
        let found = match self.heap.object(self.runtime, memory, Addr(pointer))? {
            Some(found) => found,
            // What does not escape lies on the stack itself.
            None if self.own.contains(&pointer) => heap::Object { at: Addr(pointer), len: ON_STACK },
            None => return Ok(false),
        };
        if self.whole == Some(found) {
            return Ok(true);
        }
        if steps == 0 || self.followed.contains(&found.at.0) {
            return Ok(false);
        }
        if self.followed.len() >= POINTERS_MAX {
            return Ok(true);
        }
        self.followed.push(found.at.0);
        let mut bytes = [0u8; OBJECT_MAX];
        let len = usize::try_from(found.len).unwrap_or(OBJECT_MAX).min(OBJECT_MAX);
        let part = bytes.get_mut(..len).unwrap_or_default();
        match memory.read(found.at, part) {
            Err(Error::Gone) => return Err(Error::Gone),
            Err(_) => return Ok(false),
            Ok(()) => {}
        }
        for word in part.chunks_exact(8) {
            if self.leads_there(memory, le::u64(word, 0)?, steps - 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the function at `pc` mentions a variable that is the object, or holds its address.
    fn mentions(&mut self, memory: &mut dyn Memory, image: &mut dyn Image, pc: Addr) -> bool {
        let (runtime, object) = (self.runtime, self.object);
        let pc = Va(pc.unbiased(runtime.bias).0.saturating_sub(1));
        let Ok(extent) = runtime.pclntab.extent(image, pc) else { return false };
        let entry = extent.start;
        if let Some((_, known)) = self.functions.iter().find(|(known, _)| *known == entry) {
            return *known;
        }
        let mut variables: heapless::Vec<Va, 64> = heapless::Vec::new();
        let len = extent.end.0.saturating_sub(entry.0).min(CODE_MAX);
        let mut code = vec![0u8; usize::try_from(len).unwrap_or(0)];
        if runtime.code(image, entry, &mut code).is_err() {
            return false;
        }
        // The sweep ends where it meets what it does not know: what came before counts.
        let _ = references(runtime.layout.arch, entry, &code, &mut |found| {
            if !variables.contains(&found.at) {
                let _ = variables.push(found.at);
            }
        });
        let holds = |variable: Va, memory: &mut dyn Memory| {
            let at = variable.biased(runtime.bias);
            object.is(at.0) || word(memory, at, 0).is_ok_and(|word| object.is(word))
        };
        let known = variables.iter().any(|variable| holds(*variable, memory));
        if self.functions.len() < FUNCTIONS_MAX {
            self.functions.push((entry, known));
        }
        known
    }
}
