//! The waits as people read them.

use std::fmt::Write as _;

use glg_engine::locks::graph::{Cycle, Node};
use glg_engine::locks::mutex::{Kind, Owner};

use super::{Report, Wait, contention};
use crate::native::{Frame, How};

pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(observed) = &report.observed {
        contention::write(&mut text, observed);
    }
    if report.ended {
        let _ = writeln!(text, "process {}, Go {}, has ended", report.pid, report.go);
        return text;
    }
    let waiting = report.waits.len();
    let Report { pid, go, threads, .. } = report;
    let _ = writeln!(text, "process {pid}, Go {go}: {threads} threads, {waiting} wait in C");
    for cycle in &report.deadlocks {
        deadlock(&mut text, cycle);
    }
    if report.deadlocks.is_empty() {
        text += "no deadlock\n";
    }
    for wait in &report.waits {
        text.push('\n');
        self::wait(&mut text, wait);
    }
    for (told, what) in [
        (report.restless > 0, format!("{} threads moved while they were looked at", report.restless)),
        (report.cut, "there are more threads than were looked at: see locks.max_threads".to_owned()),
    ] {
        if told {
            let _ = writeln!(text, "\n{what}");
        }
    }
    text
}

/// `DEADLOCK: thread 12 waits for thread 13, which waits for thread 12`.
fn deadlock(text: &mut String, cycle: &Cycle) {
    let name = |node: &Node| match node {
        Node::Thread(tid) => format!("thread {tid}"),
        Node::Goroutine(goid) => format!("goroutine {goid}"),
    };
    let names: Vec<String> = cycle.nodes.iter().map(name).collect();
    let [first, others @ ..] = names.as_slice() else { return };
    let _ = write!(text, "DEADLOCK: {first} waits for ");
    match others {
        [] => text.push_str("itself"),
        _ => _ = write!(text, "{}, which waits for {first}", others.join(", which waits for ")),
    }
    text.push_str(if cycle.inferred { " (in part concluded from what goroutines refer to)\n" } else { "\n" });
}

fn wait(text: &mut String, wait: &Wait) {
    let waiter = &wait.waiter;
    let _ = write!(text, "thread {}", waiter.tid.inner);
    if waiter.tid.inner != waiter.tid.outer {
        let _ = write!(text, " ({} outside of its container)", waiter.tid.outer);
    }
    if let Some(goroutine) = waiter.goroutine {
        let _ = write!(text, ", goroutine {}", goroutine.goid);
    }
    let _ = write!(text, ", waits");
    if let Some(ms) = wait.waited_ms {
        let _ = write!(text, " {}", span(ms));
    }
    let _ = write!(text, " for a {} at {}", waiter.lock.kind.as_str(), waiter.lock.at);
    match waiter.lock.owner {
        Owner::Thread(tid) if waiter.lock.kind == Kind::Join => _ = write!(text, " of thread {tid}"),
        Owner::Thread(tid) => _ = write!(text, ", held by thread {tid}"),
        Owner::Exited(tid) => _ = write!(text, ", held by thread {tid}, which has ENDED"),
        Owner::Unknown => {}
    }
    text.push('\n');
    for frame in &wait.c_stack.frames {
        let _ = writeln!(text, "    {:<40} {}{}", named(frame), frame.module, how(frame));
    }
    if let Some(why) = wait.c_stack.missing {
        let _ = writeln!(text, "    (functions further out are not known: {why})");
    }
    for frame in &wait.go_stack {
        let _ = writeln!(text, "    {:<40} {}:{}", frame.function, frame.file, frame.line);
    }
}

/// `pthread_mutex_lock+0x5d`; without a name the offset in its file.
pub(super) fn named(frame: &Frame) -> String {
    match (&frame.name, frame.how) {
        (Some(name), How::Jumped | How::Entry) => name.to_string(),
        (Some(name), _) => format!("{name}+{:#x}", frame.offset),
        (None, _) => format!("+{:#x}", frame.offset),
    }
}

fn how(frame: &Frame) -> &'static str {
    match frame.how {
        How::Unwound | How::Entry => "",
        How::Guessed => " (return address searched for)",
        How::Jumped => " (its last act was a jump)",
    }
}

/// `350 ms`, `45 s`, `30 min 5 s`, `2 h 5 min`, `3 d 4 h`.
fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
