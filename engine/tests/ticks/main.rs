//! What a tick asks the kernel about threads that wait in C, and that a wait which is remembered is believed only as
//! long as it is the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../synthetic/fake.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod fake;
#[path = "../synthetic/program.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use more of it")]
mod program;

use std::collections::BTreeMap;

use fake::{FakeProcess, rows};
use glg_engine::detector::GrowthRule;
use glg_engine::locks::scan::{CFunction, LockLimits, Scan, Subject, Threads, Tid, Waiter};
use glg_engine::locks::standing::{Call, Standing};
use glg_engine::locks::watching::{LockConfig, LockWatch, Ticked};
use glg_engine::memory::{Addr, Error, Memory};
use glg_engine::runtime::Runtime;

const CONFIG: LockConfig = LockConfig {
    limits: LockLimits { threads: 100, goroutines: 1000 },
    deadlock_ms: 5000,
    wait_ms: 300_000,
    remind_ms: 3_600_000,
    threads: GrowthRule { window_s: 80, min_rise: 16, min_ratio_percent: 100 },
    contention: None,
};
/// A futex, and the code of C that waits for it.
const FUTEX: u64 = 0x7f00_0000_0000;
const C_CODE: u64 = 0x7f11_0000_1234;
/// Ticks after which everything is asked anew.
const ALL_EVERY: u64 = 16;

fn waits_for(futex: u64) -> Standing {
    let args = [futex, 0x80, 2, 0, 0, 0];
    Standing::Call(Call { number: 202, args, sp: Addr(0x7f22_0000_0000), pc: Addr(C_CODE) })
}

/// Threads by number: where they stand, and how often they were switched in. Counts what is asked.
#[derive(Default)]
struct Asked {
    threads: BTreeMap<u32, (Standing, u64)>,
    standings: u32,
    counts: u32,
}

impl Asked {
    fn of(&self, tid: Tid) -> Result<(Standing, u64), Error> {
        self.threads.get(&tid.inner).copied().ok_or(Error::Gone)
    }
}

impl Threads for Asked {
    fn list(&mut self, _: usize, out: &mut Vec<Tid>) -> Result<bool, Error> {
        out.clear();
        out.extend(self.threads.keys().map(|tid| Tid { inner: *tid, outer: *tid + 1000 }));
        Ok(false)
    }

    fn lives(&mut self, inner: u32) -> Result<bool, Error> {
        Ok(self.threads.contains_key(&inner))
    }

    fn standing(&mut self, tid: Tid) -> Result<Standing, Error> {
        self.standings += 1;
        self.of(tid).map(|(standing, _)| standing)
    }

    fn switches(&mut self, tid: Tid) -> Result<u64, Error> {
        self.counts += 1;
        self.of(tid).map(|(_, switches)| switches)
    }

    fn blocked_ms(&mut self, _: Tid) -> Option<u64> {
        None
    }

    fn asked_by(&mut self, _: &mut dyn Memory, _: &Runtime, _: &Waiter) -> CFunction {
        CFunction::new()
    }
}

/// A process and who watches it.
struct Target {
    process: FakeProcess,
    threads: Asked,
    watch: LockWatch,
}

impl Target {
    /// Its threads 10 to 12 wait.
    fn new() -> Target {
        let process = FakeProcess::new(rows().next().unwrap());
        let threads = (10..13).map(|tid| (tid, (waits_for(FUTEX), 7))).collect();
        Target { process, threads: Asked { threads, ..Asked::default() }, watch: LockWatch::default() }
    }

    fn set(&mut self, tid: u32, standing: Standing, switches: u64) {
        self.threads.threads.insert(tid, (standing, switches));
    }

    /// The tick of a second: what it says, and how often the kernel was asked where a thread stands and how often it was
    /// switched in.
    fn tick(&mut self, second: u64, scan: &mut Scan) -> (Ticked, (u32, u32)) {
        (self.threads.standings, self.threads.counts) = (0, 0);
        let (memory, image) = (&mut self.process.space, &mut self.process.file);
        let mut subject =
            Subject { runtime: &self.process.runtime, memory, image, threads: &mut self.threads };
        let ticked = self.watch.tick(second * 1000, scan, &mut subject, &CONFIG).unwrap();
        (ticked, (self.threads.standings, self.threads.counts))
    }
}

/// Threads that the scan saw waiting, and for what.
fn waiting(scan: &Scan) -> Vec<(u32, u64)> {
    scan.waiters.iter().map(|waiter| (waiter.tid.inner, waiter.futex.word.0)).collect()
}

