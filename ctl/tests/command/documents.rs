//! Documents on their way, and what becomes of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use glg_proto::command::{Action, CommandId, DocumentKind, Outcome, Refusal, Which};
use glg_proto::wire::head;

use crate::device::{NAME, PART, Workshop, deflate, made, path};

const COMPACT: &str = "\
goleakguard dump 1
stack 0
main.(*Gateway).forward(...)
\t/src/gateway/forward.go:128 +0x1d
created by main.(*Gateway).accept
\t/src/gateway/accept.go:30 +0x5a
.
goroutine 18 [chan send]:
0 1
goroutine 19 [chan send, 2 minutes]:
0 1
stack 1
main.main()
\t/src/gateway/main.go:9 +0x2c
.
goroutine 1 [sync.WaitGroup.Wait]:
1 0
";

const PLAIN: &str = "\
goroutine 18 [chan send]:
main.(*Gateway).forward(...)
\t/src/gateway/forward.go:128 +0x1d
created by main.(*Gateway).accept in goroutine 1
\t/src/gateway/accept.go:30 +0x5a

goroutine 19 [chan send, 2 minutes]:
main.(*Gateway).forward(...)
\t/src/gateway/forward.go:128 +0x1d
created by main.(*Gateway).accept in goroutine 1
\t/src/gateway/accept.go:30 +0x5a

goroutine 1 [sync.WaitGroup.Wait]:
main.main()
\t/src/gateway/main.go:9 +0x2c
";

#[test]
fn a_dump_with_losses_duplicates_and_in_disorder() {
    let shop = Workshop::new("losses");
    let document = deflate(COMPACT.as_bytes());
    let last = document.len().div_ceil(PART.into()) - 1;
    let mut asked: Option<CommandId> = None;
    let frames = shop.device(move |mouth, heard| match &heard.command.action {
        Action::Make(request) => {
            assert_eq!((request.kind, request.limit), (DocumentKind::Grouped, 7));
            assert_eq!(request.process, Which::Name(head("ota-gateway")));
            asked = Some(heard.id);
            let other = CommandId { counter: 1, ..heard.id };
            mouth.part(other, &document, 0);
            mouth.made(heard.id, DocumentKind::Grouped, &document);
            // 2 and 3 get lost.
            for index in [last, 1, last, 0].into_iter().chain(4..last) {
                mouth.part(heard.id, &document, index);
                mouth.part(other, &document, index);
            }
        }
        Action::Send(id, from) => {
            assert_eq!((Some(*id), *from), (asked, 2));
            mouth.answer(heard.id, Outcome::Sending);
            mouth.parts_from(*id, &document, *from);
        }
        other => panic!("{other:?}"),
    });
    let out = shop.file("dump.txt");
    let (success, printed, err) =
        shop.glg(&["dump", NAME, "ota-gateway", "--limit", "7", "--out", path(&out)]);
    assert_eq!((success, printed.as_str()), (true, ""), "{err}");
    assert_eq!(fs::read_to_string(&out).unwrap(), PLAIN);
    // One may have been said again.
    let frames: BTreeSet<Vec<u8>> = frames.try_iter().collect();
    assert_eq!(frames.len().max(2), 2);
    assert!(err.contains("van-7 has made it: grouped dump of process 1412, "), "{err}");
    assert!(err.contains(", 100 %, ") && err.contains(", verified\n"), "{err}");
    assert!(!shop.file("dump.txt.parts").exists(), "of no use any more");
}

#[test]
fn wrong_bytes_are_never_written() {
    let shop = Workshop::new("wrong");
    let document = deflate(PLAIN.as_bytes());
    let mut wrong = document.clone();
    wrong[20] ^= 1;
    let _frames = shop.device(move |mouth, heard| match &heard.command.action {
        Action::Make(request) => {
            assert_eq!(request.kind, DocumentKind::Full);
            mouth.made(heard.id, DocumentKind::Full, &document);
            mouth.parts_from(heard.id, &wrong, 0);
        }
        Action::Send(id, from) => {
            mouth.answer(heard.id, Outcome::Sending);
            mouth.parts_from(*id, &wrong, *from);
        }
        other => panic!("{other:?}"),
    });
    let out = shop.file("dump.txt");
    let (success, _, err) = shop.glg(&["dump", NAME, "1412", "--full", "--out", path(&out)]);
    assert!(!success && err.contains("what came is not what van-7 announced"), "{err}");
    assert_eq!(err.matches("asking for all of it again").count(), 2, "{err}");
    assert!(!out.exists());
}

