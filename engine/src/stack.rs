//! A goroutine's call stack out of a copy of its memory, as Go's own unwinder finds it
//! (`runtime/traceback.go`, `unwinder`): by the size of each function's frame.
//!
//! Frame pointers would give the same for most, but not for goroutines in system calls before Go 1.23, which
//! saved none; the sizes are needed anyway, and what code is at an address is remembered.

use alloc::vec::Vec;

use crate::layout::Arch;
use crate::memory::Addr;

/// `sys.MinFrameSize` rounded up to `sys.StackAlign` on arm64: what an injected call pushes.
const INJECTED: u64 = 16;

/// Where a goroutine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Program counter.
    pub pc: Addr,
    /// Stack pointer.
    pub sp: Addr,
    /// Link register, 0 where there is none.
    pub lr: u64,
    /// Whether they were saved on the way into a system call or into C.
    pub syscall: bool,
}

/// A copied piece of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'b> {
    /// Where its first byte was.
    pub at: Addr,
    /// Its bytes.
    pub bytes: &'b [u8],
}

/// What is known of the code at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Entry of its function.
    pub entry: Addr,
    /// Size of its stack frame there, in bytes; `None` for foreign code, where a stack ends.
    pub frame_bytes: Option<u32>,
    /// Whether the stack ends here.
    pub ends: Ends,
    /// Whether it is a call that the runtime injected: `sigpanic`, `asyncPreempt`, `debugCallV2`. What is
    /// above it was stopped at an instruction, not in a call.
    pub injected: bool,
    /// Whether what is above it is shown as stopped: all that is injected since Go 1.21, before that `sigpanic`.
    pub traps: bool,
    /// Bytes of its arguments that a traceback prints.
    pub argument_bytes: u16,
    /// Where this was remembered: no more than a hint.
    pub slot: u32,
}

/// Whether a stack ends with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It does not.
    No,
    /// Nothing calls it.
    Always,
    /// It switches to another stack, unless it was left for a system call.
    UnlessSyscall,
}

/// A function's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Physical {
    /// Where it goes on.
    pub pc: Addr,
    /// Whether it was stopped at that very instruction; else `pc` is where a call returns to.
    pub stopped: bool,
    /// Where its arguments lie: `argp` of `runtime/stkframe.go`.
    pub arguments: Addr,
    /// That of its [`Place`].
    pub slot: u32,
}

/// What unwinding came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwound {
    /// How it ended.
    pub end: End,
    /// Where the last of the arguments ends: what is printed of the frames lies below.
    pub reach: u64,
}

/// How unwinding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the function that the goroutine started with.
    Complete,
    /// The copy ended.
    More,
    /// There are more frames than allowed.
    TooDeep,
    /// The memory contradicts itself, or leads into unknown code.
    Broken,
}

