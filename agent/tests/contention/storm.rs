//! A storm: very many locks, each of them waited for, where there is room for some hundred. What was measured of the
//! others is given up and counted, and nothing grows.

use std::fs;
use std::time::Duration;

use glg_engine::contention::{Contended, LOCKS_KEPT, Observation};
use glg_engine::locks::mutex::Kind;
use glg_proto::wire::Body;
use goleakguard::probes::LOCKS_MAX;
use serde_json::Value;

use crate::commands::service_of;
use crate::common::service::{Agent, Broker, Watcher};
use crate::common::{Folder, GO, Program, eventually, program};
use crate::{Watching, go_code, nanos};

/// An emulated processor takes minutes for as many as a real one has done with in some seconds.
const LOCKS: u64 = if cfg!(target_arch = "aarch64") { 10_000 } else { 100_000 };
/// Waits for the locks that stay are told one by one, those of the storm are not.
const LONG: Duration = Duration::from_millis(1);
/// How often it is looked whether anything grows.
const EVERY: Duration = Duration::from_millis(50);
/// Memory of its own that a service may need for an observation, in KiB, of a storm or not: the observation itself,
/// and what it takes to name one who waits.
const OBSERVING_KIB: u64 = 256;

/// What a storm says of itself once it is over.
struct Told {
    /// How often threads slept for a lock.
    sleeps: u64,
    /// The locks that are waited for all the time, for how many milliseconds at a time and how often.
    steady: Vec<(u64, u64, u64)>,
}

fn storm(program: &mut Program) -> Told {
    let said = program.ask("contention");
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap();
    assert_eq!(number(&said, "waited"), LOCKS, "each lock was waited for: {said}");
    let steady = said["steady"].as_array().unwrap().iter();
    Told {
        sleeps: number(&said, "sleeps"),
        steady: steady.map(|s| (number(s, "lock"), number(s, "held_ms"), number(s, "sleeps"))).collect(),
    }
}

fn has_ended(program: &mut Program) -> bool {
    program.ask("ended").as_bool().unwrap()
}

/// Memory that the kernel has for the map of locks, as it says itself (kernel/bpf/syscall.c, `bpf_map_show_fdinfo`).
fn map_bytes() -> u64 {
    let open = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let infos = open.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    // 9 is BPF_MAP_TYPE_LRU_HASH (include/uapi/linux/bpf.h); only one test at a time has one.
    let info = infos.into_iter().find(|info| info.contains("map_type:\t9\n")).expect("the map of locks");
    let field = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    assert_eq!(field("max_entries:"), u64::from(LOCKS_MAX));
    field("memlock:")
}

/// The kernel's maps and the observation. The kernel's own count of the sleeps of each thread is what the program
/// tells.
#[test]
fn a_storm_of_locks_takes_no_more_room() {
    let mut program = Program::start(&program(GO, "locks-cgo"), &["-later", "storm", &LOCKS.to_string()]);
    let mut watching = Watching::with(program.pid(), go_code(program.pid()), LONG);
    let room = map_bytes();
    program.ask("go");
    program.ask("release");
    let (mut most, mut present, mut ended) = (0, 0, false);
    while !ended {
        std::thread::sleep(EVERY);
        ended = has_ended(&mut program);
        if ended {
            watching.probes.stop_observing();
        }
        present = 0;
        watching.probes.locks_waited_for(|_, _| present += 1).unwrap();
        most = most.max(present);
        let Watching { probes, observation, .. } = &mut watching;
        probes.drain_long_waits(|wait| observation.long_wait(wait));
    }
    let mut ongoing = 0;
    watching.probes.still_blocked(program.pid(), |_| ongoing += 1).unwrap();
    assert!(room > 0 && map_bytes() <= room, "{room} bytes before, {} now", map_bytes());
    let (told, seen) = (storm(&mut program), watching.end());
    println!(
        "{} sleeps, {room} bytes, {most} locks at most, {present} at the end, {ongoing} without an end",
        told.sleeps
    );
    println!("{:?}\nevicted {:?}, others {:?}", seen.counted, seen.evicted, seen.others);
    assert!(present > 0 && most <= u64::from(LOCKS_MAX), "{present}, {most}");
    assert_accounts(&seen, told.sleeps, ongoing);
    assert_eq!(seen.evicted.locks, seen.counted.locks_seen - present);
    let untold = seen.counted.lost() + seen.counted.ends_missed + ongoing;
    assert!(seen.evicted.locks >= LOCKS - u64::from(LOCKS_MAX) - untold);
    assert_eq!(seen.locks.len(), LOCKS_KEPT);
    for (lock, held_ms, sleeps) in told.steady {
        let heaviest = seen.locks.iter().take(2).find(|kept| kept.word.0 == lock);
        println!("slept {sleeps} times for {lock:#x}: {heaviest:?}");
        let kept: &Contended =
            heaviest.unwrap_or_else(|| panic!("{lock:#x} is not among the first: {seen:#x?}"));
        assert!(kept.kind == Kind::Mutex && kept.waits <= sleeps, "{kept:?}");
        assert!(kept.longest_ns >= nanos(Duration::from_millis(held_ms)), "{kept:?}");
        // It is waited for hundreds of times a second and has hardly ever been the one to go.
        assert!(kept.waits >= sleeps / 2, "{kept:?}");
        assert!(kept.last_long.is_some(), "{kept:?}");
    }
}

