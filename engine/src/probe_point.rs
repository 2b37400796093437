//! Chooses the instruction of `runtime.newproc1` and `runtime.goexit0` to probe.
//!
//! A uprobe on an instruction that the kernel emulates costs one trap; on any other it costs a second one for
//! the single step (about 15 times as much on amd64, 3 to 7 times on arm64). So the probe goes to the first
//! emulated instruction that every call executes while the argument is still in its register. The decoder
//! knows the few instructions that Go's prologues are made of; at anything else it gives up and answers the
//! function's entry, which is always right and only dearer.

use crate::layout::Arch;

/// How much of a function [`find`] can make use of, in bytes.
pub const CODE_BYTES: usize = 96;

/// A function to probe. Both run on the scheduler's stack (Go 1.19–1.27, `runtime/proc.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// `newproc1(fn *funcval, callergp *g, callerpc uintptr, …)`, for `callerpc`.
    Newproc1,
    /// `goexit0(gp *g)`, for `gp`.
    Goexit0,
}

/// How the kernel gets past the probed instruction, which decides what a hit costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HitClass {
    /// It carries it out itself.
    Emulated,
    /// It lets the processor step over a copy.
    Stepped,
}

/// Where to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// Bytes from the function's entry.
    pub offset: u32,
    /// What a hit there costs.
    pub class: HitClass,
}

/// The best place in `code`, the function's first bytes as in its file.
///
/// Total: it answers the entry for code it does not understand, and for none at all.
#[must_use]
pub fn find(arch: Arch, function: Probed, code: &[u8]) -> ProbePoint {
    let decode = match arch {
        Arch::Amd64 => amd64::decode,
        Arch::Arm64 => arm64::decode,
    };
    // Go's ABIInternal (src/cmd/compile/abi-internal.md): arguments 1 and 3 in RAX and RCX, in R0 and R2.
    let argument = match (arch, function) {
        (_, Probed::Goexit0) => 1 << 0,
        (Arch::Amd64, Probed::Newproc1) => 1 << 1,
        (Arch::Arm64, Probed::Newproc1) => 1 << 2,
    };
    let code = code.get(..CODE_BYTES).unwrap_or(code);
    let found = scan(code, decode, argument).and_then(|offset| u32::try_from(offset).ok());
    match found {
        Some(offset) => ProbePoint { offset, class: HitClass::Emulated },
        None => ProbePoint { offset: 0, class: HitClass::Stepped },
    }
}

/// Walks straight down from the entry. `None` if the argument or the way is lost.
fn scan(code: &[u8], decode: fn(&[u8]) -> Option<Instruction>, argument: u32) -> Option<usize> {
    let mut at = 0;
    let mut in_stack_check = false;
    loop {
        let instruction = decode(code.get(at..)?)?;
        match instruction.effect {
            // The stack check is left behind when it can be: a stack that grows enters the function twice.
            Effect::Branch if in_stack_check => in_stack_check = false,
            Effect::Branch | Effect::Emulated => return Some(at),
            Effect::ReadsStackGuard => in_stack_check = true,
            Effect::Writes(registers) if registers & argument != 0 => return None,
            Effect::Writes(_) => {}
        }
        at = at.checked_add(instruction.len)?;
    }
}

struct Instruction {
    /// In bytes; not needed of an instruction at which the walk ends.
    len: usize,
    effect: Effect,
}

enum Effect {
    /// Emulated: a conditional branch.
    Branch,
    /// Emulated: anything else.
    Emulated,
    /// Compares or loads `g.stackguard0` or `stackguard1`, as the stack check does.
    ReadsStackGuard,
    /// Not emulated; bit N stands for general register N.
    Writes(u32),
}

/// Emulated as in Linux `arch/x86/kernel/uprobes.c` (`branch_setup_xol_ops`, `push_setup_xol_ops`), 5.10 and
/// later. Newer kernels emulate more; what only they emulate is not looked for.
mod amd64 {
    use super::{Effect, Instruction};

