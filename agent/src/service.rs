//! The one loop: it alone knows both sides, turns what happens into the engine's inputs and carries out its
//! effects.

mod child;
mod commanding;
mod discovery;
mod documents;
mod figures;
mod probing;
mod proving;
mod refused;
mod sending;
mod spooling;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use glg_engine::detector::{GrowthConfig, GrowthRule};
use glg_engine::engine::Engine;
use glg_engine::governor::HitCost;
use glg_engine::locks::watching::{ContentionConfig, LockConfig};
use glg_engine::step::{
    AttributeConfig, Effect, Effects, EngineConfig, Input, ProveConfig, Severity, TargetId,
};
use glg_proto::wire::{Body, Losses, head};
use log::{Level, info, log, warn};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::clock;
use crate::config::{Config, Trend};
use crate::link::{Airtime, Link, LinkEvent, Message};
use crate::remote::Remote;
use crate::state::State;
use commanding::Commanding;
pub use commanding::RECEIPTS_MAX;
use figures::Figures;
use probing::Probing;
use proving::Proving;
use refused::Refused;
use sending::to_bytes;
use spooling::Spooling;

/// Room for the kernel's process events between two looks, in bytes.
pub const EVENT_BYTES: u32 = 16 * 1024;
/// Processes that have just begun and are waited for.
const NEWBORN_MAX: usize = 256;
/// What processes take that are not watched: those that have just begun, and those that were refused.
pub const BYSTANDERS_BYTES: usize = NEWBORN_MAX * size_of::<(Instant, u32)>() + Refused::BYTES;
/// How often the probes are charged: what is over budget is over for this long at most.
const CHARGE_EVERY: Duration = Duration::from_millis(500);
/// How long the link has for its good-bye.
const GOODBYE: Duration = Duration::from_secs(4);

