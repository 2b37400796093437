//! What the agent costs, in its own words: a line in the log now and then.

use std::fs;
use std::time::{Duration, Instant};

use glg_engine::command::CommandFigures;
use glg_engine::engine::Engine;
use log::info;

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(60);

/// Reads the agent's own CPU time and memory.
pub(super) struct Figures {
    said: Instant,
    cpu_ms: u64,
    /// As the log has said it.
    commands: CommandFigures,
}

impl Figures {
    pub(super) fn new() -> Figures {
        Figures { said: Instant::now(), cpu_ms: cpu_ms(), commands: CommandFigures::default() }
    }

    /// Says the figures when their time has come.
    pub(super) fn tick(&mut self, engine: &Engine) {
        let elapsed = self.said.elapsed();
        if elapsed < EVERY {
            return;
        }
        let cpu_ms = cpu_ms();
        let percent = (cpu_ms.saturating_sub(self.cpu_ms)) as f64 / elapsed.as_millis() as f64 * 100.0;
        let (f, memory) = (engine.figures(), status_kib());
        let losses = engine.outbox.total_losses;
        info!(
            "figures: {} targets, {} counts ({} failed), {} censuses, {} alerts, {} waiting; cpu {percent:.3} %, \
             rss {} KiB ({} KiB anonymous); probes {} hits, {:.1} ms; lost: {} alerts, {} samples, {} records, {} ages",
            f.targets,
            f.counts,
            f.counts_failed,
            f.censuses,
            f.alerts,
            engine.outbox.len(),
            memory.0,
            memory.1,
            f.probes.hits,
            f.probes.cpu_ns / 1e6,
            losses.alerts,
            losses.samples,
            losses.records,
            f.ages_unknown,
        );
        if let Some(commands) = engine.command_figures().filter(|figures| *figures != self.commands) {
            let CommandFigures { run, repeated, refused } = commands;
            let refused = refused.iter().fold(0, |sum: u32, count| sum.saturating_add(*count));
            info!("commands: {run} carried out, {repeated} answered once more, {refused} refused");
            self.commands = commands;
        }
        (self.said, self.cpu_ms) = (Instant::now(), cpu_ms);
    }
}

/// CPU time of this process so far, in milliseconds.
fn cpu_ms() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    u64::try_from(used.as_millis()).unwrap_or(u64::MAX)
}

/// Resident memory and the anonymous part of it, in KiB.
pub(super) fn status_kib() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    (field("VmRSS:").unwrap_or(0), field("RssAnon:").unwrap_or(0))
}
