//! Threads that wait in C: what is found in one look, and what is told over time.

use std::collections::BTreeMap;

use glg_engine::detector::GrowthRule;
use glg_engine::layout::Arch;
use glg_engine::locks::graph::Node;
use glg_engine::locks::mutex::Owner;
use glg_engine::locks::scan::{CFunction, LockLimits, Scan, Subject, Threads, Tid, Waiter};
use glg_engine::locks::standing::{Call, Standing};
use glg_engine::locks::watching::{Finding, LockConfig, LockWatch};
use glg_engine::memory::{Addr, Error, Memory};
use glg_engine::runtime::Runtime;
use glg_engine::step::Event;
use glg_proto::locks::LockKind;
use glg_proto::wire::{Body, Envelope};

use crate::fake::{FakeProcess, Space, rows};
use crate::stand::{Stand, config};

const LIMITS: LockLimits = LockLimits { threads: 1000, goroutines: 10_000 };
pub(crate) const CONFIG: LockConfig = LockConfig {
    limits: LIMITS,
    deadlock_ms: 5000,
    wait_ms: 300_000,
    remind_ms: 3_600_000,
    threads: GrowthRule { window_s: 80, min_rise: 16, min_ratio_percent: 100 },
    contention: None,
};
/// Where the mutexes are, 64 bytes apart.
pub(crate) const MUTEXES: u64 = 0x7f00_0000_0000;
/// Code of C, far from Go's.
const C_CODE: u64 = 0x7f11_0000_1234;

/// Threads as the kernel tells of them.
#[derive(Default)]
pub(crate) struct FakeThreads {
    threads: BTreeMap<u32, (Standing, u64)>,
    /// A thread that moves each time it is looked at.
    restless: Option<u32>,
    /// For how long they were blocked when they were first seen, where the kernel says so.
    blocked_ms: BTreeMap<u32, u64>,
}

impl FakeThreads {
    pub(crate) fn waits(&mut self, tid: u32, number: u64) {
        let args = [MUTEXES + 64 * number, 0x80, 2, 0, 0, 0];
        let call = Call { number: 202, args, sp: Addr(0x7f22_0000_0000), pc: Addr(C_CODE) };
        self.threads.insert(tid, (Standing::Call(call), 7));
    }
}

impl FakeThreads {
    /// A thread has run and waits again.
    pub(crate) fn moves(&mut self, tid: u32) {
        self.threads.get_mut(&tid).unwrap().1 += 1;
    }
}

/// A glibc mutex that `owner` has, and somebody waits for.
pub(crate) fn mutex(space: &mut Space, number: u64, owner: u32) {
    for (offset, word) in [(0, 2), (8, owner), (12, 1), (16, 0)] {
        space.write(MUTEXES + 64 * number + offset, &u32::to_le_bytes(word));
    }
}

impl Threads for FakeThreads {
    fn list(&mut self, max: usize, out: &mut Vec<Tid>) -> Result<bool, Error> {
        out.clear();
        out.extend(self.threads.keys().take(max).map(|tid| Tid { inner: *tid, outer: *tid + 1000 }));
        Ok(self.threads.len() > max)
    }

    fn lives(&mut self, inner: u32) -> Result<bool, Error> {
        Ok(self.threads.contains_key(&inner))
    }

    fn standing(&mut self, tid: Tid) -> Result<Standing, Error> {
        self.threads.get(&tid.inner).map(|(standing, _)| *standing).ok_or(Error::Gone)
    }

    fn switches(&mut self, tid: Tid) -> Result<u64, Error> {
        let (_, switches) = self.threads.get_mut(&tid.inner).ok_or(Error::Gone)?;
        *switches += u64::from(self.restless == Some(tid.inner));
        Ok(*switches)
    }

    fn blocked_ms(&mut self, tid: Tid) -> Option<u64> {
        self.blocked_ms.get(&tid.inner).copied()
    }

    fn asked_by(&mut self, _: &mut dyn Memory, _: &Runtime, _: &Waiter) -> CFunction {
        glg_proto::wire::head("hold_and_call")
    }
}

/// A program of C below Go: mutexes and who waits for them.
struct Locks {
    process: FakeProcess,
    threads: FakeThreads,
    scan: Scan,
    watch: LockWatch,
}

