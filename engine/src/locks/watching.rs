//! The threads of one target over time: waits and their age, and what is worth an alert.
//!
//! A look costs a little for each thread, so it is taken only when a wait has lasted for a while; and what it
//! finds is told only when the next look finds the same.

use heapless::Vec;

use super::graph::{Cycle, Node};
use super::mutex::{Kind, Owner, may_be_lock};
use super::scan::{Figures, LockLimits, Scan, Subject, Tid, Waiter, Whose};
use crate::detector::{BUCKETS, GrowthRule, rises};
use crate::memory::{Addr, Error};

/// Waits whose age is known; the oldest are kept.
const WAITS_MAX: usize = 32;
/// Of so many ticks one asks for all threads and believes nothing that is remembered, the others ask only for those
/// outside of Go. Divides 256.
const ALL_EVERY: u8 = 16;
/// Findings that are remembered, so that they are told once.
const TOLD_MAX: usize = 8;

/// Ticks that are looked back at for locks that are fought for.
const TICKS: u32 = 10;
/// In so many of them at least somebody has to wait for a lock, that something is suspected.
const FOUGHT_MIN: u32 = 5;
/// A wait counts as part of a fight in so many ticks, then as one that is stuck: fewer than it takes for a suspicion.
const FRESH_TICKS: u8 = 4;

/// What is worth an alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LockConfig {
    /// Bounds of a look.
    pub limits: LockLimits,
    /// Age of a wait, in milliseconds, from which on it is asked whether it will ever end.
    pub deadlock_ms: u64,
    /// Age of a wait, in milliseconds, from which on it is told in any case.
    pub wait_ms: u64,
    /// Milliseconds before the same is told again.
    pub remind_ms: u64,
    /// When threads that do not come back are more and more.
    pub threads: GrowthRule,
    /// Whether and how long it is measured how locks are waited for; `None`: never.
    pub contention: Option<ContentionConfig>,
}

/// Limits of an observation of locks that are fought for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentionConfig {
    /// Milliseconds observed.
    pub millis: u64,
    /// Per cent of that time for which a lock has to be waited for, all waits together, to be told.
    pub percent: u32,
    /// Per cent of one core.
    pub budget_percent: f64,
}

/// A wait as it was first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    tid: Tid,
    word: Addr,
    switches: u64,
    since_ms: u64,
    /// Whether the kernel was asked since when: it is not, for a wait that is gone by the next tick.
    asked: bool,
    /// Whether it may be for a lock.
    lock: bool,
    /// Ticks in which it was seen.
    ticks: u8,
}

/// Something worth an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// They wait for each other.
    Deadlock {
        /// Who.
        cycle: Cycle,
        /// For how long at least, in milliseconds.
        age_ms: u64,
    },
    /// A lock is waited for very long, or its owner has ended.
    Wait {
        /// The one that has waited longest.
        waiter: Waiter,
        /// How many wait for the same lock.
        waiters: u16,
        /// For how long at least, in milliseconds.
        age_ms: u64,
    },
    /// More and more threads do not come back.
    Threads {
        /// How many are away now.
        away: u32,
        /// How many were at the start of the window.
        baseline: u32,
    },
}

/// The threads of one target over time.
#[derive(Clone, Debug, Default)]
pub struct LockWatch {
    waits: Vec<Seen, WAITS_MAX>,
    /// Under which name the scan remembers these waits and others, with more of each.
    whose: Option<Whose>,
    ticks: u8,
    /// Waits whose age is not known, because there are too many.
    pub untold: u64,
    looked_ms: u64,
    /// What the last look found.
    found: Vec<u64, TOLD_MAX>,
    told: Vec<(u64, u64), TOLD_MAX>,
    trend: Trend,
    /// A bit for each of the last ticks, the last one first: whether somebody waited for a lock, and not for long yet.
    fought: u16,
}

/// What a tick saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// What the threads do.
    pub figures: Figures,
    /// Age of the oldest wait, in milliseconds.
    pub oldest_ms: u64,
}

