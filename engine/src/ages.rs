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
    /// Bumped when it stops running: while this stays, so does the wait.
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

    /// Takes note of a goroutine of process `pid`, seen at second `now_s`; says for how many seconds it has been
    /// seen in the same wait. One that ran in between has begun a new one.
    pub fn see(&mut self, pid: u32, now_s: u32, g: &Goroutine) -> u32 {
        let new = Seen { goid: g.goid, pid, since_s: now_s, last_s: now_s, wait: g.wait, ran: g.ran };
        let buckets = (self.slots.len() / WAYS) as u64;
        let mixed = (g.goid ^ u64::from(pid) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let first = usize::try_from(mixed.checked_rem(buckets).unwrap_or(0)).unwrap_or(0) * WAYS;
        let Some(bucket) = self.slots.get_mut(first..first + WAYS) else {
            self.untracked += 1;
            return 0;
        };
        let mut known = bucket.iter_mut().flatten();
        if let Some(seen) = known.find(|seen| (seen.goid, seen.pid) == (g.goid, pid)) {
            let same = (seen.wait, seen.ran) == (g.wait, g.ran);
            *seen = Seen { since_s: if same { seen.since_s } else { now_s }, ..new };
            return now_s.saturating_sub(seen.since_s);
        }
        match bucket.iter_mut().min_by_key(|slot| slot.map_or(0, |seen| seen.last_s)) {
            Some(slot) if slot.is_none_or(|seen| seen.last_s < now_s) => *slot = Some(new),
            Some(_) | None => self.untracked += 1,
        }
        0
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
        assert_eq!(ages.see(1, 100, &waits), 0);
        assert_eq!(ages.see(1, 160, &waits), 60);
        assert_eq!(ages.see(2, 160, &waits), 0, "another process");
        assert_eq!(ages.see(1, 170, &g(7, Wait::ChanSend, 2)), 0, "it ran");
        assert_eq!(ages.see(1, 175, &g(7, Wait::Select, 2)), 0, "it waits for something else");
        assert_eq!(ages.see(1, 180, &g(7, Wait::Select, 2)), 5);
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
        assert_eq!(ages.see(1, 101, &g(5000, Wait::ChanSend, 0)), 0);
        assert_eq!(ages.see(1, 103, &g(5000, Wait::ChanSend, 0)), 2);
        assert_eq!(ages.untracked, lost);
        assert_eq!(Ages::default().see(1, 1, &g(1, Wait::Select, 0)), 0);
    }
}
