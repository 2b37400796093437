//! Threads that wait in C, and deadlocks, are found from outside as the program `locks` says of itself: for both C
//! libraries, whenever the looking began. And a program that shares its locks well never has one. Needs root, and
//! the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "locks/saying.rs"]
mod saying;

use std::env;
use std::time::Instant;

use common::{GO, Program, eventually, program, releases};
use glg_engine::locks::scan::Tid;
use saying::{Looking, State, places_said};

/// The oldest, the one in most use and the newest.
const RELEASES: [&str; 3] = ["1.19.8", "1.24.11", "1.27.3"];
/// Looks at each program in its state: all of them see the same.
const AGAIN: usize = 20;
/// Looks at healthy programs that none of them may take for a deadlock.
const HEALTHY: usize = 5000;
/// An arm64 machine may be emulated: there one release has to do, and how many times slower it takes its locks than at
/// full speed, so that there is time to look.
const SLOWLY: Option<&str> = if cfg!(target_arch = "aarch64") { Some("50") } else { None };

/// A C library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Libc {
    Glibc,
    Musl,
}

impl Libc {
    /// What `locks` is built as with it.
    fn variants(self) -> &'static [&'static str] {
        match self {
            Libc::Glibc => &["locks-cgo", "locks-cgo-stripped", "locks-cgo-pie", "locks-cgo-O0"],
            Libc::Musl => &["locks-musl", "locks-musl-stripped"],
        }
    }
}

/// Runs `job` on each program of these C libraries.
fn for_every(libcs: &[Libc], job: impl Fn(&str, &str)) {
    for (release, variant) in every(libcs) {
        job(&release, variant);
    }
}

/// Each program of these C libraries: its release and how it was built.
fn every(libcs: &[Libc]) -> Vec<(String, &'static str)> {
    // On the device there may be fewer.
    let wanted = match env::var_os("GLG_GO_RELEASES") {
        Some(_) => releases(),
        None => RELEASES.map(str::to_owned).to_vec(),
    };
    let of = |release: &String| {
        let variants = libcs.iter().flat_map(|libc| libc.variants());
        variants.map(|variant| (release.clone(), *variant)).collect::<Vec<_>>()
    };
    wanted.iter().flat_map(of).collect()
}

const BOTH: &[Libc] = &[Libc::Glibc, Libc::Musl];

/// The program in its state, and one look after the other finds what it says; returns that.
fn compare(release: &str, variant: &str, mode: &[&str]) -> State {
    let what = format!("Go {release}, {variant} {mode:?}");
    let mut program = Program::start(&program(release, variant), mode);
    let said = State::said(&program.ask("expected"));
    // While its main goroutine runs, anything may be on its stack.
    program.at_rest();
    let mut looking = Looking::at(program.pid());
    for look in 0..AGAIN {
        assert_eq!(looking.look(), said, "{what}, look {look}: we left, the program right");
        assert_eq!(looking.scan.restless, 0, "{what}, look {look}");
    }
    let waiters: Vec<Tid> = looking.scan.waiters.iter().map(|waiter| waiter.tid).collect();
    assert_eq!(looking.outside(), waiters, "{what}: a thread that waits in C and is not said to be there");
    said
}

/// Compares, and the program did mean a deadlock of so many threads.
fn deadlock(release: &str, variant: &str, mode: &[&str], threads: usize) {
    let said = compare(release, variant, mode);
    let counts: Vec<usize> = said.deadlocks.iter().map(|deadlock| deadlock.threads.len()).collect();
    assert_eq!(counts, [threads], "Go {release}, {variant} {mode:?}");
}

/// Compares, and the program did mean waits and no deadlock.
fn no_deadlock(release: &str, variant: &str, mode: &[&str], waits: usize) {
    let said = compare(release, variant, mode);
    assert_eq!((said.waits.len(), said.deadlocks.len()), (waits, 0), "Go {release}, {variant} {mode:?}");
}

#[test]
fn circles_of_every_length() {
    for_every(&[Libc::Glibc], |release, variant| {
        for (mode, threads) in
            [("relock", 1), ("abba", 2), ("abba-go", 2), ("three", 3), ("tail", 2), ("deep", 2)]
        {
            deadlock(release, variant, &[mode], threads);
        }
    });
    // This library writes down the owner of these kinds.
    for_every(&[Libc::Musl], |release, variant| {
        for (mode, threads) in [("abba", 2), ("abba-go", 2), ("three", 3), ("tail", 2), ("deep", 2)] {
            deadlock(release, variant, &[mode, "errorcheck"], threads);
        }
        deadlock(release, variant, &["relock", "robust"], 1);
    });
}

