//! What the agent shows by hand: `ps` equals what the programs say of themselves and what a running service does
//! with them, and a dump keeps to the bounds of the board config. Needs root, and the programs of
//! `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::service::{Agent, free_port};
use common::sites::text;
use common::{Folder, GO, Program, agent, eventually, for_every_release, program};
use nix::sys::signal::Signal;
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(agent()).args(arguments).output().unwrap()
}

/// What it prints, which has to be well, and what it remarks.
fn said(arguments: &[&str]) -> (String, String) {
    let output = run(arguments);
    let remarks = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {remarks}");
    (String::from_utf8(output.stdout).unwrap(), remarks)
}

/// The object of one process, if it is listed.
fn listed(pid: u32, arguments: &[&str]) -> Option<Value> {
    let (text, _) = said(&[["ps", "--json"].as_slice(), arguments].concat());
    let Value::Array(all) = serde_json::from_str(&text).unwrap() else { panic!("no array: {text}") };
    all.into_iter().find(|object| object["pid"] == pid)
}

/// What is listed at a quiet moment, with the goroutines and threads that the program has before and after it.
fn listed_at_rest(program: &mut Program) -> (Value, (u32, usize)) {
    let tasks = format!("/proc/{}/task", program.pid());
    let mut now = || (program.goroutines(), fs::read_dir(&tasks).unwrap().count(), program.pid());
    eventually("a quiet moment", || {
        let (goroutines, threads, pid) = now();
        let listed = listed(pid, &[]).expect("it is listed");
        (now() == (goroutines, threads, pid)).then_some((listed, (goroutines, threads)))
    })
}

#[test]
fn go_programs_are_listed_as_they_describe_themselves() {
    for_every_release(|release| {
        for (variant, stripped) in [("", false), ("-stripped", true), ("-cgo-pie-stripped", true)] {
            let path = program(release, &format!("kinds{variant}"));
            let mut program = Program::start(&path, &[]);
            let built = program.ask("build");
            let (listed, (goroutines, threads)) = listed_at_rest(&mut program);
            let what = format!("Go {release}, kinds{variant}: {listed}");
            assert_eq!(format!("go{}", text(&listed["go"])), text(&built["go"]), "{what}");
            for key in ["package", "module", "version"] {
                let listed = listed[key].as_str().unwrap_or_default();
                assert_eq!(listed, text(&built[key]), "{key}, {what}");
            }
            assert_eq!(listed["goroutines"], goroutines, "{what}");
            assert_eq!(listed["stripped"], stripped, "{what}");
            assert_eq!(text(&listed["name"]), format!("kinds{variant}"), "{what}");
            assert_eq!(Path::new(&text(&listed["path"])), path.canonicalize().unwrap(), "{what}");
            assert!(listed["rung"].is_null() && listed["note"].is_null(), "{what}");
            assert_eq!(listed["threads"], threads, "{what}");
        }
    });
}

#[test]
fn other_programs_are_not_listed_and_unknown_releases_are() {
    assert_eq!(listed(std::process::id(), &[]), None);
    let folder = Folder::new();
    let sound = b"\x09go1.24.11";
    for (release, note) in [("1.999.1", "Go 1.999 (supported: "), ("1.24rc1", "release candidate")] {
        let mut file = fs::read(program(GO, "kinds")).unwrap();
        let at = file.windows(sound.len()).position(|part| part == sound).unwrap();
        file[at..at + sound.len()].copy_from_slice(format!("\x09go{release}").as_bytes());
        let other = Program::start(&folder.executable(release, &file), &[]);
        let listed = listed(other.pid(), &[]).expect("it is listed");
        assert_eq!([text(&listed["go"]), text(&listed["name"])], [release, release]);
        assert!(text(&listed["note"]).contains(note), "{listed}");
        assert!(listed["goroutines"].is_null(), "{listed}");
    }
}

