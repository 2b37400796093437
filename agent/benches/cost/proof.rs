//! One pass of a proof of leaks, beside the runtime's own profile of leaks: time, CPU time, memory, and for how long
//! the program is kept from running.
//!
//! Each pass is made by a process of its own, so that its memory is known: this program, begun with `one-pass`.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use glg_engine::cached_image::CachedImage;
use glg_engine::reach::proof::{Grade, Plan, Proof};
use glg_engine::reach::{Places, ReachLimits, Subject};
use glg_engine::runtime::Runtime;
use goleakguard::remote::Remote;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Effort;
use crate::crowd::{Cost, Cpus, available_bytes, timed};
use crate::program::Program;
use crate::row::{self, Goal, Spread, grouped, time};

/// The first release that has a profile of leaks.
const GO: &str = "1.27.3";
/// As in `board-configs/base.toml`: KiB that a pass may take, seconds, goroutines.
const DEFAULTS: Bounds = Bounds { kib: 24 << 10, seconds: 20 };
const GOROUTINES_MAX: u64 = 200_000;
/// What is given to a heap that takes more.
const WIDE: Bounds = Bounds { kib: 256 << 10, seconds: 300 };
/// Memory that a heap takes beside its objects while it is made.
const RESERVE: u64 = 1 << 30;
/// Passes that a machine's own stalls are compared with last so long together, at least.
const AT_LEAST: Duration = Duration::from_millis(500);

/// Bounds of one pass.
#[derive(Clone, Copy)]
struct Bounds {
    kib: usize,
    seconds: u64,
}

/// A program, and what a pass over it may take.
struct Heap {
    label: &'static str,
    goroutines: &'static str,
    mib: u64,
    shape: &'static str,
    bounds: Bounds,
    /// Nanoseconds.
    goal: Option<f64>,
}

impl Heap {
    /// How often it is measured: what takes longer than is allowed by default, once.
    fn rounds(&self, effort: Effort) -> u32 {
        if self.bounds.kib > DEFAULTS.kib { 1 } else { effort.pick(2, 5) }
    }
}

const HEAPS: [Heap; 5] = [
    Heap {
        label: "100,000 goroutines, 16 MiB",
        goroutines: "100000",
        mib: 16,
        shape: "tree",
        bounds: DEFAULTS,
        goal: Some(350e6),
    },
    Heap {
        label: "256 MiB of small objects",
        goroutines: "1000",
        mib: 256,
        shape: "tree",
        bounds: DEFAULTS,
        goal: Some(3e9),
    },
    Heap {
        label: "256 MiB, one list in any order",
        goroutines: "1000",
        mib: 256,
        shape: "list",
        bounds: WIDE,
        goal: None,
    },
    Heap {
        label: "1 GiB of small objects",
        goroutines: "1000",
        mib: 1024,
        shape: "tree",
        bounds: DEFAULTS,
        goal: None,
    },
    Heap {
        label: "1 GiB without pointers",
        goroutines: "1000",
        mib: 1024,
        shape: "data",
        bounds: DEFAULTS,
        goal: None,
    },
];

/// What one pass took, as the process that made it says.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Passed {
    wall: f64,
    cpu: f64,
    /// KiB that the process had more at its peak than before.
    grown: u64,
    /// KiB that it had at its peak, all together.
    peak: u64,
    /// Goroutines that nobody can wake, as far as this pass shows.
    unreached: usize,
    abstained: Option<String>,
}

/// One value per round.
#[derive(Default)]
struct Rounds {
    passes: Vec<Passed>,
    profiles: Vec<Cost>,
    /// Nanoseconds: with a pass, for as long with nobody looking, and with the program's own profile.
    stalls: [Vec<f64>; 3],
}

/// Every heap by itself, because they are large; passes and profiles take turns.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let cpus = Cpus::of_this_machine()?;
    for heap in &HEAPS {
        let (needed, available) = (4 * (heap.mib << 20) + RESERVE, available_bytes()?);
        if effort == Effort::Quick && (heap.mib > 256 || heap.bounds.kib > DEFAULTS.kib) {
            left_out(heap.label, "not measured with --quick");
        } else if needed > available {
            left_out(heap.label, &format!("it takes {} MiB, of which not all are available", needed >> 20));
        } else {
            heap.measure(heap.rounds(effort), &cpus).with_context(|| heap.label)?;
        }
    }
    Ok(())
}

