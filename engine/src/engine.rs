//! The engine: one input at a time, decisions out. No files, no clocks, no threads, no sockets.

mod commanding;
mod contending;
mod growing;
mod keeping;
mod locking;
mod proving;

use alloc::boxed::Box;
use alloc::vec::Vec;

use glg_proto::wire::{Body, ClockQuality, Envelope, Losses, Timestamp};

use commanding::Commanding;
use contending::Observing;
use growing::Attribution;
use keeping::Keeping;
pub use proving::ProveConfig;
use proving::Proving;
pub(crate) use proving::Suspicion;

use crate::ages::Ages;
use crate::census::Census;
use crate::flash::{Flash, NoFlash};
use crate::goroutines::{Counter, Walker};
use crate::governor::Spent;
use crate::history::HistoryConfig;
use crate::history::checkpoint::{Checkpoint, Told};
use crate::locks::scan::Scan;
use crate::locks::watching::LockWatch;
use crate::memory::{Addr, Error};
use crate::outbox::{Origin, Outbox};
use crate::runtime::Runtime;
use crate::step::{Effect, Effects, EngineConfig, Event, Input, Name, Note, Process, Rung, TargetId};
use crate::watch::{Phase, Watch, act};
pub use crate::watch::{Waiting, Watched};

/// How long a runtime may take to initialise itself, in milliseconds.
const START_MS: u64 = 30_000;
/// A target whose count fails this often in a row is given up.
const FAILURES_MAX: u32 = 60;

/// Figures of the engine itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Targets watched.
    pub targets: u32,
    /// Counts taken.
    pub counts: u64,
    /// Counts that failed.
    pub counts_failed: u64,
    /// Censuses taken.
    pub censuses: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Cost of all probes so far.
    pub probes: Spent,
    /// Goroutines and threads of which it was not known since when they wait, because there was no place left.
    pub ages_unknown: u64,
}

impl Figures {
    fn charge(&mut self, spent: Spent) {
        self.probes.hits += spent.hits;
        self.probes.cpu_ns += spent.cpu_ns;
        self.probes.percent = spent.percent;
    }
}

/// All state there is.
pub struct Engine {
    config: EngineConfig,
    watches: Vec<Watch>,
    walker: Walker,
    census: Census,
    attribution: Option<Attribution>,
    /// One target at a time.
    proving: Option<Proving>,
    /// One target at a time.
    observing: Option<Observing>,
    /// The last look at threads. One serves all targets.
    scan: Scan,
    figures: Figures,
    /// Nothing while commands are off.
    commanding: Option<Commanding>,
    keeping: Keeping,
    /// Alerts on their way out.
    pub outbox: Outbox,
}

impl Engine {
    /// Bytes that one target takes, its rings included.
    #[must_use]
    pub fn target_bytes(history: &HistoryConfig) -> usize {
        Watch::BYTES + history.bytes()
    }

    /// One that keeps everything in memory alone.
    #[must_use]
    pub fn new(config: EngineConfig) -> Engine {
        let now = Timestamp { mono_ms: 0, wall_ms: 0, clock: ClockQuality::Wrong };
        Engine::open(config, Box::new(NoFlash), now)
    }

    /// Allocates everything it will ever need except per-target rings, which come with their targets; goes on
    /// with what an earlier agent has left on flash.
    #[must_use]
    pub fn open(config: EngineConfig, flash: Box<dyn Flash>, now: Timestamp) -> Engine {
        let origin = Origin { device: config.device.clone(), boot: config.boot, epoch: config.epoch };
        let mut outbox = Outbox::open(flash, config.outbox, origin, now);
        let checkpoint = Checkpoint::find(outbox.store(), config.boot, config.max_targets);
        Engine {
            watches: Vec::with_capacity(config.max_targets),
            walker: Walker::new(config.chunk_bytes),
            census: Census::with_ages(config.census_sites, Ages::new(config.census_ages)),
            attribution: None,
            proving: None,
            observing: None,
            scan: Scan::default(),
            figures: Figures::default(),
            commanding: None,
            keeping: Keeping::new(checkpoint, config.checkpoint_ms, now.mono_ms),
            outbox,
            config,
        }
    }

