//! Waits for locks in C, measured in the kernel: of this very process, whose waits are known, and of Go programs that
//! say what they do. Needs root, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "contention/commands.rs"]
mod commands;
mod common;
#[path = "contention/storm.rs"]
mod storm;

use std::fs;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{GO, Program, Seen, eventually, program};
use glg_engine::contention::{Contended, Counted, LOCKS_KEPT, Observation};
use glg_engine::locks::mutex::Kind;
use goleakguard::probes::{LONG_WAITS_BYTES, ProbeError, ProbeLimits, Probes, monotonic_ns};

const LIMITS: ProbeLimits = ProbeLimits { sites: 1, targets: 1, event_bytes: 4096 };
/// Threads that may wait at a time.
const THREADS: u32 = 64;
/// No wait of this process is one of Go's.
const NO_GO: Range<u64> = 0..0;
/// Waits are told one by one from this on.
const LONG: Duration = Duration::from_millis(20);

/// Tests that observe from this process must not run side by side: they see each other's waits and probes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Probes with an observation.
struct Watching {
    _alone: MutexGuard<'static, ()>,
    pid: u32,
    probes: Probes,
    observation: Observation,
    begun: Instant,
    before: Counted,
}

impl Watching {
    fn of(pid: u32, text: Range<u64>) -> Watching {
        Watching::with(pid, text, LONG)
    }

    fn with(pid: u32, text: Range<u64>, long: Duration) -> Watching {
        let alone = alone();
        let mut probes = Probes::load_observing(&LIMITS, THREADS).unwrap_or_else(|error| panic!("{error}"));
        let long_ns = long.as_nanos().try_into().unwrap();
        probes.observe(pid, text, long_ns).unwrap_or_else(|error| panic!("{error}"));
        let before = probes.counted().unwrap();
        Watching {
            _alone: alone,
            pid,
            probes,
            observation: Observation::default(),
            begun: Instant::now(),
            before,
        }
    }

    fn end(mut self) -> Observation {
        self.probes.stop_observing();
        let (now, observed) = (monotonic_ns(), self.begun.elapsed());
        let Watching { pid, probes, observation, before, .. } = &mut self;
        probes.drain_long_waits(|wait| observation.long_wait(wait));
        probes.add_measured(*pid, now, observation).unwrap();
        let counted = probes.counted().unwrap().since(*before);
        observation.close(observed.as_nanos().try_into().unwrap(), counted);
        self.observation
    }
}

/// Where the code of Go is in a program.
fn go_code(pid: u32) -> Range<u64> {
    Seen::open(pid).runtime.go_code()
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap()
}

/// Whether this process has a probe where threads are switched.
fn is_attached() -> bool {
    let open = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let infos = open.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    infos.into_iter().any(|info| info.contains("sched_switch"))
}

/// The addresses of a lock.
fn range_of<T>(lock: &T) -> Range<u64> {
    let from = std::ptr::from_ref(lock) as u64;
    from..from + size_of_val(lock) as u64
}

/// Waits so often and so long on a bell of its own, which nobody rings.
fn wait(bell: &Condvar, times: u32, each: Duration) {
    let lock = Mutex::new(());
    for _ in 0..times {
        drop(bell.wait_timeout(lock.lock().unwrap(), each));
    }
}

/// How often this thread has gone to sleep, as the kernel says.
fn sleeps() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// The kernel's own counts are the oracle: on a busy machine an alarm may ring before who has set it is asleep.
#[test]
fn waits_are_as_many_and_as_long_as_they_were() {
    const TIMES: u32 = 20;
    let bell = Condvar::new();
    let watching = Watching::of(std::process::id(), NO_GO);
    let (begun, before) = (Instant::now(), sleeps());
    wait(&bell, TIMES, 2 * LONG);
    let (lasted, waits) = (begun.elapsed(), sleeps() - before);
    let seen = watching.end();
    let own = range_of(&bell);
    let lock = seen.locks.iter().find(|lock| own.contains(&lock.word.0)).expect("its own waits");
    println!("{lasted:?}: {seen:?}");
    // It may also have slept for a page.
    let waits = waits.min(TIMES.into());
    assert!(waits > u64::from(TIMES / 2), "{waits}");
    // The kernel of this machine may not tell the end of one; that is counted.
    let untold = seen.counted.ends_missed;
    assert_eq!(lock.ongoing, 0);
    assert!(lock.waits <= u64::from(TIMES) && lock.waits + untold >= waits, "{} of {waits}", lock.waits);
    let waits = lock.waits;
    let total = Duration::from_nanos(lock.total_ns);
    assert!(
        total >= 3 * LONG * u32::try_from(waits).unwrap() / 2 && total <= lasted,
        "{total:?} of {lasted:?}"
    );
    assert!(Duration::from_nanos(lock.longest_ns) >= LONG);
    assert!(Duration::from_nanos(lock.quantile_ns(50)) >= LONG);
    let tid = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
    assert_eq!(lock.last_long, Some(tid));
    let long = seen.long_waits.oldest_ordered().filter(|wait| own.contains(&wait.word));
    assert!(long.clone().all(|wait| wait.tid == tid && wait.waited_ns >= nanos(LONG)));
    assert_eq!(long.count() as u64, waits);
    assert_eq!((seen.counted.lost(), seen.evicted.locks), (0, 0));
    assert!(seen.counted.cost_ns() > 0.0);
}

