//! What the agent keeps on flash outlives it, however it ends: alerts that wait, and the history. Needs root,
//! mosquitto, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::service::{Agent, Broker, Watcher, free_port};
use common::{Folder, GO, Program, Seen, eventually};
use glg_engine::outbox::{Kept, Origin, Outbox, OutboxConfig};
use glg_proto::locks::StuckThreads;
use glg_proto::wire::{Body, ClockQuality, Envelope, Losses, Target, Timestamp, decode, head};
use goleakguard::flash::FlashDir;
use nix::sys::signal::Signal;

/// Names the directory for a child that is to be killed.
const DIR: &str = "GLG_TEST_SPOOL";
/// How often one is killed.
const KILLS: u32 = 60;

fn open(dir: &Path, epoch: u32) -> Outbox {
    let config = OutboxConfig {
        // More than a child that is killed late can say.
        messages: 1 << 18,
        in_memory: 4,
        max_bytes: 1 << 26,
        segment_bytes: 4096,
        max_age_ms: u64::MAX,
        write_bytes_per_day: u32::MAX,
    };
    let origin = Origin { device: head("van-7"), boot: [7; 8], epoch };
    Outbox::open(Box::new(FlashDir::open(dir).unwrap()), config, origin, now())
}

fn now() -> Timestamp {
    Timestamp { mono_ms: 1000, wall_ms: 0, clock: ClockQuality::Wrong }
}

/// Pushes, and says of each message when it is durable; acknowledges some, and says that before.
fn work(outbox: &mut Outbox, messages: u32) {
    for number in 0..messages {
        let target = Target { name: head("gateway"), pid: number, go: (24, 11) };
        let stuck =
            StuckThreads { target, threads: 9, away: 7, baseline: 1, window_s: 8, pinned: 0, foreign: 0 };
        let (device, losses, body) = (head("van-7"), Losses::default(), Body::StuckThreads(stuck));
        let envelope = Envelope { device, boot: [0; 8], epoch: 0, seq: 0, at: now(), losses, body };
        let (id, kept) = outbox.push(envelope).unwrap();
        assert_eq!(kept, Kept::OnFlash);
        println!("durable {} {}", id.epoch, id.seq);
        if number % 5 == 4
            && let Some((ticket, message)) = outbox.send_next()
        {
            let sent = decode(message).unwrap();
            println!("acknowledged {} {}", sent.epoch, sent.seq);
            outbox.acknowledged(ticket);
        }
        if number % 16 == 15 {
            outbox.close_down();
        }
    }
}

