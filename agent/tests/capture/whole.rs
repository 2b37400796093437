//! Reads whole structs where the engine reads fields: a capture is then good for fields that are read later.

use std::collections::BTreeSet;

use glg_engine::elf::Elf;
use glg_engine::memory::{Addr, Error, Image, Memory};
use glg_engine::runtime::Runtime;

/// Bytes of one stack that are read at most.
const STACK_MAX: u64 = 1 << 20;
/// Sudogs of one goroutine: a select has one for each case.
const SUDOGS_MAX: usize = 64;

/// Reads the program's variables, every `g` with its stack and what it waits on, every m and every P.
pub(crate) fn read(runtime: &Runtime, memory: &mut dyn Memory, image: &mut dyn Image) -> Result<(), Error> {
    for load in Elf::parse(image)?.loads.iter().filter(|load| load.writable) {
        Reader(memory).bytes(load.va.biased(runtime.bias).0, load.memory_len)?;
    }
    let (mut reader, layout) = (Reader(memory), runtime.layout);
    let mut threads = BTreeSet::new();
    if let Some(allm) = runtime.globals.allm {
        threads.insert(reader.word(allm.0, 0)?);
    }
    for p in reader.pointers(runtime.globals.allp)? {
        reader.bytes(p, layout.p.size.into())?;
        threads.insert(reader.word(p, layout.p.m)?);
    }
    for g in reader.pointers(runtime.globals.allgs)? {
        reader.goroutine(runtime, g)?;
        threads.extend([reader.word(g, layout.g.m)?, reader.word(g, layout.g.lockedm)?]);
    }
    // Each m leads to those that are older.
    let mut next: Vec<u64> = threads.iter().copied().filter(|m| *m != 0).collect();
    let mut seen = BTreeSet::new();
    while let Some(m) = next.pop() {
        if m == 0 || !seen.insert(m) {
            continue;
        }
        reader.bytes(m, layout.m.size.into())?;
        for g in [layout.m.g0, layout.m.curg] {
            let g = reader.word(m, g)?;
            if g != 0 {
                reader.bytes(g, layout.g.size.into())?;
            }
        }
        next.push(reader.word(m, layout.m.alllink)?);
    }
    Ok(())
}

/// Reads for the sake of reading.
struct Reader<'m>(&'m mut dyn Memory);

impl Reader<'_> {
    fn bytes(&mut self, at: u64, len: u64) -> Result<(), Error> {
        self.0.read(Addr(at), &mut vec![0; usize::try_from(len).unwrap()])
    }

    fn word(&mut self, at: u64, offset: u16) -> Result<u64, Error> {
        let mut word = [0; 8];
        self.0.read(Addr(at).plus(offset.into())?, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// The elements of a slice of pointers.
    fn pointers(&mut self, slice: Addr) -> Result<Vec<u64>, Error> {
        let (array, len) = (self.word(slice.0, 0)?, self.word(slice.0, 8)?);
        (0..len).map(|i| self.word(array + 8 * i, 0)).collect()
    }

    fn goroutine(&mut self, runtime: &Runtime, g: u64) -> Result<(), Error> {
        let layout = runtime.layout;
        self.bytes(g, layout.g.size.into())?;
        let hi = self.word(g, layout.g.stack_hi)?;
        for sp in [self.word(g, layout.g.sched_sp)?, self.word(g, layout.g.syscallsp)?] {
            if sp != 0 && sp < hi {
                self.bytes(sp, (hi - sp).min(STACK_MAX))?;
            }
        }
        let mut sudog = self.word(g, layout.g.waiting)?;
        for _ in 0..SUDOGS_MAX {
            if sudog == 0 {
                break;
            }
            self.bytes(sudog, layout.sudog.size.into())?;
            let channel = self.word(sudog, layout.sudog.c)?;
            if channel != 0 {
                self.bytes(channel, layout.hchan.size.into())?;
            }
            sudog = self.word(sudog, layout.sudog.waitlink)?;
        }
        Ok(())
    }
}