/// Long waits that nobody fetches are lost when the buffer is full, and counted.
#[test]
fn long_waits_that_are_not_fetched_are_counted() {
    const TIMES: u32 = 300;
    let bell = Condvar::new();
    let mut watching = Watching::with(std::process::id(), NO_GO, Duration::ZERO);
    wait(&bell, TIMES, Duration::from_micros(100));
    watching.probes.stop_observing();
    let mut fetched = 0;
    watching.probes.drain_long_waits(|_| fetched += 1);
    let seen = watching.end();
    println!("{fetched} fetched, {:?}", seen.counted);
    // Each takes 48 bytes; the buffer is a page, which may be a larger one.
    assert!(fetched >= u64::from(LONG_WAITS_BYTES / 48).min(seen.counted.waits), "{fetched}");
    assert_eq!(seen.counted.waits, fetched + seen.counted.long_waits_lost);
}

/// Go's scheduler puts its threads to sleep with futexes, too: of those nothing is counted, nor of who is not observed.
#[test]
fn neither_gos_own_waits_nor_those_of_others() {
    let mut busy = Program::start(&program(GO, "stacks"), &[]);
    let (bell, code) = (Condvar::new(), go_code(busy.pid()));
    let mut rounds = |text: Range<u64>| {
        let watching = Watching::of(busy.pid(), text);
        for _ in 0..50 {
            busy.goroutines();
            wait(&bell, 1, Duration::from_millis(1));
        }
        watching.end()
    };
    let all = rounds(NO_GO);
    assert!(all.counted.waits > 0, "the program has no waits of its own to be left out");
    let own = range_of(&bell);
    assert!(!all.locks.iter().any(|lock| own.contains(&lock.word.0)), "of another process: {all:?}");
    let none = rounds(code);
    assert_eq!((none.counted.waits, none.counted.locks_seen, none.locks.len()), (0, 0, 0), "{none:?}");
    assert!(none.counted.switches > 0);
}

/// A program whose threads wait for a lock until it is told to give that back.
struct Held {
    program: Program,
    lock: u64,
    tids: Vec<u64>,
}

impl Held {
    /// Brings it there; `meanwhile` runs before.
    fn enter(variant: &str, meanwhile: impl FnOnce(u32)) -> Held {
        let mut program = Program::start(&program(GO, variant), &["-later", "hold"]);
        meanwhile(program.pid());
        let said = program.ask("go");
        let waits = said["waits"].as_array().unwrap().clone();
        let tids = waits.iter().map(|wait| wait["tid"].as_u64().unwrap()).collect();
        Held { program, lock: waits[0]["lock"].as_u64().unwrap(), tids }
    }

    fn release(&mut self) {
        self.program.say("release");
        assert_eq!(self.program.line(), "true");
        let program = &mut self.program;
        eventually("the end of the waits", || program.ask("ended").as_bool().filter(|ended| *ended));
    }

    /// What was seen of its lock, and how many ends of waits the kernel has not told.
    fn contended(&mut self, mut seen: Observation) -> (Contended, u64) {
        let mut remote = Seen::open(self.program.pid()).remote;
        let mut threads: Vec<u32> = self.tids.iter().map(|tid| (*tid).try_into().unwrap()).collect();
        threads.sort_unstable();
        seen.classify(&threads, remote.process().memory).unwrap();
        let lock = seen.locks.iter().find(|lock| lock.at.0 == self.lock);
        let lock = *lock.unwrap_or_else(|| panic!("nothing of {:#x}: {seen:#x?}", self.lock));
        assert!(lock.is_lock() && lock.kind == Kind::Mutex, "{lock:?}");
        assert_eq!(seen.contended(1), Some(&lock), "it is waited for more than anything else");
        assert_eq!((seen.counted.lost(), seen.evicted.locks), (0, 0));
        (lock, seen.counted.ends_missed)
    }
}

const VARIANTS: [&str; 3] = ["locks-cgo", "locks-cgo-pie", "locks-musl"];

#[test]
fn a_lock_that_is_held_is_waited_for_as_long() {
    const HELD: Duration = Duration::from_millis(300);
    for variant in VARIANTS {
        let mut watching = None;
        let mut held = Held::enter(variant, |pid| watching = Some(Watching::of(pid, go_code(pid))));
        std::thread::sleep(HELD);
        held.release();
        let (lock, untold) = held.contended(watching.unwrap().end());
        println!("{variant}: {untold} untold, {lock:?}");
        let waiters = held.tids.len() as u64;
        assert!(lock.waits + untold >= waiters && lock.ongoing == 0, "{variant}: {untold}, {lock:?}");
        // Who wakes up and finds it taken again waits anew.
        assert!(lock.waits <= waiters * waiters, "{variant}: {lock:?}");
        assert!(
            lock.total_ns >= nanos(HELD) * waiters.saturating_sub(untold) && lock.longest_ns >= nanos(HELD),
            "{variant}: {lock:?}"
        );
        assert!(lock.quantile_ns(99) >= nanos(HELD));
        assert!(held.tids.contains(&u64::from(lock.last_long.unwrap())), "{variant}: {lock:?}");
    }
}

