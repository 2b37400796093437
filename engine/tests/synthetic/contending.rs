//! Locks that are fought for: when they are observed, for how long, and what is told of it.

use glg_engine::contention::{Counted, LONG_NS, Observation};
use glg_engine::locks::watching::{ContentionConfig, LockConfig};
use glg_engine::step::{Effect, EngineConfig, Event, Input};
use glg_proto::locks::{Contention, LockKind};
use glg_proto::probe::{LockKey, LockWaits};
use glg_proto::wire::{Body, Envelope};

use crate::locking::{CONFIG, MUTEXES, mutex};
use crate::stand::{ID, Stand, config};

const CONTENTION: ContentionConfig = ContentionConfig { millis: 10_000, percent: 25, budget_percent: 1.0 };
const REMIND_S: u64 = 600;

fn observing() -> EngineConfig {
    let locks = LockConfig { contention: Some(CONTENTION), remind_ms: REMIND_S * 1000, ..CONFIG };
    EngineConfig { locks: Some(locks), ..config() }
}

/// Thread 10 has the first mutex, thread 11 waits for it.
fn stand(config: EngineConfig) -> Stand {
    let mut stand = Stand::watched(config);
    stand.process.space.map(MUTEXES - 64, vec![0; 4096]);
    mutex(&mut stand.process.space, 0, 10);
    stand.threads.waits(10, 5); // for what nobody has
    stand.threads.waits(11, 0);
    stand
}

/// Seconds in which thread 11 gets the lock and waits for it again.
fn fight(stand: &mut Stand, seconds: u32) {
    for _ in 0..seconds {
        stand.threads.moves(11);
        stand.run(1, |_| 100);
    }
}

fn starts(stand: &Stand) -> usize {
    stand.effects.iter().filter(|effect| matches!(effect, Effect::Observe { .. })).count()
}

fn ends(stand: &Stand) -> usize {
    stand.effects.iter().filter(|effect| matches!(effect, Effect::EndObservation(ID))).count()
}

/// The kernel has counted so much, within the budget.
fn count(stand: &mut Stand, switches: u64, timed_ns: u64) {
    stand.plain(Input::Observing(Counted { switches, timed_ns, ..Counted::default() }, 0));
}

/// Ten seconds in which the first mutex was waited for so long.
fn told(stand: &mut Stand, total_ms: u64) {
    let mut observation = Observation::default();
    let (waits, total_ns, longest_ns) = (40, total_ms * 1_000_000, 90_000_000);
    let mut histogram = [0; LockWaits::BUCKETS];
    histogram[LockWaits::bucket(longest_ns)] = 40;
    let waits = LockWaits { waits, total_ns, longest_ns, value: 2, reserved: 0, histogram };
    observation.add(LockKey { word: MUTEXES, op: 0x80, on_stack: 0 }, &waits);
    // One more, with 7 waits, was evicted.
    observation.close(10_000_000_000, Counted { waits: 47, locks_seen: 2, ..Counted::default() });
    stand.step(|process| Input::Observed { id: ID, observation: &mut observation, process });
}

