//! What watching and probing cost a program that creates goroutines: in a tight loop, which is the worst there
//! can be, and at the rate of a busy service.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use glg_engine::governor::{Governor, HitCost};
use glg_engine::probe_point::HitClass;
use goleakguard::probes::Probes;

use crate::Effort;
use crate::program::{At, Program, load_probes};
use crate::row::{self, Goal, Spread};

/// What is done to the program for the length of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Unwatched,
    /// Goroutine counts so many times a second.
    Watched(u32),
    Probed(At),
}

/// What a turn showed.
struct Turn {
    /// Goroutines created per second, by the program's own count; 0 where it keeps none.
    rate: f64,
    /// CPU time of the program in nanoseconds per second.
    cpu: f64,
    /// Of the probes, by the governor's reckoning, in per cent of a core.
    governor_percent: f64,
    /// Hits of both probes.
    hits: u64,
}

/// Everything that takes turns.
struct Bench {
    program: Program,
    probes: Probes,
    cost: HitCost,
    length: Duration,
    says_rate: bool,
}

impl Bench {
    fn start(name: &str, args: &[&str], length: Duration) -> Result<Bench> {
        let mut probes = load_probes()?;
        let costs = probes.calibrate()?;
        let cost = HitCost { emulated_ns: costs.emulated_ns, stepped_ns: costs.stepped_ns };
        let program = Program::start(name, args)?;
        Ok(Bench { program, probes, cost, length, says_rate: name == "spawn" })
    }

    /// All treatments take turns, `rounds` times; the result has one list per treatment.
    fn rounds(&mut self, treatments: &[Treatment], rounds: usize) -> Result<Vec<Vec<Turn>>> {
        let mut turns: Vec<Vec<Turn>> = treatments.iter().map(|_| Vec::with_capacity(rounds)).collect();
        for _ in 0..rounds {
            for (treatment, turns) in treatments.iter().zip(&mut turns) {
                turns.push(self.turn(*treatment)?);
            }
        }
        Ok(turns)
    }

    fn turn(&mut self, treatment: Treatment) -> Result<Turn> {
        match treatment {
            Treatment::Unwatched => self.measure(|bench| bench.pass(None)),
            Treatment::Watched(per_second) => self.measure(|bench| bench.pass(Some(per_second))),
            Treatment::Probed(at) => {
                let (id, classes) = self.program.attach(&mut self.probes, at)?;
                let turn = self.charged(classes);
                self.probes.detach(id);
                turn
            }
        }
    }

    /// A turn under probes that the governor only watches: it would take them off a loop as tight as this one.
    fn charged(&mut self, classes: [HitClass; 2]) -> Result<Turn> {
        let hits =
            |probes: &Probes| probes.counters().map(|counters| [counters.create_hits, counters.exit_hits]);
        let began = Instant::now();
        let before = hits(&self.probes)?;
        let mut governor = Governor::start(100.0, classes.map(|class| self.cost.of(class)), 0, before);
        let turn = self.measure(|bench| bench.pass(None))?;
        let millis = u64::try_from(began.elapsed().as_millis())?;
        governor.charge(millis, hits(&self.probes)?);
        let spent = governor.spent();
        Ok(Turn { governor_percent: spent.percent, hits: spent.hits, ..turn })
    }

    /// Lets a turn's time pass, counting goroutines meanwhile if asked to.
    fn pass(&mut self, counts_per_second: Option<u32>) -> Result<()> {
        let began = Instant::now();
        let Some(per_second) = counts_per_second else {
            sleep(self.length);
            return Ok(());
        };
        let pause = Duration::from_secs(1) / per_second;
        loop {
            self.program.count()?;
            let left = self.length.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            sleep(pause.min(left));
        }
    }

    fn measure(&mut self, during: impl FnOnce(&mut Bench) -> Result<()>) -> Result<Turn> {
        let _ = self.rate()?; // begins a new interval
        let (began, cpu) = (Instant::now(), self.program.cpu()?);
        during(self)?;
        let used = self.program.cpu()?.saturating_sub(cpu);
        let cpu = used.as_secs_f64() * 1e9 / began.elapsed().as_secs_f64();
        Ok(Turn { rate: self.rate()?, cpu, governor_percent: 0.0, hits: 0 })
    }

    /// Goroutines per second since the last call, for programs that know.
    fn rate(&mut self) -> Result<f64> {
        if !self.says_rate {
            return Ok(0.0);
        }
        self.program.ask("rate")?.get("rate").and_then(serde_json::Value::as_f64).context("no rate")
    }
}