fn numbers(line: &str, word: &str) -> Option<(u32, u32)> {
    let (epoch, seq) = line.split_once(word)?.1.trim().split_once(' ')?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

/// By itself: a short run in a directory of its own. As the child of the test below: on and on, until it is killed.
#[test]
fn messages_are_written() {
    if let Some(dir) = std::env::var_os(DIR) {
        let (dir, epoch) = (Path::new(&dir), std::process::id());
        return work(&mut open(dir, epoch), u32::MAX);
    }
    let folder = Folder::new();
    work(&mut open(folder.path(), 1), 20);
    // Four were acknowledged, the last of them after that was written down.
    assert_eq!(open(folder.path(), 2).len(), 17);
}

/// SIGKILL at any moment, again and again on the same directory: what was said to be durable and was not
/// acknowledged is there.
#[test]
fn what_was_durable_is_there_after_sigkill() {
    let folder = Folder::new();
    let (mut durable, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["messages_are_written", "--exact", "--nocapture", "--test-threads", "1"])
            .env(DIR, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        // Where in its work it is killed, changes from one to the next; what it has said meanwhile counts, too.
        let until = 1 + kill * 7 % 40;
        for line in lines.map_while(Result::ok) {
            if let Some(id) = numbers(&line, "durable ") {
                durable.insert(id);
                said += 1;
                if said == until {
                    child.kill().unwrap();
                }
            } else if let Some(id) = numbers(&line, "acknowledged ") {
                settled.insert(id);
            }
        }
        child.wait().unwrap();
        assert!(said >= until, "child {kill} ended by itself");
    }
    let mut outbox = open(folder.path(), 0);
    let mut found = BTreeSet::new();
    while let Some((ticket, message)) = outbox.send_next() {
        let envelope = decode(message).unwrap();
        found.insert((envelope.epoch, envelope.seq));
        outbox.acknowledged(ticket);
    }
    let waiting = durable.difference(&settled).count();
    let missing: Vec<_> = durable.difference(&settled).filter(|id| !found.contains(id)).collect();
    println!("{KILLS} kills, {} durable, {waiting} waiting, {} found", durable.len(), found.len());
    assert!(missing.is_empty() && waiting > 300, "{waiting} waiting, missing: {missing:?}");
    assert_eq!(outbox.figures().damaged, 0, "cut records are none that were durable, but SIGKILL cuts none");
}

fn leaky(folder: &Folder, rate: &str) -> Program {
    Program::start(&folder.copy_of(GO, "leaky"), &["-stdin", "-rate", rate, "-requests", "400"])
}

fn begin_leak(program: &mut Program) {
    program.say("leak");
    assert!(program.line().starts_with("LEAKING "));
}

#[test]
fn an_alert_outlives_a_killed_agent() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    let mut program = leaky(&folder, "60");
    let mut first = Agent::start(&folder, "hardy", broker.port, "[attribute]\nenabled = false\n");
    begin_leak(&mut program);
    first.says("LEAK suspected");
    first.end(Signal::SIGKILL);
    program.kill();
    let mut second = Agent::start(&folder, "hardy", broker.port, "[attribute]\nenabled = false\n");
    assert!(second.said().contains("spool: 1 messages wait from before"), "{}", second.said());
    broker.start();
    let watcher = Watcher::start(&broker);
    let online = watcher.online();
    let alert = watcher.leak();
    assert!(alert.envelope.epoch < online.envelope.epoch, "{alert:?} is not of the agent that was killed");
    second.stop();
    // Acknowledged, and that is written down: it does not come again.
    let third = Agent::start(&folder, "hardy", broker.port, "[attribute]\nenabled = false\n").said();
    assert!(!third.contains("wait from before"), "{third}");
}

/// Growth that no one agent has seen long enough.
#[test]
fn the_history_outlives_the_agent() {
    let folder = Folder::new();
    let mut program = leaky(&folder, "20");
    let more = "[growth.medium]\nwindow_s = 32\nmin_rise = 100\n[growth.slow]\nmin_rise = 1000000\n\
                [history.middle]\nstep_s = 2\n[attribute]\nenabled = false\n";
    // The rule for fast growth, which looks at what is not kept.
    let more = format!("min_ratio_percent = 100000\n{more}");
    let start = || Agent::start(&folder, "elder", free_port(), &more);
    let mut first = start();
    first.says("leaky (");
    let mut seen = Seen::open(program.pid());
    let before = seen.count().unwrap();
    begin_leak(&mut program);
    // Some 20 s of it.
    eventually("400 goroutines more", || (seen.count().unwrap() >= before + 400).then_some(()));
    first.stop();
    let until_now = seen.count().unwrap();
    assert!(first.said().contains("spool: the history is kept"), "{}", first.said());
    assert!(!first.said().contains("goroutines grow"), "{}", first.said());
    let mut second = start();
    assert!(second.said().contains("the history of 1 targets is remembered"), "{}", second.said());
    let (_, line) = second.says("goroutines grow, ");
    let from = line.split_once("goroutines grow, ").unwrap().1.split(' ').next().unwrap();
    assert!(from.parse::<u32>().unwrap() < until_now, "{line}: it has seen all of it by itself");
    second.stop();
}

#[test]
fn two_agents_never_share_a_spool() {
    let folder = Folder::new();
    let mut first = Agent::start(&folder, "first", free_port(), "");
    let mut second = Agent::start(&folder, "second", free_port(), "");
    let said = second.said();
    assert!(said.contains("another agent uses it") && said.contains("IN MEMORY ALONE"), "{said}");
    // Only then they take signals.
    second.says("no link to ");
    second.stop();
    first.says("no link to ");
    first.stop();
    assert!(!first.said().contains("IN MEMORY ALONE"), "{}", first.said());
}
