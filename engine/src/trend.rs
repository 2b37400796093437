//! How fast something changes: Theil and Sen's median of slopes with its interval, over the smallest values of the
//! eighths of a window, as in [`crate::detector`].

use glg_proto::wire::{Left, Trend};

use crate::detector::{BUCKETS, PAIRS, bucket_minima, slopes};
use crate::footprint::Room;
use crate::history::{History, Sample};

/// Places of the interval's ends among the 28 slopes in rising order. Kendall's S of eight values has the variance
/// 8·7·21/18, so that 1.96 standard deviations are 15.8: (28 ∓ 15.8) / 2 (Sen 1968, section 3).
const LOW: usize = 5;
const HIGH: usize = 22;
/// Slopes come in units of 1/840 per eighth of a window.
const UNIT: i64 = 840;
/// A slope per eighth of a window, times this, divided by the seconds of the window, is one per hour.
const PER_HOUR: i64 = 3600 * 8;
const _: () = assert!(BUCKETS == 8, "the places of the interval's ends are those among 28 slopes");

/// The trend over a window that ends now, in the finest ring that has something of each eighth of it.
#[must_use]
pub fn trend(history: &History, window_s: u32, value: fn(&Sample) -> Option<u32>) -> Option<Trend> {
    let rings = [&history.fine, &history.middle, &history.coarse];
    let buckets = rings.iter().find_map(|ring| {
        let newest = ring.iter().next_back()?.at_s;
        bucket_minima(ring, newest.checked_sub(window_s)?, window_s, value)
    })?;
    let slopes = slopes(&buckets);
    let window_s = i64::from(window_s).max(1);
    let per_hour = |slope: i64| {
        let per_hour = slope.saturating_mul(PER_HOUR) / (window_s * UNIT);
        i32::try_from(per_hour).unwrap_or(if slope < 0 { i32::MIN } else { i32::MAX })
    };
    let (a, b) = (slopes.get(PAIRS / 2 - 1)?, slopes.get(PAIRS / 2)?);
    let (low, high) = (slopes.get(LOW)?, slopes.get(HIGH)?);
    Some(Trend { low: per_hour(*low), per_hour: per_hour((a + b) / 2), high: per_hour(*high) })
}

/// Of the number of goroutines.
#[must_use]
pub fn goroutines(history: &History, window_s: u32) -> Option<Trend> {
    trend(history, window_s, |sample| Some(sample.min))
}

/// When the memory will be used up, at the rate of the first of these windows of which it is known; `None` unless it
/// certainly grows.
#[must_use]
pub fn left(history: &History, windows_s: &[u32], room: Room) -> Option<Left> {
    let resident = |sample: &Sample| (sample.resident_kib > 0).then_some(sample.resident_kib);
    let kib = windows_s.iter().find_map(|window_s| trend(history, *window_s, resident))?;
    let rate = u64::try_from(kib.per_hour).ok().filter(|rate| *rate > 0 && kib.low > 0)?;
    let minutes = u32::try_from(room.kib.saturating_mul(60) / rate).unwrap_or(u32::MAX);
    Some(Left { minutes, limit: room.limit })
}

#[cfg(test)]
mod tests {
    use glg_proto::wire::MemoryLimit;

    use super::*;
    use crate::history::{HistoryConfig, Resolution, Waits};

    fn history(seconds: u32, count: impl Fn(u32) -> u32, kib: impl Fn(u32) -> u32) -> History {
        let ring = |step_s, keep| Resolution { step_s, keep };
        let config = HistoryConfig { fine: ring(1, 300), middle: ring(60, 240), coarse: ring(900, 672) };
        let mut history = History::new(&config);
        for s in 0..seconds {
            history.add(s, count(s), Waits::default(), kib(s));
        }
        history
    }

    /// Deterministic noise in 0..=span.
    fn noise(i: u32, span: u32) -> u32 {
        let x = i.wrapping_mul(0x9E37_79B9) ^ (i >> 3).wrapping_mul(0x85EB_CA6B);
        (x ^ (x >> 15)) % (span + 1)
    }

    #[test]
    fn a_steady_rise_is_told_as_it_is() {
        // 240 an hour, by minutes and by quarters of an hour.
        let rises = history(40_000, |s| 100 + s / 15, |_| 0);
        for window_s in [1800, 7200, 28_800] {
            let Trend { low, per_hour, high } = goroutines(&rises, window_s).unwrap();
            assert!((236..=244).contains(&per_hour), "{window_s}: {per_hour}");
            // Minutes do not divide an eighth of a window evenly.
            assert!((225..=per_hour).contains(&low) && (per_hour..=260).contains(&high), "{low} {high}");
        }
        let falls = history(40_000, |s| 4000 - s / 15, |_| 0);
        assert!((-265..=-215).contains(&goroutines(&falls, 1800).unwrap().per_hour));
        // Twenty a second, seen within half a minute.
        let quick = goroutines(&history(60, |s| s * 20, |_| 0), 24).unwrap();
        assert!((71_000..=73_000).contains(&quick.per_hour), "{quick:?}");
    }

    /// Ninety-five of a hundred is what the interval promises; with buckets of minima of noise it has to hold for
    /// nine of ten at least.
    #[test]
    fn the_interval_holds_the_truth() {
        let held = (0..200).filter(|seed| {
            let noisy = |s: u32| 500 + s / 36 + noise(s / 60 + seed * 7919, 40);
            let Trend { low, high, .. } = goroutines(&history(8000, noisy, |_| 0), 7200).unwrap();
            (low..=high).contains(&100)
        });
        let held = held.count();
        assert!((180..=200).contains(&held), "{held} of 200");
    }

    #[test]
    fn what_is_left_is_told_only_of_memory_that_grows() {
        let room = Room { kib: 360_000, limit: MemoryLimit::Cgroup };
        // 3,600 KiB an hour.
        let grows = history(8000, |_| 10, |s| 50_000 + s);
        let Left { minutes, limit } = left(&grows, &[7200], room).unwrap();
        assert!((5900..=6100).contains(&minutes) && limit == MemoryLimit::Cgroup, "{minutes}");
        assert_eq!(left(&history(8000, |s| s, |_| 50_000), &[7200], room), None, "flat");
        assert_eq!(left(&history(8000, |s| s, |s| 50_000 + noise(s, 9000)), &[7200], room), None, "noise");
        assert_eq!(left(&history(8000, |s| s, |s| 90_000 - s), &[7200], room), None, "shrinks");
        assert_eq!(left(&history(8000, |s| s, |_| 0), &[7200], room), None, "unknown");
        let lately = history(8000, |s| s, |s| 50_000 + s.saturating_sub(7970) * 100);
        assert!(left(&lately, &[24], room).is_some());
        assert_eq!(left(&lately, &[7200, 24], room), None, "the window of the growth decides");
        assert_eq!(left(&history(10, |s| s, |s| s), &[7200], room), None, "too short");
    }

    #[test]
    fn extremes_stay_within_their_types() {
        let wild = history(60, |s| s * 70_000_000, |s| s * 70_000_000);
        assert!(goroutines(&wild, 24).unwrap().high == i32::MAX);
        assert_eq!(
            left(&wild, &[24], Room { kib: u64::MAX, limit: MemoryLimit::Machine }).unwrap().minutes,
            u32::MAX
        );
    }
}
