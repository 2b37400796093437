//! Contention as the command tells it, and as the service finds it by itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use glg_proto::locks::LockKind;
use glg_proto::wire::Body;
use serde_json::Value;

use crate::common::service::{Agent, Broker, Watcher};
use crate::common::{Folder, GO, Program, agent, eventually, program};

/// The number by which the kernel knows the probe of another process at the place where threads are switched.
fn probe_of(pid: u32) -> Option<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?.flatten();
    let infos = open.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let info = infos.into_iter().find(|info| info.contains("sched_switch"))?;
    info.lines().find(|line| line.starts_with("link_id")).map(str::to_owned)
}

/// Starts a command, and returns once it observes.
fn observing(mut command: Command) -> Child {
    let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(command.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("goleakguard: observing process "), "{said}");
    command
}

/// The service that runs with the config of a folder.
pub(crate) fn service_of(folder: &Folder) -> u32 {
    let config = folder.path().join("board.toml");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let runs = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes())
    };
    pids.find(runs).expect("a service of this folder")
}

fn board(folder: &Folder, budget_percent: &str) -> String {
    let path = folder.path().join("board.toml");
    fs::write(&path, format!("[attribute]\nbudget_percent = {budget_percent}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The command begins to observe, then a lock is waited for.
#[test]
fn the_command_says_who_waited_for_what() {
    let folder = Folder::new();
    let mut program = Program::start(&program(GO, "locks-cgo"), &["-later", "hold"]);
    let pid = program.pid().to_string();
    let board = board(&folder, "100.0");
    let mut command = Command::new(agent());
    command.args(["locks", "--json", "--pid", &pid, "--observe", "20s", "--config", &board]);
    let command = observing(command);
    let said = program.ask("go");
    let told = command.wait_with_output().unwrap();
    assert!(told.status.success());
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let (waits, seen) = (said["waits"].as_array().unwrap(), &told["contention"]);
    let lock = waits[0]["lock"].as_u64().unwrap();
    let address = format!("{lock:#x}");
    let lock = seen["locks"].as_array().unwrap().iter().find(|lock| lock["lock"] == *address);
    let lock = lock.unwrap_or_else(|| panic!("not {address}: {seen:#}"));
    assert_eq!(
        (&lock["kind"], &lock["waits"], &lock["ongoing"]),
        (&"mutex".into(), &3.into(), &3.into()),
        "{seen:#}"
    );
    let waiter = waits.iter().find(|wait| wait["tid"] == lock["tid"]);
    let waiter = waiter.unwrap_or_else(|| panic!("{lock:#} is waited for by {waits:#?}"));
    assert_eq!(lock["c_function"], waiter["c_function"], "{lock:#}");
    if let Some(function) = waiter["go_function"].as_str().filter(|function| !function.is_empty()) {
        assert!(lock["go_function"].as_str().unwrap().starts_with(function), "{lock:#}");
    }
    assert_eq!((&seen["over_budget"], &seen["lost"]), (&false.into(), &0.into()), "{seen:#}");
    assert_eq!(told["waits"].as_array().unwrap().len(), 3, "and they wait still");
}

#[test]
fn the_command_keeps_to_its_budget() {
    let folder = Folder::new();
    let contended = Program::start(&program(GO, "locks-cgo"), &["contended"]);
    let pid = contended.pid().to_string();
    let observe = |time: &str, more: &[&str]| {
        let mut command = Command::new(agent());
        command.args(["locks", "--pid", &pid, "--observe", time]).args(more);
        let said = command.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    };
    let text = observe("1s", &["--config", &board(&folder, "100.0")]);
    println!("{text}");
    assert!(
        text.starts_with("observed ")
            && !text.contains("ended early")
            && text.contains("waited for at")
            && text.contains("\ncost ")
    );
    let early = observe("10min", &["--config", &board(&folder, "0.01"), "--json"]);
    let early: Value = serde_json::from_str(&early).unwrap();
    assert_eq!(early["contention"]["over_budget"], true, "{early}");
    assert!(early["contention"]["observed_ms"].as_u64().unwrap() < 300_000, "{early}");
}

/// A program that ends while it is observed: what was measured until then is told.
#[test]
fn the_command_survives_the_program() {
    let folder = Folder::new();
    let mut contended = Program::start(&program(GO, "locks-cgo"), &["contended"]);
    let (pid, board) = (contended.pid().to_string(), board(&folder, "100.0"));
    let mut command = Command::new(agent());
    command.args(["locks", "--json", "--pid", &pid, "--observe", "1min", "--config", &board]);
    let command = observing(command);
    contended.kill();
    let told = command.wait_with_output().unwrap();
    assert!(told.status.success());
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["ended"], true);
    assert!(!told["contention"]["locks"].as_array().unwrap().is_empty(), "{told:#}");
}

/// The service by itself: threads are met waiting again and again, the kernel is asked, and the alert arrives.
#[test]
fn the_service_finds_contention_and_tells_it_once() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let contended = Program::start(&folder.copy_of(GO, "locks-cgo"), &["contended"]);
    let began = Instant::now();
    let more = "[attribute]\nenabled = false\nbudget_percent = 100.0\n[locks]\ncontention_s = 2\n";
    let mut service = Agent::start(&folder, "fighter", broker.port, more);
    service.says("threads wait for locks again and again");
    let message = watcher.next("contention", |message| matches!(message.envelope.body, Body::Contention(_)));
    let Body::Contention(told) = message.envelope.body else { unreachable!() };
    println!("{told:?}");
    assert_eq!((told.target.name.as_str(), told.target.pid), ("locks-cgo", contended.pid()));
    let observed = 1000..began.elapsed().as_millis();
    assert!(observed.contains(&told.observed_ms.into()), "{told:?}, {observed:?}");
    assert!(told.waits > 10 && told.total_ms >= told.observed_ms / 4, "{told:?}");
    assert!(told.median_us <= told.p99_us && told.p99_us <= told.longest_us, "{told:?}");
    assert!(told.waiter.lock != 0 && told.waiter.kind != LockKind::Futex, "{told:?}");
    service.says("CONTENTION: a ");
    eventually("no probe", || probe_of(service_of(&folder)).is_none().then_some(()));
    service.stop();
    let rest = watcher.rest();
    assert!(!rest.iter().any(|message| matches!(message.envelope.body, Body::Contention(_))), "{rest:?}");
}
