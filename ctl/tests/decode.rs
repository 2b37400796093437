//! `glg decode`, and through it the text that people read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{envelope, leak, online, payload, run};
use glg_proto::command::{
    Action, Command, CommandId, DocumentKind, KeyId, Made, Outcome, Part, Receipt, Setting, Until, Window,
    sign_command, sign_receipt,
};
use glg_proto::locks::{Contention, Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::{Body, ClockQuality, Grade, Losses, Observed, Target, Timestamp, head};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;

fn text(envelope: &glg_proto::wire::Envelope) -> String {
    let (success, out, err) = run(&["decode", "-"], &payload(envelope));
    assert!(success && err.is_empty(), "{err}");
    out
}

#[test]
fn a_leak_as_text() {
    let wanted = "\
LEAK in ota-gateway on van-7 (pid 1412, Go 1.24.11)
  grade     suspected: the number grows
  growth    4412 goroutines, 230 30 min ago: +4182, about 2 a second
  trend     +8364 an hour, +8100 to +8600 in 95 of 100 cases
  since     2026-11-22 00:15:15 UTC or before
  memory    used up in about 2 d 4 h at this rate: the limit of its control group
  created   in main.(*Gateway).forward at gateway/forward.go:128
            4180 goroutines in \"chan send\", 212 more than at the first look, the oldest for 29 min 10 s or longer
            created 171, exited 3 while watched for 8.0 s
  created   in main.(*Gateway).forward at gateway/forward.go:140
            4180 goroutines in \"chan send\", 212 more than at the first look, the oldest for 29 min 10 s or longer
  said      2026-11-22 00:45:15 UTC, 1 min 30 s after boot 0102030405060708, message 300
  LOST before this message: 2 samples
";
    assert_eq!(text(&leak()), wanted);
}

#[test]
fn a_proven_leak_as_text() {
    let mut message = leak();
    let Body::Leak(proven) = &mut message.body else { unreachable!() };
    proven.grade = Grade::Proven;
    proven.observed = Some(Observed { passes: 4, seconds: 11 });
    (proven.baseline, proven.window_s) = (4412, 0);
    (proven.trend, proven.left) = (None, None);
    proven.sites.truncate(1);
    let site = &mut proven.sites[0];
    (site.count, site.grew, site.attributed) = (1, 0, None);
    (site.oldest_s, site.orphans, site.marked) = (0, Some(1), 1);
    site.missing = head("(*grpc.ClientConn).Close");
    let wanted = "\
LEAK in ota-gateway on van-7 (pid 1412, Go 1.24.11)
  grade     proven: nothing that can still run reaches what they wait for, in 4 of 4 passes over 11 s
  growth    4412 goroutines, not seen to grow by this agent
  created   in main.(*Gateway).forward at gateway/forward.go:128
            1 goroutine in \"chan send\"
            of 1 the goroutine that created them has ended
            of 1 the program's own runtime says that they are leaked
            likely missing: (*grpc.ClientConn).Close
";
    assert!(text(&message).starts_with(wanted), "{}", text(&message));
    let (success, out, _) = run(&["decode", "--json", "-"], &payload(&message));
    assert!(success);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["observed"], serde_json::json!({"passes": 4, "seconds": 11}));
    assert_eq!(object["sites"][0]["orphans"], 1);
    assert_eq!(object["sites"][0]["likely_missing"], "(*grpc.ClientConn).Close");
    assert_eq!((&object["trend_per_hour"], &object["memory_left"]), (&Value::Null, &Value::Null));
}

#[test]
fn states_as_text() {
    assert_eq!(
        text(&online()),
        "2026-11-22 00:45:15 UTC van-7 is ONLINE: agent 0.1.0, Linux 6.1.0-56, 3 targets; \
         LOST before this message: 2 samples\n"
    );
    let mut offline = envelope(Body::Offline);
    offline.losses = Losses::default();
    offline.at.clock = ClockQuality::Wrong;
    offline.at.wall_ms = 5000;
    assert_eq!(text(&offline), "1970-01-01 00:00:05 UTC (clock WRONG) van-7 is OFFLINE\n");
}

