//! Damaged captures: whatever the bytes are, reading them ends, in an error or in a result.

use glg_engine::memory::Error;
use glg_engine::runtime::Runtime;
use glg_engine::symbols::Symbols;

use crate::capture::{Capture, Replay, Stretches};
use crate::reading::Reading;
use crate::{captures, facts};

/// Damages of each capture's memory, and of its file: that is opened anew each time, which takes longer.
const OF_MEMORY: u64 = 1000;
const OF_FILE: u64 = 300;
/// Different bytes, different words and missing stretches of one damage, at most.
const BYTES_MAX: u64 = 8;
const WORDS_MAX: u64 = 8;
const DROPS_MAX: u64 = 2;
/// Bytes of a missing stretch, at most.
const DROP_BYTES_MAX: u64 = 4096;

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The lower bits are the worse ones.
        (self.0 >> 11) % end.max(1)
    }

    /// A captured place: of any stretch, however small, or of any byte.
    fn place(&mut self, read: &Stretches) -> u64 {
        if self.below(2) == 0 {
            let index = self.below(read.len() as u64);
            return read.nth(usize::try_from(index).unwrap()).unwrap();
        }
        let stretch = self.below(read.bytes.len() as u64);
        let (start, stretch) = read.bytes.iter().nth(usize::try_from(stretch).unwrap()).unwrap();
        start + self.below(stretch.len() as u64)
    }

    /// Makes other damage than before.
    fn damage(&mut self, read: &Stretches, replay: &mut Replay<'_>) {
        replay.flipped.clear();
        replay.dropped.clear();
        let kind = self.below(4);
        if kind == 0 || kind == 3 {
            for _ in 0..=self.below(BYTES_MAX) {
                // Nothing, everything, a sign, or anything.
                let byte = [0, 0xff, 0x80, self.below(256).to_le_bytes()[0]];
                let byte = byte[usize::try_from(self.below(4)).unwrap()];
                replay.flipped.insert(self.place(read), byte);
            }
        }
        if kind == 1 || kind == 3 {
            // Words from elsewhere: addresses of the wrong things, cycles.
            for _ in 0..=self.below(WORDS_MAX) {
                let (from, to) = (self.place(read) & !7, self.place(read) & !7);
                let word = read.get(from, 8).unwrap_or(&[0; 8]);
                replay.flipped.extend((to..).zip(word.iter().copied()));
            }
        }
        if kind == 2 || kind == 3 {
            for _ in 0..=self.below(DROPS_MAX) {
                let at = self.place(read);
                replay.dropped.push((at, at.saturating_add(1 + self.below(DROP_BYTES_MAX))));
            }
        }
    }
}

/// What is read of a process, as text: also an error is an answer.
type Answers = [Result<String, Error>; 5];

fn read(reading: &mut Reading<'_>, runtime: &Runtime, symbols: &mut Symbols, grouped: bool) -> Answers {
    [
        runtime.clone().confirm(reading.memory).map(|()| String::new()),
        reading.count(runtime).map(|count| count.to_string()),
        reading.census(runtime).map(|census| format!("{census:?}")),
        reading.locked(runtime).map(|goids| format!("{goids:?}")),
        reading.dump(runtime, symbols, 0, grouped),
    ]
}

fn open_and_read(reading: &mut Reading<'_>, entry: u64, grouped: bool) -> Result<Answers, Error> {
    let runtime = reading.open(entry)?;
    let mut symbols = reading.symbols(&runtime)?;
    Ok(read(reading, &runtime, &mut symbols, grouped))
}

/// Damage that nothing feels, or that lets nothing through, tests nothing.
fn check(capture: &Capture, felt: u64, of: u64) {
    assert!((of / 10..of * 9 / 10).contains(&felt), "{}: felt {felt} of {of}", facts::name(capture));
}

#[test]
fn damaged_memory_makes_nothing_panic() {
    for capture in captures() {
        println!("{}", facts::name(capture));
        let mut process = facts::Process::open(capture);
        let (mut reading, runtime) = process.parts();
        let mut symbols = reading.symbols(runtime).unwrap();
        let whole = [false, true].map(|grouped| read(&mut reading, runtime, &mut symbols, grouped));
        let (mut chance, mut felt) = (Chance(0x0123_4567_89ab_cdef), 0);
        for turn in 0..OF_MEMORY {
            chance.damage(&capture.memory, &mut process.memory);
            let (mut reading, runtime) = process.parts();
            let grouped = turn % 2 == 1;
            let damaged = read(&mut reading, runtime, &mut symbols, grouped);
            felt += u64::from(damaged != whole[usize::from(grouped)]);
        }
        check(capture, felt, OF_MEMORY);
        // Nothing of it is remembered.
        process.memory = Replay::new(&capture.memory);
        process.dumps_are_right_with(&mut symbols);
    }
}

#[test]
fn damaged_files_make_nothing_panic() {
    for capture in captures() {
        println!("{}", facts::name(capture));
        let (mut memory, mut file) = (Replay::new(&capture.memory), Replay::new(&capture.file));
        let mut reading = Reading { memory: &mut memory, image: &mut file };
        let whole = [false, true].map(|grouped| open_and_read(&mut reading, capture.entry, grouped));
        let (mut chance, mut felt) = (Chance(0x0fed_cba9_8765_4321), 0);
        for turn in 0..OF_FILE {
            chance.damage(&capture.file, &mut file);
            let mut reading = Reading { memory: &mut memory, image: &mut file };
            let grouped = turn % 2 == 1;
            let damaged = open_and_read(&mut reading, capture.entry, grouped);
            felt += u64::from(damaged != whole[usize::from(grouped)]);
        }
        check(capture, felt, OF_FILE);
    }
}
