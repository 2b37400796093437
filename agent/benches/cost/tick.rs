//! What a tick of the service takes for threads that wait in C: the runtime's list says that they are outside of Go, and
//! `/proc` is asked of each whether it is in the same wait as before; at every sixteenth tick, where it stands. As a
//! share of a core at one tick a second, because that is what a program of the kernel that lists them (`iter/task`)
//! would have to beat.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use glg_engine::detector::GrowthRule;
use glg_engine::locks::scan::{LockLimits, Scan, Subject};
use glg_engine::locks::watching::{LockConfig, LockWatch};

use crate::Effort;
use crate::crowd::timed;
use crate::program::Program;
use crate::row::{self, Goal, Spread, grouped, time};

/// Threads that wait for one lock.
const SIZES: [u32; 3] = [10, 100, 1000];
/// Room for all of them.
const CONFIG: LockConfig = LockConfig {
    limits: LockLimits { threads: 2000, goroutines: 1000 },
    deadlock_ms: 10_000,
    wait_ms: 300_000,
    remind_ms: 3_600_000,
    threads: GrowthRule { window_s: 1800, min_rise: 16, min_ratio_percent: 100 },
    contention: None,
};
/// Ticks of which one asks for everything anew.
const ROUND: u32 = 16;
/// Nanoseconds that one thread may take: one file of `/proc`, some 5 µs on a virtual machine.
const EACH_NS: f64 = 7000.0;
/// And what the rest may: the runtime's list, and its own threads that are outside of Go.
const REST_NS: f64 = 30_000.0;
/// A tick a second.
const TICK_NS: f64 = 1e9;
/// Within this time all of them wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program, and the CPU time of a tick in nanoseconds, one value per round.
struct Waiting {
    size: u32,
    program: Program,
    watch: LockWatch,
    now_ms: u64,
    ticks: Vec<f64>,
}

impl Waiting {
    fn start(size: u32, scan: &mut Scan) -> Result<Waiting> {
        let program = Program::start("locking-cgo", &["waiting", &size.to_string()])?;
        let mut waiting =
            Waiting { size, program, watch: LockWatch::default(), now_ms: 0, ticks: Vec::new() };
        let began = Instant::now();
        loop {
            match waiting.tick(scan)? {
                all if all == size => return Ok(waiting),
                some if began.elapsed() > PATIENCE => bail!("of {size} threads {some} wait"),
                _ => {}
            }
        }
    }

    /// As the service does it, and how many were seen to wait.
    fn tick(&mut self, scan: &mut Scan) -> Result<u32> {
        let Program { remote, runtime, .. } = &mut self.program;
        let process = remote.process();
        let mut subject =
            Subject { runtime, memory: process.memory, image: process.image, threads: process.threads };
        self.now_ms += 1000;
        Ok(self.watch.tick(self.now_ms, scan, &mut subject, &CONFIG)?.figures.waiting)
    }

    /// So many ticks.
    fn round(&mut self, times: u32, scan: &mut Scan) -> Result<()> {
        let mut fewest = u32::MAX;
        let cost = timed(|| {
            for _ in 0..times {
                fewest = fewest.min(self.tick(scan)?);
            }
            Ok(())
        })?;
        if fewest != self.size {
            bail!("of {} threads {fewest} were seen waiting", self.size);
        }
        self.ticks.push(cost.cpu / f64::from(times));
        Ok(())
    }
}

/// The programs take turns.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let mut scan = Scan::default();
    let mut programs = Vec::new();
    for size in SIZES {
        programs.push(Waiting::start(size, &mut scan)?);
    }
    for _ in 0..effort.pick(3, 9) {
        for program in &mut programs {
            // As long for few threads as for many.
            let rounds = (effort.pick(5, 20) * 1000 / program.size / ROUND).max(1);
            program.round(rounds * ROUND, &mut scan)?;
        }
    }
    for Waiting { size, ticks, .. } in &programs {
        let shares: Vec<f64> = ticks.iter().map(|ns| ns / TICK_NS).collect();
        let (share, tick) = (Spread::of(&shares), Spread::of(ticks).median);
        let name = format!("a tick with {} threads that wait in C : a core", grouped((*size).into()));
        let each = time(tick / f64::from(*size));
        let figures = format!("{}, {each} a thread: {:.3} % of a core", time(tick), share.median * 100.0);
        row::print(&name, share, Goal::AtMost((REST_NS + f64::from(*size) * EACH_NS) / TICK_NS), &figures);
    }
    Ok(())
}
