//! `glg decode`, and through it the text that people read.

mod common;

use common::{envelope, leak, online, payload, run};
use glg_proto::wire::{Body, ClockQuality, Grade, Losses, head};

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
