//! Which words of a stack are in use, against what the program's own heap dump says that its collector looks at
//! (`runtime/heapdump.go`; golang.org/wiki/heapdump15-through-heapdump17).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{Program, Seen, for_every_release, program};
use glg_engine::layout::Arch;
use glg_engine::memory::Addr;
use glg_engine::reach::Places;
use glg_engine::reach::frames::{Frames, Program as Whose, Standing};
use glg_engine::stack::{Copied, Start};

/// Programs with many kinds of frames, and how they are built: everywhere, and where there is C.
const PROGRAMS: [(&str, &str); 6] = [
    ("kinds", ""),
    ("leaks", ""),
    ("leaks", "frames"),
    ("leaks-stripped", "frames"),
    ("leaks-pie-stripped", "frames"),
    ("leaks-cgo", "frames"),
];
const HEADER: &[u8] = b"go1.7 heap dump\n";
const WAITING: u64 = 4;
/// Of whom it may be unknown: what reflection makes of arguments it knows by itself, who was stopped at any instruction
/// has more in use than the maps say, and Go 1.19 had no frames of its own where C calls back.
const SPECIAL: [&str; 4] =
    ["reflect.makeFuncStub", "reflect.methodValueCall", "runtime.sigpanic", "runtime.cgocallback"];

/// A goroutine that waits, as a heap dump tells of it.
#[derive(Debug, Default)]
struct Told {
    g: u64,
    goid: u64,
    status: u64,
    /// Of the runtime's own, which go on by themselves.
    system: bool,
    sp: u64,
    pc: u64,
    /// Addresses of all words of its frames that the collector looks at.
    words: BTreeSet<u64>,
    functions: Vec<String>,
}

/// A heap dump: numbers, each seven bits in a byte, and bytes.
struct Dump<'b>(&'b [u8]);

impl<'b> Dump<'b> {
    fn number(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().unwrap();
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return value;
            }
        }
        panic!("a number of more than 64 bits");
    }

    fn numbers<const N: usize>(&mut self) -> [u64; N] {
        [(); N].map(|()| self.number())
    }

    fn bytes(&mut self) -> &'b [u8] {
        let len = usize::try_from(self.number()).unwrap();
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    /// Offsets of pointers.
    fn fields(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        while self.number() != 0 {
            all.push(self.number());
        }
        all
    }

    /// All goroutines.
    fn goroutines(mut self) -> Vec<Told> {
        self.0 = self.0.strip_prefix(HEADER).expect("a heap dump");
        let mut all: Vec<Told> = Vec::new();
        loop {
            match self.number() {
                // Object, other root, type, parameters, itab.
                1 => drop((self.number(), self.bytes(), self.fields())),
                2 => drop((self.bytes(), self.number())),
                3 => drop((self.numbers::<2>(), self.bytes(), self.number())),
                6 => drop((self.numbers::<4>(), self.bytes(), self.bytes(), self.number())),
                8 => drop(self.numbers::<2>()),
                4 => {
                    let [g, sp, goid, _, status, system, _, _] = self.numbers();
                    self.text();
                    self.numbers::<4>();
                    let system = system != 0;
                    all.push(Told { g, goid, status, system, sp, ..Told::default() });
                }
                5 => {
                    let [sp, depth, _] = self.numbers();
                    self.bytes();
                    let [_, pc, _] = self.numbers();
                    let (name, fields) = (self.text(), self.fields());
                    let told = all.last_mut().unwrap();
                    if depth == 0 {
                        told.pc = pc;
                    }
                    told.words.extend(fields.iter().map(|offset| sp + offset));
                    told.functions.push(name);
                }
                14 => drop(self.numbers::<7>()),
                15 => drop(self.numbers::<6>()),
                // Threads follow on goroutines.
                _ if !all.is_empty() => return all,
                other => panic!("a record of kind {other} before all goroutines"),
            }
        }
    }
}

