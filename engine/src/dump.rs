//! Goroutines as Go prints them: `GET /debug/pprof/goroutine?debug=2` (`runtime/traceback.go`) and, grouped
//! by equal stacks, `?debug=1` (`runtime/pprof/pprof.go`).
//!
//! What differs, because it cannot be seen from outside or would have to be guessed: a goroutine that runs has
//! no stack; labels and synctest bubbles are not shown.

mod compact;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::census::slots_for;
use crate::layout::{Layout, Status};
use crate::memory::{Addr, Error};
use crate::pclntab::printed_name;
use crate::stack::{Copied, End, Physical};
use crate::symbols::{ELSEWHERE, Lines, Show};
use crate::text_out::TextOut;
use crate::traces::{Stack, Target, TraceStats, Traced, Tracer};

pub use compact::{FIRST_LINE as COMPACT_FIRST_LINE, Stacks, compact};

/// Shown frames at each end of a deep stack: `tracebackInnerFrames`, `tracebackOuterFrames`.
const INNER: usize = 50;
const OUTER: usize = 50;
/// Functions of a stack that a profile tells apart (`runtime/pprof/pprof.go`), since Go 1.23 and before.
const RETURNS_MAX: usize = 128;
const RETURNS_MAX_OLD: usize = 32;
/// Functions of a stack that [`Groups`] has room for, on the average.
const MEAN: usize = 16;
/// Bytes that text takes on its way out.
pub const TEXT_BYTES: usize = TextOut::BYTES;
const MINUTE_NS: u64 = 60_000_000_000;
/// What Go 1.19 prints for the rest of a deep stack, and we for what could not be read.
const ELIDED: &str = "...additional frames elided...\n";

/// Why a dump ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpError {
    /// The process could not be read.
    Foreign(Error),
    /// The text could not be written.
    Write,
}

impl From<Error> for DumpError {
    fn from(error: Error) -> DumpError {
        DumpError::Foreign(error)
    }
}

/// Writes all goroutines of the user, one after the other. `now_ns` is the system's monotonic clock.
///
/// # Errors
/// [`DumpError`]; what was written before is true.
pub fn plain(
    tracer: &mut Tracer,
    target: &mut Target<'_>,
    now_ns: u64,
    out: &mut dyn Write,
) -> Result<TraceStats, DumpError> {
    let (mut out_text, mut first) = (TextOut::new(out), true);
    let stats = tracer.trace(target, &mut |target, g, stack| {
        if !core::mem::take(&mut first) {
            out_text.push("\n");
        }
        goroutine(&mut out_text, target, g, stack, now_ns);
        out_text.turn()
    });
    out_text.finish().map_err(|_| DumpError::Write)?;
    Ok(stats?)
}

fn goroutine(out_text: &mut TextOut<'_>, target: &mut Target<'_>, g: &Traced, stack: Stack<'_>, now_ns: u64) {
    header(out_text, target.runtime.layout, g, now_ns);
    let memory = stack.memory;
    body(out_text, target, stack, Some(memory));
    if let Some((function, place)) = creation(target, g) {
        out_text.push("created by ");
        out_text.push(function);
        if g.parent != 0 {
            out_text.push(" in goroutine ");
            out_text.decimal(g.parent);
        }
        out_text.push(place);
    }
}

/// What stands between the first line and that of the creation; with arguments where their memory is given.
fn body(
    out_text: &mut TextOut<'_>,
    target: &mut Target<'_>,
    stack: Stack<'_>,
    arguments: Option<Copied<'_>>,
) {
    match stack.end {
        None => out_text.push("\tgoroutine running on other thread; stack unavailable\n"),
        Some(end) => {
            traceback(out_text, target, stack.frames, arguments);
            if end != End::Complete {
                out_text.push(ELIDED);
            }
        }
    }
}

/// Function and place of the `go` statement, where one is shown.
fn creation<'t>(target: &'t mut Target<'_>, g: &Traced) -> Option<(&'t str, &'t str)> {
    if g.goid == 1 { None } else { target.symbols.creation(target.image, g.gopc) }
}

/// What the first line says beside the number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    status: Status,
    /// Number of the wait reason; 0 where it says nothing.
    reason: u8,
    /// 0 is not shown.
    minutes: u64,
    locked: bool,
}

