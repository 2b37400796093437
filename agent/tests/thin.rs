//! A dump of many goroutines over a link of 32 kbit/s that is cut again and again: it arrives whole, and only what was
//! under way travels twice. `GLG_THIN=100000` takes as many goroutines, and some minutes. Needs root, mosquitto, and the
//! programs of `cargo xtask test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "../../ctl/src/expand.rs"]
#[allow(dead_code, reason = "its command line belongs to glg")]
mod expand;
#[path = "thin/link.rs"]
mod link;
#[path = "commands/operator.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod operator;

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;
use std::time::Instant;

use common::service::{Agent, Broker};
use common::{Folder, GO, Program, agent};
use flate2::read::DeflateDecoder;
use glg_engine::command::Crypto;
use glg_proto::command::{Action, CommandId, DocumentKind, Made, Outcome, Request, Which};
use glg_proto::wire::head;
use goleakguard::keys::Ring;
use link::{BYTES_A_SECOND, Cut, Thin};
use operator::{Key, Operator};

const DEVICE: &str = "far-away";
/// How often the link is cut.
const CUTS: u64 = 10;

#[test]
fn a_dump_comes_whole_over_a_thin_link_that_is_cut_ten_times() {
    let size = std::env::var("GLG_THIN").unwrap_or_else(|_| "20000".to_owned());
    let folder = Folder::new();
    let mut broker = Broker::prepare(&folder);
    broker.start();
    let mut program = Program::start(&folder.copy_of(GO, "crowd"), &[&size]);
    let goroutines = program.goroutines();
    let link = Thin::start(broker.port);
    let key = Key::new();
    let mut service = Agent::start(&folder, DEVICE, link.port, &board(&folder, &key));
    let mut operator = Operator::start(broker.port, DEVICE, key);
    service.says("link up");
    service.rewind();
    service.says("crowd (");

    let (wire, began) = (link.bytes(), Instant::now());
    let process = Which::Name(head("crowd"));
    let request = Request { kind: DocumentKind::Grouped, process, limit: 0 };
    let (id, outcome) = operator.ask(&Action::Make(request));
    let Outcome::Made(made) = outcome else { panic!("not made: {outcome:?}") };
    let (up, step) = (link.up(), u64::from(made.bytes) / (CUTS + 1));
    let cut = |number| match number % 2 {
        0 => Cut::Sent(up + number * step),
        _ => Cut::Answered(up + number * step),
    };
    link.cut_at((1..=CUTS).map(cut));
    let (document, twice) = collect(&operator, id, &made);
    let (took, wire) = (began.elapsed().as_secs_f64(), link.bytes() - wire);
    let (cuts, connections) = link.cuts_and_connections();
    assert_eq!(cuts, CUTS, "{connections} connections");

    let compact = inflate(&document);
    let mut text = Vec::new();
    assert_eq!(expand::expand(&compact[..], &mut text).unwrap(), u64::from(goroutines));
    let headers = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"goroutine "));
    assert_eq!(headers.count(), goroutines as usize);
    let parts = u64::from(made.parts());
    println!(
        "{goroutines} goroutines: {} bytes of text, {} compact, {} deflated; {wire} bytes on the wire both ways, MQTT \
         included, TCP's headers not, in {took:.0} s; {cuts} cuts, {connections} connections, {} parts received, {twice} \
         of them twice",
        raw(&program),
        compact.len(),
        made.bytes,
        parts + twice,
    );
    // An answer that was lost brings a part twice, and nothing else does.
    assert!((1..=CUTS).contains(&twice), "{twice} parts came twice");
    assert!(took >= made.bytes as f64 / BYTES_A_SECOND as f64, "that was no thin link");
    // Each cut costs a part at most, and a new connection.
    let most = (parts + CUTS) * (u64::from(made.part_bytes) + 100) + CUTS * 1000;
    assert!(wire < most, "{wire} bytes, where {most} would do");
    service.stop();
}

fn board(folder: &Folder, key: &Key) -> String {
    let (home, public) = (folder.path().display(), key.public_hex());
    format!(
        "[attribute]\nenabled = false\n[spool]\ndir = \"{home}/spool\"\n\
         [command]\ndocument = \"{home}/run/document\"\n\
         [[command.key]]\nname = \"workshop\"\npublic = \"{public}\"\nroles = [\"dump\"]\n"
    )
}

/// The whole document as it was announced, and how many of its parts came once more, each time the same.
fn collect(operator: &Operator, id: CommandId, made: &Made) -> (Vec<u8>, u64) {
    let (mut parts, mut twice) = (BTreeMap::new(), 0);
    while parts.len() < made.parts() as usize {
        for (index, bytes) in operator.parts(1, id) {
            if let Some(before) = parts.insert(index, bytes) {
                assert_eq!(before, parts[&index], "part {index} is another");
                twice += 1;
            }
        }
    }
    let bytes: Vec<u8> = parts.into_values().flatten().collect();
    assert_eq!((bytes.len(), Ring.sha256(&[&bytes])), (made.bytes as usize, made.sha256));
    (bytes, twice)
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    DeflateDecoder::new(bytes).read_to_end(&mut text).unwrap();
    text
}

/// Bytes of the dump as text with arguments, as on the device itself.
fn raw(program: &Program) -> usize {
    let output = Command::new(agent()).args(["dump", "--pid", &program.pid().to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.len()
}