fn left_out(label: &str, why: &str) {
    println!("{}", json!({ "left_out": format!("{label}: {why}") }));
}

impl Heap {
    fn measure(&self, rounds: u32, cpus: &Cpus) -> Result<()> {
        let args = [self.goroutines, &self.mib.to_string(), self.shape];
        let mut program = Program::start_of(GO, "heaps", &args)?;
        let (pid, mut took) = (program.remote.id.pid, Rounds::default());
        for _ in 0..rounds {
            took.passes.push(one_pass(pid, self.bounds)?);
            took.profiles.push(profile(&mut program)?);
            cpus.apart(pid, || took.stall_of_pass(&mut program, self.bounds))?;
            program.ask("spin")?;
            profile(&mut program)?;
            took.stalls[2].push(longest(&mut program)?);
        }
        let by_default = match self.bounds.kib > DEFAULTS.kib {
            true => one_pass(pid, DEFAULTS)?.abstained,
            false => None,
        };
        let expected = self.goroutines.parse::<usize>()? / 2;
        for pass in &took.passes {
            ensure!(pass.abstained.is_none(), "nothing can be said: {:?}", pass.abstained);
            // One pass takes what its stacks happen to refer to for used.
            let unreached = pass.unreached;
            ensure!(
                (expected * 99 / 100..=expected).contains(&unreached),
                "{unreached} of {expected} unreached"
            );
        }
        self.rows(&took, by_default.as_deref());
        Ok(())
    }

    fn rows(&self, took: &Rounds, by_default: Option<&str>) {
        let label = self.label;
        let of = |which: fn(&Passed) -> f64| -> Vec<f64> { took.passes.iter().map(which).collect() };
        let theirs = |which: fn(&Cost) -> f64| -> Vec<f64> { took.profiles.iter().map(which).collect() };
        let walls = of(|pass| pass.wall);
        for (what, ours, theirs) in [
            ("time", &walls, theirs(|cost| cost.wall)),
            ("CPU time", &of(|pass| pass.cpu), theirs(|cost| cost.cpu)),
        ] {
            let figures = format!("{} : {}", time(Spread::of(ours).median), time(Spread::of(&theirs).median));
            let name = format!("{label}: {what} of a pass : of its own profile");
            row::print(&name, Spread::of_ratios(ours, &theirs), Goal::None, &figures);
        }
        if let Some(goal) = self.goal {
            let figures = format!("{} : {}", time(Spread::of(&walls).median), time(goal));
            let goals = vec![goal; walls.len()];
            row::print(
                &format!("{label}: a pass : its goal"),
                Spread::of_ratios(&walls, &goals),
                Goal::AtMost(1.0),
                &figures,
            );
        }
        let most = |of: fn(&Passed) -> u64| took.passes.iter().map(of).max().unwrap_or(0);
        let defaults =
            by_default.map_or(String::new(), |why| format!("; by default nothing is proven: {why}"));
        let figures = format!(
            "{} KiB, {} KiB with program and libraries{defaults}",
            grouped(most(|pass| pass.grown)),
            grouped(most(|pass| pass.peak))
        );
        let shares =
            of(|pass| pass.grown as f64).iter().map(|kib| kib / self.bounds.kib as f64).collect::<Vec<_>>();
        let name = format!("{label}: memory of a pass : {} MiB", self.bounds.kib >> 10);
        row::print(&name, Spread::of(&shares), Goal::AtMost(1.0), &figures);
        self.stall_rows(&took.stalls);
    }

    fn stall_rows(&self, [pass, alone, profile]: &[Vec<f64>; 3]) {
        let spread = |ns: &[f64]| {
            let Spread { median, high, .. } = Spread::of(ns);
            format!("{} (max {})", time(median), time(high))
        };
        for (what, own, goal) in
            [("a pass", pass, Goal::AtMost(1.25)), ("its own profile", profile, Goal::None)]
        {
            let name = format!("{}: longest stall, {what} : nobody looking", self.label);
            let figures = format!("{} : {}", spread(own), spread(alone));
            row::print(&name, Spread::of_ratios(own, alone), goal, &figures);
        }
    }
}

