//! What the engine does about locks that are fought for: an observation in the kernel on suspicion, within a time and
//! a budget, and an alert when one of them is waited for too much.

use glg_proto::locks::{Contention, LockKind, Stuck};
use glg_proto::wire::{Body, Losses, Timestamp};

use super::Engine;
use super::locking::in_go;
use crate::contention::{Contended, Counted, LONG_NS, Observation};
use crate::governor::Meter;
use crate::locks::mutex::may_be_lock;
use crate::locks::scan::{Scan, Subject, Waiter};
use crate::locks::watching::ContentionConfig;
use crate::memory::Addr;
use crate::step::{Effect, Effects, Event, Note, Process, TargetId};
use crate::watch::{Watch, act};

/// Locks of which it is noted who was met waiting.
const MET_MAX: usize = 8;
/// After an observation that showed nothing to tell, this part of the time before the same is told again goes by.
const CALM_PART: u64 = 6;

/// An observation under way.
pub(super) struct Observing {
    pub(super) id: TargetId,
    until_ms: u64,
    meter: Meter,
    last: Counted,
    ending: bool,
    /// Who was met waiting.
    met: heapless::Vec<Met, MET_MAX>,
}

/// Who was met waiting for a futex.
struct Met {
    word: Addr,
    waiter: Stuck,
    /// Whether it still waited when its functions had been looked up.
    named: bool,
}

impl Engine {
    /// After the threads of a target were glanced at: begins to observe it when its locks are fought for, or notes who
    /// waits while it is observed.
    pub(super) fn contention(
        &mut self,
        now_ms: u64,
        id: TargetId,
        process: &mut Process<'_>,
        effects: &mut Effects,
    ) {
        let Some(limits) = self.config.locks else { return };
        let Some(config) = limits.contention else { return };
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        match &mut self.observing {
            Some(observing) if observing.id == id => {
                let Process { memory, image, threads, .. } = process;
                let runtime = &watch.runtime;
                let mut subject = Subject { runtime, memory: *memory, image: *image, threads: *threads };
                // Who cannot be looked at now may be at the next tick.
                if self.scan.look(&mut subject, limits.limits).is_ok() {
                    observing.meet(watch, &self.scan, process);
                }
            }
            Some(_) => {}
            None if now_ms >= watch.observe_after_ms && watch.locks.is_fought() => {
                self.observing = Some(Observing::begin(id, now_ms, &config));
                watch.say(effects, Event::Observing);
                let go_code = watch.runtime.go_code();
                act(effects, Effect::Observe { id, go_code, long_ns: LONG_NS });
            }
            None => {}
        }
    }

    /// What has been counted: charges it, and ends the observation when its time or its budget is over.
    pub(super) fn observing(
        &mut self,
        now_ms: u64,
        counted: Counted,
        longest_ns: u64,
        effects: &mut Effects,
    ) {
        let Some(observing) = self.observing.as_mut().filter(|observing| !observing.ending) else { return };
        let new = counted.since(core::mem::replace(&mut observing.last, counted));
        let over_budget = observing.meter.charge(now_ms, new.switches, new.cost_ns());
        let id = observing.id;
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        watch.history.waited(u16::try_from(longest_ns / 1_000_000_000).unwrap_or(u16::MAX));
        if !over_budget && now_ms < observing.until_ms {
            return;
        }
        observing.ending = true;
        let spent = observing.meter.spent();
        self.figures.charge(spent);
        watch.say(effects, Event::Probed { spent, over_budget });
        act(effects, Effect::EndObservation(id));
    }

    /// What an observation has shown.
    pub(super) fn observed(
        &mut self,
        now: Timestamp,
        id: TargetId,
        observation: &mut Observation,
        process: &mut Process<'_>,
        effects: &mut Effects,
    ) {
        let Some(observing) = self.observing.take_if(|observing| observing.id == id) else { return };
        let Some(limits) = self.config.locks else { return };
        let Some(config) = limits.contention else { return };
        let lost = observation.evicted.waits.saturating_add(observation.counted.lost());
        let records = u32::try_from(lost).unwrap_or(u32::MAX);
        self.outbox.lost(Losses { records, ..Losses::default() });
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let Process { memory, image, threads, .. } = process;
        let runtime = &watch.runtime;
        let mut subject = Subject { runtime, memory: *memory, image: *image, threads: *threads };
        // Of a process that ends meanwhile nothing more is told.
        let listed = self.scan.glance(&mut subject, limits.limits);
        if listed.and_then(|()| observation.classify(self.scan.tids(), process.memory)).is_err() {
            return;
        }
        let now_ms = now.mono_ms;
        watch.observe_after_ms = now_ms.saturating_add(limits.remind_ms / CALM_PART);
        let found = observation.contended(config.percent);
        let Some(lock) = found.filter(|lock| watch.locks.tell_contention(now_ms, lock.at, limits.remind_ms))
        else {
            return watch.say(effects, Event::NotContended);
        };
        watch.observe_after_ms = now_ms.saturating_add(limits.remind_ms);
        let waiter = observing.waiter(lock);
        watch.say(effects, event(lock, &waiter, observation));
        self.figures.alerts += 1;
        let body = body(watch, lock, waiter, observation);
        let note = Note { id, name: watch.name.clone(), event: Event::AlertTooLarge };
        let envelope = self.envelope(now, Body::Contention(body));
        if self.outbox.push(envelope).is_err() {
            act(effects, Effect::Note(note));
        }
    }