/// One line each, aligned, for eyes and 120 columns.
#[test]
fn the_table_is_aligned() {
    let programs =
        [program(GO, "kinds"), program(GO, "kinds-stripped")].map(|path| Program::start(&path, &[]));
    let (table, _) = said(&["ps"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{table}");
    let column = |title: &str| lines[0].find(title).unwrap_or_else(|| panic!("no {title}:\n{table}"));
    for (program, [name, stripped]) in programs.iter().zip([["kinds ", "no "], ["kinds-stripped ", "yes "]]) {
        let pid = program.pid().to_string();
        let line = lines.iter().find(|line| line.split_whitespace().next() == Some(&pid)).unwrap();
        assert!(line[column("NAME")..].starts_with(name), "{table}");
        assert!(line[column("STRIPPED")..].starts_with(stripped), "{table}");
        assert!(line[column("GO ")..].starts_with(GO), "{table}");
        assert!(line[column("MODULE")..].starts_with("goleakguard.test/programs"), "{table}");
    }
}

/// What may not be looked at is told, and is no error. (Here all that root has started.)
#[test]
fn without_the_right_to_look_it_says_so() {
    let folder = Folder::new();
    let agent = folder.executable("goleakguard", &fs::read(agent()).unwrap());
    let program = Program::start(&program(GO, "kinds"), &[]);
    let output = Command::new(agent).args(["ps", "--json"]).uid(65534).gid(65534).output().unwrap();
    let remarks = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && remarks.contains("may not be looked at"), "{remarks}");
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pids: Vec<&Value> = listed.as_array().unwrap().iter().map(|object| &object["pid"]).collect();
    assert!(!pids.contains(&&Value::from(program.pid())), "{listed}");
}

/// The rung of the only program in this folder, and what was remarked beside.
fn rung(folder: &Folder, program: &Program) -> (Value, String) {
    let config = folder.path().join("board.toml");
    let config = ["--config", config.to_str().unwrap()];
    let (_, remarks) = said(&[&["ps"], config.as_slice()].concat());
    (listed(program.pid(), &config).expect("it is listed")["rung"].clone(), remarks)
}

#[test]
fn the_rungs_are_those_of_the_running_service() {
    let bystander = Program::start(&program(GO, "kinds"), &[]);
    // Each rung lasts long enough to be met on a busy machine.
    let (census, attribute) = ("enabled = false", "seconds = 20\nbudget_percent = 100.0");
    for (attribute, higher, confirm_s) in [(census, "census", 20), (attribute, "attribute", 2)] {
        let folder = Folder::new();
        let mut program =
            Program::start(&folder.copy_of(GO, "leaky"), &["-stdin", "-rate", "60", "-requests", "400"]);
        let more = format!("[attribute]\n{attribute}\n");
        let mut agent = Agent::start_confirming(&folder, "ladder", free_port(), confirm_s, &more);
        assert_eq!(rung(&folder, &program).0, "watch");
        assert!(rung(&folder, &bystander).0.is_null());
        program.say("leak");
        assert!(program.line().starts_with("LEAKING "));
        for word in [higher, "watch"] {
            eventually(word, || (rung(&folder, &program).0 == word).then_some(()));
        }
        agent.stop();
        assert!(rung(&folder, &program).0.is_null());
        assert!(!folder.path().join("run/state").exists());
    }
}

/// A deadlock is shown with its age, and the file says since when: it is not written again while that grows.
#[test]
fn waits_are_those_that_the_service_sees() {
    let folder = Folder::new();
    let state = folder.path().join("run/state");
    let config = folder.path().join("board.toml");
    let config = ["--config", config.to_str().unwrap()];
    let mut program = Program::start(&folder.copy_of(GO, "locks-cgo"), &["-later", "abba"]);
    let mut agent = Agent::start(&folder, "waiter", free_port(), "[locks]\ncontention_s = 0\n");
    agent.says("watching");
    let pid = program.pid();
    let now = || {
        let listed = listed(pid, &config).expect("it is listed");
        (listed["waits"].as_u64(), listed["longest_wait_s"].as_u64())
    };
    assert_eq!(now(), (None, None));
    let asked = Instant::now();
    let waits = program.ask("go")["waits"].as_array().unwrap().len() as u64;
    let began = Instant::now();
    eventually("the waits", || (now().0 == Some(waits)).then_some(()));
    let written = fs::metadata(&state).unwrap().modified().unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        let (least, (threads, longest_s), most) = (began.elapsed(), now(), asked.elapsed());
        let longest_s = longest_s.expect("they wait still");
        println!("{threads:?} for {longest_s} s, by the program's clock between {least:?} and {most:?}");
        assert_eq!(threads, Some(waits));
        // Both ends are whole seconds; and a thread may be seen a tick after it began.
        assert!((least.as_secs().saturating_sub(2)..=most.as_secs() + 2).contains(&longest_s));
    }
    assert_eq!(fs::metadata(&state).unwrap().modified().unwrap(), written, "written again for nothing");
    let (table, _) = said(&[&["ps"], config.as_slice()].concat());
    let line = table.lines().find(|line| line.trim_start().starts_with(&pid.to_string())).unwrap();
    assert!(table.lines().next().unwrap().contains("  WAITS  LONGEST  "), "{table}");
    assert!(line.contains("watch      2 ") && line.contains(" s  "), "{table}");
    agent.stop();
    assert_eq!(now(), (None, None), "nobody watches it");
}

