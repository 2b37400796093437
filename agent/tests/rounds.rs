//! A network and a broker that come and go, over and over: what the broker has acknowledged has arrived, nothing is
//! lost, and what comes twice can be told as the same. A program of its own, because it watches its own memory. Needs
//! mosquitto; `GLG_LINK_ROUNDS` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

#[path = "link/broker.rs"]
mod broker;
#[path = "link/driven.rs"]
mod driven;
#[path = "link/ear.rs"]
mod ear;
#[path = "link/net.rs"]
mod net;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use broker::Mosquitto;
use common::{Folder, PATIENCE};
use driven::{DEVICE, Driven, config, message};
use ear::Ear;
use glg_proto::topics::Topic;
use glg_proto::wire::{Body, ClockQuality, Envelope, Losses, MESSAGE_MAX, Timestamp, decode, encode, head};
use goleakguard::link::LinkEvent;
use net::Net;
use nix::sys::signal::Signal;

/// Alerts in a round: one that is under way when something happens, and one that waits behind it.
const ALERTS: u32 = 2;
/// Rounds after which all memory has been used once that will be used.
const WARM: u32 = 100;
/// What the process may grow by from then on, in KiB: these tests remember some 100 bytes of each alert.
const GROWTH_KIB: u64 = 1024;

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The connection ends.
    Cut,
    /// The broker's answers are lost, then the connection ends.
    NoAnswers,
    /// Everything is lost, then the connection ends.
    Deaf,
    /// The broker stands still for a while.
    Pause,
    /// The broker is killed and started again.
    Kill,
    /// Everything is lost and nobody says so: the link has to find out by its keep-alive.
    HalfOpen,
}

impl Fault {
    /// Cheap kinds often, dear ones rarely.
    fn of(round: u32) -> Fault {
        match round {
            _ if round % 450 == 200 => Fault::HalfOpen,
            _ if round % 8 == 7 => Fault::Kill,
            _ => [Fault::Cut, Fault::NoAnswers, Fault::Deaf, Fault::Pause][round as usize % 4],
        }
    }
}

/// Stands for the outbox: gives the link one alert at a time, and keeps it until it is acknowledged.
struct Outbox {
    waiting: VecDeque<(u32, Vec<u8>)>,
    under_way: bool,
    up: bool,
    next: u32,
    acknowledged: Vec<u32>,
}

impl Outbox {
    fn push(&mut self) {
        self.waiting.push_back((self.next, alert(self.next)));
        self.next += 1;
    }

    fn send(&mut self, link: &Driven) {
        if let (true, false, Some((seq, payload))) = (self.up, self.under_way, self.waiting.front()) {
            link.send(message(*seq, payload));
            self.under_way = true;
        }
    }

    fn take_note(&mut self, event: &LinkEvent) {
        match event {
            LinkEvent::Up => (self.up, self.under_way) = (true, false),
            LinkEvent::Down => (self.up, self.under_way) = (false, false),
            LinkEvent::Acknowledged(seq) => {
                assert_eq!(self.waiting.pop_front().map(|(seq, _)| seq), Some(*seq));
                self.acknowledged.push(*seq);
                self.under_way = false;
            }
            other => panic!("{other:?}"),
        }
    }

    /// Goes on until `done`, at most for this long.
    fn run(&mut self, link: &Driven, time: Duration, done: impl Fn(&Outbox) -> bool) -> bool {
        let deadline = Instant::now() + time;
        loop {
            self.send(link);
            if done(self) {
                return true;
            }
            let Some(event) = link.next_within(deadline.saturating_duration_since(Instant::now())) else {
                return false;
            };
            self.take_note(&event);
        }
    }
}

/// As the agent encodes it, with its number.
fn alert(seq: u32) -> Vec<u8> {
    let envelope = Envelope {
        device: head(DEVICE),
        boot: [7; 8],
        epoch: 20,
        seq,
        at: Timestamp { mono_ms: u64::from(seq), wall_ms: 0, clock: ClockQuality::Free },
        losses: Losses::default(),
        body: Body::Vanished,
    };
    encode(&envelope, &mut [0; MESSAGE_MAX]).unwrap().to_vec()
}

/// Anything but always the same (xorshift32).
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }
}

/// The world around the link.
struct World {
    broker: Mosquitto,
    net: Net,
    ear: Ear,
    random: Random,
}

impl World {
    /// Lets the outbox and the link work for up to three milliseconds, lets `fault` happen, and mends it.
    fn round(&mut self, fault: Fault, outbox: &mut Outbox, link: &Driven) {
        let before = Duration::from_micros(u64::from(self.random.below(3000)));
        if matches!(fault, Fault::Cut | Fault::Pause | Fault::Kill) {
            outbox.run(link, before, |_| false);
        }
        let meanwhile = Duration::from_micros(500 + u64::from(self.random.below(3000)));
        match fault {
            Fault::Cut => self.net.cut(),
            Fault::NoAnswers | Fault::Deaf => {
                until_up(outbox, link);
                if fault == Fault::Deaf {
                    self.net.go_deaf();
                } else {
                    self.net.lose_answers();
                }
                outbox.run(link, meanwhile, |_| false);
                self.net.close();
                self.net.open();
            }
            Fault::Pause => {
                self.broker.signal(Signal::SIGSTOP);
                outbox.run(link, meanwhile, |_| false);
                self.broker.signal(Signal::SIGCONT);
            }
            Fault::Kill => {
                let subscribed = self.ear.subscribed();
                self.broker.end(Signal::SIGKILL);
                self.net.close();
                self.broker.begin();
                // What a killed broker had acknowledged and not yet passed on would be its loss, not the link's: so
                // nothing reaches it before somebody listens.
                self.ear.until_subscribed(subscribed);
                self.net.open();
            }
            Fault::HalfOpen => {
                until_up(outbox, link);
                self.net.go_deaf();
                assert!(
                    outbox.run(link, PATIENCE, |outbox| !outbox.up),
                    "it does not notice a dead connection"
                );
                self.net.open();
            }
        }
    }
}

