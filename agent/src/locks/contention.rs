//! How long locks were waited for: a table for people, an object for scripts.

use std::fmt::Write as _;
use std::time::Duration;

use glg_engine::contention::{Contended, Rest};
use glg_proto::probe::LockWaits;

use super::json::or_null;
use super::observe::{Named, Observed};
use crate::json::{array, object as fields, string};

/// From nothing to the most in a class of durations.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn write(text: &mut String, observed: &Observed) {
    let seen = &observed.observation;
    let percent = |ns: u64| ns as f64 / seen.observed_ns.max(1) as f64 * 100.0;
    let early =
        if observed.over_budget { ", ended early: it cost more than attribute.budget_percent" } else { "" };
    let _ = writeln!(text, "observed {}{early}", span(seen.observed_ns));
    if seen.locks.is_empty() {
        text.push_str("no thread began to wait in C\n");
    } else {
        let _ = writeln!(
            text,
            "{:<18} {:<12} {:>8} {:>9} {:>7} {:>9} {:>9} {:>9}  durations",
            "waited for at", "kind", "waits", "in all", "of time", "longest", "half in", "99 % in"
        );
    }
    for lock in &seen.locks {
        let _ = writeln!(
            text,
            "{:<18} {:<12} {:>8} {:>9} {:>5.0} % {:>9} {:>9} {:>9}  {}",
            lock.at.to_string(),
            lock.kind.as_str(),
            lock.waits,
            span(lock.total_ns),
            percent(lock.total_ns),
            span(lock.longest_ns),
            span(lock.quantile_ns(50)),
            span(lock.quantile_ns(99)),
            bars(&lock.histogram)
        );
        who(text, lock, observed.waiter(lock.word));
    }
    rest(text, "besides", seen.others, "");
    rest(text, "not kept", seen.evicted, ": for lack of room, those not waited for the longest");
    let untold = seen.counted.ends_missed;
    if untold > 0 {
        let _ = writeln!(text, "{untold} waits are left out: the kernel did not tell when they ended");
    }
    let lost = seen.counted.lost();
    if lost > 0 {
        let _ = writeln!(text, "{lost} waits or records of them were lost for lack of room");
    }
    let spent = &observed.spent;
    let (ms, percent) = (spent.cpu_ns / 1e6, spent.percent);
    let _ = writeln!(text, "cost {ms:.1} ms of CPU, {percent:.2} % of a core, {} switches\n", spent.hits);
}

fn who(text: &mut String, lock: &Contended, named: Option<&Named>) {
    if lock.ongoing > 0 {
        let _ = writeln!(text, "    {} of these wait still", lock.ongoing);
    }
    match (named, lock.last_long) {
        (Some(Named { tid, c_function, go_function, .. }), _) => {
            let _ = write!(text, "    seen waiting: thread {tid}");
            if !c_function.is_empty() {
                let _ = write!(text, ", in C in {c_function}");
            }
            if let Some(function) = go_function {
                let _ = write!(text, ", in Go in {function}");
            }
            text.push('\n');
        }
        (None, Some(tid)) => _ = writeln!(text, "    waited long last: thread {tid}"),
        (None, None) => {}
    }
}

fn rest(text: &mut String, what: &str, rest: Rest, why: &str) {
    if rest.locks > 0 || rest.waits > 0 {
        let _ = writeln!(text, "{what}: {} waits for {} more{why}", rest.waits, rest.locks);
    }
}

/// `4 ms ▂█▅▁ 65 ms`: how many waits ended within which time, each class twice as long as the one before.
fn bars(histogram: &[u32; LockWaits::BUCKETS]) -> String {
    let used = |class: &usize| histogram.get(*class).is_some_and(|count| *count > 0);
    let classes = 0..histogram.len();
    let (Some(first), Some(last)) = (classes.clone().find(used), classes.rev().find(used)) else {
        return String::new();
    };
    let most = u64::from(histogram.iter().copied().max().unwrap_or(1));
    let bar = |count: &u32| {
        let height = (u64::from(*count) * 8).div_ceil(most);
        usize::try_from(height).ok().and_then(|height| BARS.get(height)).copied().unwrap_or(' ')
    };
    let bars: String = histogram.get(first..=last).unwrap_or_default().iter().map(bar).collect();
    let from = if first == 0 { 0 } else { 1000u64 << (first - 1) };
    let to = match last + 1 == LockWaits::BUCKETS {
        true => "more".to_owned(),
        false => span(1000 << last),
    };
    format!("{} {bars} {to}", span(from))
}

