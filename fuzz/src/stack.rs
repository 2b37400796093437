//! Unwinding a stack whose memory is the input.
//!
//! The first bytes choose the architecture, the registers and how long the copy is; then follow [`PLACES`]
//! functions, each with its frame and its kind; what is left is the stack.

use glg_engine::layout::Arch;
use glg_engine::memory::Addr;
use glg_engine::stack::{Copied, End, Ends, Place, Start, unwind};

/// Functions, of 256 bytes each, at [`CODE`].
const PLACES: usize = 8;
const CODE: u64 = 0x40_0000;
const STACK: u64 = 0xc000_0000;
/// Bytes before the functions: architecture and kind, pc, sp, lr.
const HEAD: usize = 4;
/// Frames at most.
const FRAMES: usize = 64;

/// Any memory gives at most [`FRAMES`] frames, all in known code, and an end.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    let _ = run(data);
}

/// How it ended, and after how many frames; `None` for an input that is too short.
fn run(data: &[u8]) -> Option<(End, usize)> {
    let ([kind, pc, sp, lr], rest) = data.split_first_chunk::<HEAD>()?;
    let (places, bytes) = rest.split_first_chunk::<{ 2 * PLACES }>()?;
    let look = |pc: Addr| {
        let index = usize::try_from(pc.0.checked_sub(CODE)? >> 8).ok()?;
        let (frame, kind) = (*places.get(2 * index)?, *places.get(2 * index + 1)?);
        let frame_bytes = (kind & 0xc0 != 0xc0).then_some(u32::from(frame) << (kind >> 3 & 3));
        let ends = [Ends::No, Ends::Always, Ends::UnlessSyscall, Ends::No][usize::from(kind & 3)];
        Some(Place { entry: Addr(CODE + 256 * index as u64), frame_bytes, ends, injected: kind & 4 != 0 })
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
    let end = unwind(arch, start, copied, FRAMES, &mut frames, &mut |pc| look(pc));
    assert!(frames.len() <= FRAMES, "{} frames", frames.len());
    assert!(frames.iter().all(|frame| look(frame.pc).is_some()), "{frames:x?}");
    assert!(end != End::TooDeep || frames.len() == FRAMES, "{} frames are too many", frames.len());
    let again = unwind(arch, start, copied, FRAMES, &mut Vec::new(), &mut |pc| look(pc));
    assert_eq!(end, again, "the same memory unwinds twice in two ways");
    Some((end, frames.len()))
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
    let seed = |head: [u8; HEAD], words: &[(usize, u64)]| [&head[..], &places, &stack(words)].concat();
    let [user, exit, leaf] = [CODE + 0x105, CODE + 0x201, CODE + 0x407];
    vec![
        seed([0, 1, 0, 0], &[(0x20, user), (0x48, exit)]),
        seed([1, 1, 0, 0], &[(0, user), (0x20, exit)]),
        seed([0, 0x31, 0, 0], &[(0x10, leaf), (0x18, user), (0x40, exit)]),
        seed([1, 0x31, 0, 0], &[(0, leaf), (0x10, user), (0x20, exit)]),
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
        let well = |frames| Some((End::Complete, frames));
        assert_eq!(ends, [well(3), well(3), well(4), well(4), well(2), well(2)]);
    }

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = crate::mutate::Mutator::new(&seeds, 1, 1 << 10);
        let (mut complete, mut broken) = (0, 0);
        for _ in 0..2000 {
            match run(&mutator.next_input()) {
                Some((End::Complete, _)) => complete += 1,
                Some((End::Broken | End::More, _)) => broken += 1,
                _ => {}
            }
        }
        assert!(complete > 200 && broken > 200, "{complete} complete, {broken} broken");
    }
}
