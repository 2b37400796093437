//! The few instructions that say who called whom: calls, jumps from one function into another, and the stubs
//! through which both go into libraries. Whatever else the bytes are, they are not understood.

use glg_engine::layout::Arch;

/// Bytes before a return address that a call may take.
pub(super) const CALL_MAX: usize = 8;
/// Bytes of a stub that are looked at.
pub(super) const STUB_LEN: usize = 20;
/// Bytes at the beginning of a function that are looked at.
pub(super) const PROLOGUE_LEN: usize = 32;

/// Where control goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To this address.
    At(u64),
    /// To the address that stands there.
    In(u64),
    /// To where only a register or the stack says.
    Anywhere,
}

/// The call that ends at `ra`, where `before` are the bytes up to there.
pub(super) fn call(arch: Arch, before: &[u8; CALL_MAX], ra: u64) -> Option<Target> {
    match arch {
        Arch::Amd64 => call_amd64(before, ra),
        Arch::Arm64 => {
            let [.., a, b, c, d] = *before;
            let instruction = u32::from_le_bytes([a, b, c, d]);
            if instruction >> 26 == 0b10_0101 {
                return Some(Target::At(branch(instruction, ra.wrapping_sub(4))));
            }
            // blr, and those that check the address first.
            (instruction & 0xfeff_f000 == 0xd63f_0000).then_some(Target::Anywhere)
        }
    }
}

fn call_amd64(before: &[u8; CALL_MAX], ra: u64) -> Option<Target> {
    let relative = |bytes: [u8; 4]| ra.wrapping_add_signed(i32::from_le_bytes(bytes).into());
    match *before {
        [_, _, _, 0xe8, a, b, c, d] => Some(Target::At(relative([a, b, c, d]))),
        [_, _, 0xff, 0x15, a, b, c, d] => Some(Target::In(relative([a, b, c, d]))),
        // call *register; *(register), with and without an index and an offset of 1 or 4 bytes.
        [.., 0xff, 0xd0..=0xd7 | 0x10..=0x13 | 0x16 | 0x17]
        | [.., 0xff, 0x50..=0x53 | 0x55..=0x57, _]
        | [.., 0xff, 0x14, _]
        | [.., 0xff, 0x54, _, _]
        | [_, _, 0xff, 0x90..=0x93 | 0x95..=0x97, ..]
        | [_, 0xff, 0x94, ..] => Some(Target::Anywhere),
        _ => None,
    }
}

/// The addresses that code at `at` jumps to, as far as these stand in the instructions. On amd64 any byte may
/// begin one: the caller has to know which addresses make sense.
pub(super) fn jumps(arch: Arch, code: &[u8], at: u64) -> impl Iterator<Item = Target> {
    let (step, len) = match arch {
        Arch::Amd64 => (1, 6),
        Arch::Arm64 => (4, 4),
    };
    let places = (0u64..).step_by(step).zip((0..code.len()).step_by(step));
    places.filter_map(move |(offset, from)| {
        let bytes = code.get(from..from + len).or_else(|| code.get(from..))?;
        jump(arch, bytes, at.wrapping_add(offset))
    })
}

fn jump(arch: Arch, bytes: &[u8], at: u64) -> Option<Target> {
    let relative =
        |end: u64, bytes: [u8; 4]| at.wrapping_add(end).wrapping_add_signed(i32::from_le_bytes(bytes).into());
    match (arch, bytes) {
        // jmp, twice; jcc; jmp *offset(%rip).
        (Arch::Amd64, &[0xeb, a, ..]) => {
            Some(Target::At(at.wrapping_add(2).wrapping_add_signed(a.cast_signed().into())))
        }
        (Arch::Amd64, &[0xe9, a, b, c, d, ..]) => Some(Target::At(relative(5, [a, b, c, d]))),
        (Arch::Amd64, &[0x0f, 0x80..=0x8f, a, b, c, d]) => Some(Target::At(relative(6, [a, b, c, d]))),
        (Arch::Amd64, &[0xff, 0x25, a, b, c, d]) => Some(Target::In(relative(6, [a, b, c, d]))),
        (Arch::Arm64, &[a, b, c, d]) => {
            let instruction = u32::from_le_bytes([a, b, c, d]);
            (instruction >> 26 == 0b00_0101).then(|| Target::At(branch(instruction, at)))
        }
        _ => None,
    }
}

