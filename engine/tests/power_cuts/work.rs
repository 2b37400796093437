//! Random work for an outbox, and what has to be true of it: written down beside it, in plain sets.

use std::collections::{BTreeMap, BTreeSet};

use glg_engine::outbox::{Kept, Origin, Outbox, OutboxConfig, class_of};
use glg_engine::spool::budget::Share;
use glg_proto::locks::StuckThreads;
use glg_proto::wire::{
    Body, Class, ClockQuality, Envelope, Evicted, Grade, Health, Leak, Losses, MessageId, Target, Timestamp,
    decode, head,
};

use crate::disk::{Disk, Random};

/// What kind of a day it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Day {
    Usual,
    /// The flash budget is soon used up.
    LittleBudget,
    /// Writes fail now and then.
    CrowdedFlash,
    /// Removed files may come back.
    Forgetful,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) durable: u32,
    pub(crate) in_memory: u32,
    pub(crate) acknowledged: u32,
    pub(crate) evicted: u32,
    pub(crate) flushed: u32,
    pub(crate) restarts: u32,
    pub(crate) kills: u32,
}

/// Steps of one run.
const STEPS: u32 = 260;

pub(crate) struct Work {
    disk: Disk,
    day: Day,
    random: Random,
    outbox: Outbox,
    now_ms: u64,
    epoch: u32,
    /// Given to messages so far.
    numbers: u32,
    /// What each message says, as far as it was handed to the outbox.
    pushed: BTreeMap<MessageId, u32>,
    /// Durable, as the outbox said.
    durable: BTreeMap<MessageId, Class>,
    /// Acknowledged or refused.
    settled: BTreeSet<MessageId>,
    /// Of these, by this agent: what an earlier one did not write down comes again.
    settled_now: BTreeSet<MessageId>,
    /// Settled, and the outbox said that this is written down.
    written: BTreeSet<MessageId>,
    /// Messages about given-up messages that came.
    told: Vec<Evicted>,
    pub(crate) counts: Counts,
}

fn open(disk: &Disk, day: Day, epoch: u32, now_ms: u64) -> Outbox {
    let config = OutboxConfig {
        messages: 40,
        in_memory: 6,
        max_bytes: 6 * 1024,
        segment_bytes: 1024,
        max_age_ms: 4 * 3600 * 1000,
        write_bytes_per_day: if day == Day::LittleBudget { 600 << 10 } else { 1 << 30 },
    };
    let origin = Origin { device: head("van-7"), boot: [7; 8], epoch };
    Outbox::open(Box::new(disk.clone()), config, origin, at(now_ms))
}

fn at(mono_ms: u64) -> Timestamp {
    Timestamp { mono_ms, wall_ms: mono_ms, clock: ClockQuality::Free }
}

/// A message of each class, recognisable by its number.
fn body(class: Class, number: u32) -> Body {
    let target = Target { name: head("gateway"), pid: number, go: (24, 11) };
    match class {
        Class::Routine => Body::Health(Health {
            targets: 1,
            waiting: number,
            spool_bytes: 0,
            flash_bytes: 0,
            memory_only: false,
            evicted: 0,
            damaged: 0,
            airtime_bytes: 0,
            rss_kib: 0,
        }),
        Class::Warning => Body::StuckThreads(StuckThreads {
            target,
            threads: 9,
            away: 1,
            baseline: 1,
            window_s: 1,
            pinned: 0,
            foreign: 0,
        }),
        Class::Critical => Body::Leak(Leak {
            target,
            grade: Grade::Proven,
            goroutines: 1,
            baseline: 1,
            window_s: 1,
            trend: None,
            left: None,
            observed: None,
            sites: heapless::Vec::new(),
        }),
    }
}

fn number(body: &Body) -> Option<u32> {
    match body {
        Body::Health(health) => Some(health.waiting),
        Body::StuckThreads(stuck) => Some(stuck.target.pid),
        Body::Leak(leak) => Some(leak.target.pid),
        _ => None,
    }
}

