//! What a `g` says of its goroutine, and which system call that is in.
//!
//! A goroutine that came back from one system call and went into another may leave no trace in its `g`: since Go
//! 1.26 `trackingSeq` is not bumped there (`reentersyscall` of runtime/proc.go changes the status by itself). But its
//! `m` then has another `syscalltick`, or has it of another `p` (`oldp`: each counts by itself), and has both before the
//! status says that it is in the call. So these are read before the `g` and again after the `g` was read again: they are
//! the same only if all that was read in between was read during this one call.

use glg_proto::wire::Wait;

use super::G_MAX;
use crate::gather::each_alone;
use crate::goroutines::{has_origin, wait};
use crate::layout::{Arch, Layout, Status};
use crate::memory::{Addr, Error, Memory, Run, le};
use crate::stack::Start;

/// A goroutine as its `g` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Goroutine id.
    pub goid: u64,
    /// What it does.
    pub status: Status,
    /// Go's number for what it waits for: see [`Layout::wait_texts`].
    pub reason: u8,
    /// The same in our words.
    pub wait: Wait,
    /// When it was first seen blocked by the garbage collector, on the runtime's clock; 0 before.
    pub since: u64,
    /// Whether it is locked to a thread.
    pub locked: bool,
    /// Which goroutine created it; 0 before Go 1.21.
    pub parent: u64,
    /// Return address of the `go` statement; 0 for a thread of C that called into Go.
    pub gopc: Addr,
    /// Entry of the function it runs; 0 as before.
    pub startpc: Addr,
    /// The `m` that runs it, if one does.
    m: Addr,
    /// Where it stands; `None` while it runs.
    pub(super) start: Option<Start>,
    pub(super) stack: [u64; 2],
    ran: u8,
}

pub(crate) fn read_one(memory: &mut dyn Memory, layout: &Layout, g: Addr) -> Result<Option<Traced>, Error> {
    let mut bytes = [0u8; G_MAX];
    let record = bytes.get_mut(..record_bytes(layout)).unwrap_or_default();
    each_alone(memory, &[Run { at: g, len: record.len() }], record)?;
    Ok(decode(layout, record))
}

/// `m.syscalltick` and then `m.oldp` as they stand there.
pub(crate) type Tick = [u8; 12];

/// Reads a `g`; of one in a system call also which that is, and this before. `None` when it has ended.
pub(crate) fn read_still(
    memory: &mut dyn Memory,
    layout: &Layout,
    g: Addr,
) -> Result<Option<(Traced, Option<Tick>)>, Error> {
    let Some(first) = read_one(memory, layout, g)? else { return Ok(None) };
    if !first.in_syscall() {
        return Ok(Some((first, None)));
    }
    let tick = syscalltick(memory, layout, &first)?;
    // Of one that is elsewhere by now it is not known; that never is what is found in the end.
    Ok(read_one(memory, layout, g)?.map(|now| (now, tick.filter(|_| now == first))))
}

/// Reads a `g` once more, and says whether its goroutine stood still all the time since [`read_still`] read it as
/// `before`. `None` when it has ended.
pub(crate) fn read_again(
    memory: &mut dyn Memory,
    layout: &Layout,
    g: Addr,
    before: &(Traced, Option<Tick>),
) -> Result<Option<(Traced, bool)>, Error> {
    let Some(now) = read_one(memory, layout, g)? else { return Ok(None) };
    let tick = syscalltick(memory, layout, &now)?;
    let still = now == before.0 && tick == before.1 && tick.is_some() == now.in_syscall();
    Ok(Some((now, still)))
}

