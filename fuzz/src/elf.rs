//! An executable file, from its first byte to the names of its functions.

use glg_engine::elf::Elf;
use glg_engine::memory::{Addr, Va};
use glg_engine::runtime::Runtime;
use glg_proto::wire::Wait;

use crate::foreign::program::{ENTRY, TEXT};
use crate::foreign::{File, programs};

/// Any bytes are a program or an error; of a program everything can be asked.
///
/// # Panics
/// When the file offset of an address is outside of its segment.
pub fn check(data: &[u8]) {
    let mut file = File(data);
    let Ok(elf) = Elf::parse(&mut file) else { return };
    let names: [&[u8]; 3] = [b"runtime.text", b"runtime.sched", b"runtime.newproc1"];
    let _ = elf.symbols(&mut file, names);
    let _ = glg_engine::buildinfo::go_version(&elf, &mut file);
    for load in &elf.loads {
        for va in [load.va, Va(load.va.0.wrapping_add(load.file.len).wrapping_sub(1))] {
            if let Some(offset) = elf.file_offset(va) {
                let inside = |l: &glg_engine::elf::Load| offset.wrapping_sub(l.file.offset) < l.file.len;
                assert!(elf.loads.iter().any(inside), "{va:?} is at {offset:#x}");
            }
        }
    }
    for entry in [elf.entry.0, ENTRY.wrapping_add(0x5555_0000_0000), u64::MAX] {
        let Ok(runtime) = Runtime::open(&mut file, Addr(entry)) else { continue };
        for pc in (0..9).map(|i| Addr(runtime.bias.0.wrapping_add(TEXT + i * 0x93))) {
            let _ = runtime.creation(&mut file, pc);
            let _ = runtime.is_system(&mut file, pc, Wait::ChanReceive);
            let _ = runtime.code(&mut file, pc.unbiased(runtime.bias), &mut [0; 96]);
        }
    }
}

/// Whole programs.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    programs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = Mutator::new(&seeds, 1, 16 << 10);
        let (mut parsed, mut opened) = (0, 0);
        for _ in 0..3000 {
            let input = mutator.next_input();
            let Ok(elf) = Elf::parse(&mut File(&input)) else { continue };
            parsed += 1;
            opened += u32::from(Runtime::open(&mut File(&input), Addr(elf.entry.0)).is_ok());
        }
        assert!((300..2900).contains(&parsed), "{parsed} of 3000 inputs parse");
        assert!((100..2000).contains(&opened), "{opened} of 3000 inputs open");
    }
}
