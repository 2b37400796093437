//! `glg watch` at a real broker.

mod common;

use common::{Broker, Glg, envelope, leak, online, payload, run, topic};
use glg_proto::topics::Topic;
use glg_proto::wire::{Body, ClockQuality, Health};
use serde_json::{Value, json};

const FARES: Health = Health {
    targets: 3,
    waiting: 0,
    spool_bytes: 0,
    flash_bytes: 0,
    memory_only: false,
    evicted: 0,
    damaged: 0,
    airtime_bytes: 0,
    rss_kib: 1700,
};

#[test]
fn messages_come_as_json() {
    let broker = Broker::start();
    let (state, alert) = (topic(Topic::State), topic(Topic::Alert));
    // Birth, kept by the broker, from before the watcher came.
    broker.publish(&[(&state, &payload(&online()), true)]);
    let mut glg = Glg::watch(broker.port, &["--json", "--count", "3"]);
    glg.until_subscribed();
    let mut damaged = payload(&leak());
    damaged.truncate(60);
    broker.publish(&[
        (&alert, &damaged, false),
        ("glg/v1/ship/alert", &payload(&leak()), false),
        (&alert, &[9, 1, 2], false),
        (&alert, &payload(&leak()), false),
        (&state, &payload(&envelope(Body::Offline)), false),
    ]);
    let lines = [(); 3].map(|()| serde_json::from_str::<Value>(&glg.line()).unwrap());
    let head = json!({
        "device": "van-7", "boot": "0102030405060708", "epoch": 20, "seq": 300, "duplicate": false, "mono_ms": 90_000,
        "wall_ms": 1_795_308_315_000_u64, "clock": "synced", "about_ms": null,
        "losses": {"alerts": 0, "samples": 2, "records": 0},
    });
    let site = |line, attributed| {
        json!({
            "function": "main.(*Gateway).forward", "file": "gateway/forward.go", "line": line,
            "wait": "chan send", "count": 4180, "grew": 212, "attributed": attributed,
            "oldest_s": 1750, "orphans": null, "marked_by_runtime": 0, "likely_missing": null,
        })
    };
    let wanted = [
        json!({"kind": "online", "agent": "0.1.0", "kernel": "6.1.0-56", "targets": 3,
               "payload_bytes": 48, "bytes": 73, "retained": true}),
        json!({"kind": "leak", "target": {"name": "ota-gateway", "pid": 1412, "go": "1.24.11"},
               "grade": "suspected", "goroutines": 4412, "baseline": 230, "window_s": 1800,
               "trend_per_hour": {"low": 8100, "likely": 8364, "high": 8600},
               "memory_left": {"minutes": 3120, "limit": "cgroup"}, "observed": null,
               "sites": [site(128, json!({"created": 171, "exited": 3, "seconds": 8.0})), site(140, Value::Null)],
               "payload_bytes": 187, "bytes": 213, "retained": false}),
        json!({"kind": "offline", "goodbye": true, "payload_bytes": 32, "bytes": 57, "retained": false}),
    ];
    for (line, wanted) in lines.iter().zip(wanted) {
        let mut whole = head.clone();
        whole.as_object_mut().unwrap().extend(wanted.as_object().unwrap().clone());
        assert_eq!(line, &whole);
    }
    assert_eq!(
        [(); 3].map(|()| glg.complaint()),
        [
            "glg/v1/van-7/alert: skipped: not a message of this version: cut short or damaged; \
             60 bytes beginning 010576616e2d37010203040506070814...",
            "glg/v1/ship/alert: skipped: device \"van-7\" has no business on this topic",
            "glg/v1/van-7/alert: skipped: wire version 9 is unknown (this program reads version 1): update it; \
             3 bytes beginning 090102",
        ]
    );
    assert!(glg.wait().success());
}

#[test]
fn one_device_can_be_chosen() {
    let broker = Broker::start();
    let mut glg = Glg::watch(broker.port, &["--device", "van-8", "--count", "1"]);
    glg.until_subscribed();
    let mut other = online();
    other.device = glg_proto::wire::head("van-8");
    broker.publish(&[
        (&topic(Topic::State), &payload(&online()), false),
        ("glg/v1/van-8/state", &payload(&other), false),
    ]);
    assert!(glg.line().contains(" van-8 is ONLINE"));
    assert!(glg.wait().success());
}

