//! Unwinding a stack whose memory is the input, and printing the arguments that lie in it.
//!
//! The first bytes choose the architecture, the registers and which arguments are dead; then follow [`PLACES`]
//! functions, each with its frame and its kind; the last [`INFO`] bytes say what the arguments are; what is left
//! is the stack.

use glg_engine::arguments::{Arguments, Liveness};
use glg_engine::layout::Arch;
use glg_engine::memory::Addr;
use glg_engine::stack::{Copied, End, Ends, Physical, Place, Start, Unwound, unwind};

/// Functions, of 256 bytes each, at [`CODE`].
const PLACES: usize = 8;
const CODE: u64 = 0x40_0000;
const STACK: u64 = 0xc000_0000;
/// Bytes before the functions: architecture and kind, pc, sp, lr, first argument in a register, live ones.
const HEAD: usize = 6;
/// Bytes of what is said of the arguments.
const INFO: usize = 48;
/// Bytes of arguments that can be reached: the largest offset and a word.
const REACH: u16 = 0xfa + 8;
/// Longest text of one byte of description.
const TEXT: usize = ", 0xffffffffffffffff?".len();
/// Frames at most.
const FRAMES: usize = 64;

/// Any memory gives at most [`FRAMES`] frames, all in known code, and an end; any description of arguments a
/// text that is not longer than it can be.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    let _ = run(data);
}

/// How it ended, after how many frames, and the arguments of the last; `None` for an input that is too short.
fn run(data: &[u8]) -> Option<(End, usize, Option<String>)> {
    let ([kind, pc, sp, lr, first, live], rest) = data.split_first_chunk::<HEAD>()?;
    let (places, rest) = rest.split_first_chunk::<{ 2 * PLACES }>()?;
    let (bytes, info) = rest.split_last_chunk::<INFO>()?;
    let live = (kind & 8 != 0).then_some(Liveness { first: *first, bits: core::slice::from_ref(live) });
    let arguments = Arguments::parse(info, live);
    let argument_bytes = arguments.as_ref().map_or(0, Arguments::reach);
    assert!(argument_bytes <= REACH, "{argument_bytes} bytes of arguments");
    let look = |pc: Addr| {
        let index = usize::try_from(pc.0.checked_sub(CODE)? >> 8).ok()?;
        let (frame, kind) = (*places.get(2 * index)?, *places.get(2 * index + 1)?);
        let frame_bytes = (kind & 0xc0 != 0xc0).then_some(u32::from(frame) << (kind >> 3 & 3));
        let ends = [Ends::No, Ends::Always, Ends::UnlessSyscall, Ends::No][usize::from(kind & 3)];
        let (entry, injected) = (Addr(CODE + 256 * index as u64), kind & 4 != 0);
        Some(Place { entry, frame_bytes, ends, injected, traps: injected, argument_bytes, slot: 0 })
    };
    let arch = if kind & 1 == 0 { Arch::Amd64 } else { Arch::Arm64 };
    let at = |byte: u8| if byte == 0 { 0 } else { CODE + 16 * u64::from(byte) };
    let start = Start {
        pc: Addr(at(*pc)),
        sp: Addr(if kind & 4 == 0 { STACK + u64::from(*sp) } else { u64::MAX - u64::from(*sp) }),
        lr: at(*lr),
        syscall: kind & 2 != 0,
    };
    let mut frames = Vec::new();
    let copied = Copied { at: Addr(STACK), bytes };
    let unwound = unwind(arch, start, copied, FRAMES, &mut frames, &mut |pc| look(pc));
    let end = unwound.end;
    assert!(frames.len() <= FRAMES, "{} frames", frames.len());
    assert!(frames.iter().all(|frame| look(frame.pc).is_some()), "{frames:x?}");
    assert!(end != End::TooDeep || frames.len() == FRAMES, "{} frames are too many", frames.len());
    let again = unwind(arch, start, copied, FRAMES, &mut Vec::new(), &mut |pc| look(pc));
    assert_eq!(unwound, again, "the same memory unwinds twice in two ways");
    let text = arguments.map(|arguments| printed(&arguments, copied, &frames, unwound));
    Some((end, frames.len(), text))
}