/// The word that a stub at `at` takes its target from: what the linkers write into `.plt` and `.plt.sec`.
pub(super) fn stub(arch: Arch, code: &[u8; STUB_LEN], at: u64) -> Option<u64> {
    match arch {
        Arch::Amd64 => {
            // endbr64, then bnd: both may be there.
            let from = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
            let from = if code.get(from) == Some(&0xf2) { from + 1 } else { from };
            let [0xff, 0x25, a, b, c, d] = *code.get(from..)?.first_chunk()? else { return None };
            let end = at.checked_add(u64::try_from(from).ok()? + 6)?;
            Some(end.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into()))
        }
        Arch::Arm64 => {
            let mut words = code.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
            let (mut page, mut at) = (words.next()?, at);
            // bti c.
            if page == 0xd503_245f {
                (page, at) = (words.next()?, at.wrapping_add(4));
            }
            let load = words.next()?;
            // adrp x16; ldr x17, [x16, #offset].
            if page & 0x9f00_001f != 0x9000_0010 || load & 0xffc0_03ff != 0xf940_0211 {
                return None;
            }
            let pages = ((page >> 5 & 0x7_ffff) << 2 | page >> 29 & 3) << 11;
            let base = (at & !0xfff).wrapping_add_signed(i64::from(pages.cast_signed() >> 11) << 12);
            Some(base.wrapping_add(u64::from(load >> 10 & 0xfff) * 8))
        }
    }
}

/// Whether the thread ends there, as one does that has no more to do: `exit`, 60 on amd64, 93 on arm64. So does
/// musl's `__clone`, which says nothing of itself.
pub(super) fn is_exit(arch: Arch, code: &[u8; STUB_LEN]) -> bool {
    match arch {
        Arch::Amd64 => code.windows(4).take(8).any(|part| part == [0xb0, 60, 0x0f, 0x05]),
        Arch::Arm64 => code.starts_with(&[0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]),
    }
}

/// How far above the stack pointer a function keeps its return address that begins so, as compilers begin it
/// without optimisation: `push %rbp; mov %rsp,%rbp`, more pushes, `sub $size,%rsp`. It holds where nothing was
/// pushed for a call, and nothing of variable size was taken.
pub(super) fn frame_size(prologue: &[u8; PROLOGUE_LEN]) -> Option<u64> {
    let rest = prologue.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(prologue);
    let mut rest = rest.strip_prefix(&[0x55, 0x48, 0x89, 0xe5])?;
    let mut saved = 8;
    while let [0x41, 0x54..=0x57, more @ ..] | [0x53, more @ ..] = rest {
        (rest, saved) = (more, saved + 8);
    }
    let locals = match *rest {
        [0x48, 0x83, 0xec, size, ..] => u64::from(size & 0x7f),
        [0x48, 0x81, 0xec, a, b, c, d, ..] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => 0,
    };
    Some(saved + locals)
}

/// Whether this is where the handler of a signal returns to: the system call `rt_sigreturn`, whose number the
/// code sets before (15 on amd64, 139 on arm64).
pub(super) fn is_sigreturn(arch: Arch, code: &[u8; STUB_LEN]) -> bool {
    code.starts_with(match arch {
        Arch::Amd64 => &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05],
        Arch::Arm64 => &[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4],
    })
}

