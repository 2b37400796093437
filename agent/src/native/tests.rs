//! Damaged files and stacks: whatever they say, there is an end, and no panic.

use std::fs::File;

use glg_engine::memory::{Image, Run, Va};

use super::cfi::{REGISTERS, Registers};
use super::module::Module;
use super::symbols::Wanted;
use super::*;
use crate::remote::ImageFile;

const ARCH: Arch = if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 };

/// The same numbers every time (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// This program's file, of which one byte in `rate` is another one.
struct Damaged {
    file: ImageFile,
    seed: u64,
    rate: u64,
}

impl Image for Damaged {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_at(offset, out)?;
        // The header is whole: what is no ELF file is soon told.
        for (at, byte) in (offset..).zip(out.iter_mut()).filter(|(at, _)| *at >= 64) {
            let mut random = Random::new(at ^ self.seed.rotate_left(32));
            random.next();
            if random.below(self.rate) == 0 {
                *byte = random.next().to_le_bytes()[0];
            }
        }
        Ok(())
    }
}

#[test]
fn damaged_files() {
    let (mut opened, mut ruled, mut framed) = (0, 0, 0);
    for seed in 0..400 {
        let file = ImageFile(File::open("/proc/self/exe").unwrap());
        let image = Damaged { file, seed, rate: [40, 300, 2000, 100_000][(seed % 4) as usize] };
        let Some(mut module) = Module::open(image, ARCH) else { continue };
        opened += 1;
        let mut random = Random::new(seed);
        for _ in 0..20 {
            let loads: Vec<_> = module.elf().loads.iter().filter(|load| load.executable).cloned().collect();
            let Some(load) = loads.first().filter(|load| load.memory_len > 0) else { break };
            let va = Va(load.va.0.wrapping_add(random.below(load.memory_len)));
            module.bounds(va);
            let Some(rules) = module.rules(va) else { continue };
            ruled += 1;
            let registers: Registers =
                [(); REGISTERS].map(|()| Some(random.next()).filter(|word| word % 3 > 0));
            let word = |at: u64| Some(at.wrapping_mul(3));
            if let Some(frame) = rules.frame(&registers, &word) {
                framed += 1;
                rules.caller(frame, &registers, &word);
            }
        }
        if seed % 40 == 0 {
            let mut wanted = [Wanted { va: Va(random.next()), start: None, name: None }];
            symbols::fill(&mut module, &mut wanted);
            symbols::bounds(&mut module, Va(random.next()));
        }
    }
    assert!(opened > 100 && ruled > 1000 && framed > 500, "{opened} {ruled} {framed}");
}

/// A stack of rubbish, and of addresses of code, in every thinkable order.
struct Rubbish {
    random: Random,
    code: Vec<(u64, u64)>,
}

impl Rubbish {
    fn code(&mut self) -> u64 {
        let which = usize::try_from(self.random.below(self.code.len() as u64)).unwrap();
        let (start, end) = self.code[which];
        start + self.random.below(end - start)
    }
}

impl Memory for Rubbish {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        if self.random.below(50) == 0 {
            return Err(Error::Unreadable { at: 0 });
        }
        let at = runs[0].at.0;
        for (index, word) in out.chunks_mut(8).enumerate() {
            let value = match self.random.below(16) {
                0..=10 => self.code(),
                11 | 12 => at.wrapping_add(index as u64 * 8 + self.random.below(256)),
                13 => self.random.next(),
                14 => self.random.below(64),
                _ => u64::MAX - self.random.below(64),
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
        Ok(())
    }
}

#[test]
fn damaged_stacks() {
    let pid = std::process::id();
    let code = maps::read(pid).unwrap().iter().map(|mapping| (mapping.start, mapping.end)).collect();
    let mut memory = Rubbish { random: Random::new(1), code };
    let mut native = Native::new(pid, ARCH);
    let (mut frames, mut most) = (Vec::new(), 0);
    for round in 0..1000 {
        let pc = memory.code();
        let sp = match round % 5 {
            0 => memory.random.next(),
            1 => u64::MAX - memory.random.below(1 << 17),
            _ => 0x7fff_0000_0000 + memory.random.below(1 << 16) * 8,
        };
        let some = |random: &mut Random| Some(Addr(random.next())).filter(|addr| addr.0 % 2 == 0);
        let (fp, lr) = (some(&mut memory.random), some(&mut memory.random));
        let g0_sp = Some(Addr(sp.wrapping_add(memory.random.below(4096)))).filter(|addr| addr.0 % 3 == 0);
        let is_go = |pc: Addr| pc.0.is_multiple_of(7);
        let beneath = Beneath { is_go: &is_go, g0_sp, g_sp: g0_sp };
        let start = Start { pc: Addr(pc), sp: Addr(sp), fp, lr };
        let _ = native.stack(&mut memory, start, &beneath, &mut frames);
        assert!(frames.len() <= FRAMES_MAX);
        most = most.max(frames.len());
    }
    // Where this process's own code lies differs from run to run, and with it how far a stack of rubbish leads.
    assert!(most > 1, "{most}");
}