impl Work {
    pub(crate) fn new(disk: &Disk, seed: u64, day: Day) -> Work {
        Work {
            disk: disk.clone(),
            day,
            random: Random::new(seed),
            outbox: open(disk, day, 1, 1000),
            now_ms: 1000,
            epoch: 1,
            numbers: 0,
            pushed: BTreeMap::new(),
            durable: BTreeMap::new(),
            settled: BTreeSet::new(),
            settled_now: BTreeSet::new(),
            written: BTreeSet::new(),
            told: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Another agent on the same disk. The old one has said its last.
    pub(crate) fn again(mut self) -> Work {
        self.epoch += 1;
        self.reopen();
        self
    }

    fn reopen(&mut self) {
        // Some start within the same second as the one before; what that had in memory alone they cannot know.
        let same =
            self.random.below(3) == 0 && self.day != Day::CrowdedFlash && self.day != Day::LittleBudget;
        self.epoch += u32::from(!same);
        self.settled_now.clear();
        self.outbox = open(&self.disk, self.day, self.epoch, self.now_ms);
    }

    /// A random day, until the power goes.
    pub(crate) fn run(&mut self) {
        for _ in 0..STEPS {
            if self.disk.is_off() {
                return;
            }
            self.step();
        }
    }

    fn step(&mut self) {
        self.now_ms += self.random.below(120_000) as u64;
        match self.random.below(40) {
            0..=20 => self.push(),
            21..=29 => self.send(),
            30 => {
                let _ = self.outbox.send_next();
                self.outbox.link_lost();
            }
            31 => self.outbox.tick(at(self.now_ms + 600_000)),
            32..=33 => self.outbox.tick(at(self.now_ms)),
            34..=35 if self.outbox.flush(Share::All) => self.flushed(),
            36 => {
                if self.outbox.close_down() {
                    self.flushed();
                }
                self.counts.restarts += 1;
                self.reopen();
            }
            37 => {
                self.counts.kills += 1;
                self.reopen();
            }
            38 => self.outbox.lost(Losses { samples: 1, ..Losses::default() }),
            _ => {}
        }
    }

    fn flushed(&mut self) {
        if !self.disk.is_off() {
            self.counts.flushed += 1;
            self.written.append(&mut self.settled_now);
        }
    }

    fn push(&mut self) {
        let class = [Class::Critical, Class::Warning, Class::Warning, Class::Routine][self.random.below(4)];
        self.numbers += 1;
        let number = self.numbers;
        let evicted = self.outbox.figures().evicted;
        let envelope = Envelope {
            device: head("van-7"),
            boot: [0; 8],
            epoch: 0,
            seq: 0,
            at: at(self.now_ms),
            losses: Losses::default(),
            body: body(class, number),
        };
        assert_eq!(class_of(&envelope.body), class);
        let (name, kept) = self.outbox.push(envelope).unwrap();
        self.counts.evicted += self.outbox.figures().evicted - evicted;
        self.pushed.insert(name, number);
        match kept {
            Kept::OnFlash => {
                self.counts.durable += 1;
                self.durable.insert(name, class);
            }
            Kept::InMemory | Kept::Nowhere => {
                self.counts.in_memory += 1;
                // The agent's health goes by the name of the one it replaces.
                self.durable.remove(&name);
            }
        }
    }

    fn send(&mut self) {
        let Some((ticket, bytes)) = self.outbox.send_next() else { return };
        let envelope = decode(bytes).unwrap();
        assert!(self.outbox.send_next().is_none(), "one at a time");
        assert!(self.outbox.acknowledged(ticket));
        self.received(&envelope);
    }

    fn received(&mut self, envelope: &Envelope) {
        let id = id_of(envelope);
        self.counts.acknowledged += 1;
        if let Body::Evicted(evicted) = envelope.body {
            self.told.push(evicted);
            return;
        }
        assert!(self.pushed.contains_key(&id), "{id:?} was never said");
        // Of the agent's health an older word may come.
        if class_of(&envelope.body) != Class::Routine {
            assert_eq!(number(&envelope.body), self.pushed.get(&id).copied(), "{id:?} says something else");
        }
        self.settled.insert(id);
        self.settled_now.insert(id);
    }

    /// What a disk still has: messages, and what was named as given up then or before.
    fn all_of(&self, disk: &Disk) -> (BTreeSet<MessageId>, Vec<Evicted>) {
        let mut outbox = open(disk, Day::Usual, self.epoch + 100, self.now_ms);
        let (mut came, mut told) = (BTreeSet::new(), self.told.clone());
        while let Some((ticket, bytes)) = outbox.send_next() {
            let envelope = decode(bytes).unwrap();
            match envelope.body {
                Body::Evicted(evicted) => told.push(evicted),
                _ => _ = came.insert(id_of(&envelope)),
            }
            assert!(outbox.acknowledged(ticket));
        }
        (came, told)
    }

    /// Takes everything that waits, on a copy of the disk's content: the work goes on afterwards.
    pub(crate) fn check_nothing_is_lost(&mut self, when: &str) {
        let (came, told) = self.all_of(&self.disk.copy());
        for (id, class) in self.durable.iter().filter(|(id, _)| !self.settled.contains(id)) {
            let named = told.iter().any(|e| covers(e, *id, *class));
            assert!(came.contains(id) || named, "{when}: {id:?} of {class:?} is missing; told: {told:?}");
        }
        if self.day != Day::Forgetful {
            let again: Vec<_> = came.intersection(&self.written).collect();
            assert!(again.is_empty(), "{when}: acknowledged and written down, but here again: {again:?}");
        }
        if let Some(unknown) = came.iter().find(|id| !self.pushed.contains_key(id)) {
            panic!("{when}: {unknown:?} was never said");
        }
    }

    /// How many durable messages a disk does not tell of.
    pub(crate) fn missing(&mut self, disk: &Disk) -> usize {
        let (came, told) = self.all_of(disk);
        let unsettled = self.durable.iter().filter(|(id, _)| !self.settled.contains(id));
        unsettled
            .filter(|(id, class)| !came.contains(id) && !told.iter().any(|e| covers(e, **id, **class)))
            .count()
    }

    /// What was before does not count: the disk has been damaged.
    pub(crate) fn forget(&mut self) {
        self.durable.clear();
        self.written.clear();
    }

    /// Sends everything that waits.
    pub(crate) fn drain(&mut self) {
        while !self.outbox.is_empty() {
            self.send();
        }
    }

    /// Everything durable came or was named.
    pub(crate) fn check_all_is_told(&self) {
        for (id, class) in &self.durable {
            let named = self.told.iter().any(|evicted| covers(evicted, *id, *class));
            assert!(self.settled.contains(id) || named, "{id:?} of {class:?} is missing");
        }
    }
}

fn id_of(envelope: &Envelope) -> MessageId {
    MessageId { boot: envelope.boot, epoch: envelope.epoch, seq: envelope.seq }
}

fn covers(evicted: &Evicted, id: MessageId, class: Class) -> bool {
    let Evicted { first, last_seq, .. } = *evicted;
    evicted.class == class
        && (first.boot, first.epoch) == (id.boot, id.epoch)
        && (first.seq..=last_seq).contains(&id.seq)
}
