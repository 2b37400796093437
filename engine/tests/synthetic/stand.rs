//! An engine with one process, a clock that is only a number, and everything the engine has said.

use glg_engine::detector::{GrowthConfig, GrowthRule};
use glg_engine::engine::Engine;
use glg_engine::footprint::{Footprint, Room};
use glg_engine::governor::HitCost;
use glg_engine::history::{HistoryConfig, Resolution};
use glg_engine::memory::Addr;
use glg_engine::outbox::OutboxConfig;
use glg_engine::step::{AttributeConfig, Effect, Effects, EngineConfig, Event, Input, Process, TargetId};
use glg_proto::wire::{Body, ClockQuality, Envelope, Leak, Timestamp, decode, head};

use crate::fake::{FakeProcess, G, blocked, go124};
use crate::locking::FakeThreads;
use crate::program::{ENTRY, function};

pub(crate) const ID: TargetId = TargetId { pid: 1412, start: 77 };

pub(crate) fn config() -> EngineConfig {
    let ring = |step_s, keep| Resolution { step_s, keep };
    let rule = |window_s, min_rise, min_ratio_percent| GrowthRule { window_s, min_rise, min_ratio_percent };
    EngineConfig {
        device: head("van-7"),
        boot: [7; 8],
        epoch: 5,
        max_targets: 2,
        history: HistoryConfig { fine: ring(1, 300), middle: ring(60, 240), coarse: ring(900, 672) },
        growth: GrowthConfig {
            fast: rule(24, 200, 100),
            medium: rule(1800, 100, 50),
            slow: rule(86_400, 50, 20),
            confirm_s: 10,
        },
        remind_s: 600,
        census_goroutines: 100_000,
        census_sites: 64,
        census_ages: 1024,
        chunk_bytes: 1 << 16,
        attribute: Some(AttributeConfig {
            millis: 8000,
            budget_percent: 1.0,
            cost: HitCost { emulated_ns: 1000.0, stepped_ns: 12_000.0 },
        }),
        prove: None,
        locks: Some(crate::locking::CONFIG),
        checkpoint_ms: 3_600_000,
        outbox: OutboxConfig::in_memory(4),
    }
}

/// Memory that a process takes, and may take.
#[derive(Default)]
pub(crate) struct FakeFootprint {
    pub(crate) resident_kib: Option<u32>,
    pub(crate) room: Option<Room>,
}

impl Footprint for FakeFootprint {
    fn resident_kib(&mut self) -> Option<u32> {
        self.resident_kib
    }

    fn room(&mut self) -> Option<Room> {
        self.room
    }
}

/// An engine, one process, and everything the engine has said.
pub(crate) struct Stand {
    pub(crate) engine: Engine,
    pub(crate) process: FakeProcess,
    pub(crate) threads: FakeThreads,
    pub(crate) footprint: FakeFootprint,
    pub(crate) now_ms: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) effects: Vec<Effect>,
}

impl Stand {
    pub(crate) fn new(config: EngineConfig) -> Stand {
        Stand {
            engine: Engine::new(config),
            process: FakeProcess::new(go124()),
            threads: FakeThreads::default(),
            footprint: FakeFootprint::default(),
            now_ms: 1000,
            events: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// A process that is watched, with a calm past.
    pub(crate) fn watched(config: EngineConfig) -> Stand {
        let mut stand = Stand::new(config);
        stand.process.set_ps(&[0]);
        stand.found(ID);
        stand.run(40, |_| 100);
        assert!(matches!(stand.events[..], [Event::Watching { goroutines: 100, .. }]), "{:?}", stand.events);
        stand.events.clear();
        stand
    }

    pub(crate) fn found(&mut self, id: TargetId) {
        self.step(|process| Input::Found { id, name: head("gateway"), entry: Addr(ENTRY), process });
    }

    pub(crate) fn step<'a>(&'a mut self, input: impl FnOnce(Process<'a>) -> Input<'a>) {
        let (memory, image) = (&mut self.process.space, &mut self.process.file);
        let (threads, footprint) = (&mut self.threads, &mut self.footprint);
        let process = Process { memory, image, threads, footprint };
        let now = Timestamp { mono_ms: self.now_ms, wall_ms: 0, clock: ClockQuality::Wrong };
        let mut effects = Effects::new();
        self.engine.step(now, input(process), &mut effects);
        for effect in effects {
            match effect {
                Effect::Note(note) => self.events.push(note.event),
                effect => self.effects.push(effect),
            }
        }
    }

    pub(crate) fn plain<'a>(&'a mut self, input: Input<'a>) {
        self.step(|_| input);
    }

    /// One second with `leaked` goroutines and 30 others.
    pub(crate) fn tick(&mut self, goroutines: u32) {
        self.now_ms += 1000;
        let other = |goid| G { gopc: function("main.poll") + 0x33, wait: "select", ..blocked(goid) };
        let goids = 1..=u64::from(goroutines);
        self.process
            .set_gs(&goids.map(|id| if id <= 30 { other(id) } else { blocked(id) }).collect::<Vec<_>>());
        self.sample();
    }

    pub(crate) fn sample(&mut self) {
        self.step(|process| Input::Sample { id: ID, process });
    }

    pub(crate) fn run(&mut self, seconds: u32, goroutines: impl Fn(u32) -> u32) {
        (0..seconds).for_each(|second| self.tick(goroutines(second)));
    }

    /// Leaks 20 a second until the engine says what `wanted` fits; the number of goroutines then.
    pub(crate) fn leak_until(&mut self, from: u32, wanted: impl Fn(&Event) -> bool) -> u32 {
        for second in 1..200 {
            self.tick(from + 20 * second);
            if self.events.iter().any(&wanted) {
                return from + 20 * second;
            }
        }
        panic!("not within 200 s: {:?}", self.events);
    }

    pub(crate) fn alert(&mut self) -> Option<(Envelope, Leak)> {
        let envelope = self.message()?;
        let Body::Leak(leak) = envelope.body.clone() else { panic!("{envelope:?}") };
        Some((envelope, leak))
    }

    pub(crate) fn message(&mut self) -> Option<Envelope> {
        let (seq, bytes) = self.engine.outbox.send_next()?;
        assert!(bytes.len() <= 256);
        let envelope = decode(bytes).unwrap();
        assert_eq!(envelope.seq, seq);
        self.plain(Input::Acknowledged(seq));
        Some(envelope)
    }
}

pub(crate) fn growing(event: &Event) -> bool {
    matches!(event, Event::Growing { .. })
}

pub(crate) fn concluded(event: &Event) -> bool {
    matches!(event, Event::Leaking { .. } | Event::NotConfirmed)
}
