//! AArch64: addresses that are made of a page (`adrp`) and an offset in it.
//!
//! Arm ARM, chapter C4 (A64 instruction set encoding). What registers hold is followed from `adrp` and `mov`
//! on; whatever else may write a register makes it unknown, and so does each call.

use super::Reference;
use crate::memory::{Error, Va};

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Address(u64),
    Constant(u64),
}

/// Registers by number; 31 is never known: the zero register or the stack pointer.
struct Registers([Option<Known>; 32]);

impl Registers {
    fn get(&self, number: u32) -> Option<Known> {
        usize::try_from(number & 31).ok().and_then(|i| self.0.get(i).copied()).flatten()
    }

    fn set(&mut self, number: u32, value: Option<Known>) {
        let slot = usize::try_from(number & 31).ok().filter(|i| *i != 31);
        if let Some(slot) = slot.and_then(|i| self.0.get_mut(i)) {
            *slot = value;
        }
    }

    fn address(&self, number: u32) -> Option<u64> {
        match self.get(number) {
            Some(Known::Address(at)) => Some(at),
            _ => None,
        }
    }

    fn constant(&self, number: u32) -> Option<u64> {
        match self.get(number) {
            Some(Known::Constant(value)) => Some(value),
            _ => None,
        }
    }
}

pub(super) fn references(entry: Va, code: &[u8], visit: &mut dyn FnMut(Reference)) -> Result<(), Error> {
    if !code.len().is_multiple_of(4) || !entry.0.is_multiple_of(4) {
        return Err(Error::Malformed { what: "AArch64 function", at: entry.0 });
    }
    let mut registers = Registers([None; 32]);
    for (i, word) in code.as_chunks::<4>().0.iter().enumerate() {
        let pc = entry.0.wrapping_add(4 * i as u64);
        let word = u32::from_le_bytes(*word);
        let known = address(pc, word, &mut registers, visit) || access(word, &mut registers, visit);
        if !known {
            other(word, &mut registers);
        }
    }
    Ok(())
}

/// `adrp`, `adr`, `add` of a constant, `mov` of a constant or a register.
fn address(pc: u64, word: u32, registers: &mut Registers, visit: &mut dyn FnMut(Reference)) -> bool {
    let is = |mask, value| word & mask == value;
    let (rd, rn) = (word, word >> 5);
    let value = if is(0x1f00_0000, 0x1000_0000) {
        let offset = signed((word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3, 21);
        if is(1 << 31, 1 << 31) {
            Some(Known::Address((pc & !0xfff).wrapping_add_signed(offset << 12)))
        } else {
            let at = pc.wrapping_add_signed(offset);
            visit(Reference { at: Va(at), words: 1, stored: None });
            Some(Known::Address(at))
        }
    } else if is(0xff80_0000, 0x9100_0000) {
        let shift = if is(1 << 22, 1 << 22) { 12 } else { 0 };
        let sum = registers.address(rn).map(|at| at.wrapping_add(u64::from(word >> 10 & 0xfff) << shift));
        if let Some(at) = sum {
            visit(Reference { at: Va(at), words: 1, stored: None });
        }
        sum.map(Known::Address)
    } else if is(0x7f80_0000, 0x5280_0000) {
        let shift = (word >> 21 & 3) * 16;
        Some(Known::Constant(u64::from(word >> 5 & 0xffff) << shift))
    } else if is(0xffe0_ffe0, 0xaa00_03e0) {
        registers.get(word >> 16)
    } else {
        return false;
    };
    registers.set(rd, value);
    true
}

/// Loads and stores.
fn access(word: u32, registers: &mut Registers, visit: &mut dyn FnMut(Reference)) -> bool {
    let is = |mask, value| word & mask == value;
    let (rt, rn, rt2) = (word, word >> 5, word >> 10);
    let (size, vector) = (word >> 30, is(1 << 26, 1 << 26));
    let mut touch = |registers: &Registers, offset: i64, words: u8, stored: Option<u64>| {
        if let Some(at) = registers.address(rn) {
            visit(Reference { at: Va(at.wrapping_add_signed(offset)), words, stored });
        }
    };
    let single = is(0x3b00_0000, 0x3900_0000);
    let unscaled = is(0x3b20_0000, 0x3800_0000);
    if single || unscaled {
        let store = word >> 22 & 3 == 0 && !vector;
        let wide = vector && is(1 << 23, 1 << 23);
        let scale = if wide { 4 } else { size };
        let offset =
            if single { i64::from(word >> 10 & 0xfff) << scale } else { signed(word >> 12 & 0x1ff, 9) };
        // Post-indexed: at the base itself, which then moves.
        let offset = if unscaled && word >> 10 & 3 == 1 { 0 } else { offset };
        let stored = if rt & 31 == 31 { Some(0) } else { registers.constant(rt) };
        touch(registers, offset, if wide { 2 } else { 1 }, stored.filter(|_| store));
        if !store && !vector {
            registers.set(rt, None);
        }
        if unscaled && word >> 10 & 1 == 1 {
            registers.set(rn, None);
        }
    } else if is(0x3a00_0000, 0x2800_0000) {
        let scale = if vector { 2 + size } else { 2 + (size >> 1) };
        let mode = word >> 23 & 3;
        let offset = if mode == 1 { 0 } else { signed(word >> 15 & 0x7f, 7) << scale };
        touch(registers, offset, if scale >= 3 { 2 } else { 1 }, None);
        if is(1 << 22, 1 << 22) && !vector {
            registers.set(rt, None);
            registers.set(rt2, None);
        }
        if mode != 2 {
            registers.set(rn, None);
        }
    } else if is(0x3f00_0000, 0x0800_0000) || is(0x3b20_0c00, 0x3820_0000) {
        // Exclusive, acquiring and releasing ones; atomic ones. Both at the base.
        touch(registers, 0, 1, None);
        registers.set(rt, None);
        registers.set(word >> 16, None);
    } else {
        return false;
    }
    true
}

/// Everything else.
fn other(word: u32, registers: &mut Registers) {
    let is = |mask, value| word & mask == value;
    let call = is(0xfc00_0000, 0x9400_0000) || is(0xffff_fc1f, 0xd63f_0000);
    if call {
        // Go's calling convention keeps no register over a call.
        *registers = Registers([None; 32]);
        return;
    }
    let branch = is(0x7c00_0000, 0x1400_0000) // b
        || is(0xff00_0000, 0x5400_0000) // b.cond
        || is(0x7c00_0000, 0x3400_0000) // cbz, cbnz, tbz, tbnz
        || is(0xfe00_0000, 0xd600_0000); // br, ret
    if !branch {
        registers.set(word, None);
    }
}

/// The low `bits` of `value` as a signed number.
fn signed(value: u32, bits: u32) -> i64 {
    let unused = 32u32.saturating_sub(bits);
    i64::from((value << unused).cast_signed() >> unused)
}
