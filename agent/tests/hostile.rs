//! Processes that end, change or are replaced under the agent's eyes, and files that only pretend to be Go:
//! an error or a value, never a panic, never another process's bytes, in bounded time.
//! Needs root, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "hostile/files.rs"]
mod files;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::service::{Agent, free_port};
use common::{Folder, GO, PATIENCE, Program, Seen, eventually, program};
use files::Layout;
use glg_engine::census::Census;
use glg_engine::goroutines::{Counter, Walker};
use glg_engine::memory::Error;
use glg_engine::runtime::Runtime;
use goleakguard::remote::Remote;

const CHUNK: usize = 64 * 1024;
const MANY: u64 = 200_000;

/// Deterministic numbers (a linear congruential generator; the multiplier is Knuth's, of MMIX).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}

/// Counts, walks and names sites until the process is gone; everything else must be one of `allowed`.
fn read_until_gone(remote: &mut Remote, runtime: &Runtime, allowed: fn(&Error) -> bool) -> u32 {
    let (mut counter, mut walker, mut census) = (Counter::default(), Walker::new(CHUNK), Census::new(64));
    let deadline = Instant::now() + PATIENCE;
    let mut rounds = 0;
    loop {
        let process = remote.process();
        let counted = counter.count(runtime, process.memory).map(|_| ());
        let taken = census.take(&mut walker, runtime, process.memory, process.image, MANY);
        for site in census.sites() {
            runtime.creation(process.image, site.key.gopc).unwrap();
        }
        for result in [counted, taken] {
            match result {
                Ok(()) => {}
                Err(Error::Gone) => return rounds,
                Err(error) => assert!(allowed(&error), "after {rounds} rounds: {error}"),
            }
        }
        rounds += 1;
        assert!(Instant::now() < deadline, "never gone");
    }
}

/// How long a round takes on this machine, in microseconds: what is killed within three is read once or twice.
fn one_round(remote: &mut Remote, runtime: &Runtime) -> u64 {
    let (process, begin) = (remote.process(), Instant::now());
    Counter::default().count(runtime, process.memory).unwrap();
    Census::new(64).take(&mut Walker::new(CHUNK), runtime, process.memory, process.image, MANY).unwrap();
    u64::try_from(begin.elapsed().as_micros()).unwrap()
}

#[test]
fn a_target_killed_at_any_moment_is_gone_and_nothing_else() {
    let path = program(GO, "park");
    let mut random = Random(1);
    let mut rounds = 0;
    for _ in 0..150 {
        let mut program = Program::start(&path, &["1000"]);
        let mut seen = Seen::open(program.pid());
        let after = random.below(3 * one_round(&mut seen.remote, &seen.runtime));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(after));
                program.kill();
            });
            let allowed = |error: &Error| matches!(error, Error::Unreadable { .. });
            rounds += read_until_gone(&mut seen.remote, &seen.runtime, allowed);
        });
        assert!(!seen.remote.is_same());
    }
    assert!(rounds > 100, "hardly ever read before the end: {rounds} rounds");
}

/// From the first instruction on, when nothing is initialised yet.
#[test]
fn a_target_killed_while_it_starts_is_not_ready_or_gone() {
    let path = program(GO, "kinds");
    let mut random = Random(2);
    let mut opened = 0;
    for _ in 0..50 {
        let mut program = Program::begin(&path, &[]);
        let pid = program.pid();
        let after = Duration::from_micros(random.below(4000));
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                std::thread::sleep(after);
                program.kill();
            });
            while !killer.is_finished() {
                let Ok(Some(mut remote)) = Remote::open(pid) else { continue };
                let entry = remote.entry;
                // Before its own exec, the child is this test program.
                let Ok(runtime) = Runtime::open(remote.process().image, entry) else { continue };
                let starting = |error: &Error| {
                    matches!(error, Error::NotReady | Error::Unreadable { .. } | Error::Malformed { .. })
                };
                read_until_gone(&mut remote, &runtime, starting);
                opened += 1;
            }
        });
    }
    assert!(opened > 10, "hardly ever opened before the end: {opened} of 50");
}

/// What an old process's eyes say of whatever has its number now.
fn assert_gone(old: &mut Seen) {
    assert!(!old.remote.is_same());
    assert_eq!(old.count(), Err(Error::Gone));
    let process = old.remote.process();
    let mut word = [0; 8];
    assert_eq!(process.memory.read(old.runtime.globals.allgs, &mut word), Err(Error::Gone));
    let walked = Walker::new(CHUNK).walk(&old.runtime, process.memory, MANY, |_| panic!("read the new one"));
    assert_eq!(walked, Err(Error::Gone));
}

