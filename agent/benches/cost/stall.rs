//! How long a program is kept from running while it is looked at: the longest time between two looks at the clock
//! of a goroutine that does nothing else.
//!
//! Program and onlooker have a CPU each, so that what is seen is not the scheduler's work. A machine has stalls of
//! its own; they are measured for as long with nobody looking, in turns.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use glg_engine::census::Census;
use glg_engine::goroutines::Walker;
use serde_json::Value;

use crate::crowd::{Cpus, Crowd, Profile};
use crate::dump::{self, Form};
use crate::program::Program;
use crate::row::{self, Goal, Spread, time};

/// What is quick is repeated for as long.
const AT_LEAST: Duration = Duration::from_millis(100);

/// A way to look from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Census,
    Dump,
}

const LOOKS: [(Look, &str); 2] = [(Look::Census, "census"), (Look::Dump, "dump")];

/// The longest stalls in nanoseconds, one value per round.
#[derive(Default)]
pub(crate) struct Stalls {
    /// With somebody looking, and for as long with nobody: one pair for each of [`LOOKS`].
    looks: [(Vec<f64>, Vec<f64>); LOOKS.len()],
    debug1: Vec<f64>,
    debug2: Vec<f64>,
}

/// Every way to look takes turns with nobody looking.
pub(crate) fn look(crowd: &mut Crowd, cpus: &Cpus, census: &mut Census, walker: &mut Walker) -> Result<()> {
    let Crowd { program, stalls, .. } = crowd;
    let pid = program.remote.id.pid;
    cpus.apart(pid, || {
        for ((way, _), (looking, alone)) in LOOKS.into_iter().zip(&mut stalls.looks) {
            let mut length = Duration::ZERO;
            looking.push(during(program, |program| {
                let began = Instant::now();
                while length < AT_LEAST {
                    match way {
                        Look::Census => program.census(census, walker)?,
                        Look::Dump => drop(dump::take(program, Form::Plain)?),
                    }
                    length = began.elapsed();
                }
                Ok(())
            })?);
            alone.push(during(program, |_| {
                sleep(length);
                Ok(())
            })?);
        }
        Ok(())
    })
}

/// The same while the program takes its own profiles, on all CPUs.
pub(crate) fn look_inside(crowd: &mut Crowd) -> Result<()> {
    for which in [Profile::Debug1, Profile::Debug2] {
        crowd.program.ask("spin")?;
        crowd.profile(which)?;
        let longest = stop(&mut crowd.program)?;
        match which {
            Profile::Debug1 => crowd.stalls.debug1.push(longest),
            Profile::Debug2 => crowd.stalls.debug2.push(longest),
        }
        crowd.settle()?;
    }
    Ok(())
}

fn during(program: &mut Program, job: impl FnOnce(&mut Program) -> Result<()>) -> Result<f64> {
    program.ask("spin")?;
    job(program)?;
    stop(program)
}

fn stop(program: &mut Program) -> Result<f64> {
    program.ask("stall")?.get("longest_ns").and_then(Value::as_f64).context("no stall")
}

pub(crate) fn rows(crowds: &[Crowd]) {
    let spread = |ns: &[f64]| {
        let Spread { median, high, .. } = Spread::of(ns);
        format!("{} (max {})", time(median), time(high))
    };
    for (index, (_, what)) in LOOKS.into_iter().enumerate() {
        for crowd in crowds {
            let Some((looking, alone)) = crowd.stalls.looks.get(index) else { continue };
            let name = format!("longest stall, {what} of {} : nobody looking", crowd.label());
            let figures = format!("{} : {}", spread(looking), spread(alone));
            row::print(&name, Spread::of_ratios(looking, alone), Goal::AtMost(1.25), &figures);
        }
    }
    for crowd in crowds {
        let Stalls { looks: [_, (_, alone)], debug1, debug2 } = &crowd.stalls;
        for (what, own) in [("debug=1", debug1), ("debug=2", debug2)] {
            let name = format!("longest stall, its own {what} of {} : nobody looking", crowd.label());
            let figures = format!("{} : {}", spread(own), spread(alone));
            row::print(&name, Spread::of_ratios(own, alone), Goal::None, &figures);
        }
    }
}
