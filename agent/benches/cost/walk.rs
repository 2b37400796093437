//! Counting and walking over all goroutines: how that grows with their number, and its goals.

use std::time::Instant;

use anyhow::Result;
use glg_engine::census::Census;
use glg_engine::goroutines::Walker;

use crate::crowd::{Cost, Crowd, timed};
use crate::program::Program;
use crate::row::{self, Goal, Spread, time};

/// What a count may take at most, in nanoseconds.
const COUNT_GOAL: f64 = 6e3;
/// What a walk over 100,000 goroutines may take at most, in nanoseconds.
const WALK_GOAL: f64 = 20e6;

/// One value per round.
#[derive(Default)]
pub(crate) struct Walks {
    counts: Vec<f64>,
    censuses: Vec<Cost>,
}

impl Walks {
    pub(crate) fn count(&mut self, program: &mut Program, times: u32) -> Result<()> {
        let began = Instant::now();
        for _ in 0..times {
            program.count()?;
        }
        self.counts.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(times));
        Ok(())
    }

    pub(crate) fn census(
        &mut self,
        program: &mut Program,
        census: &mut Census,
        walker: &mut Walker,
    ) -> Result<()> {
        self.censuses.push(timed(|| program.census(census, walker))?);
        Ok(())
    }

    fn cpu(&self) -> Vec<f64> {
        self.censuses.iter().map(|cost| cost.cpu).collect()
    }
}

pub(crate) fn rows(crowds: &[Crowd]) {
    let [least, .., most] = crowds else { return };
    let (many, few) = (&most.walks.counts, &least.walks.counts);
    let goal = vec![COUNT_GOAL; many.len()];
    let name = format!("count of {} : its goal", most.label());
    let figures = format!("{} : {}", time(Spread::of(many).median), time(COUNT_GOAL));
    row::print(&name, Spread::of_ratios(many, &goal), Goal::AtMost(1.0), &figures);
    let name = format!("count of {} : of {}", most.label(), least.label());
    let each = crowds.iter().rev().map(|crowd| time(Spread::of(&crowd.walks.counts).median));
    let figures = each.collect::<Vec<_>>().join(" : ");
    row::print(&name, Spread::of_ratios(many, few), Goal::AtMost(1.25), &figures);
    for crowd in crowds {
        census_rows(crowd);
    }
    crate::crowd::linear_row(crowds, "census", 1.5, |crowd| crowd.walks.cpu());
}

fn census_rows(crowd: &Crowd) {
    let (cpu, label) = (crowd.walks.cpu(), crowd.label());
    let typical = |values: &[f64]| time(Spread::of(values).median);
    if crowd.size == 100_000 {
        let goal = vec![WALK_GOAL; cpu.len()];
        let figures = format!("{} : {}", typical(&cpu), time(WALK_GOAL));
        row::print(
            &format!("census of {label} : its goal, CPU"),
            Spread::of_ratios(&cpu, &goal),
            Goal::AtMost(1.0),
            &figures,
        );
    }
    let own: Vec<f64> = crowd.debug1.iter().map(|cost| cost.cpu).collect();
    let wall = |costs: &[Cost]| typical(&costs.iter().map(|cost| cost.wall).collect::<Vec<f64>>());
    let figures = format!(
        "{} : {} CPU, {} : {} wall",
        typical(&cpu),
        typical(&own),
        wall(&crowd.walks.censuses),
        wall(&crowd.debug1)
    );
    let name = format!("census of {label} : its own debug=1, CPU");
    row::print(&name, Spread::of_ratios(&cpu, &own), Goal::None, &figures);
}
