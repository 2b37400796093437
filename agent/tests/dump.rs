//! The dump from outside equals what the programs' own pprof prints of them at a quiet moment, goroutine by
//! goroutine and line by line, for every supported Go release. Needs root, and the programs of
//! `cargo xtask test`.
//!
//! Differences that are allowed, and no others: minutes, and the goroutine that answers: it runs while it prints,
//! and waits for its input when we look; its frames from `oracle.Serve` outwards are compared by function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "../../ctl/src/expand.rs"]
#[allow(dead_code, reason = "its command line belongs to glg")]
mod expand;
#[path = "../../engine/tests/captured/traceback.rs"]
#[allow(dead_code, reason = "the engine's tests use the rest")]
mod traceback;

use std::collections::BTreeSet;
use std::process::Command;

use common::sites::text;
use common::{GO, Program, Seen, agent, eventually, for_every_release, program};
use glg_engine::dump::plain;
use glg_engine::step::Process;
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, TraceLimits, Tracer};
use traceback::{ASKED, compare, compare_grouped, goroutines, same_goroutines};

/// What `goleakguard dump` prints.
fn dump(pid: u32, arguments: &[&str]) -> String {
    let mut command = Command::new(agent());
    let output = command.args(["dump", "--pid", &pid.to_string()]).args(arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn compare_program(release: &str, name: &str, least: usize) {
    compare_with(release, name, &[], least);
}

fn compare_with(release: &str, name: &str, arguments: &[&str], least: usize) {
    let mut program = Program::start(&program(release, name), arguments);
    let said = program.ask("stacks");
    program.at_rest();
    let what = format!("Go {release}, {name}");
    let compared = compare(&what, &text(&said["plain"]), &dump(program.pid(), &[]));
    assert!(compared >= least, "{what}: {compared} goroutines");
    compare_grouped(&what, &text(&said["grouped"]), &dump(program.pid(), &["--grouped"]));
    compare_compact(&what, &program, &[]);
    println!("{what}: {compared} goroutines equal");
}

/// The compact dump says what the plain one does, but for arguments.
fn compare_compact(what: &str, program: &Program, arguments: &[&str]) {
    program.at_rest();
    let (plain, compact) = eventually("two equal dumps: minutes pass between them", || {
        let plain = dump(program.pid(), &[]);
        let compact = dump(program.pid(), &[&["--compact"], arguments].concat());
        (dump(program.pid(), &[]) == plain).then_some((plain, compact))
    });
    assert_eq!(expanded(&compact), without_arguments(&plain), "{what}: we left, the plain dump right");
    println!("{what}: {} bytes plain, {} bytes compact", plain.len(), compact.len());
}

/// With fewer places for stacks than there are stacks, nothing is missing.
#[test]
fn a_compact_dump_has_everything_however_small_its_table() {
    let program = Program::start(&program(GO, "kinds"), &[]);
    let board = std::env::temp_dir().join(format!("glg-dump-{}.toml", std::process::id()));
    std::fs::write(&board, "[dump]\nmax_stacks = 16\n").unwrap();
    compare_compact("16 stacks", &program, &["--config", board.to_str().unwrap()]);
    std::fs::remove_file(board).unwrap();
}

/// What `glg expand` makes of a compact dump.
fn expanded(compact: &str) -> String {
    let mut text = Vec::new();
    expand::expand(compact.as_bytes(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// The same with `...` for the arguments of each function.
fn without_arguments(plain: &str) -> String {
    let line = |line: &str| match line.rfind('(') {
        Some(open) if line.ends_with(')') && !line.starts_with(['\t', ' ']) && !line.ends_with("()") => {
            format!("{}(...)\n", &line[..open])
        }
        _ => format!("{line}\n"),
    };
    plain.lines().map(line).collect()
}

#[test]
fn every_kind_of_wait_is_printed_as_go_does() {
    for_every_release(|release| compare_program(release, "kinds", 194));
}

/// Generics, wrappers, recursion beyond what is printed, panics, inlining, timers, arguments.
#[test]
fn every_shape_of_stack_is_printed_as_go_does() {
    for_every_release(|release| compare_program(release, "stacks", 31));
}

/// More goroutines than are read in one go, some with much more on their stacks than others.
#[test]
fn a_crowd_is_printed_as_go_does() {
    for_every_release(|release| compare_with(release, "crowd", &["5000"], 5001));
}

/// Goroutines that were stopped in the middle of their work, by the scheduler and of their own will.
#[test]
fn wherever_a_goroutine_is_stopped() {
    for_every_release(|release| {
        let mut program = Program::start(&program(release, "stacks"), &["held"]);
        let (what, mut places) = (format!("Go {release}, held"), BTreeSet::new());
        for _ in 0..10 {
            let (inside, outside) = while_held(&mut program, "plain", &[]);
            let (mut inside, mut outside) = (goroutines(&inside), goroutines(&outside));
            assert!(inside.remove(&ASKED).is_some() && outside.remove(&ASKED).is_some(), "{what}");
            same_goroutines(&what, &inside, &outside);
            assert!(inside.len() == 3 && inside.values().all(|lines| lines[0].ends_with("[runnable]:")));
            places.extend(inside.into_values().map(|lines| lines[2].clone()));
            let (inside, outside) = while_held(&mut program, "grouped", &["--grouped"]);
            compare_grouped(&what, &inside, &outside);
        }
        println!("{what}: goroutines equal in {} places where they were stopped", places.len());
    });
}

/// What the program says of its stacks and what we see of them, while it holds its goroutines still: it does that
/// as long as it waits for its input, and says whether they were, because their work did not go on.
fn while_held(program: &mut Program, question: &str, arguments: &[&str]) -> (String, String) {
    eventually("goroutines that are held", || {
        let said = program.ask(question);
        let outside = dump(program.pid(), arguments);
        let turns = program.ask("turns");
        (turns[0] == said["turns"] && turns[1] == said["turns"]).then(|| (text(&said["text"]), outside))
    })
}

/// Moved programs, stripped ones, such with C in them.
#[test]
fn however_a_program_is_linked() {
    for_every_release(|release| {
        for variant in
            ["stripped", "pie", "pie-stripped", "cgo", "cgo-stripped", "cgo-pie", "cgo-pie-stripped"]
        {
            let least = if variant.starts_with("cgo") { 203 } else { 194 };
            compare_program(release, &format!("kinds-{variant}"), least);
        }
    });
}

/// While goroutines come and go, each is printed once, and each that is printed is whole.
#[test]
fn a_restless_program_gives_no_nonsense() {
    for_every_release(|release| {
        let program = Program::start(&program(release, "spawn"), &["-quiet", "-batch", "1000"]);
        for _ in 0..20 {
            let output =
                Command::new(agent()).args(["dump", "--pid", &program.pid().to_string()]).output().unwrap();
            assert!(output.status.success());
            let remarks = String::from_utf8_lossy(&output.stderr);
            assert!(!remarks.contains("to their end"), "Go {release}: {remarks}");
            for (number, lines) in goroutines(&String::from_utf8(output.stdout).unwrap()) {
                assert!(lines.len() >= 2, "Go {release}, goroutine {number}: {lines:?}");
                assert!(!lines.iter().any(|line| line.contains("unknown")), "{lines:?}");
            }
        }
    });
}

/// The ways that a goroutine of the program `writers` stands in, the innermost function first; one that was
/// preempted may stand further out.
const WAYS: [[&str; 3]; 2] =
    [["main.up3", "main.up2", "main.up1"], ["main.down3", "main.down2", "main.down1"]];

/// Looks at each program: a wrong stack was seen in one of some hundred.
const MOMENTS: usize = 600;

/// A goroutine that goes from one system call to the next is shown in one of them, or as running without a stack.
#[test]
fn no_stack_is_of_two_moments() {
    for_every_release(|release| {
        let program = Program::start(&program(release, "writers"), &[]);
        let mut stacks = 0;
        look_often(program.pid(), MOMENTS, |text| {
            for (number, lines) in goroutines(text) {
                let way = |line: &&String| line.starts_with("main.up") || line.starts_with("main.down");
                let names = lines.iter().filter(way).map(|line| line.split('(').next().unwrap());
                let names: Vec<&str> = names.collect();
                let whole = WAYS.iter().any(|way| way.ends_with(&names));
                assert!(whole, "Go {release}, goroutine {number}: {lines:#?}");
                let running = lines[0].contains("[running");
                assert!(!running || names.is_empty(), "Go {release}, goroutine {number}: {lines:#?}");
                stacks += usize::from(!names.is_empty());
            }
        });
        assert!(stacks > MOMENTS / 10, "Go {release}: hardly ever in a system call: {stacks}");
    });
}

/// Dumps of a process by the engine itself, many in a short time.
fn look_often(pid: u32, times: usize, mut look: impl FnMut(&str)) {
    let Seen { mut remote, runtime, .. } = Seen::open(pid);
    let Process { memory, image, .. } = remote.process();
    let limits =
        TraceLimits { goroutines: 100, stack_bytes: 64 << 10, frames: 64, places: 256, text_bytes: 64 << 10 };
    let mut symbols = Symbols::new(&runtime, image, limits.places, limits.text_bytes).unwrap();
    let mut target = Target { runtime: &runtime, memory, image, symbols: &mut symbols };
    let (mut tracer, mut text) = (Tracer::new(limits), String::new());
    for _ in 0..times {
        text.clear();
        plain(&mut tracer, &mut target, 0, &mut text).unwrap();
        look(&text);
    }
}

#[test]
fn what_is_no_go_program_is_refused() {
    let pid = std::process::id().to_string();
    for (pid, why) in [(pid.as_str(), "not a Go program"), ("4194305", "does not exist")] {
        let output = Command::new(agent()).args(["dump", "--pid", pid]).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(why), "{errors}");
        assert!(output.stdout.is_empty());
    }
}

/// A reader that goes away ends the dump quietly.
#[test]
fn a_closed_pipe_is_no_error() {
    let program = Program::start(&program(GO, "park"), &["20000"]);
    let dump = format!("{} dump --pid {}", agent().display(), program.pid());
    let shell = format!("{{ {dump}; echo ended with $? >&2; }} | head -n 1");
    let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "ended with 0\n");
    assert!(output.stdout.starts_with(b"goroutine 1 ["), "{output:?}");
}
