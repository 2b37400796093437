//! The walk over all goroutines, and the census made of it.

use std::collections::BTreeSet;

use glg_engine::census::Census;
use glg_engine::goroutines::{Goroutine, WalkStats, Walker};
use glg_engine::memory::{Addr, Error};
use glg_proto::wire::Wait;

use crate::fake::{ARRAY, FakeProcess, G, GS, Space, blocked, go124, rows};
use crate::program::{ALLGS, function};

const CHUNK: usize = 64 << 10;

fn walk(process: &mut FakeProcess, limit: u64) -> (Result<WalkStats, Error>, Vec<Goroutine>) {
    let mut found = Vec::new();
    let mut walker = Walker::new(CHUNK);
    let stats = walker.walk(&process.runtime, &mut process.space, limit, |g| found.push(*g));
    (stats, found)
}

fn goids(found: &[Goroutine]) -> Vec<u64> {
    let mut goids: Vec<u64> = found.iter().map(|g| g.goid).collect();
    goids.sort_unstable();
    goids
}

fn many(n: u64) -> FakeProcess {
    let mut process = FakeProcess::new(go124());
    process.set_gs(&(1..=n).map(blocked).collect::<Vec<_>>());
    process
}

#[test]
fn finds_exactly_the_live_ones_in_every_layout() {
    for program in rows() {
        let mut process = FakeProcess::new(program);
        let g = |status, goid| G { status, goid, ..blocked(0) };
        let mut gs = vec![
            g(4, 1),
            g(0x1004, 2),
            g(1, 3),
            g(2, 4),
            g(0x1002, 5),
            g(3, 6),
            g(8, 7),
            g(9, 8),
            g(10, 9), // live
            g(0, 10),
            g(6, 11),
            g(0x1006, 12),
            g(11, 13), // dead
            g(4, 0),
            g(7, 14),
            g(0xffff_ffff, 15),
            G { gopc: 0, ..g(4, 16) },
            G { startpc: 0, ..g(4, 18) }, // torn
        ];
        gs.push(G { wait: "select", ..g(4, 17) });
        gs.push(G { gopc: 0, startpc: 0, ..g(4, 19) }); // a thread of C that called into Go
        process.set_gs(&gs);
        let (stats, found) = walk(&mut process, 1000);
        assert_eq!(
            stats,
            Ok(WalkStats { seen: 20, dead: 4, torn: 5, ..WalkStats::default() }),
            "{program:?}"
        );
        assert_eq!(goids(&found), [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 19]);
        let wait = |goid| found.iter().find(|g| g.goid == goid).unwrap().wait;
        assert_eq!([1, 2, 9].map(wait), [Wait::ChanSend; 3]);
        assert_eq!(
            [3, 4, 5, 6, 7, 8].map(wait),
            [Wait::Runnable, Wait::Running, Wait::Running, Wait::Syscall, Wait::Preempted, Wait::Preempted]
        );
        assert_eq!(wait(17), Wait::Select);
        let first = found.iter().find(|g| g.goid == 1).unwrap();
        assert_eq!((first.g, first.gopc.0, first.startpc.0), (Addr(GS), blocked(1).gopc, blocked(1).startpc));
    }
}

/// Any order of pointers, any gaps between them: each g once, with its own goid.
#[test]
fn stretches_are_joined_across_gaps() {
    for stride in [448, 512, 4000, 4600, 9000] {
        let mut process = FakeProcess::new(go124());
        process.stride = stride;
        process.set_gs(&(1..=2500).map(blocked).collect::<Vec<_>>());
        let order = (0..2500u64).map(|i| i * 1009 % 2500);
        let array: Vec<u8> = order.flat_map(|i| (GS + i * stride).to_le_bytes()).collect();
        process.space.map(ARRAY, array);
        let (stats, found) = walk(&mut process, u64::MAX);
        assert_eq!(stats, Ok(WalkStats { seen: 2500, ..WalkStats::default() }), "stride {stride}");
        assert_eq!(goids(&found), (1..=2500).collect::<Vec<_>>());
        assert!(found.iter().all(|g| g.g.0 == GS + (g.goid - 1) * stride), "stride {stride}");
    }
    let mut process = many(2500);
    walk(&mut process, u64::MAX).0.unwrap();
    assert!(process.space.reads < 40, "{} reads for 1.2 MB in 64 KiB pieces", process.space.reads);
}

