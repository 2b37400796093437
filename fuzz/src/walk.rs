//! Counting, walking, dumping and looking into the heap of a process whose memory is the input.
//!
//! The first bytes choose the Go release and what misbehaves; the others are the memory at the runtime's
//! variables and, over and over again, everywhere else below 4 GiB. Nothing is mapped above.

use glg_engine::census::Census;
use glg_engine::goroutines::{Counter, Walker};
use glg_engine::heap::Heap;
use glg_engine::layout::Layout;
use glg_engine::memory::{Addr, Error, Memory, Run};
use glg_engine::runtime::Runtime;
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, TraceLimits, Tracer};

use crate::foreign::File;
use crate::foreign::program::{ALLGS, ALLP, AMD64, ARM64, DATA, ENTRY, Program, SCHED, function};

const RELEASES: [&str; 8] =
    ["go1.19.8", "go1.21.13", "go1.22.10", "go1.23.9", "go1.24.11", "go1.25.5", "go1.26.6", "go1.27.3"];
/// Bytes of an input before the memory.
const CHOICES: usize = 8;
/// Bytes of a stack that are read in any case.
const HEAD: usize = 8 << 10;
/// Goroutines looked at.
const LIMIT: u64 = 3000;

/// Memory of the process.
struct Bytes<'d> {
    data: &'d [u8],
    /// Changes words while they are read, in every read of which the number has these bits.
    moving: u64,
    reads: u64,
}

impl Memory for Bytes<'_> {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        self.reads += 1;
        let mut out = out.iter_mut();
        for run in runs {
            let end = run.at.0.checked_add(run.len as u64).filter(|end| *end < 1 << 32);
            if end.is_none() || run.at.0 < 0x1000 || self.data.is_empty() {
                return Err(Error::Unreadable { at: run.at.0 });
            }
            let start = run.at.0.wrapping_sub(DATA) % self.data.len() as u64;
            let from = self.data.iter().cycle().skip(usize::try_from(start).unwrap_or(0));
            for (out, byte) in out.by_ref().take(run.len).zip(from) {
                *out = *byte;
                if self.moving & 1 != 0 && self.reads & self.moving == self.moving {
                    *out ^= (self.reads >> 1).to_le_bytes()[0];
                }
            }
        }
        Ok(())
    }
}

/// Programs and their runtimes, made once.
fn runtimes() -> &'static [(Vec<u8>, Runtime)] {
    static RUNTIMES: std::sync::OnceLock<Vec<(Vec<u8>, Runtime)>> = std::sync::OnceLock::new();
    RUNTIMES.get_or_init(|| {
        let all = RELEASES.iter().flat_map(|go| [AMD64, ARM64].map(|machine| (*go, machine)));
        let open = |(go, machine)| {
            let file = Program { machine, pie: false, go, sections: true }.build();
            let runtime = Runtime::open(&mut File(&file), Addr(ENTRY)).ok()?;
            Some((file, runtime))
        };
        all.filter_map(open).collect()
    })
}

/// Any memory gives a count, a walk and a census, or an error, in bounded time and with sums that are right.
///
/// # Panics
/// When that does not hold.
pub fn check(data: &[u8]) {
    let (Some((choices, data)), all) = (data.split_first_chunk::<CHOICES>(), runtimes()) else { return };
    let Some((file, runtime)) = all.get(usize::from(choices[0]) % all.len().max(1)) else { return };
    let mut memory = Bytes { data, moving: u64::from(choices[1]), reads: 0 };
    let mut counter = Counter::default();
    for _ in 0..3 {
        assert_ne!(counter.count(runtime, &mut memory), Ok(0));
    }
    let mut walker = Walker::new(usize::from(choices[2]) * 64);
    let mut visited = 0;
    let walked = walker.walk(runtime, &mut memory, LIMIT, |_| visited += 1);
    if let Ok(stats) = walked {
        assert_eq!(stats.seen, stats.dead + stats.torn + stats.unreadable + visited, "{stats:?}");
        assert!(stats.seen <= LIMIT, "{stats:?}");
    }
    let mut census = Census::new(usize::from(choices[3]) % 64);
    match census.take(&mut walker, runtime, &mut memory, &mut File(file), LIMIT) {
        Ok(()) => {
            let sum: u32 = census.sites().map(|site| site.count).sum();
            assert_eq!(census.total(), sum + census.other);
            assert!(census.sites().is_sorted_by_key(|site| u32::MAX - site.count));
            assert!(u64::from(census.total()) <= census.walk.seen);
        }
        Err(_) => assert_eq!(census.total(), 0, "what is left of a census that failed"),
    }
    dump(&mut memory, file, runtime);
    objects(&mut memory, file, runtime);
    // A constant for each g and a handful more: never a loop that the memory keeps alive.
    assert!(memory.reads < 4 * LIMIT, "{} reads", memory.reads);
}