fn series(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> Vec<f64> {
    turns.iter().map(of).collect()
}

/// Throughput of a program that does nothing but create goroutines.
pub(crate) fn tight_loop(effort: Effort) -> Result<()> {
    const TREATMENTS: [(&str, Treatment, Goal); 5] = [
        ("unwatched", Treatment::Unwatched, Goal::None),
        ("Watch, 1 count a second", Treatment::Watched(1), Goal::AtLeast(0.97)),
        ("Watch, 10 counts a second", Treatment::Watched(10), Goal::AtLeast(0.95)),
        ("Attribute, at an emulated instruction", Treatment::Probed(At::Emulated), Goal::None),
        ("plain uprobes at function entry", Treatment::Probed(At::Entry), Goal::None),
    ];
    let length = Duration::from_millis(effort.pick(600, 2000));
    let mut bench = Bench::start("spawn", &["-quiet"], length)?;
    let turns = bench.rounds(&TREATMENTS.map(|(_, treatment, _)| treatment), effort.pick(3, 7))?;
    let rates: Vec<Vec<f64>> = turns.iter().map(|turns| series(turns, |turn| turn.rate)).collect();
    let [unwatched, _, _, emulated, entry] = rates.as_slice() else { return Ok(()) };
    let figure = |rates: &[f64]| format!("{:.0}/s", Spread::of(rates).median);
    for ((name, _, goal), rates) in TREATMENTS.iter().zip(&rates).skip(1) {
        let figures = format!("{} : {}", figure(rates), figure(unwatched));
        row::print(&format!("{name} : unwatched"), Spread::of_ratios(rates, unwatched), *goal, &figures);
    }
    let figures = format!("{} : {}", figure(emulated), figure(entry));
    let ratio = Spread::of_ratios(emulated, entry);
    row::print("Attribute : plain uprobes", ratio, Goal::AtLeast(5.0), &figures);
    Ok(())
}

/// CPU time of a healthy program that creates a thousand goroutines a second.
pub(crate) fn realistic(effort: Effort) -> Result<()> {
    const TREATMENTS: [(&str, Treatment); 4] = [
        ("unwatched", Treatment::Unwatched),
        ("Watch, 1 count a second", Treatment::Watched(1)),
        ("Attribute, at an emulated instruction", Treatment::Probed(At::Emulated)),
        ("plain uprobes at function entry", Treatment::Probed(At::Entry)),
    ];
    let length = Duration::from_millis(effort.pick(1000, 3000));
    let mut bench = Bench::start("healthy", &["-stdin", "-requests", "1000"], length)?;
    let turns = bench.rounds(&TREATMENTS.map(|(_, treatment)| treatment), effort.pick(3, 5))?;
    let cpu: Vec<Vec<f64>> = turns.iter().map(|turns| series(turns, |turn| turn.cpu)).collect();
    let [unwatched, ..] = cpu.as_slice() else { return Ok(()) };
    let figure = |cpu: &[f64]| format!("{:.2} %", Spread::of(cpu).median / 1e7);
    for ((name, _), cpu) in TREATMENTS.iter().zip(&cpu).skip(1) {
        let figures = format!("{} : {} of a core", figure(cpu), figure(unwatched));
        row::print(
            &format!("CPU, {name} : unwatched"),
            Spread::of_ratios(cpu, unwatched),
            Goal::None,
            &figures,
        );
    }
    let [.., emulated, entry] = turns.as_slice() else { return Ok(()) };
    let governor = |turns: &[Turn]| series(turns, |turn| turn.governor_percent);
    let hits: u64 = emulated.iter().map(|turn| turn.hits).sum();
    let seconds = bench.length.as_secs_f64() * emulated.len() as f64;
    let spread = Spread::of(&governor(emulated));
    let figures = format!("{:.3} % of a core, {:.0} hits/s", spread.median, hits as f64 / seconds);
    row::print("probes by the governor : its budget of 1 %", spread, Goal::AtMost(1.0), &figures);
    let ratio = Spread::of_ratios(&governor(emulated), &governor(entry));
    let plain = Spread::of(&governor(entry)).median;
    let figures = format!("{:.3} % : {plain:.3} % of a core", spread.median);
    row::print("probes by the governor : plain uprobes", ratio, Goal::AtMost(0.25), &figures);
    Ok(())
}