#[test]
fn what_cannot_be_read_loses_only_itself() {
    let mut process = many(2000);
    for (i, nonsense) in [(3, 0u64), (700, u64::MAX), (701, u64::MAX - 8), (1500, 0xdead_0000), (1999, 1)] {
        process.space.word(ARRAY + i * 8, nonsense);
    }
    let (stats, found) = walk(&mut process, u64::MAX);
    assert_eq!(stats, Ok(WalkStats { seen: 2000, unreadable: 5, ..WalkStats::default() }));
    assert_eq!(found.len(), 1995);
    assert!(goids(&found).iter().all(|goid| ![4, 701, 702, 1501, 2000].contains(goid)));
}

#[test]
fn a_limit_leaves_the_rest_and_says_so() {
    let mut process = many(3000);
    let (stats, found) = walk(&mut process, 1100);
    assert_eq!(stats, Ok(WalkStats { seen: 1100, skipped: 1900, ..WalkStats::default() }));
    assert_eq!(goids(&found), (1..=1100).collect::<Vec<_>>());
}

/// `allgadd` copies the array to a new place; the old one may be gone at the next read.
#[test]
fn an_array_that_moves_in_the_middle_loses_nothing() {
    let mut process = many(3000);
    process.space.meanwhile = Some(|space: &mut Space, n| {
        if n == 10 {
            let array = space.unmap(ARRAY);
            space.map(0x7700_0000, array);
            space.word(ALLGS, 0x7700_0000);
        }
    });
    let (stats, found) = walk(&mut process, u64::MAX);
    assert_eq!(stats, Ok(WalkStats { seen: 3000, ..WalkStats::default() }));
    assert_eq!(goids(&found), (1..=3000).collect::<Vec<_>>());
}

/// Before the `N`th read the array is moved, and the program writes into what it has left.
fn moves_before<const N: u32>(space: &mut Space, n: u32) {
    if n == N {
        let array = space.unmap(ARRAY);
        space.map(ARRAY, vec![0xff; array.len()]);
        space.map(0x7700_0000, array);
        space.word(ALLGS, 0x7700_0000);
    }
}

#[test]
fn what_is_read_of_an_array_that_was_left_is_not_believed() {
    let moves = [moves_before::<2>, moves_before::<3>, moves_before::<4>, moves_before::<5>];
    for (i, moves) in moves.into_iter().enumerate() {
        let mut process = many(3000);
        process.space.meanwhile = Some(moves);
        let (stats, found) = walk(&mut process, u64::MAX);
        assert_eq!(stats, Ok(WalkStats { seen: 3000, ..WalkStats::default() }), "before read {}", i + 2);
        assert_eq!(goids(&found), (1..=3000).collect::<Vec<_>>());
    }
}

#[test]
fn an_array_that_never_stands_still_is_given_up() {
    let mut process = many(3000);
    process.space.meanwhile = Some(|space: &mut Space, n| space.word(ALLGS, 0x7700_0000 + u64::from(n)));
    assert!(matches!(walk(&mut process, u64::MAX).0, Err(Error::Unreadable { .. })));
    assert!(process.space.reads < 1000);
}

#[test]
fn nonsense_in_the_header_is_an_error() {
    let mut process = many(10);
    process.space.write(ALLGS, &[ARRAY, u64::MAX, 16].map(u64::to_le_bytes).concat());
    assert!(matches!(walk(&mut process, 1000).0, Err(Error::Malformed { .. })));
    process.space.write(ALLGS, &[ARRAY, u64::MAX, u64::MAX].map(u64::to_le_bytes).concat());
    assert!(matches!(walk(&mut process, 1000).0, Err(Error::Unreadable { .. })));
    process.space.write(ALLGS, &[0; 24]);
    assert_eq!(walk(&mut process, 1000).0, Err(Error::NotReady));
    process.space.gone = true;
    assert_eq!(walk(&mut process, 1000).0, Err(Error::Gone));
}

