//! What is read from outside equals what the programs say of themselves, for every supported Go release.
//! Needs root, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::sites::{lent, sites_inside, sites_outside, text};
use common::{Program, Seen, eventually, for_every_release, program};
use glg_engine::census::Census;
use glg_engine::goroutines::Walker;
use glg_engine::memory::Addr;

const CHUNK: usize = 64 * 1024;
const MANY: u64 = 200_000;
const WALKS: usize = 200;

#[test]
fn count_equals_num_goroutine() {
    for_every_release(|release| {
        let cases: [(&str, &[&str]); 4] =
            [("kinds", &[]), ("park", &["1"]), ("park", &["1000"]), ("park", &["20000"])];
        for (name, arguments) in cases {
            let mut program = Program::start(&program(release, name), arguments);
            let mut seen = Seen::open(program.pid());
            // A quiet moment: the program says the same before and after.
            let (inside, outside) = eventually("a quiet moment", || {
                let before = program.goroutines();
                let outside = seen.count().unwrap();
                (program.goroutines() == before).then_some((before, outside))
            });
            assert_eq!(outside, inside, "Go {release}, {name} {arguments:?}");
        }
    });
}

#[test]
fn census_equals_pprof() {
    for_every_release(|release| {
        let mut program = Program::start(&program(release, "kinds"), &[]);
        let mut seen = Seen::open(program.pid());
        let (mut walker, mut census) = (Walker::new(CHUNK), Census::new(64));
        let inside = sites_inside(&mut program);
        let process = seen.remote.process();
        census.take(&mut walker, &seen.runtime, process.memory, process.image, MANY).unwrap();
        let outside = sites_outside(&mut seen, &census);
        assert_eq!(outside, inside, "Go {release}");
        assert!(outside.len() >= 20, "Go {release}: {} sites of at least 20", outside.len());
        assert_eq!(census.total(), program.goroutines() + lent(release), "Go {release}");
        assert_eq!(census.other, 0);
        // Go's own words differ between releases: these are what the table must say.
        let minor: u32 = release.split('.').nth(1).unwrap().parse().unwrap();
        let wait_of = |creator: &str| {
            let site = outside.keys().find(|site| site.0 == format!("main.{creator}"));
            site.unwrap_or_else(|| panic!("Go {release}: no {creator}")).3.clone()
        };
        let since = |first: u32, word: &str| if minor >= first { word } else { "semacquire" }.to_owned();
        assert_eq!(wait_of("startMutex"), since(20, "sync.Mutex.Lock"), "Go {release}");
        assert_eq!(wait_of("startReader"), since(20, "sync.RWMutex.RLock"), "Go {release}");
        assert_eq!(wait_of("startWriter"), since(20, "sync.RWMutex.Lock"), "Go {release}");
        assert_eq!(wait_of("startWaitGroup"), since(24, "sync.WaitGroup.Wait"), "Go {release}");
    });
}

/// A census with a small table says how many it could not place, and stays right in its total.
#[test]
fn census_in_a_small_table_accounts_for_all() {
    let mut program = Program::start(&program(common::GO, "kinds"), &[]);
    let mut seen = Seen::open(program.pid());
    let (mut walker, mut census) = (Walker::new(CHUNK), Census::new(8));
    let process = seen.remote.process();
    census.take(&mut walker, &seen.runtime, process.memory, process.image, MANY).unwrap();
    assert!(census.other > 0 && census.sites().count() > 0);
    let system = census.total().abs_diff(program.goroutines());
    assert!(system <= 8, "{} counted, {} alive", census.total(), program.goroutines());
}

/// The walker under a target that creates and ends goroutines as quickly as it can.
#[test]
fn walks_of_a_spawning_program_report_no_goroutine_twice_and_only_real_sites() {
    for_every_release(|release| {
        let mut program = Program::start(&program(release, "spawn"), &["-quiet", "-batch", "1000"]);
        let mut seen = Seen::open(program.pid());
        let real = real_sites(&mut program);
        let mut walker = Walker::new(CHUNK);
        let (mut total, mut torn, mut lost) = (0, 0, 0);
        let mut gopcs = BTreeSet::<Addr>::new();
        for walk in 0..WALKS {
            let (mut goids, mut visited) = (BTreeSet::new(), 0u64);
            let memory = seen.remote.process().memory;
            let stats = walker.walk(&seen.runtime, memory, MANY, |g| {
                assert!(goids.insert(g.goid), "Go {release}, walk {walk}: goroutine {} twice", g.goid);
                gopcs.insert(g.gopc);
                visited += 1;
            });
            let stats = stats.unwrap_or_else(|e| panic!("Go {release}, walk {walk}: {e}"));
            assert!(visited >= 9, "Go {release}, walk {walk}: {visited} of the nine that stay");
            assert_eq!(visited + stats.dead + stats.torn + stats.unreadable, stats.seen, "{stats:?}");
            (total, torn, lost) = (total + stats.seen, torn + stats.torn, lost + stats.unreadable);
        }
        assert!(torn * 100 <= total && lost == 0, "Go {release}: {torn} torn, {lost} unreadable of {total}");
        println!("Go {release}: {total} records in {WALKS} walks, {torn} torn");
        for gopc in gopcs {
            let place = seen.runtime.creation(seen.remote.process().image, gopc).unwrap();
            let site = (place.function.to_string(), u64::from(place.line));
            assert!(site.0.starts_with("runtime.") || real.contains(&site), "Go {release}: {site:?}");
        }
        let rate = program.ask("rate");
        assert!(rate["total"].as_u64().unwrap() > 10_000, "Go {release} hardly spawned: {rate}");
    });
}

/// Function and line of every `go` statement that `spawn` has used, out of its own mouth.
fn real_sites(program: &mut Program) -> BTreeSet<(String, u64)> {
    let mut real = BTreeSet::new();
    eventually("brief goroutines in a traceback", || {
        for site in program.ask("sites").as_array().unwrap() {
            real.insert((text(&site["created_by"]), site["line"].as_u64().unwrap()));
        }
        real.iter().any(|(function, _)| function == "main.spawn").then_some(())
    });
    real
}
