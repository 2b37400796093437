//! What looking at the threads of a process takes: the glance of every tick, and the look at all that waits.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use glg_engine::locks::scan::{LockLimits, Scan, Subject};

use crate::Effort;
use crate::crowd::timed;
use crate::program::Program;
use crate::row::{self, Goal, Spread, grouped, time};

/// Threads that wait for one lock.
const SIZES: [u32; 2] = [100, 1000];
const LIMITS: LockLimits = LockLimits { threads: 2000, goroutines: 1000 };
/// Within this time all of them wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program, and what was measured of it in nanoseconds of CPU time, one value per round.
struct Waiting {
    size: u32,
    program: Program,
    glances: Vec<f64>,
    looks: Vec<f64>,
}

impl Waiting {
    fn start(size: u32, scan: &mut Scan) -> Result<Waiting> {
        let program = Program::start("locking-cgo", &["waiting", &size.to_string()])?;
        let mut waiting = Waiting { size, program, glances: Vec::new(), looks: Vec::new() };
        let began = Instant::now();
        while scan.figures.waiting != size {
            if began.elapsed() > PATIENCE {
                bail!("of {size} threads {} wait", scan.figures.waiting);
            }
            scan.glance(&mut waiting.subject(), LIMITS)?;
        }
        Ok(waiting)
    }

    fn subject(&mut self) -> Subject<'_> {
        let Program { remote, runtime, .. } = &mut self.program;
        let process = remote.process();
        Subject { runtime, memory: process.memory, image: process.image, threads: process.threads }
    }

    /// Both ways to look, so many times.
    fn round(&mut self, times: u32, scan: &mut Scan) -> Result<()> {
        let mut subject = self.subject();
        let glances = timed(|| (0..times).try_for_each(|_| Ok(scan.glance(&mut subject, LIMITS)?)))?;
        let looks = timed(|| (0..times).try_for_each(|_| Ok(scan.look(&mut subject, LIMITS)?)))?;
        self.glances.push(glances.cpu / f64::from(times));
        self.looks.push(looks.cpu / f64::from(times));
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
            program.round(effort.pick(5, 20), &mut scan)?;
        }
    }
    inside(effort, &mut scan)?;
    let [few, many] = programs.as_slice() else { return Ok(()) };
    for (what, of) in [("glance", (|w| &w.glances) as fn(&Waiting) -> &Vec<f64>), ("look", |w| &w.looks)] {
        let each = |w: &Waiting| -> Vec<f64> { of(w).iter().map(|ns| ns / f64::from(w.size)).collect() };
        let name = format!(
            "{what} at {} waiting threads : at {}, CPU per thread",
            grouped(many.size.into()),
            grouped(few.size.into())
        );
        let figures = format!("{} : {}", time(Spread::of(of(many)).median), time(Spread::of(of(few)).median));
        row::print(&name, Spread::of_ratios(&each(many), &each(few)), Goal::AtMost(1.5), &figures);
    }
    Ok(())
}

/// What a tick saves by asking the kernel only for threads that the runtime says are outside of Go: here for none.
fn inside(effort: Effort, scan: &mut Scan) -> Result<()> {
    let mut program = Program::start("park", &["1000"])?;
    let Program { remote, runtime, .. } = &mut program;
    let process = remote.process();
    let mut subject =
        Subject { runtime, memory: process.memory, image: process.image, threads: process.threads };
    let (mut all, mut outside) = (Vec::new(), Vec::new());
    let times = effort.pick(50, 500);
    for _ in 0..effort.pick(3, 9) {
        let (subject, each) = (&mut subject, f64::from(times));
        all.push(timed(|| (0..times).try_for_each(|_| Ok(scan.glance(subject, LIMITS)?)))?.cpu / each);
        let whose = scan.newcomer();
        let mut again = || scan.glance_again(subject, LIMITS, whose, false, &|_| false);
        let only = || (0..times).try_for_each(|_| Ok(again()?));
        outside.push(timed(only)?.cpu / each);
    }
    let threads = scan.figures.threads;
    let name = format!("glance at a program with {threads} idle threads : with the kernel asked for each");
    let figures = format!("{} : {}", time(Spread::of(&outside).median), time(Spread::of(&all).median));
    row::print(&name, Spread::of_ratios(&outside, &all), Goal::AtMost(1.0), &figures);
    Ok(())
}