    pub(super) fn decode(code: &[u8]) -> Option<Instruction> {
        let stack_guard = matches!(code, [0x49 | 0x4d, 0x3b, 0x66, 0x10 | 0x18, ..]); // cmp rsp|r12, 16|24(r14)
        let (rex, code, prefix) = match code {
            [rex @ 0x40..=0x4f, rest @ ..] => (*rex, rest, 1),
            _ => (0, code, 0),
        };
        let (&opcode, operands) = code.split_first()?;
        let emulated = |len, effect| (rex == 0).then_some((len, effect));
        let (len, effect) = match opcode {
            0x50..=0x57 if rex == 0x41 => (0, Effect::Emulated), // push r8..r15
            0x50..=0x57 | 0x90 | 0xe8 | 0xe9 | 0xeb => emulated(0, Effect::Emulated)?, // push, nop, call, jmp
            0x70..=0x7f => emulated(1, Effect::Branch)?,
            0x0f => two_byte(rex, operands)?,
            // cmp, test
            0x38..=0x3b | 0x84 | 0x85 => (ModRm::parse(rex, operands)?.len, Effect::Writes(0)),
            // mov to memory or register; xor
            0x31 | 0x89 => ModRm::parse(rex, operands)?.writing_rm(0),
            // byte mov to memory (to a register it could mean AH)
            0x88 => ModRm::parse(rex, operands).filter(|m| m.rm.is_none())?.writing_rm(0),
            // mov from memory or register; lea; xor
            0x33 | 0x8b | 0x8d => ModRm::parse(rex, operands)?.writing_reg(),
            // add, or, and, sub, xor, cmp with a constant
            0x83 => ModRm::parse(rex, operands)?.writing_rm(1),
            0x81 => ModRm::parse(rex, operands)?.writing_rm(4),
            // mov constant
            0xb8..=0xbf => {
                let constant = if rex & 8 != 0 { 8 } else { 4 };
                (constant, Effect::Writes(1 << ((opcode & 7) | ((rex & 1) << 3))))
            }
            _ => return None,
        };
        let effect = if stack_guard { Effect::ReadsStackGuard } else { effect };
        Some(Instruction { len: prefix + 1 + len, effect })
    }

    fn two_byte(rex: u8, operands: &[u8]) -> Option<(usize, Effect)> {
        let (&opcode, operands) = operands.split_first()?;
        match opcode {
            0x80..=0x8f if rex == 0 => Some((1 + 4, Effect::Branch)),
            // movups to memory, long nop, xorps: no general register
            0x11 | 0x1f | 0x57 => Some((1 + ModRm::parse(rex, operands)?.len, Effect::Writes(0))),
            _ => None,
        }
    }

    /// The operand bytes after an opcode (Intel SDM volume 2, 2.1).
    struct ModRm {
        len: usize,
        reg: u8,
        /// The other operand, when it is a register.
        rm: Option<u8>,
    }

    impl ModRm {
        fn parse(rex: u8, operands: &[u8]) -> Option<Self> {
            let &modrm = operands.first()?;
            let (mode, rm) = (modrm >> 6, modrm & 7);
            let has_sib = mode != 3 && rm == 4;
            let base = if has_sib { operands.get(1)? & 7 } else { rm };
            let displacement = match (mode, base) {
                (0, 5) | (2, _) => 4,
                (1, _) => 1,
                _ => 0,
            };
            Some(Self {
                len: 1 + usize::from(has_sib) + displacement,
                reg: ((modrm >> 3) & 7) | ((rex & 4) << 1),
                rm: (mode == 3).then_some(rm | ((rex & 1) << 3)),
            })
        }

        fn writing_reg(&self) -> (usize, Effect) {
            (self.len, Effect::Writes(1 << self.reg))
        }

        fn writing_rm(&self, constant: usize) -> (usize, Effect) {
            (self.len + constant, Effect::Writes(self.rm.map_or(0, |rm| 1 << rm)))
        }
    }
}

/// Simulated as in Linux `arch/arm64/kernel/probes/decode-insn.c`, 5.10 and later. `ldr` from a literal is
/// left out: its simulation was wrong for uprobes and was taken out in 6.12 and the stable kernels.
mod arm64 {
    use super::{Effect, Instruction};

    pub(super) fn decode(code: &[u8]) -> Option<Instruction> {
        let word = u32::from_le_bytes(*code.first_chunk::<4>()?);
        let effect = simulated(word).or_else(|| memory(word)).or_else(|| arithmetic(word))?;
        Some(Instruction { len: 4, effect })
    }

    fn simulated(word: u32) -> Option<Effect> {
        let is = |mask, value| word & mask == value;
        if is(0xff00_0010, 0x5400_0000) || is(0x7c00_0000, 0x3400_0000) {
            return Some(Effect::Branch); // b.cond; cbz, cbnz, tbz, tbnz
        }
        let emulated = is(0x7c00_0000, 0x1400_0000) // b, bl
            || is(0x1f00_0000, 0x1000_0000); // adr, adrp
        emulated.then_some(Effect::Emulated)
    }

