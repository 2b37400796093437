//! How to get from a frame to its caller's: the rules of `.eh_frame`, read with gimli, and carried out on the
//! registers that are known. From outside only two are known at first, so each may be absent.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, Encoding, EndianSlice, Expression, Format, LittleEndian, Operation,
    Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection,
    UnwindTableRow, Vendor,
};
use glg_engine::layout::Arch;
use glg_engine::memory::Va;

use super::module::Bounds;

/// Registers that an unwinder knows by number: the general ones of both processors.
pub(super) const REGISTERS: usize = 32;
/// Values on the stack of an expression; those of compilers need three.
const VALUES_MAX: usize = 8;
/// Operations of an expression.
const OPERATIONS_MAX: usize = 64;
/// How addresses are written in almost every file: 4 bytes, relative to where they stand. Else 8 bytes.
const PC_RELATIVE_4: u8 = 0x1b;
const PC_RELATIVE_8: u8 = 0x1c;
const ABSOLUTE: u8 = 0x00;
const ABSOLUTE_8: u8 = 0x04;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Numbers of the registers with a role (System V ABI for amd64, figure 3.36; DWARF for the Arm 64-bit
/// architecture, 4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    /// Stack pointer.
    pub(super) sp: u16,
    /// Frame pointer.
    pub(super) fp: u16,
    /// Where the return address is; on amd64 a column that stands for no register, here the address itself.
    pub(super) ra: u16,
}

/// The roles on a processor.
pub(super) fn roles(arch: Arch) -> Roles {
    match arch {
        Arch::Amd64 => Roles { sp: 7, fp: 6, ra: 16 },
        Arch::Arm64 => Roles { sp: 31, fp: 29, ra: 30 },
    }
}

/// Whether a function leaves a register as it finds it, unless its rules say otherwise.
fn is_kept(arch: Arch, register: u16) -> bool {
    match arch {
        Arch::Amd64 => matches!(register, 3 | 6 | 12..=15),
        Arch::Arm64 => matches!(register, 19..=30),
    }
}

/// Values of registers, as far as they are known.
pub(super) type Registers = [Option<u64>; REGISTERS];

/// Room for rules: a function of arm64 that saves all it may has 21.
struct Fixed;

impl UnwindContextStorage<usize> for Fixed {
    type Rules = [(Register, RegisterRule<usize>); 40];
    type Stack = [UnwindTableRow<usize, Fixed>; 4];
}

/// What holds at one address of a function.
pub(super) struct Rules {
    /// The function.
    pub(super) bounds: Bounds,
    /// Whether it is what a signal handler returns to: its caller was interrupted, not calling.
    pub(super) is_signal: bool,
    arch: Arch,
    /// What it has in common with others, and its own: expressions are kept as places in it.
    bytes: Vec<u8>,
    row: UnwindTableRow<usize, Fixed>,
}