impl<'b> Copied<'b> {
    /// `len` bytes of it; `None` when they are not all in it.
    pub(crate) fn get(&self, at: u64, len: usize) -> Option<&'b [u8]> {
        let from = usize::try_from(at.checked_sub(self.at.0)?).ok()?;
        self.bytes.get(from..from.checked_add(len)?)
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.get(at, 8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

/// Unwinds from `start` into `frames`, at most `max` of them; `look` says what is at an address, `None` for no
/// known code.
pub fn unwind(
    arch: Arch,
    start: Start,
    stack: Copied<'_>,
    max: usize,
    frames: &mut Vec<Physical>,
    look: &mut dyn FnMut(Addr) -> Option<Place>,
) -> Unwound {
    frames.clear();
    let mut reach = 0;
    let end = steps(arch, start, stack, max, look, &mut |frame, argument_bytes| {
        if argument_bytes > 0 {
            reach = reach.max(frame.arguments.0.saturating_add(argument_bytes.into()));
        }
        frames.push(frame);
    });
    Unwound { end, reach }
}

/// Calls `visit` with each frame and the bytes of its arguments.
fn steps(
    arch: Arch,
    start: Start,
    stack: Copied<'_>,
    mut max: usize,
    look: &mut dyn FnMut(Addr) -> Option<Place>,
    visit: &mut dyn FnMut(Physical, u16),
) -> End {
    let link = arch == Arch::Arm64;
    let Some(mut at) = Cursor::first(start, stack, link) else { return End::More };
    loop {
        let Some(place) = look(Addr(at.pc)) else { return End::Broken };
        let Some(frame_bytes) = place.frame_bytes else { return End::Complete };
        if max == 0 {
            return End::TooDeep;
        }
        max -= 1;
        // On amd64 the return address lies above the frame, pushed by the call; on arm64 below the arguments.
        let above = u64::from(frame_bytes) + if link { 0 } else { 8 };
        let Some(fp) = at.sp.checked_add(above) else { return End::Broken };
        let arguments = Addr(if link { fp.saturating_add(8) } else { fp });
        let frame = Physical { pc: Addr(at.pc), stopped: at.stopped, arguments, slot: place.slot };
        visit(frame, place.argument_bytes);
        let in_syscall = at.innermost && start.syscall;
        if place.ends == Ends::Always || place.ends == Ends::UnlessSyscall && !in_syscall {
            return End::Complete;
        }
        at = match at.caller(place, fp, stack, link, look) {
            Ok(caller) => caller,
            Err(end) => return end,
        };
    }
}

/// Where unwinding stands.
struct Cursor {
    pc: u64,
    sp: u64,
    /// Link register; 0 where it is not known.
    lr: u64,
    innermost: bool,
    /// As [`Physical::stopped`].
    stopped: bool,
}

impl Cursor {
    /// The innermost frame.
    fn first(start: Start, stack: Copied<'_>, link: bool) -> Option<Cursor> {
        let (pc, sp) = (start.pc.0, start.sp.0);
        let (pc, sp, lr) = match pc {
            // A call of a nil function: its caller is what can be shown.
            0 => (stack.word(sp)?, if link { sp } else { sp.saturating_add(8) }, 0),
            _ => (pc, sp, if link { start.lr } else { 0 }),
        };
        Some(Cursor { pc, sp, lr, innermost: true, stopped: false })
    }

    /// What has called the code at `place`, whose frame ends at `fp`; else how unwinding ends with it.
    fn caller(
        &self,
        place: Place,
        fp: u64,
        stack: Copied<'_>,
        link: bool,
        look: &mut dyn FnMut(Addr) -> Option<Place>,
    ) -> Result<Cursor, End> {
        let mut pc = self.lr;
        if pc == 0 || (link && self.innermost && self.sp < fp) {
            pc = stack.word(if link { self.sp } else { fp - 8 }).ok_or(End::More)?;
        }
        if pc == 0 {
            return Err(End::Complete);
        }
        if self.pc == pc && self.sp == fp {
            return Err(End::Broken);
        }
        let mut caller = Cursor { pc, sp: fp, lr: 0, innermost: false, stopped: place.traps };
        if link && place.injected {
            // The link register of what was stopped lies on the stack.
            let saved = stack.word(fp).ok_or(End::More)?;
            caller.sp = fp.saturating_add(INJECTED);
            match look(Addr(pc)) {
                None => caller.pc = saved,
                Some(Place { frame_bytes: Some(0), .. }) => caller.lr = saved,
                Some(_) => {}
            }
        }
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const STACK: u64 = 0xc000_1000;
    const PARK: u64 = 0x1000;
    const USER: u64 = 0x2000;
    const EXIT: u64 = 0x3000;
    const PREEMPT: u64 = 0x4000;
    const LEAF: u64 = 0x5000;

    /// Functions of 0x1000 bytes; their frames have 0x20 bytes, that of `LEAF` none.
    fn look(pc: Addr) -> Option<Place> {
        let entry = Addr(pc.0 & !0xfff);
        let frame_bytes = match entry.0 {
            PARK | USER | PREEMPT => 0x20,
            EXIT | LEAF => 0,
            _ => return None,
        };
        let ends = if entry.0 == EXIT { Ends::Always } else { Ends::No };
        let injected = entry.0 == PREEMPT;
        let argument_bytes = if entry.0 == USER { 8 } else { 0 };
        let frame_bytes = Some(frame_bytes);
        Some(Place { entry, frame_bytes, ends, injected, traps: injected, argument_bytes, slot: 0 })
    }

    fn stack(words: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0u8; 0x100];
        for (at, word) in words {
            let at = usize::try_from(*at).unwrap();
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn run(arch: Arch, pc: u64, lr: u64, bytes: &[u8]) -> (End, Vec<(u64, bool)>) {
        let start = Start { pc: Addr(pc), sp: Addr(STACK), lr, syscall: false };
        let mut frames = Vec::new();
        let copied = Copied { at: Addr(STACK), bytes };
        let unwound = unwind(arch, start, copied, 8, &mut frames, &mut look);
        let arguments = frames.iter().filter(|f| f.pc.0 & !0xfff == USER).map(|f| f.arguments.0 + 8);
        assert_eq!(unwound.reach, arguments.max().unwrap_or(0));
        (unwound.end, frames.iter().map(|f| (f.pc.0, f.stopped)).collect())
    }

    #[test]
    fn arguments_lie_above_the_return_address_or_the_link_register() {
        for (arch, bytes, at) in [
            (Arch::Amd64, stack(&[(0x20, USER + 5), (0x48, EXIT + 1)]), 0x50),
            (Arch::Arm64, stack(&[(0, USER + 5), (0x20, EXIT + 1)]), 0x48),
        ] {
            let start = Start { pc: Addr(PARK + 9), sp: Addr(STACK), lr: 0, syscall: false };
            let mut frames = Vec::new();
            let copied = Copied { at: Addr(STACK), bytes: &bytes };
            let unwound = unwind(arch, start, copied, 8, &mut frames, &mut look);
            assert_eq!(frames[1].arguments, Addr(STACK + at), "{arch:?}");
            assert_eq!(unwound, Unwound { end: End::Complete, reach: STACK + at + 8 }, "{arch:?}");
        }
    }

    #[test]
    fn a_parked_goroutine() {
        let bytes = stack(&[(0x20, USER + 5), (0x48, EXIT + 1)]);
        let frames = vec![(PARK + 9, false), (USER + 5, false), (EXIT + 1, false)];
        assert_eq!(run(Arch::Amd64, PARK + 9, 0, &bytes), (End::Complete, frames.clone()));
        let bytes = stack(&[(0, USER + 5), (0x20, EXIT + 1)]);
        assert_eq!(run(Arch::Arm64, PARK + 9, 0xbad, &bytes), (End::Complete, frames));
    }

    #[test]
    fn one_that_has_not_run_yet() {
        // At its entry the frame is still empty: the return address is on the stack or in the link register.
        let frames = vec![(LEAF, false), (EXIT + 1, false)];
        assert_eq!(run(Arch::Amd64, LEAF, 0, &stack(&[(0, EXIT + 1)])), (End::Complete, frames.clone()));
        assert_eq!(run(Arch::Arm64, LEAF, EXIT + 1, &stack(&[])), (End::Complete, frames));
    }

    #[test]
    fn one_that_was_stopped_in_a_leaf() {
        let bytes = stack(&[(0x20, LEAF + 7), (0x28, USER + 5), (0x50, EXIT + 1)]);
        let frames = vec![(PREEMPT + 9, false), (LEAF + 7, true), (USER + 5, false), (EXIT + 1, false)];
        assert_eq!(run(Arch::Amd64, PREEMPT + 9, 0, &bytes), (End::Complete, frames.clone()));
        // The leaf's own return address is the link register that the injected call pushed.
        let bytes = stack(&[(0, LEAF + 7), (0x20, USER + 5), (0x30, EXIT + 1)]);
        assert_eq!(run(Arch::Arm64, PREEMPT + 9, 0, &bytes), (End::Complete, frames));
    }

    #[test]
    fn damage_ends_it() {
        assert_eq!(run(Arch::Amd64, 0x9000, 0, &[]).0, End::Broken);
        assert_eq!(run(Arch::Amd64, PARK + 9, 0, &[0; 0x20]).0, End::More);
        assert_eq!(run(Arch::Amd64, PARK + 9, 0, &stack(&[(0x20, 0x9999)])).0, End::Broken);
        // A leaf that returns into itself would never end.
        assert_eq!(run(Arch::Arm64, LEAF + 4, LEAF + 4, &stack(&[])).0, End::Broken);
        let endless = [USER + 5; 32].map(u64::to_le_bytes).concat();
        assert!(matches!(run(Arch::Amd64, USER + 5, 0, &endless).0, End::More | End::TooDeep));
    }
}
