//! All goroutines of a program at one look, and which of them only another one could wake.

use alloc::vec;
use alloc::vec::Vec;

use glg_proto::wire::Wait;

use super::{Abstained, Stop, held};
use crate::gather::Gather;
use crate::goroutines::Allgs;
use crate::layout::{Layout, Status};
use crate::memory::{Addr, Error, Memory, Run, le};
use crate::runtime::Runtime;

/// `g`s read in one go, and places of `allgs`.
const BATCH: usize = 256;
/// Bytes of a `g` at most.
pub(super) const G_MAX: usize = 1024;
const PLACES: usize = 1024;
/// Bytes at the beginning of a `g` that say where its stack is: none of them keeps anything in use, and the end of
/// a stack is as good as the address of what lies behind it.
const HEAD: usize = 32;

/// What a goroutine is to a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Nobody.
    Dead,
    /// It runs, or may do so by itself: what it refers to is in use.
    Live,
    /// It goes on only when what it waits for is used.
    Waits,
    /// Likewise, but what that is is not known, or anybody may use it: it counts as live.
    Open,
}

/// A `g` as it was at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) g: Addr,
    pub(super) goid: u64,
    /// Where it stands when it does not run.
    pub(super) sp: u64,
    /// The first sudog of its wait.
    pub(super) waiting: u64,
    /// Return address of the `go` statement.
    pub(super) gopc: u64,
    /// Bytes of its stack that are in use.
    pub(super) depth: u32,
    /// Second of the runtime's clock by which it waited already; 0 when the runtime has not seen it.
    pub(super) since_s: u32,
    /// The lower half of its creator's number: two of the same hide that one has ended, which is the safe side.
    pub(super) parent: u32,
    pub(super) role: Role,
    pub(super) wait: Wait,
    /// Bumped when it stops running; wraps.
    pub(super) ran: u8,
    pub(super) status: Status,
}

impl Seen {
    /// Whether it has not run and waits as before. That the collector has moved its stack is no difference.
    pub(super) fn is_as(&self, before: &Seen) -> bool {
        self.is_parked_as(before) && self.stands() && before.stands()
    }

    /// Likewise, whatever it waits for: goroutines of the runtime's own wait for the collector, and some of them work
    /// meanwhile.
    pub(super) fn is_parked_as(&self, before: &Seen) -> bool {
        let what = |seen: &Seen| (seen.g, seen.goid, seen.wait, seen.ran, seen.depth, seen.waiting);
        // Set once in each wait (`markroot`), and to zero by whoever lets it run (`execute`); `ran` wraps.
        let noted = before.since_s == 0 || self.since_s == before.since_s;
        what(self) == what(before) && noted && self.is_parked() && before.is_parked()
    }

    /// Whether it does not run until it is woken.
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.status, Status::Waiting | Status::Leaked)
    }

    /// Whether it waits, be it for another goroutine or for something else.
    pub(super) fn stands(&self) -> bool {
        self.waits() || matches!(self.wait, Wait::IoWait | Wait::Sleep)
    }

    /// Whether the runtime itself says that it is leaked.
    pub(super) fn leaked(&self) -> bool {
        self.status == Status::Leaked
    }

    /// Whether only another goroutine can wake it.
    pub(super) fn waits(&self) -> bool {
        matches!(self.role, Role::Waits | Role::Open)
    }
}

/// The part of a goroutine's stack that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InUse {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Reads all `g`s.
pub(super) struct Crowd {
    pub(super) all: Vec<Seen>,
    pointers: Vec<u64>,
    runs: Vec<Run>,
    gather: Gather,
    places: Vec<u8>,
}

