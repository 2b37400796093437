//! What outlives an agent: the history of its targets, and what it has said of them.

use glg_engine::engine::Engine;
use glg_engine::flash::{InMemory, Kind};
use glg_engine::outbox::OutboxConfig;
use glg_engine::spool::budget::Share;
use glg_engine::step::{EngineConfig, Event};
use glg_proto::wire::{ClockQuality, Timestamp};

use crate::stand::{ID, Stand, concluded, config, growing};

/// With flash, and without the rules that see growth sooner.
fn with_flash() -> EngineConfig {
    let outbox = OutboxConfig {
        messages: 64,
        max_bytes: 64 << 10,
        segment_bytes: 4096,
        write_bytes_per_day: 1 << 20,
        ..OutboxConfig::in_memory(8)
    };
    let mut config = EngineConfig { outbox, attribute: None, locks: None, ..config() };
    config.growth.fast.min_rise = 1_000_000;
    config.growth.medium.min_rise = 1_000_000;
    config.growth.slow.window_s = 3 * 86_400;
    config
}

fn at(mono_ms: u64) -> Timestamp {
    Timestamp { mono_ms, wall_ms: 0, clock: ClockQuality::Wrong }
}

/// Another agent takes over; the process goes on.
fn restart(stand: &mut Stand, disk: &InMemory, config: EngineConfig) {
    stand.engine.checkpoint(Share::All).unwrap();
    stand.now_ms += 20_000;
    stand.engine = Engine::open(config, Box::new(disk.clone()), at(stand.now_ms));
    assert_eq!(stand.engine.remembered(), 1);
    stand.events.clear();
    stand.found(ID);
}

/// A look each minute, for so many hours; one goroutine more each hour. Whether it was seen to grow.
fn leak(stand: &mut Stand, goroutines: &mut u32, hours: u32) -> bool {
    for minute in 0..hours * 60 {
        stand.now_ms += 59_000;
        *goroutines += u32::from(minute % 60 == 0);
        stand.tick(*goroutines);
        stand.engine.tend(at(stand.now_ms));
    }
    stand.events.iter().any(growing)
}

#[test]
fn a_leak_of_three_days_is_seen_although_the_agent_was_replaced() {
    let seen = |restarts: &[u32], remembers: bool| {
        let disk = InMemory::default();
        let mut stand = Stand::new(with_flash());
        stand.engine = Engine::open(with_flash(), Box::new(disk.clone()), at(stand.now_ms));
        stand.process.set_ps(&[0]);
        stand.found(ID);
        let mut goroutines = 100;
        let mut grew = false;
        for hours in restarts {
            grew |= leak(&mut stand, &mut goroutines, *hours);
            if remembers {
                restart(&mut stand, &disk, with_flash());
            } else {
                stand.engine = Engine::new(with_flash());
                stand.found(ID);
            }
        }
        assert!(!grew, "before there are three days of it");
        leak(&mut stand, &mut goroutines, 30)
    };
    assert!(seen(&[24, 24], true), "not seen");
    assert!(!seen(&[24, 24], false), "seen without what was remembered: the test shows nothing");
}

#[test]
fn what_was_said_is_not_said_again() {
    let disk = InMemory::default();
    let config = || {
        let mut config =
            EngineConfig { outbox: with_flash().outbox, attribute: None, locks: None, ..config() };
        config.remind_s = 3600;
        config
    };
    let mut stand = Stand::new(config());
    stand.engine = Engine::open(config(), Box::new(disk.clone()), at(stand.now_ms));
    stand.process.set_ps(&[0]);
    stand.found(ID);
    stand.run(40, |_| 100);
    let level = stand.leak_until(100, concluded);
    assert!(stand.events.iter().any(|event| matches!(event, Event::Leaking { .. })));
    restart(&mut stand, &disk, config());
    stand.run(120, |second| level + second);
    assert!(!stand.events.iter().any(growing), "{:?}", stand.events);
    // Without what was remembered, it is.
    stand.engine = Engine::new(config());
    stand.found(ID);
    stand.run(120, |second| level + 60 * second);
    assert!(stand.events.iter().any(growing), "the test shows nothing");
}

/// Whatever bit of a checkpoint is turned, and wherever it is cut: the agent starts, and what it remembers was true.
#[test]
fn damaged_checkpoints_are_survived() {
    let disk = InMemory::default();
    let mut stand = Stand::new(with_flash());
    stand.engine = Engine::open(with_flash(), Box::new(disk.clone()), at(stand.now_ms));
    stand.process.set_ps(&[0]);
    stand.found(ID);
    leak(&mut stand, &mut 100, 5);
    let bytes = stand.engine.checkpoint(Share::All).unwrap();
    println!("5 hours of one target: {bytes} bytes");
    let (file, whole) =
        disk.0.borrow().iter().find(|(f, _)| f.kind == Kind::History).map(|(f, b)| (*f, b.clone())).unwrap();
    let remembered = |bytes: Vec<u8>| {
        let disk = InMemory::default();
        disk.0.borrow_mut().insert(file, bytes);
        Engine::open(with_flash(), Box::new(disk), at(stand.now_ms)).remembered()
    };
    assert_eq!(remembered(whole.clone()), 1);
    for end in 0..whole.len() {
        assert_eq!(remembered(whole[..end].to_vec()), 0, "cut at {end}");
    }
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(remembered(damaged), 0, "bit {bit}");
    }
    let mut other_boot = with_flash();
    other_boot.boot = [8; 8];
    assert_eq!(Engine::open(other_boot, Box::new(disk), at(0)).remembered(), 0);
}
