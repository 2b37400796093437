//! `goleakguard dump`: the goroutines of a process with their stacks, as Go itself would print them.

use std::fmt;
use std::io::{self, BufWriter, Write};

use anyhow::{Context, anyhow, bail};
use glg_engine::cached_image::CachedImage;
use glg_engine::dump::{self, DumpError, Groups, Stacks};
use glg_engine::runtime::Runtime;
use glg_engine::step::Process;
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, TraceLimits, TraceStats, Tracer};
use nix::time::{ClockId, clock_gettime};

use crate::config;
use crate::remote::{self, Remote};

/// Bytes written in one go.
const OUT_BYTES: usize = 16 << 10;

impl config::Dump {
    pub(crate) fn limits(&self) -> TraceLimits {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        TraceLimits {
            goroutines: self.max_goroutines.into(),
            stack_bytes: size(self.max_stack_kib) << 10,
            frames: size(self.max_frames),
            places: size(self.max_places),
            text_bytes: size(self.text_kib) << 10,
        }
    }

    /// Bytes that a dump takes at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let limits = self.limits();
        let symbols = Symbols::bytes(limits.places, limits.text_bytes);
        let text = OUT_BYTES + dump::TEXT_BYTES + CachedImage::BYTES;
        let stacks = self.max_stacks as usize;
        text + Tracer::bytes(&limits) + symbols + Groups::bytes(stacks).max(Stacks::bytes(stacks))
    }
}

/// How goroutines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One after the other, as Go's `debug=2`.
    Plain,
    /// Equal stacks once, with their number, as Go's `debug=1`.
    Grouped,
    /// Equal stacks once and without arguments, for `glg expand` to make the plain form of.
    Compact,
}

/// Writes the goroutines of process `pid` to `out`; what could not be shown whole is told on standard error.
///
/// # Errors
/// When the process is no Go program we know, cannot be read, or ends meanwhile.
pub fn dump(pid: u32, form: Form, config: &config::Dump, out: impl Write) -> anyhow::Result<()> {
    let (pid, limits) = (process(pid), config.limits());
    let Some(mut remote) = Remote::open(pid).with_context(|| cannot_be_opened(pid))? else {
        bail!("process {pid} {}", remote::absence(pid));
    };
    let entry = remote.entry;
    let Process { memory, image, .. } = remote.process();
    let image = &mut CachedImage::new(image);
    let context = || format!("process {pid}");
    let mut runtime = Runtime::open(image, entry).with_context(context)?;
    runtime.confirm(memory).with_context(context)?;
    let mut symbols =
        Symbols::new(&runtime, image, limits.places, limits.text_bytes).with_context(context)?;
    let mut target = Target { runtime: &runtime, memory, image, symbols: &mut symbols };
    let mut tracer = Tracer::new(limits);
    let mut text = Text { out: BufWriter::with_capacity(OUT_BYTES, out), error: None };
    let stacks = config.max_stacks as usize;
    let result = match form {
        Form::Plain => dump::plain(&mut tracer, &mut target, now_ns()?, &mut text),
        Form::Grouped => dump::grouped(&mut tracer, &mut target, &mut Groups::new(stacks), &mut text),
        Form::Compact => {
            dump::compact(&mut tracer, &mut target, &mut Stacks::new(stacks), now_ns()?, &mut text)
        }
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

/// The process that is meant, when the number is that of a thread, as `top -H` shows them.
fn process(pid: u32) -> u32 {
    let process = remote::process_of(pid).unwrap_or(pid);
    if process != pid {
        eprintln!("goleakguard: {pid} is a thread of process {process}, whose goroutines these are");
    }
    process
}

fn cannot_be_opened(pid: u32) -> String {
    format!("process {pid} cannot be opened (run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)")
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
