use super::deadlock::Call;
use super::*;

const LEAK: &str = r#"{"kind":"leak","device":"d","bytes":140,"grade":"suspected","goroutines":500,
    "baseline":43,"window_s":24,"target":{"name":"leaky","pid":7,"go":"1.24.11"},
    "sites":[{"function":"main.(*Gateway).forward","file":"leaky/gateway.go","line":88,"wait":"chan send",
    "count":450,"grew":200,"attributed":{"created":160,"exited":0,"seconds":8.0}}]}"#;

const DEADLOCK: &str = r#"{"kind":"deadlock","device":"d","bytes":99,"age_s":5,"inferred":false,"total":2,
    "target":{"name":"stuck","pid":9,"go":"1.24.11"},"members":[
    {"tid":10,"goid":6,"kind":"mutex","lock":"0x40","c_function":"store","go_function":"main.a","line":5},
    {"tid":11,"goid":7,"kind":"mutex","lock":"0x80","c_function":"send","go_function":"main.b","line":9}]}"#;

const TEXT: &str = "DEADLOCK in stuck on d (pid 9, Go 1.24.11)
  waits     thread 10 for a mutex at 0x40
            in C in store
            goroutine 6, in Go in main.a line 5
  waits     thread 11 for a mutex at 0x80
            in C in send
            goroutine 7, in Go in main.b line 9";

/// What follows a leak.
fn proof() -> String {
    let observed = r#""grade":"proven","observed":{"passes":4,"seconds":10}"#;
    let proof = LEAK.replace("\"grade\":\"suspected\"", observed).replace("140", "150");
    proof.replace("\"grew\":200", "\"grew\":0,\"orphans\":450")
}

fn scenario() -> Scenario {
    let leak = leak::Expected { function: "main.(*Gateway).forward", file: "gateway.go", line: 88 };
    let call = |c: &str, go: &str, line| Call { c_function: c.into(), go_function: go.into(), line };
    let deadlock = deadlock::Expected([call("send", "main.b", 9), call("store", "main.a", 5)]);
    Scenario::of("d", leak, deadlock)
}

fn event(from: Source, at: Instant, line: &str) -> Event {
    Event { from, at, what: What::Line(line.replace('\n', " ")) }
}

/// Leak and deadlock begin, the leak is proven, and after so many seconds the last of these messages comes.
fn verdict_on(messages: &[&str], text: &str, seconds: u64) -> Result<String> {
    let start = Instant::now();
    let mut scenario = scenario();
    scenario.take(&event(Source::Leaky, start, "LEAKING 1795307916701"))?;
    scenario.take(&event(Source::Stuck, start, "CROSSING 1795307916702"))?;
    for line in text.lines() {
        scenario.take(&event(Source::Text, start, line))?;
    }
    scenario.take(&event(Source::Json, start + Duration::from_secs(15), &proof()))?;
    for (index, message) in messages.iter().enumerate() {
        let last = index + 1 == messages.len();
        let after = if last { seconds } else { 1 };
        scenario.take(&event(Source::Json, start + Duration::from_secs(after), message))?;
    }
    scenario.verdict()
}

#[test]
fn the_marked_lines_are_the_go_statement_and_the_calls() {
    let programs = crate::paths::repo().join("go-programs");
    let line_of = |file: &str, line: u32| {
        let source = std::fs::read_to_string(programs.join(file)).unwrap();
        source.lines().nth(line as usize - 1).unwrap().trim_start().to_owned()
    };
    let leak = leak::Expected::from_source(&programs).unwrap();
    let line = line_of("leaky/gateway.go", leak.line);
    assert!(line.starts_with("go func()"), "{line}");
    let deadlock::Expected(calls) = deadlock::Expected::from_source(&programs).unwrap();
    let named = calls.each_ref().map(|call| (call.c_function.as_str(), call.go_function.as_str()));
    assert_eq!(named, [("record_fault", "main.record"), ("clear_faults", "main.forget")]);
    for call in calls {
        let line = line_of("stuck/main.go", call.line);
        assert!(line.starts_with(&format!("C.{}(", call.c_function)), "{line}");
    }
}

#[test]
fn the_right_reports_in_time() {
    let text = verdict_on(&[DEADLOCK, LEAK], TEXT, 31).unwrap();
    assert!(text.contains("31.0 s after it began, in 140 bytes"), "{text}");
    assert!(text.contains("leak proven 15.0 s after it began, in 150 bytes"), "{text}");
    assert!(text.contains("proven: 43 -> 500 goroutines in 24 s, 4 passes over 10 s"), "{text}");
    assert!(text.contains("main.(*Gateway).forward leaky/gateway.go:88 [chan send]"), "{text}");
    assert!(text.contains("in 8.0 s 160 created, 0 ended"), "{text}");
    assert!(text.contains("1.0 s after it began, in 99 bytes"), "{text}");
    assert!(text.contains("thread 10, goroutine 6: mutex at 0x40, in store from main.a line 5"), "{text}");
}