#[test]
fn who_waits_still_is_told() {
    const HELD: Duration = Duration::from_millis(100);
    for variant in VARIANTS {
        let mut watching = None;
        let mut held = Held::enter(variant, |pid| watching = Some(Watching::of(pid, go_code(pid))));
        std::thread::sleep(HELD);
        let (lock, _) = held.contended(watching.unwrap().end());
        let waiters = held.tids.len();
        assert_eq!((lock.waits, lock.ongoing as usize), (waiters as u64, waiters), "{variant}: {lock:?}");
        assert!(lock.longest_ns >= nanos(HELD), "{variant}: {lock:?}");
        held.release();
    }
}

/// Locks of every kind that are fought for: what is said of each agrees with itself and with the time that went by.
#[test]
fn a_contended_program() {
    let mut program = Program::start(&program(GO, "locks-cgo"), &["contended"]);
    let pid = program.pid();
    let said = |program: &mut Program| -> u64 {
        let counts = program.ask("contention");
        counts.as_object().unwrap().values().map(|rhythm| rhythm["waited"].as_u64().unwrap()).sum()
    };
    let watching = Watching::of(pid, go_code(pid));
    let before = said(&mut program);
    eventually("a thousand locks that somebody else had", || {
        (said(&mut program) > before + 1000).then_some(())
    });
    let mut seen = watching.end();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut threads: Vec<u32> =
        threads.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
    threads.sort_unstable();
    seen.classify(&threads, Seen::open(pid).remote.process().memory).unwrap();
    assert!(seen.counted.waits > 500, "{seen:?}");
    assert_eq!(seen.locks.len(), LOCKS_KEPT);
    assert!(seen.contended(1).is_some());
    for lock in &seen.locks {
        println!("{lock:?}");
        let histogram: u64 = lock.histogram.iter().map(|count| u64::from(*count)).sum();
        assert_eq!(histogram, lock.waits);
        let times = [lock.quantile_ns(50), lock.quantile_ns(99), lock.longest_ns, lock.total_ns];
        assert!(times.is_sorted() && lock.longest_ns <= seen.observed_ns * 2, "{lock:?}");
        assert!(lock.total_ns <= (seen.observed_ns * 2) * threads.len() as u64, "{lock:?}");
    }
    assert!(seen.locks.iter().any(|lock| lock.kind == Kind::Mutex && lock.is_lock()));
}

#[test]
fn nothing_stays() {
    let _alone = alone();
    let mut probes = Probes::load_observing(&LIMITS, THREADS).unwrap();
    assert!(!is_attached());
    for _ in 0..3 {
        probes.observe(std::process::id(), NO_GO, nanos(LONG)).unwrap();
        assert!(is_attached());
        let twice = probes.observe(1, NO_GO, nanos(LONG));
        assert!(matches!(twice, Err(ProbeError::AlreadyAttached { .. })), "{twice:?}");
        let bell = Condvar::new();
        wait(&bell, 3, LONG);
        probes.stop_observing();
        assert!(!is_attached());
        // Another processor may be about to leave the program.
        wait(&bell, 1, LONG);
        let counted = probes.counted().unwrap();
        wait(&bell, 10, Duration::from_millis(2));
        assert_eq!(probes.counted().unwrap(), counted, "it counts on");
        let mut own = 0;
        probes
            .locks_waited_for(|key, waits| {
                own += u64::from(range_of(&bell).contains(&key.word)) * waits.waits;
            })
            .unwrap();
        assert!(own <= 3, "{own}: the observation before has left something");
    }
    let unasked = Probes::load(&LIMITS).unwrap().observe(1, NO_GO, 1);
    assert!(matches!(unasked, Err(ProbeError::NotObservable(_))), "{unasked:?}");
}

/// More threads than there is room for.
#[test]
fn waits_that_find_no_room_are_counted() {
    const WAITERS: usize = 12;
    const ROOM: u32 = 4;
    let _alone = alone();
    let mut probes = Probes::load_observing(&LIMITS, ROOM).unwrap();
    let gate = std::sync::Barrier::new(WAITERS + 1);
    std::thread::scope(|scope| {
        for _ in 0..WAITERS {
            scope.spawn(|| {
                gate.wait();
                wait(&Condvar::new(), 1, Duration::from_millis(300));
            });
        }
        probes.observe(std::process::id(), NO_GO, nanos(LONG)).unwrap();
        gate.wait();
    });
    probes.stop_observing();
    let counted = probes.counted().unwrap();
    println!("{counted:?}");
    assert!(
        counted.blocked_full >= (WAITERS as u64 - u64::from(ROOM)) / 2 && counted.waits > 0,
        "{counted:?}"
    );
}