/// Until an alert was acknowledged, so that there is a connection for the next one to be lost on.
fn until_up(outbox: &mut Outbox, link: &Driven) {
    let before = outbox.acknowledged.len();
    let arrived = outbox.run(link, PATIENCE, |outbox| outbox.acknowledged.len() > before);
    assert!(arrived, "there is no link to lose");
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// So many rounds; the broker keeps what it knows on disk, or forgets everything when it is killed.
fn rounds(number: u32, persistence: bool) {
    let folder = Folder::new();
    let home = folder.path().display();
    let lines = match persistence {
        true => format!(
            "persistence true\npersistence_location {home}/\nautosave_on_changes true\nautosave_interval 1\n"
        ),
        false => "persistence false\n".to_owned(),
    };
    let broker = Mosquitto::start(&folder, &format!("max_queued_messages 0\n{lines}"));
    let net = Net::start(broker.port);
    let ear = Ear::start(broker.port);
    let link = Driven::start(&config(&folder, net.port, ""), true);
    // Its lines would be kept.
    log::set_max_level(log::LevelFilter::Off);
    let mut world = World { broker, net, ear, random: Random(number | 1) };
    let (waiting, acknowledged) = (VecDeque::new(), Vec::new());
    let mut outbox = Outbox { waiting, under_way: false, up: false, next: 0, acknowledged };
    let (mut received, mut duplicates, mut warm) = (BTreeMap::<u32, Vec<u8>>::new(), 0_u32, 0);
    let mut times = BTreeMap::<Fault, (u32, Duration)>::new();
    for round in 0..number {
        let (fault, began) = (Fault::of(round), Instant::now());
        (0..ALERTS).for_each(|_| outbox.push());
        world.round(fault, &mut outbox, &link);
        let all = outbox.run(&link, PATIENCE, |outbox| outbox.up && outbox.waiting.is_empty());
        assert!(all, "round {round}, {fault:?}: alerts wait, link up: {}", outbox.up);
        // What is acknowledged now has been sent to the subscriber before.
        while received.len() < outbox.acknowledged.len() {
            let publish = world.ear.hears(Topic::Alert);
            duplicates += u32::from(note(&mut received, &publish.payload));
        }
        let (times, time) = times.entry(fault).or_default();
        *times += 1;
        *time += began.elapsed();
        if round == WARM {
            warm = rss_kib();
        }
    }
    let late = world.ear.rest().into_iter().filter(|publish| publish.topic.ends_with(b"/alert"));
    duplicates += late.map(|publish| u32::from(note(&mut received, &publish.payload))).sum::<u32>();
    let grown = rss_kib().saturating_sub(warm);
    println!(
        "{number} rounds, persistence {persistence}: {} alerts acknowledged, {} received, {duplicates} of them twice; \
         {} connections; memory grew by {grown} KiB",
        outbox.acknowledged.len(),
        received.len(),
        world.net.made()
    );
    for (fault, (times, time)) in times {
        println!("  {fault:?}: {times} times, {:.0} ms each", time.as_secs_f64() * 1000.0 / f64::from(times));
    }
    let every: Vec<u32> = (0..outbox.next).collect();
    assert_eq!(outbox.acknowledged, every, "each is acknowledged once, in order");
    assert!(received.keys().copied().eq(every), "each has arrived");
    assert!(duplicates > 0, "answers were lost, so something must have come twice");
    assert!(grown < GROWTH_KIB, "{grown} KiB more after {number} rounds");
}

/// Whether this alert was there before; then it is the same to the last byte.
fn note(received: &mut BTreeMap<u32, Vec<u8>>, payload: &[u8]) -> bool {
    let envelope = decode(payload).unwrap();
    assert_eq!((envelope.device.as_str(), envelope.boot, envelope.epoch), (DEVICE, [7; 8], 20));
    match received.get(&envelope.seq) {
        Some(first) => {
            assert_eq!(first, payload);
            true
        }
        None => {
            received.insert(envelope.seq, payload.to_vec());
            false
        }
    }
}

/// Of each of the two tests.
fn wanted() -> u32 {
    std::env::var("GLG_LINK_ROUNDS").map_or(600, |rounds| rounds.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_while_everything_comes_and_goes() {
    rounds(wanted(), false);
}

#[test]
fn nothing_is_lost_with_a_broker_that_remembers() {
    rounds(wanted(), true);
}