impl Rules {
    /// Reads the rules for `va` from an entry that is at `at`, and from the one that it refers to.
    pub(super) fn parse(cie: Vec<u8>, fde: &[u8], at: Va, va: Va, arch: Arch) -> Option<Rules> {
        let mut bytes = cie;
        let common = u32::try_from(bytes.len()).ok()?;
        bytes.extend_from_slice(fde);
        // Side by side now: the second refers back to the beginning.
        let pointer = usize::try_from(common + 4).ok()?;
        bytes.get_mut(pointer..pointer + 4)?.copy_from_slice(&(common + 4).to_le_bytes());
        let bases = BaseAddresses::default().set_eh_frame(at.0.wrapping_sub(u64::from(common)));
        let mut context = Box::new(UnwindContext::<usize, Fixed>::new_in());
        let section = section(&bytes, arch);
        let offset = usize::try_from(common).ok()?.into();
        let fde = section.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).ok()?;
        let bounds = Bounds { start: Va(fde.initial_address()), end: Va(fde.end_address()) };
        let row = fde.unwind_info_for_address(&section, &bases, &mut context, va.0).ok()?.clone();
        let is_signal = fde.is_signal_trampoline();
        (fde.cie().return_address_register().0 == roles(arch).ra).then_some(())?;
        Some(Rules { bounds, is_signal, arch, bytes, row })
    }

    /// The address of the frame: where the stack pointer was before the call.
    pub(super) fn frame(&self, registers: &Registers, word: Word<'_>) -> Option<u64> {
        match self.row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Some(value(registers, *register)?.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None, registers, word),
        }
    }

    /// How far from the frame's address a register is saved.
    pub(super) fn saved(&self, register: u16) -> Option<i64> {
        match self.row.register(Register(register)) {
            Some(RegisterRule::Offset(offset)) => Some(offset),
            _ => None,
        }
    }

    /// Whether the rules say that a register has no value: that of the return address where a thread begins.
    pub(super) fn is_undefined(&self, register: u16) -> bool {
        matches!(self.row.register(Register(register)), Some(RegisterRule::Undefined))
    }

    /// The caller's registers, the return address among them.
    pub(super) fn caller(&self, frame: u64, registers: &Registers, word: Word<'_>) -> Registers {
        let mut caller = [None; REGISTERS];
        for (number, slot) in (0u16..).zip(&mut caller) {
            *slot = match self.row.register(Register(number)) {
                None if is_kept(self.arch, number) => value(registers, Register(number)),
                Some(RegisterRule::SameValue) => value(registers, Register(number)),
                Some(RegisterRule::Offset(offset)) => word(frame.wrapping_add_signed(offset)),
                Some(RegisterRule::ValOffset(offset)) => Some(frame.wrapping_add_signed(offset)),
                Some(RegisterRule::Register(other)) => value(registers, other),
                Some(RegisterRule::Expression(at)) => {
                    self.evaluate(&at, Some(frame), registers, word).and_then(word)
                }
                Some(RegisterRule::ValExpression(of)) => self.evaluate(&of, Some(frame), registers, word),
                _ => None,
            };
        }
        let sp = caller.get_mut(usize::from(roles(self.arch).sp));
        // A signal's frame says where it was; of all others the frame's address is by definition what it was.
        if let Some(sp) = sp.filter(|sp| sp.is_none() || !self.is_signal) {
            *sp = Some(frame);
        }
        caller
    }

    /// Computes an expression (DWARF 5, 6.4.2.3). No jumps: no compiler makes any here, and so it ends.
    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        first: Option<u64>,
        registers: &Registers,
        word: Word<'_>,
    ) -> Option<u64> {
        let Expression(bytes) = expression.get(&section(&self.bytes, self.arch)).ok()?;
        let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
        let mut operations = Expression(bytes).operations(encoding);
        let mut values = heapless::Vec::<u64, VALUES_MAX>::new();
        values.extend(first);
        for _ in 0..OPERATIONS_MAX {
            let Some(operation) = operations.next().ok()? else { return values.pop() };
            let result = match operation {
                Operation::RegisterOffset { register, offset, .. } => {
                    value(registers, register)?.wrapping_add_signed(offset)
                }
                Operation::UnsignedConstant { value } => value,
                Operation::SignedConstant { value } => value.cast_unsigned(),
                Operation::Deref { size: 8, space: false, .. } => word(values.pop()?)?,
                Operation::PlusConstant { value } => values.pop()?.wrapping_add(value),
                Operation::Nop => continue,
                binary => {
                    let (right, left) = (values.pop()?, values.pop()?);
                    of_two(&binary, left, right)?
                }
            };
            values.push(result).ok()?;
        }
        None
    }
}

/// Reads a word of the stack.
pub(super) type Word<'a> = &'a dyn Fn(u64) -> Option<u64>;

fn of_two(operation: &Operation<Slice<'_>>, left: u64, right: u64) -> Option<u64> {
    let (l, r) = (left.cast_signed(), right.cast_signed());
    let shift = u32::try_from(right).unwrap_or(u32::MAX);
    Some(match operation {
        Operation::Plus => left.wrapping_add(right),
        Operation::Minus => left.wrapping_sub(right),
        Operation::Mul => left.wrapping_mul(right),
        Operation::And => left & right,
        Operation::Or => left | right,
        Operation::Xor => left ^ right,
        Operation::Shl => left.checked_shl(shift).unwrap_or(0),
        Operation::Shr => left.checked_shr(shift).unwrap_or(0),
        Operation::Eq => u64::from(left == right),
        Operation::Ne => u64::from(left != right),
        Operation::Ge => u64::from(l >= r),
        Operation::Gt => u64::from(l > r),
        Operation::Le => u64::from(l <= r),
        Operation::Lt => u64::from(l < r),
        _ => return None,
    })
}

fn value(registers: &Registers, register: Register) -> Option<u64> {
    *registers.get(usize::from(register.0))?
}

fn section(bytes: &[u8], arch: Arch) -> EhFrame<Slice<'_>> {
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    if arch == Arch::Arm64 {
        section.set_vendor(Vendor::AArch64);
    }
    section
}

/// How addresses are written in the entries that refer to this one.
pub(super) fn encoding(cie: &[u8]) -> Option<u8> {
    let section = EhFrame::new(cie, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(0).set_text(0).set_got(0);
    let cie = section.cie_from_offset(&bases, 0.into()).ok()?;
    Some(cie.fde_address_encoding().map_or(0, |encoding| encoding.0))
}

/// The bounds of the function whose entry, at `at`, begins with these bytes.
pub(super) fn bounds(fde: &[u8], at: Va, encoding: u8) -> Option<Bounds> {
    let part = |from: usize| fde.get(from..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let (first, second) = (part(8)?, part(16));
    // The address field comes after the length and the pointer.
    let field = at.0.wrapping_add(8);
    let (start, len) = match encoding {
        PC_RELATIVE_4 => {
            let [a, b, c, d, ..] = first.to_le_bytes();
            let relative = i32::from_le_bytes([a, b, c, d]);
            (field.wrapping_add_signed(relative.into()), first >> 32)
        }
        PC_RELATIVE_8 => (field.wrapping_add(first), second?),
        ABSOLUTE | ABSOLUTE_8 => (first, second?),
        _ => return None,
    };
    Some(Bounds { start: Va(start), end: Va(start.checked_add(len)?) })
}
