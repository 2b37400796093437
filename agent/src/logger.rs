//! The log: lines on standard error, which every init system collects, with the seconds since boot, as the
//! kernel's own; one line for each message, no colours, no dependencies.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::clock;

struct Stderr;

static LOGGER: Stderr = Stderr;

/// Starts logging from `level` on.
pub fn start(level: LevelFilter) {
    // Only the first call counts; there is no second one outside of tests.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The libraries' own chatter is for their developers.
        metadata.target().starts_with("goleakguard") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = line(&record.args().to_string());
        // A closed standard error is no reason to stop watching.
        let at_ms = clock::since_boot_ms();
        let (s, ms) = (at_ms / 1000, at_ms % 1000);
        let _ = writeln!(std::io::stderr(), "[{s:>6}.{ms:03}] {:<5} {text}", record.level());
    }

    fn flush(&self) {}
}

/// A message as one line. Names in it come from foreign processes: no control characters on a terminal, and no
/// second line that looks like one of ours. The kernel's verifier, too, says more than one line.
fn line(text: &str) -> String {
    text.replace('\n', " | ").replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(line("van (7): has ended"), "van (7): has ended");
        let forged = "van\n[     1.000] ERROR all is lost\u{1b}[2J\r\u{9b}A\0\t (7): ädded";
        assert_eq!(line(forged), "van | [     1.000] ERROR all is lost?[2J??A?? (7): ädded");
    }
}
