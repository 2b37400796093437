//! Files that were torn or have turned bits.

use glg_engine::flash::Kind;

use crate::disk::{Disk, Random};
use crate::work::{Day, Work};

fn worked(seed: u64) -> (Disk, Work) {
    let disk = Disk::new(seed, Day::Usual);
    let mut work = Work::new(&disk, seed, Day::Usual);
    work.run();
    (disk, work)
}

/// One turned bit costs one message at most; in the ledger, none.
#[test]
fn a_turned_bit_costs_one_message() {
    let mut lost = 0;
    for seed in 10..16 {
        let (disk, mut work) = worked(seed);
        let mut random = Random::new(seed);
        let whole = work.missing(&disk.copy());
        assert_eq!(whole, 0);
        for (file, bytes) in disk.files() {
            for _ in 0..60 {
                let copy = disk.copy();
                let mut damaged = bytes.clone();
                let bit = random.below(damaged.len() * 8);
                damaged[bit / 8] ^= 1 << (bit % 8);
                copy.set(file, damaged);
                let missing = work.missing(&copy);
                // What the ledger knew of given-up messages is lost with it, but these had been counted as well.
                assert!(file.kind == Kind::Ledger || missing <= 1, "{file:?} bit {bit}: {missing} missing");
                lost += missing;
            }
        }
    }
    assert!(lost > 50, "{lost}: the damage did none");
}

/// Whatever the files hold, an agent starts on them, goes on, and starts again.
#[test]
fn rubbish_is_survived() {
    for seed in 0..400 {
        let (disk, work) = worked(20 + seed % 4);
        let mut random = Random::new(seed);
        for (file, mut bytes) in disk.files() {
            match random.below(5) {
                0 => bytes.truncate(random.below(bytes.len())),
                1 => bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8),
                2 => bytes.extend_from_within(..random.below(bytes.len())),
                3 => bytes = vec![0; random.below(100_000)],
                _ => continue,
            }
            disk.set(file, bytes);
        }
        let mut work = work.again();
        work.forget();
        work.run();
        let mut work = work.again();
        work.check_nothing_is_lost(&format!("seed {seed}"));
    }
}
