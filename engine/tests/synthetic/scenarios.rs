//! Whole investigations through `Engine::step`: from growth to an alert.

use glg_engine::investigation::CreationCount;
use glg_engine::memory::Addr;
use glg_engine::step::{Effect, EngineConfig, Event, Input};
use glg_proto::wire::{Attributed, Wait};

use crate::fake::{FakeProcess, blocked, rows};
use crate::program::{BASE, FUNCTION_LEN, function};
use crate::stand::{ID, Stand, concluded, config, growing};

#[test]
fn a_leak_goes_from_growth_over_the_probes_to_an_alert() {
    let mut stand = Stand::watched(config());
    let at_first = stand.leak_until(100, growing);
    let [Effect::Attach { id: ID, create, exit, gopc_offset }] = stand.effects[..] else {
        panic!("{:?}", stand.effects)
    };
    // Behind the stack checks, in the file.
    let code = function("runtime.newproc1") - BASE;
    assert_eq!((create.offset, exit.offset), (code + 10, code + FUNCTION_LEN + 6));
    assert_eq!(gopc_offset, 288);
    stand.effects.clear();

    let mut hits = [0, 0];
    let mut detached = 0;
    for second in 1..=11 {
        stand.tick(at_first + 20 * second);
        hits = [hits[0] + 120, hits[1] + 100];
        stand.plain(Input::Hits(hits));
        if stand.effects == [Effect::Detach(ID)] {
            stand.effects.clear();
            detached = second;
            let gopc = Addr(blocked(1).gopc);
            let counts = [CreationCount { gopc, created: 160, exited: 1 }];
            stand.step(|_| Input::Attributed { id: ID, millis: 8001, counts: &counts });
        }
    }
    assert_eq!(detached, 8);
    let spent = stand.events.iter().find_map(|e| match e {
        Event::Probed { spent, over_budget: false } => Some(*spent),
        _ => None,
    });
    assert_eq!(spent.unwrap().hits, 7 * 220);
    assert_eq!(stand.engine.figures().probes.hits, 7 * 220);

    let (envelope, leak) = stand.alert().unwrap();
    assert_eq!((envelope.device.as_str(), envelope.boot, envelope.epoch), ("van-7", [7; 8], 5));
    assert_eq!((leak.target.name.as_str(), leak.target.pid, leak.target.go), ("gateway", 1412, (24, 11)));
    assert_eq!(leak.goroutines, at_first + 200);
    let [site] = &leak.sites[..] else { panic!("{leak:?}") };
    assert_eq!(
        (site.function.as_str(), site.file.as_str()),
        ("main.(*Gateway).forward", "/home/build/gateway/main.go")
    );
    assert_eq!((site.line, site.wait, site.grew), (42, Wait::ChanSend, 200));
    assert_eq!(site.count, at_first + 200 - 30);
    assert_eq!(site.attributed, Some(Attributed { created: 160, exited: 1, millis: 8001 }));
    assert!(stand.alert().is_none());
    assert!(matches!(stand.events.last(), Some(Event::Leaking { line: 42, .. })), "{:?}", stand.events);
    assert_eq!((stand.engine.figures().alerts, stand.engine.figures().censuses), (1, 2));
}

#[test]
fn every_layout_comes_to_the_same_alert() {
    for program in rows() {
        let mut stand = Stand::new(EngineConfig { attribute: None, ..config() });
        stand.process = FakeProcess::new(program);
        stand.process.set_ps(&[0]);
        stand.found(ID);
        stand.run(40, |_| 100);
        stand.leak_until(100, concluded);
        let (_, leak) = stand.alert().unwrap();
        assert_eq!((leak.sites[0].line, leak.sites[0].wait), (42, Wait::ChanSend), "{program:?}");
        assert_eq!(stand.effects, []);
    }
}

#[test]
fn probes_over_their_budget_are_taken_off_at_once_and_the_verdict_still_comes() {
    let mut stand = Stand::watched(config());
    let at_first = stand.leak_until(100, growing);
    stand.effects.clear();
    stand.plain(Input::Hits([5000, 5000]));
    assert_eq!(stand.effects, [], "counters of before");
    stand.tick(at_first + 20);
    stand.plain(Input::Hits([15_001, 5000]));
    assert_eq!(stand.effects, [Effect::Detach(ID)]);
    assert!(matches!(stand.events.last(), Some(Event::Probed { over_budget: true, .. })));
    stand.tick(at_first + 40);
    stand.plain(Input::Hits([25_000, 5000]));
    assert_eq!(stand.effects.len(), 1, "once");
    stand.plain(Input::Attributed { id: ID, millis: 1000, counts: &[] });
    stand.leak_until(at_first + 40, concluded);
    assert_eq!(stand.alert().unwrap().1.sites[0].attributed, None);
}

