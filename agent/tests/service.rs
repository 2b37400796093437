//! The agent as a service: brokers that come and go, its own end, programs that come and go, its budget.
//! Needs root, mosquitto, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "service/proxy.rs"]
mod proxy;

use std::time::{Duration, Instant};

use common::service::{Agent, Broker, Message, Watcher, free_port};
use common::{Folder, GO, Program, eventually};
use glg_proto::wire::{Body, Leak};
use nix::sys::signal::Signal;
use proxy::Proxy;

/// What is told within it was not found by a scan: these are an hour apart here.
const SOON: Duration = Duration::from_secs(60);

/// A copy of `leaky` in this folder; `rate` goroutines leak per second once it is told to.
fn leaky(folder: &Folder, rate: &str) -> Program {
    Program::start(&folder.copy_of(GO, "leaky"), &["-stdin", "-rate", rate, "-requests", "400"])
}

fn begin_leak(program: &mut Program) {
    program.say("leak");
    assert!(program.line().starts_with("LEAKING "));
}

fn leak_of(message: &Message) -> &Leak {
    match &message.envelope.body {
        Body::Leak(leak) => leak,
        other => panic!("no leak alert: {other:?}"),
    }
}

/// The alert names the program and the `go` statement that leaks.
fn assert_names(message: &Message, program: &Program) {
    let leak = leak_of(message);
    assert_eq!((leak.target.name.as_str(), leak.target.pid), ("leaky", program.pid()));
    assert_eq!(leak.sites[0].function, "main.(*Gateway).forward");
    assert!(leak.sites[0].file.ends_with("gateway.go"), "{}", leak.sites[0].file);
}

#[test]
fn without_a_broker_alerts_wait_and_arrive_when_it_comes_and_the_end_is_announced() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    let mut program = leaky(&folder, "60");
    let mut agent = Agent::start(&folder, "lonely", broker.port, "[attribute]\nenabled = false\n");
    let complaint = format!("no link to 127.0.0.1:{}: ", broker.port);
    agent.says(&complaint);
    agent.rewind(); // either may come first
    agent.says("leaky (");
    begin_leak(&mut program);
    // It goes on trying, and goes on watching.
    agent.says(&complaint);
    agent.says("LEAK suspected");
    let (_, line) = agent.says(&complaint);
    assert!(line.contains("next attempt in "), "{line}");
    broker.start();
    let watcher = Watcher::start(&broker);
    agent.says("link up");
    watcher.online();
    let alert = watcher.leak();
    assert_names(&alert, &program);

    agent.stop();
    assert_eq!(watcher.offline().envelope.device, "lonely");
    drop(watcher);
    let retained = Watcher::start(&broker).offline();
    assert!(retained.retained, "{retained:?}");
    assert!(!agent.said().contains("could not be sent"), "{}", agent.said());
}

#[test]
fn an_agent_that_is_killed_is_declared_offline_by_the_broker() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let mut agent = Agent::start(&folder, "mortal", broker.port, "[attribute]\nenabled = false\n");
    agent.says("link up");
    let online = watcher.online();
    agent.end(Signal::SIGKILL);
    let will = watcher.offline();
    let identity = |m: &Message| (m.envelope.device.clone(), m.envelope.boot, m.envelope.epoch);
    assert_eq!(identity(&will), identity(&online));
    drop(watcher);
    assert!(Watcher::start(&broker).offline().retained);
}

/// The good-bye waits for what is under way, so that it is the agent's own word and not its last will.
#[test]
fn an_agent_that_ends_while_a_message_is_under_way_still_says_so_itself() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let proxy = Proxy::start(broker.port);
    proxy.hold_answers(true);
    let mut agent = Agent::start(&folder, "polite", proxy.port, "[attribute]\nenabled = false\n");
    let online = watcher.online();
    agent.signal(Signal::SIGTERM);
    agent.says("stopping");
    proxy.hold_answers(false);
    agent.stop();
    let offline = watcher.offline();
    // The last will is made before the link is up.
    let (online, offline) = (online.envelope.at.mono_ms, offline.envelope.at.mono_ms);
    assert!(offline >= online, "{offline} is before {online}\n{}", agent.said());
    assert!(watcher.rest().is_empty());
}