#[test]
fn hostile_names_and_numbers_stay_text() {
    let mut message = leak();
    let Body::Leak(leak) = &mut message.body else { unreachable!() };
    leak.target.name = head("\u{1b}]0;owned\u{7}");
    leak.grade = Grade::Proven;
    leak.baseline = u32::MAX;
    leak.goroutines = 0;
    leak.window_s = u32::MAX;
    for site in &mut leak.sites {
        site.function = head("f\r\u{1b}[1A");
        site.missing = head("\u{1b}c");
        site.file = head("\u{202e}og.niam");
        site.line = u32::MAX;
    }
    message.at.mono_ms = u64::MAX;
    message.at.wall_ms = u64::MAX;
    let out = text(&message);
    assert!(!out.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{out:?}");
    assert!(out.contains("LEAK in \\u{1b}]0;owned\\u{7} on van-7"), "{out}");
    assert!(out.contains("in f\\r\\u{1b}[1A at \\u{202e}og.niam:4294967295"), "{out}");
}

#[test]
fn hex_and_json() {
    let hex: String = payload(&online()).iter().map(|byte| format!("{byte:02X} ")).collect();
    let (success, out, _) = run(&["decode", "--json", "-"], hex.as_bytes());
    assert!(success);
    assert!(
        out.starts_with("{\"kind\":\"online\",\"device\":\"van-7\",\"boot\":\"0102030405060708\""),
        "{out}"
    );
    assert!(out.ends_with("\"payload_bytes\":48,\"bytes\":null,\"retained\":false}\n"), "{out}");
}

#[test]
fn what_is_no_message_is_said() {
    for (input, told) in [
        (b"".as_slice(), "glg: empty message; 0 bytes beginning \n"),
        (b"0177", "glg: not a message of this version: cut short or damaged; 2 bytes beginning 0177\n"),
        (&[b'0'; 70_000], "glg: more than 65536 bytes: this is no message\n"),
    ] {
        assert_eq!(run(&["decode", "-"], input), (false, String::new(), told.to_owned()));
    }
    let (success, _, err) = run(&["decode", "/nowhere"], b"");
    assert_eq!((success, err.as_str()), (false, "glg: /nowhere: No such file or directory (os error 2)\n"));
}

fn stuck(tid: u32, goid: u64, kind: LockKind, lock: u64) -> Stuck {
    let in_c = kind != LockKind::Go;
    Stuck {
        tid,
        goid,
        kind,
        lock,
        c_function: if in_c { head("hold_and_call") } else { head("") },
        go_function: head("main.work"),
        line: 31,
    }
}

#[test]
fn a_deadlock_as_text_and_json() {
    let members = [stuck(1418, 34, LockKind::Mutex, 0x4c_4d20), stuck(0, 35, LockKind::Go, 0xc000_1000)];
    let deadlock = Deadlock {
        target: Target { name: head("gateway"), pid: 1412, go: (24, 11) },
        age_s: 45,
        inferred: true,
        total: 3,
        members: members.into_iter().collect(),
    };
    let message = envelope(Body::Deadlock(deadlock));
    let wanted = "\
DEADLOCK in gateway on van-7 (pid 1412, Go 1.24.11)
  verdict   3 wait for each other and will never go on, as far as can be concluded from what goroutines refer to
  since     45 s at least
  waits     thread 1418 for a mutex at 0x4c4d20
            in C in hold_and_call
            goroutine 34, in Go in main.work line 31
  waits     goroutine 35 for Go: a channel or a lock at 0xc0001000
            goroutine 35, in Go in main.work line 31
            and 1 more: see goleakguard locks --pid 1412
  said      2026-11-22 00:45:15 UTC, 1 min 30 s after boot 0102030405060708, message 300
  LOST before this message: 2 samples
";
    assert_eq!(text(&message), wanted);
    let (success, out, _) = run(&["decode", "--json", "-"], &payload(&message));
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(success);
    assert_eq!(object["kind"], "deadlock");
    assert_eq!(object["members"][0]["lock"], "0x4c4d20");
    assert_eq!(object["members"][1]["tid"], serde_json::Value::Null);
}

#[test]
fn waits_and_stuck_threads_as_text() {
    let target = Target { name: head("gateway"), pid: 1412, go: (24, 11) };
    let wait = |owner| {
        let waiter = stuck(1418, 0, LockKind::RwLock, 0);
        let waiter = Stuck { go_function: head(""), ..waiter };
        envelope(Body::LockWait(LockWait {
            target: target.clone(),
            waited_s: 300,
            waiters: 7,
            owner,
            waiter,
        }))
    };
    for (owner, words) in [
        (LockOwner::Unknown, "unknown: the lock does not say"),
        (LockOwner::Thread(9), "thread 9, which is in no deadlock we know of"),
        (LockOwner::Exited(9), "thread 9, which has ENDED: nobody will ever release it"),
    ] {
        let said = text(&wait(owner));
        let wanted = format!(
            "LOCK WAIT in gateway on van-7 (pid 1412, Go 1.24.11)\n  since     5 min at least, 7 threads in all\n  \
             waits     thread 1418 for a rwlock\n            in C in hold_and_call\n  held by   {words}\n"
        );
        assert!(said.starts_with(&wanted), "{said}");
    }
    let (threads, away, baseline, window_s, pinned, foreign) = (300, 250, 9, 1800, 4, 1);
    let body = StuckThreads { target, threads, away, baseline, window_s, pinned, foreign };
    let said = text(&envelope(Body::StuckThreads(body)));
    assert!(said.contains("250 threads in C or in system calls, 9 30 min ago; 300 threads in all"), "{said}");
}

#[test]
fn a_contention_as_text_and_json() {
    let target = Target { name: head("gateway"), pid: 1412, go: (24, 11) };
    let contention = |waiter| {
        envelope(Body::Contention(Contention {
            target: target.clone(),
            observed_ms: 10_004,
            waits: 1234,
            total_ms: 8100,
            longest_us: 52_345,
            median_us: 512,
            p99_us: 4096,
            waiter,
        }))
    };
    let seen = contention(stuck(1418, 34, LockKind::Mutex, 0x4c_4d20));
    let wanted = "\
CONTENTION in gateway on van-7 (pid 1412, Go 1.24.11)
  waited    1234 times for a mutex within 10 s, 8.1 s in all: 80 % of the time
            52 ms the longest, half up to 512 µs, 99 % up to 4.0 ms
  waits     thread 1418 for a mutex at 0x4c4d20
            in C in hold_and_call
            goroutine 34, in Go in main.work line 31
";
    assert!(text(&seen).starts_with(wanted), "{}", text(&seen));
    let unseen = Stuck { tid: 0, goid: 0, ..stuck(0, 0, LockKind::RwLock, 0x4c_4d20) };
    let said = text(&contention(unseen));
    assert!(said.contains("\n  lock      at 0x4c4d20; nobody was met waiting\n  said "), "{said}");
    let (success, out, _) = run(&["decode", "--json", "-"], &payload(&seen));
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(success);
    assert_eq!((&object["kind"], &object["waits"]), (&"contention".into(), &1234.into()));
    assert_eq!(object["waiter"]["c_function"], "hold_and_call");
}

const ID: CommandId = CommandId { key: KeyId([0xaa; 8]), counter: 9 };

/// Decodes with and without being told the kind; the text, and the JSON.
fn decoded(payload: &[u8], kind: &str) -> (String, Value) {
    let (success, out, err) = run(&["decode", "-"], payload);
    assert!(success, "{err}");
    assert_eq!(run(&["decode", "-", "--kind", kind], payload), (true, out.clone(), String::new()));
    let (_, object, _) = run(&["decode", "-", "--json"], payload);
    (out, serde_json::from_str(&object).unwrap())
}

#[test]
fn receipts_and_whether_they_are_forged() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let public = pair.public_key().as_ref().try_into().unwrap();
    let at = Timestamp { mono_ms: 1, wall_ms: 1_795_308_315_000, clock: ClockQuality::Free };
    let made = Made { kind: DocumentKind::Full, pid: 1412, bytes: 4097, part_bytes: 4096, sha256: [1; 32] };
    let receipt =
        Receipt { device: head("van-7"), boot: [2; 8], at, command: ID, outcome: Outcome::Made(made) };
    let sign = |bytes: &[u8]| pair.sign(bytes).as_ref().try_into().unwrap();
    let mut payload = sign_receipt(&receipt, &public, sign).unwrap().to_vec();
    let (text, object) = decoded(&payload, "receipt");
    assert_eq!(
        text,
        format!(
            "ANSWER of van-7 to command aaaaaaaaaaaaaaaa/9\n  \
             outcome   made: dump of process 1412, 4.0 KiB in 2 parts, SHA-256 {}\n  \
             said      2026-11-22 00:45:15 UTC (clock not synchronised), boot 0202020202020202\n  \
             signature signed by {}\n",
            "01".repeat(32),
            "ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1"
        )
    );
    assert_eq!((&object["kind"], &object["signature_good"]), (&"receipt".into(), &true.into()));
    payload[40] ^= 1;
    let (text, object) = decoded(&payload, "receipt");
    assert!(text.contains("FORGED: not signed by ed4928"), "{text}");
    assert_eq!(object["signature_good"], false);
}

