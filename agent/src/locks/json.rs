//! The waits for scripts: one object. Keys are only ever added to; what is not known is null.

use std::fmt::Display;

use glg_engine::locks::graph::{Cycle, Node};
use glg_engine::locks::in_go::GoFrame;
use glg_engine::locks::mutex::Owner;

use super::{Report, Wait, contention, text, tids};
use crate::json::{array, object as fields, string};
use crate::native::Frame;

pub(super) fn object(report: &Report) -> String {
    let object = fields(&[
        ("pid", report.pid.to_string()),
        ("go", string(&report.go)),
        ("threads", report.threads.to_string()),
        ("waits", array(report.waits.iter().map(wait))),
        (
            "deadlocks",
            array(report.deadlocks.iter().map(|cycle| array(tids(cycle).map(|tid| tid.to_string())))),
        ),
        ("cycles", array(report.deadlocks.iter().map(cycle))),
        ("restless", report.restless.to_string()),
        ("cut", report.cut.to_string()),
        ("ended", report.ended.to_string()),
        ("contention", or_null(report.observed.as_ref().map(contention::object))),
    ]);
    object + "\n"
}

fn wait(wait: &Wait) -> String {
    let waiter = &wait.waiter;
    let (owner, exited) = match waiter.lock.owner {
        Owner::Thread(tid) => (Some(tid), false),
        Owner::Exited(tid) => (Some(tid), true),
        Owner::Unknown => (None, false),
    };
    fields(&[
        ("tid", waiter.tid.inner.to_string()),
        ("host_tid", waiter.tid.outer.to_string()),
        ("kind", string(waiter.lock.kind.as_str())),
        ("mutex", string(&waiter.lock.at.to_string())),
        ("owner_tid", or_null(owner)),
        ("owner_exited", exited.to_string()),
        ("waited_ms", or_null(wait.waited_ms)),
        ("timed", waiter.futex.timed.to_string()),
        ("goid", or_null(waiter.goroutine.map(|goroutine| goroutine.goid))),
        ("c_stack", array(wait.c_stack.frames.iter().map(c_frame))),
        ("c_stack_missing", wait.c_stack.missing.map_or_else(|| "null".to_owned(), string)),
        ("go_stack", array(wait.go_stack.iter().map(go_frame))),
    ])
}

/// `hold_and_call+0x21 gateway`.
fn c_frame(frame: &Frame) -> String {
    string(format!("{} {}", text::named(frame), frame.module).trim_end())
}

/// `main.work main.go:31`.
fn go_frame(frame: &GoFrame) -> String {
    string(&format!("{} {}:{}", frame.function, frame.file, frame.line))
}

fn cycle(cycle: &Cycle) -> String {
    let node = |node: &Node| match node {
        Node::Thread(tid) => fields(&[("tid", tid.to_string())]),
        Node::Goroutine(goid) => fields(&[("goid", goid.to_string())]),
    };
    fields(&[("inferred", cycle.inferred.to_string()), ("nodes", array(cycle.nodes.iter().map(node)))])
}

pub(super) fn or_null(number: Option<impl Display>) -> String {
    number.map_or("null".to_owned(), |number| number.to_string())
}
