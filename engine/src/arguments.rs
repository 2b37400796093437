//! Arguments as a traceback prints them: what the compiler says of where they lie
//! (`cmd/compile/internal/ssagen/abi.go`, `emitArgInfo`), and the words of the stack (`runtime/traceback.go`,
//! `printArgs`).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::memory::Addr;
use crate::stack::Copied;
use crate::text_out::TextOut;

/// Longest description of a function's arguments: `TraceArgsMaxLen` of `internal/abi/type.go`.
pub(crate) const INFO_MAX: usize = (5 * 3 + 2) * 10 + 1;
/// Bytes of one bit for each argument that may be in a register: an argument takes two bytes of description.
pub(crate) const LIVE_MAX: usize = INFO_MAX / 2 / 8 + 1;

/// `TraceArgsEndSeq` and what follows it downwards; all below are offsets.
const END: u8 = 0xff;
const AGGREGATE: u8 = 0xfe;
const AGGREGATE_END: u8 = 0xfd;
const MORE: u8 = 0xfc;
const TOO_FAR: u8 = 0xfb;
/// Mark in a size that the argument may be dead there. Sizes are 8 at most.
const DEAD: u8 = 0x80;

/// Which arguments are still up to date where the function stands. Those that came in registers have a place
/// on the stack, too, which is not always written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness<'b> {
    /// Offset of the first argument that came in a register.
    pub first: u8,
    /// A bit for each from there on; those without one are live.
    pub bits: &'b [u8],
}

/// What is printed between a function's parentheses: operators, and for each argument its offset and size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(Box<[u8]>);

impl Arguments {
    /// Takes in a description; `None` for one that does not end.
    #[must_use]
    pub fn parse(info: &[u8], live: Option<Liveness<'_>>) -> Option<Arguments> {
        let (mut bytes, mut slot) = (info.iter().take(INFO_MAX).copied(), 0usize);
        let mut operations = Vec::new();
        loop {
            let operation = bytes.next()?;
            if operation == END {
                return Some(Arguments(operations.into_boxed_slice()));
            }
            operations.push(operation);
            if operation >= TOO_FAR {
                continue;
            }
            let mut size = bytes.next()?.min(8);
            if let Some(live) = live.filter(|live| operation >= live.first) {
                let bits = live.bits.get(slot / 8).copied().unwrap_or(u8::MAX);
                size |= if bits & 1 << (slot % 8) == 0 { DEAD } else { 0 };
                slot += 1;
            }
            operations.push(size);
        }
    }

    /// Whether nothing is printed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes this takes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the arguments' memory that are printed.
    #[must_use]
    pub fn reach(&self) -> u16 {
        let ends = self.operations().map(|operation| match operation {
            Operation::Value { offset, size, .. } => u16::from(offset) + u16::from(size),
            Operation::Mark(_) => 0,
        });
        ends.max().unwrap_or(0)
    }

    /// Prints them as they are at `at` in a copied stack; what is not in the copy as `_`.
    pub(crate) fn print(&self, at: Addr, stack: Copied<'_>, out_text: &mut TextOut<'_>) {
        let mut separator = "";
        for operation in self.operations() {
            match operation {
                Operation::Mark(AGGREGATE_END) => out_text.push("}"),
                Operation::Mark(mark) => {
                    out_text.push(separator);
                    out_text.push(match mark {
                        AGGREGATE => "{",
                        MORE => "...",
                        _ => "_",
                    });
                }
                Operation::Value { offset, size, dead } => {
                    out_text.push(separator);
                    match stack.get(at.0.saturating_add(offset.into()), size.into()) {
                        Some(bytes) => out_text.hexadecimal(little_endian(bytes)),
                        None => out_text.push("_"),
                    }
                    if dead {
                        out_text.push("?");
                    }
                }
            }
            separator = if matches!(operation, Operation::Mark(AGGREGATE)) { "" } else { ", " };
        }
    }

    /// The same as text of its own.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, at: Addr, stack: Copied<'_>, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut out_text = TextOut::new(out);
        self.print(at, stack, &mut out_text);
        out_text.finish()
    }

    fn operations(&self) -> impl Iterator<Item = Operation> {
        let mut bytes = self.0.iter().copied();
        core::iter::from_fn(move || {
            let first = bytes.next()?;
            if first >= TOO_FAR {
                return Some(Operation::Mark(first));
            }
            let size = bytes.next()?;
            Some(Operation::Value { offset: first, size: size & !DEAD, dead: size & DEAD != 0 })
        })
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Mark(u8),
    Value { offset: u8, size: u8, dead: bool },
}

/// Up to eight bytes, the lowest first.
fn little_endian(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(word) => u64::from_le_bytes(word),
        Err(_) => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    const STACK: u64 = 0xc000_0100;

    fn printed(info: &[u8], live: Option<Liveness<'_>>) -> Option<String> {
        let bytes: Vec<u8> = (0..32).map(|at| [0x12, 0x34, 0, 0xab, 0, 0, 0, 0][at % 8]).collect();
        let (mut text, copied) = (String::new(), Copied { at: Addr(STACK), bytes: &bytes });
        let mut out_text = TextOut::new(&mut text);
        Arguments::parse(info, live)?.print(Addr(STACK), copied, &mut out_text);
        out_text.finish().unwrap();
        Some(text)
    }

    #[test]
    fn values_are_printed_by_size() {
        assert_eq!(printed(&[END], None).unwrap(), "");
        assert_eq!(printed(&[0, 8, END], None).unwrap(), "0xab003412");
        assert_eq!(
            printed(&[0, 1, 1, 2, 4, 8, 8, 4, END], None).unwrap(),
            "0x12, 0x34, 0xab00341200000000, 0xab003412"
        );
        // A size of none, and one that Go's shift makes the same of as of eight.
        assert_eq!(printed(&[0, 0, 0, 200, END], None).unwrap(), "0x0, 0xab003412");
    }

    #[test]
    fn aggregates_nest() {
        let info = [
            AGGREGATE,
            0,
            8,
            AGGREGATE,
            AGGREGATE_END,
            AGGREGATE,
            4,
            1,
            MORE,
            AGGREGATE_END,
            AGGREGATE_END,
            TOO_FAR,
            MORE,
            END,
        ];
        assert_eq!(printed(&info, None).unwrap(), "{0xab003412, {}, {0x0, ...}}, _, ...");
    }

    #[test]
    fn what_may_be_dead_is_marked() {
        let info = [0, 1, 8, 1, 9, 1, 16, 1, END];
        let live = |bits| Some(Liveness { first: 8, bits });
        assert_eq!(printed(&info, live(&[0b101])).unwrap(), "0x12, 0x12, 0x34?, 0x12");
        assert_eq!(printed(&info, live(&[])).unwrap(), "0x12, 0x12, 0x34, 0x12");
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        assert_eq!(printed(&[30, 8, 24, 8, END], None).unwrap(), "_, 0xab003412");
        assert_eq!(printed(&[0, 8], None), None);
        assert_eq!(printed(&[0], None), None);
        assert_eq!(printed(&[0; 2 * INFO_MAX], None), None);
        let reach = |info: &[u8]| Arguments::parse(info, None).unwrap().reach();
        assert_eq!((reach(&[0xfa, 8, END]), reach(&[0, 8, 8, 2, END]), reach(&[MORE, END])), (258, 10, 0));
    }
}