#[test]
fn every_kind_of_lock() {
    for_every(BOTH, |release, variant| {
        for kind in ["recursive", "errorcheck", "robust"] {
            deadlock(release, variant, &["abba", kind], 2);
            deadlock(release, variant, &["timed", kind], 2);
        }
        deadlock(release, variant, &["join", "recursive"], 2);
    });
    for_every(&[Libc::Glibc], |release, variant| {
        for mode in [&["abba", "adaptive"][..], &["timed"], &["rwlock"], &["join"]] {
            deadlock(release, variant, mode, 2);
        }
    });
}

/// Who has it is written nowhere: the waits are seen all the same.
#[test]
fn what_musl_does_not_write_down() {
    for_every(&[Libc::Musl], |release, variant| {
        for (mode, waits) in
            [("relock", 1), ("abba", 2), ("three", 3), ("timed", 2), ("rwlock", 3), ("join", 2)]
        {
            no_deadlock(release, variant, &[mode], waits);
        }
    });
}

#[test]
fn waits_that_are_no_deadlocks() {
    for_every(BOTH, |release, variant| {
        no_deadlock(release, variant, &["pi"], 3);
        no_deadlock(release, variant, &["pi-cycle"], 2);
        no_deadlock(release, variant, &["cond"], 7);
        no_deadlock(release, variant, &["pins", "8"], 0);
    });
}

#[test]
fn owners_that_have_ended() {
    for_every(BOTH, |release, variant| {
        for kind in ["normal", "recursive", "errorcheck"] {
            no_deadlock(release, variant, &["exited", kind], 3);
        }
    });
}

/// A lock that is held for long, and given back in the end.
#[test]
fn a_long_wait_ends_without_a_word() {
    for_every(BOTH, |release, variant| {
        let what = format!("Go {release}, {variant}");
        let mut program = Program::start(&program(release, variant), &["hold"]);
        let said = State::said(&program.ask("expected"));
        program.at_rest();
        let mut looking = Looking::at(program.pid());
        for look in 0..AGAIN {
            assert_eq!(looking.look(), said, "{what}, look {look}: we left, the program right");
        }
        program.say("release");
        eventually("the end of the wait", || {
            let now = looking.look();
            assert!(now.deadlocks.is_empty(), "{what}: {now:?}");
            assert!(now.waits.values().all(|wait| !wait.owner_exited), "{what}: {now:?}");
            now.waits.is_empty().then_some(())
        });
        program.line();
        eventually("the program to have seen it", || program.ask("ended").as_bool().filter(|ended| *ended));
    });
}

/// The circle closes within Go: on a message or on a sync.Mutex.
#[test]
fn circles_through_go() {
    for_every(BOTH, |release, variant| {
        for mode in ["callback", "syncmutex", "syncglobal"] {
            deadlock(release, variant, &[mode, "errorcheck"], 2);
        }
    });
    for_every(&[Libc::Glibc], |release, variant| {
        for mode in ["callback", "syncmutex", "syncglobal"] {
            deadlock(release, variant, &[mode], 2);
        }
    });
}

/// In which the waits are of goroutines in C, most of them.
const IN_C: [&[&str]; 7] = [
    &["abba-go", "errorcheck"],
    &["three", "robust"],
    &["tail"],
    &["deep"],
    &["join", "recursive"],
    &["pi"],
    &["cond"],
];

#[test]
fn where_go_called_c() {
    for_every(BOTH, |release, variant| {
        for mode in IN_C {
            let mut program = Program::start(&program(release, variant), mode);
            let said = places_said(&program.ask("expected"));
            let mut looking = Looking::at(program.pid());
            looking.look();
            for (tid, place) in looking.places() {
                assert_eq!(place.go, said[&tid].go, "Go {release}, {variant} {mode:?}: we left, Go right");
            }
        }
    });
}

#[test]
fn which_function_of_c_waits() {
    for_every(BOTH, |release, variant| {
        // What calls pthread_once is not found in every C library: those waits are looked at for their Go alone.
        for mode in IN_C.iter().filter(|mode| mode[..] != ["cond"]) {
            let what = format!("Go {release}, {variant} {mode:?}");
            let mut program = Program::start(&program(release, variant), mode);
            let said = places_said(&program.ask("expected"));
            let mut looking = Looking::at(program.pid());
            looking.look();
            for (tid, place) in looking.places() {
                let name = &said[&tid].c_function;
                match variant.ends_with("stripped") {
                    // Where nothing names it, its place in the file does; some releases export the names.
                    true => {
                        let told = place.c_function.contains('+') || place.c_function == *name;
                        assert!(told, "{what}: {name} is {}", place.c_function);
                    }
                    false => assert_eq!(&place.c_function, name, "{what}: we left, the program right"),
                }
            }
        }
    });
}