/// Which system call a goroutine is in, as its `m` says; `None` of one that is in none.
fn syscalltick(memory: &mut dyn Memory, layout: &Layout, g: &Traced) -> Result<Option<Tick>, Error> {
    if !g.in_syscall() {
        return Ok(None);
    }
    let mut tick = Tick::default();
    let member = |offset: u16, len| Run { at: Addr(g.m.0.saturating_add(offset.into())), len };
    let members = [member(layout.m.syscalltick, 4), member(layout.m.oldp, 8)];
    match memory.read_runs(&members, &mut tick) {
        Ok(()) => Ok(Some(tick)),
        Err(Error::Unreadable { .. } | Error::Malformed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of a `g` up to the last member that is looked at.
pub(super) fn record_bytes(layout: &Layout) -> usize {
    let g = &layout.g;
    let last = [g.sched_bp, g.syscallpc, g.lockedm, g.gopc, g.startpc, g.parent_goid.unwrap_or(0)];
    (usize::from(last.into_iter().max().unwrap_or(0)) + 8).min(G_MAX)
}

pub(super) fn raw_status(layout: &Layout, record: &[u8]) -> Option<Status> {
    le::u32(record, layout.g.atomicstatus.into()).ok().and_then(Status::from_raw)
}

/// `None` for what is no live goroutine, or contradicts itself.
pub(super) fn decode(layout: &Layout, record: &[u8]) -> Option<Traced> {
    let l = &layout.g;
    let word = |offset: u16| le::u64(record, offset.into()).ok();
    let status = raw_status(layout, record).filter(|status| !status.is_dead())?;
    let (goid, gopc) = (word(l.goid)?, word(l.gopc)?);
    let startpc = word(l.startpc)?;
    if goid == 0 || !has_origin(gopc, startpc) {
        return None;
    }
    let stack = [word(l.stack_lo)?, word(l.stack_hi)?];
    let (pc, sp) = (word(l.syscallpc)?, word(l.syscallsp)?);
    // `unwinder.initAt`, `tracebackothers`. One on its way into a system call or out of it still runs.
    let start = match status {
        Status::Running | Status::CopyStack => None,
        _ if sp != 0 => Some(Start { pc: Addr(pc), sp: Addr(sp), lr: 0, syscall: true }),
        Status::Syscall => None,
        _ => Some(scheduled(layout, record)?),
    };
    let reason = le::u8(record, l.waitreason.into()).ok()?;
    let start = start.filter(|start| (stack[0]..stack[1]).contains(&start.sp.0));
    Some(Traced {
        goid,
        status,
        reason,
        wait: wait(layout, status, reason),
        since: word(l.waitsince)?,
        locked: word(l.lockedm)? != 0,
        parent: l.parent_goid.and_then(word).unwrap_or(0),
        m: Addr(word(l.m)?),
        gopc: Addr(gopc),
        startpc: Addr(startpc),
        start,
        stack,
        ran: le::u8(record, l.tracking_seq.into()).ok()?,
    })
}

/// Where a goroutine goes on that does not run: `g.sched`.
pub(crate) fn scheduled(layout: &Layout, record: &[u8]) -> Option<Start> {
    let l = &layout.g;
    let word = |offset: u16| le::u64(record, offset.into()).ok();
    // gobuf.lr stands before gobuf.bp; amd64 has none.
    let lr = if layout.arch == Arch::Arm64 { word(l.sched_bp.checked_sub(8)?)? } else { 0 };
    Some(Start { pc: Addr(word(l.sched_pc)?), sp: Addr(word(l.sched_sp)?), lr, syscall: false })
}

impl Traced {
    pub(super) fn in_syscall(&self) -> bool {
        self.start.is_some_and(|start| start.syscall)
    }

    /// Where it stands; `None` while it runs.
    pub(crate) fn start(&self) -> Option<Start> {
        self.start
    }

    /// The lowest `bytes` of its stack that are in use.
    pub(crate) fn head(&self, bytes: usize) -> Option<Run> {
        let at = self.start?.sp;
        let left = usize::try_from(self.stack[1].checked_sub(at.0)?).unwrap_or(usize::MAX);
        Some(Run { at, len: bytes.min(left) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::layout_for;

    const G: u64 = 0x10_0000;
    const M: u64 = 0x20_0000;

    /// A goroutine in a system call, whose m has this tick of this p; they grow by `step` at each look at the `g`.
    struct InCall {
        layout: &'static Layout,
        tick: u32,
        p: u64,
        step: (u32, u64),
    }

    impl Memory for InCall {
        fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
            let (l, m, at) = (&self.layout.g, &self.layout.m, runs[0].at.0);
            if at == M + u64::from(m.syscalltick) {
                let members = [Run { at: Addr(at), len: 4 }, Run { at: Addr(M + u64::from(m.oldp)), len: 8 }];
                assert_eq!(runs, members);
                out[..4].copy_from_slice(&self.tick.to_le_bytes());
                out[4..].copy_from_slice(&self.p.to_le_bytes());
                return Ok(());
            }
            assert_eq!((runs.len(), runs[0].len), (1, out.len()));
            assert_eq!(at, G);
            out.fill(0);
            let mut word = |at: u16, word: u64| {
                out[at.into()..usize::from(at) + 8].copy_from_slice(&word.to_le_bytes());
            };
            for (at, value) in [(l.stack_lo, 0x1000), (l.stack_hi, 0x2000), (l.m, M), (l.goid, 7)] {
                word(at, value);
            }
            for (at, value) in [(l.syscallsp, 0x1800), (l.syscallpc, 0x40_0000), (l.gopc, 0x40_0100)] {
                word(at, value);
            }
            word(l.startpc, 0x40_0200);
            // _Gsyscall
            out[usize::from(l.atomicstatus)] = 3;
            (self.tick, self.p) = (self.tick + self.step.0, self.p + self.step.1);
            Ok(())
        }
    }

    #[test]
    fn the_next_system_call_is_not_the_one_before() {
        let all = (19..=27).flat_map(|minor| [Arch::Amd64, Arch::Arm64].map(|arch| layout_for(minor, arch)));
        for layout in all.flatten() {
            let look = |step| {
                let memory = &mut InCall { layout, tick: 40, p: 0x30_0000, step };
                let before = read_still(memory, layout, Addr(G)).unwrap().unwrap();
                assert!(before.0.in_syscall() && before.1.is_some());
                read_again(memory, layout, Addr(G), &before).unwrap().unwrap()
            };
            assert!(look((0, 0)).1, "{}", layout.go);
            for step in [(1, 0), (0, 8)] {
                let (now, still) = look(step);
                assert!(now.in_syscall() && !still, "{}: {step:?}", layout.go);
            }
        }
    }
}
