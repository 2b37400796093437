//! The dump from outside equals what the programs' own pprof prints of them at a quiet moment, goroutine by
//! goroutine and line by line, for every supported Go release. Needs root, and the programs of
//! `cargo xtask test`.
//!
//! Differences that are allowed, and no others: arguments (`(...)` here, their words there), minutes, and the
//! goroutine that answers: it runs while it prints, and waits for its input when we look; its frames from
//! `oracle.Serve` outwards are compared by function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::sites::text;
use common::{GO, Program, for_every_release, program};

/// The goroutine that answers.
const ASKED: u64 = 1;

/// What `goleakguard dump` prints.
fn dump(pid: u32, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_goleakguard"));
    let output = command.args(["dump", "--pid", &pid.to_string()]).args(arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Goroutines of a traceback by their number, as lines without what may differ.
fn goroutines(traceback: &str) -> BTreeMap<u64, Vec<String>> {
    let mut all = BTreeMap::new();
    for block in traceback.trim_end().split("\n\n") {
        let number = block.strip_prefix("goroutine ").and_then(|rest| rest.split(' ').next());
        let number = number.unwrap_or_else(|| panic!("no goroutine: {block}")).parse().unwrap();
        let lines = block.lines().map(comparable).collect();
        assert!(all.insert(number, lines).is_none(), "goroutine {number} twice");
    }
    all
}

fn comparable(line: &str) -> String {
    if line.starts_with("goroutine ") {
        let parts = line.split(", ").filter(|part| !part.contains(" minutes"));
        let line = parts.collect::<Vec<_>>().join(", ");
        return if line.ends_with("]:") { line } else { line + "]:" };
    }
    if line.starts_with('\t') || line.starts_with("created by ") || !line.ends_with(')') {
        return line.to_owned();
    }
    // The arguments begin at the last parenthesis that is none of a receiver, as in `main.(*T[...]).m(0x1, {…})`.
    let after = line.rfind('.').filter(|_| line.ends_with("(...)"));
    let from = after.map_or(0, |_| line.len() - "(...)".len());
    let open = if from > 0 { from } else { arguments_at(line) };
    format!("{}(...)", &line[..open])
}

/// Where the arguments begin: the parenthesis that the last one closes.
fn arguments_at(line: &str) -> usize {
    let mut depth = 0;
    for (at, c) in line.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("no arguments: {line}");
}

/// Functions of the answering goroutine that are the same whatever it does.
fn outer_functions(lines: &[String]) -> Vec<String> {
    let functions = lines.iter().skip(1).filter(|line| !line.starts_with('\t'));
    let outer: Vec<String> = functions.skip_while(|line| !line.contains("oracle.Serve(")).cloned().collect();
    assert!(!outer.is_empty(), "{lines:?}");
    outer
}

fn compare(what: &str, inside: &str, outside: &str) -> usize {
    let (mut inside, mut outside) = (goroutines(inside), goroutines(outside));
    let asked = [&mut inside, &mut outside].map(|all| outer_functions(&all.remove(&ASKED).unwrap()));
    assert_eq!(asked[0], asked[1], "{what}: the goroutine that answers");
    let numbers = |all: &BTreeMap<u64, Vec<String>>| all.keys().copied().collect::<Vec<_>>();
    assert_eq!(numbers(&inside), numbers(&outside), "{what}: goroutines");
    for (number, lines) in &inside {
        assert_eq!(
            lines.join("\n"),
            outside[number].join("\n"),
            "{what}: goroutine {number}, Go left, we right"
        );
    }
    inside.len() + 1
}

/// Stacks of a profile without the answering goroutine, columns no longer aligned.
fn stacks(profile: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let blocks = profile.trim_end().split_once('\n').unwrap().1.split("\n\n");
    for block in blocks.filter(|block| !block.contains("oracle.Serve+")) {
        let (count, stack) = block.split_once(" @").unwrap_or_else(|| panic!("no stack: {block}"));
        let mut stack = stack.to_owned();
        while stack.contains("\t\t") {
            stack = stack.replace("\t\t", "\t");
        }
        assert!(all.insert(stack, count.parse().unwrap()).is_none(), "twice: {block}");
    }
    all
}

fn compare_program(release: &str, name: &str, least: usize) {
    let mut program = Program::start(&program(release, name), &[]);
    let said = program.ask("stacks");
    let what = format!("Go {release}, {name}");
    let compared = compare(&what, &text(&said["plain"]), &dump(program.pid(), &[]));
    assert!(compared >= least, "{what}: {compared} goroutines");
    let (inside, outside) = (text(&said["grouped"]), dump(program.pid(), &["--grouped"]));
    assert_eq!(inside.lines().next(), outside.lines().next(), "{what}");
    assert_eq!(stacks(&inside), stacks(&outside), "{what}: Go left, we right");
    println!("{what}: {compared} goroutines equal");
}

#[test]
fn every_kind_of_wait_is_printed_as_go_does() {
    for_every_release(|release| compare_program(release, "kinds", 191));
}

/// Generics, wrappers, recursion beyond what is printed, panics, inlining, timers.
#[test]
fn every_shape_of_stack_is_printed_as_go_does() {
    for_every_release(|release| compare_program(release, "stacks", 22));
}

/// Moved programs, stripped ones, such with C in them.
#[test]
fn however_a_program_is_linked() {
    for_every_release(|release| {
        for variant in
            ["stripped", "pie", "pie-stripped", "cgo", "cgo-stripped", "cgo-pie", "cgo-pie-stripped"]
        {
            compare_program(release, &format!("kinds-{variant}"), 191);
        }
    });
}

/// While goroutines come and go, each is printed once, and each that is printed is whole.
#[test]
fn a_restless_program_gives_no_nonsense() {
    for_every_release(|release| {
        let program = Program::start(&program(release, "spawn"), &["-quiet", "-batch", "1000"]);
        for _ in 0..20 {
            let output = Command::new(env!("CARGO_BIN_EXE_goleakguard"))
                .args(["dump", "--pid", &program.pid().to_string()])
                .output()
                .unwrap();
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

#[test]
fn what_is_no_go_program_is_refused() {
    let pid = std::process::id().to_string();
    for (pid, why) in [(pid.as_str(), "not a Go program"), ("4194305", "does not exist")] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_goleakguard")).args(["dump", "--pid", pid]).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(why), "{errors}");
        assert!(output.stdout.is_empty());
    }
}

/// A reader that goes away ends the dump quietly.
#[test]
fn a_closed_pipe_is_no_error() {
    let program = Program::start(&program(GO, "park"), &["20000"]);
    let shell = format!(
        "{} dump --pid {} | head -1; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_goleakguard"),
        program.pid()
    );
    let output = Command::new("bash").args(["-c", &shell]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success() && output.stdout.starts_with(b"goroutine 1 ["), "{output:?}");
}
