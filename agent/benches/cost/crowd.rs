//! Crowds of blocked goroutines of several sizes, looked at from outside and asked for their own profiles.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use glg_engine::census::Census;
use glg_engine::goroutines::Walker;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::dump::{self, Dumped, Form};
use crate::program::Program;
use crate::row::{Goal, Spread};
use crate::stall::{self, Stalls};
use crate::walk::{self, Walks};
use crate::{Effort, row};

/// Numbers of goroutines; the last one only when there is time.
const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Memory that a goroutine of the crowd takes, with what a profile needs for it.
const BYTES_EACH: u64 = 4096;
/// Memory that is left to everyone else.
const RESERVE: u64 = 1 << 30;
/// As in `board-configs/base.toml`.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
pub(crate) const CENSUS_SITES: usize = 512;

/// Wall clock and CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// The program's own profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Equal stacks once, with their number.
    Debug1,
    /// Every stack.
    Debug2,
}

/// A program and all that was measured of it, one value per round.
pub(crate) struct Crowd {
    pub(crate) size: u32,
    pub(crate) program: Program,
    pub(crate) walks: Walks,
    pub(crate) plain: Vec<Dumped>,
    pub(crate) grouped: Vec<Dumped>,
    pub(crate) debug1: Vec<Cost>,
    pub(crate) debug2: Vec<Cost>,
    /// Goroutines that debug=2 has shown before its text was long enough.
    pub(crate) debug2_shown: u64,
    pub(crate) stalls: Stalls,
}

impl Crowd {
    fn start(size: u32) -> Result<Crowd> {
        Ok(Crowd {
            size,
            program: Program::start("crowd", &[&size.to_string()])?,
            walks: Walks::default(),
            plain: Vec::new(),
            grouped: Vec::new(),
            debug1: Vec::new(),
            debug2: Vec::new(),
            debug2_shown: 0,
            stalls: Stalls::default(),
        })
    }

    /// Its number of goroutines as one writes it.
    pub(crate) fn label(&self) -> String {
        row::grouped(self.size.into())
    }

    /// Everything from outside, while the program rests.
    fn look(&mut self, effort: Effort, census: &mut Census, walker: &mut Walker) -> Result<()> {
        self.walks.count(&mut self.program, effort.pick(500, 2000))?;
        self.walks.census(&mut self.program, census, walker)?;
        self.plain.push(dump::take(&self.program, Form::Plain)?);
        self.grouped.push(dump::take(&self.program, Form::Grouped)?);
        Ok(())
    }

    /// The program's own profiles, while nothing else runs in it.
    fn look_inside(&mut self) -> Result<()> {
        let (cost, _) = self.profile(Profile::Debug1)?;
        self.debug1.push(cost);
        self.settle()?;
        let (cost, shown) = self.profile(Profile::Debug2)?;
        self.debug2.push(cost);
        self.debug2_shown = shown;
        self.settle()
    }

    /// Lets the program collect what its profiles have left.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.program.ask("settle").map(drop)
    }

    /// Lets the program take a profile; also says how many goroutines that has shown.
    pub(crate) fn profile(&mut self, which: Profile) -> Result<(Cost, u64)> {
        let taken = self.program.ask(match which {
            Profile::Debug1 => "profile1",
            Profile::Debug2 => "profile2",
        })?;
        let seconds = |key: &str| taken.get(key).and_then(Value::as_f64).context("no time");
        let cost = Cost { wall: seconds("seconds")? * 1e9, cpu: seconds("cpu_seconds")? * 1e9 };
        let shown = taken.get("goroutines").and_then(Value::as_u64).context("no goroutines")?;
        Ok((cost, shown))
    }
}

