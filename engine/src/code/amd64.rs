//! x86-64: lengths of instructions, and operands relative to the instruction pointer.
//!
//! Intel SDM volume 2, chapter 2 and appendix A (opcode maps).

use super::Reference;
use crate::memory::{Error, Va};

/// What is known of an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Bytes.
    pub(super) len: usize,
    /// Displacement of an operand relative to the next instruction.
    relative: Option<i32>,
    /// The constant of `mov [memory], constant`.
    stored: Option<u64>,
}

/// What follows the opcode.
#[derive(Clone, Copy)]
struct Operands {
    modrm: bool,
    /// Bytes of constants behind it.
    constant: usize,
}

const NONE: Operands = Operands { modrm: false, constant: 0 };
const MODRM: Operands = Operands { modrm: true, constant: 0 };
const MODRM8: Operands = Operands { modrm: true, constant: 1 };

const fn constant(bytes: usize) -> Operands {
    Operands { modrm: false, constant: bytes }
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    /// 0x66: 16-bit operands.
    short: bool,
    /// 0x67: 32-bit addresses.
    narrow: bool,
    /// REX.W: 64-bit operands.
    wide: bool,
}

impl Prefixes {
    /// Bytes of a constant that has the operand's size, 4 at most.
    fn constant(self) -> usize {
        if self.short && !self.wide { 2 } else { 4 }
    }
}

pub(super) fn references(entry: Va, code: &[u8], visit: &mut dyn FnMut(Reference)) -> Result<(), Error> {
    let (mut rest, mut pc) = (code, entry.0);
    while !rest.is_empty() {
        let unknown = Error::Malformed { what: "x86-64 instruction", at: pc };
        let instruction = decode(rest).ok_or(unknown)?;
        rest = rest.get(instruction.len..).ok_or(unknown)?;
        pc = pc.wrapping_add(instruction.len as u64);
        if let Some(displacement) = instruction.relative {
            let at = Va(pc.wrapping_add_signed(displacement.into()));
            visit(Reference { at, words: 1, stored: instruction.stored });
        }
    }
    Ok(())
}

/// Decodes the first instruction; `None` when it is invalid, unknown or cut short.
pub(super) fn decode(code: &[u8]) -> Option<Instruction> {
    let mut bytes = Bytes { code, used: 0 };
    let mut prefixes = Prefixes::default();
    let mut opcode = bytes.next()?;
    while matches!(opcode, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) {
        prefixes.short |= opcode == 0x66;
        prefixes.narrow |= opcode == 0x67;
        opcode = bytes.next()?;
    }
    if opcode & 0xf0 == 0x40 {
        prefixes.wide = opcode & 8 != 0;
        opcode = bytes.next()?;
    }
    let mut stores = false;
    let operands = match opcode {
        0x0f => match bytes.next()? {
            0x38 => bytes.next().map(|_| MODRM)?,
            0x3a => bytes.next().map(|_| MODRM8)?,
            second => two_byte(second)?,
        },
        // VEX and EVEX: the map of the opcode, then the opcode.
        0xc5 => bytes.next().and_then(|_| vector(1, bytes.next()?))?,
        0xc4 => {
            let map = bytes.next()? & 0x1f;
            bytes.next()?;
            vector(map, bytes.next()?)?
        }
        0x62 => {
            let map = bytes.next()? & 7;
            bytes.next()?;
            bytes.next()?;
            vector(map, bytes.next()?)?
        }
        // The group of test, not, neg, mul, div: only test has a constant.
        0xf6 | 0xf7 if bytes.peek()? & 0x30 == 0 => {
            Operands { modrm: true, constant: if opcode == 0xf6 { 1 } else { prefixes.constant() } }
        }
        _ => {
            stores = opcode == 0xc7;
            one_byte(opcode, prefixes)?
        }
    };
    let relative = if operands.modrm { bytes.modrm()? } else { None };
    let constant = bytes.take(operands.constant)?;
    let stored = <[u8; 4]>::try_from(constant).ok().filter(|_| stores);
    let stored = stored.map(|bytes| u64::from(u32::from_le_bytes(bytes)));
    (bytes.used <= 15).then_some(Instruction { len: bytes.used, relative, stored })
}

fn one_byte(opcode: u8, prefixes: Prefixes) -> Option<Operands> {
    let sized = prefixes.constant();
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => MODRM,
            4 => constant(1),
            5 => constant(sized),
            _ => return None,
        },
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf => NONE,
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => MODRM,
        0x68 | 0xa9 => constant(sized),
        0x69 | 0x81 | 0xc7 => Operands { modrm: true, constant: sized },
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => constant(1),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => MODRM8,
        0xa0..=0xa3 => constant(if prefixes.narrow { 4 } else { 8 }),
        0xb8..=0xbf => constant(if prefixes.wide { 8 } else { sized }),
        0xc2 | 0xca => constant(2),
        0xc8 => constant(3),
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf | 0xd7 | 0xec..=0xef | 0xf1 | 0xf4 | 0xf5 | 0xf8..=0xfd => NONE,
        0xe8 | 0xe9 => constant(4),
        _ => return None,
    })
}

/// Opcodes behind 0x0f.
fn two_byte(opcode: u8) -> Option<Operands> {
    Some(match opcode {
        0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => NONE,
        0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM8,
        0x80..=0x8f => constant(4),
        0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x38..=0x3f | 0x7a | 0x7b | 0xa6 | 0xa7 => return None,
        _ => MODRM,
    })
}

/// Opcodes behind VEX and EVEX.
fn vector(map: u8, opcode: u8) -> Option<Operands> {
    match map {
        1 => two_byte(opcode).filter(|operands| operands.modrm || opcode == 0x77),
        2 => Some(MODRM),
        3 => Some(MODRM8),
        _ => None,
    }
}

struct Bytes<'c> {
    code: &'c [u8],
    used: usize,
}

impl<'c> Bytes<'c> {
    fn peek(&self) -> Option<u8> {
        self.code.get(self.used).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.used += 1;
        Some(byte)
    }

    fn take(&mut self, len: usize) -> Option<&'c [u8]> {
        let taken = self.code.get(self.used..self.used.checked_add(len)?)?;
        self.used += len;
        Some(taken)
    }

    /// Skips the operand bytes; inside is the displacement if it is relative to the next instruction.
    #[allow(clippy::option_option, reason = "outside: whether the bytes are there")]
    fn modrm(&mut self) -> Option<Option<i32>> {
        let byte = self.next()?;
        let (mode, rm) = (byte >> 6, byte & 7);
        let base = if mode != 3 && rm == 4 { self.next()? & 7 } else { rm };
        let displacement = match (mode, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        };
        let bytes = self.take(displacement)?;
        let relative = mode == 0 && rm == 5;
        Some(bytes.try_into().ok().filter(|_| relative).map(i32::from_le_bytes))
    }
}
