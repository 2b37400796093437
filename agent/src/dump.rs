//! `goleakguard dump`: the goroutines of a process with their stacks, as Go itself would print them.

use std::fmt;
use std::io::{self, BufWriter, Write};

use anyhow::{Context, anyhow, bail};
use glg_engine::dump::{self, DumpError, Groups};
use glg_engine::runtime::Runtime;
use glg_engine::step::Process;
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, TraceLimits, TraceStats, Tracer};
use nix::time::{ClockId, clock_gettime};

use crate::remote::Remote;

/// What the command takes of memory, whatever the process has: about 7 MB when all of it is used.
const LIMITS: TraceLimits = TraceLimits {
    goroutines: 10_000_000,
    stack_bytes: 1 << 20,
    frames: 4096,
    places: 8192,
    text_bytes: 4 << 20,
};
/// Different stacks in a grouped dump.
const GROUPS: usize = 4096;
/// Bytes written in one go.
const OUT_BYTES: usize = 64 << 10;

/// Writes the goroutines of process `pid` to `out`; what could not be shown whole is told on standard error.
///
/// # Errors
/// When the process is no Go program we know, cannot be read, or ends meanwhile.
pub fn dump(pid: u32, grouped: bool, out: impl Write) -> anyhow::Result<()> {
    let Some(mut remote) = Remote::open(pid).with_context(|| format!("process {pid}"))? else {
        bail!("process {pid} does not exist, or is no program");
    };
    let entry = remote.entry;
    let Process { memory, image } = remote.process();
    let context = || format!("process {pid}");
    let mut runtime = Runtime::open(image, entry).with_context(context)?;
    runtime.confirm(memory).with_context(context)?;
    let mut symbols =
        Symbols::new(&runtime, image, LIMITS.places, LIMITS.text_bytes).with_context(context)?;
    let mut target = Target { runtime: &runtime, memory, image, symbols: &mut symbols };
    let mut tracer = Tracer::new(LIMITS);
    let mut text = Text { out: BufWriter::with_capacity(OUT_BYTES, out), error: None };
    let result = if grouped {
        dump::grouped(&mut tracer, &mut target, &mut Groups::new(GROUPS), &mut text)
    } else {
        dump::plain(&mut tracer, &mut target, now_ns()?, &mut text)
    };
    let flushed = text.out.flush();
    let error = text.error.or(flushed.err());
    match result {
        _ if error.as_ref().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => Ok(()),
        Err(DumpError::Foreign(error)) => Err(anyhow!(error).context(context())),
        Err(DumpError::Write) => Err(anyhow!(error.unwrap_or(io::ErrorKind::Other.into()))),
        Ok(stats) => {
            remarks(&stats);
            error.map_or(Ok(()), |error| Err(error.into()))
        }
    }
}

/// What a reader of the dump cannot see in it.
fn remarks(stats: &TraceStats) {
    for (count, what) in [
        (stats.cut, "stacks are not shown to their end"),
        (stats.torn, "goroutines could not be read: they began or ended meanwhile"),
        (stats.skipped, "goroutines were not looked at"),
    ] {
        if count > 0 {
            eprintln!("goleakguard: {count} {what}");
        }
    }
}

/// The clock that Go's runtime calls `nanotime`.
fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("monotonic clock")?;
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec())?, u64::try_from(now.tv_nsec())?);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// Bytes as text, with the error that [`fmt::Error`] cannot carry.
struct Text<W: Write> {
    out: BufWriter<W>,
    error: Option<io::Error>,
}

impl<W: Write> fmt::Write for Text<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_all(text.as_bytes()).map_err(|error| {
            self.error = Some(error);
            fmt::Error
        })
    }
}