/// Looks and profiles take turns, and so do the crowds.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let mut crowds = start(effort)?;
    let (mut census, mut walker) = (Census::new(CENSUS_SITES), Walker::new(CHUNK_BYTES));
    let cpus = Cpus::of_this_machine()?;
    for round in 0..effort.pick(3, 9) {
        for crowd in &mut crowds {
            crowd.look(effort, &mut census, &mut walker)?;
            stall::look(crowd, &cpus, &mut census, &mut walker)?;
            // A profile of many takes so long that once has to be enough.
            if round < if crowd.size > 100_000 { 1 } else { 3 } {
                crowd.look_inside()?;
                stall::look_inside(crowd)?;
            }
        }
    }
    walk::rows(&crowds);
    dump::rows(&crowds);
    stall::rows(&crowds);
    Ok(())
}

/// What `cpu` each goroutine of the largest crowd takes, against one of the next smaller.
pub(crate) fn linear_row(crowds: &[Crowd], what: &str, limit: f64, cpu: impl Fn(&Crowd) -> Vec<f64>) {
    let [.., few, many] = crowds else { return };
    let name = format!("{what} of {} : of {}, CPU per goroutine", many.label(), few.label());
    let each =
        |crowd: &Crowd| -> Vec<f64> { cpu(crowd).iter().map(|ns| ns / f64::from(crowd.size)).collect() };
    let (few, many) = (each(few), each(many));
    let figures = format!("{} : {}", row::time(Spread::of(&many).median), row::time(Spread::of(&few).median));
    row::print(&name, Spread::of_ratios(&many, &few), Goal::AtMost(limit), &figures);
}

/// The crowds that there are time and memory for; says which it leaves out.
fn start(effort: Effort) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    for size in SIZES {
        let (needed, available) = (u64::from(size) * BYTES_EACH + RESERVE, available_bytes()?);
        let reason = if size > effort.pick(100_000, u32::MAX) {
            Some("not measured with --quick".to_owned())
        } else if needed > available {
            let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
            Some(format!("they take {} of memory, {} are available", gigabytes(needed), gigabytes(available)))
        } else {
            None
        };
        match reason {
            Some(reason) => {
                println!(
                    "{}",
                    json!({ "left_out": format!("{} goroutines: {reason}", row::grouped(size.into())) })
                );
            }
            None => crowds.push(Crowd::start(size)?),
        }
    }
    Ok(crowds)
}

/// What can be had without swapping: `MemAvailable` of proc(5).
pub(crate) fn available_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Who runs where while stalls are measured: the program on one CPU, this process and its children on another.
pub(crate) struct Cpus {
    all: CpuSet,
    program: CpuSet,
    this: CpuSet,
}

impl Cpus {
    pub(crate) fn of_this_machine() -> Result<Cpus> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false)).collect();
        let [first, .., last] = allowed.as_slice() else {
            anyhow::bail!("stalls can only be told on a machine with two processors")
        };
        let only = |cpu: usize| -> Result<CpuSet> {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            Ok(set)
        };
        Ok(Cpus { program: only(*first)?, this: only(*last)?, all })
    }

    /// Does `job` while the program and this process do not share a CPU.
    pub(crate) fn apart<T>(&self, pid: u32, job: impl FnOnce() -> Result<T>) -> Result<T> {
        let settle = |program: &CpuSet, this: &CpuSet| -> Result<()> {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let tid = task?.file_name().to_string_lossy().parse()?;
                sched_setaffinity(Pid::from_raw(tid), program)?;
            }
            Ok(sched_setaffinity(Pid::from_raw(0), this)?)
        };
        settle(&self.program, &self.this)?;
        let done = job();
        settle(&self.all, &self.all)?;
        done
    }
}

/// Wall clock and CPU time that this process spends on `job`.
pub(crate) fn timed(job: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let cpu = || -> Result<Duration> {
        Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
    };
    let (began, before) = (Instant::now(), cpu()?);
    job()?;
    let wall = began.elapsed().as_secs_f64() * 1e9;
    Ok(Cost { wall, cpu: cpu()?.saturating_sub(before).as_secs_f64() * 1e9 })
}
