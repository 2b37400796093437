//! The log: lines on standard error, which every init system collects, with the seconds since boot, as the
//! kernel's own; no colours, no dependencies.

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
        // Names in a message come from foreign processes: no control characters on a terminal.
        let text = record.args().to_string().replace(|c: char| c.is_control() && c != '\n', "?");
        // A closed standard error is no reason to stop watching.
        let at_ms = clock::since_boot_ms();
        let (s, ms) = (at_ms / 1000, at_ms % 1000);
        let _ = writeln!(std::io::stderr(), "[{s:>6}.{ms:03}] {:<5} {text}", record.level());
    }

    fn flush(&self) {}
}