#[test]
fn without_probes_there_is_an_alert_too() {
    let mut stand = Stand::watched(config());
    let at_first = stand.leak_until(100, growing);
    stand.plain(Input::NotAttached(ID));
    stand.plain(Input::Hits([1, 1]));
    stand.leak_until(at_first, concluded);
    assert_eq!(stand.alert().unwrap().1.sites[0].attributed, None);
    assert!(!stand.effects.contains(&Effect::Detach(ID)));
}

#[test]
fn growth_that_ends_is_not_reported_and_not_looked_into_at_every_tick() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    let level = stand.leak_until(100, growing);
    stand.run(60, |_| level);
    assert!(matches!(stand.events[..], [Event::Growing { .. }, Event::NotConfirmed]), "{:?}", stand.events);
    assert!(stand.alert().is_none());
}

#[test]
fn an_alert_that_still_holds_is_said_again_when_due() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    let first = stand.leak_until(100, concluded);
    let mut said = vec![(stand.now_ms, stand.alert().unwrap().1.goroutines)];
    // As long as the rise is large against the level, too.
    for second in 1..4200 {
        stand.tick(first + second);
        if let Some((_, leak)) = stand.alert() {
            let (at_ms, last) = said[said.len() - 1];
            assert!(leak.goroutines >= 2 * last || stand.now_ms - at_ms >= 600_000, "{said:?}");
            said.push((stand.now_ms, leak.goroutines));
        }
    }
    assert!(said.len() >= 4, "{said:?}");
    let (at_ms, _) = said[said.len() - 1];
    assert!(stand.now_ms - at_ms < 800_000, "it fell silent: {said:?}");
}

#[test]
fn an_alert_is_said_again_at_once_when_the_count_has_doubled() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    let first = stand.leak_until(100, concluded);
    let (_, alert) = stand.alert().unwrap();
    // Doubles every 15 s.
    stand.run(45, |second| (f64::from(first) * 2f64.powf(f64::from(second) / 15.0)) as u32);
    let (_, again) = stand.alert().unwrap();
    assert!(again.goroutines >= 2 * alert.goroutines, "{} after {}", again.goroutines, alert.goroutines);
}

/// One goroutine a second is soon too little growth for any rule, but it is still a leak.
#[test]
fn a_steady_leak_is_said_again_when_the_time_has_come() {
    let remind_s = 600;
    let mut stand = Stand::watched(EngineConfig { attribute: None, remind_s, ..config() });
    let leaked = stand.leak_until(100, concluded);
    stand.alert().unwrap();
    let mut said = 0;
    for second in 0..3 * remind_s {
        stand.tick(leaked + second);
        said += u32::from(stand.alert().is_some());
    }
    assert_eq!(said, 2);
    stand.run(3 * remind_s, |_| leaked + 3 * remind_s);
    assert_eq!(stand.alert().map(|(_, leak)| leak), None, "it has ended");
}

#[test]
fn a_slow_suspicion_that_came_to_nothing_does_not_hide_a_quick_leak() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    stand.run(2400, |second| 100 + second / 10);
    assert!(stand.events.iter().any(growing), "{:?}", stand.events);
    stand.run(400, |_| 340);
    assert!(stand.events.contains(&Event::NotConfirmed), "{:?}", stand.events);
    stand.events.clear();
    let leaked = stand.leak_until(340, concluded);
    assert!(leaked <= 340 + 20 * 60, "{leaked}");
    assert!(stand.alert().is_some());
}

#[test]
fn a_leak_of_more_goroutines_than_a_census_looks_at_is_named() {
    let census_goroutines = 200;
    let mut stand = Stand::watched(EngineConfig { attribute: None, census_goroutines, ..config() });
    stand.leak_until(1000, concluded);
    let (_, leak) = stand.alert().unwrap();
    assert!(leak.goroutines > 1400 && leak.sites.first().is_some_and(|site| site.grew > 50), "{leak:?}");
}
