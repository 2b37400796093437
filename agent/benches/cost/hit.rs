//! What a probe hit costs, by the kind of instruction it is on: the agent's own calibration, several times.

use anyhow::Result;

use crate::Effort;
use crate::program::load_probes;
use crate::row::{self, Goal, Spread, time};

/// Calibrates again and again.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let mut probes = load_probes()?;
    let (mut emulated, mut stepped) = (Vec::new(), Vec::new());
    for _ in 0..effort.pick(3, 11) {
        let costs = probes.calibrate()?;
        emulated.push(f64::from(costs.emulated_ns));
        stepped.push(f64::from(costs.stepped_ns));
    }
    let figures = format!("{} : {}", time(Spread::of(&emulated).median), time(Spread::of(&stepped).median));
    let ratio = Spread::of_ratios(&emulated, &stepped);
    row::print("hit on an emulated instruction : on a stepped one", ratio, Goal::AtMost(0.34), &figures);
    Ok(())
}