/// Starts a program under this very process id, through the kernel's own knob (proc(5), `ns_last_pid`).
fn start_as(pid: u32, start: impl Fn() -> Program) -> Program {
    let knob = "/proc/sys/kernel/ns_last_pid";
    let deadline = Instant::now() + PATIENCE;
    loop {
        fs::write(knob, (pid - 1).to_string()).unwrap_or_else(|e| {
            panic!(
                "{knob}: {e}: this kernel cannot make a process id be used again (CONFIG_CHECKPOINT_RESTORE)"
            )
        });
        let program = start();
        if program.pid() == pid {
            return program;
        }
        // Another process was quicker to take it.
        let holder = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert!(Instant::now() < deadline, "process id {pid} was never given out again; it is {holder:?}");
    }
}

/// The hardest case: the same program, at the same addresses, with the same number.
#[test]
fn a_process_id_used_again_is_not_the_old_process() {
    let path = program(GO, "park");
    for round in 0..5 {
        let mut first = Program::start(&path, &["5"]);
        let (pid, goroutines) = (first.pid(), first.goroutines());
        let mut old = Seen::open(pid);
        assert_eq!(old.count(), Ok(goroutines));
        first.kill();
        let mut second = start_as(pid, || Program::begin(&path, &["70"]));
        assert_gone(&mut old);
        assert_eq!(second.line(), format!("READY {pid}"));
        assert_gone(&mut old);
        let mut new = Seen::open(pid);
        assert_eq!(new.count(), Ok(second.goroutines()), "round {round}");
        assert!(new.count().unwrap() >= 70);
        assert_eq!(old.remote.id.pid, new.remote.id.pid);
    }
}

#[test]
fn a_process_that_runs_another_program_now_is_gone() {
    let folder = Folder::new();
    let park = program(GO, "park");
    // Another Go program, a program of the same name in another place, the same file again, and no Go at all.
    let become_ = folder.copy_of(GO, "become");
    let namesake = folder.executable("other/become", &fs::read(&park).unwrap());
    let (park, again, namesake) =
        (park.to_str().unwrap(), become_.to_str().unwrap(), namesake.to_str().unwrap());
    let cases: [&[&str]; 4] = [&[park, "5"], &[namesake, "5"], &[again, "x"], &["/bin/cat"]];
    for arguments in cases {
        let mut program = Program::start(&become_, arguments);
        let pid = program.pid();
        let mut old = Seen::open(pid);
        assert!(old.remote.is_same() && old.count().unwrap() > 0);
        program.say("exec");
        if arguments == ["/bin/cat"] {
            let exe = format!("/proc/{pid}/exe");
            let cat = fs::canonicalize("/bin/cat").unwrap();
            // In the midst of an exec by a thread that is not the first one there is no file.
            eventually("cat", || fs::read_link(&exe).is_ok_and(|now| now == cat).then_some(()));
            program.say("hello");
            assert_eq!(program.line(), "hello");
        } else {
            assert_eq!(program.line(), format!("READY {pid}"));
            assert_eq!(Seen::open(pid).count(), Ok(program.goroutines()), "{arguments:?}");
        }
        assert_gone(&mut old);
    }
}

/// A shell script that becomes the Go program it starts, as init scripts do.
#[test]
fn a_shell_that_becomes_a_go_program_is_gone() {
    let park = program(GO, "park");
    let script = format!("echo READY $$; read go; exec {} 5", park.display());
    let mut shell = Program::start("/bin/sh".as_ref(), &["-c", &script]);
    let mut old = Remote::open(shell.pid()).unwrap().unwrap();
    let entry = old.entry;
    assert_eq!(Runtime::open(old.process().image, entry).unwrap_err(), Error::NotGo);
    assert!(old.is_same());
    shell.say("go");
    assert_eq!(shell.line(), format!("READY {}", shell.pid()));
    assert!(!old.is_same());
    assert_eq!(old.process().memory.read(entry, &mut [0; 8]), Err(Error::Gone));
    assert_eq!(Seen::open(shell.pid()).count(), Ok(shell.goroutines()));
}