    /// Loads and stores (Arm ARM, C4.1.66).
    fn memory(word: u32) -> Option<Effect> {
        let is = |mask, value| word & mask == value;
        if is(!(1 << 10), 0xf940_0b90) {
            return Some(Effect::ReadsStackGuard); // ldr x16, [x28, #16|#24]
        }
        let (rt, rn, rt2) = (bit(word), bit(word >> 5), bit(word >> 10));
        let general = word & (1 << 26) == 0;
        let (loaded, writes_back) = if is(0x3b00_0000, 0x3900_0000) {
            (if word & (3 << 22) != 0 { rt } else { 0 }, false) // unsigned offset
        } else if is(0x3b20_0000, 0x3800_0000) {
            (if word & (3 << 22) != 0 { rt } else { 0 }, word & (1 << 10) != 0) // unscaled; pre- and post-indexed
        } else if is(0x3a00_0000, 0x2800_0000) {
            (if word & (1 << 22) != 0 { rt | rt2 } else { 0 }, word & (1 << 23) != 0) // pairs
        } else {
            return None;
        };
        Some(Effect::Writes(if general { loaded } else { 0 } | if writes_back { rn } else { 0 }))
    }

    fn arithmetic(word: u32) -> Option<Effect> {
        let is = |mask, value| word & mask == value;
        if word == 0xd503_201f {
            return Some(Effect::Writes(0)); // nop
        }
        let writes_rd = is(0x1f80_0000, 0x1100_0000) // add, sub, cmp with a constant
            || is(0x1f00_0000, 0x0b00_0000) // add, sub, cmp of registers
            || is(0x1f00_0000, 0x0a00_0000) // and, orr (mov), eor of registers
            || is(0x1f80_0000, 0x1200_0000) // the same with a constant
            || is(0x1f80_0000, 0x1280_0000); // movz, movn, movk
        writes_rd.then_some(Effect::Writes(bit(word)))
    }

