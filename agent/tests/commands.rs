//! Commands over a real broker: what is obeyed, what is refused, and that nothing is done twice, whatever happens to
//! the agent meanwhile. Needs root, mosquitto, age, and the programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "../../ctl/src/expand.rs"]
#[allow(dead_code, reason = "its command line belongs to glg")]
mod expand;
#[path = "commands/operator.rs"]
mod operator;

use std::io::Read;
use std::process::Command as Process;
use std::time::SystemTime;

use common::service::{Agent, Broker};
use common::{Folder, GO, Program, agent};
use flate2::read::DeflateDecoder;
use glg_engine::command::Crypto;
use glg_proto::audit::{Ending, Event, Head, Linked};
use glg_proto::command::{
    Action, DocumentKind, Failure, Made, Outcome, Refusal, Request, Setting, Until, Which, Window,
};
use glg_proto::wire::head;
use goleakguard::keys::Ring;
use goleakguard::remote;
use nix::sys::signal::Signal;
use operator::{Key, Operator};
use serde_json::Value;

const DEVICE: &str = "obedient";

/// A running agent that obeys, a program that it watches, and somebody who sends commands.
struct Stand {
    folder: Folder,
    broker: Broker,
    agent: Agent,
    program: Program,
    operator: Operator,
    more: String,
}

impl Stand {
    /// With a key that may do everything, and `more` in the board's configuration.
    fn new(more: &str) -> Stand {
        Stand::with(&["-stdin", "-rate", "1", "-requests", "400"], "leaky", more)
    }

    fn with(arguments: &[&str], program: &str, more: &str) -> Stand {
        let folder = Folder::new();
        let mut broker = Broker::prepare(&folder);
        broker.start();
        let key = Key::new();
        let roles = "[\"look\", \"dump\", \"set\", \"audit\"]";
        let public = key.public_hex();
        let home = folder.path().display();
        let more = format!(
            "[attribute]\nenabled = false\n[spool]\ndir = \"{home}/spool\"\n\
             [command]\ndocument = \"{home}/run/document\"\npart_bytes = 512\n{more}\n\
             [[command.key]]\nname = \"workshop\"\npublic = \"{public}\"\nroles = {roles}\n"
        );
        let program = Program::start(&folder.copy_of(GO, program), arguments);
        let operator = Operator::start(broker.port, DEVICE, key);
        let mut agent = Agent::start(&folder, DEVICE, broker.port, &more);
        agent.says(&format!("{} (", program_name(&program)));
        agent.rewind(); // either may come first
        agent.says("link up");
        Stand { folder, broker, agent, program, operator, more }
    }

    /// The same agent, begun anew.
    fn begin_anew(&mut self, signal: Signal) {
        self.agent.end(signal);
        self.agent = Agent::start(&self.folder, DEVICE, self.broker.port, &self.more);
        self.agent.says("link up");
        self.agent.rewind();
        self.agent.says(&format!("{} (", program_name(&self.program)));
    }

    fn which(&self) -> Which {
        Which::Name(head(&program_name(&self.program)))
    }

    fn request(&self, kind: DocumentKind) -> Action {
        Action::Make(Request { kind, process: self.which(), limit: 0 })
    }

    /// A document that is asked for, all its parts joined, checked and inflated.
    fn document(&mut self, kind: DocumentKind) -> (Made, String) {
        let (id, outcome) = self.operator.ask(&self.request(kind));
        let made = made(&outcome);
        assert_eq!(made.kind, kind);
        (made, inflate(&self.operator.document(id, &made)))
    }
}

fn program_name(program: &Program) -> String {
    let exe = std::fs::read_link(format!("/proc/{}/exe", program.pid())).unwrap();
    exe.file_name().unwrap().to_str().unwrap().to_owned()
}

fn made(outcome: &Outcome) -> Made {
    match outcome {
        Outcome::Made(made) => *made,
        other => panic!("not made: {other:?}"),
    }
}