/// `0`, `350 ns`, `12 µs`, `3.5 ms`, `41 ms`, `2.3 s`, `75 s`.
fn span(ns: u64) -> String {
    let time = Duration::from_nanos(ns);
    let unit = |whole: f64, unit: &str| match whole < 10.0 {
        true => format!("{whole:.1} {unit}"),
        false => format!("{whole:.0} {unit}"),
    };
    match ns {
        0 => "0".to_owned(),
        1..1000 => format!("{ns} ns"),
        1000..1_000_000 => unit(time.as_secs_f64() * 1e6, "µs"),
        1_000_000..1_000_000_000 => unit(time.as_secs_f64() * 1e3, "ms"),
        _ => unit(time.as_secs_f64(), "s"),
    }
}

pub(super) fn object(observed: &Observed) -> String {
    let seen = &observed.observation;
    let rest = |rest: Rest| fields(&[("locks", rest.locks.to_string()), ("waits", rest.waits.to_string())]);
    let locks = seen.locks.iter().map(|lock| lock_object(lock, observed.waiter(lock.word)));
    fields(&[
        ("observed_ms", (seen.observed_ns / 1_000_000).to_string()),
        ("over_budget", observed.over_budget.to_string()),
        ("locks", array(locks)),
        ("others", rest(seen.others)),
        ("evicted", rest(seen.evicted)),
        ("lost", seen.counted.lost().to_string()),
        ("ends_missed", seen.counted.ends_missed.to_string()),
        ("switches", observed.spent.hits.to_string()),
        ("cost_us", format!("{:.0}", observed.spent.cpu_ns / 1e3)),
        ("cost_percent", format!("{:.4}", observed.spent.percent)),
    ])
}

fn lock_object(lock: &Contended, named: Option<&Named>) -> String {
    let us = |ns: u64| (ns / 1000).to_string();
    let histogram = lock.histogram.iter().map(u32::to_string);
    fields(&[
        ("lock", string(&lock.at.to_string())),
        ("futex", string(&lock.word.to_string())),
        ("kind", string(lock.kind.as_str())),
        ("waits", lock.waits.to_string()),
        ("ongoing", lock.ongoing.to_string()),
        ("total_us", us(lock.total_ns)),
        ("longest_us", us(lock.longest_ns)),
        ("median_us", us(lock.quantile_ns(50))),
        ("p99_us", us(lock.quantile_ns(99))),
        // Of less than 1, 2, 4, … microseconds.
        ("histogram", array(histogram)),
        ("last_long_tid", or_null(lock.last_long)),
        ("tid", or_null(named.map(|named| named.tid))),
        ("c_function", or_null(named.map(|named| string(&named.c_function)))),
        ("go_function", or_null(named.and_then(|named| named.go_function.as_deref().map(string)))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_with_two_digits_at_least() {
        for (ns, text) in [
            (0, "0"),
            (999, "999 ns"),
            (1000, "1.0 µs"),
            (64_000, "64 µs"),
            (3_500_000, "3.5 ms"),
            (41_000_000, "41 ms"),
            (2_300_000_000, "2.3 s"),
            (75_000_000_000, "75 s"),
        ] {
            assert_eq!(span(ns), text);
        }
    }

    #[test]
    fn a_histogram_shows_its_used_part() {
        let mut histogram = [0; LockWaits::BUCKETS];
        assert_eq!(bars(&histogram), "");
        (histogram[13], histogram[15], histogram[16]) = (1, 100, 50);
        assert_eq!(bars(&histogram), "4.1 ms ▁ █▄ 66 ms");
        let mut ends = [0; LockWaits::BUCKETS];
        (ends[0], ends[LockWaits::BUCKETS - 1]) = (1, 1);
        assert_eq!(bars(&ends), format!("0 █{}█ more", " ".repeat(22)));
    }
}