/// The service's state.
struct Service {
    config: Config,
    engine: Engine,
    /// Open processes; the engine has a target for each.
    remotes: Vec<Remote>,
    probing: Option<Probing>,
    to_link: Sender<Message>,
    airtime: Airtime,
    link_up: bool,
    /// Sequence number of the message the link is busy with.
    sending: Option<u32>,
    /// Birth message that has to go before any alert.
    announce: Option<Vec<u8>>,
    /// The losses that the birth message tells, until it is acknowledged.
    announced: Losses,
    refused: Refused,
    /// Whether the log has said that a process could not be opened.
    said_denied: bool,
    figures: Figures,
    spooling: Spooling,
    /// Nothing while commands are off.
    commanding: Option<Commanding>,
    proving: Proving,
    /// What others may know.
    state: State,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the configured password file cannot be read or signals cannot be caught. Everything else is said in
/// the log and lived with.
pub async fn run(config: Config, board: &Path) -> anyhow::Result<()> {
    let mut probing = Probing::start(&config);
    let cost = probing.as_mut().and_then(Probing::calibrate);
    let observes = probing.as_ref().is_some_and(Probing::can_observe);
    let flash = spooling::flash(&config);
    let mut engine = Engine::open(engine_config(&config, cost, observes), flash, clock::now());
    spooling::say_found(&engine);
    let commanding = commanding::start(&config, board, &mut engine);
    let will = engine.envelope(clock::now(), Body::Vanished);
    let link = Link::new(&config, to_bytes(&will), commanding.is_some())?;
    let airtime = link.airtime();
    let (to_link, messages) = channel(1);
    let (events, mut from_link) = channel(4);
    let link = tokio::spawn(link.run(messages, events));
    let mut service = Service {
        engine,
        remotes: Vec::new(),
        probing,
        to_link,
        airtime,
        link_up: false,
        sending: None,
        announce: None,
        announced: Losses::default(),
        refused: Refused::new(),
        said_denied: false,
        figures: Figures::new(),
        spooling: Spooling::new(&config),
        commanding,
        proving: Proving::new(&config.prove, board),
        state: State::new(&config.service.state, config.watch.max_targets as usize),
        config,
    };
    service.scan();
    service.state.publish(service.engine.targets());
    // Who reads that it is ready may end it from then on.
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    info!("ready: watching {} targets", service.engine.figures().targets);
    let turned = service.turn(&mut from_link, &mut signals).await;
    service.state.remove();
    turned?;
    info!("stopping");
    // What the broker has been told that we have is ours to deal with.
    while let Ok(event) = from_link.try_recv() {
        service.link_event(Some(event));
    }
    service.say_offline().await;
    let Service { mut engine, to_link, .. } = service;
    drop(to_link); // the link finishes what is under way, says good-bye and ends
    let goodbye = async {
        while let Some(event) = from_link.recv().await {
            if let LinkEvent::Acknowledged(seq) = event {
                engine.outbox.acknowledged(seq);
            }
        }
        link.await
    };
    if timeout(GOODBYE, goodbye).await.is_err() {
        warn!("the link did not end in time");
    }
    spooling::close_down(&mut engine);
    Ok(())
}

impl Service {
    async fn turn(
        &mut self,
        from_link: &mut Receiver<LinkEvent>,
        [terminate, interrupt]: &mut [Signal; 2],
    ) -> anyhow::Result<()> {
        let mut tick = interval(Duration::from_millis(u64::from(self.config.watch.interval_ms)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut rescan = interval(Duration::from_secs(u64::from(self.config.watch.rescan_s)));
        rescan.set_missed_tick_behavior(MissedTickBehavior::Skip);
        rescan.tick().await; // the first is due at once, and was done
        let mut charge = interval(CHARGE_EVERY);
        // A late one must not be followed by one that judges a few milliseconds.
        charge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let kernel = self.probing.as_ref().map(kernel_descriptor).transpose()?;
        // Processes that have just begun, and when to look at them.
        let mut newborn: VecDeque<(Instant, u32)> = VecDeque::new();
        loop {
            let first_look = newborn.front().map(|(when, _)| *when);
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = tick.tick() => self.tick(),
                _ = charge.tick() => self.charge(),
                _ = rescan.tick() => self.scan(),
                event = from_link.recv() => self.link_event(event),
                (id, outcome) = commanding::made(self.commanding.as_mut()) => self.command_done(id, outcome),
                (id, proof) = self.proving.proved() => self.proved(id, proof.as_ref()),
                ready = readable(kernel.as_ref()) => {
                    let mut ready = ready?;
                    if !self.kernel_events(&mut newborn) {
                        ready.clear_ready();
                    }
                }
                () = sleep_until(first_look.unwrap_or_else(Instant::now)), if first_look.is_some() => {
                    if let Some((_, pid)) = newborn.pop_front() {
                        self.discover(pid);
                    }
                }
            }
            self.send();
            self.state.publish(self.engine.targets());
        }
    }

    /// Looks at every target once.
    fn tick(&mut self) {
        let ids: Vec<TargetId> = self.remotes.iter().map(|remote| remote.id).collect();
        for id in ids {
            let Some(remote) = self.remotes.iter_mut().find(|remote| remote.id == id) else { continue };
            let mut effects = Effects::new();
            let input = Input::Sample { id, process: remote.process() };
            self.engine.step(clock::now(), input, &mut effects);
            self.carry_out(effects);
        }
        self.figures.tick(&self.engine);
        self.tend_spool();
    }

    /// Charges the probes for their hits, and notes what the kernel had to drop.
    fn charge(&mut self) {
        let Some(probing) = &mut self.probing else { return };
        let (hits, losses) = probing.read_counters();
        let observing = probing.observing();
        if losses != Losses::default() {
            self.input(Input::Lost(losses));
        }
        if let Some(hits) = hits {
            self.input(Input::Hits(hits));
        }
        if let Some((counted, longest_ns)) = observing {
            self.input(Input::Observing(counted, longest_ns));
        }
    }

    /// Gives the engine an input that needs no process, and does what it says.
    fn input(&mut self, input: Input<'_>) {
        let mut effects = Effects::new();
        self.engine.step(clock::now(), input, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Forget(id) => self.remotes.retain(|remote| remote.id != id),
                Effect::Note(note) => {
                    if note.event.is_refusal() {
                        self.refuse(note.id.pid);
                    }
                    let level = match note.event.severity() {
                        Severity::Warning => Level::Warn,
                        Severity::Info => Level::Info,
                        Severity::Detail => Level::Trace,
                    };
                    log!(level, "{note}");
                }
                Effect::Attach { id, create, exit, gopc_offset } => {
                    let remote = self.remotes.iter().find(|remote| remote.id == id);
                    let attached = match self.probing.as_mut().zip(remote) {
                        Some((probing, remote)) => probing.attach(remote, create, exit, gopc_offset),
                        None => false,
                    };
                    // The first charge only notes where the counters stand: at once, so that every hit counts.
                    match attached {
                        true => self.charge(),
                        false => self.input(Input::NotAttached(id)),
                    }
                }
                Effect::Observe { id, go_code, long_ns } => {
                    let probing = self.probing.as_mut();
                    if !probing.is_some_and(|probing| probing.observe(id, go_code, long_ns)) {
                        self.input(Input::NotObserved(id));
                    }
                }
                Effect::Prove { id, growing } => self.prove(id, &growing),
                Effect::EndProof(id) => self.proving.end(id),
                Effect::EndObservation(id) => self.end_observation(id),
                effect @ (Effect::Answer { .. }
                | Effect::Make { .. }
                | Effect::MakeAudit { .. }
                | Effect::SendAgain { .. }) => self.obey(effect),
                Effect::Detach(id) => {
                    let Some(probing) = &mut self.probing else { continue };
                    let (millis, counts) = probing.detach(id);
                    self.input(Input::Attributed { id, millis, counts: &counts });
                }
            }
        }
    }