#[test]
fn locks_that_are_fought_for_are_observed_and_told() {
    let mut stand = stand(observing());
    fight(&mut stand, 4);
    assert_eq!(starts(&stand), 0, "too soon: {:?}", stand.effects);
    fight(&mut stand, 1);
    let go_code = stand.process.runtime.go_code();
    let wanted = Effect::Observe { id: ID, go_code, long_ns: LONG_NS };
    assert_eq!(stand.effects, [wanted], "{:?}", stand.events);
    assert_eq!(stand.events, [Event::Observing]);
    for second in 1..=9 {
        fight(&mut stand, 1);
        count(&mut stand, second * 1000, second * 10_000);
        assert_eq!(ends(&stand), 0, "in second {second}");
    }
    fight(&mut stand, 1);
    count(&mut stand, 10_000, 100_000);
    count(&mut stand, 10_000, 100_000);
    assert_eq!((starts(&stand), ends(&stand)), (1, 1));
    told(&mut stand, 2500);
    let Some(Envelope { body: Body::Contention(said), losses, .. }) = stand.message() else {
        panic!("no alert")
    };
    let Contention { observed_ms, waits, total_ms, longest_us, median_us, p99_us, waiter, .. } = said;
    assert_eq!((observed_ms, waits, total_ms), (10_000, 40, 2500));
    assert_eq!((longest_us, median_us, p99_us), (90_000, 90_000, 90_000));
    assert_eq!((waiter.tid, waiter.kind, waiter.lock), (11, LockKind::Mutex, MUTEXES));
    assert_eq!(waiter.c_function, "hold_and_call");
    assert_eq!(losses.records, 7, "what was evicted is lost");
    let told =
        |event: &Event| matches!(event, Event::Contended { waits: 40, percent: 25, longest_ms: 90, .. });
    assert_eq!(stand.events.iter().filter(|event| told(event)).count(), 1, "{:?}", stand.events);
}

#[test]
fn what_was_told_is_not_told_again_soon() {
    let mut stand = stand(observing());
    fight(&mut stand, 8);
    count(&mut stand, 1, 1);
    told(&mut stand, 9000);
    assert!(stand.message().is_some());
    fight(&mut stand, 500);
    assert_eq!(starts(&stand), 1, "too soon after an alert");
    fight(&mut stand, 110);
    assert_eq!(starts(&stand), 2);
    told(&mut stand, 9000);
    assert!(stand.message().is_some(), "a reminder");
}

#[test]
fn little_contention_is_not_told_and_looked_at_again_later() {
    let mut stand = stand(observing());
    fight(&mut stand, 8);
    told(&mut stand, 2499);
    assert_eq!((stand.message(), stand.events.last()), (None, Some(&Event::NotContended)));
    fight(&mut stand, 90);
    assert_eq!(starts(&stand), 1);
    fight(&mut stand, 20);
    assert_eq!(starts(&stand), 2);
}

#[test]
fn an_observation_that_is_too_dear_ends_at_once() {
    let mut stand = stand(observing());
    fight(&mut stand, 7);
    assert_eq!(starts(&stand), 1);
    fight(&mut stand, 1);
    // 1 % of a core is 10 ms of each second: 100,000 switches of 100 ns, and nothing in them.
    count(&mut stand, 75_000, 0);
    assert_eq!(ends(&stand), 0);
    fight(&mut stand, 1);
    count(&mut stand, 200_000, 0);
    assert_eq!(ends(&stand), 1);
    let dear = |event: &Event| matches!(event, Event::Probed { over_budget: true, .. });
    assert!(stand.events.iter().any(dear), "{:?}", stand.events);
    assert!(stand.engine.figures().probes.cpu_ns > 1e7);
}

#[test]
fn one_that_is_stuck_is_no_contention() {
    let mut stand = stand(observing());
    stand.run(60, |_| 100);
    assert_eq!((starts(&stand), ends(&stand)), (0, 0), "{:?}", stand.effects);
}

#[test]
fn without_the_probes_nothing_is_observed() {
    let mut stand = stand(config());
    fight(&mut stand, 60);
    assert!(stand.effects.is_empty(), "{:?}", stand.effects);
}

#[test]
fn who_cannot_be_observed_is_not_asked_for_again_soon() {
    let mut stand = stand(observing());
    fight(&mut stand, 8);
    stand.plain(Input::NotObserved(ID));
    fight(&mut stand, 500);
    assert_eq!((starts(&stand), ends(&stand)), (1, 0));
}

#[test]
fn an_observed_process_that_ends_is_left() {
    let mut stand = stand(observing());
    fight(&mut stand, 8);
    stand.plain(Input::Gone(ID));
    assert_eq!(stand.effects[1..], [Effect::EndObservation(ID), Effect::Forget(ID)]);
    told(&mut stand, 9000);
    stand.plain(Input::NotObserved(ID));
    assert_eq!(stand.message(), None, "nothing is told of who is gone");
}