/// The words in use of a goroutine's stack, as the agent finds them; `None` where they are not known. Also how many
/// words there are.
fn in_use(
    seen: &mut Seen,
    places: &Places,
    frames: &mut Frames,
    told: &Told,
) -> (Option<BTreeSet<u64>>, u64) {
    let (process, runtime) = (seen.remote.process(), &seen.runtime);
    let (memory, image, l) = (process.memory, process.image, &runtime.layout.g);
    let mut word = |at: u16| {
        let mut bytes = [0; 8];
        memory.read(Addr(told.g + u64::from(at)), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let (high, deferred) = (word(l.stack_hi), Addr(word(l.defers)));
    // `_panic` comes before `_defer`.
    let leads_to = [Addr(word(l.defers - 8)), Addr(0), Addr(0), Addr(0)];
    let lr = if runtime.layout.arch == Arch::Arm64 { word(l.sched_bp - 8) } else { 0 };
    let syscall = word(l.syscallsp) != 0;
    let sp = if syscall { word(l.syscallsp) } else { word(l.sched_sp) };
    assert_eq!(sp, told.sp, "goroutine {} has moved", told.goid);
    let mut stack = vec![0; usize::try_from(high - sp).unwrap()];
    memory.read(Addr(sp), &mut stack).unwrap();
    let start = Start { pc: Addr(told.pc), sp: Addr(sp), lr: if syscall { 0 } else { lr }, syscall };
    let mut words = BTreeSet::new();
    let whose = &mut Whose { runtime, memory, image, trees: places.frames().unwrap() };
    let copied = Copied { at: Addr(sp), bytes: &stack };
    let known = frames.in_use(whose, Standing { start, deferred, leads_to }, copied, &mut |bytes| {
        // What is not in the copy is the address of a deferred call.
        let from = (bytes.as_ptr() as u64).wrapping_sub(stack.as_ptr() as u64);
        if from < stack.len() as u64 {
            words.extend((0..bytes.len() as u64).step_by(8).map(|at| sp + from + at));
        }
    });
    (known.unwrap().then_some(words), (high - sp) / 8)
}

#[test]
fn all_that_the_collector_looks_at_is_in_use_and_little_else() {
    for_every_release(|release| {
        for (name, mode) in PROGRAMS {
            let what = format!("Go {release}, {name} {mode}");
            let modes = [mode];
            let modes: &[&str] = if mode.is_empty() { &[] } else { &modes };
            let mut target = Program::start(&program(release, name), modes);
            let file = target.ask("heap")["file"].as_str().unwrap().to_owned();
            let dump = fs::read(&file).unwrap();
            fs::remove_file(&file).unwrap();
            target.at_rest();
            let mut seen = Seen::open(target.pid());
            let process = seen.remote.process();
            let places = Places::find(&seen.runtime, process.memory, process.image).unwrap();
            let (mut frames, mut known, mut all, mut used) = (Frames::default(), 0, 0, 0);
            let dumps = |told: &Told| told.functions.iter().any(|name| name == "runtime/debug.WriteHeapDump");
            let own = |told: &Told| told.status == WAITING && !told.system && !dumps(told);
            for told in Dump(&dump).goroutines().iter().filter(|told| own(told)) {
                let (found, words) = in_use(&mut seen, &places, &mut frames, told);
                let Some(found) = found else {
                    let reason = |name: &String| SPECIAL.contains(&name.as_str());
                    assert!(told.functions.iter().any(reason), "{what}: {told:?}");
                    continue;
                };
                let missed: Vec<_> = told.words.difference(&found).collect();
                assert!(missed.is_empty(), "{what}: {missed:x?} of {told:x?}");
                known += 1;
                (all, used) = (all + words, used + found.len() as u64);
            }
            assert!(known > 30, "{what}: only {known} stacks were known");
            assert!(5 * used < all, "{what}: {used} of {all} words");
        }
    });
}