    /// Ends the observation of a target and tells the engine what it has shown.
    fn end_observation(&mut self, id: TargetId) {
        let observation = self.probing.as_mut().and_then(|probing| probing.end_observation(id));
        let remote = self.remotes.iter_mut().find(|remote| remote.id == id);
        let (Some(mut observation), Some(remote)) = (observation, remote) else {
            return self.input(Input::NotObserved(id));
        };
        let mut effects = Effects::new();
        let input = Input::Observed { id, observation: &mut observation, process: remote.process() };
        self.engine.step(clock::now(), input, &mut effects);
        self.carry_out(effects);
    }
}

#[expect(
    deprecated,
    reason = "deprecated for types whose descriptor may be closed behind its back; an OwnedFd's cannot"
)]
fn kernel_descriptor(probing: &Probing) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(probing.events()?, Interest::READABLE)
}

/// Waits for process events; for ever where there are none.
async fn readable(
    kernel: Option<&AsyncFd<OwnedFd>>,
) -> std::io::Result<tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>> {
    match kernel {
        Some(kernel) => kernel.readable().await,
        None => std::future::pending().await,
    }
}

/// The engine's part of the board config.
fn engine_config(config: &Config, cost: Option<HitCost>, observes: bool) -> EngineConfig {
    let rule = |t: Trend| GrowthRule {
        window_s: t.window_s,
        min_rise: t.min_rise,
        min_ratio_percent: t.min_ratio_percent,
    };
    let now = clock::now();
    let attribute = &config.attribute;
    EngineConfig {
        device: head(&config.device.name),
        boot: clock::boot_id(),
        epoch: u32::try_from(now.mono_ms / 1000).unwrap_or(u32::MAX),
        max_targets: config.watch.max_targets as usize,
        history: config.history.to_engine(),
        growth: GrowthConfig {
            fast: rule(config.growth.fast),
            medium: rule(config.growth.medium),
            slow: rule(config.growth.slow),
            confirm_s: config.growth.confirm_s,
        },
        remind_s: config.growth.remind_s,
        census_goroutines: u64::from(config.census.max_goroutines),
        census_sites: config.census.max_sites as usize,
        census_ages: config.census.max_ages as usize,
        chunk_bytes: config.census.chunk_bytes as usize,
        attribute: cost.filter(|_| attribute.enabled).map(|cost| AttributeConfig {
            millis: u64::from(attribute.seconds) * 1000,
            budget_percent: attribute.budget_percent,
            cost,
        }),
        prove: config
            .prove
            .on_growth
            .then(|| ProveConfig { every_ms: u64::from(config.prove.every_h) * 3_600_000 }),
        locks: config.locks.enabled.then(|| LockConfig {
            limits: config.locks.limits(),
            deadlock_ms: u64::from(config.locks.deadlock_s) * 1000,
            wait_ms: u64::from(config.locks.wait_s) * 1000,
            remind_ms: u64::from(config.growth.remind_s) * 1000,
            threads: rule(config.locks.threads),
            contention: observes.then(|| ContentionConfig {
                millis: u64::from(config.locks.contention_s) * 1000,
                percent: config.locks.contended_percent,
                budget_percent: config.attribute.budget_percent,
            }),
        }),
        checkpoint_ms: u64::from(config.spool.checkpoint_min) * 60_000,
        outbox: config.outbox_limits(),
    }
}