impl LockWatch {
    /// Glances at the threads and says how long the waits have lasted.
    ///
    /// # Errors
    /// As [`Scan::glance`].
    pub fn tick(
        &mut self,
        now_ms: u64,
        scan: &mut Scan,
        subject: &mut Subject<'_>,
        config: &LockConfig,
    ) -> Result<Ticked, Error> {
        self.ticks = self.ticks.wrapping_add(1);
        let whose = *self.whose.get_or_insert_with(|| scan.newcomer());
        let waited = |tid| self.waits.iter().any(|seen| seen.tid == tid);
        scan.glance_again(subject, config.limits, whose, self.ticks % ALL_EVERY == 1, &waited)?;
        let waits = |seen: &Seen| scan.waiters.iter().any(|waiter| seen.is(waiter));
        self.waits.retain(waits);
        for seen in self.waits.iter_mut().filter(|seen| !seen.asked) {
            seen.asked = true;
            let blocked_ms = subject.threads.blocked_ms(seen.tid).unwrap_or(0);
            seen.since_ms = seen.since_ms.min(now_ms.saturating_sub(blocked_ms));
        }
        for waiter in &scan.waiters {
            if self.waits.iter().any(|seen| seen.is(waiter)) {
                continue;
            }
            let (tid, word, switches) = (waiter.tid, waiter.futex.word, waiter.switches);
            let lock = may_be_lock(&waiter.futex, waiter.call.sp);
            let seen = Seen { tid, word, switches, since_ms: now_ms, asked: false, lock, ticks: 0 };
            let full = self.waits.push(seen).is_err();
            self.untold += u64::from(full);
        }
        let mut fought = false;
        for seen in &mut self.waits {
            seen.ticks = seen.ticks.saturating_add(1);
            fought |= seen.lock && seen.ticks <= FRESH_TICKS;
        }
        self.fought = self.fought << 1 | u16::from(fought);
        self.trend.add(now_ms, scan.figures.away, config.threads.window_s);
        let oldest = self.waits.iter().map(|seen| now_ms.saturating_sub(seen.since_ms)).max();
        Ok(Ticked { figures: scan.figures, oldest_ms: oldest.unwrap_or(0) })
    }

    /// Says what there is to tell, after a tick; one thing at a time.
    ///
    /// # Errors
    /// As [`Scan::look`].
    pub fn finding(
        &mut self,
        now_ms: u64,
        ticked: Ticked,
        scan: &mut Scan,
        subject: &mut Subject<'_>,
        config: &LockConfig,
    ) -> Result<Option<Finding>, Error> {
        if let Some(baseline) = self.trend.rise(config.threads)
            && self.tell(now_ms, THREADS, config.remind_ms)
        {
            // A glance does not read it, and the alert tells how many are pinned and how many are not Go's.
            scan.read_ms(subject, config.limits)?;
            return Ok(Some(Finding::Threads { away: ticked.figures.away, baseline }));
        }
        // Old waits are looked at seldom, but what was found once soon again.
        let new = self.found.iter().any(|mark| !self.told.iter().any(|(told, _)| told == mark));
        let seldom_ms = if new { 0 } else { ticked.oldest_ms / 10 };
        let pause_ms = (config.deadlock_ms / 2).max(seldom_ms.min(config.wait_ms / 2));
        if ticked.oldest_ms < config.deadlock_ms || now_ms.saturating_sub(self.looked_ms) < pause_ms {
            return Ok(None);
        }
        self.looked_ms = now_ms;
        scan.look(subject, config.limits)?;
        let before = core::mem::take(&mut self.found);
        let mut finding = None;
        for cycle in &scan.deadlocks {
            let age_ms = self.youngest(now_ms, cycle, scan);
            let mark = mark(cycle, scan);
            let old = age_ms >= config.deadlock_ms;
            let again = self.again(mark, &before);
            if finding.is_none() && old && again && self.tell(now_ms, mark, config.remind_ms) {
                finding = Some(Finding::Deadlock { cycle: cycle.clone(), age_ms });
            }
        }
        for waiter in scan.waiters.iter().filter(|waiter| is_lock(waiter, scan)) {
            let age_ms = self.age(now_ms, waiter);
            let lost = matches!(waiter.lock.owner, Owner::Exited(_));
            let same =
                |other: &&Waiter| other.lock.at == waiter.lock.at && other.lock.kind == waiter.lock.kind;
            let others = scan.waiters.iter().filter(same);
            let oldest = others.clone().all(|other| self.age(now_ms, other) <= age_ms);
            let due = age_ms >= if lost { config.deadlock_ms } else { config.wait_ms };
            let mark = mix(waiter.lock.at.0, if lost { 1 } else { 2 });
            if !oldest || !due || !self.again(mark, &before) {
                continue;
            }
            if finding.is_none() && self.tell(now_ms, mark, config.remind_ms) {
                let waiters = u16::try_from(others.count()).unwrap_or(u16::MAX);
                finding = Some(Finding::Wait { waiter: *waiter, waiters, age_ms });
            }
        }
        Ok(finding)
    }

    /// Whether locks are fought for, as far as glances show it: in most of the last ticks somebody waited for one.
    #[must_use]
    pub fn is_fought(&self) -> bool {
        (self.fought & ((1 << TICKS) - 1)).count_ones() >= FOUGHT_MIN
    }

