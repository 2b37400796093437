//! Rows of the table: a ratio over several rounds, its goal, and the absolute figures behind it.

use serde_json::json;

/// A value over all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of the values of all rounds; NaN of none.
    pub(crate) fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Spread { median, low: at(0), high: at(sorted.len().wrapping_sub(1)) }
    }

    /// Of `a[i] / b[i]`: each round is compared with itself, so that what changed between rounds drops out.
    pub(crate) fn of_ratios(a: &[f64], b: &[f64]) -> Spread {
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
        Spread::of(&ratios)
    }
}

/// Which side of its goal a ratio should be on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// There for comparison.
    None,
}

/// Prints one row for `cargo xtask bench` to pick up.
pub(crate) fn print(name: &str, ratio: Spread, goal: Goal, figures: &str) {
    let (at_least, at_most) = match goal {
        Goal::AtLeast(limit) => (Some(limit), None),
        Goal::AtMost(limit) => (None, Some(limit)),
        Goal::None => (None, None),
    };
    let row = json!({
        "name": name, "ratio": ratio.median, "low": ratio.low, "high": ratio.high,
        "at_least": at_least, "at_most": at_most, "figures": figures,
    });
    println!("{row}");
}

/// Nanoseconds in the unit one would say them in.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1000), number % 1000),
    }
}
