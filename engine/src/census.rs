//! A census: all goroutines of a target grouped by creation site and what they wait for, in a table of
//! fixed size.

use alloc::vec::Vec;

use glg_proto::wire::Wait;

use crate::ages::Ages;
use crate::goroutines::{Goroutine, WalkStats, Walker};
use crate::memory::{Addr, Error, Image, Memory};
use crate::runtime::Runtime;

/// One `go` statement and one reason to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteKey {
    /// Return address of the `go` statement.
    pub gopc: Addr,
    /// What its goroutines wait for.
    pub wait: Wait,
}

/// How many goroutines stand at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteCount {
    /// Which site.
    pub key: SiteKey,
    /// Entry of the function that the first of them runs.
    pub startpc: Addr,
    /// How many.
    pub count: u32,
    /// Those that were seen before, and among them those that have not run since.
    known: u32,
    aged: u32,
    oldest_s: u32,
}

impl SiteCount {
    /// One in 256 goroutines that ran looks as if it had not (see [`Ages`]): fewer than one in so many of those
    /// that were seen before say nothing.
    const BY_CHANCE: u32 = 16;

    /// Seconds for which the oldest of their waits was seen; 0 when none is known.
    #[must_use]
    pub fn oldest_s(&self) -> u32 {
        if self.aged.saturating_mul(SiteCount::BY_CHANCE) >= self.known { self.oldest_s } else { 0 }
    }

    fn add(&mut self, age_s: Option<u32>) {
        self.count = self.count.saturating_add(1);
        self.known = self.known.saturating_add(u32::from(age_s.is_some()));
        self.aged = self.aged.saturating_add(u32::from(age_s.is_some_and(|age_s| age_s > 0)));
        self.oldest_s = self.oldest_s.max(age_s.unwrap_or(0));
    }
}

/// Which part of `allgs` a census looks at, and whose and when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taking {
    /// First place; `None` leaves it to the walk (see [`Walker::walk_from`]).
    pub from: Option<u64>,
    /// Places at most.
    pub limit: u64,
    /// The process and now, in seconds: with them it is noted since when goroutines wait.
    pub seen: Option<(u32, u32)>,
}

/// The last census taken. One table serves all targets; it never grows.
pub struct Census {
    /// Open addressing, sorted by count after [`Census::take`].
    slots: Vec<Option<SiteCount>>,
    sites: usize,
    ages: Ages,
    /// Goroutines whose site found no place in the table.
    pub other: u32,
    /// What the walk met.
    pub walk: WalkStats,
}

impl Census {
    /// Bytes that a table for `max_sites` takes.
    #[must_use]
    pub fn bytes(max_sites: usize) -> usize {
        slots_for(max_sites) * size_of::<Option<SiteCount>>()
    }

    /// An empty table for `max_sites` different sites.
    #[must_use]
    pub fn new(max_sites: usize) -> Census {
        Census::with_ages(max_sites, Ages::default())
    }

    /// The same, which also remembers since when goroutines wait.
    #[must_use]
    pub fn with_ages(max_sites: usize, ages: Ages) -> Census {
        let mut slots = Vec::new();
        slots.resize(slots_for(max_sites), None);
        Census { slots, sites: 0, ages, other: 0, walk: WalkStats::default() }
    }

    /// As [`Census::take_from`], of the part that is looked at when there are more goroutines than `limit`.
    ///
    /// # Errors
    /// As [`Walker::walk`]; the table is then empty.
    pub fn take(
        &mut self,
        walker: &mut Walker,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        image: &mut dyn Image,
        limit: u64,
    ) -> Result<(), Error> {
        self.take_from(walker, runtime, memory, image, Taking { from: None, limit, seen: None })
    }

    /// Walks over the goroutines of a target, and counts the users' own by site.
    ///
    /// # Errors
    /// As [`Walker::walk`]; the table is then empty.
    pub fn take_from(
        &mut self,
        walker: &mut Walker,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        image: &mut dyn Image,
        Taking { from, limit, seen }: Taking,
    ) -> Result<(), Error> {
        self.slots.fill(None);
        (self.sites, self.other) = (0, 0);
        let walked = walker.walk_from(runtime, memory, from, limit, |g| self.add(g, seen));
        self.walk = walked.inspect_err(|_| {
            self.slots.fill(None);
            (self.sites, self.other, self.walk) = (0, 0, WalkStats::default());
        })?;
        for slot in &mut self.slots {
            // A start function outside of Go's table is none of the runtime's: keep it.
            if slot.is_some_and(|s| runtime.is_system(image, s.startpc, s.key.wait).unwrap_or(false)) {
                *slot = None;
            }
        }
        // Occupied ones first, the largest first; equal ones in a fixed order.
        self.slots.sort_unstable_by_key(|slot| {
            slot.map_or((1, 0, Addr(0)), |s| (0, u32::MAX - s.count, s.key.gopc))
        });
        Ok(())
    }

    fn add(&mut self, g: &Goroutine, seen: Option<(u32, u32)>) {
        let age_s = seen.and_then(|(pid, now_s)| self.ages.see(pid, now_s, g));
        let key = SiteKey { gopc: g.gopc, wait: g.wait };
        // Three quarters full at most, so that a search always ends at an empty slot.
        let full = self.sites * 4 >= self.slots.len() * 3;
        let mask = self.slots.len() - 1;
        let mixed = (g.gopc.0 ^ (g.wait as u64) << 57).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut at = (mixed >> 32) as usize & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            match slot {
                Some(site) if site.key == key => {
                    site.add(age_s);
                    return;
                }
                Some(_) => at = (at + 1) & mask,
                None if full => break,
                None => {
                    let startpc = g.startpc;
                    let site = SiteCount { key, startpc, count: 0, known: 0, aged: 0, oldest_s: 0 };
                    slot.insert(site).add(age_s);
                    self.sites += 1;
                    return;
                }
            }
        }
        self.other = self.other.saturating_add(1);
    }

    /// Forgets since when the goroutines of a process wait that is no longer looked at.
    pub fn forget(&mut self, pid: u32) {
        self.ages.forget(pid);
    }

    /// Goroutines of which it is not known since when they wait, because there was no place left for them.
    #[must_use]
    pub fn untracked(&self) -> u64 {
        self.ages.untracked
    }

    /// The sites, the largest first.
    pub fn sites(&self) -> impl Iterator<Item = &SiteCount> {
        self.slots.iter().map_while(Option::as_ref)
    }

    /// Goroutines counted, those without a place included.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.sites().fold(self.other, |sum, site| sum.saturating_add(site.count))
    }

    /// How many stand at `key`.
    #[must_use]
    pub fn count(&self, key: SiteKey) -> u32 {
        self.sites().find(|site| site.key == key).map_or(0, |site| site.count)
    }
}

/// Places of an open table for so many entries, which leaves a quarter of them empty.
pub(crate) fn slots_for(max: usize) -> usize {
    (max.max(8) * 4 / 3 + 1).next_power_of_two()
}