#[test]
fn wrong_parts_of_somebody_else_do_no_lasting_harm() {
    let shop = Workshop::new("intruder");
    let document = deflate(PLAIN.as_bytes());
    let _frames = shop.device(move |mouth, heard| match &heard.command.action {
        Action::Make(_) => {
            let mut wrong = document.clone();
            wrong[20] ^= 1;
            mouth.made(heard.id, DocumentKind::Full, &document);
            mouth.parts_from(heard.id, &wrong, 0);
            mouth.parts_from(heard.id, &document, 0);
        }
        Action::Send(id, from) => {
            assert_eq!(*from, 0);
            mouth.answer(heard.id, Outcome::Sending);
            mouth.parts_from(*id, &document, *from);
        }
        other => panic!("{other:?}"),
    });
    let out = shop.file("dump.txt");
    let (success, _, err) = shop.glg(&["dump", NAME, "1412", "--full", "--out", path(&out)]);
    assert!(success, "{err}");
    assert_eq!(fs::read_to_string(&out).unwrap(), PLAIN);
}

#[test]
fn an_interrupted_transfer_goes_on() {
    let shop = Workshop::new("resume");
    let document = deflate(COMPACT.as_bytes());
    let mut asked = Vec::new();
    let _frames = shop.device(move |mouth, heard| match &heard.command.action {
        Action::Make(_) => {
            mouth.made(heard.id, DocumentKind::Grouped, &document);
            [0, 1, 3].into_iter().for_each(|index| mouth.part(heard.id, &document, index));
        }
        Action::Send(id, from) => {
            assert_eq!(*from, 2);
            if !asked.contains(&heard.id) {
                asked.push(heard.id);
            }
            // At first it is busy for as long as anybody waits.
            if asked.len() < 3 {
                mouth.answer(heard.id, Outcome::Refused(Refusal::Busy));
            } else {
                mouth.answer(heard.id, Outcome::Sending);
                mouth.parts_from(*id, &document, *from);
            }
        }
        other => panic!("{other:?}"),
    });
    let out = shop.file("dump.txt");
    let arguments = ["dump", NAME, "ota-gateway", "--out", path(&out), "--timeout", "2s"];
    let (success, _, err) = shop.glg(&arguments);
    assert!(!success, "{err}");
    assert!(
        err.contains("glg: interrupted (48 B are in ") && err.contains("--resume goes on from there)"),
        "{err}"
    );
    assert!(err.contains(": no part has come for "), "{err}");
    let (success, _, err) = shop.glg(&arguments);
    assert!(
        !success && err.contains("dump.txt.parts is there, from a transfer that was interrupted"),
        "{err}"
    );
    let patient = ["dump", NAME, "ota-gateway", "--out", path(&out), "--timeout", "20s"];
    let (success, _, err) = shop.glg(&[&patient[..], &["--resume", "--json"]].concat());
    assert!(success, "{err}");
    assert_eq!(fs::read_to_string(&out).unwrap(), PLAIN);
    let (success, _, err) = shop.glg(&[&arguments[..], &["--resume"]].concat());
    assert!(!success && err.contains("nothing to go on with"), "{err}");
}

#[test]
fn a_refused_dump_leaves_nothing_behind() {
    let shop = Workshop::new("refuseddump");
    let _frames = shop.device(|mouth, heard| mouth.answer(heard.id, Outcome::Refused(Refusal::NotAllowed)));
    let out = shop.file("dump.txt");
    let (success, _, err) = shop.glg(&["dump", NAME, "1412", "--out", path(&out)]);
    assert!(!success && err.contains("its roles have no \"dump\""), "{err}");
    assert!(!out.exists() && !shop.file("dump.txt.parts").exists());
}

