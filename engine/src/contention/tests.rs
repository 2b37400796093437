//! Ranking, losses, durations and kinds.

use super::*;
use crate::memory::Run;

const MUTEX: (u32, u32) = (0x80, 2);
const CONDITION: (u32, u32) = (0x189, 0);

fn key(word: u64, (op, _): (u32, u32)) -> LockKey {
    LockKey { word, op, on_stack: 0 }
}

/// So many waits of so many milliseconds each.
fn waits(count: u32, each_ms: u64, (_, value): (u32, u32)) -> LockWaits {
    let each_ns = each_ms * 1_000_000;
    let mut histogram = [0; LockWaits::BUCKETS];
    histogram[LockWaits::bucket(each_ns)] = count;
    let total_ns = each_ns * u64::from(count);
    LockWaits { waits: count.into(), total_ns, longest_ns: each_ns, value, reserved: 0, histogram }
}

fn words(observation: &Observation) -> heapless::Vec<u64, LOCKS_KEPT> {
    observation.locks.iter().map(|lock| lock.word.0).collect()
}

#[test]
fn what_costs_most_comes_first_and_locks_before_all_else() {
    let mut seen = Observation::default();
    seen.add(key(0x10, CONDITION), &waits(1, 60_000, CONDITION));
    seen.add(key(0x20, MUTEX), &waits(1000, 1, MUTEX));
    seen.add(key(0x30, MUTEX), &waits(1, 1500, MUTEX));
    seen.close(10_000_000_000, Counted { waits: 1002, locks_seen: 3, ..Counted::default() });
    assert_eq!(words(&seen), [0x30, 0x20, 0x10]);
    assert_eq!(seen.contended(15).map(|lock| lock.word.0), Some(0x30));
    assert_eq!(seen.contended(16), None);
    assert_eq!(Observation::default().contended(0), None);
    let mut idle = Observation::default();
    idle.add(key(0x10, CONDITION), &waits(1, 60_000, CONDITION));
    idle.close(10_000_000_000, Counted::default());
    assert_eq!(idle.contended(1), None, "who waits for work waits for no lock");
}

#[test]
fn the_lightest_give_way_and_are_counted() {
    let mut seen = Observation::default();
    for number in 0..20 {
        let place = 7 * number % 20;
        seen.add(key(place, MUTEX), &waits(2, place + 1, MUTEX));
    }
    // 30 more were evicted, with 70 waits; 5 waits found no room for their lock.
    let counted = Counted { waits: 40 + 70 + 5, locks_seen: 50, locks_full: 5, ..Counted::default() };
    seen.close(1, counted);
    assert_eq!(words(&seen), [19, 18, 17, 16, 15, 14, 13, 12]);
    assert_eq!(seen.others, Rest { locks: 12, waits: 24 });
    assert_eq!(seen.evicted, Rest { locks: 30, waits: 70 });
    assert_eq!(seen.counted.lost(), 5);
}

#[test]
fn ends_that_were_not_told_are_counted() {
    let mut seen = Observation::default();
    seen.add_ends_missed(2);
    seen.close(1, Counted { ends_missed: 1, ..Counted::default() });
    assert_eq!((seen.counted.ends_missed, seen.counted.lost()), (3, 0));
}

#[test]
fn two_ways_to_wait_for_one_lock_and_waits_that_have_not_ended() {
    let mut seen = Observation::default();
    seen.add(key(0x40, MUTEX), &waits(3, 20, MUTEX));
    seen.add(key(0x40, (0x189, 2)), &waits(1, 50, (0x189, 2)));
    let waits_still =
        BlockedThread { since_ns: 5_000_000, word: 0x40, op: 0x80, value: 2, on_stack: 0, reserved: 0 };
    seen.add_ongoing(&waits_still, 705_000_000);
    // A clock that another processor has read a little later.
    seen.add_ongoing(&waits_still, 4_000_000);
    for tid in [7, 8, 9] {
        let word = if tid == 9 { 0x50 } else { 0x40 };
        let wait =
            LongWait { word, since_ns: 0, waited_ns: 20_000_000, op: 0x80, value: 2, tid, reserved: 0 };
        seen.long_wait(wait);
    }
    seen.close(1_000_000_000, Counted::default());
    let [lock] = &seen.locks[..] else { panic!("{:?}", seen.locks) };
    assert_eq!((lock.waits, lock.ongoing, lock.last_long), (6, 2, Some(8)));
    assert_eq!((lock.total_ns, lock.longest_ns), (810_000_000, 700_000_000));
    assert_eq!(lock.histogram.iter().sum::<u32>(), 6);
}

