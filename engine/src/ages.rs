//! Since when goroutines have stood where they stand, as far as we ourselves have seen it: the runtime notes the
//! begin of a wait only at the second garbage collection after it (`runtime/mgcmark.go`, `waitsince`), and many a
//! program seldom collects.

use alloc::vec::Vec;

use crate::goroutines::Goroutine;
use glg_proto::wire::Wait;

/// Places in which a goroutine may be remembered.
const WAYS: usize = 4;

/// A goroutine as it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    goid: u64,
    pid: u32,
    since_s: u32,
    last_s: u32,
    wait: Wait,
    /// Bumped when it stops running, so while the wait lasts it stays. It has eight bits: one in 256 new waits has
    /// the same.
    ran: u8,
}

/// A table that never grows. Who was not seen for longest gives way; who finds no place is counted.
#[derive(Debug, Default)]
pub struct Ages {
    slots: Vec<Option<Seen>>,
    /// Goroutines whose age is not known, because others were seen just as lately.
    pub untracked: u64,
}

impl Ages {
    /// Bytes that a table for `goroutines` takes.
    #[must_use]
    pub const fn bytes(goroutines: usize) -> usize {
        goroutines.next_multiple_of(WAYS) * size_of::<Option<Seen>>()
    }

    /// An empty table for `goroutines`.
    #[must_use]
    pub fn new(goroutines: usize) -> Ages {
        let mut slots = Vec::new();
        slots.resize(goroutines.next_multiple_of(WAYS), None);
        Ages { slots, untracked: 0 }
    }

    /// Takes note of a goroutine of process `pid`, seen at second `now_s`. If it was seen before, says for how many
    /// seconds it has stood in the same wait: 0 when it ran in between and has begun a new one.
    ///
    /// Of goroutines in system calls no age is known: see [`crate::traces`].
    pub fn see(&mut self, pid: u32, now_s: u32, g: &Goroutine) -> Option<u32> {
        if g.wait == Wait::Syscall {
            return None;
        }
        let new = Seen { goid: g.goid, pid, since_s: now_s, last_s: now_s, wait: g.wait, ran: g.ran };
        let buckets = (self.slots.len() / WAYS) as u64;
        let mixed = (g.goid ^ u64::from(pid) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let first = usize::try_from(mixed.checked_rem(buckets).unwrap_or(0)).unwrap_or(0) * WAYS;
        let Some(bucket) = self.slots.get_mut(first..first + WAYS) else {
            self.untracked += 1;
            return None;
        };
        let mut known = bucket.iter_mut().flatten();
        if let Some(seen) = known.find(|seen| (seen.goid, seen.pid) == (g.goid, pid)) {
            let same = (seen.wait, seen.ran) == (g.wait, g.ran);
            *seen = Seen { since_s: if same { seen.since_s } else { now_s }, ..new };
            return Some(now_s.saturating_sub(seen.since_s));
        }
        match bucket.iter_mut().min_by_key(|slot| slot.map_or(0, |seen| seen.last_s)) {
            Some(slot) if slot.is_none_or(|seen| seen.last_s < now_s) => *slot = Some(new),
            Some(_) | None => self.untracked += 1,
        }
        None
    }

    /// Forgets the goroutines of a process that is no longer looked at: another one may get its number.
    pub fn forget(&mut self, pid: u32) {
        for slot in &mut self.slots {
            slot.take_if(|seen| seen.pid == pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Status;
    use crate::memory::Addr;

    fn g(goid: u64, wait: Wait, ran: u8) -> Goroutine {
        Goroutine { g: Addr(1), goid, status: Status::Waiting, wait, gopc: Addr(2), startpc: Addr(3), ran }
    }

    #[test]
    fn a_wait_is_as_old_as_it_was_first_seen() {
        let mut ages = Ages::new(64);
        let waits = g(7, Wait::ChanSend, 1);
        assert_eq!(ages.see(1, 100, &waits), None);
        assert_eq!(ages.see(1, 160, &waits), Some(60));
        assert_eq!(ages.see(2, 160, &waits), None, "another process");
        assert_eq!(ages.see(1, 170, &g(7, Wait::ChanSend, 2)), Some(0), "it ran");
        assert_eq!(ages.see(1, 175, &g(7, Wait::Select, 2)), Some(0), "it waits for something else");
        assert_eq!(ages.see(1, 180, &g(7, Wait::Select, 2)), Some(5));
    }

    #[test]
    fn a_process_with_the_number_of_a_forgotten_one_has_no_past() {
        let mut ages = Ages::new(64);
        for pid in [1, 2] {
            ages.see(pid, 100, &g(7, Wait::ChanSend, 1));
        }
        ages.forget(1);
        assert_eq!(ages.see(1, 160, &g(7, Wait::ChanSend, 1)), None);
        assert_eq!(ages.see(2, 160, &g(7, Wait::ChanSend, 1)), Some(60));
    }

    #[test]
    fn system_calls_have_no_age() {
        let mut ages = Ages::new(64);
        for now_s in [100, 160] {
            assert_eq!(ages.see(1, now_s, &g(7, Wait::Syscall, 1)), None);
        }
    }

    #[test]
    fn it_never_grows_and_counts_who_finds_no_place() {
        let mut ages = Ages::new(64);
        for goid in 0..1000 {
            ages.see(1, 100, &g(goid, Wait::ChanSend, 0));
        }
        assert_eq!(ages.slots.len(), 64);
        assert!(ages.untracked >= 1000 - 64);
        // Who was seen before gives way to who is there now.
        let lost = ages.untracked;
        assert_eq!(ages.see(1, 101, &g(5000, Wait::ChanSend, 0)), None);
        assert_eq!(ages.see(1, 103, &g(5000, Wait::ChanSend, 0)), Some(2));
        assert_eq!(ages.untracked, lost);
        assert_eq!(Ages::default().see(1, 1, &g(1, Wait::Select, 0)), None);
    }
}
