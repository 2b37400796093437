//! What is around a command: notes on stderr beside its answer, how far a transfer is, and the time.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where nobody looks at a terminal, one line so often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// On a terminal, so often.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// One line on stderr; if that is closed, nobody wants to know.
pub(crate) fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Milliseconds since 1970, by the clock of this computer.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What takes no longer needs no words.
const QUICK: Duration = Duration::from_secs(1);

/// How far a transfer is.
pub(crate) struct Progress {
    total: u64,
    /// Bytes that were there before it began.
    before: u64,
    began: Instant,
    said: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(crate) fn begin(total: u64, before: u64) -> Progress {
        Progress { total, before, began: Instant::now(), said: None, terminal: stderr().is_terminal() }
    }

    /// So many bytes are there.
    pub(crate) fn show(&mut self, have: u64) {
        let every = if self.terminal { REDRAW_EVERY } else { LINE_EVERY };
        let done = have >= self.total;
        let quick = self.said.is_none() && self.began.elapsed() < QUICK;
        if quick || (!done && self.said.unwrap_or(self.began).elapsed() < every) {
            return;
        }
        self.said = Some(Instant::now());
        let text = line(have, self.total, have.saturating_sub(self.before), self.began.elapsed());
        let _ = match (self.terminal, done) {
            (true, false) => write!(stderr(), "\r{text}\x1b[K"),
            (true, true) => writeln!(stderr(), "\r{text}\x1b[K"),
            (false, _) => writeln!(stderr(), "{text}"),
        };
    }

    /// Leaves the line on the terminal, for something else to be said.
    pub(crate) fn pause(&mut self) {
        if self.terminal && self.said.take().is_some() {
            let _ = writeln!(stderr());
        }
    }
}

fn line(have: u64, total: u64, came: u64, took: Duration) -> String {
    let percent = have.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    let per_second = u128::from(came) * 1000 / took.as_millis().max(1);
    let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
    format!("{} of {}, {percent} %, {}/s", size(have), size(total), size(per_second))
}

/// `999 B`, `12.3 KiB`, `4.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let tenths = |unit: u64, name: &str| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => tenths(1 << 10, "KiB"),
        _ => tenths(1 << 20, "MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_and_how_fast() {
        let second = Duration::from_secs(2);
        assert_eq!(line(1536, 4096, 1024, second), "1.5 KiB of 4.0 KiB, 37 %, 512 B/s");
        assert_eq!(line(0, 0, 0, Duration::ZERO), "0 B of 0 B, 100 %, 0 B/s");
        assert_eq!(size(5 << 20), "5.0 MiB");
    }
}
