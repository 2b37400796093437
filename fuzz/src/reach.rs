//! The proof of leaks, in a process whose runtime's data is damaged, before the first look or while it is looked at.
//!
//! The first bytes choose the program, what a pass may take, and when time is up; each further [`EDIT`] bytes are a
//! word that is something else than the runtime has put there.

use std::collections::BTreeMap;

use glg_engine::memory::{Addr, Error, Memory, Run};
use glg_engine::reach::proof::{Plan, Proof};
use glg_engine::reach::{Places, ReachLimits, Region, Subject};
use glg_engine::runtime::Runtime;

use crate::foreign::File;
use crate::foreign::program::{AMD64, ARM64, ENTRY, Program};

#[path = "../../engine/tests/oracle/made/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of the engine need more of it")]
mod made;

use made::generate::Made;
use made::space::Space;

const RELEASES: [&str; 8] =
    ["go1.19.8", "go1.21.13", "go1.22.10", "go1.23.9", "go1.24.11", "go1.25.5", "go1.26.6", "go1.27.3"];
/// Programs of each release and architecture.
const PROGRAMS: usize = 3;
/// Bytes of an input before the edits, of an edit, and edits at most.
const CHOICES: usize = 4;
const EDIT: usize = 16;
const EDITS_MAX: usize = 48;
/// Longest input that is tried.
pub const MAX_LEN: usize = CHOICES + EDITS_MAX * EDIT;
/// What the buffers of a pass take, and those that it makes before it looks at the limit again.
const BUFFERS: u64 = 4 << 20;
/// Reads of a glance: some for each goroutine.
const GLANCE: u64 = 2048;
/// Reads after which the time of a pass is up, as a rule: several times what one takes.
const READS: u64 = 50_000;

/// A program, made once.
struct Process {
    space: Space,
    /// The same, once whoever ran was preempted and goes on.
    later: Space,
    runtime: Runtime,
    places: Places,
    regions: Option<Vec<Region>>,
    /// Where anything stands.
    full: Vec<u64>,
}

fn programs() -> &'static [Process] {
    static PROGRAMS_MADE: std::sync::OnceLock<Vec<Process>> = std::sync::OnceLock::new();
    PROGRAMS_MADE.get_or_init(|| {
        let all = RELEASES.iter().flat_map(|go| [AMD64, ARM64].map(|machine| (*go, machine)));
        let open = |(go, machine)| {
            let file = Program { machine, pie: false, go, sections: true }.build();
            Runtime::open(&mut File(&file), Addr(ENTRY)).ok()
        };
        let runtimes: Vec<Runtime> = all.filter_map(open).collect();
        let make = |(seed, runtime): (u64, &Runtime)| {
            let Made { mut world, runtime, places, regions } = Made::new(runtime, seed);
            let space = world.heap.space.clone();
            world.preempt();
            let later = world.heap.space;
            let words = |(at, len): (u64, usize)| (at..at + len as u64).step_by(8);
            let full = space.regions().flat_map(words).filter(|at| space.get(*at) != 0).collect();
            Process { space, later, runtime, places, regions, full }
        };
        let many = (0..PROGRAMS).flat_map(|_| &runtimes);
        (0..).zip(many).map(make).collect()
    })
}

/// Memory with damage.
struct Damaged<'p> {
    space: &'p Space,
    /// Words by their address, and the number of the read from which on they stand there.
    edits: BTreeMap<u64, (u64, [u8; 8])>,
    reads: u64,
}

impl Memory for Damaged<'_> {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        self.reads += 1;
        assert_eq!(runs.iter().map(|run| run.len).sum::<usize>(), out.len(), "runs and room differ");
        self.space.copy(runs, out)?;
        let mut before = 0;
        for run in runs {
            let (from, end) = (run.at.0, run.at.0 + run.len as u64);
            for (at, (since, bytes)) in self.edits.range(from.saturating_sub(7)..end) {
                for (byte, at) in bytes.iter().zip(*at..).filter(|(_, at)| (from..end).contains(at)) {
                    let place = before + usize::try_from(at - from).unwrap_or(0);
                    if let Some(out) = out.get_mut(place).filter(|_| *since <= self.reads) {
                        *out = *byte;
                    }
                }
            }
            before += run.len;
        }
        Ok(())
    }
}