#[test]
fn a_broker_that_restarts_is_found_again() {
    let broker = Broker::start();
    let port = broker.port;
    let mut glg = Glg::watch(port, &["--json", "--count", "1"]);
    glg.until_subscribed();
    drop(broker);
    let lost = glg.complaint();
    assert!(lost.starts_with(&format!("127.0.0.1:{port}: ")) && lost.contains("; again in "), "{lost}");
    let broker = Broker::start_at(port);
    glg.until_subscribed();
    broker.publish(&[(&topic(Topic::Alert), &payload(&leak()), false)]);
    assert!(glg.line().contains("\"kind\":\"leak\""));
    assert!(glg.wait().success());
}

#[test]
fn a_reader_that_goes_ends_the_watch_quietly() {
    let broker = Broker::start();
    let mut glg = Glg::watch(broker.port, &[]);
    glg.until_subscribed();
    glg.close_output();
    broker.publish(&[(&topic(Topic::Alert), &payload(&leak()), false)]);
    assert!(glg.wait().success());
}

#[test]
fn too_few_messages_in_time_is_a_failure() {
    let broker = Broker::start();
    let port = broker.port.to_string();
    let (success, out, err) = run(&["watch", "--port", &port, "--count", "1", "--timeout", "1"], b"");
    assert_eq!((success, out.as_str()), (false, ""));
    assert!(err.ends_with("glg: 0 of 1 messages came within the time\n"), "{err}");
    let (success, ..) = run(&["watch", "--port", &port, "--timeout", "1"], b"");
    assert!(success, "without --count, time is simply up");
}

#[test]
fn duplicates_are_marked_and_old_ones_left_out() {
    let broker = Broker::start();
    let mut glg = Glg::watch(broker.port, &["--json", "--count", "3", "--since", "2026-11-22 00:45"]);
    glg.until_subscribed();
    let (alert, health) = (topic(Topic::Alert), topic(Topic::Health));
    let mut old = leak();
    old.at.wall_ms -= 60_000;
    let mut late = leak();
    (late.seq, late.at.clock, late.at.wall_ms, late.at.mono_ms) = (301, ClockQuality::Wrong, 5, 91_000);
    // What is for others is not even looked at.
    broker.publish(&[
        ("glg/v1/van-7/document", b"\x01part", false),
        (&alert, &payload(&old), false),
        (&alert, &payload(&leak()), false),
        (&alert, &payload(&late), false),
        (&health, &payload(&envelope(Body::Health(FARES))), false),
    ]);
    let lines = [(); 3].map(|()| serde_json::from_str::<Value>(&glg.line()).unwrap());
    // The same number as the old one: it came twice, whatever was shown.
    assert_eq!((&lines[0]["kind"], &lines[0]["duplicate"]), (&"leak".into(), &true.into()));
    assert_eq!((&lines[1]["seq"], &lines[1]["clock"]), (&301.into(), &"wrong".into()));
    assert_eq!(
        (&lines[1]["duplicate"], &lines[1]["about_ms"]),
        (&false.into(), &1_795_308_316_000_u64.into())
    );
    assert_eq!((&lines[2]["kind"], &lines[2]["duplicate"]), (&"health".into(), &false.into()));
    assert!(glg.wait().success());
}

#[test]
fn computed_times_and_duplicates_as_text() {
    let broker = Broker::start();
    let mut glg =
        Glg::watch(broker.port, &["--device", "van-7", "--device", "a", "--device", "b", "--count", "3"]);
    glg.until_subscribed();
    let mut late = leak();
    (late.seq, late.at.clock, late.at.wall_ms, late.at.mono_ms) = (301, ClockQuality::Wrong, 5, 91_000);
    let alert = topic(Topic::Alert);
    broker.publish(&[
        (&alert, &payload(&leak()), false),
        (&alert, &payload(&late), false),
        (&alert, &payload(&late), false),
    ]);
    let mut said = Vec::new();
    while said.len() < 3 {
        let line = glg.line();
        if line.starts_with("  said ") {
            said.push(line);
        }
    }
    let wanted =
        "  said      about 2026-11-22 00:45:16 UTC, 1 min 31 s after boot 0102030405060708, message 301";
    assert!(said[1].starts_with(&format!("{wanted}, ")), "{said:?}");
    assert!(said[2].starts_with(&format!("{wanted} (again), ")), "{said:?}");
    assert!(glg.wait().success());
}