/// Real processes whose files are damaged where only a reader looks, and one sound program among them.
#[test]
fn the_service_names_what_is_wrong_with_each_pretender_and_watches_the_others() {
    let folder = Folder::new();
    let sound = fs::read(program(GO, "park")).unwrap();
    let layout = Layout::of(&sound);
    let mut programs = Vec::new();
    for pretender in files::pretenders(&layout) {
        let path = folder.executable(pretender.name, &pretender.patch.apply(&sound));
        programs.push((Program::start(&path, &["3"]), pretender));
    }
    let mut unnamed = Vec::new();
    for (name, patch) in files::damaged_symbols(&layout) {
        unnamed.push((Program::start(&folder.executable(name, &patch.apply(&sound)), &["3"]), name));
    }
    let mut healthy = Program::start(&folder.executable("sound", &sound), &["3"]);
    let mut agent = Agent::start(&folder, "hostile", free_port(), "[attribute]\nenabled = false\n");
    agent.says(&format!("sound ({}): watching, Go {GO}, {} goroutines", healthy.pid(), healthy.goroutines()));
    for (program, pretender) in &programs {
        agent.rewind();
        let start = format!("{} ({}): not watched: ", pretender.name, program.pid());
        let (_, line) = agent.says(&start);
        assert!(line.contains(pretender.says), "{line}: expected {:?}", pretender.says);
    }
    for (program, name) in &mut unnamed {
        agent.rewind();
        agent.says(&format!(
            "{name} ({}): watching, Go {GO}, {} goroutines",
            program.pid(),
            program.goroutines()
        ));
    }
    // All still run, and the agent sees the next one come.
    assert!(programs.iter_mut().all(|(program, _)| program.goroutines() >= 3));
    let late = Program::start(&folder.executable("late", &sound), &["3"]);
    agent.says(&format!("late ({}): watching", late.pid()));
    agent.stop();
}

/// A symbol table that names wrong places in a living process: wrong words, endless lists, wild pointers.
#[test]
fn symbols_that_lie_give_an_error_or_a_number_in_bounded_time() {
    let folder = Folder::new();
    let sound = fs::read(program(GO, "park")).unwrap();
    let layout = Layout::of(&sound);
    let (mut failed, mut tried) = (0, 0);
    for symbol in ["runtime.allgs", "runtime.allp", "runtime.sched"] {
        for address in layout.loaded.iter().copied().chain([0, 8, 1 << 46, u64::MAX - 7]) {
            let lying = files::moved_symbol(&sound, &layout, symbol, address).apply(&sound);
            let program = Program::start(&folder.executable("liar", &lying), &["3"]);
            let mut seen = Seen::unconfirmed(program.pid());
            let began = Instant::now();
            // The engine asks this first, and goes no further. Were the lie believed, there must be an end, too.
            let confirmed = seen.runtime.confirm(seen.remote.process().memory);
            assert!(
                !matches!(confirmed, Ok(()) | Err(Error::Gone)),
                "{symbol} at {address:#x}: {confirmed:?}"
            );
            let counted = seen.count();
            let process = seen.remote.process();
            let walked = Walker::new(CHUNK).walk(&seen.runtime, process.memory, MANY, |_| {});
            for error in [counted.err(), walked.err()].into_iter().flatten() {
                assert_ne!(error, Error::Gone, "{symbol} at {address:#x}");
                failed += 1;
            }
            tried += 2;
            let took = began.elapsed();
            assert!(took < PATIENCE, "{symbol} at {address:#x}: {took:?}");
        }
    }
    assert!(failed * 3 > tried, "only {failed} of {tried} were noticed");
}

/// Something that is started and ends again at once, a hundred times, is nothing to the agent.
#[test]
fn processes_that_are_gone_before_they_are_looked_at_do_no_harm() {
    let folder = Folder::new();
    let minimal = folder.copy_of(GO, "minimal");
    let mut agent = Agent::start(&folder, "brief", free_port(), "[attribute]\nenabled = false\n");
    for _ in 0..100 {
        assert!(Command::new(&minimal).status().unwrap().success());
    }
    let park = folder.copy_of(GO, "park");
    let program = Program::start(&park, &["3"]);
    agent.says(&format!("park ({}): watching", program.pid()));
    // On a busy machine one may live long enough to be met; that is nothing to warn of.
    let warned = |line: &str| line.contains("minimal") && !line.contains("INFO");
    assert!(!agent.said().lines().any(warned), "{}", agent.said());
    agent.stop();
}
