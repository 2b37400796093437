//! The outbox on flash that loses its power: at every write, before, within and after it; with what a real
//! file system may then have lost, cut or mangled. Nothing that was durable is missing without a word.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "random numbers are cut to size")]

mod damage;
mod disk;
mod obeying;
mod work;

use disk::{Disk, Moment};
use work::{Day, Work};

/// One run of work whose power goes at operation `at`; afterwards it goes on, and the power goes once more.
fn cut(seed: u64, day: Day, at: u64, moment: Moment) {
    let disk = Disk::new(seed ^ at << 8, day);
    disk.cut_at(at, moment);
    let mut work = Work::new(&disk, seed, day);
    work.run();
    assert!(disk.is_off(), "seed {seed}: operation {at} was not reached");
    disk.power_on();
    let mut work = work.again();
    work.check_nothing_is_lost(&format!("seed {seed}, {day:?}, {moment:?} operation {at}"));
    // Once more, somewhere in what follows; it may also come to its end before.
    disk.cut_at(disk.operations() + 1 + at % 23, moment);
    work.run();
    disk.power_on();
    let mut work = work.again();
    work.check_nothing_is_lost(&format!("seed {seed}, {day:?}, {moment:?} operation {at}, the second time"));
    work.drain();
    work.check_all_is_told();
}

#[test]
fn the_power_may_go_at_any_operation() {
    let mut points = 0;
    for (seed, day) in [(1, Day::Usual), (2, Day::Usual), (3, Day::LittleBudget), (4, Day::CrowdedFlash)] {
        let disk = Disk::new(seed, day);
        Work::new(&disk, seed, day).run();
        let operations = disk.operations();
        assert!(operations > 100, "seed {seed}: {operations} operations only");
        for at in 1..=operations {
            for moment in Moment::ALL {
                cut(seed, day, at, moment);
                points += 1;
            }
        }
    }
    println!("{points} crash points");
    assert!(points >= 2000, "{points} crash points only");
}

/// Files that come back after they were removed, as on file systems that keep no promises: messages may come
/// again, but none is missing.
#[test]
fn removed_files_may_come_back() {
    for at in 1..200 {
        let disk = Disk::new(at, Day::Forgetful);
        disk.cut_at(at, Moment::Within);
        let mut work = Work::new(&disk, 5, Day::Forgetful);
        work.run();
        disk.power_on();
        let mut work = work.again();
        work.check_nothing_is_lost(&format!("operation {at}"));
    }
}

/// The workload is worth something only if all that is to be survived happens in it.
#[test]
fn the_work_has_everything_in_it() {
    let disk = Disk::new(1, Day::Usual);
    let mut work = Work::new(&disk, 1, Day::Usual);
    work.run();
    println!("{:?}", work.counts);
    let counts = work.counts;
    assert!(counts.durable > 100 && counts.acknowledged > 20 && counts.evicted > 10, "{counts:?}");
    assert!(counts.restarts > 3 && counts.kills > 3 && counts.flushed > 3, "{counts:?}");
    let disk = Disk::new(3, Day::LittleBudget);
    let mut work = Work::new(&disk, 3, Day::LittleBudget);
    work.run();
    println!("{:?}", work.counts);
    assert!(work.counts.in_memory > 10, "{:?}", work.counts);
}
