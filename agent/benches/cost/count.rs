//! What one count takes, against other ways to learn the same.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::Result;
use glg_engine::goroutines::Counter;
use glg_engine::memory::{Error, Memory, Run};

use crate::Effort;
use crate::program::Program;
use crate::row::{self, Goal, Spread, time};

const GOROUTINES: &str = "10000";

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

/// Nanoseconds that each of `times` turns of `job` takes.
fn each(times: u32, mut job: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..times {
        job()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(times))
}

/// Counts and the program's own profile take turns.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let mut program = Program::start("park", &[GOROUTINES])?;
    let mut mem = ProcMem(File::open(format!("/proc/{}/mem", program.remote.id.pid))?);
    let mut mem_counter = Counter::default();
    let (mut counts, mut mem_counts, mut profiles) = (Vec::new(), Vec::new(), Vec::new());
    let times = effort.pick(500, 2000);
    for _ in 0..effort.pick(3, 9) {
        counts.push(each(times, || program.count().map(drop))?);
        mem_counts.push(each(times, || Ok(mem_counter.count(&program.runtime, &mut mem).map(drop)?))?);
        // `pprof/goroutine?debug=2`, on its standard output instead of over HTTP.
        profiles.push(each(1, || program.ask("sites").map(drop))?);
    }
    let typical = |ns: &[f64]| time(Spread::of(ns).median);
    for (other, others, goal) in [
        ("one pread of /proc/PID/mem per stretch", &mem_counts, 1.0),
        ("the program's own profile (debug=2)", &profiles, 0.001),
    ] {
        let figures = format!("{} : {} at 10,000", typical(&counts), typical(others));
        let ratio = Spread::of_ratios(&counts, others);
        row::print(&format!("count : {other}"), ratio, Goal::AtMost(goal), &figures);
    }
    Ok(())
}
