//! Goroutines as Go prints them: `GET /debug/pprof/goroutine?debug=2` (`runtime/traceback.go`) and, grouped
//! by equal stacks, `?debug=1` (`runtime/pprof/pprof.go`).
//!
//! What differs, because it cannot be seen from outside or would have to be guessed: arguments are `...`;
//! a goroutine that runs has no stack; labels and synctest bubbles are not shown.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::layout::{Layout, Status};
use crate::memory::{Addr, Error};
use crate::pclntab::printed_name;
use crate::stack::{End, Physical};
use crate::symbols::Show;
use crate::traces::{Stack, Target, TraceStats, Traced, Tracer};

/// Shown frames at each end of a deep stack: `tracebackInnerFrames`, `tracebackOuterFrames`.
const INNER: usize = 50;
const OUTER: usize = 50;
/// Functions of a stack that a profile tells apart (`runtime/pprof/pprof.go`), since Go 1.23 and before.
const RETURNS_MAX: usize = 128;
const RETURNS_MAX_OLD: usize = 32;
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
    let (mut first, mut written) = (true, Ok(()));
    let stats = tracer.trace(target, &mut |target, g, stack| {
        let separator = if core::mem::take(&mut first) { "" } else { "\n" };
        written = out.write_str(separator).and_then(|()| goroutine(out, target, g, stack, now_ns));
        written.is_ok()
    })?;
    written.map(|()| stats).map_err(|_| DumpError::Write)
}

fn goroutine(
    out: &mut dyn Write,
    target: &mut Target<'_>,
    g: &Traced,
    stack: Stack<'_>,
    now_ns: u64,
) -> fmt::Result {
    header(out, target.runtime.layout, g, now_ns)?;
    match stack.end {
        None => out.write_str("\tgoroutine running on other thread; stack unavailable\n")?,
        Some(end) => {
            traceback(out, target, stack.frames)?;
            if end != End::Complete {
                out.write_str(ELIDED)?;
            }
        }
    }
    if g.goid != 1
        && let Some((function, place)) = target.symbols.creation(target.image, g.gopc)
    {
        write!(out, "created by {function}")?;
        if g.parent != 0 {
            write!(out, " in goroutine {}", g.parent)?;
        }
        out.write_str(place)?;
    }
    Ok(())
}

/// `goroutine 18 [chan send, 2 minutes, locked to thread]:` (`goroutineheader`).
fn header(out: &mut dyn Write, layout: &Layout, g: &Traced, now_ns: u64) -> fmt::Result {
    let waits = matches!(g.status, Status::Waiting | Status::Leaked);
    let reason = layout.wait_texts.get(usize::from(g.reason)).copied().unwrap_or("unknown wait reason");
    let state = if waits && !reason.is_empty() { reason } else { status_text(g.status) };
    write!(out, "goroutine {} [{state}", g.goid)?;
    if g.status == Status::Leaked {
        out.write_str(" (leaked)")?;
    }
    if matches!(g.status, Status::Waiting | Status::Syscall) && g.since != 0 {
        let minutes = now_ns.saturating_sub(g.since) / MINUTE_NS;
        if minutes >= 1 {
            write!(out, ", {minutes} minutes")?;
        }
    }
    out.write_str(if g.locked { ", locked to thread]:\n" } else { "]:\n" })
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
fn traceback(out: &mut dyn Write, target: &mut Target<'_>, frames: &[Physical]) -> fmt::Result {
    // Up to Go 1.20 all but the innermost were dropped, by another count.
    let old = target.runtime.go.minor < 21;
    let frames = if old { frames.get(..INNER + OUTER).unwrap_or(frames) } else { frames };
    let (mut show, mut total) = (Show::Public, 0usize);
    target.symbols.lines(target.image, frames, show, &mut |_| total += 1);
    if total == 0 {
        show = Show::All;
        target.symbols.lines(target.image, frames, show, &mut |_| total += 1);
    }
    let elided = if old { 0 } else { total.saturating_sub(INNER + OUTER) };
    let (mut at, mut written) = (0usize, Ok(()));
    target.symbols.lines(target.image, frames, show, &mut |lines| {
        if written.is_ok() {
            written = match at {
                _ if at < INNER || at >= INNER + elided => out.write_str(lines),
                INNER => writeln!(out, "...{elided} frames elided..."),
                _ => Ok(()),
            };
        }
        at += 1;
    });
    written?;
    if old && total == INNER + OUTER { out.write_str(ELIDED) } else { Ok(()) }
}

/// Equal stacks and how many goroutines have them, in a table that does not grow.
pub struct Groups {
    slots: Vec<Option<Group>>,
    used: usize,
    /// Goroutines whose stack found no place in the table.
    pub other: u64,
}

struct Group {
    returns: Box<[Addr]>,
    count: u64,
}

impl Groups {
    /// A table for `max` different stacks.
    #[must_use]
    pub fn new(max: usize) -> Groups {
        let slots = (0..(max.max(8) * 4 / 3 + 1).next_power_of_two()).map(|_| None).collect();
        Groups { slots, used: 0, other: 0 }
    }

    fn add(&mut self, returns: &[Addr]) {
        // Three quarters full at most, so that a search always ends at an empty slot.
        let full = self.used * 4 >= self.slots.len() * 3;
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
                    return;
                }
            }
        }
        self.other += 1;
    }
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
    groups.slots.fill_with(|| None);
    (groups.used, groups.other) = (0, 0);
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
            // What cannot be named now, but could when it was counted, is shown by its address.
            let Ok((frame, entry)) = target.symbols.at(target.image, *returns) else {
                writeln!(out, "#\t{returns}")?;
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
