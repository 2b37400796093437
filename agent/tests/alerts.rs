//! Alerts about locks and threads, as they arrive from the real service at a real broker: they say what the program
//! says of itself, and a program that shares its locks well is never named. Needs root, mosquitto, and the programs of
//! `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::service::{Agent, Broker, Message, Watcher};
use common::{Folder, GO, PATIENCE, Program};
use glg_proto::locks::{Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::{Body, Target};
use serde_json::Value;

const LOCKS: &str = "locks-cgo";
/// Verdicts as early as a config may ask for.
const LOCKS_SOON: &str =
    "[attribute]\nenabled = false\n[locks]\ncontention_s = 0\ndeadlock_s = 2\nwait_s = 10\n";

/// A broker and who listens there; the agent and the programs are the tests'. The folder is the last to go.
struct Stage {
    watcher: Watcher,
    broker: Broker,
    folder: Folder,
}

impl Stage {
    fn new() -> Stage {
        let folder = Folder::new();
        let mut broker = Broker::prepare(&folder);
        broker.start();
        let watcher = Watcher::start(&broker);
        folder.copy_of(GO, LOCKS);
        Stage { watcher, broker, folder }
    }

    /// `locks` in one of its modes, as a program of its own.
    fn program(&self, mode: &[&str]) -> Program {
        Program::start(&self.folder.path().join(LOCKS), mode)
    }

    /// An agent that watches these.
    fn agent(&self, more: &str, programs: &[&Program]) -> Agent {
        let mut agent = Agent::start(&self.folder, "locksmith", self.broker.port, more);
        for program in programs {
            agent.rewind(); // they come in any order
            agent.says(&format!("{LOCKS} ({}): watching", program.pid()));
        }
        agent
    }

    fn deadlock(&self) -> Deadlock {
        let message = self.watcher.next("deadlock", |m| matches!(m.envelope.body, Body::Deadlock(_)));
        let Body::Deadlock(deadlock) = message.envelope.body else { unreachable!() };
        deadlock
    }

    fn lock_wait(&self) -> LockWait {
        let message = self.watcher.next("lock wait", |m| matches!(m.envelope.body, Body::LockWait(_)));
        let Body::LockWait(wait) = message.envelope.body else { unreachable!() };
        wait
    }

    /// Nothing has come but what was asked for, birth and end of the agent.
    fn nothing_else(&self, agent: &mut Agent) {
        let alerts: Vec<Message> = self.watcher.rest().into_iter().filter(is_alert).collect();
        assert!(alerts.is_empty(), "{alerts:?}\n{}", agent.said());
    }
}

fn is_alert(message: &Message) -> bool {
    !matches!(message.envelope.body, Body::Online(_) | Body::Offline | Body::Vanished)
}

fn assert_names(target: &Target, program: &Program) {
    assert_eq!((target.name.as_str(), target.pid), (LOCKS, program.pid()));
    assert_eq!(format!("1.{}.{}", target.go.0, target.go.1), GO);
}

/// Whole seconds, one that has begun included: nothing in a program begun after `began` is older.
fn seconds_since(began: Instant) -> u32 {
    u32::try_from(began.elapsed().as_secs()).unwrap() + 1
}

/// What the program says of the wait of a thread.
fn said_of(said: &Value, tid: u32) -> &Value {
    let waits = said["waits"].as_array().unwrap();
    let wait = waits.iter().find(|wait| wait["tid"].as_u64() == Some(tid.into()));
    wait.unwrap_or_else(|| panic!("thread {tid} does not wait: {said:#}"))
}

/// A waiter is described as the program describes it.
fn assert_says(stuck: &Stuck, said: &Value) {
    let said = said_of(said, stuck.tid);
    assert_eq!(stuck.kind.as_str(), said["kind"], "{stuck:?}");
    assert_eq!(Some(stuck.lock), said["lock"].as_u64(), "{stuck:?}");
    assert_eq!(Some(stuck.goid).filter(|goid| *goid != 0), said["goid"].as_u64(), "{stuck:?}");
    assert_eq!(stuck.c_function.as_str(), said["c_function"], "{stuck:?}");
    assert_eq!(stuck.go_function.as_str(), said["go_function"], "{stuck:?}");
    assert_eq!(Some(u64::from(stuck.line)), said["go_line"].as_u64(), "{stuck:?}");
}

/// A deadlock is the program's only one, and its members are in the order of their waiting.
fn assert_is(deadlock: &Deadlock, program: &Program, said: &Value) {
    assert_names(&deadlock.target, program);
    let [circle] = &said["deadlocks"].as_array().unwrap()[..] else { panic!("{said:#}") };
    let threads: Vec<u64> = circle["threads"].as_array().unwrap().iter().flat_map(Value::as_u64).collect();
    assert_eq!(circle["inferred"], deadlock.inferred);
    assert!(!deadlock.members.is_empty() && deadlock.members.len() <= deadlock.total.into(), "{deadlock:?}");
    for (at, member) in deadlock.members.iter().enumerate() {
        assert!(threads.contains(&member.tid.into()), "{member:?} is not one of {circle}");
        if member.kind == LockKind::Go {
            continue; // it is in no lock of C
        }
        assert_says(member, said);
        let all = deadlock.members.len() == usize::from(deadlock.total);
        let next = deadlock.members.get(at + 1).or(deadlock.members.first().filter(|_| all));
        if let Some(next) = next {
            assert_eq!(said_of(said, member.tid)["owner"].as_u64(), Some(next.tid.into()), "{deadlock:?}");
        }
    }
}

#[test]
fn a_deadlock_that_arises_is_told_once_with_both_places() {
    let stage = Stage::new();
    let mut program = stage.program(&["-later", "abba-go"]);
    let mut agent = stage.agent(LOCKS_SOON, &[&program]);
    let began = Instant::now();
    let said = program.ask("go");
    let deadlock = stage.deadlock();
    let age = 2..=seconds_since(began);
    assert_is(&deadlock, &program, &said);
    assert_eq!((deadlock.total, deadlock.members.len()), (2, 2), "{deadlock:?}");
    // From two seconds on, and two looks a second apart.
    assert!(age.contains(&deadlock.age_s), "{deadlock:?}, {age:?}");
    agent.says("DEADLOCK of 2");
    agent.stop();
    stage.nothing_else(&mut agent);
}

#[test]
fn deadlocks_that_are_older_than_the_agent_are_told() {
    let stage = Stage::new();
    let programs = [&["three"][..], &["callback"]].map(|mode| stage.program(mode));
    let mut agent = stage.agent(LOCKS_SOON, &programs.each_ref());
    let deadlocks = [stage.deadlock(), stage.deadlock()];
    for (mut program, total) in programs.into_iter().zip([3, 2]) {
        let said = program.ask("expected");
        let deadlock = deadlocks.iter().find(|deadlock| deadlock.target.pid == program.pid()).unwrap();
        assert_is(deadlock, &program, &said);
        assert_eq!(deadlock.total, total, "{deadlock:?}");
    }
    agent.stop();
    stage.nothing_else(&mut agent);
}

/// Beside a program that shares its locks well, which is not named as long as it runs.
#[test]
fn a_long_wait_is_told_with_who_has_the_lock_and_its_healthy_neighbour_is_not() {
    let stage = Stage::new();
    let began = Instant::now();
    let mut healthy = stage.program(&["contended"]);
    let mut program = stage.program(&["hold"]);
    let mut agent = stage.agent(LOCKS_SOON, &[&healthy, &program]);
    let before = healthy.ask("contention");
    let wait = stage.lock_wait();
    let waited = 10..=seconds_since(began);
    let after = healthy.ask("contention");
    let said = program.ask("expected");
    assert_names(&wait.target, &program);
    assert_says(&wait.waiter, &said);
    let owner = said_of(&said, wait.waiter.tid)["owner"].as_u64().unwrap();
    assert_eq!(wait.owner, LockOwner::Thread(owner.try_into().unwrap()), "{wait:?}");
    assert_eq!(wait.waiters, 3, "{wait:?}");
    assert!(waited.contains(&wait.waited_s), "{wait:?}, {waited:?}");
    for (rhythm, before) in before.as_object().unwrap() {
        let waited = |counts: &Value| counts["waited"].as_u64().unwrap();
        assert!(waited(&after[rhythm]) > waited(before), "{rhythm} was not contended: {after}");
    }
    agent.stop();
    stage.nothing_else(&mut agent);
}

#[test]
fn a_lock_whose_owner_has_ended_is_told_at_once() {
    let stage = Stage::new();
    let began = Instant::now();
    let mut program = stage.program(&["exited"]);
    // Others would have to wait for ten minutes.
    let patient = LOCKS_SOON.replace("wait_s = 10", "wait_s = 600");
    let mut agent = stage.agent(&patient, &[&program]);
    let wait = stage.lock_wait();
    let waited = 2..=seconds_since(began);
    let said = program.ask("expected");
    assert_names(&wait.target, &program);
    assert_says(&wait.waiter, &said);
    let owner = said_of(&said, wait.waiter.tid)["owner"].as_u64().unwrap();
    assert_eq!(wait.owner, LockOwner::Exited(owner.try_into().unwrap()), "{wait:?}");
    assert_eq!(wait.waiters, 3, "{wait:?}");
    assert!(waited.contains(&wait.waited_s), "{wait:?}, {waited:?}");
    agent.stop();
    stage.nothing_else(&mut agent);
}

#[test]
fn threads_that_do_not_come_back_are_told() {
    const PINNED: u32 = 4;
    const RHYTHM: Duration = Duration::from_secs(1);
    let stage = Stage::new();
    let mut program = stage.program(&["pins", &PINNED.to_string()]);
    // That its goroutines become more is not what is to be told here.
    let more =
        format!("min_ratio_percent = 100000\n{LOCKS_SOON}[locks.threads]\nwindow_s = 8\nmin_rise = 16\n");
    let mut agent = stage.agent(&more, &[&program]);
    let deadline = Instant::now() + PATIENCE;
    let (told, in_c) = loop {
        let in_c = u32::try_from(program.ask("grow")["in_c"].as_u64().unwrap()).unwrap();
        std::thread::sleep(RHYTHM);
        let bodies = stage.watcher.rest().into_iter().filter(is_alert).map(|message| message.envelope.body);
        match &bodies.collect::<Vec<Body>>()[..] {
            [] => assert!(Instant::now() < deadline, "not told:\n{}", agent.said()),
            [Body::StuckThreads(told)] => break (told.clone(), in_c),
            others => panic!("{others:?}"),
        }
    };
    let StuckThreads { ref target, threads, away, baseline, window_s, pinned, foreign } = told;
    assert_names(target, &program);
    assert_eq!(window_s, 8, "{told:?}");
    // One more is away to read its orders.
    assert!(away >= baseline + 16 && away <= in_c + 1 && threads > away, "{told:?}, {in_c} in C");
    assert_eq!((pinned, foreign), (PINNED, 0), "{told:?}");
    agent.stop();
    stage.nothing_else(&mut agent);
}