impl Locks {
    fn new(tids: &[u32]) -> Locks {
        let mut process = FakeProcess::new(rows().next().unwrap());
        assert_eq!(process.layout().arch, Arch::Amd64);
        process.space.map(MUTEXES - 64, vec![0; 4096]);
        let mut threads = FakeThreads::default();
        threads.threads.extend(tids.iter().map(|tid| (*tid, (Standing::Running, 7))));
        Locks { process, threads, scan: Scan::default(), watch: LockWatch::default() }
    }

    fn mutex(&mut self, number: u64, owner: u32) {
        mutex(&mut self.process.space, number, owner);
    }

    fn waits(&mut self, tid: u32, number: u64) {
        self.threads.waits(tid, number);
    }

    fn look(&mut self) -> Vec<Vec<u32>> {
        let (memory, image) = (&mut self.process.space, &mut self.process.file);
        let threads = &mut self.threads;
        let mut subject = Subject { runtime: &self.process.runtime, memory, image, threads };
        self.scan.look(&mut subject, LIMITS).unwrap();
        let tid = |node: &Node| match node {
            Node::Thread(tid) => *tid,
            Node::Goroutine(_) => panic!("a goroutine"),
        };
        self.scan.deadlocks.iter().map(|cycle| cycle.nodes.iter().map(tid).collect()).collect()
    }

    /// Ticks once a second until something is told; the second in which it was.
    fn tick(&mut self, seconds: std::ops::Range<u64>) -> Option<(u64, Finding)> {
        for second in seconds {
            let now_ms = second * 1000;
            let (memory, image) = (&mut self.process.space, &mut self.process.file);
            let threads = &mut self.threads;
            let mut subject = Subject { runtime: &self.process.runtime, memory, image, threads };
            let ticked = self.watch.tick(now_ms, &mut self.scan, &mut subject, &CONFIG).unwrap();
            let found = self.watch.finding(now_ms, ticked, &mut self.scan, &mut subject, &CONFIG).unwrap();
            if let Some(finding) = found {
                return Some((second, finding));
            }
        }
        None
    }
}

/// Two threads, each with a mutex that the other wants.
fn crossed() -> Locks {
    let mut stand = Locks::new(&[10, 11, 12]);
    stand.mutex(0, 10);
    stand.mutex(1, 11);
    stand.waits(10, 1);
    stand.waits(11, 0);
    stand
}

#[test]
fn who_waits_for_each_other_is_found_and_who_waits_for_them_is_not_among_them() {
    let mut stand = crossed();
    stand.waits(12, 0);
    assert_eq!(stand.look(), [[10, 11]]);
    let waits: Vec<_> = stand.scan.waiters.iter().map(|w| (w.tid.inner, w.lock.owner)).collect();
    assert_eq!(waits, [(10, Owner::Thread(11)), (11, Owner::Thread(10)), (12, Owner::Thread(10))]);
    let figures = stand.scan.figures;
    assert_eq!((figures.threads, figures.waiting, figures.away), (3, 3, 3));
}

#[test]
fn who_waits_for_itself_is_found() {
    let mut stand = Locks::new(&[10]);
    stand.mutex(0, 10);
    stand.waits(10, 0);
    assert_eq!(stand.look(), [[10]]);
}

#[test]
fn who_moves_while_it_is_looked_at_is_in_no_deadlock() {
    let mut stand = crossed();
    stand.threads.restless = Some(11);
    assert!(stand.look().is_empty());
    assert_eq!(stand.scan.restless, 1);
    assert_eq!(stand.scan.waiters.len(), 1);
}

#[test]
fn a_mutex_that_is_free_by_now_is_not_waited_for() {
    let mut stand = crossed();
    stand.process.space.write(MUTEXES, &[0; 20]);
    assert!(stand.look().is_empty());
    assert_eq!(stand.scan.waiters.len(), 1);
}

#[test]
fn a_deadlock_is_told_once_after_it_was_seen_twice() {
    let mut stand = crossed();
    let Some((first, Finding::Deadlock { cycle, age_ms })) = stand.tick(100..1000) else {
        panic!("not told")
    };
    assert_eq!(cycle.nodes, [Node::Thread(10), Node::Thread(11)]);
    assert!((105..=110).contains(&first) && age_ms >= 5000, "{first}");
    assert_eq!(stand.tick(first + 1..first + 3600), None);
    assert!(stand.tick(first + 3600..first + 4600).is_some(), "it is said again after an hour");
}

