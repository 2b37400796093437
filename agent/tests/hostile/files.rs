//! Files that only pretend to be Go programs: real ones, damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use glg_engine::memory::{Addr, Error, Image, Va};
use glg_engine::runtime::Runtime;
use glg_proto::wire::Wait;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol};

use super::Random;
use super::common::{GO, PATIENCE, program};

/// No file of two megabytes needs more: the symbol and string tables once, then a few pages.
const BYTES_MAX: u64 = 32 << 20;
const READS_MAX: u64 = 200_000;

/// Where in a program's file the things are that a reader looks at: (offset, length).
pub(crate) struct Layout {
    entry: u64,
    buildinfo: (u64, u64),
    pclntab: (u64, u64),
    symtab: (u64, u64),
    strtab: (u64, u64),
    /// Program text, read-only and writable data, as addresses.
    pub(crate) loaded: Vec<u64>,
    /// Section headers.
    headers: (u64, u64),
    names: Vec<String>,
    /// Return addresses of calls, more or less: inside of functions of the program.
    code: Vec<u64>,
}

impl Layout {
    pub(crate) fn of(file: &[u8]) -> Layout {
        let elf = ElfFile64::<Endianness>::parse(file).unwrap();
        let section = |name| elf.section_by_name(name).unwrap().file_range().unwrap();
        let address = |name| elf.section_by_name(name).unwrap().address();
        let header = elf.elf_header();
        let little = Endianness::Little;
        let count = u64::from(header.e_shnum.get(little));
        let mains = elf.symbols().filter(|s| s.name().is_ok_and(|name| name.starts_with("main.")));
        Layout {
            entry: elf.entry(),
            buildinfo: section(".go.buildinfo"),
            pclntab: section(".gopclntab"),
            symtab: section(".symtab"),
            strtab: section(".strtab"),
            loaded: [".text", ".rodata", ".noptrdata", ".data", ".bss"].map(address).to_vec(),
            headers: (header.e_shoff.get(little), count * 64),
            names: elf.sections().map(|s| s.name().unwrap().to_owned()).collect(),
            code: mains.filter(|s| s.size() > 8).take(8).map(|s| s.address() + 8).collect(),
        }
    }

    /// Offset of a field in the section header of `name` (elf(5): the first header is empty).
    fn header_field(&self, name: &str, field: u64) -> u64 {
        let index = self.names.iter().position(|n| n == name).unwrap() as u64 + 1;
        self.headers.0 + index * 64 + field
    }
}

/// Damage to a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patch {
    /// Its length then.
    cut: Option<u64>,
    /// Bytes at offsets.
    bytes: Vec<(u64, Vec<u8>)>,
}

impl Patch {
    fn at(offset: u64, bytes: &[u8]) -> Patch {
        Patch { cut: None, bytes: vec![(offset, bytes.to_vec())] }
    }

    fn cut(length: u64) -> Patch {
        Patch { cut: Some(length), bytes: Vec::new() }
    }

    /// The damaged file.
    pub(crate) fn apply(&self, file: &[u8]) -> Vec<u8> {
        let mut file = file.to_vec();
        for (offset, bytes) in &self.bytes {
            let offset = usize::try_from(*offset).unwrap();
            let end = (offset + bytes.len()).min(file.len());
            file[offset..end].copy_from_slice(&bytes[..end - offset]);
        }
        file.truncate(self.cut.map_or(file.len(), |length| usize::try_from(length).unwrap()));
        file
    }
}

/// Where the symbol table says that something is: its value there replaced (`st_value`, elf(5)).
pub(crate) fn moved_symbol(file: &[u8], layout: &Layout, name: &str, value: u64) -> Patch {
    let elf = ElfFile64::<Endianness>::parse(file).unwrap();
    let index = elf.symbols().find(|s| s.name() == Ok(name)).unwrap().index().0 as u64;
    Patch::at(layout.symtab.0 + index * 24 + 8, &value.to_le_bytes())
}

/// A damaged program that still runs, and what the agent has to say of it.
pub(crate) struct Pretender {
    pub(crate) name: &'static str,
    pub(crate) patch: Patch,
    pub(crate) says: &'static str,
}

