//! The smallest file that the engine takes for a Go program: two segments, build information, a function
//! table, a symbol table; without section headers the same is found in instructions and in the data. Made by
//! hand, so that no compiler is needed; also a seed of the fuzz targets.

use glg_engine::layout::{Arch, Layout, layout_for};

/// `e_machine` of amd64.
pub const AMD64: u16 = 62;
/// `e_machine` of arm64.
pub const ARM64: u16 = 183;

/// Where the file is linked to.
pub const BASE: u64 = 0x40_0000;
/// First function; they follow each other, [`FUNCTION_LEN`] bytes each.
pub const TEXT: u64 = BASE + 0x1000;
/// Bytes of one function.
pub const FUNCTION_LEN: u64 = 0x100;
/// Bytes between two lines in a function.
pub const LINE_LEN: u64 = 0x10;
/// The writable segment, and where the runtime's variables are in it.
pub const DATA: u64 = 0x50_0000;
/// `runtime.allgs`.
pub const ALLGS: u64 = DATA + 0x100;
/// `runtime.allp`.
pub const ALLP: u64 = DATA + 0x120;
/// `runtime.sched`.
pub const SCHED: u64 = DATA + 0x140;
/// The file that all functions are in.
pub const FILE: &str = "/home/build/gateway/main.go";
/// Where the program begins to run.
pub const ENTRY: u64 = TEXT + 0x20;

/// Names of the functions and their first lines.
pub const FUNCTIONS: [(&str, u32); 11] = [
    ("runtime.newproc1", 100),
    ("runtime.goexit0", 200),
    ("runtime.main", 300),
    ("runtime.bgsweep", 400),
    ("runtime.allgadd", 500),
    ("runtime.schedinit", 600),
    ("runtime.procresize", 700),
    ("main.main", 10),
    ("main.(*Gateway).forward", 40),
    ("main.poll", 70),
    ("main.worker", 90),
];

/// Address of the function called `name`, 0 when there is none.
#[must_use]
pub fn function(name: &str) -> u64 {
    let index = FUNCTIONS.iter().position(|(known, _)| *known == name);
    index.map_or(0, |i| TEXT + i as u64 * FUNCTION_LEN)
}

/// What a program is made of.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// [`AMD64`] or [`ARM64`].
    pub machine: u16,
    /// Position-independent.
    pub pie: bool,
    /// Version string, such as `go1.24.11`.
    pub go: &'static str,
    /// Whether there are section headers.
    pub sections: bool,
}