    /// Whether it was not told lately that the lock at `at` is fought for; then it is told now.
    pub(crate) fn tell_contention(&mut self, now_ms: u64, at: Addr, remind_ms: u64) -> bool {
        self.tell(now_ms, mix(at.0, 4), remind_ms)
    }

    /// How long a wait has lasted, as far as it was seen.
    #[must_use]
    pub fn age(&self, now_ms: u64, waiter: &Waiter) -> u64 {
        let seen = self.waits.iter().find(|seen| seen.is(waiter));
        seen.map_or(0, |seen| now_ms.saturating_sub(seen.since_ms))
    }

    /// The age of the youngest wait of a circle.
    fn youngest(&self, now_ms: u64, cycle: &Cycle, scan: &Scan) -> u64 {
        let threads = scan.waiters.iter().filter(|w| cycle.nodes.contains(&Node::Thread(w.tid.inner)));
        threads.map(|waiter| self.age(now_ms, waiter)).min().unwrap_or(0)
    }

    /// Notes what was found, and says whether the look before had found the same.
    fn again(&mut self, mark: u64, before: &[u64]) -> bool {
        // One that finds no room will be seen when others have gone.
        let _ = self.found.push(mark);
        before.contains(&mark)
    }

    /// Whether this was not told lately; then it is told now.
    fn tell(&mut self, now_ms: u64, mark: u64, remind_ms: u64) -> bool {
        self.told.retain(|(_, at_ms)| now_ms.saturating_sub(*at_ms) < remind_ms);
        if self.told.iter().any(|(told, _)| *told == mark) {
            return false;
        }
        if self.told.is_full() {
            self.told.remove(0);
        }
        self.told.push((mark, now_ms)).is_ok()
    }
}

/// Stands for the growth of threads among what was told.
const THREADS: u64 = 0;

impl Seen {
    fn is(&self, waiter: &Waiter) -> bool {
        self.tid == waiter.tid && self.word == waiter.futex.word && self.switches == waiter.switches
    }
}

/// Whether a wait is for a lock, of which nobody in a circle is the owner, nor who waits for one of these.
fn is_lock(waiter: &Waiter, scan: &Scan) -> bool {
    if matches!(waiter.lock.kind, Kind::Futex | Kind::Join) {
        return false;
    }
    let mut at = waiter;
    for _ in 0..=scan.waiters.len() {
        if scan.deadlocks.iter().any(|cycle| cycle.nodes.contains(&Node::Thread(at.tid.inner))) {
            return false;
        }
        let Owner::Thread(owner) = at.lock.owner else { return true };
        let Some(next) = scan.waiters.iter().find(|other| other.tid.inner == owner) else { return true };
        at = next;
    }
    false
}

fn mix(a: u64, b: u64) -> u64 {
    (a.rotate_left(5) ^ b).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Stands for a circle, as long as its threads have not moved.
fn mark(cycle: &Cycle, scan: &Scan) -> u64 {
    let one = |node: &Node| match node {
        Node::Goroutine(goid) => mix(*goid, 3),
        Node::Thread(tid) => {
            let waiter = scan.waiters.iter().find(|waiter| waiter.tid.inner == *tid);
            mix(u64::from(*tid), waiter.map_or(0, |waiter| waiter.switches))
        }
    };
    // In whatever order the circle was found.
    cycle.nodes.iter().map(one).fold(1, u64::wrapping_add)
}

/// The smallest number of threads that were away, in each eighth of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Trend {
    minima: [u32; BUCKETS],
    /// Eighths that are complete.
    filled: usize,
    begun_ms: u64,
    open: Option<u32>,
}

impl Trend {
    fn add(&mut self, now_ms: u64, away: u32, window_s: u32) {
        let part_ms = (u64::from(window_s) * 1000 / BUCKETS as u64).max(1);
        let Some(open) = self.open else {
            (self.open, self.begun_ms) = (Some(away), now_ms);
            return;
        };
        if now_ms.saturating_sub(self.begun_ms) < part_ms {
            self.open = Some(open.min(away));
            return;
        }
        self.minima.rotate_left(1);
        if let Some(last) = self.minima.last_mut() {
            *last = open;
        }
        self.filled = (self.filled + 1).min(BUCKETS);
        (self.open, self.begun_ms) = (Some(away), now_ms);
    }

    /// The number at the start of the window, when it rises.
    fn rise(&self, rule: GrowthRule) -> Option<u32> {
        let rising = self.filled == BUCKETS && rises(&self.minima, rule);
        self.minima.first().copied().filter(|_| rising)
    }
}