impl Crowd {
    pub(super) fn new() -> Crowd {
        Crowd {
            all: Vec::new(),
            pointers: Vec::with_capacity(PLACES),
            runs: Vec::with_capacity(BATCH),
            gather: Gather::new(BATCH, 2 * BATCH * G_MAX),
            places: vec![0; PLACES * 8],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        held(&self.all) + Gather::bytes(BATCH, 2 * BATCH * G_MAX) + PLACES * 16
    }

    /// Reads every `g` anew into `all`, by address.
    pub(super) fn look(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        limit: u64,
    ) -> Result<(), Stop> {
        let mut all = core::mem::take(&mut self.all);
        all.clear();
        let read = self.each(runtime, memory, limit, &mut |seen| all.push(*seen));
        all.sort_unstable_by_key(|seen| seen.g);
        all.dedup_by_key(|seen| seen.g);
        self.all = all;
        read
    }

    /// Calls `visit` for every `g`.
    pub(super) fn each(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        limit: u64,
        visit: &mut dyn FnMut(&Seen),
    ) -> Result<(), Stop> {
        let mut places = Allgs::new(0, limit);
        let size = usize::from(runtime.layout.g.size);
        while places.read(runtime, memory, &mut self.places, &mut self.pointers)? {
            self.pointers.sort_unstable();
            for batch in self.pointers.chunks(BATCH) {
                self.runs.clear();
                self.runs.extend(batch.iter().map(|g| Run { at: Addr(*g), len: size }));
                self.gather.read(memory, &self.runs)?;
                for (i, g) in batch.iter().enumerate() {
                    visit(&decode(runtime, Addr(*g), self.gather.get(i))?.0);
                }
            }
        }
        if places.skipped > 0 { Err(Stop::Abstained(Abstained::Goroutines)) } else { Ok(()) }
    }

    /// What is at this address, by its place in `all`.
    pub(super) fn place(&self, g: u64) -> Option<usize> {
        self.all.binary_search_by_key(&Addr(g), |seen| seen.g).ok()
    }
}

/// Sets to zero what in a `g` refers to no object.
pub(super) fn blank(layout: &Layout, record: &mut [u8]) {
    let l = &layout.g;
    let words = [l.sched_sp, l.sched_pc, l.sched_bp, l.syscallsp, l.syscallpc];
    let words = words.into_iter().map(|at| usize::from(at)..usize::from(at) + 8);
    for part in words.chain(core::iter::once(0..HEAD)) {
        if let Some(part) = record.get_mut(part) {
            part.fill(0);
        }
    }
}

/// What the record of a `g` says.
pub(super) fn decode(runtime: &Runtime, g: Addr, record: &[u8]) -> Result<(Seen, InUse), Error> {
    let (layout, l) = (runtime.layout, &runtime.layout.g);
    let word = |offset: u16| le::u64(record, offset.into());
    let torn = Error::Malformed { what: "goroutine", at: g.0 };
    let status = Status::from_raw(le::u32(record, l.atomicstatus.into())?).ok_or(torn)?;
    let reason = le::u8(record, l.waitreason.into())?;
    let (low, high, sp) = (word(l.stack_lo)?, word(l.stack_hi)?, word(l.sched_sp)?);
    let syscall = word(l.syscallsp)?;
    let wait = match status {
        Status::Waiting | Status::Leaked => layout.wait(reason),
        _ => Wait::Other,
    };
    let role = match status {
        _ if status.is_dead() => Role::Dead,
        _ if waits_for_others(layout, wait, reason) => Role::Waits,
        _ => Role::Live,
    };
    // What is below is dead; where that is cannot be known of one that runs.
    let from = match status {
        Status::Running | Status::CopyStack => low,
        _ if syscall != 0 => syscall.min(sp),
        Status::Syscall => low,
        _ => sp,
    };
    let from = if (low..high).contains(&from) { from } else { low };
    let (from, to) = if status.is_dead() { (0, 0) } else { (from, high) };
    let seen = Seen {
        g,
        goid: word(l.goid)?,
        sp,
        waiting: word(l.waiting)?,
        gopc: word(l.gopc)?,
        depth: u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX),
        // Rounded up, so that nobody has waited for longer than he has.
        since_s: u32::try_from(word(l.waitsince)?.div_ceil(1_000_000_000)).unwrap_or(u32::MAX),
        parent: lower_half(l.parent_goid.map_or(Ok(0), word)?),
        role,
        wait,
        ran: le::u8(record, l.tracking_seq.into())?,
        status,
    };
    Ok((seen, InUse { from, to }))
}

/// Of a goroutine's number.
#[allow(clippy::cast_possible_truncation, reason = "that is what is wanted")]
pub(super) fn lower_half(goid: u64) -> u32 {
    goid as u32
}

/// Whether only another goroutine can end a wait, and it can be known which: waits for the network, for a time,
/// in a test's bubble or of the runtime's own end by other means.
fn waits_for_others(layout: &Layout, wait: Wait, reason: u8) -> bool {
    let text = layout.wait_texts.get(usize::from(reason)).copied().unwrap_or_default();
    match wait {
        _ if text.ends_with(" (durable)") || text.ends_with(" (synctest)") => false,
        Wait::ChanReceive | Wait::ChanSend | Wait::Select => true,
        Wait::ChanReceiveNil | Wait::ChanSendNil | Wait::SelectNoCases => true,
        Wait::MutexLock | Wait::RwMutexLock | Wait::RwMutexRLock => true,
        Wait::WaitGroupWait | Wait::CondWait => true,
        // Since Go 1.26 none of the user's locks has this name any more.
        Wait::Semacquire => layout.sudog.elem_vp.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_once_more_has_run() {
        let seen = |since_s| Seen {
            g: Addr(0xc000_0000),
            goid: 7,
            sp: 0xc000_1f00,
            waiting: 0,
            gopc: 0x40_1000,
            depth: 0x100,
            since_s,
            parent: 1,
            role: Role::Waits,
            wait: Wait::ChanReceive,
            ran: 3,
            status: Status::Waiting,
        };
        // Nobody has noted yet that it waits, or somebody has now.
        assert!(seen(0).is_as(&seen(0)) && seen(90).is_as(&seen(0)) && seen(90).is_as(&seen(90)));
        // After 256 stops it has the number that it had, but not the time.
        assert!(!seen(0).is_as(&seen(90)) && !seen(91).is_as(&seen(90)));
        // The collector may move its stack.
        assert!(Seen { sp: 0xc000_2f00, ..seen(0) }.is_as(&seen(0)));
    }
}
