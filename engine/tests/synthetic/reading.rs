//! Names, files and lines, and which programs are refused.

use glg_engine::buildinfo::GoVersion;
use glg_engine::elf::Elf;
use glg_engine::memory::{Addr, Error, Va};
use glg_engine::runtime::Runtime;
use glg_proto::wire::Wait;

use crate::fake::{FakeProcess, File, G, blocked, go124, rows};
use crate::program::{
    ALLGS, AMD64, ARM64, ENTRY, FILE, FUNCTION_LEN, FUNCTIONS, LINE_LEN, Program, function,
};

fn open(program: Program, entry: u64) -> Result<Runtime, Error> {
    Runtime::open(&mut File(program.build()), Addr(entry))
}

#[test]
fn every_address_has_its_function_file_and_line() {
    for program in rows() {
        let mut file = File(program.build());
        let runtime = Runtime::open(&mut file, Addr(ENTRY)).unwrap();
        for (name, line) in FUNCTIONS {
            for offset in 1..=FUNCTION_LEN {
                let at = runtime.creation(&mut file, Addr(function(name) + offset)).unwrap();
                // The return address less one is in the call.
                let expected = line + u32::try_from((offset - 1) / LINE_LEN).unwrap();
                assert_eq!((at.function.as_str(), at.file.as_str(), at.line), (name, FILE, expected));
            }
        }
        let end = function("main.worker") + FUNCTION_LEN;
        for outside in [0, 1, function("runtime.newproc1"), end + 1, u64::MAX] {
            let found = runtime.creation(&mut file, Addr(outside));
            assert!(matches!(found, Err(Error::Malformed { .. })), "{outside:#x}: {found:?}");
        }
    }
}

#[test]
fn a_moved_program_is_read_where_it_is() {
    let pie = Program { pie: true, ..go124() };
    let runtime = open(pie, ENTRY + 0x5555_0000_0000).unwrap();
    assert_eq!(runtime.globals.allgs, Addr(ALLGS + 0x5555_0000_0000));
    let mut file = File(pie.build());
    let at = runtime.creation(&mut file, Addr(function("main.poll") + 0x5555_0000_0005)).unwrap();
    assert_eq!(at.function, "main.poll");
    assert!(matches!(open(pie, ENTRY + 0x10), Err(Error::Malformed { .. })), "not a whole page");
    assert!(matches!(open(go124(), ENTRY + 0x1000), Err(Error::Malformed { .. })), "a fixed program moved");
}

#[test]
fn system_goroutines_are_told_by_their_start_function() {
    let mut file = File(go124().build());
    let runtime = Runtime::open(&mut file, Addr(ENTRY)).unwrap();
    let mut system = |name| runtime.is_system(&mut file, Addr(function(name)), Wait::ChanReceive);
    assert_eq!(system("runtime.bgsweep"), Ok(true));
    assert_eq!(system("runtime.main"), Ok(false));
    assert_eq!(system("main.worker"), Ok(false));
    assert!(system("no such function").is_err());
}

#[test]
fn programs_that_no_layout_describes_are_refused() {
    let go = |go| open(Program { go, ..go124() }, ENTRY).map(|runtime| runtime.go);
    assert_eq!(go("go1.24.3"), Ok(GoVersion { minor: 24, patch: 3 }));
    assert_eq!(go("go1.20.1"), Err(Error::UnsupportedGo { minor: 20 }));
    assert_eq!(go("go1.99"), Err(Error::UnsupportedGo { minor: 99 }));
    for other in ["go1.27-devel_0123abc", "go1.26rc1", "go1.24.11 X:staticlockranking"] {
        assert!(matches!(go(other), Err(Error::Unsupported(_))), "{other}");
    }
    assert!(matches!(go("rust1.24"), Err(Error::Malformed { .. })));
    let machine = |machine| open(Program { machine, ..go124() }, ENTRY).map(|_| ());
    assert_eq!((machine(AMD64), machine(ARM64)), (Ok(()), Ok(())));
    assert!(matches!(machine(243), Err(Error::Unsupported(_))));
}

#[test]
fn without_section_headers_the_version_is_found_in_the_data_segment() {
    let mut file = File(Program { sections: false, ..go124() }.build());
    let elf = Elf::parse(&mut file).unwrap();
    let version = glg_engine::buildinfo::go_version(&elf, &mut file);
    assert_eq!(version, Ok(GoVersion { minor: 24, patch: 11 }));
    let found = elf.symbols(&mut file, [b"runtime.allgs"]);
    assert!(matches!(found, Err(Error::Unsupported(_))), "{found:?}");
}

#[test]
fn without_symbols_the_same_is_found_in_the_instructions() {
    for program in rows() {
        for pie in [false, true] {
            let open = |sections| {
                let mut file = File(Program { pie, sections, ..program }.build());
                let runtime = Runtime::open(&mut file, Addr(ENTRY)).unwrap();
                let poll = runtime.creation(&mut file, Addr(function("main.poll") + 1)).unwrap();
                (runtime.globals, runtime.lifecycle, poll)
            };
            assert!(open(true).1.is_some());
            assert_eq!(open(false), open(true), "{} {}", program.go, program.machine);
        }
    }
}

