//! Leaks as people read them.

use std::fmt::Write as _;
use std::time::Duration;

use glg_engine::reach::proof::Grade;
use glg_engine::reach::report::{Group, Leak};

use super::Told;

pub(super) fn text(told: &Told) -> String {
    let mut text = String::new();
    let count = |grade| told.report.leaks.iter().filter(|leak| leak.grade == grade).count();
    let (proven, stuck) = (count(Grade::Proven), count(Grade::Stuck));
    let Told { pid, go, goroutines, .. } = told;
    let _ = writeln!(
        text,
        "process {pid}, Go {go}: {goroutines} goroutines, {proven} proven to wait for ever, {stuck} stuck"
    );
    let (passes, glances) = told.looks;
    let _ = writeln!(
        text,
        "observed for {}: {passes} passes over its memory, {glances} glances; they took {} and {} KiB",
        seconds(told.observed),
        seconds(told.spent),
        told.figures.bytes.div_ceil(1024)
    );
    if let Some(why) = told.abstained {
        let _ = writeln!(text, "nothing is proven: {why}");
    }
    for grade in [Grade::Proven, Grade::Stuck] {
        for (number, group) in told.report.groups.iter().enumerate() {
            let of = |leak: &&Leak| leak.group == number && leak.grade == grade;
            let leaks: Vec<&Leak> = told.report.leaks.iter().filter(of).collect();
            if !leaks.is_empty() {
                self::group(&mut text, told, group, grade, &leaks);
            }
        }
    }
    if told.report.other > 0 {
        let _ = writeln!(text, "\n{} more stand elsewhere: see dump.max_stacks", told.report.other);
    }
    text
}

/// `PROVEN: 63 goroutines created by main.serve (main.go:31) wait for ever [chan send]`.
fn group(text: &mut String, told: &Told, group: &Group, grade: Grade, leaks: &[&Leak]) {
    let (grade_word, waits) = match (grade, leaks.len()) {
        (Grade::Proven, 1) => ("PROVEN", "waits for ever"),
        (Grade::Proven, _) => ("PROVEN", "wait for ever"),
        (Grade::Stuck, 1) => ("STUCK", "stands still"),
        (Grade::Stuck, _) => ("STUCK", "stand still"),
    };
    let (file, line) = &group.created_at;
    let many = if leaks.len() == 1 { "goroutine" } else { "goroutines" };
    let by = &group.created_by;
    let _ = writeln!(
        text,
        "\n{grade_word}: {} {many} created by {by} ({file}:{line}) {waits} [{}]",
        leaks.len(),
        group.wait
    );
    for reason in evidence(told, group, grade, leaks) {
        let _ = writeln!(text, "  {reason}");
    }
    if let Some(known) = group.known {
        let _ = writeln!(text, "  looks like: {}; likely missing: {}", known.what, known.call);
    }
    for frame in &group.stack {
        let _ = writeln!(text, "    {:<40} {}:{}", frame.function, frame.file, frame.line);
    }
}

fn evidence(told: &Told, group: &Group, grade: Grade, leaks: &[&Leak]) -> Vec<String> {
    let count = |which: fn(&Leak) -> bool| leaks.iter().filter(|leak| which(leak)).count();
    let (orphans, marked) = (count(|leak| leak.orphan), count(|leak| leak.marked));
    let (passes, over) = (told.looks.0, seconds(told.observed));
    let mut found = Vec::new();
    let what = if leaks.len() == 1 { "it waits for" } else { "they wait for" };
    match grade {
        Grade::Proven => found.push(format!(
            "nothing that can still run reaches what {what}, in {passes} of {passes} passes over {over}"
        )),
        Grade::Stuck => found.push(format!("never ran in {over}, waiting for: {}", group.wait)),
    }
    if let Some(waited_s @ 1..) = leaks.iter().map(|leak| leak.waited_s).max() {
        found.push(format!("the longest wait has lasted for {waited_s} s at least"));
    }
    if leaks.iter().any(|leak| leak.grows) {
        found.push("there were more of that statement at every pass".to_owned());
    }
    if orphans > 0 {
        found.push(format!("of {orphans} the goroutine that created them has ended"));
    }
    if marked > 0 {
        found.push(format!("of {marked} the program's own runtime has found that they are leaked"));
    }
    let numbers: Vec<String> = leaks.iter().take(8).map(|leak| leak.goid.to_string()).collect();
    let more = if leaks.len() > numbers.len() { ", …" } else { "" };
    let many = if leaks.len() == 1 { "goroutine" } else { "goroutines" };
    found.push(format!("{many} {}{more}", numbers.join(", ")));
    found
}

/// `10.2 s`, `340 ms`.
fn seconds(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}