/// It would close, if a goroutine that is asleep were not to send the message one day.
#[test]
fn no_circle_where_someone_can_help() {
    for_every(BOTH, |release, variant| no_deadlock(release, variant, &["helped", "errorcheck"], 1));
}

/// Who has looked before sees it as well.
#[test]
fn a_deadlock_that_arises_while_we_look() {
    for_every(BOTH, |release, variant| {
        for mode in [&["-later", "abba", "recursive"][..], &["-later", "three", "errorcheck"]] {
            let what = format!("Go {release}, {variant} {mode:?}");
            let mut program = Program::start(&program(release, variant), mode);
            let mut looking = Looking::at(program.pid());
            for _ in 0..AGAIN {
                assert_eq!(looking.look(), State::nothing(), "{what}: before");
            }
            program.say("go");
            // While it arises, as well.
            let arises = looking.look();
            assert!(arises.deadlocks.len() <= 1, "{what}: {arises:?}");
            let said = State::said(&serde_json::from_str(&program.line()).unwrap());
            assert_eq!(looking.look(), said, "{what}: after");
            assert_eq!(said.deadlocks.len(), 1, "{what}");
        }
    });
}

/// Threads that stay in C wait for no lock, and are counted as away. Such that are locked to their goroutines are not.
#[test]
fn threads_that_stay_in_c() {
    for_every(BOTH, |release, variant| {
        let what = format!("Go {release}, {variant}");
        let mut program = Program::start(&program(release, variant), &["pins", "8"]);
        let mut looking = Looking::at(program.pid());
        let mut away = |more: u32| {
            // The goroutine that answers comes to rest in its read.
            eventually("the threads that are away", || {
                // Making a thread takes the C library's own locks for a moment.
                let still = looking.look() == State::nothing();
                (still && looking.scan.figures.away == 1 + more).then_some(())
            });
        };
        away(0);
        for round in 1..=3 {
            assert_eq!(program.ask("grow")["in_c"].as_u64(), Some(8 * u64::from(round)), "{what}");
            away(8 * round);
        }
    });
}

/// Thousands of looks at locks that are fought for, and never a word.
#[test]
fn a_healthy_program_has_no_deadlock() {
    let mut programs = every(BOTH);
    if SLOWLY.is_some() {
        programs.retain(|(release, _)| release == GO);
    }
    let looks = HEALTHY.div_ceil(programs.len());
    let (mut all, mut owned) = (0, 0);
    for (release, variant) in &programs {
        owned += healthy(release, variant, looks);
        all += looks;
    }
    println!("{all} looks, {owned} waits with an owner, no deadlock");
    // Else there was nothing that could have been mistaken.
    assert!(owned > programs.len(), "{owned} waits with an owner");
}

/// So many looks at one program; says how many waits they saw of which the owner is known.
fn healthy(release: &str, variant: &str, looks: usize) -> usize {
    let what = format!("Go {release}, {variant}");
    let mode: Vec<&str> = ["contended"].into_iter().chain(SLOWLY).collect();
    let mut program = Program::start(&program(release, variant), &mode);
    let mut looking = Looking::at(program.pid());
    let (began, mut waits, mut owned, mut restless) = (Instant::now(), 0, 0, 0);
    for look in 0..looks {
        let now = looking.look();
        assert!(now.deadlocks.is_empty(), "{what}, look {look}: {now:#?}");
        let ended = now.waits.values().find(|wait| wait.owner_exited);
        assert!(ended.is_none(), "{what}, look {look}: {ended:?}");
        waits += now.waits.len();
        owned += now.waits.values().filter(|wait| wait.owner.is_some()).count();
        restless += looking.scan.restless;
    }
    let took = began.elapsed().as_secs_f64();
    let contention = program.ask("contention");
    for (rhythm, counts) in contention.as_object().unwrap() {
        let waited = counts["waited"].as_u64().unwrap();
        assert!(waited > 0, "{what}: {rhythm} is not contended: {counts}");
    }
    println!(
        "{what}: {looks} looks in {took:.1} s, {waits} waits, {owned} with an owner, {restless} moved meanwhile"
    );
    owned
}