impl Program {
    /// The file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0u8; usize::try_from(TEXT - BASE).unwrap_or(0)];
        let text = self.text();
        file.extend(&text);
        let mut table = |content: &[u8]| {
            file.resize(file.len().next_multiple_of(16), 0);
            let at = file.len() as u64;
            file.extend(content);
            (at, content.len() as u64)
        };
        let pclntab = table(&self.pclntab());
        let (symbols, strings) = symbols();
        let (symtab, strtab) = (table(&symbols), table(&strings));
        let data = [self.buildinfo(), self.moduledata(BASE + pclntab.0)].concat();
        let buildinfo = table(&data);
        const NAMES: &[u8] = b"\0.gopclntab\0.symtab\0.strtab\0.go.buildinfo\0.shstrtab\0";
        let names = table(NAMES);
        let name = |wanted: &[u8]| {
            let at = NAMES.windows(wanted.len()).position(|part| part == wanted);
            u32::try_from(at.unwrap_or(0)).unwrap_or(0)
        };
        let mut headers = vec![0u8; 64];
        headers.extend(section(name(b".gopclntab"), 1, BASE + pclntab.0, pclntab, 0));
        headers.extend(section(name(b".symtab"), 2, 0, symtab, 3));
        headers.extend(section(name(b".strtab"), 3, 0, strtab, 0));
        headers.extend(section(name(b".go.buildinfo"), 1, DATA, buildinfo, 0));
        headers.extend(section(name(b".shstrtab"), 3, 0, names, 0));
        let sections = if self.sections { (table(&headers).0, 6, 5) } else { (0, 0, 0) };
        let len = file.len() as u64;
        let mut head = self.file_header(sections);
        head.extend(segment(5, 0, BASE, len, len));
        head.extend(segment(6, buildinfo.0, DATA, buildinfo.1, 0x10000));
        for (byte, new) in file.iter_mut().zip(head) {
            *byte = new;
        }
        file
    }

    fn file_header(&self, (table, count, names): (u64, u16, u16)) -> Vec<u8> {
        let mut h = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let kind: u16 = if self.pie { 3 } else { 2 };
        h.extend([kind.to_le_bytes(), self.machine.to_le_bytes()].concat());
        h.extend(1u32.to_le_bytes());
        h.extend([ENTRY, 64, table].map(u64::to_le_bytes).concat());
        h.extend(0u32.to_le_bytes());
        h.extend([64u16, 56, 2, 64, count, names].map(u16::to_le_bytes).concat());
        h
    }

    /// Prologues as Go 1.22 and newer compile them, the rest no-ops.
    fn text(&self) -> Vec<u8> {
        let (newproc1, goexit0): (&[u8], &[u8]) = match self.machine {
            AMD64 => (
                b"\x49\x3b\x66\x10\x0f\x86\x93\x04\x00\x00\x55\x48\x89\xe5\x48\x83\xec\x50",
                b"\x49\x3b\x66\x10\x76\x18\x55\x48\x89\xe5\x48\x83\xec\x08",
            ),
            _ => (
                b"\x90\x0b\x40\xf9\xff\x63\x30\xeb\x49\x26\x00\x54\xfe\x0f\x1a\xf8\xfd\x83\x1f\xf8\xfd\x23\x00\xd1\xe0\x37\x00\xf9\xe1\x3b\x00\xf9\xe2\x3f\x00\xf9\xa0\x00\x00\xb5",
                b"\x90\x0b\x40\xf9\xff\x63\x30\xeb\x29\x01\x00\x54\xfe\x0f\x1e\xf8\xfd\x83\x1f\xf8\xfd\x23\x00\xd1\x0a\x00\x00\x94",
            ),
        };
        let len = usize::try_from(FUNCTION_LEN).unwrap_or(0);
        let mut text = Vec::new();
        for (i, (name, _)) in FUNCTIONS.iter().enumerate() {
            let at = TEXT + i as u64 * FUNCTION_LEN;
            match *name {
                "runtime.newproc1" => text.extend(newproc1),
                "runtime.goexit0" => text.extend(goexit0),
                "runtime.allgadd" => text.extend(self.uses_slice(at, ALLGS)),
                "runtime.schedinit" => text.extend(self.sets_maxmcount(at)),
                "runtime.procresize" => text.extend(self.uses_slice(at, ALLP)),
                _ => {}
            }
            text.resize((i + 1) * len, 0x90);
        }
        text
    }

    fn layout(&self) -> Option<&'static Layout> {
        let arch = if self.machine == AMD64 { Arch::Amd64 } else { Arch::Arm64 };
        layout_for(self.go.strip_prefix("go1.")?.split('.').next()?.parse().ok()?, arch)
    }

    /// Loads pointer, length and capacity of the slice `at`, one after the other.
    fn uses_slice(&self, function: u64, at: u64) -> Vec<u8> {
        let mut code = Vec::new();
        for word in [at, at + 8, at + 16] {
            let pc = function + code.len() as u64;
            match self.machine {
                AMD64 => code.extend([&b"\x48\x8b\x05"[..], &relative(pc + 7, word)].concat()),
                // adrp x27; ldr x0, [x27, #offset]
                _ => code.extend(
                    [adrp(pc, word), 0xf940_0360 | low(word) >> 3 << 10].map(u32::to_le_bytes).concat(),
                ),
            }
        }
        code
    }

    /// `sched.maxmcount = 10000`.
    fn sets_maxmcount(&self, pc: u64) -> Vec<u8> {
        let at = SCHED + self.layout().map_or(0, |layout| u64::from(layout.sched.maxmcount));
        match self.machine {
            AMD64 => [&b"\xc7\x05"[..], &relative(pc + 10, at), &10_000u32.to_le_bytes()].concat(),
            // mov w1, #10000; adrp x27; str w1, [x27, #offset]
            _ => [0x5280_0001 | 10_000 << 5, adrp(pc + 4, at), 0xb900_0361 | low(at) >> 2 << 10]
                .map(u32::to_le_bytes)
                .concat(),
        }
    }

    /// As far as it is read: the pair of words that it begins with, where the code begins, where inline trees would
    /// be, and the data.
    fn moduledata(&self, pclntab: u64) -> Vec<u8> {
        let mut module = vec![0u8; 0x400];
        let Some(layout) = self.layout() else { return module };
        let l = &layout.moduledata;
        let code =
            [(l.pc_header, pclntab), (l.funcnametab, pclntab + 72), (l.text, TEXT), (l.gofunc, pclntab)];
        let data = [(l.noptrbss, DATA + 0x400), (l.enoptrbss, DATA + 0x800)];
        let same = [l.bss, l.ebss, l.noptrdata, l.enoptrdata].map(|offset| (offset, DATA));
        for (offset, word) in code.into_iter().chain(data).chain(same) {
            for (byte, new) in module.iter_mut().skip(offset.into()).zip(word.to_le_bytes()) {
                *byte = new;
            }
        }
        module
    }

    fn buildinfo(&self) -> Vec<u8> {
        let mut blob = b"\xff Go buildinf:\x08\x02".to_vec();
        blob.resize(32, 0);
        blob.push(u8::try_from(self.go.len()).unwrap_or(0));
        blob.extend(self.go.as_bytes());
        blob.resize(128, 0);
        blob
    }

    /// `cmd/link/internal/ld/pcln.go`: header, names, compilation units, files, pc-value tables, functions.
    fn pclntab(&self) -> Vec<u8> {
        let quantum = if self.machine == AMD64 { 1u8 } else { 4 };
        let mut names = vec![0u8];
        let (mut pcs, mut records, mut functab) = (vec![0u8], Vec::new(), Vec::new());
        let count = FUNCTIONS.len();
        for (i, (name, line)) in FUNCTIONS.iter().enumerate() {
            let entry = u32::try_from(i).unwrap_or(0) * 0x100;
            let name_at = push_string(&mut names, name);
            let file_table = pcs.len();
            push_pairs(&mut pcs, &[(1, FUNCTION_LEN)], quantum);
            let line_table = pcs.len();
            let steps = usize::try_from(FUNCTION_LEN / LINE_LEN).unwrap_or(0);
            let mut lines = vec![(1, LINE_LEN); steps];
            if let Some(first) = lines.first_mut() {
                first.0 = i64::from(*line) + 1;
            }
            push_pairs(&mut pcs, &lines, quantum);
            let record_at = (2 * count + 1) * 4 + records.len();
            functab.extend([entry, narrow(record_at)].map(u32::to_le_bytes).concat());
            let record = [entry, name_at, 0, 0, 0, narrow(file_table), narrow(line_table), 0, 0, 0, 0];
            records.extend(record.map(u32::to_le_bytes).concat());
        }
        functab.extend((narrow(count) * 0x100).to_le_bytes());
        functab.extend(records);
        let mut files = vec![0u8];
        let units = push_string(&mut files, FILE).to_le_bytes().to_vec();
        let mut parts = Vec::new();
        let mut offsets = Vec::new();
        for part in [names, units, files, pcs, functab] {
            offsets.push(72 + parts.len() as u64);
            parts.extend(part);
            parts.resize(parts.len().next_multiple_of(8), 0);
        }
        let mut table = 0xffff_fff1u32.to_le_bytes().to_vec();
        table.extend([0, 0, quantum, 8]);
        table.extend([count as u64, 1, TEXT].map(u64::to_le_bytes).concat());
        table.extend(offsets.into_iter().flat_map(u64::to_le_bytes));
        table.extend(parts);
        table
    }
}

