//! Growth, told from noise and bursts: a robust trend over a window, not a threshold on one value.
//!
//! The window is cut into eight buckets and only the smallest count of each is looked at: a burst that
//! ends within a bucket leaves no trace, a leak raises them all. Growth needs
//! 1. a monotonic rise: Kendall's tau over the buckets of at least 0.85;
//! 2. a rise, by the Theil–Sen slope, that is large both in goroutines and against the start;
//! 3. a rise in both halves of the window: a step to a new level is not a leak;
//! 4. a new high: a level that this program has come down from before is not a leak (saw-teeth, daily load).
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "numbers of buckets, at most 8"
)]

use heapless::Vec;

use crate::history::{Closed, History, Ring, Sample};

/// Parts that a window is cut into.
pub(crate) const BUCKETS: usize = 8;
pub(crate) const PAIRS: usize = BUCKETS * (BUCKETS - 1) / 2;
/// Concordant less discordant pairs of 28: 24 is tau = 0.857, p < 0.001 for independent values.
const MIN_CONCORDANCE: i32 = 24;
/// Each half has to carry this share of the whole rise, in per cent.
const MIN_HALF_PERCENT: i64 = 15;

/// A confirmation takes at least this part of the window: slow growth does not show in seconds.
pub(crate) const CONFIRMS_PER_WINDOW: u32 = 12;

/// What counts as growth in one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthRule {
    /// Length of the window in seconds.
    pub window_s: u32,
    /// Least rise in goroutines.
    pub min_rise: u32,
    /// Least rise against the level at the window's start, in per cent.
    pub min_ratio_percent: u32,
}

/// The three rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthConfig {
    /// On the fine ring.
    pub fast: GrowthRule,
    /// On the middle ring.
    pub medium: GrowthRule,
    /// On the coarse ring.
    pub slow: GrowthRule,
    /// Least seconds between the first and the second census that confirm growth; for long windows it is
    /// a twelfth of the window, because slow growth does not show in seconds.
    pub confirm_s: u32,
}

/// Growth that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Level at the start of the window.
    pub baseline: u32,
    /// Level at its end.
    pub level: u32,
    /// Length of the window in seconds.
    pub window_s: u32,
    /// Seconds until the confirming census.
    pub confirm_s: u32,
}

/// Looks for growth that ends now, in the finest resolution that shows it; `closed` is what
/// [`History::add`] has just said.
#[must_use]
pub fn growth(history: &History, closed: Closed, config: &GrowthConfig) -> Option<Growth> {
    let fast = || growth_in(&history.fine, &[&history.middle, &history.coarse], config.fast);
    let medium = || growth_in(&history.middle, &[&history.coarse], config.medium);
    let slow = || growth_in(&history.coarse, &[], config.slow);
    // A coarser ring has nothing new to say before its next step is closed.
    let mut growth = fast()
        .or_else(|| (closed >= Closed::Middle).then(medium).flatten())
        .or_else(|| (closed >= Closed::Coarse).then(slow).flatten())?;
    growth.confirm_s = config.confirm_s.max(growth.window_s / CONFIRMS_PER_WINDOW);
    Some(growth)
}

fn growth_in(ring: &Ring, coarser: &[&Ring], rule: GrowthRule) -> Option<Growth> {
    let newest = ring.iter().next_back()?.at_s;
    let start = newest.checked_sub(rule.window_s)?;
    let buckets = bucket_minima(ring, start, rule.window_s, |sample| Some(sample.min))?;
    let [first, .., before_last, last] = buckets;
    if !rises(&buckets, rule) {
        return None;
    }
    let bucket_s = (rule.window_s / BUCKETS as u32).max(1);
    // Two buckets above all that was before: one can be chance.
    if last.min(before_last) <= earlier_high(ring, coarser, start, bucket_s) {
        return None;
    }
    Some(Growth { baseline: first, level: last, window_s: rule.window_s, confirm_s: 0 })
}

/// Whether the smallest values of the eighths of a window show a rise: all but the new high.
pub(crate) fn rises(buckets: &[u32; BUCKETS], rule: GrowthRule) -> bool {
    let [first, ..] = *buckets;
    let ratio = i64::from(rule.min_ratio_percent) * i64::from(first) / 100;
    let least = i64::from(rule.min_rise).max(ratio).max(1);
    concordance(buckets) >= MIN_CONCORDANCE
        && theil_sen_rise(buckets).is_some_and(|rise| rise >= least)
        && rises_in_both_halves(buckets)
}