#[test]
fn what_a_dead_service_or_anyone_else_has_left_is_not_believed() {
    let folder = Folder::new();
    let state = folder.path().join("run/state");
    let program = Program::start(&folder.copy_of(GO, "leaky"), &["-stdin"]);
    let mut agent = Agent::start(&folder, "mortal", free_port(), "");
    assert_eq!(rung(&folder, &program).0, "watch");
    agent.end(Signal::SIGKILL);
    assert!(state.exists());
    let (found, remarks) = rung(&folder, &program);
    assert!(found.is_null() && !remarks.contains("rungs"), "{found}, {remarks}");
    let left = fs::read_to_string(&state).unwrap();
    for odd in
        ["\0\u{1}", "goleakguard 2 1 1\nx y z\n", &left[..left.len() - 1], &"7 7 watch 0 0\n".repeat(10_000)]
    {
        fs::write(&state, odd).unwrap();
        let (found, remarks) = rung(&folder, &program);
        assert!(found.is_null(), "{found}");
        assert_eq!(remarks.matches("rungs are not known").count(), 1, "{remarks}");
    }
    // The next service makes it good.
    let mut agent = Agent::start(&folder, "next", free_port(), "");
    let (found, remarks) = rung(&folder, &program);
    assert!(found == "watch" && !remarks.contains("rungs"), "{found}, {remarks}");
    agent.stop();
}

#[test]
fn a_state_file_that_cannot_be_written_is_said_once_and_does_no_harm() {
    let folder = Folder::new();
    // In its place, so that nothing can be put there.
    fs::create_dir_all(folder.path().join("run/state")).unwrap();
    let mut agent = Agent::start(&folder, "mute", free_port(), "");
    for _ in 0..3 {
        let mut program = Program::start(&folder.copy_of(GO, "leaky"), &["-stdin"]);
        agent.says(&format!("leaky ({}): watching", program.pid()));
        program.kill();
        agent.says("has ended");
    }
    agent.stop();
    assert_eq!(agent.said().matches("cannot be written").count(), 1, "{}", agent.said());
}

/// A board config with these settings of a dump.
fn bounds(folder: &Folder, settings: &str) -> String {
    let file = folder.path().join("dump.toml");
    fs::write(&file, format!("[dump]\n{settings}")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_dump_keeps_to_its_bounds_and_says_what_they_cost() {
    let (folder, program) = (Folder::new(), Program::start(&program(GO, "kinds"), &[]));
    let pid = program.pid().to_string();
    let dump = |settings: &str, grouped: bool| {
        let config = bounds(&folder, settings);
        let arguments = ["dump", "--pid", &pid, "--config", &config, "--grouped"];
        said(&arguments[..if grouped { 6 } else { 5 }])
    };
    program.at_rest();
    let whole = said(&["dump", "--pid", &pid]);
    let shown = whole.0.matches("goroutine ").count();
    assert!(whole.1.is_empty() && shown > 191, "{shown} {}", whole.1);
    // Names are looked up again and again; they stay the same.
    assert_eq!(dump("max_places = 64\ntext_kib = 16\nmax_stack_kib = 16", false), whole);
    let (some, remark) = dump("max_goroutines = 100", false);
    assert!(some.len() < whole.0.len() && whole.0.starts_with(&some[..some.len() - 1]), "{some}");
    assert!(remark.contains(" goroutines were not looked at"), "{remark}");
    let (some, remark) = dump("max_stacks = 16", true);
    assert!(some.contains(" goroutines with other stacks: the table is full"), "{some}");
    assert!(remark.is_empty(), "{remark}");
    assert!(!dump("max_stacks = 64", true).0.contains("the table is full"));
}

/// Of the goroutines with a deep stack the inner end is shown, and that it is not all.
#[test]
fn a_stack_beyond_the_bounds_is_cut() {
    let (folder, program) = (Folder::new(), Program::start(&program(GO, "stacks"), &[]));
    let config = bounds(&folder, "max_frames = 128");
    let (text, remark) = said(&["dump", "--pid", &program.pid().to_string(), "--config", &config]);
    let cut = text.matches("...additional frames elided...").count();
    assert!(cut > 0, "{text}");
    assert!(remark.contains(&format!("{cut} stacks are not shown to their end")), "{remark}");
}
