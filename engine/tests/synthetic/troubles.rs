//! What goes wrong on the way: losses, targets that end at any stage, links that break.

use crate::stand::{ID, Stand, concluded, config, growing};
use glg_engine::memory::Error;
use glg_engine::step::{Effect, EngineConfig, Event, Input, Rung, TargetId};
use glg_proto::wire::Losses;

#[test]
fn losses_are_said_in_the_next_alert_and_only_there() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    stand.plain(Input::Lost(Losses { records: 12, ..Losses::default() }));
    let allp = stand.process.space.unmap(crate::program::ALLP);
    stand.sample();
    stand.sample();
    assert!(matches!(stand.events[..], [Event::CountFailed(Error::Unreadable { .. })]), "{:?}", stand.events);
    stand.process.space.map(crate::program::ALLP, allp);
    stand.leak_until(100, concluded);
    let (first, leak) = stand.alert().unwrap();
    assert_eq!(first.losses, Losses { alerts: 0, samples: 2, records: 12 });
    stand.events.clear();
    stand.leak_until(2 * leak.goroutines, concluded);
    assert!(stand.alert().unwrap().0.losses.is_none());
    assert_eq!(stand.engine.figures().counts_failed, 2);
}

#[test]
fn a_target_that_cannot_be_counted_is_given_up() {
    let mut stand = Stand::watched(config());
    stand.process.space.unmap(crate::program::ALLP);
    for second in 0..60 {
        assert_eq!(stand.effects, [], "after {second} s");
        stand.now_ms += 1000;
        stand.sample();
    }
    assert_eq!(stand.effects, [Effect::Forget(ID)]);
    assert!(matches!(stand.events[..], [Event::CountFailed(_), Event::NotWatched(_)]), "{:?}", stand.events);
    assert_eq!(stand.engine.figures().targets, 0);
}

#[test]
fn a_runtime_that_never_starts_is_given_up_without_counting_losses() {
    let mut stand = Stand::new(config());
    stand.found(ID);
    for _ in 0..30 {
        assert_eq!((stand.effects.len(), stand.events.len()), (0, 0));
        stand.now_ms += 1000;
        stand.sample();
    }
    assert_eq!(stand.effects, [Effect::Forget(ID)]);
    assert_eq!(stand.events, [Event::NotWatched(Error::NotReady)]);
    assert!(stand.engine.outbox.total_losses.is_none());
}

/// `stage` brings the target somewhere; then it ends, noticed by the agent or at the next read.
fn ends_in(stage: impl Fn(&mut Stand)) {
    for noticed in [true, false] {
        let mut stand = Stand::watched(config());
        stage(&mut stand);
        let attached = stand.effects.iter().any(|e| matches!(e, Effect::Attach { .. }))
            && !stand.effects.contains(&Effect::Detach(ID));
        stand.effects.clear();
        stand.process.space.gone = true;
        stand.now_ms += 1000;
        if noticed {
            stand.plain(Input::Gone(ID));
        } else {
            stand.sample();
        }
        let expected: &[_] =
            if attached { &[Effect::Detach(ID), Effect::Forget(ID)] } else { &[Effect::Forget(ID)] };
        assert_eq!(stand.effects, expected, "noticed: {noticed}");
        // What comes late is ignored, and the place is free for the next process.
        stand.plain(Input::Attributed { id: ID, millis: 1, counts: &[] });
        stand.plain(Input::Hits([9, 9]));
        stand.sample();
        assert_eq!((stand.effects.len(), stand.engine.figures().targets), (expected.len(), 0));
        stand.process.space.gone = false;
        stand.found(TargetId { start: 78, ..ID });
        assert_eq!(stand.engine.figures().targets, 1);
    }
}

#[test]
fn a_target_may_end_at_any_stage() {
    ends_in(|_| {});
    ends_in(|stand| {
        stand.leak_until(100, growing);
    });
    ends_in(|stand| {
        stand.leak_until(100, growing);
        stand.plain(Input::Hits([0, 0]));
        stand.tick(1000);
        stand.plain(Input::Hits([100_000, 0]));
    });
    ends_in(|stand| {
        let level = stand.leak_until(100, growing);
        stand.plain(Input::NotAttached(ID));
        stand.effects.clear();
        stand.leak_until(level, concluded);
    });
}