#[test]
fn commands_and_parts() {
    let set = Action::Set(Setting::Growth(Window::Slow, 4, 5));
    let command =
        Command { device: head("van-7"), counter: 9, until: Until::Boot([1; 8], 5000), action: set };
    let payload = sign_command(&command, ID.key, |_| [0; 64]).unwrap();
    let (text, object) = decoded(&payload, "command");
    let wanted = "COMMAND to van-7, aaaaaaaaaaaaaaaa/9\n  wants     set: growth slow 4 5\n  \
                  until     5 s after boot 0101010101010101\n  \
                  signature not checked: that takes the whole public key of aaaaaaaaaaaaaaaa\n";
    assert_eq!(text, wanted);
    assert_eq!((&object["kind"], &object["until_mono_ms"]), (&"command".into(), &5000.into()));
    let part = Part { command: ID, index: 1, of: 3, bytes: b"abc" };
    let payload = [&part.head().unwrap()[..], part.bytes].concat();
    let (text, object) = decoded(&payload, "part");
    assert_eq!(text, "PART 2 of 3, 3 bytes, of the document of command aaaaaaaaaaaaaaaa/9\n");
    assert_eq!((&object["kind"], &object["bytes"]), (&"part".into(), &3.into()));
    let (success, _, err) = run(&["decode", "-", "--kind", "receipt"], &payload);
    assert!(!success && err.contains("cut short or damaged"), "{err}");
}
