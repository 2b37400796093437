//! Silence where there is nothing: of healthy programs in every rhythm that such programs have, nothing is proven,
//! nothing is called stuck, and no alert comes. The oracle makes every goroutine that it has run: what can be made to
//! run is not leaked. Needs root, mosquitto, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::service::{Agent, Broker, Message, Watcher};
use common::{Folder, GO, Program, Seen, agent, eventually, for_every_release, program, releases};
use glg_engine::reach::proof::{Finding, Look, Plan, Proof, moments};
use glg_engine::reach::{Abstained, Places, ReachLimits, Subject};
use glg_proto::wire::Body;
use serde_json::{Value, json};

/// What `rhythms` has; see there.
const RHYTHMS: [&str; 13] = [
    "ramp",
    "pool",
    "burst",
    "daily",
    "lazyworkers",
    "fanout",
    "locks",
    "cond",
    "group",
    "pubsub",
    "gc",
    "longpoll",
    "idle",
];
/// As by default, but in a shorter time, so that every release has its turn.
const QUICK: Plan = Plan { passes: 4, millis: 1000 };
/// As by default.
const LIMITS: ReachLimits = ReachLimits { memory_bytes: 24 << 20, goroutines: 200_000 };
/// A program that grows for so long is seen to grow by all of an observation.
const LONG: &str = "20s";
/// A beginning takes about a third of the window in which the service looks for growth: of this one, as of the default.
const SHORT: &str = "3s";
/// The service is to be silent for so long.
const SILENCE: Duration = Duration::from_secs(60);

/// A program in one of the rhythms.
struct Rhythm {
    name: &'static str,
    program: Program,
}

impl Rhythm {
    fn all(release: &str, over: &str) -> Vec<Rhythm> {
        let path = program(release, "rhythms");
        let start = |name| Rhythm { name, program: Program::start(&path, &["-over", over, name]) };
        RHYTHMS.map(start).into()
    }

    /// Waits until it has grown a bit, and says how many goroutines there are then.
    fn under_way(&mut self) -> u64 {
        let what = format!("{} grows", self.name);
        eventually(&what, || Some(self.program.goroutines().into()).filter(|count| *count > 20))
    }

    /// Every goroutine answers, and there is none that nobody knows.
    fn assert_alive(&mut self) {
        let said = self.program.ask("alive?");
        assert_eq!((&said["silent"], &said["unnamed"]), (&json!([]), &json!(0)), "{}: {said}", self.name);
        assert!(said["held"].as_u64() >= Some(5), "{}: {said}", self.name);
    }
}