#[test]
fn a_leak_without_proof_is_not_enough() {
    for (proof, seconds, complaint) in [
        (None, 0, "was not proven"),
        (Some(proof()), 121, "proof was reported only after 121.0 s"),
        (Some(proof().replace("\"line\":88", "\"line\":89")), 15, "as the first site"),
        (Some(proof().replace("\"orphans\":450", "\"orphans\":0")), 15, "without its evidence"),
        (Some(proof().replace("observed", "unseen")), 15, "without its evidence"),
    ] {
        let (start, mut scenario) = (Instant::now(), scenario());
        let mut take = |from, seconds, line: &str| {
            scenario.take(&event(from, start + Duration::from_secs(seconds), line))
        };
        take(Source::Leaky, 0, "LEAKING 1795307916701").unwrap();
        take(Source::Json, 9, LEAK).unwrap();
        let taken = proof.map_or(Ok(()), |proof| take(Source::Json, seconds, &proof));
        let error = taken.and_then(|()| scenario.leak.verdict().map(drop)).expect_err(complaint);
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

#[test]
fn reports_that_are_wrong() {
    for (message, seconds, complaint) in [
        (LEAK.to_owned(), 61, "only after 61.0 s"),
        (LEAK.replace("\"line\":88", "\"line\":89"), 30, "as the first site"),
        (LEAK.replace("forward", "forward.func1"), 30, "as the first site"),
        (LEAK.replace("gateway.go", "main.go"), 30, "as the first site"),
        (LEAK.replace("leaky\",", "healthy\","), 30, "does not leak"),
        (LEAK.replace("\"created\":160", "\"created\":0"), 30, "without the probes' evidence"),
        (LEAK.replace("\"exited\":0", "\"exited\":9"), 30, "without the probes' evidence"),
        (LEAK.replace("\"d\"", "\"e\""), 30, "device \"e\""),
        (r#"{"kind":"leak","device":"d","bytes":9}"#.to_owned(), 30, "without its particulars"),
        (r#"{"kind":"online","device":"d","bytes":9}"#.to_owned(), 30, "leak of main.(*Gateway).forward"),
        (r#"{"kind":"lock_wait","device":"d","bytes":9}"#.to_owned(), 30, "nothing of the kind"),
        ("{".to_owned(), 30, "wrote {"),
        ("glg/v1/d/state: skipped: 3 bytes too many".to_owned(), 30, "3 bytes too many"),
    ] {
        let error = verdict_on(&[DEADLOCK, &message], TEXT, seconds).expect_err(&message);
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

#[test]
fn deadlocks_that_are_wrong() {
    for (message, seconds, complaint) in [
        (DEADLOCK.to_owned(), 91, "only after 91.0 s"),
        (DEADLOCK.replace("\"line\":9", "\"line\":8"), 9, "in a deadlock, but got"),
        (DEADLOCK.replace("main.b", "main.a"), 9, "in a deadlock, but got"),
        (DEADLOCK.replace("send", "receive"), 9, "in a deadlock, but got"),
        (DEADLOCK.replace("11", "10"), 9, "in a deadlock, but got"),
        (DEADLOCK.replace("false", "true"), 9, "in a deadlock, but got"),
        (DEADLOCK.replace("\"total\":2", "\"total\":3"), 9, "in a deadlock, but got"),
        (DEADLOCK.replace("stuck\",", "healthy\","), 9, "without a deadlock was reported"),
        (r#"{"kind":"deadlock","device":"d","bytes":9}"#.to_owned(), 9, "without its particulars"),
        (r#"{"kind":"online","device":"d","bytes":9}"#.to_owned(), 9, "deadlock of send from main.b"),
    ] {
        let error = verdict_on(&[LEAK, &message], TEXT, seconds).expect_err(&message);
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

#[test]
fn a_text_that_does_not_name_it_is_wrong() {
    for text in [
        "",
        &TEXT.replace("line 9", "line 8"),
        &TEXT.replace("in C in store", "in C in stored"),
        &TEXT.replace("DEADLOCK in stuck", "DEADLOCK in healthy"),
    ] {
        let error = verdict_on(&[DEADLOCK, LEAK], text, 9).expect_err(text);
        assert!(error.to_string().contains("text does not say"), "{error}");
    }
}

#[test]
fn a_report_before_its_time_is_false() {
    for (message, complaint) in [(LEAK, "before it leaked"), (DEADLOCK, "before its deadlock")] {
        let error = scenario().take(&event(Source::Json, Instant::now(), message)).unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
    }
}

#[test]
fn the_console_speaks_for_all_programs() {
    let mut scenario = scenario();
    for line in ["rc: up", "leaky: READY 77", "healthy: READY 78", "stuck: READY 79"] {
        assert_ne!(scenario.ready, [true; PROGRAMS.len()]);
        scenario.take(&event(Source::Console, Instant::now(), line)).unwrap();
    }
    assert_eq!(scenario.ready, [true; PROGRAMS.len()]);
    assert!(scenario.leak.began.is_none() && scenario.deadlock.began.is_none());
}