/// The kernel and the Go runtime look at none of these places.
pub(crate) fn pretenders(layout: &Layout) -> Vec<Pretender> {
    let pretender =
        |name, offset, bytes: &[u8], says| Pretender { name, patch: Patch::at(offset, bytes), says };
    let (offset, far) = (24, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let version = layout.buildinfo.0 + 32;
    vec![
        // e_shoff, e_shentsize, e_shnum (elf(5)).
        pretender("headers-far", 40, &far, "unreadable at 0x80000000000"),
        pretender("headers-odd", 58, &[63, 0], "malformed: section headers"),
        pretender("headers-many", 60, &[0xff, 0xfe], "malformed: section headers"),
        pretender("go-future", version, b"\x08go1.99.9", "unsupported: Go 1.99"),
        pretender("go-devel", version, b"\x08devel go", "program of a development version of Go"),
        pretender("go-rubbish", version, b"\xff\xff\xff\xff", "malformed: build information"),
        pretender("pclntab-far", layout.header_field(".gopclntab", offset), &far, "unreadable"),
        pretender("pclntab-text", layout.header_field(".gopclntab", offset), &[0; 8], "unknown format"),
    ]
}

/// Symbol tables that cannot be read: the program is read without them.
pub(crate) fn damaged_symbols(layout: &Layout) -> Vec<(&'static str, Patch)> {
    let (size, far) = (32, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    vec![
        ("symbols-none", Patch::at(layout.header_field(".symtab", 4), &[1])),
        ("symbols-empty", Patch::at(layout.header_field(".symtab", size), &[0; 8])),
        ("symbols-endless", Patch::at(layout.header_field(".symtab", size), &far)),
        ("strings-endless", Patch::at(layout.header_field(".strtab", size), &far)),
    ]
}

/// A file in memory, with a limit to what may be read.
struct Bounded {
    file: Vec<u8>,
    bytes: u64,
    reads: u64,
}

impl Image for Bounded {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.bytes += out.len() as u64;
        self.reads += 1;
        assert!(self.bytes <= BYTES_MAX && self.reads <= READS_MAX, "reads without end");
        let unreadable = Error::Unreadable { at: offset };
        let start = usize::try_from(offset).map_err(|_| unreadable)?;
        let end = start.checked_add(out.len()).ok_or(unreadable)?;
        out.copy_from_slice(self.file.get(start..end).ok_or(unreadable)?);
        Ok(())
    }
}

/// Everything the agent asks of a file. `true` when all of it was answered.
fn examine(file: Vec<u8>, layout: &Layout) -> Result<bool, Error> {
    let mut image = Bounded { file, bytes: 0, reads: 0 };
    let runtime = Runtime::open(&mut image, Addr(layout.entry))?;
    let mut answered = true;
    let odd = [0, 1, u64::MAX, layout.entry];
    for pc in layout.code.iter().copied().chain(odd) {
        answered &= runtime.creation(&mut image, Addr(pc)).is_ok() || odd.contains(&pc);
        answered &= runtime.is_system(&mut image, Addr(pc), Wait::ChanReceive).is_ok() || odd.contains(&pc);
        let _ = runtime.code(&mut image, Va(pc), &mut [0; 256]);
    }
    Ok(answered)
}

/// A few hundred damages of every kind, always the same.
fn damages(layout: &Layout, length: u64) -> Vec<Patch> {
    let mut all = Vec::new();
    for part in 0..100 {
        all.push(Patch::cut(length * part / 100));
    }
    let regions = [
        (0, 64),
        (0, 64 + 56 * 8),
        layout.headers,
        layout.buildinfo,
        layout.pclntab,
        layout.symtab,
        layout.strtab,
        (0, length),
    ];
    for (start, size) in regions {
        for edge in [start + 1, start + 33, start + size / 2, start + size - 1] {
            all.push(Patch::cut(edge));
        }
    }
    let mut random = Random(3);
    for round in 0..600 {
        let (start, size) = regions[round % regions.len()];
        let mut patch = Patch::default();
        for _ in 0..=random.below(3) {
            // What is at the beginning decides the most.
            let reach = if random.below(2) == 0 { size.min(128) } else { size };
            let offset = start + random.below(reach);
            let byte = match random.below(5) {
                0 => 0,
                1 => 0xff,
                2 => 0x7f,
                3 => 0x80,
                _ => u8::try_from(random.below(256)).unwrap(),
            };
            let count = usize::try_from(1 + random.below(8)).unwrap();
            patch.bytes.push((offset, vec![byte; count]));
        }
        all.push(patch);
    }
    all
}

#[test]
fn damaged_programs_give_an_error_or_a_value_in_bounded_time() {
    let sound = std::fs::read(program(GO, "kinds")).unwrap();
    let layout = Layout::of(&sound);
    assert_eq!(examine(sound.clone(), &layout), Ok(true), "the undamaged program is understood");
    let damages = damages(&layout, sound.len() as u64);
    let (mut refused, mut understood, mut slowest) = (0, 0, Duration::ZERO);
    for patch in &damages {
        let (file, began) = (patch.apply(&sound), Instant::now());
        match catch_unwind(AssertUnwindSafe(|| examine(file, &layout))) {
            Ok(Ok(true)) => understood += 1,
            Ok(Ok(false) | Err(_)) => refused += 1,
            Err(_) => panic!("panicked, see above, on {patch:x?}"),
        }
        slowest = slowest.max(began.elapsed());
    }
    println!(
        "{} damages: {refused} refused, {understood} without effect, slowest {slowest:?}",
        damages.len()
    );
    assert!(refused >= 200 && understood >= 50, "{refused} refused, {understood} without effect");
    assert!(slowest < PATIENCE, "{slowest:?}");
}