/// What `goleakguard leaks` says, by default or with these arguments.
fn leaks(pid: u32, arguments: &[&str]) -> Value {
    let mut command = Command::new(agent());
    let out = command.args(["leaks", "--json", "--pid", &pid.to_string()]).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// All rhythms at once, while what grows in them grows.
#[test]
fn nothing_is_told_of_healthy_rhythms() {
    let newest = releases().pop().unwrap();
    let mut all = Rhythm::all(&newest, LONG);
    let guilty = Program::start(&program(&newest, "leaks"), &[]);
    // Some workers and subscribers have to be there, who then have nothing to do.
    let growing = all.iter_mut().filter(|rhythm| matches!(rhythm.name, "ramp" | "pubsub"));
    let before: BTreeMap<_, _> = growing.map(|rhythm| (rhythm.name, rhythm.under_way())).collect();
    let pids = all.iter().map(|rhythm| rhythm.program.pid()).chain([guilty.pid()]);
    let observers: Vec<_> = pids.map(|pid| thread::spawn(move || leaks(pid, &[]))).collect();
    let mut told: Vec<Value> = observers.into_iter().map(|observer| observer.join().unwrap()).collect();
    let of_guilty = told.pop().unwrap();
    assert!(!of_guilty["leaked"].as_array().unwrap().is_empty(), "{of_guilty}");
    for (rhythm, told) in all.iter_mut().zip(&told) {
        let (name, goroutines) = (rhythm.name, told["goroutines"].as_u64().unwrap());
        assert_eq!(told["leaked"], json!([]), "{name}: {told:#}");
        assert_eq!((&told["abstained"], &told["passes"]), (&Value::Null, &json!(8)), "{name}: {told:#}");
        let grown = before.get(name).map(|before| goroutines.saturating_sub(*before));
        assert!(grown.is_none_or(|grown| grown > 50), "{name} has not grown: {goroutines} now");
        rhythm.assert_alive();
        println!("{name}: {goroutines} goroutines, none told in {} ms", told["observed_ms"]);
    }
}

/// Those that wait for a lock which somebody has who sleeps: nothing of it is for ever, but it may be for too long.
#[test]
fn who_waits_for_a_lock_is_stuck_once_that_is_long() {
    let mut target = Program::start(&program(&releases().pop().unwrap(), "leaks"), &[]);
    let expected = target.ask("expected");
    let of_sleepers = |one: &&Value| one["name"].as_str().unwrap().starts_with("Mutex that a sleeper has");
    let [waiter] = expected["alive"].as_array().unwrap().iter().filter(of_sleepers).collect::<Vec<_>>()[..]
    else {
        panic!("{expected}")
    };
    let folder = Folder::new();
    let impatient = folder.path().join("impatient.toml");
    std::fs::write(&impatient, "[prove]\nstuck_s = 1\n").unwrap();
    let observe = |more: &[&str]| {
        let told = leaks(target.pid(), &[&["--observe", "1s"], more].concat());
        let leaked = told["leaked"].as_array().unwrap();
        leaked.iter().find(|leak| leak["goid"] == waiter["goid"]).cloned()
    };
    assert_eq!(observe(&[]), None);
    let told = observe(&["--config", impatient.to_str().unwrap()]).expect("it has waited for a second");
    assert_eq!((&told["grade"], &told["wait"]), (&json!("stuck"), &json!("sync.Mutex.Lock")), "{told}");
    assert!(told["waited_s"].as_u64() >= Some(1), "{told}");
}

/// What an observation finds, and why it says nothing, if so.
fn observe(pid: u32, seed: u64) -> (Vec<Finding>, Option<Abstained>) {
    let mut seen = Seen::open(pid);
    let (runtime, process) = (&seen.runtime, seen.remote.process());
    let places = &Places::find(runtime, process.memory, process.image).unwrap();
    let memory = process.memory;
    let (mut proof, begin) = (Proof::new(runtime.layout, LIMITS), Instant::now());
    for (moment, look) in moments(QUICK, seed) {
        thread::sleep(Duration::from_millis(moment).saturating_sub(begin.elapsed()));
        match look {
            Look::Glance => proof.glance(runtime, memory).unwrap(),
            Look::Pass => {
                let (memory, expired) = (&mut *memory, &mut || false);
                let image = &mut *process.image;
                proof.pass(&mut Subject { runtime, memory, image, places, regions: None, expired }).unwrap();
            }
        }
    }
    (proof.findings(QUICK), proof.abstained())
}

#[test]
fn no_release_makes_healthy_rhythms_look_leaked() {
    for_every_release(|release| {
        let mut all = Rhythm::all(release, SHORT);
        let begin = |(seed, rhythm): (u64, &Rhythm)| {
            let pid = rhythm.program.pid();
            thread::spawn(move || observe(pid, seed))
        };
        let observers: Vec<_> = (1..).zip(&all).map(begin).collect();
        let found: Vec<_> = observers.into_iter().map(|observer| observer.join().unwrap()).collect();
        for (rhythm, (found, abstained)) in all.iter_mut().zip(found) {
            assert!(found.is_empty() && abstained.is_none(), "{}: {found:?}, {abstained:?}", rhythm.name);
            rhythm.assert_alive();
        }
    });
}

/// A leak begins beside them at the end, and is the only thing that is ever told.
#[test]
fn the_service_says_nothing_of_healthy_rhythms_and_tells_the_leak_beside_them() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let watcher = Watcher::start(&broker);
    let copies =
        RHYTHMS.map(|name| (name, folder.executable(name, &std::fs::read(program(GO, "rhythms")).unwrap())));
    let leaky = folder.copy_of(GO, "leaky");
    let mut agent = Agent::start(&folder, "silent", broker.port, "");
    agent.says("link up");
    let mut leaky = Program::start(&leaky, &["-stdin", "-rate", "60", "-requests", "400"]);
    let start = |(name, path): (_, std::path::PathBuf)| Rhythm {
        name,
        program: Program::start(&path, &["-over", SHORT, name]),
    };
    let mut all = copies.map(start);
    for Rhythm { name, program } in &all {
        agent.rewind(); // they come in any order
        agent.says(&format!("{name} ({}): watching", program.pid()));
    }
    let silent_until = Instant::now() + SILENCE;
    while Instant::now() < silent_until {
        thread::sleep(Duration::from_secs(1));
        assert_eq!(alerts(&watcher.rest()), Vec::<String>::new(), "{}", agent.said());
    }
    all.iter_mut().for_each(Rhythm::assert_alive);
    leaky.say("leak");
    assert!(leaky.line().starts_with("LEAKING "));
    let alert = watcher.leak();
    let Body::Leak(leak) = &alert.envelope.body else { unreachable!() };
    assert_eq!((leak.target.pid, leak.target.name.as_str()), (leaky.pid(), "leaky"), "{leak:?}");
    agent.stop();
    let names = alerts(&watcher.rest());
    assert!(names.iter().all(|name| name.contains("leaky")), "{names:?}\n{}", agent.said());
}

/// Everything but birth, health and end of the agent.
fn alerts(messages: &[Message]) -> Vec<String> {
    let quiet =
        |body: &&Body| !matches!(body, Body::Online(_) | Body::Offline | Body::Vanished | Body::Health(_));
    messages
        .iter()
        .map(|message| &message.envelope.body)
        .filter(quiet)
        .map(|body| format!("{body:?}"))
        .collect()
}