impl State {
    fn of(g: &Traced, now_ns: u64) -> State {
        let waits = matches!(g.status, Status::Waiting | Status::Leaked);
        let dated = matches!(g.status, Status::Waiting | Status::Syscall) && g.since != 0;
        State {
            status: g.status,
            reason: if waits { g.reason } else { 0 },
            minutes: if dated { now_ns.saturating_sub(g.since) / MINUTE_NS } else { 0 },
            locked: g.locked,
        }
    }
}

/// `goroutine 18 [chan send, 2 minutes, locked to thread]:` (`goroutineheader`).
fn header(out_text: &mut TextOut<'_>, layout: &Layout, g: &Traced, now_ns: u64) {
    let State { status, reason, minutes, locked } = State::of(g, now_ns);
    let waits = matches!(status, Status::Waiting | Status::Leaked);
    let reason = layout.wait_texts.get(usize::from(reason)).copied().unwrap_or("unknown wait reason");
    out_text.push("goroutine ");
    out_text.decimal(g.goid);
    out_text.push(" [");
    out_text.push(if waits && !reason.is_empty() { reason } else { status_text(status) });
    if status == Status::Leaked {
        out_text.push(" (leaked)");
    }
    if minutes >= 1 {
        out_text.push(", ");
        out_text.decimal(minutes);
        out_text.push(" minutes");
    }
    out_text.push(if locked { ", locked to thread]:\n" } else { "]:\n" });
}

/// `gStatusStrings` of `runtime/traceback.go`.
fn status_text(status: Status) -> &'static str {
    match status {
        Status::Idle => "idle",
        Status::Runnable => "runnable",
        Status::Running => "running",
        Status::Syscall => "syscall",
        Status::Waiting => "waiting",
        Status::Moribund => "???",
        Status::Dead => "dead",
        Status::CopyStack => "copystack",
        Status::Preempted => "preempted",
        Status::Leaked => "leaked",
        Status::DeadExtra => "waiting for cgo callback",
    }
}

/// The frames of a stack; those of the runtime only when there are no others (`traceback1`).
fn traceback(
    out_text: &mut TextOut<'_>,
    target: &mut Target<'_>,
    frames: &[Physical],
    arguments: Option<Copied<'_>>,
) {
    // Up to Go 1.20 all but the innermost were dropped, by another count.
    let old = target.runtime.go.minor < 21;
    let frames = if old { frames.get(..INNER + OUTER).unwrap_or(frames) } else { frames };
    let inner = if old { usize::MAX } else { INNER };
    for show in [Show::Public, Show::All] {
        let mut total = 0usize;
        target.symbols.lines(target.image, frames, show, &mut |lines| {
            if total < inner {
                lines.print(out_text, arguments);
            }
            total += 1;
        });
        if total > inner {
            outermost(out_text, target, frames, arguments, show, total);
        }
        if old && total == INNER + OUTER {
            out_text.push(ELIDED);
        }
        if total > 0 {
            break;
        }
    }
}

/// What follows the innermost frames of a deep stack, of which `total` are shown or elided.
fn outermost(
    out_text: &mut TextOut<'_>,
    target: &mut Target<'_>,
    frames: &[Physical],
    arguments: Option<Copied<'_>>,
    show: Show,
    total: usize,
) {
    let from = INNER.max(total.saturating_sub(OUTER));
    if from > INNER {
        out_text.push("...");
        out_text.decimal((from - INNER) as u64);
        out_text.push(" frames elided...\n");
    }
    let mut at = 0;
    target.symbols.lines(target.image, frames, show, &mut |lines| {
        if at >= from {
            lines.print(out_text, arguments);
        }
        at += 1;
    });
}

impl Lines<'_> {
    fn print(self, out_text: &mut TextOut<'_>, memory: Option<Copied<'_>>) {
        out_text.push(self.head);
        match (self.arguments, memory) {
            (Some((arguments, at)), Some(memory)) => arguments.print(at, memory, out_text),
            (Some(_), None) => out_text.push("..."),
            (None, _) => {}
        }
        out_text.push(self.tail);
        // Even a deep stack takes no more room than this.
        out_text.turn();
    }
}

/// Equal stacks and how many goroutines have them, in a table that does not grow.
pub struct Groups {
    slots: Vec<Option<Group>>,
    used: usize,
    max: usize,
    /// Addresses that there is still room for.
    room: usize,
    /// Goroutines whose stack found no place in the table.
    pub other: u64,
}

struct Group {
    returns: Box<[Addr]>,
    count: u64,
}

impl Groups {
    /// Bytes that a table for `max` stacks takes.
    #[must_use]
    pub fn bytes(max: usize) -> usize {
        slots_for(max) * size_of::<Option<Group>>() + room_for(max) * size_of::<Addr>()
    }

