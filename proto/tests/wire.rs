//! The wire protocol as others rely on it: pinned bytes, round trips, sizes, and total decoding.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "random numbers are cut to size")]

#[path = "wire/random.rs"]
mod random;

use glg_proto::locks::{Contention, Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::topics::Topic;
use glg_proto::wire::{
    ALERT_MAX, Attributed, Body, Class, ClockQuality, DecodeError, Envelope, Evicted, Grade, Health, Leak,
    Left, Losses, MESSAGE_MAX, MemoryLimit, MessageId, Observed, Online, Site, Target, Timestamp, TooLarge,
    Trend, Wait, decode, encode, encode_alert, head, tail,
};
use heapless::Vec;

use crate::random::Random;

/// A small envelope around `body`.
fn envelope(body: Body) -> Envelope {
    Envelope {
        device: head("van-7"),
        boot: [1, 2, 3, 4, 5, 6, 7, 8],
        epoch: 20,
        seq: 300,
        at: Timestamp { mono_ms: 90_000, wall_ms: 1_795_000_000_000, clock: ClockQuality::Synced },
        losses: Losses { alerts: 0, samples: 2, records: 0 },
        body,
    }
}

/// What a real alert looks like.
fn typical() -> Envelope {
    let site = Site {
        function: head("main.(*Gateway).forward"),
        file: tail("/build/vehicle/gateway/forward.go"),
        line: 128,
        wait: Wait::ChanSend,
        count: 4180,
        grew: 212,
        attributed: Some(Attributed { created: 171, exited: 0, millis: 8000 }),
        oldest_s: 1750,
        orphans: None,
        marked: 0,
        missing: head(""),
    };
    envelope(Body::Leak(Leak {
        target: Target { name: head("ota-gateway"), pid: 1412, go: (24, 11) },
        grade: Grade::Suspected,
        goroutines: 4412,
        baseline: 230,
        window_s: 1800,
        trend: Some(Trend { low: 8100, per_hour: 8364, high: 8600 }),
        left: Some(Left { minutes: 3120, limit: MemoryLimit::Cgroup }),
        observed: None,
        sites: Vec::from_slice(&[site]).unwrap(),
    }))
}

/// What follows it when there is proof.
fn proven() -> Envelope {
    let Body::Leak(mut leak) = typical().body else { panic!("no leak") };
    leak.grade = Grade::Proven;
    leak.observed = Some(Observed { passes: 4, seconds: 10 });
    for site in &mut leak.sites {
        (site.orphans, site.marked) = (Some(4178), 3);
        site.missing = head("(*grpc.ClientConn).Close");
        site.attributed = None;
    }
    envelope(Body::Leak(leak))
}

/// The largest leak with `sites` sites that the types allow.
fn worst(sites: usize) -> Envelope {
    let attributed = Some(Attributed { created: u32::MAX, exited: u32::MAX, millis: u32::MAX });
    let site = Site {
        function: head(&"f".repeat(99)),
        file: tail(&"d".repeat(99)),
        line: u32::MAX,
        wait: Wait::Preempted,
        count: u32::MAX,
        grew: u32::MAX,
        attributed,
        oldest_s: u32::MAX,
        orphans: Some(u32::MAX),
        marked: u32::MAX,
        missing: head(&"m".repeat(99)),
    };
    Envelope {
        device: head(&"x".repeat(99)),
        boot: [0xff; 8],
        epoch: u32::MAX,
        seq: u32::MAX,
        at: Timestamp { mono_ms: u64::MAX, wall_ms: u64::MAX, clock: ClockQuality::Synced },
        losses: Losses { alerts: u32::MAX, samples: u32::MAX, records: u32::MAX },
        body: Body::Leak(Leak {
            target: Target { name: head(&"n".repeat(99)), pid: u32::MAX, go: (255, 255) },
            grade: Grade::Proven,
            goroutines: u32::MAX,
            baseline: u32::MAX,
            window_s: u32::MAX,
            trend: Some(Trend { low: i32::MIN, per_hour: i32::MIN, high: i32::MIN }),
            left: Some(Left { minutes: u32::MAX, limit: MemoryLimit::Cgroup }),
            observed: Some(Observed { passes: u8::MAX, seconds: u16::MAX }),
            sites: (0..sites).map(|_| site.clone()).collect(),
        }),
    }
}

/// Two threads of C that wait for each other, below Go.
fn deadlock() -> Deadlock {
    let member = |tid, goid, line| Stuck {
        tid,
        goid,
        kind: LockKind::Mutex,
        lock: 0x4c_4d20,
        c_function: head("hold_and_call"),
        go_function: head("main.work"),
        line,
    };
    Deadlock {
        target: Target { name: head("gateway"), pid: 1412, go: (24, 11) },
        age_s: 45,
        inferred: false,
        total: 2,
        members: Vec::from_slice(&[member(1418, 34, 31), member(1420, 35, 40)]).unwrap(),
    }
}

/// The longest that an alert about locks can be.
fn worst_stuck() -> Stuck {
    Stuck {
        tid: u32::MAX,
        goid: u64::MAX,
        kind: LockKind::Go,
        lock: u64::MAX,
        c_function: head(&"c".repeat(99)),
        go_function: head(&"g".repeat(99)),
        line: u32::MAX,
    }
}

fn bytes(envelope: &Envelope) -> std::vec::Vec<u8> {
    encode(envelope, &mut [0; MESSAGE_MAX]).unwrap().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn bytes_of_every_body_are_pinned() {
    // A change here is a change of the protocol: receivers in the field will not understand it.
    let front = "01".to_owned() // version
        + "0576616e2d37" // device
        + "0102030405060708" // boot
        + "14" // epoch
        + "ac02" // seq
        + "90bf05" + "80bcd9f29e34" + "02" // at
        + "000200"; // losses
    let online = Online { agent: head("0.1.0"), kernel: head("6.1.0"), targets: 3 };
    let online = envelope(Body::Online(online));
    assert_eq!(hex(&bytes(&online)), format!("{front}00{}{}03", "05302e312e30", "05362e312e30"));
    assert_eq!(hex(&bytes(&envelope(Body::Offline))), format!("{front}01"));
    assert_eq!(hex(&bytes(&envelope(Body::Vanished))), format!("{front}03"));
    let leak = "02".to_owned()
        + "0b6f74612d67617465776179" + "840b" + "180b" // target
        + "00" // grade
        + "bc22" + "e601" + "880e" // goroutines, baseline, window
        + "01" + "c87e" + "d88201" + "b08601" // trend
        + "01" + "b018" + "01" // left
        + "00" // observed
        + "01" // sites
        + "176d61696e2e282a47617465776179292e666f7277617264"
        + "212f6275696c642f76656869636c652f676174657761792f666f72776172642e676f"
        + "8001" // line
        + "05" // wait
        + "d420" + "d401" // count, grew
        + "01" + "ab01" + "00" + "c03e" // attributed
        + "d60d" + "00" + "00" + "00"; // oldest, orphans, marked, missing
    assert_eq!(hex(&bytes(&typical())), front.clone() + &leak);
    let proven = hex(&bytes(&proven()));
    let (_, behind) = proven.split_once("b018").unwrap();
    assert!(
        behind.starts_with("01" /* limit */) && behind[2..].starts_with("01040a" /* observed */),
        "{behind}"
    );
    let missing = "18282a677270632e436c69656e74436f6e6e292e436c6f7365";
    assert!(behind.ends_with(&format!("00d60d01d22003{missing}")), "{behind}");
    let target = "0767617465776179".to_owned() + "840b" + "180b";
    let member = |tid: &str, goid: &str, line: &str| {
        let names = "0d686f6c645f616e645f63616c6c".to_owned() + "096d61696e2e776f726b";
        format!("{tid}{goid}00a09ab102{names}{line}")
    };
    let members = member("8a0b", "22", "1f") + &member("8c0b", "23", "28");
    let front = front.as_str();
    assert_eq!(
        hex(&bytes(&envelope(Body::Deadlock(deadlock())))),
        format!("{front}04{target}2d000202{members}")
    );
    let (of, first) = (deadlock().target, deadlock().members[0].clone());
    let wait = LockWait {
        target: of.clone(),
        waited_s: 300,
        waiters: 7,
        owner: LockOwner::Exited(1419),
        waiter: first,
    };
    let member = member("8a0b", "22", "1f");
    assert_eq!(
        hex(&bytes(&envelope(Body::LockWait(wait)))),
        format!("{front}05{target}ac0207028b0b{member}")
    );
    let contention = Contention {
        target: of.clone(),
        observed_ms: 10_000,
        waits: 1234,
        total_ms: 8100,
        longest_us: 52_000,
        median_us: 512,
        p99_us: 4096,
        waiter: deadlock().members[0].clone(),
    };
    let times = "904e".to_owned() + "d209" + "a43f" + "a09603" + "8004" + "8020";
    assert_eq!(
        hex(&bytes(&envelope(Body::Contention(contention)))),
        format!("{front}07{target}{times}{member}")
    );
    let threads = StuckThreads {
        target: of,
        threads: 300,
        away: 250,
        baseline: 9,
        window_s: 1800,
        pinned: 4,
        foreign: 1,
    };
    assert_eq!(
        hex(&bytes(&envelope(Body::StuckThreads(threads)))),
        format!("{front}06{target}ac02fa0109880e0401")
    );
    let evicted = Evicted {
        class: Class::Warning,
        count: 3,
        first: MessageId { boot: [9; 8], epoch: 4, seq: 300 },
        last_seq: 305,
    };
    assert_eq!(
        hex(&bytes(&envelope(Body::Evicted(evicted)))),
        format!("{front}080103{}04ac02b102", "09".repeat(8))
    );
    let health = Health {
        targets: 1,
        waiting: 2,
        spool_bytes: 3,
        flash_bytes: 4,
        memory_only: true,
        evicted: 5,
        damaged: 6,
        airtime_bytes: 7,
        rss_kib: 300,
    };
    assert_eq!(hex(&bytes(&envelope(Body::Health(health)))), format!("{front}090102030401050607ac02"));
}

#[test]
fn bytes_of_small_enums_are_pinned() {
    let words = [
        "waiting",
        "runnable",
        "running",
        "syscall",
        "chan receive",
        "chan send",
        "chan receive (nil chan)",
        "chan send (nil chan)",
        "select",
        "select (no cases)",
        "sleep",
        "IO wait",
        "semacquire",
        "sync.Mutex.Lock",
        "sync.RWMutex.RLock",
        "sync.RWMutex.Lock",
        "sync.Cond.Wait",
        "sync.WaitGroup.Wait",
        "runtime",
        "preempted",
    ];
    assert_eq!(words.len(), Wait::ALL.len(), "a new wait gets its number pinned here");
    for (number, (word, wait)) in words.iter().zip(Wait::ALL).enumerate() {
        assert_eq!(postcard::to_slice(wait, &mut [0; 2]).unwrap(), [u8::try_from(number).unwrap()], "{word}");
        assert_eq!(wait.to_string(), *word);
    }
    for (number, grade) in [Grade::Suspected, Grade::Stuck, Grade::Proven].iter().enumerate() {
        assert_eq!(postcard::to_slice(grade, &mut [0; 2]).unwrap(), [u8::try_from(number).unwrap()]);
    }
    let kinds = [
        (LockKind::Mutex, "mutex"),
        (LockKind::RobustMutex, "robust mutex"),
        (LockKind::PiMutex, "PI mutex"),
        (LockKind::RwLock, "rwlock"),
        (LockKind::Join, "join"),
        (LockKind::Futex, "futex"),
        (LockKind::Go, "Go"),
        (LockKind::Condition, "condition"),
    ];
    for (number, (kind, word)) in kinds.iter().enumerate() {
        assert_eq!(postcard::to_slice(kind, &mut [0; 2]).unwrap(), [u8::try_from(number).unwrap()]);
        assert_eq!(kind.as_str(), *word);
    }
    let owners = [LockOwner::Unknown, LockOwner::Thread(7), LockOwner::Exited(7)];
    for (owner, bytes) in owners.iter().zip([&[0][..], &[1, 7], &[2, 7]]) {
        assert_eq!(postcard::to_slice(owner, &mut [0; 2]).unwrap(), bytes);
    }
    for (number, clock) in [ClockQuality::Wrong, ClockQuality::Free, ClockQuality::Synced].iter().enumerate()
    {
        assert_eq!(postcard::to_slice(clock, &mut [0; 2]).unwrap(), [u8::try_from(number).unwrap()]);
    }
}

#[test]
fn every_envelope_comes_back_as_it_was() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for round in 0..20_000 {
        let envelope = random.envelope();
        assert_eq!(decode(&bytes(&envelope)), Ok(envelope), "round {round}");
    }
}

#[test]
fn message_max_holds_the_largest_message() {
    let largest = bytes(&worst(3)).len();
    println!("largest message: {largest} B of {MESSAGE_MAX} B");
    assert!(largest <= MESSAGE_MAX);
}

#[test]
fn an_alert_with_one_site_always_fits() {
    let mut buffer = [0; ALERT_MAX];
    let mut alert = worst(1);
    let used = encode_alert(&mut alert, &mut buffer).unwrap().to_vec();
    println!("largest alert with one site: {} B of {ALERT_MAX} B", used.len());
    assert_eq!(decode(&used), Ok(alert.clone()), "the caller sees what was left out");
    let Body::Leak(Leak { sites, trend, left, observed, .. }) = &alert.body else { panic!("{alert:?}") };
    let Body::Leak(all) = worst(1).body else { panic!("no leak") };
    assert_eq!((trend, left, observed), (&all.trend, &all.left, &all.observed), "numbers stay");
    let (site, whole) = (&sites[0], &all.sites[0]);
    assert_eq!((&site.function, site.line, site.wait), (&whole.function, whole.line, whole.wait));
    assert_eq!((site.count, site.grew, site.oldest_s), (whole.count, whole.grew, whole.oldest_s));
    assert_eq!((site.orphans, site.marked), (whole.orphans, whole.marked));

    let mut three = worst(3);
    encode_alert(&mut three, &mut buffer).unwrap();
    assert_eq!(three, alert, "the sites behind the first are left out before anything else");

    let mut random = Random(99);
    for _ in 0..5000 {
        let mut alert = Envelope { body: random.alert(), ..random.envelope() };
        let used = encode_alert(&mut alert, &mut buffer).unwrap().to_vec();
        assert!(used.len() <= ALERT_MAX);
        assert_eq!(decode(&used), Ok(alert));
    }
}

#[test]
fn an_alert_about_locks_with_one_member_always_fits() {
    let Body::Leak(Leak { target, .. }) = worst(1).body else { panic!("no leak") };
    let deadlock = |members| {
        let members = (0..members).map(|_| worst_stuck()).collect();
        let (age_s, total) = (u32::MAX, u16::MAX);
        Envelope {
            body: Body::Deadlock(Deadlock { target: target.clone(), age_s, inferred: true, total, members }),
            ..worst(1)
        }
    };
    let mut buffer = [0; ALERT_MAX];
    let mut alert = deadlock(4);
    let used = encode_alert(&mut alert, &mut buffer).unwrap().len();
    println!("largest deadlock alert with one member: {used} B of {ALERT_MAX} B");
    assert_eq!(alert, deadlock(1));
    let owner = LockOwner::Exited(u32::MAX);
    let wait = LockWait {
        target: target.clone(),
        waited_s: u32::MAX,
        waiters: u16::MAX,
        owner,
        waiter: worst_stuck(),
    };
    let used =
        encode_alert(&mut Envelope { body: Body::LockWait(wait), ..worst(1) }, &mut buffer).unwrap().len();
    println!("largest lock wait: {used} B of {ALERT_MAX} B");
    let most = u32::MAX;
    let contention = Contention {
        target,
        observed_ms: most,
        waits: most,
        total_ms: most,
        longest_us: most,
        median_us: most,
        p99_us: most,
        waiter: worst_stuck(),
    };
    let mut alert = Envelope { body: Body::Contention(contention), ..worst(1) };
    let used = encode_alert(&mut alert, &mut buffer).unwrap().len();
    println!("largest contention: {used} B of {ALERT_MAX} B");
    let mut typical = envelope(Body::Deadlock(self::deadlock()));
    let used = encode_alert(&mut typical, &mut buffer).unwrap().len();
    println!("typical deadlock of two: {used} B");
    assert_eq!(typical.body, Body::Deadlock(self::deadlock()), "both are named");
}

#[test]
fn a_buffer_that_is_too_small_is_an_error() {
    let message = bytes(&typical());
    for size in 0..message.len() {
        assert_eq!(encode(&typical(), &mut vec![0; size]), Err(TooLarge), "{size}");
    }
    assert!(encode(&typical(), &mut vec![0; message.len()]).is_ok());
}

#[test]
fn typical_alert_on_the_wire() {
    let payload = encode_alert(&mut typical(), &mut [0; ALERT_MAX]).unwrap().len();
    let topic = Topic::Alert.of("van-7").unwrap().len();
    // MQTT 5, section 3.3: topic with its length, packet identifier (QoS 1), empty properties.
    let rest = 2 + topic + 2 + 1 + payload;
    let header = 1 + if rest < 128 { 1 } else { 2 };
    println!("typical leak alert: {payload} B payload, {} B MQTT publish", header + rest);
    assert!(payload <= 160 && header + rest <= 192);
}

#[test]
fn cut_messages_are_malformed() {
    for envelope in [typical(), worst(3), envelope(Body::Offline)] {
        let message = bytes(&envelope);
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        for end in 1..message.len() {
            assert_eq!(decode(message.get(..end).unwrap()), Err(DecodeError::Malformed), "{end}");
        }
        let mut longer = message.clone();
        longer.extend([0, 0]);
        assert_eq!(decode(&longer), Err(DecodeError::Trailing(2)));
    }
    assert_eq!(decode(&[2, 0]), Err(DecodeError::Version(2)));
}

#[test]
fn damaged_messages_decode_or_not_but_never_panic() {
    let mut random = Random(7);
    let mut accepted = 0;
    for envelope in [typical(), worst(3), envelope(Body::Offline)] {
        let message = bytes(&envelope);
        for bit in 0..message.len() * 8 {
            let mut damaged = message.clone();
            *damaged.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            // What is accepted is a message: it can be encoded again and stays the same.
            if let Ok(envelope) = decode(&damaged) {
                assert_eq!(decode(&bytes(&envelope)), Ok(envelope));
                accepted += 1;
            }
        }
    }
    assert!(accepted > 0, "numbers have no redundancy: some damage must pass");
    for _ in 0..20_000 {
        let noise: std::vec::Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        let _ = decode(&noise);
        let _ = decode(&[&[1], noise.as_slice()].concat());
    }
}

#[test]
fn heads_are_cut_at_characters() {
    for (text, wanted) in
        [("", ""), ("main", "main"), ("main.f", "main"), ("maiü", "mai"), ("ü…", "ü"), ("𝔊x", "𝔊")]
    {
        assert_eq!(head::<4>(text), wanted, "{text:?}");
    }
}

#[test]
fn tails_keep_the_last_parts() {
    for (path, wanted) in [
        ("", ""),
        ("main.go", "main.go"),
        ("a/main.go", "a/main.go"),
        ("/src/a/main.go", "a/main.go"),
        ("xx/a/main.go", "a/main.go"),
        ("/src/ab/main.go", "ab/main.go"),
        ("/src/abc/main.go", "main.go"),
        ("/src/a_long_name.go", "ng_name.go"),
        ("/src/ein_längerer.go", "ngerer.go"),
        ("/src/äö/m.go", "äö/m.go"),
        ("/src/é/ééééé", "ééééé"),
        ("0123456789/", "123456789/"),
    ] {
        assert_eq!(tail::<10>(path), wanted, "{path:?}");
    }
}
