//! The count of goroutines, against the formula of `runtime/proc.go`, `gcount`.

use glg_engine::goroutines::Counter;
use glg_engine::memory::Error;

use crate::fake::{FakeProcess, Space, blocked, go124, rows};
use crate::program::{ALLP, SCHED};

fn process(goroutines: u64) -> FakeProcess {
    let mut process = FakeProcess::new(go124());
    process.set_gs(&(1..=goroutines).map(blocked).collect::<Vec<_>>());
    process.set_ps(&[3, 4]);
    process.set_sched(5, 11);
    process
}

fn count(counter: &mut Counter, process: &mut FakeProcess) -> Result<u32, Error> {
    counter.count(&process.runtime, &mut process.space)
}

#[test]
fn the_formula_is_exact_for_every_layout() {
    for program in rows() {
        let mut process = FakeProcess::new(program);
        process.set_gs(&(1..=500).map(blocked).collect::<Vec<_>>());
        process.set_ps(&[7, 0, 64, 1]);
        process.set_sched(9, 31);
        let expected = 500 - 9 - 31 - (7 + 64 + 1);
        let mut counter = Counter::default();
        assert_eq!(count(&mut counter, &mut process), Ok(expected), "{program:?}");
        // From the second on one read is enough.
        let before = process.space.reads;
        assert_eq!(count(&mut counter, &mut process), Ok(expected));
        assert_eq!(process.space.reads, before + 1);
        // Each word counts by itself.
        let sched = process.layout().sched;
        for offset in sched.g_free {
            process.space.half(SCHED + u64::from(*offset), 100);
        }
        let lists = u32::try_from(sched.g_free.len()).unwrap();
        assert_eq!(count(&mut counter, &mut process), Ok(expected + 31 - 100 * lists));
    }
}

#[test]
fn a_runtime_that_starts_is_not_ready() {
    let mut process = FakeProcess::new(go124());
    let mut counter = Counter::default();
    assert_eq!(count(&mut counter, &mut process), Err(Error::NotReady));
    process.set_gs(&[blocked(1)]);
    process.set_ps(&[0]);
    assert_eq!(count(&mut counter, &mut process), Ok(1));
    process.set_sched(40, 0);
    assert_eq!(count(&mut counter, &mut process), Ok(1), "at least 1, as the runtime says");
}

/// `procresize` publishes the longer array before it has made the Ps in it.
#[test]
fn ps_that_are_not_made_yet_are_waited_for() {
    let mut process = process(100);
    let mut counter = Counter::default();
    process.space.map(0x6100_0000, vec![0; 16]);
    process.space.write(ALLP, &[0x6100_0000u64, 2, 2].map(u64::to_le_bytes).concat());
    for _ in 0..3 {
        assert_eq!(count(&mut counter, &mut process), Err(Error::NotReady));
    }
    process.set_ps(&[3, 4]);
    assert_eq!(count(&mut counter, &mut process), Ok(100 - 7 - 16));
}

#[test]
fn a_change_of_gomaxprocs_is_followed() {
    let mut process = process(100);
    let mut counter = Counter::default();
    assert_eq!(count(&mut counter, &mut process), Ok(77));
    process.set_ps(&[3, 4, 10]);
    assert_eq!(count(&mut counter, &mut process), Ok(67));
    process.set_ps(&[20]);
    assert_eq!(count(&mut counter, &mut process), Ok(64));
}

#[test]
fn nonsense_is_refused_every_time() {
    let mut process = process(100);
    let mut counter = Counter::default();
    for len in [129, u64::MAX, 1 << 40] {
        process.space.write(ALLP, &[0x6000_0000, len].map(u64::to_le_bytes).concat());
        for _ in 0..3 {
            assert!(matches!(count(&mut counter, &mut process), Err(Error::Unsupported(_))), "{len}");
        }
    }
    process.set_ps(&[0]);
    process.set_sched(-1000, 0);
    assert!(matches!(count(&mut counter, &mut process), Err(Error::Malformed { .. })));
    process.set_sched(0, 0);
    process.point_at(1, u64::MAX - 7);
    assert!(matches!(count(&mut counter, &mut process), Err(Error::Malformed { .. })));
    process.space.gone = true;
    assert_eq!(count(&mut counter, &mut process), Err(Error::Gone));
}

#[test]
fn ps_that_change_at_every_look_are_given_up() {
    let mut process = process(100);
    process.space.meanwhile = Some(|space: &mut Space, n| {
        space.write(ALLP + 8, &u64::from(1 + n / 2 % 2).to_le_bytes());
    });
    let found = count(&mut Counter::default(), &mut process);
    assert!(matches!(found, Err(Error::Malformed { what: "allp", .. })), "{found:?}");
    process.space.meanwhile = None;
    process.set_ps(&[3, 4]);
    assert_eq!(count(&mut Counter::default(), &mut process), Ok(77));
}