    /// A table for `max` different stacks, of 16 functions each on the average.
    #[must_use]
    pub fn new(max: usize) -> Groups {
        let slots = (0..slots_for(max)).map(|_| None).collect();
        Groups { slots, used: 0, max, room: room_for(max), other: 0 }
    }

    fn clear(&mut self) {
        // What the stacks had is free again.
        let had: usize = self.slots.iter().flatten().map(|group| group.returns.len()).sum();
        self.slots.fill_with(|| None);
        (self.used, self.room, self.other) = (0, self.room + had, 0);
    }

    fn add(&mut self, returns: &[Addr]) {
        // Then three quarters are taken at most, so that a search always ends at an empty slot.
        let full = self.used >= self.max || returns.len() > self.room;
        let mask = self.slots.len() - 1;
        let mixed = returns
            .iter()
            .fold(0u64, |sum, pc| (sum.rotate_left(5) ^ pc.0).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut at = usize::try_from(mixed >> 33).unwrap_or(0) & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            match slot {
                Some(group) if *group.returns == *returns => {
                    group.count += 1;
                    return;
                }
                Some(_) => at = (at + 1) & mask,
                None if full => break,
                None => {
                    *slot = Some(Group { returns: returns.into(), count: 1 });
                    self.used += 1;
                    self.room -= returns.len();
                    return;
                }
            }
        }
        self.other += 1;
    }
}

fn room_for(max: usize) -> usize {
    max.max(8) * MEAN
}

/// Writes each different stack once, with the number of goroutines that have it, the largest number first.
///
/// # Errors
/// [`DumpError`]; what was written before is true.
pub fn grouped(
    tracer: &mut Tracer,
    target: &mut Target<'_>,
    groups: &mut Groups,
    out: &mut dyn Write,
) -> Result<TraceStats, DumpError> {
    groups.clear();
    let max = if target.runtime.go.minor < 23 { RETURNS_MAX_OLD } else { RETURNS_MAX };
    let mut returns = Vec::with_capacity(max);
    let stats = tracer.trace(target, &mut |target, _, stack| {
        target.symbols.returns(target.image, stack.frames, max, &mut returns);
        groups.add(&returns);
        true
    })?;
    groups.slots.sort_by_key(|slot| core::cmp::Reverse(slot.as_ref().map_or(0, |group| group.count)));
    let write = |out: &mut dyn Write, target: &mut Target<'_>| -> fmt::Result {
        writeln!(out, "goroutine profile: total {}", stats.shown)?;
        for group in groups.slots.iter().flatten() {
            self::group(out, target, group)?;
        }
        if groups.other > 0 {
            writeln!(out, "# {} goroutines with other stacks: the table is full", groups.other)?;
        }
        Ok(())
    };
    write(out, target).map(|()| stats).map_err(|_| DumpError::Write)
}

/// `printStackRecord` of `runtime/pprof/pprof.go`; its columns are aligned there, here they are not.
fn group(out: &mut dyn Write, target: &mut Target<'_>, group: &Group) -> fmt::Result {
    write!(out, "{} @", group.count)?;
    for pc in &group.returns {
        write!(out, " {pc}")?;
    }
    out.write_str("\n")?;
    if group.returns.is_empty() {
        out.write_str("#\trunning: stack unavailable\n")?;
    }
    let mut shown = 0;
    for all in [false, true] {
        for returns in &group.returns {
            let Ok((frame, entry)) = target.symbols.at(target.image, *returns) else {
                let what = if target.symbols.is_elsewhere(*returns) { ELSEWHERE } else { "" };
                writeln!(out, "#\t{returns}\t{what}")?;
                shown += 1;
                continue;
            };
            // Only tracebacks call it so.
            let name = match printed_name(&frame.function, target.runtime.go.minor) {
                ["panic", ..] => "runtime.gopanic".into(),
                pieces => pieces.concat(),
            };
            let runtimes = name.starts_with("runtime.") || name.starts_with("internal/runtime/");
            if name == "runtime.goexit" || !all && shown == 0 && runtimes {
                continue;
            }
            shown += 1;
            let call = returns.0.wrapping_sub(1);
            let offset = call.wrapping_sub(entry.0);
            writeln!(out, "#\t{call:#x}\t{name}+{offset:#x}\t{}:{}", frame.file, frame.line)?;
        }
        if shown > 0 {
            break;
        }
    }
    out.write_char('\n')
}