/// Waits of the program beside those for its locks, at most: for one or two futexes more, when threads begin and end.
const OTHERS: u64 = 64;

/// Every wait that there was is told, or counted as one that is not.
fn assert_accounts(seen: &Observation, sleeps: u64, ongoing: u64) {
    let counted = seen.counted;
    let untold = counted.blocked_full + counted.ends_missed + counted.unreadable + ongoing;
    let most = sleeps + OTHERS;
    assert!(counted.waits <= most && counted.waits + untold >= sleeps, "{sleeps}: {counted:?}, {ongoing}");
    assert!(counted.locks_seen + counted.locks_full + untold >= LOCKS, "{counted:?}");
    let told: u64 = seen.locks.iter().map(|lock| lock.waits - u64::from(lock.ongoing)).sum();
    // What has not ended is not among what the kernel calls waits.
    let others = seen.others.waits.saturating_sub(ongoing);
    let all = told + others + seen.evicted.waits + counted.locks_full;
    assert!(all <= counted.waits && all + ongoing >= counted.waits, "{seen:?}");
}

/// Memory of a process in KiB that is its own (proc(5)).
fn own_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// The service finds a storm by itself, measures in the midst of it, names what is waited for most, and keeps to its
/// memory.
#[test]
fn the_service_stands_a_storm() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let path = folder.copy_of(GO, "locks-cgo");
    let mut program = Program::start(&path, &["-later", "storm", &LOCKS.to_string()]);
    let more = "[attribute]\nenabled = false\nbudget_percent = 100.0\n[locks]\ncontention_s = 1\n";
    let mut service = Agent::start(&folder, "weathered", broker.port, more);
    service.says("watching");
    watcher.online();
    let pid = service_of(&folder);
    let before = own_kib(pid);
    program.ask("go");
    let mut most = before;
    // What is waited for all the time goes on until it is told, however long the service takes to come to it.
    let contention = eventually("an alert", || {
        most = most.max(own_kib(pid));
        watcher.rest().into_iter().find_map(|message| match message.envelope.body {
            Body::Contention(contention) => Some(contention),
            _ => None,
        })
    });
    program.ask("release");
    while !has_ended(&mut program) {
        most = most.max(own_kib(pid));
        std::thread::sleep(EVERY);
    }
    let after = own_kib(pid);
    println!("{before} KiB before, {most} KiB at most, {after} KiB after: {contention:?}");
    let told = storm(&mut program);
    let steady = told.steady.iter().any(|(lock, ..)| *lock == contention.waiter.lock);
    assert!(steady, "{:#x} is waited for most: {contention:?}", contention.waiter.lock);
    assert!(
        most.max(after) <= before + OBSERVING_KIB,
        "{before} KiB before, {most} KiB at most, {after} KiB after"
    );
    eventually("the service at rest", || service.said().contains("CONTENTION: a ").then_some(()));
    service.stop();
}
