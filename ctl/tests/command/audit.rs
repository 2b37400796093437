//! Records of commands: fetched, decrypted, and every link followed.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use glg_proto::audit::{Ending, Event, Head, Link, Record};
use glg_proto::command::{Action, CommandId, DocumentKind, KeyId, Refusal};
use glg_proto::wire::{ClockQuality, Timestamp};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::common::run;
use crate::device::{BOOT, NAME, Workshop, deflate, path};

/// Records 5 to 10 in two files, as a device keeps them.
fn files() -> [Vec<u8>; 2] {
    let id = CommandId { key: KeyId([0xaa; 8]), counter: 7 };
    let at =
        |mono_ms| Timestamp { mono_ms, wall_ms: 1_795_308_315_000 + mono_ms, clock: ClockQuality::Synced };
    let events = [
        (CommandId::default(), Event::Started, 0),
        (id, Event::Begun(1), 0),
        (id, Event::Ended(Ending::Done), 0),
        (id, Event::Refused(Refusal::Forged), 3),
        (id, Event::Begun(3), 0),
        (id, Event::Ended(Ending::Interrupted), 0),
    ];
    let mut link: Link = [9; 32];
    let mut out = [Vec::new(), Vec::new()];
    for (at_event, (command, event, skipped)) in events.into_iter().enumerate() {
        let file = &mut out[at_event / 3];
        let index = 5 + at_event as u64;
        if file.is_empty() {
            file.extend(Head { index, link }.bytes());
        }
        let record = Record { index, boot: BOOT, at: at(1000 * index), command, event, skipped };
        let mut buf = [0; 96];
        let bytes: &[u8] = postcard::to_slice(&record, &mut buf).unwrap();
        link = digest(&SHA256, &[&link, bytes].concat()).as_ref().try_into().unwrap();
        file.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        file.extend(bytes);
        file.extend(link);
    }
    out
}

fn document(files: &[Vec<u8>]) -> Vec<u8> {
    let lengths = files.iter().map(|file| u32::try_from(file.len()).unwrap().to_le_bytes());
    lengths.zip(files).flat_map(|(length, file)| [&length[..], file].concat()).collect()
}

/// Encrypts with the program whose format it is.
fn sealed(identity: &Path, plain: &[u8]) -> Vec<u8> {
    if !identity.exists() {
        let made = Command::new("age-keygen").arg("-o").arg(identity).stderr(Stdio::null()).status();
        assert!(made.expect("age is missing (apt-get install age)").success());
    }
    let text = fs::read_to_string(identity).unwrap();
    let recipient = text.split("public key: ").nth(1).unwrap().lines().next().unwrap();
    let mut age = Command::new("age");
    let age = age.args(["-r", recipient]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut age = age.unwrap();
    age.stdin.take().unwrap().write_all(plain).unwrap();
    age.wait_with_output().unwrap().stdout
}

#[test]
fn fetched_and_shown() {
    let shop = Workshop::new("audit");
    let identity = shop.file("identity.txt");
    let file = sealed(&identity, &document(&files()));
    let travels = deflate(&file);
    let _frames = shop.device(move |mouth, heard| {
        let Action::Make(request) = &heard.command.action else { panic!("{:?}", heard.command.action) };
        assert_eq!(request.kind, DocumentKind::Audit);
        mouth.deliver(heard, &travels);
    });
    let out = shop.file("audit.age");
    let (success, _, err) = shop.glg(&["audit", NAME, "--out", path(&out)]);
    assert!(success, "{err}");
    assert!(fs::read(&out).unwrap() == file, "as the device encrypted it");
    let (success, text, err) = run(&["audit", path(&out), "--identity", path(&identity)], b"");
    assert!(success, "{err}");
    let wanted = "     \
5  2026-11-22 00:45:20 UTC, boot 0102030405060708  the agent began
     6  2026-11-22 00:45:21 UTC, boot 0102030405060708  command aaaaaaaaaaaaaaaa/7  begun: make a document
     7  2026-11-22 00:45:22 UTC, boot 0102030405060708  command aaaaaaaaaaaaaaaa/7  done
     8  2026-11-22 00:45:23 UTC, boot 0102030405060708  command aaaaaaaaaaaaaaaa/7  REFUSED: the signature is not of that key, after 3 refusals that were not written down
     9  2026-11-22 00:45:24 UTC, boot 0102030405060708  command aaaaaaaaaaaaaaaa/7  begun: set
    10  2026-11-22 00:45:25 UTC, boot 0102030405060708  command aaaaaaaaaaaaaaaa/7  interrupted: the agent ended first
6 records whose links are good; the last link is ";
    assert!(text.starts_with(wanted), "{text}");
    let (_, lines, _) = run(&["audit", path(&out), "--identity", path(&identity), "--json"], b"");
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["index"], &last["link_good"], &last["kind"]),
        (&10.into(), &true.into(), &"ended".into())
    );
}

#[test]
fn what_was_changed_or_taken_out_is_seen() {
    let shop = Workshop::new("auditbroken");
    let (identity, file) = (shop.file("identity.txt"), shop.file("audit.age"));
    let show = |plain: &[u8]| {
        fs::write(&file, sealed(&identity, plain)).unwrap();
        let (success, out, err) = run(&["audit", path(&file), "--identity", path(&identity)], b"");
        assert!(!success && err.contains("NOT WHOLE"), "{out}{err}");
        out
    };
    let [first, second] = files();
    // The last byte of the second record of the first file: its number of skipped refusals.
    let mut changed = first.clone();
    let record =
        |from: usize| from + 2 + usize::from(u16::from_le_bytes([first[from], first[from + 1]])) + 32;
    let end = record(record(41)) - 33;
    changed[end] ^= 1;
    let out = show(&document(&[changed, second.clone()]));
    assert_eq!(out.matches("LINK BROKEN").count(), 1, "{out}");
    let without: Vec<u8> = [&first[..record(41)], &first[record(record(41))..]].concat();
    let out = show(&document(&[without, second.clone()]));
    assert!(out.contains("begun") && out.contains("LINK BROKEN"), "{out}");
    let out = show(&document(&[first[..record(41)].to_vec(), second.clone()]));
    assert!(out.contains("DAMAGED: records 6 to 7 are missing"), "{out}");
    let out = show(&document(&[second.clone(), first.clone()]));
    assert!(out.contains("DAMAGED: before record 5: the link is another"), "{out}");
    let out = show(&document(&[first.clone(), second[..second.len() - 1].to_vec()]));
    assert!(out.contains("bytes after record 9 cannot be read"), "{out}");
    let whole = document(&[first, second]);
    assert!(show(&whole[..whole.len() - 1]).contains("DAMAGED: the document is cut short"));
    let other = shop.file("other.txt");
    fs::write(&file, sealed(&other, b"")).unwrap();
    let (success, _, err) = run(&["audit", path(&file), "--identity", path(&identity)], b"");
    assert!(!success && err.contains("encrypted to somebody else"), "{err}");
    let (success, _, err) = run(&["audit", path(&file), "--identity", path(&file)], b"");
    assert!(!success, "{err}");
}