    fn bit(register: u32) -> u32 {
        1 << (register & 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn check(arch: Arch, function: Probed, hex: &str, offset: u32) {
        let point = find(arch, function, &bytes(hex));
        assert_eq!(point, ProbePoint { offset, class: HitClass::Emulated }, "{arch:?} {function:?} {hex}");
    }

    fn check_entry(arch: Arch, function: Probed, hex: &str) {
        let point = find(arch, function, &bytes(hex));
        assert_eq!(point, ProbePoint { offset: 0, class: HitClass::Stepped }, "{arch:?} {function:?} {hex}");
    }

    /// From programs built by the Go release named, with eight bytes past the chosen point.
    #[rustfmt::skip]
    const REAL: &[(Arch, Probed, &str, &str, u32)] = &[
        (Arch::Amd64, Probed::Newproc1, "1.19", "493b66100f86860300004883ec4848896c2440488d6c244048895c2438488944245048894c24604c897424204885c07514488d059ce805", 0x2f),
        (Arch::Amd64, Probed::Newproc1, "1.21.13", "493b66100f866d030000554889e54883ec28", 0xa),
        (Arch::Amd64, Probed::Newproc1, "1.27.3", "493b66100f8693040000554889e54883ec50", 0xa),
        (Arch::Amd64, Probed::Goexit0, "1.19", "493b66100f86e00200004883ec3848896c2430488d6c243048894424404c89742420498b5630488b92d00000004889542428bb02000000b9060000000f1f4000e87baaffff488b44", 0x40),
        (Arch::Amd64, Probed::Goexit0, "1.21.13", "493b66100f86a1020000554889e54883ec30", 0xa),
        (Arch::Amd64, Probed::Goexit0, "1.22.10", "493b66107618554889e54883ec08", 0x6),
        (Arch::Amd64, Probed::Goexit0, "1.27.3", "493b66107618554889e54883ec08", 0x6),
        (Arch::Arm64, Probed::Newproc1, "1.19", "900b40f9ff6330ebe9200054fe0f1bf8fd831ff8fd2300d1e12300f9e02f00f9e23700f9fc1700f9a00000b5e00200b0", 0x28),
        (Arch::Arm64, Probed::Newproc1, "1.21.13", "900b40f9ff6330eb49200054fe0f1cf8fd831ff8fd2300d1e22f00f9e12b00f9e02700f9a00000b5e00200d0", 0x24),
        (Arch::Arm64, Probed::Newproc1, "1.22.10", "900b40f9ff6330eb49260054fe0f1af8fd831ff8fd2300d1e03700f9e13b00f9e23f00f9a00000b560030090", 0x24),
        (Arch::Arm64, Probed::Newproc1, "1.23.9", "900b40f9ff6330eb89270054fe0f1af8fd831ff8fd2300d1e03700f9e13b00f9e23f00f9e3030239e4070239a00000b5800300d0", 0x2c),
        (Arch::Arm64, Probed::Newproc1, "1.27.3", "900b40f9ff6330eb09280054fe0f1af8fd831ff8fd2300d1e03700f9e13b00f9e23f00f9e3030239e4070239a00000b5a00200b0", 0x2c),
        (Arch::Arm64, Probed::Goexit0, "1.19", "900b40f9ff6330eb691a0054fe0f1cf8fd831ff8fd2300d1e02700f9fc1700f9831b40f9636840f9e31b00f9e1037fb2e2077fb2b7e8ff97e02740f9", 0x34),
        (Arch::Arm64, Probed::Goexit0, "1.21.13", "900b40f9ff6330ebc9180054fe0f1cf8fd831ff8fd2300d1e02700f9831b40f9e31700f9646840f9e41b00f9e1037fb2e2077fb2dbe7ff97e02740f9", 0x34),
        (Arch::Arm64, Probed::Goexit0, "1.22.10", "900b40f9ff6330eb29010054fe0f1ef8fd831ff8fd2300d10a000094ddfbff97", 0x18),
        (Arch::Arm64, Probed::Goexit0, "1.27.3", "900b40f9ff6330eb29010054fe0f1ef8fd831ff8fd2300d10a0000946dfcff97", 0x18),
    ];

    #[test]
    fn finds_the_emulated_instruction_in_what_go_compiles() {
        for &(arch, function, _, hex, offset) in REAL {
            check(arch, function, hex, offset);
        }
    }

    #[test]
    fn code_cut_short_gives_the_entry_or_the_same_point() {
        for &(arch, function, _, hex, offset) in REAL {
            let code = bytes(hex);
            for len in 0..code.len() {
                let point = find(arch, function, &code[..len]);
                assert!(
                    point.offset == offset || point.offset == 0,
                    "{arch:?} {function:?} {len}: {point:?}"
                );
            }
        }
    }

    #[test]
    fn a_function_without_stack_check_is_walked_from_its_first_instruction() {
        check(Arch::Amd64, Probed::Newproc1, "554889e5", 0); // push rbp
        check(Arch::Amd64, Probed::Newproc1, "4883ec28e800000000", 4); // sub rsp; call
        check(Arch::Arm64, Probed::Goexit0, "fe0f1ef80a000094", 4); // str x30, [sp, #-32]!; bl
    }

    #[test]
    fn a_clobbered_argument_gives_the_entry() {
        check_entry(Arch::Amd64, Probed::Newproc1, "498b4e3055"); // mov rcx, [r14+0x30]; push rbp
        check(Arch::Amd64, Probed::Goexit0, "498b4e3055", 4); // rcx is nothing to goexit0
        check_entry(Arch::Amd64, Probed::Goexit0, "31c055"); // xor eax, eax; push rbp
        check_entry(Arch::Arm64, Probed::Newproc1, "821b40f90a000094"); // ldr x2, [x28, #48]; bl
        check_entry(Arch::Arm64, Probed::Goexit0, "e0077fa90a000094"); // ldp x0, x1, [sp, #-16]; bl
    }

    #[test]
    fn unknown_instructions_give_the_entry() {
        check_entry(Arch::Amd64, Probed::Newproc1, "f30f1efa55"); // endbr64; push rbp
        check_entry(Arch::Arm64, Probed::Newproc1, "410000580a000094"); // ldr x1, literal; bl
        check_entry(Arch::Arm64, Probed::Goexit0, "");
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let code: [u8; CODE_BYTES] = core::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            });
            for arch in [Arch::Amd64, Arch::Arm64] {
                let point = find(arch, Probed::Newproc1, &code);
                assert!(usize::try_from(point.offset).unwrap() < CODE_BYTES);
            }
        }
    }
}