#[test]
fn an_alert_that_the_broker_refuses_is_named_and_told_as_lost() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.forbid_alerts();
    broker.start();
    let watcher = Watcher::start(&broker);
    let mut program = leaky(&folder, "60");
    let mut agent = Agent::start(&folder, "barred", broker.port, "[attribute]\nenabled = false\n");
    agent.says("link up");
    assert!(watcher.online().envelope.losses.is_none());
    begin_leak(&mut program);
    agent.says("can never be sent: the broker refuses it (NotAuthorized)");
    broker.end(Signal::SIGTERM);
    broker.start();
    drop(watcher);
    let watcher = Watcher::start(&broker);
    agent.says("link up");
    let lost = eventually("a birth message that tells the loss", || {
        Some(watcher.online()).filter(|message| message.envelope.losses.alerts == 1)
    });
    assert_eq!(lost.envelope.device, "barred");
}

/// The network loses every answer of the broker, then the broker is killed: the alert is published again.
#[test]
fn an_alert_that_was_not_acknowledged_comes_again_and_can_be_told_as_the_same() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let proxy = Proxy::start(broker.port);
    let mut program = leaky(&folder, "60");
    let mut agent = Agent::start(&folder, "twice", proxy.port, "[attribute]\nenabled = false\n");
    agent.says("link up");
    watcher.online();
    begin_leak(&mut program);
    agent.says("observing");
    proxy.lose_answers(true);
    agent.says("LEAK suspected");
    let first = watcher.leak();
    assert_names(&first, &program);

    broker.end(Signal::SIGKILL);
    agent.says("no link to ");
    proxy.lose_answers(false);
    broker.start();
    agent.says("link up");
    watcher.online();
    let second = watcher.leak();
    let key = |m: &Message| (m.envelope.boot, m.envelope.epoch, m.envelope.seq);
    assert_eq!(key(&second), key(&first));
    assert_eq!(second.envelope, first.envelope);

    agent.stop();
    watcher.offline();
    let rest = watcher.rest();
    assert!(rest.is_empty(), "acknowledged, so never again: {rest:?}\n{}", agent.said());
    assert!(!agent.said().contains("could not be sent"), "{}", agent.said());
}

#[test]
fn programs_are_picked_up_and_dropped_without_a_scan() {
    let folder = Folder::new();
    let (park, become_) = (folder.copy_of(GO, "park"), folder.copy_of(GO, "become"));
    let mut agent = Agent::start(&folder, "quick", free_port(), "[attribute]\nenabled = false\n");
    for _ in 0..3 {
        let mut program = Program::start(&park, &["5"]);
        let (pid, began) = (program.pid(), Instant::now());
        let (at, line) = agent.says(&format!("park ({pid}): watching, Go {GO}"));
        assert!(at.saturating_duration_since(began) < SOON, "{line}");
        let ended = Instant::now();
        program.kill();
        let (at, line) = agent.says(&format!("({pid}): has ended"));
        assert!(at.saturating_duration_since(ended) < SOON, "{line}");
    }
    // Into a program that is not Go, and into one that is.
    let mut program = Program::start(&become_, &["/bin/cat"]);
    agent.says(&format!("become ({}): watching", program.pid()));
    let changed = Instant::now();
    program.say("exec");
    let (at, line) = agent.says(&format!("({}): has ended", program.pid()));
    assert!(at.saturating_duration_since(changed) < SOON, "{line}");

    let mut program = Program::start(&become_, &[park.to_str().unwrap(), "5"]);
    agent.says(&format!("become ({}): watching", program.pid()));
    let changed = Instant::now();
    program.say("exec");
    agent.says(&format!("({}): has ended", program.pid()));
    let (at, line) = agent.says(&format!("park ({}): watching", program.pid()));
    assert!(at.saturating_duration_since(changed) < SOON, "{line}");
    agent.stop();
}

#[test]
fn probes_over_their_budget_are_taken_off_early_and_the_alert_still_comes() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let mut program = leaky(&folder, "60");
    let more = "[attribute]\nseconds = 300\nbudget_percent = 0.01\n";
    let mut agent = Agent::start(&folder, "thrifty", broker.port, more);
    agent.says("leaky (");
    begin_leak(&mut program);
    let (attached, _) = agent.says("observing");
    let (taken_off, line) = agent.says("probes taken off: over budget, ");
    assert!(taken_off.duration_since(attached) < Duration::from_secs(60), "{line}");
    agent.says("LEAK suspected");
    let alert = watcher.leak();
    assert_names(&alert, &program);
    // What little they counted is there, with the time that it took.
    let counted = leak_of(&alert).sites[0].attributed.expect("attributed");
    assert!(counted.created > 0 && counted.millis < 60_000, "{counted:?}");
    agent.stop();
}
