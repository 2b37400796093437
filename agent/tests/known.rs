//! Clients of Go's own library that somebody forgot to end: which call is missing, against a program that says of
//! itself what it forgot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use common::{GO, Program, Seen, agent, for_every_release, program};
use glg_engine::known::recognise_creator;
use glg_engine::memory::Addr;
use glg_engine::reach::proof::{Finding, Grade};
use glg_engine::reach::report::describe;
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, TraceLimits, Tracer};
use glg_proto::wire::{FUNCTION_MAX, Wait, tail};
use serde_json::Value;

const LIMITS: TraceLimits =
    TraceLimits { goroutines: 1000, stack_bytes: 64 << 10, frames: 64, places: 1024, text_bytes: 256 << 10 };

const BODY: &str = "Response.Body.Close";
const IDLE: &str = "(*http.Transport).CloseIdleConnections";
const EITHER: &str = "Body.Close or CloseIdleConnections";

/// What is said of each kind's goroutines by their stacks, and by who created them alone.
const KINDS: &[(&str, &[&str], &[&str])] = &[
    ("body", &[BODY, EITHER], &[EITHER]),
    ("idle", &[IDLE, EITHER], &[EITHER]),
    ("body 2", &[BODY, IDLE], &[BODY, IDLE]),
    ("request", &["http.Client.Timeout"], &[""]),
    ("database", &["(*sql.DB).Close"], &["(*sql.DB).Close"]),
    ("rows", &["(*sql.Rows).Close"], &["(*sql.Rows).Close"]),
    ("transaction", &["(*sql.Tx).Commit or Rollback"], &["(*sql.Tx).Commit or Rollback"]),
    ("connection", &["(*sql.Rows).Close or (*sql.Tx).Rollback"], &[""]),
    ("cancel", &["cancel"], &["cancel"]),
    ("signal", &["stop"], &["stop"]),
    ("command", &["(*exec.Cmd).Wait"], &["(*exec.Cmd).Wait"]),
    ("rpc", &["(*rpc.Client).Close"], &["(*rpc.Client).Close"]),
    ("pipe written", &["(*io.PipeReader).Close"], &[""]),
    ("pipe read", &["(*io.PipeWriter).Close"], &[""]),
    ("none", &[""], &[""]),
];

/// The kinds of the program's goroutines, by number, of one of its lists.
fn kinds(expected: &Value, list: &str) -> BTreeMap<u64, String> {
    let all = expected[list].as_array().unwrap().iter();
    all.map(|one| (one["goid"].as_u64().unwrap(), one["kind"].as_str().unwrap().to_owned())).collect()
}

/// Kind to what is said of its goroutines: by their stacks, and by their creators.
type Told = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// What would be said of these goroutines if they were findings.
fn told(pid: u32, kinds: &BTreeMap<u64, String>) -> Told {
    let Seen { mut remote, runtime, .. } = Seen::open(pid);
    let process = remote.process();
    let mut symbols = Symbols::new(&runtime, process.image, LIMITS.places, LIMITS.text_bytes).unwrap();
    let mut target =
        Target { runtime: &runtime, memory: process.memory, image: process.image, symbols: &mut symbols };
    let finding = |goid: &u64| Finding {
        g: Addr(0),
        goid: *goid,
        grade: Grade::Stuck,
        wait: Wait::Other,
        gopc: Addr(0),
        grows: false,
        marked: false,
        waited_s: 0,
    };
    let mut findings: Vec<Finding> = kinds.keys().map(finding).collect();
    let report = describe(&mut findings, &mut Tracer::new(LIMITS), &mut target, 1000).unwrap();
    assert_eq!(report.leaks.len(), kinds.len(), "not all of them were found");
    let mut told = Told::new();
    for leak in &report.leaks {
        let group = &report.groups[leak.group];
        let by_creator = recognise_creator(&tail::<FUNCTION_MAX>(&group.created_by));
        let call = |known: Option<&glg_engine::known::Known>| known.map_or("", |known| known.call).to_owned();
        let (stacks, creators) = told.entry(kinds[&leak.goid].clone()).or_default();
        stacks.insert(call(group.known));
        creators.insert(call(by_creator));
    }
    told
}

#[test]
fn clients_are_recognised_by_their_stacks_and_by_their_creators() {
    for_every_release(|release| {
        let mut target = Program::start(&program(release, "clients"), &[]);
        let expected = target.ask("expected");
        target.at_rest();
        let mut all = BTreeMap::new();
        for list in ["used", "forgotten", "waiting"] {
            all.extend(kinds(&expected, list));
        }
        let told = told(target.pid(), &all);
        let set = |calls: &[&str]| calls.iter().map(|call| (*call).to_owned()).collect::<BTreeSet<_>>();
        for (kind, stacks, creators) in KINDS {
            assert_eq!(told.get(*kind), Some(&(set(stacks), set(creators))), "Go {release}: {kind}");
        }
        assert_eq!(told.len(), KINDS.len(), "{told:?}");
    });
}

/// What `leaks` tells of a process, for scripts.
fn leaks(pid: u32) -> Value {
    let command = ["leaks", "--pid", &pid.to_string(), "--json", "--observe", "200ms"];
    let out = Command::new(agent()).args(command).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told["abstained"], Value::Null);
    told["leaked"].clone()
}

#[test]
fn a_proof_names_the_call_that_is_missing() {
    for_every_release(|release| {
        for kind in ["body", "database", "cancel", "rpc", "pipe written", "pipe read", "none"] {
            let mut target = Program::start(&program(release, "clients"), &[kind]);
            let forgotten = kinds(&target.ask("expected"), "forgotten");
            target.at_rest();
            let leaked = leaks(target.pid());
            let leaked = leaked.as_array().unwrap();
            assert!(!leaked.is_empty(), "Go {release}, {kind}: none of {} found", forgotten.len());
            let (_, stacks, _) = KINDS.iter().find(|(name, ..)| *name == kind).unwrap();
            for leak in leaked {
                let missing = leak["known"]["likely_missing"].as_str().unwrap_or_default();
                assert!(stacks.contains(&missing), "Go {release}, {kind}: {leak}");
                assert_eq!(leak["known"].is_null(), kind == "none", "{leak}");
                assert!(
                    forgotten.contains_key(&leak["goid"].as_u64().unwrap()),
                    "{kind}: FALSELY told: {leak}"
                );
            }
        }
    });
}

/// Clients in use have the same goroutines, and such as were ended have none.
#[test]
fn a_client_that_will_be_ended_is_not_accused() {
    for_every_release(|release| {
        let mut target = Program::start(&program(release, "clients"), &["used"]);
        assert!(kinds(&target.ask("expected"), "used").len() > 20);
        target.at_rest();
        assert_eq!(leaks(target.pid()), Value::Array(Vec::new()), "Go {release}");
    });
}

#[test]
fn the_text_says_what_it_looks_like() {
    let text = |kind: &str| {
        let target = Program::start(&program(GO, "clients"), &[kind]);
        let command = ["leaks", "--pid", &target.pid().to_string(), "--observe", "200ms"];
        String::from_utf8(Command::new(agent()).args(command).output().unwrap().stdout).unwrap()
    };
    let database = text("database");
    let line = "  looks like: SQL database; likely missing: (*sql.DB).Close\n";
    assert!(database.contains(line), "{database}");
    let own = text("none");
    assert!(own.contains("created by main.forget") && !own.contains("looks like"), "{own}");
}
