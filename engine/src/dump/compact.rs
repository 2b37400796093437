//! A dump for a thin link: each different stack once, without arguments, and of each goroutine its first line. What
//! a reader needs to make the text of [`super::plain`] of it again, with `...` for arguments.
//!
//! ```text
//! goleakguard dump 1
//! stack 0
//! main.send(...)
//!     /src/main.go:12 +0x1d
//! created by main.main
//!     /src/main.go:30 +0x5a
//! .
//! goroutine 18 [chan send]:
//! 0 1
//! goroutine 20 [chan send, 2 minutes]:
//! 0 1
//! 1
//! -4
//! ```
//! Below a goroutine's line stand its stack and the goroutine that created it, 0 when that is unknown. A line that is
//! only a number is one more goroutine that differs from the one before in nothing but its own number: by so much. A stack that
//! found no place in the table is called `-` and stands anew before each goroutine that has it.

use alloc::vec::Vec;
use core::fmt::Write;

use super::{DumpError, State, body, header};
use crate::census::slots_for;
use crate::stack::End;
use crate::text_out::TextOut;
use crate::traces::{Stack, Target, TraceStats, Traced, Tracer};

/// First line of a compact dump.
pub const FIRST_LINE: &str = "goleakguard dump 1\n";

/// Which stacks have been written, in a table that does not grow.
pub struct Stacks {
    slots: Vec<Option<(Key, u32)>>,
    used: u32,
    max: usize,
}

/// Two sums of 64 bits over all that makes a stack: no two of the few thousands that fit are taken for one.
type Key = (u64, u64);

enum Place {
    Known(u32),
    New(u32),
    None,
}

impl Stacks {
    /// Bytes that a table for `max` stacks takes.
    #[must_use]
    pub fn bytes(max: usize) -> usize {
        slots_for(max) * size_of::<Option<(Key, u32)>>()
    }

    /// A table for `max` different stacks.
    #[must_use]
    pub fn new(max: usize) -> Stacks {
        Stacks { slots: (0..slots_for(max)).map(|_| None).collect(), used: 0, max }
    }

    fn place(&mut self, key: Key) -> Place {
        let mask = self.slots.len() - 1;
        let mut at = usize::try_from(key.0 >> 33).unwrap_or(0) & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            match slot {
                Some((known, number)) if *known == key => return Place::Known(*number),
                Some(_) => at = (at + 1) & mask,
                None if self.used as usize >= self.max => return Place::None,
                None => {
                    let number = self.used;
                    *slot = Some((key, number));
                    self.used += 1;
                    return Place::New(number);
                }
            }
        }
        Place::None
    }
}

fn key(g: &Traced, stack: &Stack<'_>) -> Key {
    let end = match stack.end {
        None => 0,
        Some(End::Complete) => 1,
        Some(_) => 2,
    };
    // The main goroutine has been created by nobody.
    let created = if g.goid == 1 { 0 } else { g.gopc.0 };
    let words = || stack.frames.iter().map(|frame| frame.pc.0).chain([end, created]);
    let sum = |seed: u64, turn: u32, factor: u64| {
        words().fold(seed, |sum, word| (sum.rotate_left(turn) ^ word).wrapping_mul(factor))
    };
    (sum(0, 5, 0x9E37_79B9_7F4A_7C15), sum(1, 23, 0xD6E8_FEB8_6659_FD93))
}

/// Writes all goroutines of the user. `now_ns` is the system's monotonic clock.
///
/// # Errors
/// [`DumpError`]; what was written before is true.
pub fn compact(
    tracer: &mut Tracer,
    target: &mut Target<'_>,
    stacks: &mut Stacks,
    now_ns: u64,
    out: &mut dyn Write,
) -> Result<TraceStats, DumpError> {
    let mut out_text = TextOut::new(out);
    out_text.push(FIRST_LINE);
    let mut last: Option<(u64, Told)> = None;
    let stats = tracer.trace(target, &mut |target, g, stack| {
        let number = match stacks.place(key(g, &stack)) {
            Place::Known(number) => Some(number),
            Place::New(number) => {
                definition(&mut out_text, target, g, stack, Some(number));
                Some(number)
            }
            Place::None => {
                definition(&mut out_text, target, g, stack, None);
                None
            }
        };
        let told = number.map(|number| Told { state: State::of(g, now_ns), number, parent: g.parent });
        match (last, told) {
            (Some((goid, before)), Some(told)) if before == told => difference(&mut out_text, goid, g.goid),
            _ => {
                header(&mut out_text, target.runtime.layout, g, now_ns);
                name(&mut out_text, number);
                out_text.push(" ");
                out_text.decimal(g.parent);
                out_text.push("\n");
            }
        }
        last = told.map(|told| (g.goid, told));
        out_text.turn()
    });
    out_text.finish().map_err(|_| DumpError::Write)?;
    Ok(stats?)
}

fn definition(
    out_text: &mut TextOut<'_>,
    target: &mut Target<'_>,
    g: &Traced,
    stack: Stack<'_>,
    number: Option<u32>,
) {
    out_text.push("stack ");
    name(out_text, number);
    out_text.push("\n");
    body(out_text, target, stack, None);
    if let Some((function, place)) = super::creation(target, g) {
        out_text.push("created by ");
        out_text.push(function);
        out_text.push(place);
    }
    out_text.push(".\n");
}

/// What is told of a goroutine beside its number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    state: State,
    number: u32,
    parent: u64,
}

/// One more like the last one, whose number was `from`.
fn difference(out_text: &mut TextOut<'_>, from: u64, to: u64) {
    if to < from {
        out_text.push("-");
    }
    out_text.decimal(to.abs_diff(from));
    out_text.push("\n");
}

fn name(out_text: &mut TextOut<'_>, number: Option<u32>) {
    match number {
        Some(number) => out_text.decimal(number.into()),
        None => out_text.push("-"),
    }
}