#[test]
fn quantiles_are_ends_of_classes_and_never_beyond_the_longest() {
    let mut seen = Observation::default();
    let mut mixed = waits(90, 1, MUTEX);
    mixed.histogram[LockWaits::bucket(100_000_000)] = 10;
    (mixed.waits, mixed.longest_ns) = (100, 100_000_000);
    seen.add(key(0x10, MUTEX), &mixed);
    let lock = &seen.locks[0];
    assert_eq!([0, 1, 50, 90].map(|percent| lock.quantile_ns(percent)), [1_024_000; 4]);
    assert_eq!([91, 99, 100, 900].map(|percent| lock.quantile_ns(percent)), [100_000_000; 4]);
    let none = Contended::new(key(0x10, MUTEX), 2);
    assert_eq!(none.quantile_ns(50), 0);
    let mut endless = none;
    (endless.histogram[LockWaits::BUCKETS - 1], endless.longest_ns) = (1, u64::MAX);
    assert_eq!(endless.quantile_ns(50), u64::MAX);
}

#[test]
fn costs_are_those_of_all_switches() {
    let start = Counted { switches: 1000, timed_ns: 500, waits: 7, ..Counted::default() };
    let now =
        Counted { switches: 2700, timed_ns: 20_500, waits: 9, long_waits_lost: 3, ..Counted::default() };
    let new = now.since(start);
    assert_eq!((new.switches, new.timed_ns, new.waits, new.lost()), (1700, 20_000, 2, 3));
    assert!((new.cost_ns() - (17.0 * 20_000.0 + 100.0 * 1700.0)).abs() < 1e-6);
    assert_eq!(start.since(now), Counted::default());
}

struct Zeroes;

impl Memory for Zeroes {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        match runs.iter().any(|run| run.at.0 < 0x1000) {
            true => Err(Error::Unreadable { at: 0 }),
            false => {
                out.fill(0);
                Ok(())
            }
        }
    }
}

#[test]
fn kinds_are_told_when_the_locks_are_free_again() {
    let kinds = [
        (MUTEX, 0, Kind::Mutex),
        (MUTEX, 1, Kind::Condition), // musl's
        ((0x86, 0), 0, Kind::PiMutex),
        ((0x189, 3), 0, Kind::RwLock),
        (CONDITION, 0, Kind::Condition),
        ((0x109, 4711), 0, Kind::Join),
        ((0x80, 0x8000_0010), 0, Kind::Mutex),
        ((0x80, 0x8000_0000), 0, Kind::Condition),
        ((0x80, u32::MAX), 0, Kind::RwLock),
        ((0x80, 1), 0, Kind::Futex),
    ];
    for ((op, value), on_stack, kind) in kinds {
        let mut seen = Observation::default();
        seen.add(LockKey { word: 0x5000, op, on_stack }, &waits(1, 1, (op, value)));
        seen.classify(&[100, 101], &mut Zeroes).unwrap();
        assert_eq!(seen.locks[0].kind, kind, "{op:#x} {value:#x}");
    }
    let mut gone = Observation::default();
    gone.add(key(0x10, MUTEX), &waits(1, 1, MUTEX));
    gone.classify(&[], &mut Zeroes).unwrap();
    assert!(!gone.locks[0].is_lock(), "its memory is not there any more");
}