    /// The target is gone: its observation ends without a word.
    pub(super) fn stop_observing(&mut self, id: TargetId, effects: &mut Effects) {
        let cut_short = self.observing.take_if(|observing| observing.id == id).filter(|o| !o.ending);
        if let Some(observing) = cut_short {
            self.figures.charge(observing.meter.spent());
            act(effects, Effect::EndObservation(id));
        }
    }

    /// It could not be observed: not soon again.
    pub(super) fn not_observed(&mut self, now_ms: u64, id: TargetId) {
        self.observing = self.observing.take().filter(|observing| observing.id != id);
        let remind_ms = self.config.locks.map_or(0, |limits| limits.remind_ms);
        if let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) {
            watch.observe_after_ms = now_ms.saturating_add(remind_ms);
        }
    }
}

impl Observing {
    fn begin(id: TargetId, now_ms: u64, config: &ContentionConfig) -> Observing {
        Observing {
            id,
            until_ms: now_ms.saturating_add(config.millis),
            meter: Meter::start(config.budget_percent, now_ms),
            last: Counted::default(),
            ending: false,
            met: heapless::Vec::new(),
        }
    }

    /// Notes who waits now, one for each lock.
    fn meet(&mut self, watch: &Watch, scan: &Scan, process: &mut Process<'_>) {
        for waiter in scan.waiters.iter().filter(|waiter| may_be_lock(&waiter.futex, waiter.call.sp)) {
            let word = waiter.futex.word;
            let known = self.met.iter().position(|met| met.word == word);
            let is_named = known.and_then(|at| self.met.get(at)).is_some_and(|met| met.named);
            if is_named || known.is_none() && self.met.is_full() {
                continue;
            }
            let met = Met::new(watch, process, waiter);
            match known.and_then(|at| self.met.get_mut(at)) {
                Some(before) => *before = met,
                None => _ = self.met.push(met),
            }
        }
    }

    /// Who was met waiting for a lock; without a thread when nobody was.
    fn waiter(&self, lock: &Contended) -> Stuck {
        let nobody = Stuck {
            tid: 0,
            goid: 0,
            kind: LockKind::Futex,
            lock: 0,
            c_function: heapless::String::new(),
            go_function: heapless::String::new(),
            line: 0,
        };
        let met = self.met.iter().find(|met| met.word == lock.word).map(|met| met.waiter.clone());
        Stuck { kind: lock.kind, lock: lock.at.0, ..met.unwrap_or(nobody) }
    }
}

impl Met {
    /// One who waits, with the names that could be looked up before it went on: those of Go are found sooner.
    fn new(watch: &Watch, process: &mut Process<'_>, waiter: &Waiter) -> Met {
        let (tid, goroutine) = (waiter.tid.inner, waiter.goroutine.as_ref());
        let mut met = in_go(watch, process, tid, goroutine, waiter.lock.at.0);
        let waits = |process: &mut Process<'_>| process.threads.switches(waiter.tid) == Ok(waiter.switches);
        let mut named = waits(process);
        if named {
            met.c_function = process.threads.asked_by(process.memory, &watch.runtime, waiter);
            named = waits(process);
        } else {
            (met.go_function, met.line) = (heapless::String::new(), 0);
        }
        if !named {
            met.c_function.clear();
        }
        Met { word: waiter.futex.word, waiter: met, named }
    }
}

fn event(lock: &Contended, waiter: &Stuck, observation: &Observation) -> Event {
    Event::Contended {
        kind: lock.kind,
        waits: lock.waits,
        percent: lock.total_ns.saturating_mul(100) / observation.observed_ns.max(1),
        longest_ms: lock.longest_ns / 1_000_000,
        function: waiter.c_function.clone(),
    }
}

fn body(watch: &Watch, lock: &Contended, waiter: Stuck, observation: &Observation) -> Contention {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let (us, ms) = (|ns: u64| narrow(ns / 1000), |ns: u64| narrow(ns / 1_000_000));
    Contention {
        target: watch.describe(),
        observed_ms: ms(observation.observed_ns),
        waits: narrow(lock.waits),
        total_ms: ms(lock.total_ns),
        longest_us: us(lock.longest_ns),
        median_us: us(lock.quantile_ns(50)),
        p99_us: us(lock.quantile_ns(99)),
        waiter,
    }
}