/// Neither the lowest candidate nor the only one is taken for what it is said to be.
#[test]
fn variables_are_believed_once_the_process_agrees() {
    for program in rows() {
        let mut process = FakeProcess::new(program);
        assert_eq!(process.runtime.confirm(&mut process.space), Err(Error::NotReady));
        process.set_ps(&[0, 0]);
        assert_eq!(process.runtime.confirm(&mut process.space), Err(Error::NotReady));
        process.set_gs(&[blocked(7), blocked(8), blocked(7)]);
        let twice = process.runtime.confirm(&mut process.space);
        assert!(matches!(twice, Err(Error::Malformed { what: "allgs", .. })), "{twice:?}");
        process.set_gs(&[blocked(7), G { status: 7, ..blocked(8) }]);
        let state = process.runtime.confirm(&mut process.space);
        assert!(matches!(state, Err(Error::Malformed { what: "allgs", .. })), "{state:?}");
        process.set_gs(&[blocked(7), blocked(8)]);
        let second = 0xb0_0000_4000 + u64::from(process.runtime.layout.p.id);
        process.space.half(second, 0);
        let order = process.runtime.confirm(&mut process.space);
        assert!(matches!(order, Err(Error::Unsupported(_))), "{order:?}");
        process.space.half(second, 1);
        assert_eq!(process.runtime.confirm(&mut process.space), Ok(()));
        // From now on they are believed, whatever is there.
        process.space.half(second, 0);
        assert_eq!(process.runtime.confirm(&mut process.space), Ok(()));
    }
}

/// Bytes of the file of [`go124`] where the sections' headers begin (`e_shoff`).
fn section_headers(file: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(file[40..48].try_into().unwrap())).unwrap()
}

/// The symbols' names are in a section that is not there; the file ends before the last header.
#[test]
fn one_damaged_section_loses_only_itself() {
    let whole = open(go124(), ENTRY).unwrap();
    let (symtab, sh_link) = (2, 40);
    let mut file = go124().build();
    let at = section_headers(&file) + symtab * 64 + sh_link;
    file[at..at + 4].copy_from_slice(&[0xff; 4]);
    let mut file = File(file);
    assert_eq!(Elf::parse(&mut file).unwrap().symbols, None);
    assert_eq!(Runtime::open(&mut file, Addr(ENTRY)).map(|r| r.globals), Ok(whole.globals));
    // e_shnum: one more than there are.
    let mut file = go124().build();
    file[60] += 1;
    assert_eq!(Runtime::open(&mut File(file), Addr(ENTRY)).map(|r| r.globals), Ok(whole.globals));
}

/// What is decoded of a function is no more than the longest known ones have.
#[test]
fn an_endless_function_is_refused() {
    let mut file = Program { sections: false, ..go124() }.build();
    // In the function table: `runtime.procresize` is the seventh function, the next one begins far behind.
    let entries = |i: u32| [(i * 0x100).to_le_bytes(), ((i + 1) * 0x100).to_le_bytes()];
    let [seventh, eighth] = entries(6);
    let at = file.windows(12).position(|part| part[..4] == seventh && part[8..] == eighth).unwrap();
    file[at + 8..at + 12].copy_from_slice(&(0x600 + 0x4001u32).to_le_bytes());
    let opened = Runtime::open(&mut File(file), Addr(ENTRY)).map(|_| ());
    assert!(matches!(opened, Err(Error::Malformed { what: "function record", .. })), "{opened:?}");
}

/// A file of holes may claim any size: refused before anything is read.
#[test]
fn an_enormous_symbol_table_is_refused() {
    let mut file = File(go124().build());
    let mut elf = Elf::parse(&mut file).unwrap();
    let (symbols, strings) = elf.symbols.unwrap();
    assert_eq!(elf.symbols(&mut file, [b"runtime.allgs"]), Ok([Some(Va(ALLGS))]));
    let mut long = strings;
    long.len = 1 << 40;
    elf.symbols = Some((symbols, long));
    assert!(matches!(elf.symbols(&mut file, [b"runtime.allgs"]), Err(Error::Unsupported(_))));
    let mut long = symbols;
    long.len = 1 << 40;
    elf.symbols = Some((long, strings));
    assert!(matches!(elf.symbols(&mut file, [b"runtime.allgs"]), Err(Error::Unsupported(_))));
}

#[test]
fn a_name_with_control_characters_is_refused() {
    let mut bytes = go124().build();
    let at = bytes.windows(9).position(|part| part == b"main.poll").unwrap();
    bytes[at + 5] = b'\x1b';
    let mut file = File(bytes);
    let runtime = Runtime::open(&mut file, Addr(ENTRY)).unwrap();
    let found = runtime.creation(&mut file, Addr(function("main.poll") + 1));
    assert!(matches!(found, Err(Error::Malformed { what: "name", .. })), "{found:?}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_no_panic() {
    let whole = go124().build();
    for len in 0..whole.len() {
        let cut = Runtime::open(&mut File(whole[..len].to_vec()), Addr(ENTRY));
        assert!(cut.is_err(), "{len} of {} bytes", whole.len());
    }
}
