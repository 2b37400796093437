//! Keeps the probes within their budget: what they cost is the number of hits times the cost of one, which
//! was measured on this very machine.

use crate::probe_point::HitClass;

/// Cost of one probe hit, the trap included, measured when the agent started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HitCost {
    /// Nanoseconds at an instruction that the kernel emulates.
    pub emulated_ns: f32,
    /// Nanoseconds at an instruction that the kernel single-steps.
    pub stepped_ns: f32,
}

impl HitCost {
    /// What a hit of this class is charged, in nanoseconds.
    #[must_use]
    pub fn of(&self, class: HitClass) -> f32 {
        COLD * match class {
            HitClass::Emulated => self.emulated_ns,
            HitClass::Stepped => self.stepped_ns,
        }
    }
}

/// In a real program a hit finds the caches cold and other processors at the same counters: on two programs it
/// took 1.4 and 2.9 times what the calibration's tight loop says. Too dear is the safe side.
const COLD: f32 = 2.0;

/// A shorter period is judged together with the next: one dear moment of it says nothing about a budget.
const PERIOD_MIN_MS: u64 = 100;

/// What has been spent since the probes were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Hits of both probes.
    pub hits: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: f64,
    /// Share of one core over the last period, in per cent.
    pub percent: f64,
}

/// Adds up what something costs.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    budget_percent: f64,
    last_ms: u64,
    /// What has been spent since then, in nanoseconds.
    pending_ns: f64,
    spent: Spent,
}

impl Meter {
    /// Begins at `now_ms`, with nothing spent.
    #[must_use]
    pub fn start(budget_percent: f64, now_ms: u64) -> Meter {
        Meter { budget_percent, last_ms: now_ms, pending_ns: 0.0, spent: Spent::default() }
    }

    /// Charges what has come since the last call. `true` when a period has ended with it that was over the budget;
    /// periods are of 100 ms at least.
    pub fn charge(&mut self, now_ms: u64, hits: u64, cpu_ns: f64) -> bool {
        self.spent.hits += hits;
        self.spent.cpu_ns += cpu_ns;
        self.pending_ns += cpu_ns;
        let elapsed_ms = now_ms.saturating_sub(self.last_ms);
        if elapsed_ms < PERIOD_MIN_MS {
            return false;
        }
        self.spent.percent = core::mem::take(&mut self.pending_ns) / (elapsed_ms as f64 * 1e6) * 100.0;
        self.last_ms = now_ms;
        self.spent.percent > self.budget_percent
    }

    /// What has been spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.spent
    }
}

/// Adds up the cost of one attachment.
#[derive(Clone, Copy, Debug)]
pub struct Governor {
    meter: Meter,
    /// Cost of a creation and of an exit.
    costs_ns: [f64; 2],
    last_hits: [u64; 2],
}

impl Governor {
    /// Begins at `now_ms` with the probes' hit counters at `hits` (creations, exits).
    #[must_use]
    pub fn start(budget_percent: f64, costs_ns: [f32; 2], now_ms: u64, hits: [u64; 2]) -> Governor {
        let meter = Meter::start(budget_percent, now_ms);
        Governor { meter, costs_ns: costs_ns.map(f64::from), last_hits: hits }
    }

    /// Charges the hits since the last call. `true` when the period was over the budget: detach.
    pub fn charge(&mut self, now_ms: u64, hits: [u64; 2]) -> bool {
        let new = |(now, before): (&u64, u64)| now.saturating_sub(before);
        let new: [u64; 2] = core::array::from_fn(|i| hits.iter().zip(self.last_hits).nth(i).map_or(0, new));
        let cost = new.iter().zip(self.costs_ns).map(|(new, each)| *new as f64 * each).sum();
        self.last_hits = hits;
        self.meter.charge(now_ms, new.iter().sum(), cost)
    }

    /// What has been spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.meter.spent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_budget_is_noticed_in_the_period_in_which_it_happens() {
        // 1 % of a core is 10 ms a second: 10,000 hits of 1 µs.
        let mut governor = Governor::start(1.0, [1000.0, 1000.0], 5000, [100, 200]);
        assert!(!governor.charge(6000, [4100, 4200])); // 8,000 hits: 0.8 %
        assert!((governor.spent().percent - 0.8).abs() < 1e-9);
        assert!(governor.charge(6100, [5100, 4400])); // 1,200 hits in 100 ms: 1.2 %
        assert_eq!(governor.spent().hits, 9200);
        assert!((governor.spent().cpu_ns - 9.2e6).abs() < 1.0);
    }

    #[test]
    fn a_moment_is_judged_with_what_follows_and_nothing_is_forgotten() {
        let mut governor = Governor::start(1.0, [1000.0, 1000.0], 0, [0, 0]);
        assert!(!governor.charge(0, [1_000_000, 0]));
        assert!(governor.charge(1000, [1_000_000, 0]));
        // 60 hits within 2 ms are 3 %, but no more than that follow.
        assert!(!governor.charge(1002, [1_000_060, 0]));
        assert!(!governor.charge(1200, [1_000_060, 0]));
        assert!((governor.spent().percent - 0.03).abs() < 1e-9);
    }
}
