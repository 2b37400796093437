//! Which words of a stack are still in use: those that Go's own collector looks at, by the maps that the compiler has
//! left in the program's file (`runtime/mgcmark.go`, `scanstack`). What a call has left behind keeps nothing then.
//! What a frame has by address is in use when something that is in use has that address.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::memory::{Addr, Error, Image, Memory, Va, le};
use crate::pclntab::{InlineTrees, Maps, StackObject};
use crate::remembered::{Remember, Remembered};
use crate::runtime::Runtime;
use crate::stack::{Copied, End, Ends, Physical, Place, Start, unwind};
use crate::symbols::kind::Kind;

/// Places in code that are remembered.
const PLACES: usize = 4096;
/// Bytes of what is remembered of them, besides.
const WORDS_MAX: usize = 256 << 10;
/// Bytes of a `_defer` at most.
const DEFERRED_BYTES: usize = 256;
/// Frames of a stack, and calls that it has deferred.
const FRAMES_MAX: usize = 256;
const DEFERRED_MAX: usize = 256;
/// What the frames of a stack have by address.
const OBJECTS_MAX: usize = 1024;
/// Bytes between a frame's own words and its arguments: return address or link register, and frame pointer.
const SAVED: i32 = 16;

/// Words of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    /// Bytes from its arguments.
    from: i32,
    words: u32,
}

/// What is known of an address that calls return to.
struct Known {
    pc: Addr,
    place: Option<Place>,
    /// What of the frame is in use during such a call; `None` where that cannot be known.
    words: Option<Words>,
}

/// The words of a frame that may be in use.
struct Words {
    /// Those that are.
    live: Box<[Stretch]>,
    /// Those that it has by address.
    objects: Box<[Stretch]>,
}

/// Words that a frame has by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    at: u64,
    bytes: usize,
    reached: bool,
}

/// A stack of which what is in use may be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where its goroutine stands.
    pub start: Start,
    /// The innermost of its deferred calls.
    pub deferred: Addr,
    /// Where else its `g` leads to its stack, such as to a panic; 0 for nowhere.
    pub leads_to: [Addr; 4],
}

/// What is known of a program's frames.
pub struct Frames {
    known: Remembered<Known>,
    frames: Vec<Physical>,
    objects: Vec<Object>,
    queue: Vec<usize>,
}

/// Whose frames they are.
pub struct Program<'a> {
    /// Its Go runtime.
    pub runtime: &'a Runtime,
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its executable file.
    pub image: &'a mut dyn Image,
    /// Where the maps are.
    pub trees: InlineTrees,
}

impl Default for Frames {
    /// Of a program of which nothing is known yet.
    fn default() -> Frames {
        Frames {
            known: Remembered::new(PLACES, WORDS_MAX),
            frames: Vec::with_capacity(FRAMES_MAX),
            objects: Vec::new(),
            queue: Vec::new(),
        }
    }
}

impl Frames {
    /// Bytes that they take at most.
    pub(super) const BYTES: usize = Remembered::<Known>::bytes(PLACES, WORDS_MAX)
        + FRAMES_MAX * size_of::<Physical>()
        + OBJECTS_MAX * (size_of::<Object>() + size_of::<usize>());

    /// Calls `visit` with all words that are in use of a whole stack, from where its goroutine stands up to its end;
    /// `false` where not all of them can be known.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn in_use(
        &mut self,
        program: &mut Program<'_>,
        standing: Standing,
        stack: Copied<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Error> {
        let mut frames = core::mem::take(&mut self.frames);
        let (arch, start) = (program.runtime.layout.arch, standing.start);
        let unwound = unwind(arch, start, stack, FRAMES_MAX, &mut frames, &mut |pc| {
            let slot = self.find(program, pc);
            let place = self.known.get(slot)?.place?;
            Some(Place { slot: u32::try_from(slot).unwrap_or(u32::MAX), ..place })
        });
        let known = unwound.end == End::Complete
            && frames
                .last()
                .and_then(|last| self.of(last)?.place)
                .is_some_and(|last| last.ends == Ends::Always)
            && self.place_objects(&frames);
        let (mut objects, mut queue) = (core::mem::take(&mut self.objects), core::mem::take(&mut self.queue));
        queue.clear();
        let mut reached = Reached { stack, objects: &mut objects, queue: &mut queue, visit };
        let whole = known && frames.iter().all(|frame| self.live(frame, &mut reached)) && {
            standing.leads_to.iter().for_each(|at| reached.word(at.0));
            deferred(program, standing.deferred, &mut reached)? && reached.follow()
        };
        (self.frames, self.objects, self.queue) = (frames, objects, queue);
        Ok(whole)
    }