/// The smallest value of each eighth of the window; `None` unless every one has a sample with one.
pub(crate) fn bucket_minima(
    ring: &Ring,
    start: u32,
    window_s: u32,
    value: fn(&Sample) -> Option<u32>,
) -> Option<[u32; BUCKETS]> {
    let mut minima = [None::<u32>; BUCKETS];
    for sample in ring.iter().rev().take_while(|s| s.at_s > start) {
        let into = u64::from(sample.at_s - start - 1);
        let index = usize::try_from(into * BUCKETS as u64 / u64::from(window_s.max(1))).ok()?;
        let slot = minima.get_mut(index.min(BUCKETS - 1))?;
        *slot = [*slot, value(&sample)].into_iter().flatten().min();
    }
    let mut out = [0; BUCKETS];
    for (out, min) in out.iter_mut().zip(minima) {
        *out = min?;
    }
    Some(out)
}

fn pairs(buckets: &[u32; BUCKETS]) -> impl Iterator<Item = (i64, i64)> + '_ {
    buckets.iter().enumerate().flat_map(move |(i, a)| {
        buckets
            .iter()
            .enumerate()
            .skip(i + 1)
            .map(move |(j, b)| (i64::from(*b) - i64::from(*a), (j - i) as i64))
    })
}

/// Kendall's S: rising pairs less falling pairs.
fn concordance(buckets: &[u32; BUCKETS]) -> i32 {
    pairs(buckets).map(|(change, _)| i32::from(change > 0) - i32::from(change < 0)).sum()
}

/// The slopes between all pairs in rising order, in units of 1/840 (the least common multiple of 1..=8) per bucket, so
/// that they stay in integers.
pub(crate) fn slopes(buckets: &[u32; BUCKETS]) -> Vec<i64, PAIRS> {
    let mut slopes: Vec<i64, PAIRS> = pairs(buckets).map(|(change, apart)| change * 840 / apart).collect();
    slopes.sort_unstable();
    slopes
}

/// The median of all pairs' slopes, times the number of buckets: the rise over the window.
fn theil_sen_rise(buckets: &[u32; BUCKETS]) -> Option<i64> {
    let slopes = slopes(buckets);
    let (a, b) = (slopes.get(PAIRS / 2 - 1)?, slopes.get(PAIRS / 2)?);
    Some((a + b) / 2 * BUCKETS as i64 / 840)
}

fn rises_in_both_halves(buckets: &[u32; BUCKETS]) -> bool {
    let [first, _, _, a, b, _, _, last] = buckets.map(i64::from);
    let middle = (a + b) / 2;
    let least = (last - first) * MIN_HALF_PERCENT / 100;
    middle - first >= least && last - middle >= least
}

/// The highest level the program stood at before the window, for at least one bucket's time.
fn earlier_high(ring: &Ring, coarser: &[&Ring], before: u32, bucket_s: u32) -> u32 {
    let mut high = 0;
    let mut bucket: Option<Sample> = None;
    for sample in ring.iter().take_while(|s| s.at_s <= before) {
        bucket = match bucket {
            Some(b) if sample.at_s / bucket_s == b.at_s / bucket_s => {
                Some(Sample { min: b.min.min(sample.min), ..b })
            }
            other => {
                high = high.max(other.map_or(0, |b| b.min));
                Some(sample)
            }
        };
    }
    high = high.max(bucket.map_or(0, |b| b.min));
    // A coarser ring knows further back; its newest samples lie in the window and are left out.
    let older = coarser.iter().flat_map(|ring| ring.iter().take_while(|s| s.at_s < before)).map(|s| s.min);
    older.fold(high, u32::max)
}

#[cfg(test)]
#[allow(
    clippy::cast_sign_loss,
    clippy::type_complexity,
    reason = "shapes are drawn with floats and closures"
)]
mod tests {
    use super::*;
    use crate::history::{HistoryConfig, Resolution, Waits};

    const RULES: GrowthConfig = GrowthConfig {
        fast: GrowthRule { window_s: 24, min_rise: 200, min_ratio_percent: 100 },
        medium: GrowthRule { window_s: 1800, min_rise: 100, min_ratio_percent: 50 },
        slow: GrowthRule { window_s: 86_400, min_rise: 50, min_ratio_percent: 20 },
        confirm_s: 10,
    };

    /// Deterministic noise in 0..=span.
    fn noise(i: u32, span: u32) -> u32 {
        let x = i.wrapping_mul(0x9E37_79B9) ^ (i >> 3).wrapping_mul(0x85EB_CA6B);
        (x ^ (x >> 15)) % (span + 1)
    }

    /// The first second at which growth is seen in `count`.
    fn first_alarm(seconds: u32, count: impl Fn(u32) -> u32) -> Option<(u32, Growth)> {
        let ring = |step_s, keep| Resolution { step_s, keep };
        let config = HistoryConfig { fine: ring(1, 300), middle: ring(60, 240), coarse: ring(900, 672) };
        let mut history = History::new(&config);
        (0..seconds).find_map(|s| {
            let closed = history.add(s, count(s), Waits::default(), 0);
            growth(&history, closed, &RULES).map(|g| (s, g))
        })
    }

