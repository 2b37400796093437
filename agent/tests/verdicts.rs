//! What the service does by itself about a program that grows: it observes it, and tells what is proven, what is only
//! stuck, and why. Needs root, mosquitto, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::service::{Agent, Broker, Watcher};
use common::{Folder, GO, Program, eventually};
use glg_proto::wire::{Body, Grade, Leak, Wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Passes within three seconds instead of ten.
const SOON: &str = "[attribute]\nenabled = false\n[prove]\nseconds = 3\n";

/// A leaking program, an agent that watches it, and who hears what that says. The folder is the last to go.
struct Stage {
    program: Program,
    agent: Agent,
    watcher: Watcher,
    _broker: Broker,
    _folder: Folder,
}

impl Stage {
    fn new(more: &[&str]) -> Stage {
        let folder = Folder::new();
        let mut broker = Broker::prepare(&folder);
        broker.start();
        let watcher = Watcher::start(&broker);
        let arguments = [&["-stdin", "-rate", "60", "-requests", "100"], more].concat();
        let mut program = Program::start(&folder.copy_of(GO, "leaky"), &arguments);
        let mut agent = Agent::start(&folder, "prover", broker.port, SOON);
        agent.rewind(); // before or after it was ready
        agent.says("leaky (");
        program.say("leak");
        assert!(program.line().starts_with("LEAKING "));
        Stage { program, agent, watcher, _broker: broker, _folder: folder }
    }

    fn leak(&self) -> Leak {
        self.leak_in("main.(*Gateway).forward", Wait::ChanSend)
    }

    fn leak_in(&self, function: &str, wait: Wait) -> Leak {
        let Body::Leak(leak) = self.watcher.leak().envelope.body else { unreachable!() };
        assert_eq!((leak.target.name.as_str(), leak.target.pid), ("leaky", self.program.pid()));
        assert_eq!((leak.sites[0].function.as_str(), leak.sites[0].wait), (function, wait));
        leak
    }

    /// The agent's child that observes the program.
    fn prover(&mut self) -> Pid {
        self.agent.says("observing whether goroutines can never go on");
        let wanted = format!("prove\0{}\0", self.program.pid());
        let children = format!("/proc/{0}/task/{0}/children", self.agent.pid());
        let pid = eventually("the child that proves", || {
            let children = fs::read_to_string(&children).unwrap();
            children.split_ascii_whitespace().find_map(|pid| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                String::from_utf8_lossy(&words).contains(&wanted).then(|| pid.parse().ok())?
            })
        });
        Pid::from_raw(pid)
    }
}

#[test]
fn growth_is_suspected_at_once_and_proven_soon_after() {
    let mut stage = Stage::new(&[]);
    let suspected = stage.leak();
    assert_eq!((suspected.grade, suspected.observed), (Grade::Suspected, None));
    let trend = suspected.trend.unwrap();
    // Sixty a second.
    assert!(trend.low <= trend.per_hour && trend.per_hour <= trend.high, "{trend:?}");
    assert!(trend.high > 100_000 && trend.low < 300_000, "{trend:?}");
    assert_eq!(suspected.sites[0].orphans, None);

    let proven = stage.leak();
    assert_eq!(proven.grade, Grade::Proven, "{proven:?}");
    let observed = proven.observed.unwrap();
    assert!(observed.passes == 8 && observed.seconds >= 3, "{observed:?}");
    assert_eq!(proven.baseline, suspected.baseline);
    assert!(proven.window_s >= suspected.window_s + 3 && proven.goroutines > suspected.goroutines);
    let (site, before) = (&proven.sites[0], &suspected.sites[0]);
    assert_eq!((&site.file, site.line, site.grew), (&before.file, before.line, before.grew));
    // Who waited at the first pass waits still; the request that created it was answered long before.
    assert!(site.count > 50 && site.count <= proven.goroutines, "{site:?}");
    assert_eq!(site.orphans, Some(site.count));
    let (_, line) = stage.agent.says("LEAK PROVEN");
    assert!(line.contains("most created by main.(*Gateway).forward line"), "{line}");
    stage.agent.stop();
}

/// What can still be reached might still be woken: that is never called proven.
#[test]
fn what_is_still_referred_to_is_stuck_at_most() {
    let stage = Stage::new(&["-keep"]);
    assert_eq!(stage.leak().grade, Grade::Suspected);
    let stuck = stage.leak();
    assert_eq!((stuck.grade, stuck.sites.len()), (Grade::Stuck, 1), "{stuck:?}");
    assert!(stuck.sites[0].count > 50);
}

/// Who waits for work is never stuck by himself; but those are whose number rises on and on.
#[test]
fn what_grows_and_never_runs_is_stuck_whatever_it_waits_for() {
    let stage = Stage::new(&["-subscribe"]);
    let leak = || stage.leak_in("main.(*Gateway).subscribe", Wait::ChanReceive);
    assert_eq!(leak().grade, Grade::Suspected);
    let stuck = leak();
    assert_eq!((stuck.grade, stuck.sites.len()), (Grade::Stuck, 1), "{stuck:?}");
    assert_eq!(stuck.sites[0].orphans, Some(stuck.sites[0].count));
}

#[test]
fn a_proof_that_is_killed_is_lived_with_and_made_up_for() {
    let mut stage = Stage::new(&[]);
    assert_eq!(stage.leak().grade, Grade::Suspected);
    kill(stage.prover(), Signal::SIGKILL).unwrap();
    stage.agent.says("not observed for leaks: the child ended without a word");
    // Five seconds later.
    assert_eq!(stage.leak().grade, Grade::Proven);
    stage.agent.stop();
}

#[test]
fn a_program_that_ends_takes_its_proof_along() {
    let mut stage = Stage::new(&[]);
    let prover = stage.prover();
    kill(Pid::from_raw(i32::try_from(stage.program.pid()).unwrap()), Signal::SIGKILL).unwrap();
    eventually("the end of the child", || kill(prover, None).err());
    stage.agent.stop();
}