#[test]
fn a_wait_that_goes_on_takes_one_answer() {
    let (mut target, mut scan) = (Target::new(), Scan::default());
    for second in 1..100 {
        let (ticked, asked) = target.tick(second, &mut scan);
        let expected = match second {
            1 => (6, 3),
            _ if second % ALL_EVERY == 1 => (3, 3),
            _ => (0, 3),
        };
        assert_eq!(asked, expected, "tick {second}");
        assert_eq!(waiting(&scan), [(10, FUTEX), (11, FUTEX), (12, FUTEX)], "tick {second}");
        assert_eq!((ticked.figures.waiting, ticked.figures.away), (3, 3), "tick {second}");
        assert_eq!(ticked.oldest_ms, (second - 1) * 1000, "tick {second}");
    }
}

#[test]
fn who_has_moved_on_is_asked_where_it_stands_now() {
    let (mut target, mut scan) = (Target::new(), Scan::default());
    target.tick(1, &mut scan);
    // Runs; waits for something else; waits for the same again; and one goes on waiting.
    target.set(10, Standing::Running, 8);
    target.set(11, waits_for(FUTEX + 64), 9);
    target.set(12, waits_for(FUTEX), 8);
    target.set(13, waits_for(FUTEX), 3);
    let (ticked, asked) = target.tick(2, &mut scan);
    assert_eq!(waiting(&scan), [(11, FUTEX + 64), (12, FUTEX), (13, FUTEX)]);
    assert_eq!((ticked.figures.waiting, ticked.figures.away, ticked.oldest_ms), (3, 3, 0));
    assert_eq!(asked, (5, 4), "once each for those that were known, twice for the new one");
    let (ticked, asked) = target.tick(3, &mut scan);
    assert_eq!((ticked.figures.waiting, ticked.oldest_ms, asked), (3, 1000, (1, 3)));
}

#[test]
fn who_ends_waits_no_more() {
    let (mut target, mut scan) = (Target::new(), Scan::default());
    target.tick(1, &mut scan);
    target.threads.threads.remove(&11);
    target.tick(2, &mut scan);
    assert_eq!(waiting(&scan), [(10, FUTEX), (12, FUTEX)]);
}

/// A number that was missing once belongs to another thread, even if that was switched in as often.
#[test]
fn a_number_that_comes_back_is_asked_anew() {
    let (mut target, mut scan) = (Target::new(), Scan::default());
    target.tick(1, &mut scan);
    target.threads.threads.remove(&11);
    target.tick(2, &mut scan);
    target.set(11, Standing::Running, 7);
    target.tick(3, &mut scan);
    assert_eq!(waiting(&scan), [(10, FUTEX), (12, FUTEX)]);
}

/// Who takes a number between two ticks, and was switched in as often as who had it, is taken for that one: not for long.
#[test]
fn every_sixteenth_tick_believes_nothing_that_is_remembered() {
    let (mut target, mut scan) = (Target::new(), Scan::default());
    target.tick(1, &mut scan);
    target.set(11, Standing::Running, 7);
    for second in 2..=ALL_EVERY {
        target.tick(second, &mut scan);
        assert_eq!(scan.waiters.len(), 3, "tick {second}");
    }
    target.tick(ALL_EVERY + 1, &mut scan);
    assert_eq!(waiting(&scan), [(10, FUTEX), (12, FUTEX)]);
}

/// A look at a deadlock believes nothing that is remembered, either.
#[test]
fn a_look_reads_everything_anew() {
    let (mut target, mut scan) = (Target::new(), Scan::default());
    target.tick(1, &mut scan);
    target.set(11, Standing::Running, 7);
    let (memory, image) = (&mut target.process.space, &mut target.process.file);
    let threads = &mut target.threads;
    let mut subject = Subject { runtime: &target.process.runtime, memory, image, threads };
    scan.look(&mut subject, CONFIG.limits).unwrap();
    assert_eq!(waiting(&scan), [(10, FUTEX), (12, FUTEX)]);
}

/// One scan serves all targets, and what it remembers of one is nothing to the other.
#[test]
fn targets_with_the_same_numbers() {
    let (mut one, mut other, mut scan) = (Target::new(), Target::new(), Scan::default());
    other.set(10, waits_for(FUTEX + 64), 7);
    other.set(11, Standing::Running, 7);
    for second in 1..40 {
        one.tick(second, &mut scan);
        assert_eq!(waiting(&scan), [(10, FUTEX), (11, FUTEX), (12, FUTEX)], "tick {second}");
        other.tick(second, &mut scan);
        assert_eq!(waiting(&scan), [(10, FUTEX + 64), (12, FUTEX)], "tick {second}");
    }
}