    #[test]
    fn a_quick_leak_is_seen_within_half_a_minute() {
        let (at, growth) = first_alarm(600, |s| 40 + noise(s, 15) + s.saturating_sub(100) * 20).unwrap();
        assert!((110..=130).contains(&at), "{at}");
        assert!(growth.baseline < 100 && growth.level > 200, "{growth:?}");
    }

    #[test]
    fn the_field_case_230_to_18000_in_72_hours_is_seen_within_the_first_hours() {
        let (at, _) =
            first_alarm(72 * 3600, |s| 230 + noise(s, 200) + (u64::from(s) * 17_770 / 259_200) as u32)
                .unwrap();
        assert!(at < 2 * 3600, "{at}");
    }

    #[test]
    fn four_an_hour_is_seen_within_two_days() {
        let (at, _) = first_alarm(4 * 86_400, |s| 230 + noise(s, 100) + s / 900).unwrap();
        assert!(at < 2 * 86_400, "{at}");
    }

    #[test]
    fn a_leak_under_heavy_bursts_is_seen() {
        let burst = |s: u32| if s % 20 < 2 { 3000 } else { 0 };
        let (at, _) =
            first_alarm(900, |s| 100 + burst(s) + noise(s, 60) + s.saturating_sub(300) * 15).unwrap();
        assert!((310..=345).contains(&at), "{at}");
    }

    #[test]
    fn healthy_shapes_are_not_growth() {
        let day = 86_400.0f64;
        let daily = move |s: u32| {
            let phase = f64::from(s) / day * core::f64::consts::TAU;
            // A crude sine by its series is enough for a shape.
            let x = phase % core::f64::consts::TAU - core::f64::consts::PI;
            let sine = x - x.powi(3) / 6.0 + x.powi(5) / 120.0 - x.powi(7) / 5040.0;
            (600.0 - 400.0 * sine) as u32 + noise(s, 80)
        };
        let shapes: [(&str, u32, &dyn Fn(u32) -> u32); 7] = [
            ("flat", 200_000, &|_| 230),
            ("bursts", 100_000, &|s| 50 + if s % 37 < 5 { 2000 } else { 0 } + noise(s, 20)),
            ("step up", 100_000, &|s| if s < 5000 { 100 } else { 900 } + noise(s, 30)),
            ("two steps", 100_000, &|s| 100 + s.min(10_000) / 5000 * 400 + noise(s, 30)),
            ("short saw-tooth", 100_000, &|s| 100 + s % 16 * 50),
            ("ramp at start", 100_000, &|s| 20 + s.min(6) * 100 + noise(s, 10)),
            ("random walk within bounds", 100_000, &|s| 200 + noise(s / 50, 150) + noise(s, 30)),
        ];
        for (name, seconds, shape) in shapes {
            assert_eq!(first_alarm(seconds, shape), None, "{name}");
        }
        // The first rise of a daily swing is no different from a leak; from the second day on it is known.
        let ring = |step_s, keep| Resolution { step_s, keep };
        let config = HistoryConfig { fine: ring(1, 300), middle: ring(60, 240), coarse: ring(900, 672) };
        let mut history = History::new(&config);
        for s in 0..5 * 86_400 {
            let closed = history.add(s, daily(s), Waits::default(), 0);
            assert!(s < 86_400 || growth(&history, closed, &RULES).is_none(), "daily swing at {s}");
        }
    }

    /// White noise as wide as this looks like anything once in a while: then it costs a census, which
    /// dismisses it. It must not do so more often than about every other day.
    #[test]
    fn wide_noise_is_hardly_ever_suspected() {
        for seed in 0..5 {
            let ring = |step_s, keep| Resolution { step_s, keep };
            let config = HistoryConfig { fine: ring(1, 300), middle: ring(60, 240), coarse: ring(900, 672) };
            let mut history = History::new(&config);
            let suspicions = (0..400_000u32).filter(|s| {
                let count = 40 + noise(s + seed * 1_000_003, 360 + seed * 200);
                let closed = history.add(*s, count, Waits::default(), 0);
                growth(&history, closed, &RULES).is_some()
            });
            let suspicions = suspicions.count();
            assert!(suspicions <= 3, "seed {seed}: {suspicions}");
        }
    }

    #[test]
    fn a_gap_in_the_samples_is_no_growth() {
        assert_eq!(first_alarm(30, |s| s * 100).map(|_| ()), Some(()));
        let ring = |step_s, keep| Resolution { step_s, keep };
        let mut history = History::new(&HistoryConfig {
            fine: ring(1, 300),
            middle: ring(60, 240),
            coarse: ring(900, 672),
        });
        for s in (0..10).chain(20..32) {
            let closed = history.add(s, s * 100, Waits::default(), 0);
            assert_eq!(growth(&history, closed, &RULES), None, "at {s}");
        }
    }
}
