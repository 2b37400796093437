//! `glg decode`, and through it the text that people read.

mod common;

use common::{envelope, leak, online, payload, run};
use glg_proto::locks::{Contention, Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::{Body, ClockQuality, Grade, Losses, Target, head};

fn text(envelope: &glg_proto::wire::Envelope) -> String {
    let (success, out, err) = run(&["decode", "-"], &payload(envelope));
    assert!(success && err.is_empty(), "{err}");
    out
}

#[test]
fn a_leak_as_text() {
    let wanted = "\
LEAK in ota-gateway on van-7 (pid 1412, Go 1.24.11)
  growth    4412 goroutines, 230 30 min ago: +4182, about 2 a second
  since     2026-11-22 00:15:15 UTC or before
  grade     suspected: the number grows
  created   in main.(*Gateway).forward at gateway/forward.go:128
            4180 goroutines in \"chan send\", 212 more than at the first look
            created 171, exited 3 while watched for 8.0 s
  created   in main.(*Gateway).forward at gateway/forward.go:140
            4180 goroutines in \"chan send\", 212 more than at the first look
  said      2026-11-22 00:45:15 UTC, 1 min 30 s after boot 0102030405060708, message 300
  LOST before this message: 2 samples
";
    assert_eq!(text(&leak()), wanted);
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