#[test]
fn a_deadlock_that_comes_apart_is_not_told() {
    let mut stand = crossed();
    assert_eq!(stand.tick(100..106), None);
    // One of them gave up and waits again: another wait.
    stand.threads.threads.get_mut(&10).unwrap().1 += 1;
    assert_eq!(stand.tick(106..110), None);
}

#[test]
fn a_long_wait_is_told_late_and_once_for_all_who_wait() {
    let mut stand = Locks::new(&[10, 11, 12]);
    stand.mutex(0, 10);
    stand.waits(11, 0);
    assert_eq!(stand.tick(100..200), None);
    stand.waits(12, 0);
    let Some((at, Finding::Wait { waiter, waiters, age_ms })) = stand.tick(200..1000) else {
        panic!("not told")
    };
    assert_eq!((waiter.tid.inner, waiters, waiter.lock.owner), (11, 2, Owner::Thread(10)));
    assert!((400..=560).contains(&at) && age_ms >= 300_000, "{at}");
    assert_eq!(stand.tick(at + 1..at + 3000), None);
}

#[test]
fn a_lock_whose_owner_has_ended_is_told_soon() {
    let mut stand = Locks::new(&[11, 12]);
    stand.mutex(0, 99);
    stand.waits(11, 0);
    let Some((at, Finding::Wait { waiter, .. })) = stand.tick(100..1000) else { panic!("not told") };
    assert_eq!(waiter.lock.owner, Owner::Exited(99));
    assert!(at <= 110, "{at}");
}

#[test]
fn who_waits_behind_a_deadlock_is_not_told_as_waiting() {
    let mut stand = crossed();
    stand.waits(12, 0);
    assert!(matches!(stand.tick(100..110), Some((_, Finding::Deadlock { .. }))));
    assert_eq!(stand.tick(111..3600), None);
}

#[test]
fn threads_that_do_not_come_back_are_told_when_they_are_more_and_more() {
    let away = |tid: u32| {
        let call = Call { number: 0, args: [0; 6], sp: Addr(0x7f22_0000_0000), pc: Addr(C_CODE) };
        (tid, (Standing::Call(call), 7))
    };
    for (growing, told) in [(true, true), (false, false)] {
        let mut stand = Locks::new(&[1]);
        stand.threads.threads.extend((100..110).map(away));
        let mut found = None;
        for second in 0..200u32 {
            if growing {
                stand.threads.threads.extend([away(1000 + second)]);
            }
            found = found.or(stand.tick(second.into()..u64::from(second) + 1));
        }
        let grew = matches!(found, Some((_, Finding::Threads { away, baseline })) if away > 2 * baseline);
        assert_eq!(grew, told, "{found:?}");
    }
}

#[test]
fn the_engine_tells_a_deadlock_in_an_alert_and_in_the_history() {
    let mut stand = Stand::watched(config());
    stand.process.space.map(MUTEXES - 64, vec![0; 4096]);
    mutex(&mut stand.process.space, 0, 10);
    mutex(&mut stand.process.space, 1, 11);
    stand.threads.waits(10, 1);
    stand.threads.waits(11, 0);
    stand.run(20, |_| 100);
    let told = |event: &Event| matches!(event, Event::Deadlocked { members: 2, inferred: false, .. });
    assert_eq!(stand.events.iter().filter(|event| told(event)).count(), 1, "{:?}", stand.events);
    let Some(Envelope { body: Body::Deadlock(deadlock), .. }) = stand.message() else { panic!("no alert") };
    let members: Vec<_> = deadlock.members.iter().map(|m| (m.tid, m.kind, m.c_function.as_str())).collect();
    let mutex = |tid| (tid, LockKind::Mutex, "hold_and_call");
    assert_eq!(members, [mutex(10), mutex(11)]);
    assert_eq!((deadlock.total, deadlock.target.pid), (2, 1412));
    assert!((5..10).contains(&deadlock.age_s), "{}", deadlock.age_s);
}

/// A deadlock that is older than the agent is as old as it is.
#[test]
fn the_kernel_knows_for_how_long_a_thread_has_waited() {
    let mut stand = crossed();
    stand.threads.blocked_ms.extend([(10, 86_400_000), (11, 86_000_000)]);
    let Some((at, Finding::Deadlock { age_ms, .. })) = stand.tick(100_000..100_020) else {
        panic!("not told")
    };
    assert!((86_000_000..86_010_000).contains(&age_ms), "{age_ms}");
    assert!(at < 100_010, "{at}");
}