fn census(process: &mut FakeProcess, sites: usize) -> Census {
    let mut census = Census::new(sites);
    let mut walker = Walker::new(CHUNK);
    census.take(&mut walker, &process.runtime, &mut process.space, &mut process.file, u64::MAX).unwrap();
    census
}

#[test]
fn a_census_has_the_largest_sites_first_without_system_goroutines() {
    for program in rows() {
        let mut process = FakeProcess::new(program);
        let site = |name, start, n, wait| {
            let g = G { gopc: function(name) + 9, startpc: function(start), wait, ..blocked(1) };
            std::iter::repeat_n(g, n)
        };
        let gs = site("main.poll", "main.worker", 5, "select")
            .chain(site("main.main", "main.worker", 70, "chan receive"))
            .chain(site("runtime.main", "runtime.bgsweep", 3, "runtime"))
            .chain(site("main.poll", "main.worker", 20, "chan send"))
            .chain(site("runtime.main", "runtime.main", 1, "chan receive"));
        process.set_gs(&gs.collect::<Vec<_>>());
        let census = census(&mut process, 64);
        let sites: Vec<_> = census.sites().map(|s| (s.key.gopc.0, s.key.wait, s.count)).collect();
        let at = |name| function(name) + 9;
        let expected = [
            (at("main.main"), Wait::ChanReceive, 70),
            (at("main.poll"), Wait::ChanSend, 20),
            (at("main.poll"), Wait::Select, 5),
            (at("runtime.main"), Wait::ChanReceive, 1),
        ];
        assert_eq!(sites, expected, "{program:?}");
        assert_eq!((census.total(), census.other), (96, 0));
        assert_eq!(census.count(census.sites().nth(1).unwrap().key), 20);
    }
}

#[test]
fn a_full_table_counts_the_rest_as_other() {
    let mut process = FakeProcess::new(go124());
    let gs = (0..3000u64).map(|i| G { gopc: 0x10_0000 + i % 500 * 4, ..blocked(i + 1) });
    process.set_gs(&gs.collect::<Vec<_>>());
    for max_sites in [1, 8, 60, 400, 500] {
        let census = census(&mut process, max_sites);
        let sites: BTreeSet<_> = census.sites().map(|s| s.key).collect();
        let counted: u32 = census.sites().map(|s| s.count).sum();
        assert_eq!(sites.len(), census.sites().count(), "a site stands twice");
        assert!(census.sites().all(|s| s.count == 6), "a site is counted in part");
        assert_eq!(counted + census.other, 3000);
        assert_eq!(census.total(), 3000);
        assert!(sites.len() >= max_sites.min(500));
    }
    assert_eq!(census(&mut process, 500).other, 0);
}

#[test]
fn a_census_that_fails_is_empty_and_the_next_is_whole() {
    let mut process = FakeProcess::new(go124());
    // More sites than there are places, so that some are counted as other.
    let gs = (0..3000u64).map(|i| G { gopc: 0x10_0000 + i % 500 * 4, ..blocked(i + 1) });
    process.set_gs(&gs.collect::<Vec<_>>());
    let mut walker = Walker::new(CHUNK);
    let mut census = Census::new(1);
    for failing in [false, true, false] {
        process.space.reads = 0;
        process.space.gone = false;
        process.space.meanwhile = failing.then_some(|space: &mut Space, n| space.gone = n > 20);
        let taken =
            census.take(&mut walker, &process.runtime, &mut process.space, &mut process.file, u64::MAX);
        assert_eq!(taken, if failing { Err(Error::Gone) } else { Ok(()) });
        assert_eq!(census.total(), if failing { 0 } else { 3000 });
    }
}