#[test]
fn more_than_asked_for_is_not_written() {
    let shop = Workshop::new("bomb");
    let bomb = deflate(&vec![b' '; 1 << 20]);
    let _frames = shop.device(move |mouth, heard| match &heard.command.action {
        Action::Make(request) if request.limit == 1 => {
            let huge = glg_proto::command::Made { bytes: 1 << 20, ..made(request.kind, &bomb) };
            mouth.answer(heard.id, Outcome::Made(huge));
        }
        _ => mouth.deliver(heard, &bomb),
    });
    let out = shop.file("dump.txt");
    let arguments = ["dump", NAME, "1412", "--full", "--max-size", "100000", "--out", path(&out)];
    let (success, _, err) = shop.glg(&arguments);
    assert!(!success && err.contains("larger than --max-size allows"), "{err}");
    assert!(!out.exists());
    fs::remove_file(shop.file("dump.txt.parts")).unwrap();
    let (success, _, err) = shop.glg(&[&arguments[..], &["--limit", "1"]].concat());
    assert!(!success && err.contains("1048576 bytes, more than --max-size allows"), "{err}");
}

#[test]
fn locks_and_leaks_are_printed() {
    let shop = Workshop::new("json");
    let _frames = shop.device(|mouth, heard| {
        let Action::Make(request) = &heard.command.action else { panic!("{:?}", heard.command.action) };
        let kind = request.kind.as_str();
        mouth.deliver(heard, &deflate(format!("{{\"kind\":\"{kind}\",\"name\":\"\u{9b}1m\"}}").as_bytes()));
    });
    let (success, out, err) = shop.glg(&["locks", NAME, "1412"]);
    assert!(success, "{err}");
    assert_eq!(out, "{\n  \"kind\": \"locks\",\n  \"name\": \"\\u{9b}1m\"\n}\n");
    let (success, out, err) = shop.glg(&["leaks", NAME, "1412", "--json"]);
    assert!(success, "{err}");
    assert_eq!(out, "{\"kind\":\"leaks\",\"name\":\"\u{9b}1m\"}\n");
}

/// A Go toolchain that has pprof: `GLG_GO`, or one that `cargo xtask setup` has installed.
fn go() -> PathBuf {
    if let Some(go) = std::env::var_os("GLG_GO") {
        return go.into();
    }
    let tools = std::env::var_os("GOLEAKGUARD_TOOLS").map(PathBuf::from);
    let tools =
        tools.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/goleakguard"));
    let releases = fs::read_dir(tools.join("go")).expect("no Go: cargo xtask setup, or GLG_GO");
    let has_pprof = |release: &PathBuf| {
        let tools = fs::read_dir(release.join("pkg/tool")).into_iter().flatten().flatten();
        tools.into_iter().any(|folder| folder.path().join("pprof").exists())
    };
    let release = releases.map(|release| release.unwrap().path()).filter(has_pprof).max();
    release.expect("no Go release with pprof: GLG_GO").join("bin/go")
}

#[test]
fn a_profile_that_pprof_opens() {
    let shop = Workshop::new("pprof");
    let document = deflate(COMPACT.as_bytes());
    let _frames = shop.device(move |mouth, heard| mouth.deliver(heard, &document));
    let out = shop.file("dump.pb.gz");
    let (success, _, err) =
        shop.glg(&["dump", NAME, "ota-gateway", "--format", "pprof", "--out", path(&out)]);
    assert!(success, "{err}");
    let pprof = |view: &str| {
        let output = Command::new(go()).args(["tool", "pprof", view]).arg(&out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let top = pprof("-top");
    println!("{top}");
    assert!(
        top.contains(
            "Type: goroutine\nTime: 2026-11-22 00:45:15 UTC\nShowing nodes accounting for 3, 100% of 3 total"
        ),
        "{top}"
    );
    assert!(top.contains("         2 66.67% 66.67%          2 66.67%  main.(*Gateway).forward\n"), "{top}");
    let raw = pprof("-raw");
    println!("{raw}");
    for wanted in [
        "          2: 1 \n                created_by:[main.(*Gateway).accept] wait:[chan send]\n",
        "          1: 2 \n                wait:[sync.WaitGroup.Wait]\n",
        "main.(*Gateway).forward /src/gateway/forward.go:128",
    ] {
        assert!(raw.contains(wanted), "{wanted}");
    }
}