    /// Its own figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let untold: u64 = self.watches.iter().map(|watch| watch.locks.untold).sum();
        Figures {
            targets: u32::try_from(self.watches.len()).unwrap_or(u32::MAX),
            ages_unknown: self.figures.ages_unknown + self.census.untracked() + untold,
            ..self.figures
        }
    }

    /// The targets, and what others may know of each.
    pub fn targets(&self) -> impl Iterator<Item = Watched> + Clone + '_ {
        let probed = self.attribution.as_ref().map(|attribution| attribution.id);
        let proving = self.proving.as_ref().map(|proving| proving.id);
        self.watches.iter().map(move |watch| {
            let rung = match watch.phase {
                _ if proving == Some(watch.id) => Rung::Prove,
                _ if probed == Some(watch.id) => Rung::Attribute,
                Phase::Observing(_) => Rung::Census,
                Phase::Starting { .. } | Phase::Calm { .. } | Phase::Alerted { .. } => Rung::Watch,
            };
            Watched { id: watch.id, rung, waiting: watch.waiting.0 }
        })
    }

    /// An envelope around `body`, for messages that do not go through the outbox.
    #[must_use]
    pub fn envelope(&self, now: Timestamp, body: Body) -> Envelope {
        Envelope {
            device: self.config.device.clone(),
            boot: self.config.boot,
            epoch: self.config.epoch,
            seq: self.outbox.next_seq(),
            at: now,
            losses: Losses::default(),
            body,
        }
    }

    /// Takes one input. Never blocks but for the reads of `process`.
    pub fn step(&mut self, now: Timestamp, input: Input<'_>, effects: &mut Effects) {
        let now_ms = now.mono_ms;
        match input {
            Input::Found { id, name, entry, mut process } => {
                self.found(now_ms, (id, name), entry, &mut process, effects);
            }
            Input::Sample { id, mut process } => self.sample(now, id, &mut process, effects),
            Input::Gone(id) => self.forget(id, effects),
            Input::Hits(hits) => self.hits(now_ms, hits, effects),
            Input::Attributed { id, millis, counts } => self.attributed(id, millis, counts),
            Input::Proved { id, proof } => self.proved(now, id, proof, effects),
            Input::Observing(counted, longest_ns) => self.observing(now_ms, counted, longest_ns, effects),
            Input::Observed { id, observation, mut process } => {
                self.observed(now, id, observation, &mut process, effects);
            }
            Input::NotObserved(id) => self.not_observed(now_ms, id),
            Input::NotAttached(id) => self.attribution = self.attribution.take().filter(|a| a.id != id),
            Input::Command(bytes) => self.command(now, bytes, effects),
            Input::CommandDone { id, outcome } => self.command_done(now, id, outcome, effects),
            Input::Lost(losses) => self.outbox.lost(losses),
            Input::Link(true) => {}
            Input::Link(false) => self.outbox.link_lost(),
            Input::Refused(seq) => self.outbox.refused(seq),
            Input::Acknowledged(seq) => {
                self.outbox.acknowledged(seq);
            }
        }
    }

    fn found(
        &mut self,
        now_ms: u64,
        (id, name): (TargetId, Name),
        entry: Addr,
        process: &mut Process<'_>,
        effects: &mut Effects,
    ) {
        if self.watches.iter().any(|watch| watch.id == id) {
            return;
        }
        // First whether it is Go at all: only then it could take a place.
        let room = self.watches.len() < self.config.max_targets;
        let runtime = Runtime::open(process.image, entry).map_err(Event::NotWatched);
        match runtime.and_then(|runtime| room.then_some(runtime).ok_or(Event::NoPlace)) {
            Ok(runtime) => {
                let (history, told) = self.recall(now_ms, id);
                self.watches.push(Watch {
                    id,
                    name,
                    runtime,
                    counter: Counter::default(),
                    history,
                    phase: Phase::Starting { since_ms: now_ms, told },
                    failures: 0,
                    locks: LockWatch::default(),
                    observe_after_ms: 0,
                    threads_unseen: false,
                    suspicion: Suspicion::begin(now_ms, self.config.prove),
                    asked: false,
                    waiting: (None, 0),
                });
            }
            Err(event) => {
                act(effects, Effect::Note(Note { id, name, event }));
                act(effects, Effect::Forget(id));
            }
        }
    }

    fn forget(&mut self, id: TargetId, effects: &mut Effects) {
        let cut_short = self.attribution.take_if(|a| a.id == id).filter(|a| !a.detaching);
        if let Some(attribution) = cut_short {
            self.figures.charge(attribution.governor.map(|g| g.spent()).unwrap_or_default());
            act(effects, Effect::Detach(id));
        }
        self.stop_observing(id, effects);
        self.stop_proving(id, effects);
        let untold = self.watches.iter().find(|watch| watch.id == id).map_or(0, |watch| watch.locks.untold);
        self.figures.ages_unknown = self.figures.ages_unknown.saturating_add(untold);
        self.watches.retain(|watch| watch.id != id);
        self.census.forget(id.pid);
        act(effects, Effect::Forget(id));
    }

    fn sample(&mut self, now: Timestamp, id: TargetId, process: &mut Process<'_>, effects: &mut Effects) {
        let now_ms = now.mono_ms;
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let confirmed = watch.runtime.confirm(process.memory);
        let count = match confirmed.and_then(|()| watch.counter.count(&watch.runtime, process.memory)) {
            Ok(count) => count,
            Err(error) => return self.count_failed(now_ms, id, error, effects),
        };
        self.figures.counts += 1;
        watch.failures = 0;
        if let Phase::Starting { told, .. } = watch.phase {
            watch.phase = match told {
                // What an earlier agent has said.
                Some(Told { at_s, level }) => Phase::Alerted { at_ms: u64::from(at_s) * 1000, level },
                None => Phase::Calm { not_before_ms: 0, window_s: 0 },
            };
            watch.say(effects, Event::Watching { go: watch.runtime.go, goroutines: count });
        }
        let waits = self.threads(now, id, process, effects);
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let now_s = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let resident_kib = process.footprint.resident_kib().unwrap_or(0);
        let closed = watch.history.add(now_s, count, waits, resident_kib);
        watch.waits(now_s, waits);
        watch.settle(count);
        let probing = self.attribution.as_ref().is_some_and(|a| a.id == id);
        if let Phase::Observing(investigation) = &watch.phase
            && now_ms >= investigation.due_ms
            && !probing
        {
            self.conclude(now, id, count, process, effects);
        } else if let Some(growth) = watch.suspicion(now_ms, count, closed, &self.config) {
            self.observe(now_ms, id, growth, process, effects);
        } else {
            self.climb(now_ms, effects);
        }
    }

    fn count_failed(&mut self, now_ms: u64, id: TargetId, error: Error, effects: &mut Effects) {
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let starting = match watch.phase {
            Phase::Starting { since_ms, .. } => Some(now_ms.saturating_sub(since_ms)),
            _ => None,
        };
        if error == Error::Gone {
            return self.forget(id, effects);
        }
        watch.failures += 1;
        if starting.is_none() {
            self.figures.counts_failed += 1;
            self.outbox.lost(Losses { samples: 1, ..Losses::default() });
            if watch.failures == 1 {
                watch.say(effects, Event::CountFailed(error));
            }
        }
        if starting.map_or(watch.failures >= FAILURES_MAX, |waited| waited >= START_MS) {
            watch.say(effects, Event::NotWatched(error));
            self.forget(id, effects);
        }
    }
}
