//! Spans and moments as people write them.

use std::time::Duration;

/// `90`, `90s`, `10m`, `2h`, `3d`: a span of time, of at most a century.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=3_155_760_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("wanted: a span such as 90s, 10m, 2h or 3d".to_owned()),
    }
}

/// The moment that `--since` names, in milliseconds since 1970: a span before `now_ms`, or `2026-11-22`,
/// `2026-11-22 00:45` or `2026-11-22T00:45:15Z`, in UTC.
pub(crate) fn parse_since(text: &str, now_ms: u64) -> Result<u64, String> {
    if let Ok(span) = parse_span(text) {
        return Ok(now_ms.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
    }
    moment(text)
        .ok_or_else(|| "wanted: a span such as 2h, or a time such as \"2026-11-22 00:45\", in UTC".to_owned())
}

fn moment(text: &str) -> Option<u64> {
    let text = text.trim_end_matches("UTC").trim_end().trim_end_matches('Z');
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00"));
    let numbers = |text: &str, separator| -> Option<Vec<u64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let [year @ 1970..=9999, month @ 1..=12, day @ 1..=31] = numbers(date, '-')?[..] else { return None };
    let (hour, minute, second) = match numbers(time, ':')?[..] {
        [hour @ 0..24, minute @ 0..60] => (hour, minute, 0),
        [hour @ 0..24, minute @ 0..60, second @ 0..60] => (hour, minute, second),
        _ => return None,
    };
    Some((((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

/// Days since 1970-01-01; a year is counted from March on, so that a leap day is the last of it.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::utc;

    #[test]
    fn spans() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("10m", 600), ("10min", 600), ("2h", 7200), ("3d", 259_200)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "0", "0s", "s", "-1s", "1w", "1.5h", "99999999999999999999s", "9999999d"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_what_utc_writes() {
        for text in
            ["2026-11-22 00:45:15", "2024-02-29 23:59:59", "1970-01-01 00:00:00", "2100-03-01 00:00:00"]
        {
            assert_eq!(utc(parse_since(text, 0).unwrap()), format!("{text} UTC"));
        }
        let wanted = parse_since("2026-11-22 00:45:00", 0);
        for text in ["2026-11-22T00:45Z", "2026-11-22 00:45 UTC", "2026-11-22 0:45"] {
            assert_eq!(parse_since(text, 0), wanted, "{text}");
        }
        assert_eq!(parse_since("2h", 7_200_005), Ok(5));
        assert_eq!(parse_since("3d", 5), Ok(0));
        for wrong in ["yesterday", "2026-13-01", "2026-11-22 24:00", "2026-11", "1969-01-01", "2026-11-22 1"]
        {
            assert!(parse_since(wrong, 0).is_err(), "{wrong}");
        }
    }
}