/// Target of an arm64 `b` or `bl` at `at`: 26 bits, in instructions.
fn branch(instruction: u32, at: u64) -> u64 {
    at.wrapping_add_signed(i64::from((instruction << 6).cast_signed() >> 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_amd64() {
        let call = |bytes: &[u8]| {
            let mut before = [0x90; CALL_MAX];
            before[CALL_MAX - bytes.len()..].copy_from_slice(bytes);
            call(Arch::Amd64, &before, 0x40_1000)
        };
        assert_eq!(call(&[0xe8, 0xfb, 0xff, 0xff, 0xff]), Some(Target::At(0x40_0ffb)));
        assert_eq!(call(&[0xff, 0x15, 0x10, 0, 0, 0]), Some(Target::In(0x40_1010)));
        // call *%rax; *%r12; *0x18(%rax); *(%rsp); *8(%rsp); *0x100(%rax); *0x100(%rax,%rax,8).
        for bytes in [
            &[0xff, 0xd0][..],
            &[0x41, 0xff, 0xd4],
            &[0xff, 0x50, 0x18],
            &[0xff, 0x14, 0x24],
            &[0xff, 0x54, 0x24, 8],
            &[0xff, 0x90, 0, 1, 0, 0],
            &[0xff, 0x94, 0xc0, 0, 1, 0, 0],
        ] {
            assert_eq!(call(bytes), Some(Target::Anywhere), "{bytes:x?}");
        }
        assert_eq!(call(&[]), None);
    }

    #[test]
    fn jumps_of_amd64() {
        let code = [0x90, 0xe9, 1, 0, 0, 0, 0x0f, 0x84, 2, 0, 0, 0, 0xff, 0x25, 3, 0, 0, 0, 0xeb, 0xfe, 0xe9];
        let found: Vec<Target> = jumps(Arch::Amd64, &code, 0x1000).collect();
        assert_eq!(
            found,
            [0x1007, 0x100e]
                .map(Target::At)
                .into_iter()
                .chain([Target::In(0x1015), Target::At(0x1012)])
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn stubs_of_amd64() {
        let stub = |bytes: &[u8]| {
            let mut code = [0x90; STUB_LEN];
            code[..bytes.len()].copy_from_slice(bytes);
            stub(Arch::Amd64, &code, 0x1000)
        };
        assert_eq!(stub(&[0xff, 0x25, 0x10, 0, 0, 0]), Some(0x1016));
        assert_eq!(stub(&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0x10, 0, 0, 0]), Some(0x101a));
        assert_eq!(stub(&[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0x10, 0, 0, 0]), Some(0x101b));
        assert_eq!(stub(&[0x55]), None);
    }

    #[test]
    fn frames_of_amd64_without_optimisation() {
        let size = |bytes: &[u8]| {
            let mut code = [0x90; PROLOGUE_LEN];
            code[..bytes.len()].copy_from_slice(bytes);
            frame_size(&code)
        };
        assert_eq!(size(&[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20]), Some(0x28));
        let guarded =
            [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x41, 0x54, 0x53, 0x48, 0x81, 0xec, 0, 1, 0, 0];
        assert_eq!(size(&guarded), Some(0x118));
        assert_eq!(size(&[0x55, 0x48, 0x89, 0xe5]), Some(8));
        assert_eq!(size(&[0x53]), None);
    }

    #[test]
    fn arm64() {
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let call = |word: u32| call(Arch::Arm64, bytes(&[0, word])[..].try_into().unwrap(), 0x40_1004);
        // bl .-4; bl .+8; blr x3; blraa x3, x4; b .
        assert_eq!(call(0x97ff_ffff), Some(Target::At(0x40_0ffc)));
        assert_eq!(call(0x9400_0002), Some(Target::At(0x40_1008)));
        assert_eq!(call(0xd63f_0060), Some(Target::Anywhere));
        assert_eq!(call(0xd73f_0864), Some(Target::Anywhere));
        assert_eq!(call(0x1400_0000), None);
        let found: Vec<Target> = jumps(Arch::Arm64, &bytes(&[0xd503_201f, 0x17ff_fffe]), 0x1000).collect();
        assert_eq!(found, [Target::At(0xffc)]);
        // adrp x16, .+0x1f000; ldr x17, [x16, #0xfb0]; add x16, x16, #0xfb0; br x17, with and without bti c.
        let plt = [0xf000_00f0, 0xf947_da11, 0x913e_c210, 0xd61f_0220, 0xd503_201f];
        assert_eq!(stub(Arch::Arm64, bytes(&plt)[..].try_into().unwrap(), 0x670), Some(0x1_ffb0));
        let bti = [0xd503_245f, plt[0], plt[1], plt[2], plt[3]];
        assert_eq!(stub(Arch::Arm64, bytes(&bti)[..].try_into().unwrap(), 0x670), Some(0x1_ffb0));
        assert_eq!(stub(Arch::Arm64, &[0; STUB_LEN], 0x670), None);
    }
}