impl Rounds {
    /// The longest stall while passes are made, and for as long with nobody looking.
    fn stall_of_pass(&mut self, program: &mut Program, bounds: Bounds) -> Result<()> {
        let began = Instant::now();
        program.ask("spin")?;
        while began.elapsed() < AT_LEAST {
            one_pass(program.remote.id.pid, bounds)?;
        }
        let length = began.elapsed();
        self.stalls[0].push(longest(program)?);
        program.ask("spin")?;
        sleep(length);
        self.stalls[1].push(longest(program)?);
        Ok(())
    }
}

fn longest(program: &mut Program) -> Result<f64> {
    program.ask("stall")?.get("longest_ns").and_then(Value::as_f64).context("no stall")
}

/// Lets the program take its own profile of leaks, and collect what that has left.
fn profile(program: &mut Program) -> Result<Cost> {
    let taken = program.ask("leaks")?;
    let seconds = |key: &str| taken.get(key).and_then(Value::as_f64).context("no time");
    let cost = Cost { wall: seconds("seconds")? * 1e9, cpu: seconds("cpu_seconds")? * 1e9 };
    ensure!(taken.get("leaked").and_then(Value::as_u64) > Some(0), "its own profile names nobody");
    program.ask("settle")?;
    Ok(cost)
}

/// Has a pass made by a process of its own.
fn one_pass(pid: u32, bounds: Bounds) -> Result<Passed> {
    let numbers = [u64::from(pid), bounds.kib as u64, bounds.seconds].map(|number| number.to_string());
    let mut command = Command::new(env::current_exe()?);
    let out = command.arg("one-pass").args(numbers).stderr(Stdio::inherit()).output()?;
    ensure!(out.status.success(), "a pass: {}", out.status);
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// `one-pass PID KIB SECONDS`: makes it, and says what it took.
pub(crate) fn make_one_pass(numbers: &[String]) -> Result<()> {
    let numbers = numbers.iter().map(|number| Ok(number.parse()?)).collect::<Result<Vec<u64>>>()?;
    let [pid, kib, seconds] = numbers[..] else { bail!("one-pass PID KIB SECONDS") };
    let mut remote = Remote::open(u32::try_from(pid)?)?.context("no such Go program")?;
    let entry = remote.entry;
    let process = remote.process();
    let mut runtime = Runtime::open(process.image, entry)?;
    runtime.confirm(process.memory)?;
    let places = &Places::find(&runtime, process.memory, process.image)?;
    // From here on the peak counts (proc(5), `/proc/PID/clear_refs`).
    fs::write("/proc/self/clear_refs", "5")?;
    let before = memory("VmRSS:")?;
    let limits = ReachLimits { memory_bytes: usize::try_from(kib * 1024)?, goroutines: GOROUTINES_MAX };
    let (began, most) = (Instant::now(), Duration::from_secs(seconds));
    let mut proof = Proof::new(runtime.layout, limits);
    // As in every observation: who stands still is known by the look before.
    proof.glance(&runtime, process.memory)?;
    let image = &mut CachedImage::new(process.image);
    let cost = timed(|| {
        let (memory, expired) = (process.memory, &mut || began.elapsed() > most);
        let subject = &mut Subject { runtime: &runtime, memory, image, places, regions: None, expired };
        Ok(proof.pass(subject)?)
    })?;
    let peak = memory("VmHWM:")?;
    let findings = proof.findings(Plan { passes: 1, millis: 0 });
    let unreached = findings.iter().filter(|found| found.grade == Grade::Proven).count();
    let passed = Passed {
        wall: cost.wall,
        cpu: cost.cpu,
        grown: peak.saturating_sub(before),
        peak,
        unreached,
        abstained: proof.abstained().map(|why| why.to_string()),
    };
    println!("{}", serde_json::to_string(&passed)?);
    Ok(())
}

/// Of this process in KiB, proc(5).
fn memory(key: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