fn inflate(bytes: &[u8]) -> String {
    let mut text = String::new();
    DeflateDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

fn goroutines(dump: &str) -> usize {
    dump.lines().filter(|line| line.starts_with("goroutine ")).count()
}

#[test]
fn what_is_asked_for_is_done() {
    let mut stand = Stand::with(&[], "kinds", "");
    let (_, pong) = stand.operator.ask(&Action::Ping);
    assert!(matches!(&pong, Outcome::Pong(pong) if pong.targets == 1), "{pong:?}");

    let pid = stand.program.pid().to_string();
    let by_hand = Process::new(agent()).args(["dump", "--pid", &pid]).output().unwrap();
    let count = goroutines(&String::from_utf8(by_hand.stdout).unwrap());
    assert!(count > 100, "{count}");
    let (made, compact) = stand.document(DocumentKind::Grouped);
    assert_eq!(made.pid, stand.program.pid());
    let mut text = Vec::new();
    let expanded = expand::expand(compact.as_bytes(), &mut text).unwrap();
    assert_eq!(expanded, count as u64);
    let (made, full) = stand.document(DocumentKind::Full);
    assert!(made.parts() > 1 && goroutines(&full) == count, "{made:?}");
    println!("{count} goroutines: {} bytes of text in {} bytes", full.len(), made.bytes);

    let (_, locks) = stand.document(DocumentKind::Locks);
    let locks: Value = serde_json::from_str(&locks).unwrap();
    assert_eq!(locks["pid"], made.pid);
    let (_, leaks) = stand.document(DocumentKind::Leaks);
    let leaks: Value = serde_json::from_str(&leaks).unwrap();
    assert_eq!((&leaks["pid"], leaks["leaked"].is_array()), (&made.pid.into(), true), "{leaks}");

    let (_, set) = stand.operator.ask(&Action::Set(Setting::Investigate(stand.which())));
    assert_eq!(set, Outcome::Set);
    stand.agent.says("a command asks");
    stand.agent.stop();
}

#[test]
fn what_cannot_be_done_is_told() {
    let mut stand = Stand::new("document_kib = 64\n");
    let fails = |stand: &mut Stand, action: Action| match stand.operator.ask(&action).1 {
        Outcome::Failed(failure) => failure,
        other => panic!("{action:?}: {other:?}"),
    };
    let ask = |process| Action::Make(Request { kind: DocumentKind::Full, process, limit: 0 });
    assert_eq!(fails(&mut stand, ask(Which::Name(head("nobody")))), Failure::NoSuchProcess);
    assert_eq!(fails(&mut stand, ask(Which::Pid(1))), Failure::NoSuchProcess);
    let growth = |rise| Action::Set(Setting::Growth(Window::Fast, rise, 50));
    assert_eq!(fails(&mut stand, growth(0)), Failure::OutOfRange(1, 1_000_000));
    assert_eq!(stand.operator.ask(&growth(10)).1, Outcome::Set);
    let (id, _) = stand.operator.ask(&Action::Ping);
    assert_eq!(fails(&mut stand, Action::Send(id, 0)), Failure::NoDocument);
    let audit = stand.request(DocumentKind::Audit);
    assert!(matches!(fails(&mut stand, audit), Failure::Other(text) if text.contains("audit_recipient")));
    // Another process of the same name.
    let other = Program::start(&stand.folder.path().join("leaky"), &["-stdin", "-rate", "1"]);
    stand.agent.says(&format!("leaky ({})", other.pid()));
    let process = stand.which();
    assert_eq!(fails(&mut stand, ask(process)), Failure::Several(2));
    stand.agent.stop();
}

#[test]
fn a_document_that_is_too_large_is_not_sent() {
    let mut stand = Stand::with(&["30000"], "crowd", "document_kib = 64\n");
    let request = stand.request(DocumentKind::Full);
    assert_eq!(stand.operator.ask(&request).1, Outcome::Failed(Failure::TooLarge(64)));
    assert!(
        std::fs::read_dir(stand.folder.path().join("run")).unwrap().count() <= 1,
        "something is left behind"
    );
    stand.agent.stop();
}

#[test]
fn parts_are_sent_again() {
    let mut stand = Stand::new("");
    let (id, outcome) = stand.operator.ask(&stand.request(DocumentKind::Full));
    let made = made(&outcome);
    let first = stand.operator.document(id, &made);
    let (_, again) = stand.operator.ask(&Action::Send(id, 1));
    assert_eq!(again, Outcome::Sending);
    let parts = stand.operator.parts(made.parts() as usize - 1, id);
    assert_eq!(parts.first().unwrap().0, 1);
    let second: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!(first[512..], second);
    stand.agent.stop();
}

#[test]
fn nothing_is_obeyed_that_is_not_good() {
    let mut stand = Stand::new("");
    let refused = |stand: &mut Stand, bytes: &[u8]| match stand.operator.tell(bytes) {
        (_, Outcome::Refused(refusal)) => refusal,
        (_, other) => panic!("{other:?}"),
    };
    let now = operator::now_ms();
    let ping = stand.operator.command(Action::Ping);
    let good = stand.operator.sign(&ping);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&mut stand, &forged), Refusal::Forged);
    let stranger = Key::new().sign(&ping);
    assert_eq!(refused(&mut stand, &stranger), Refusal::UnknownKey);
    assert_eq!(refused(&mut stand, b"rubbish"), Refusal::Malformed);
    assert_eq!(refused(&mut stand, &[0; 300]), Refusal::Oversized);
    assert_eq!(refused(&mut stand, &[0; 5000]), Refusal::Oversized);
    let bytes = stand.operator.sign(&glg_proto::command::Command { device: head("another"), ..ping.clone() });
    assert_eq!(refused(&mut stand, &bytes), Refusal::OtherDevice);
    let late = glg_proto::command::Command { until: Until::Wall(now - 60_000), ..ping.clone() };
    let bytes = stand.operator.sign(&late);
    assert_eq!(refused(&mut stand, &bytes), Refusal::Expired);
    assert!(matches!(stand.operator.tell(&good).1, Outcome::Pong(_)));
    let old = glg_proto::command::Command { counter: ping.counter - 1, ..ping.clone() };
    let bytes = stand.operator.sign(&old);
    assert_eq!(refused(&mut stand, &bytes), Refusal::Replayed(ping.counter));
    stand.agent.stop();
}