    /// Notes what all frames have by address; `false` where one of them is not known, or they have too much.
    fn place_objects(&mut self, frames: &[Physical]) -> bool {
        let mut objects = core::mem::take(&mut self.objects);
        objects.clear();
        let known = frames.iter().all(|frame| {
            let words = self.of(frame).and_then(|known| known.words.as_ref());
            words.is_some_and(|words| {
                let room = OBJECTS_MAX - objects.len();
                objects.extend(words.objects.iter().take(room).map(|stretch| {
                    let (at, bytes) = stretch.of(frame);
                    Object { at, bytes, reached: false }
                }));
                words.objects.len() <= room
            })
        });
        objects.sort_unstable();
        self.objects = objects;
        known
    }

    /// Visits the live words of a frame; `false` where they are not all in the copy.
    fn live(&self, frame: &Physical, reached: &mut Reached<'_, '_>) -> bool {
        let words = self.of(frame).and_then(|known| known.words.as_ref());
        words.is_some_and(|words| {
            words.live.iter().all(|stretch| {
                let (at, bytes) = stretch.of(frame);
                reached.words(at, bytes)
            })
        })
    }

    /// What is known of a frame, if it is still where unwinding has met it.
    fn of(&self, frame: &Physical) -> Option<&Known> {
        let known = self.known.get(usize::try_from(frame.slot).ok()?)?;
        (known.pc == frame.pc && !frame.stopped).then_some(known)
    }

    /// The slot in which an address is known from now on.
    fn find(&mut self, program: &mut Program<'_>, pc: Addr) -> usize {
        self.known.find(pc).unwrap_or_else(|at| {
            let known = look_up(program, pc).unwrap_or(Known { pc, place: None, words: None });
            self.known.put(at, known);
            at
        })
    }
}

impl Remember for Known {
    type Key = Addr;

    fn key(&self) -> Addr {
        self.pc
    }

    fn number(pc: Addr) -> u64 {
        pc.0
    }

    fn bytes(&self) -> usize {
        let stretches = |words: &Words| words.live.len() + words.objects.len();
        self.words.as_ref().map_or(0, stretches) * size_of::<Stretch>()
    }
}

impl Stretch {
    /// Where it is in a frame, and its bytes.
    fn of(&self, frame: &Physical) -> (u64, usize) {
        let at = frame.arguments.0.wrapping_add_signed(self.from.into());
        (at, usize::try_from(self.words).unwrap_or(usize::MAX).saturating_mul(8))
    }
}

/// What is reached of one stack.
struct Reached<'b, 'v> {
    stack: Copied<'b>,
    /// By address.
    objects: &'v mut Vec<Object>,
    /// Those reached whose words are still to be visited, each once.
    queue: &'v mut Vec<usize>,
    visit: &'v mut dyn FnMut(&[u8]),
}

impl Reached<'_, '_> {
    /// Visits words of the stack; `false` where they are not all in the copy.
    fn words(&mut self, at: u64, bytes: usize) -> bool {
        let Some(found) = self.stack.get(at, bytes) else { return false };
        (self.visit)(found);
        self.lead(found);
        true
    }

    /// Reaches what words lead to on the stack.
    fn lead(&mut self, words: &[u8]) {
        words.as_chunks::<8>().0.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
    }

    /// Reaches what a word leads to on the stack, if it does.
    fn word(&mut self, word: u64) {
        let end = self.stack.at.0.saturating_add(self.stack.bytes.len() as u64);
        if !(self.stack.at.0..end).contains(&word) {
            return;
        }
        let at = self.objects.partition_point(|object| object.at <= word).wrapping_sub(1);
        let Some(object) = self.objects.get_mut(at) else { return };
        if word - object.at < object.bytes as u64 && !core::mem::replace(&mut object.reached, true) {
            self.queue.push(at);
        }
    }

    /// Visits the words of what was reached, and of what these lead to.
    fn follow(&mut self) -> bool {
        while let Some(object) = self.queue.pop().and_then(|at| self.objects.get(at)).copied() {
            if !self.words(object.at, object.bytes) {
                return false;
            }
        }
        true
    }
}

/// What the program's file says of an address that a call returns to.
fn look_up(program: &mut Program<'_>, pc: Addr) -> Result<Known, Error> {
    let Program { runtime, image, trees, .. } = program;
    let (table, va) = (&runtime.pclntab, pc.unbiased(runtime.bias));
    let code = table.code(*image, va)?;
    let kind = Kind::of(&table.function(*image, va)?, runtime.go.minor);
    let place = kind.place(&code, runtime.bias);
    // Who was stopped at any instruction may have in use whatever is there; and nothing was called at the entry.
    let words = match code.frame_bytes {
        Some(bytes) if !place.injected && va != code.entry => {
            let own = bytes.saturating_sub(8);
            // What is too large, or makes no sense, is not known.
            table
                .maps(*image, *trees, Va(va.0.wrapping_sub(1)), own)
                .ok()
                .flatten()
                .and_then(|maps| words(&maps, own))
        }
        _ => None,
    };
    Ok(Known { pc, place: Some(place), words })
}