/// The displacement from the next instruction.
fn relative(next: u64, at: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = at.wrapping_sub(next).to_le_bytes();
    [a, b, c, d]
}

/// `adrp x27`, to the page of an address above.
fn adrp(pc: u64, at: u64) -> u32 {
    let pages = narrow(usize::try_from((at >> 12) - (pc >> 12)).unwrap_or(0));
    0x9000_001b | (pages & 3) << 29 | pages >> 2 << 5
}

/// An address in its page.
fn low(at: u64) -> u32 {
    u32::try_from(at & 0xfff).unwrap_or(0)
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn push_string(table: &mut Vec<u8>, text: &str) -> u32 {
    let at = narrow(table.len());
    table.extend(text.as_bytes());
    table.push(0);
    at
}

fn push_pairs(table: &mut Vec<u8>, pairs: &[(i64, u64)], quantum: u8) {
    for (change, bytes) in pairs {
        push_varint(table, (change << 1 ^ change >> 63).unsigned_abs());
        push_varint(table, bytes / u64::from(quantum));
    }
    table.push(0);
}

fn push_varint(table: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        table.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    table.push(n.to_le_bytes()[0]);
}

fn symbols() -> (Vec<u8>, Vec<u8>) {
    let mut strings = vec![0u8];
    let mut table = vec![0u8; 24];
    let variables = [("runtime.allgs", ALLGS), ("runtime.allp", ALLP), ("runtime.sched", SCHED)];
    let functions = FUNCTIONS.iter().map(|(name, _)| (*name, function(name)));
    let all = [("runtime.text", TEXT)].into_iter().chain(variables).chain(functions);
    for (name, value) in all {
        table.extend(push_string(&mut strings, name).to_le_bytes());
        table.extend([0x12, 0, 1, 0]); // global function, section 1
        table.extend([value, 8].map(u64::to_le_bytes).concat());
    }
    (table, strings)
}

fn section(name: u32, kind: u32, va: u64, (at, len): (u64, u64), link: u32) -> Vec<u8> {
    let mut s = [name, kind].map(u32::to_le_bytes).concat();
    s.extend([0, va, at, len].map(u64::to_le_bytes).concat());
    s.extend([link, 0].map(u32::to_le_bytes).concat());
    s.extend([8u64, 0].map(u64::to_le_bytes).concat());
    s
}

fn segment(flags: u32, at: u64, va: u64, file_len: u64, memory_len: u64) -> Vec<u8> {
    let mut s = [1u32, flags].map(u32::to_le_bytes).concat();
    s.extend([at, va, va, file_len, memory_len, 0x1000].map(u64::to_le_bytes).concat());
    s
}
