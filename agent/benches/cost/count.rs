//! What one count and one census take, and how that grows with the number of goroutines.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Context, Result};
use glg_engine::census::Census;
use glg_engine::goroutines::{Counter, Walker};
use glg_engine::memory::{Error, Memory, Run};

use crate::Effort;
use crate::program::Program;
use crate::row::{self, Goal, Spread, time};

const SIZES: [&str; 3] = ["1000", "10000", "100000"];
/// As in `board-configs/base.toml`.
const CHUNK_BYTES: usize = 64 * 1024;
const CENSUS_SITES: usize = 512;
/// What a count may take at most, in nanoseconds.
const COUNT_GOAL: f64 = 6_000.0;

/// A process's memory through `/proc/PID/mem`, one system call per stretch.
struct ProcMem(File);

impl Memory for ProcMem {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        let mut rest = out;
        for run in runs {
            let unreadable = Error::Unreadable { at: run.at.0 };
            let (now, later) = rest.split_at_mut_checked(run.len).ok_or(unreadable)?;
            self.0.read_exact_at(now, run.at.0).map_err(|_| unreadable)?;
            rest = later;
        }
        Ok(())
    }
}

/// A parked program and all that was measured of it, in nanoseconds; one value per round.
struct Parked {
    program: Program,
    mem: ProcMem,
    mem_counter: Counter,
    counts: Vec<f64>,
    mem_counts: Vec<f64>,
    censuses: Vec<f64>,
    profiles: Vec<f64>,
}

impl Parked {
    fn start(goroutines: &str) -> Result<Parked> {
        let program = Program::start("park", &[goroutines])?;
        let mem = ProcMem(File::open(format!("/proc/{}/mem", program.remote.id.pid))?);
        let none = Vec::new;
        Ok(Parked {
            program,
            mem,
            mem_counter: Counter::default(),
            counts: none(),
            mem_counts: none(),
            censuses: none(),
            profiles: none(),
        })
    }

    fn count(&mut self, times: u32) -> Result<()> {
        let began = Instant::now();
        for _ in 0..times {
            self.program.count()?;
        }
        self.counts.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(times));
        let began = Instant::now();
        for _ in 0..times {
            self.mem_counter.count(&self.program.runtime, &mut self.mem)?;
        }
        self.mem_counts.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(times));
        Ok(())
    }

    fn census(&mut self, census: &mut Census, walker: &mut Walker) -> Result<()> {
        let Program { remote, runtime, .. } = &mut self.program;
        let process = remote.process();
        let began = Instant::now();
        census.take(walker, runtime, process.memory, process.image, u64::MAX)?;
        self.censuses.push(began.elapsed().as_secs_f64() * 1e9);
        Ok(())
    }

    /// The program's own profile, `pprof/goroutine?debug=2`, on its standard input instead of over HTTP.
    fn profile(&mut self) -> Result<()> {
        let began = Instant::now();
        self.program.ask("sites")?;
        self.profiles.push(began.elapsed().as_secs_f64() * 1e9);
        Ok(())
    }
}

/// Counts, censuses and the programs' own profiles take turns.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let mut parked = SIZES.into_iter().map(Parked::start).collect::<Result<Vec<Parked>>>()?;
    let (mut census, mut walker) = (Census::new(CENSUS_SITES), Walker::new(CHUNK_BYTES));
    for round in 0..effort.pick(7, 21) {
        for program in &mut parked {
            program.count(effort.pick(500, 2000))?;
            program.census(&mut census, &mut walker)?;
        }
        let [_, middle, _] = parked.as_mut_slice() else { continue };
        if round % 3 == 0 {
            middle.profile()?;
        }
    }
    let [small, middle, large] = parked.as_slice() else { return Ok(()) };
    count_rows(small, middle, large);
    census_rows(small, middle, large).context("no rounds")
}

fn count_rows(small: &Parked, middle: &Parked, large: &Parked) {
    let typical = |ns: &[f64]| time(Spread::of(ns).median);
    let ratio = Spread::of_ratios(&large.counts, &small.counts);
    let figures = format!(
        "{} : {} : {} at 1,000, 10,000, 100,000",
        typical(&small.counts),
        typical(&middle.counts),
        typical(&large.counts)
    );
    row::print("count at 100,000 goroutines : at 1,000", ratio, Goal::AtMost(1.25), &figures);
    let goal = vec![COUNT_GOAL; middle.counts.len()];
    let figures = format!("{} : {}", typical(&middle.counts), time(COUNT_GOAL));
    row::print(
        "count : its goal of 6 µs",
        Spread::of_ratios(&middle.counts, &goal),
        Goal::AtMost(1.0),
        &figures,
    );
    let ratio = Spread::of_ratios(&middle.counts, &middle.mem_counts);
    let figures = format!("{} : {}", typical(&middle.counts), typical(&middle.mem_counts));
    row::print("count : one pread of /proc/PID/mem per stretch", ratio, Goal::AtMost(1.0), &figures);
    let ratio = Spread::of_ratios(&middle.counts, &middle.profiles);
    let figures = format!("{} : {} at 10,000", typical(&middle.counts), typical(&middle.profiles));
    row::print("count : the program's own profile (debug=2)", ratio, Goal::AtMost(0.001), &figures);
}

fn census_rows(small: &Parked, middle: &Parked, large: &Parked) -> Option<()> {
    let typical = |ns: &[f64]| time(Spread::of(ns).median);
    let each = |ns: &[f64], goroutines: f64| ns.iter().map(|ns| ns / goroutines).collect::<Vec<f64>>();
    let (few, many) = (each(&middle.censuses, 1e4), each(&large.censuses, 1e5));
    let figures = format!(
        "{} : {} : {} at 1,000, 10,000, 100,000; {} a goroutine",
        typical(&small.censuses),
        typical(&middle.censuses),
        typical(&large.censuses),
        typical(&many)
    );
    let ratio = Spread::of_ratios(&many, &few);
    row::print("census, per goroutine, at 100,000 : at 10,000", ratio, Goal::AtMost(1.5), &figures);
    let censuses: Vec<f64> = middle.censuses.iter().step_by(3).copied().collect();
    let ratio = Spread::of_ratios(&censuses, &middle.profiles);
    let figures =
        format!("{} : {} at 10,000, without stopping it", typical(&censuses), typical(&middle.profiles));
    row::print("census : the program's own profile (debug=2)", ratio, Goal::AtMost(0.1), &figures);
    (!censuses.is_empty()).then_some(())
}