/// The words that these maps say may be in use, in as few stretches as possible; `None` for what makes no sense.
fn words(maps: &Maps, own: u32) -> Option<Words> {
    let locals = i32::try_from(maps.live.locals.len).ok()?.checked_mul(8)?.checked_add(SAVED)?;
    let mut live: Vec<Stretch> = Vec::new();
    let mut add = |base: i32, word: usize| {
        let from = i32::try_from(word).ok()?.checked_mul(8)?.checked_add(base)?;
        match live.last_mut() {
            Some(last) if i64::from(last.from) + 8 * i64::from(last.words) == from.into() => last.words += 1,
            _ => live.push(Stretch { from, words: 1 }),
        }
        Some(())
    };
    for word in maps.live.locals.live().filter(|_| own > 0) {
        add(-locals, word)?;
    }
    for word in maps.live.arguments.live() {
        add(0, word)?;
    }
    let object = |object: &StackObject| {
        let from = if object.offset < 0 { object.offset.checked_sub(SAVED)? } else { object.offset };
        Some(Stretch { from, words: object.size.div_ceil(8) })
    };
    let objects = maps.objects.iter().map(object).collect::<Option<Vec<_>>>()?;
    Some(Words { live: live.into_boxed_slice(), objects: objects.into_boxed_slice() })
}

/// Visits the deferred calls of a goroutine, which no map tells of: they are on its stack or on the heap, one after the
/// other as it comes, and those on the heap may lead back to the stack.
fn deferred(program: &mut Program<'_>, first: Addr, reached: &mut Reached<'_, '_>) -> Result<bool, Error> {
    let l = &program.runtime.layout.deferred;
    let (mut at, mut bytes) = (first.0, [0u8; DEFERRED_BYTES]);
    let Some(record) = bytes.get_mut(..l.size.into()) else { return Ok(false) };
    for _ in 0..DEFERRED_MAX {
        if at == 0 {
            return Ok(true);
        }
        (reached.visit)(&at.to_le_bytes());
        if let Some(found) = reached.stack.get(at, record.len()) {
            reached.words(at, found.len());
            at = le::u64(found, l.link.into())?;
            continue;
        }
        match program.memory.read(Addr(at), record) {
            Ok(()) => {}
            Err(Error::Unreadable { .. } | Error::Malformed { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        reached.lead(record);
        at = le::u64(record, l.link.into())?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xc000_1000;

    /// What is reached on a stack of these words, which has these objects (place in words, words), from these pointers.
    fn reached(words: &[u64], objects: &[(u64, usize)], from: &[u64]) -> (bool, Vec<u64>) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let object =
            |(at, words): &(u64, usize)| Object { at: BASE + 8 * at, bytes: 8 * words, reached: false };
        let (mut objects, mut queue): (Vec<_>, _) = (objects.iter().map(object).collect(), Vec::new());
        let mut seen = Vec::new();
        let mut reached = Reached {
            stack: Copied { at: Addr(BASE), bytes: &bytes },
            objects: &mut objects,
            queue: &mut queue,
            visit: &mut |words| {
                seen.extend(words.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
            },
        };
        from.iter().for_each(|at| reached.word(*at));
        (reached.follow(), seen)
    }

    #[test]
    fn what_has_an_address_is_in_use_if_the_address_is() {
        // An object of two words, one of one word that leads to it and to itself, and one that nobody knows.
        let words = [7, 1, 2, BASE + 8 * 2, BASE + 8 * 3, 9];
        let objects = [(1, 2), (3, 2), (5, 1)];
        assert_eq!(reached(&words, &objects, &[BASE + 8 * 4]), (true, [&words[3..5], &words[1..3]].concat()));
        assert_eq!(reached(&words, &objects, &[BASE + 8 * 2 + 7]), (true, words[1..3].to_vec()));
        // Nothing is there, or it is elsewhere.
        assert_eq!(reached(&words, &objects, &[BASE, BASE - 8, BASE + 8 * 6, 0]), (true, Vec::new()));
        // It is not all in the copy.
        assert_eq!(reached(&words, &[(5, 2)], &[BASE + 8 * 5]), (false, Vec::new()));
    }

    #[test]
    fn words_are_told_from_the_arguments_on() {
        let object = |offset, size| StackObject { offset, size };
        let maps = |objects| Maps { objects, ..Maps::default() };
        let found = words(&maps(alloc::vec![object(-24, 20), object(8, 8)]), 64).unwrap();
        let stretch = |from, words| Stretch { from, words };
        assert_eq!(*found.objects, [stretch(-40, 3), stretch(8, 1)]);
        assert!(words(&maps(alloc::vec![object(i32::MIN, 8)]), 64).is_none());
    }
}