#[test]
fn what_was_done_is_not_done_again() {
    let mut stand = Stand::new("");
    let command = stand.operator.command(Action::Set(Setting::RemindS(77)));
    let bytes = stand.operator.sign(&command);
    let first = stand.operator.tell(&bytes);
    assert_eq!(first.1, Outcome::Set);
    assert_eq!(stand.operator.tell(&bytes), first);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        stand.begin_anew(signal);
        assert_eq!(stand.operator.tell(&bytes), first);
        assert!(
            !stand.agent.said().contains("is carried out\n")
                || stand.agent.said().matches("carried out").count() == 1
        );
    }
    // One that is cut off is not begun again. It takes half a minute at least, however long the cut is kept waiting.
    let mut stand = Stand::new("[prove]\nseconds = 30\n");
    let command = stand.operator.command(stand.request(DocumentKind::Leaks));
    let bytes = stand.operator.sign(&command);
    stand.operator.publish(&bytes);
    stand.agent.says("making the document");
    stand.begin_anew(Signal::SIGKILL);
    assert_eq!(stand.operator.tell(&bytes).1, Outcome::Failed(Failure::Interrupted));
    stand.agent.stop();
}

/// The agent's records, decrypted by another program than ours, and linked without a gap.
#[test]
fn commands_are_written_down() {
    let keys = Process::new("age-keygen").output().expect("age is missing (run `cargo xtask setup`)");
    let identity = String::from_utf8(keys.stdout).unwrap();
    let recipient = identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let mut stand = Stand::new(&format!("audit_recipient = \"{recipient}\"\n"));
    assert!(matches!(stand.operator.ask(&Action::Ping).1, Outcome::Pong(_)));
    assert_eq!(stand.operator.tell(b"rubbish").1, Outcome::Refused(Refusal::Malformed));
    let (id, outcome) = stand.operator.ask(&stand.request(DocumentKind::Audit));
    let sealed = stand.operator.document(id, &made(&outcome));
    let mut age = Vec::new();
    DeflateDecoder::new(&sealed[..]).read_to_end(&mut age).unwrap();
    let (key, file) = (stand.folder.path().join("identity"), stand.folder.path().join("audit.age"));
    std::fs::write(&key, &identity).unwrap();
    std::fs::write(&file, age).unwrap();
    let opened = Process::new("age").arg("-d").arg("-i").arg(&key).arg(&file).output().unwrap();
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let events = events(&opened.stdout);
    let wanted = [
        Event::Started,
        Event::Begun(0),
        Event::Ended(Ending::Done),
        Event::Refused(Refusal::Malformed),
        Event::Begun(1),
    ];
    assert_eq!(events, wanted);
    stand.agent.stop();
}

fn events(document: &[u8]) -> Vec<Event> {
    let (mut events, mut rest) = (Vec::new(), document);
    while let Some((len, after)) = rest.split_first_chunk() {
        let (segment, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        rest = after;
        let (head, mut records) = Head::parse(segment).unwrap();
        let mut link = head.link;
        while let Some((linked, after)) = Linked::parse(records) {
            link = Ring.sha256(&[&link, linked.bytes]);
            assert_eq!(link, *linked.link);
            events.push(linked.record().unwrap().event);
            records = after;
        }
        assert!(records.is_empty());
    }
    events
}

/// Nobody who has no key can make the device do or send much.
#[test]
fn without_keys_commands_are_off() {
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let mut agent = Agent::start(&folder, DEVICE, broker.port, "");
    agent.says("link up");
    agent.rewind();
    agent.says("commands are off");
    let home = folder.path().join("none");
    assert!(!home.exists() && remote::stat(1).is_some() && SystemTime::now() > SystemTime::UNIX_EPOCH);
    agent.stop();
}