/// What is printed of the last frame's arguments, and as well of the others.
fn printed(arguments: &Arguments, copied: Copied<'_>, frames: &[Physical], unwound: Unwound) -> String {
    let mut last = String::new();
    for frame in frames {
        let mut text = String::new();
        assert!(arguments.write(frame.arguments, copied, &mut text).is_ok(), "text cannot be written");
        assert!(text.len() <= INFO * TEXT, "{} bytes of text", text.len());
        assert!(text.chars().all(|c| "0123456789abcdefx{}_?., ".contains(c)), "{text:?}");
        let end = frame.arguments.0.saturating_add(arguments.reach().into());
        assert!(arguments.reach() == 0 || end <= unwound.reach, "{end:#x} beyond {:#x}", unwound.reach);
        last = text;
    }
    last
}

/// Stacks that end well, on both architectures.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let places = [0x20, 0, 0x20, 0, 0, 1, 0x10, 4, 0, 0, 0x20, 2, 0x40, 0, 8, 0x40];
    let stack = |words: &[(usize, u64)]| {
        let mut bytes = vec![0u8; 0x180];
        for (at, word) in words {
            bytes[*at..*at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    };
    // f(a, struct{b uint8, c [n]uint16}, d), d too far away; a is dead.
    let mut info = [0u8; INFO];
    info[..13].copy_from_slice(&[0, 8, 0xfe, 8, 1, 10, 2, 0xfc, 0xfd, 0xfb, 0xfc, 16, 4]);
    info[13..15].copy_from_slice(&[0xff, 0]);
    let seed = |head: [u8; 4], words: &[(usize, u64)]| {
        [&head[..], &[0, 0b110], &places, &stack(words), &info].concat()
    };
    let [user, exit, leaf] = [CODE + 0x105, CODE + 0x201, CODE + 0x407];
    vec![
        seed([0, 1, 0, 0], &[(0x20, user), (0x48, exit)]),
        seed([1, 1, 0, 0], &[(0, user), (0x20, exit)]),
        seed([8, 0x31, 0, 0], &[(0x10, leaf), (0x18, user), (0x40, exit)]),
        seed([9, 0x31, 0, 0], &[(0, leaf), (0x10, user), (0x20, exit)]),
        seed([2, 0x51, 0, 0], &[(0x20, exit)]),
        seed([1, 0x41, 0, 0x21], &[]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_end_well() {
        let ends: Vec<_> = seeds().iter().map(|seed| run(seed)).collect();
        let well = |frames, text: &str| Some((End::Complete, frames, Some(text.to_owned())));
        let live = "0x0, {0x0, 0x0, ...}, _, ..., 0x0";
        let dead = "0x0?, {0x0, 0x0, ...}, _, ..., 0x0?";
        let frames = [(3, live), (3, live), (4, dead), (4, dead), (2, live), (2, live)];
        assert_eq!(ends, frames.map(|(frames, text)| well(frames, text)));
    }

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = crate::mutate::Mutator::new(&seeds, 1, 1 << 10);
        let (mut complete, mut broken, mut printed) = (0, 0, 0);
        for _ in 0..2000 {
            let Some((end, _, text)) = run(&mutator.next_input()) else { continue };
            match end {
                End::Complete => complete += 1,
                End::Broken | End::More => broken += 1,
                End::TooDeep => {}
            }
            printed += u32::from(text.is_some_and(|text| !text.is_empty()));
        }
        assert!(complete > 200 && broken > 200, "{complete} complete, {broken} broken");
        assert!((200..2000).contains(&printed), "{printed} with arguments");
    }
}