/// Every stack there is, in bounded memory, or an error. How many there are.
fn dump(memory: &mut Bytes<'_>, file: &[u8], runtime: &Runtime) -> Option<u64> {
    const LIMITS: TraceLimits =
        TraceLimits { goroutines: 50, stack_bytes: 4 << 10, frames: 16, places: 16, text_bytes: 4 << 10 };
    let mut image = File(file);
    let mut symbols = Symbols::new(runtime, &mut image, LIMITS.places, LIMITS.text_bytes).ok()?;
    let mut target = Target { runtime, memory, image: &mut image, symbols: &mut symbols };
    let mut shown = 0;
    let traced = Tracer::new(LIMITS).trace(&mut target, &mut |_, _, stack| {
        assert!(
            stack.frames.len() <= LIMITS.frames && stack.memory.bytes.len() <= LIMITS.stack_bytes.max(HEAD)
        );
        assert!(stack.end.is_some() || stack.frames.is_empty());
        shown += 1;
        true
    });
    let stats = traced.ok()?;
    assert_eq!(stats.shown, shown);
    assert!(shown <= LIMITS.goroutines && stats.running + stats.cut <= shown, "{stats:?}");
    Some(shown)
}

/// An object holds the address that was asked for.
fn objects(memory: &mut Bytes<'_>, file: &[u8], runtime: &Runtime) {
    let Ok(heap) = Heap::find(runtime, memory, &mut File(file)) else { return };
    for at in (0..0x2000).step_by(0x188).map(|offset| Addr(DATA + offset)) {
        if let Ok(Some(object)) = heap.object(runtime, memory, at) {
            assert!(object.at <= at && at.0 - object.at.0 < object.len, "{at:?} is not in {object:?}");
        }
    }
}

/// A process of a few goroutines, for some releases, quiet and restless.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let rows = runtimes().iter().enumerate().step_by(3);
    rows.map(|(i, (_, runtime))| {
        let moving = if i % 2 == 0 { 0 } else { 5 };
        let mut seed = vec![u8::try_from(i).unwrap_or(0), moving, 255, 20, 0, 0, 0, 0];
        seed.extend(memory(runtime.layout));
        seed
    })
    .collect()
}

/// The bytes from [`DATA`] on: headers, ten `g`s, two `p`s.
fn memory(layout: &Layout) -> Vec<u8> {
    const ARRAY: u64 = 0x300;
    const GS: u64 = 0x400;
    // As dense as the fields that are read allow: damage has to hit them.
    const STRIDE: u64 = 176;
    const FREE: u64 = 0x3e0;
    let mut bytes = vec![0u8; 0xc00];
    let mut put = |at: u64, value: u64, width: usize| {
        let at = usize::try_from(at).unwrap_or(0);
        for (byte, new) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()).take(width) {
            *byte = new;
        }
    };
    for (i, word) in [DATA + ARRAY, 10, 16].into_iter().enumerate() {
        put(ALLGS - DATA + 8 * i as u64, word, 8);
    }
    for (i, word) in [DATA + ARRAY + 80, 2, 2].into_iter().enumerate() {
        put(ALLP - DATA + 8 * i as u64, word, 8);
    }
    put(SCHED - DATA + u64::from(layout.sched.ngsys), 1, 4);
    for (i, status) in (0..10).zip([4, 1, 2, 3, 6, 0x1004].into_iter().cycle()) {
        let g = GS + i * STRIDE;
        put(ARRAY + 8 * i, DATA + g, 8);
        let field = |offset: u16| g + u64::from(offset);
        put(field(layout.g.atomicstatus), status, 4);
        put(field(layout.g.goid), i + 1, 8);
        put(field(layout.g.waitreason), 14 + i % 4, 1);
        let (created, starts) =
            if i % 5 == 0 { ("runtime.main", "runtime.bgsweep") } else { ("main.poll", "main.worker") };
        put(field(layout.g.gopc), function(created) + i % 3 * 16 + 1, 8);
        put(field(layout.g.startpc), function(starts), 8);
    }
    for i in 0..2 {
        put(ARRAY + 80 + 8 * i, DATA + FREE + 8 * i - u64::from(layout.p.g_free), 8);
        put(FREE + 8 * i, 1, 4);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quiet_seeds_are_processes() {
        for seed in seeds().iter().filter(|seed| seed[1] == 0) {
            let (file, runtime) = &runtimes()[usize::from(seed[0])];
            let mut memory = Bytes { data: &seed[CHOICES..], moving: 0, reads: 0 };
            assert_eq!(Counter::default().count(runtime, &mut memory), Ok(7), "Go {}", runtime.go);
            let mut census = Census::new(8);
            let mut walker = Walker::new(0);
            census.take(&mut walker, runtime, &mut memory, &mut File(file), 100).unwrap();
            // One is dead, two are the runtime's own.
            assert_eq!(census.total(), 7, "Go {}: {:?}", runtime.go, census.walk);
            assert_eq!(dump(&mut memory, file, runtime), Some(7), "Go {}", runtime.go);
        }
    }

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = crate::mutate::Mutator::new(&seeds, 1, 16 << 10);
        let (mut taken, mut visited) = (0, 0);
        for _ in 0..2000 {
            let input = mutator.next_input();
            let Some((choices, data)) = input.split_first_chunk::<CHOICES>() else { continue };
            let (_, runtime) = &runtimes()[usize::from(choices[0]) % runtimes().len()];
            let mut memory = Bytes { data, moving: u64::from(choices[1]), reads: 0 };
            let walked = Walker::new(0).walk(runtime, &mut memory, LIMIT, |_| visited += 1);
            taken += u32::from(walked.is_ok());
        }
        assert!((300..1950).contains(&taken), "{taken} of 2000 walks succeed");
        assert!(visited > 1000, "{visited} goroutines in 2000 walks");
    }
}
