//! Small pieces of text: escaped names, hex, times.

use std::fmt;

/// A name from a foreign process or network, fit for a terminal: control characters, and characters that
/// reorder or hide the text around them, are written as escapes.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let deceives = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if c.is_control() || deceives {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// The first `max` bytes in hex.
pub(crate) fn hex(bytes: &[u8], max: usize) -> String {
    let digits: String = bytes.iter().take(max).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > max { digits + "..." } else { digits }
}

/// The bytes that hex digits stand for, white space left out; `None` when the input is anything else, or nothing.
pub(crate) fn unhex(input: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> =
        input.iter().filter(|c| !c.is_ascii_whitespace()).map(|&c| char::from(c).to_digit(16)).collect();
    let digits = digits.filter(|digits| !digits.is_empty())?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| u8::try_from(high << 4 | low).ok()).collect()
}

/// Milliseconds since 1970 as `2026-11-22 00:45:15 UTC`. Years beyond 9999 are shown as the number itself.
pub(crate) fn utc(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    if days > 2_932_896 {
        return format!("{wall_ms} ms after 1970");
    }
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of a day counted from 1970-01-01, by counting off 400-year cycles from
/// 0000-03-01, so that a leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Seconds in the two largest units that fit: `45 s`, `30 min`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn span(seconds: u64) -> String {
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_000, "2024-02-29 23:59:59 UTC"),
            (1_795_308_315_000, "2026-11-22 00:45:15 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799_000, "9999-12-31 23:59:59 UTC"),
            (253_402_300_800_000, "253402300800000 ms after 1970"),
            (u64::MAX, "18446744073709551615 ms after 1970"),
        ] {
            assert_eq!(utc(ms), text);
        }
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (1830, "30 min 30 s"),
            (7500, "2 h 5 min"),
            (86_400, "1 d"),
            (273_600, "3 d 4 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let name = "a\u{1b}[2J\u{9b}1m\r\n\u{202e}b\u{7f}ü…";
        assert_eq!(Escaped(name).to_string(), "a\\u{1b}[2J\\u{9b}1m\\r\\n\\u{202e}b\\u{7f}ü…");
    }

    #[test]
    fn hex_or_not() {
        assert_eq!(unhex(b"01 aB\n"), Some(vec![1, 0xab]));
        for no in [b"".as_slice(), b"0", b"0x01", b"\x01\x05van-7"] {
            assert_eq!(unhex(no), None);
        }
    }

    #[test]
    fn hex_is_cut() {
        assert_eq!(hex(&[], 2), "");
        assert_eq!(hex(&[1, 0xab], 2), "01ab");
        assert_eq!(hex(&[1, 2, 3], 2), "0102...");
    }
}