/// The edits of an input.
fn edits(program: &Process, data: &[u8]) -> BTreeMap<u64, (u64, [u8; 8])> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let place = |number: u64| {
        let index = usize::try_from(number).unwrap_or(0) % program.full.len().max(1);
        program.full.get(index).copied().unwrap_or(0)
    };
    let one = |edit: &[u8]| {
        let (at, how, value) = (word(&edit[..4]), word(&edit[4..8]), word(&edit[8..]));
        // Beside what is there is often what could be there.
        let at = place(at).wrapping_add(if how & 0x30 == 0 { 8 * (value & 31) } else { 0 });
        let old = program.space.get(at);
        let new = match how & 7 {
            0 => value,
            1 => old ^ 1 << (value & 63),
            2 => old.wrapping_add(value & 0xff).wrapping_sub(0x80),
            3 => place(value),
            4 => program.space.get(place(value)),
            5 => old.wrapping_add((value & 0xf) << 13),
            6 => old & u64::MAX << (value & 63),
            _ => u64::MAX >> (value & 63),
        };
        (at, ((how >> 8) % 256, new.to_le_bytes()))
    };
    data.chunks_exact(EDIT).take(EDITS_MAX).map(one).collect()
}

/// Any memory gives findings or none, in bounded time and memory.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    let _ = run(data);
}

/// Goroutines found, and whether passes abstained; `None` for an input that is too short.
fn run(data: &[u8]) -> Option<(usize, bool)> {
    let ([number, memory, goroutines, time], data) = data.split_first_chunk::<CHOICES>()?;
    let program = programs().get(usize::from(*number) % programs().len().max(1))?;
    let mut damaged = Damaged { space: &program.space, edits: edits(program, data), reads: 0 };
    let memory_bytes = (16 << 20) >> (memory & 3);
    let goroutines = if *goroutines < 250 { 1000 } else { u64::from(goroutines & 7) };
    // Reads until time is up.
    let time = if *time < 200 { READS } else { 16 * u64::from(time - 200) };
    let mut proof = Proof::new(program.runtime.layout, ReachLimits { memory_bytes, goroutines });
    for _ in 0..2 {
        let (before, mut left) = (damaged.reads, time);
        let mut subject = Subject {
            runtime: &program.runtime,
            memory: &mut damaged,
            image: &mut &[][..],
            places: &program.places,
            regions: program.regions.as_deref(),
            expired: &mut || {
                left = left.saturating_sub(1);
                left == 0
            },
        };
        assert_eq!(proof.pass(&mut subject), Ok(()), "a process that has not ended");
        let reads = damaged.reads - before;
        assert!(reads <= time + GLANCE, "{reads} reads, time is up after {time}");
        damaged.space = &program.later;
        assert_eq!(proof.glance(&program.runtime, &mut damaged), Ok(()), "a process that has not ended");
    }
    let most = memory_bytes as u64 + BUFFERS;
    assert!(proof.figures.bytes <= most, "{} bytes where {memory_bytes} are allowed", proof.figures.bytes);
    let found = proof.findings(Plan { passes: 2, millis: 0 }).len();
    assert!(found as u64 <= goroutines, "{found} found among {goroutines}");
    Some((found, proof.abstained().is_some()))
}

/// Some programs as they are, some with damage that is easily overlooked.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut random = made::random::Random::new(1);
    let programs = (0..u8::try_from(programs().len()).unwrap_or(u8::MAX)).step_by(5);
    let seed = |number: u8| {
        let mut seed = vec![number, 0, 0, 0];
        let edits = random.below(6);
        seed.extend((0..2 * edits).flat_map(|_| random.next().to_le_bytes()));
        seed
    };
    // A span that claims 52 GB from the 218th read on took half a minute.
    let found = b"\x0a\0\0\0\x57\xaa\xfe\x32\x5c\xd9\xe7\x2f\xc4\x99\x6d\x82\x2b\x86\xba\x80";
    programs.map(seed).chain([found.to_vec()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_without_damage_are_looked_at() {
        let found: Vec<_> = (0..10u8).map(|number| run(&[number, 0, 0, 0]).unwrap()).collect();
        assert!(found.iter().all(|(_, abstained)| !abstained), "{found:?}");
        assert!(found.iter().filter(|(found, _)| *found > 0).count() > 5, "{found:?}");
    }

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = crate::mutate::Mutator::new(&seeds, 1, MAX_LEN);
        let all: Vec<_> = (0..2000).filter_map(|_| run(&mutator.next_input())).collect();
        let abstained = all.iter().filter(|(_, abstained)| *abstained).count();
        assert!((200..1800).contains(&abstained), "{abstained} of {} abstain", all.len());
    }
}