#[test]
fn a_target_that_ends_while_it_is_walked_raises_nothing() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    // The count is one read; what follows it is the census.
    stand.process.space.meanwhile = Some(|space, n| space.gone = n > 1);
    let mut second = 0;
    while stand.effects.is_empty() {
        second += 1;
        assert!(second < 100);
        stand.process.space.gone = false;
        stand.process.space.reads = 0;
        stand.tick(100 + 20 * second);
        if stand.events == [Event::CensusFailed(Error::Gone)] {
            stand.process.space.meanwhile = Some(|space, _| space.gone = true);
        }
    }
    assert_eq!(stand.effects, [Effect::Forget(ID)]);
    assert_eq!(stand.events, [Event::CensusFailed(Error::Gone)]);
}

/// An `allgs` that contradicts itself must not cost a failing census a second.
#[test]
fn a_census_that_fails_is_not_tried_at_every_tick() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    for second in 0..100u64 {
        stand.now_ms += 1000;
        let len = 100 + 20 * second;
        stand.process.space.map(crate::program::ALLGS, [1, len, 0].map(u64::to_le_bytes).concat());
        stand.sample();
    }
    let failed = stand.events.iter().filter(|e| matches!(e, Event::CensusFailed(_))).count();
    assert!((1..=5).contains(&failed) && failed == stand.events.len(), "{:?}", stand.events);
}

#[test]
fn only_as_many_targets_as_there_is_room_for() {
    let mut stand = Stand::watched(config());
    for start in 100..104 {
        stand.found(TargetId { pid: 9, start });
    }
    stand.found(ID);
    assert_eq!(stand.events, [Event::NoPlace, Event::NoPlace, Event::NoPlace]);
    assert_eq!(stand.effects.len(), 3);
    assert_eq!(stand.engine.targets().count(), 2);
    // What is no Go program needs no place, and says what it is.
    stand.process.file.0 = vec![0; 100];
    stand.found(TargetId { pid: 10, start: 1 });
    assert_eq!(stand.events.last(), Some(&Event::NotWatched(Error::NotGo)));
}

#[test]
fn one_target_is_probed_at_a_time() {
    let mut stand = Stand::watched(config());
    let second = TargetId { pid: 2, start: 2 };
    stand.found(second);
    let mut rungs = Vec::new();
    for n in 1..60 {
        stand.tick(100 + 20 * n);
        stand.step(|process| Input::Sample { id: second, process });
        rungs.push(stand.engine.targets().map(|target| target.rung).collect::<Vec<_>>());
    }
    rungs.dedup();
    // Nobody takes the probes off here.
    use Rung::{Attribute, Census, Watch};
    assert_eq!(rungs, [[Watch, Watch], [Attribute, Watch], [Attribute, Census], [Attribute, Watch]]);
    let attached = stand.effects.iter().filter(|e| matches!(e, Effect::Attach { .. })).count();
    assert_eq!(attached, 1);
    // The other one is judged without probes.
    assert!(stand.events.iter().any(concluded), "{:?}", stand.events);
}

#[test]
fn a_lost_link_sends_the_same_alert_again() {
    let mut stand = Stand::watched(EngineConfig { attribute: None, ..config() });
    stand.leak_until(100, concluded);
    let first = stand.engine.outbox.send_next().map(|(seq, bytes)| (seq, bytes.to_vec())).unwrap();
    assert!(stand.engine.outbox.send_next().is_none());
    stand.plain(Input::Link(false));
    stand.plain(Input::Link(true));
    let again = stand.engine.outbox.send_next().map(|(seq, bytes)| (seq, bytes.to_vec())).unwrap();
    assert_eq!(first, again);
    stand.plain(Input::Acknowledged(first.0));
    assert!(stand.engine.outbox.is_empty());
}
