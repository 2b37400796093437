//! Commands while the power goes: none is carried out twice, whatever was cut, and every one can be answered.

use std::collections::BTreeMap;

use glg_engine::command::{CommandKey, Crypto, Roles};
use glg_engine::detector::{GrowthConfig, GrowthRule};
use glg_engine::engine::Engine;
use glg_engine::history::{HistoryConfig, Resolution};
use glg_engine::outbox::OutboxConfig;
use glg_engine::step::{Effect, Effects, EngineConfig, Input};
use glg_proto::command::{
    Action, Command, Failure, KeyId, Outcome, PublicKey, Refusal, Setting, Signature, Until, sign_command,
};
use glg_proto::wire::{ClockQuality, Timestamp, head};

use crate::disk::{Disk, Moment};
use crate::work::Day;

const KEY: PublicKey = [3; 32];
const BOOT: [u8; 8] = [7; 8];
const COMMANDS: u64 = 12;

struct Credulous;

impl Crypto for Credulous {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        out[..4].copy_from_slice(&glg_engine::crc::of(&parts.concat()).to_le_bytes());
        out
    }
}

fn config() -> EngineConfig {
    let ring = Resolution { step_s: 1, keep: 10 };
    let rule = GrowthRule { window_s: 8, min_rise: 1, min_ratio_percent: 1 };
    EngineConfig {
        device: head("van-7"),
        boot: BOOT,
        epoch: 5,
        max_targets: 1,
        history: HistoryConfig { fine: ring, middle: ring, coarse: ring },
        growth: GrowthConfig { fast: rule, medium: rule, slow: rule, confirm_s: 1 },
        remind_s: 600,
        census_goroutines: 100,
        census_sites: 16,
        census_ages: 16,
        chunk_bytes: 4096,
        attribute: None,
        locks: None,
        prove: None,
        checkpoint_ms: 3_600_000,
        outbox: OutboxConfig::in_memory(4),
    }
}

fn at(mono_ms: u64) -> Timestamp {
    // Before all commands, so that damage does not use them up.
    Timestamp { mono_ms, wall_ms: 1, clock: ClockQuality::Free }
}

/// An agent, and how often each command was carried out over all its lives.
struct Obeying {
    disk: Disk,
    engine: Option<Engine>,
    /// Answers are limited in time.
    now_ms: u64,
    runs: BTreeMap<u64, u32>,
}

impl Obeying {
    fn new(disk: &Disk) -> Obeying {
        let mut obeying = Obeying { disk: disk.clone(), engine: None, now_ms: 0, runs: BTreeMap::new() };
        obeying.begin();
        obeying
    }

    /// Without storage there are no commands.
    fn begin(&mut self) {
        let mut engine = Engine::new(config());
        let key = CommandKey { key: KEY, roles: Roles { set: true, ..Roles::default() } };
        let obeys = engine.obey(at(self.now_ms), &[key], Box::new(self.disk.clone()), Box::new(Credulous));
        self.engine = obeys.is_ok().then_some(engine);
    }

    /// Sends a command, and returns what is said to it.
    fn send(&mut self, counter: u64) -> Option<Outcome> {
        self.now_ms += 10_000;
        let engine = self.engine.as_mut()?;
        let action = Action::Set(Setting::RemindS(60));
        let command = Command { device: head("van-7"), counter, until: Until::Boot(BOOT, u64::MAX), action };
        let bytes = sign_command(&command, KeyId::of(&KEY), |_| [counter as u8; 64]).unwrap();
        let before = engine.command_figures().unwrap().run;
        let mut effects = Effects::new();
        engine.step(at(self.now_ms), Input::Command(&bytes), &mut effects);
        let ran = engine.command_figures().unwrap().run - before;
        let [Effect::Answer { outcome, .. }] = &effects[..] else { panic!("{effects:?}") };
        if ran > 0 && *outcome != Outcome::Refused(Refusal::NotRecorded) {
            *self.runs.entry(counter).or_default() += 1;
        }
        Some(outcome.clone())
    }

    fn check(&self, when: &str) {
        let twice: Vec<_> = self.runs.iter().filter(|(_, runs)| **runs > 1).collect();
        assert!(twice.is_empty(), "{when}: carried out more than once: {twice:?}");
    }
}

/// The operator sends each command until it is answered, and the one before once more.
fn work(obeying: &mut Obeying) {
    for counter in 1..=COMMANDS {
        for sent in [counter, counter, counter - 1] {
            if sent > 0 && !obeying.disk.is_off() {
                obeying.send(sent);
            }
        }
    }
}

#[test]
fn no_command_is_carried_out_twice() {
    let disk = Disk::new(1, Day::Usual);
    let mut obeying = Obeying::new(&disk);
    work(&mut obeying);
    assert_eq!(obeying.runs.len(), COMMANDS as usize, "without a power cut each is carried out");
    obeying.check("without a power cut");
    let operations = disk.operations();
    let mut points = 0;
    for seed in 0..4 {
        for at in 1..=operations {
            for moment in Moment::ALL {
                let when = format!("seed {seed}, {moment:?} operation {at}");
                let disk = Disk::new(seed ^ at << 8, Day::Usual);
                disk.cut_at(at, moment);
                let mut obeying = Obeying::new(&disk);
                work(&mut obeying);
                assert!(disk.is_off(), "{when}: not reached");
                disk.power_on();
                obeying.begin();
                assert!(obeying.engine.is_some(), "{when}: it does not start");
                // All again, from the first on, as an operator may who has had no answer.
                work(&mut obeying);
                obeying.check(&when);
                let last = obeying.send(COMMANDS).unwrap();
                let answered = matches!(last, Outcome::Set | Outcome::Failed(Failure::Interrupted));
                assert!(answered, "{when}: {last:?}");
                points += 1;
            }
        }
    }
    println!("{points} crash points");
    assert!(points >= 500, "{points} crash points only");
}
