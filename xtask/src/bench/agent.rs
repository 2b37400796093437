//! The agent's own cost: memory and CPU time of the service while it watches ten programs, and the size of the
//! vehicle's binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Row, Section, program};
use crate::broker::Broker;
use crate::build::{self, BINARY_BUDGET, grouped};
use crate::child::{Child, Event, Events, Source, What};
use crate::cmd::Progress;
use crate::paths;

/// Programs watched.
const TARGETS: usize = 10;
/// Memory budget, in KiB: 1.6 MiB.
const MEMORY_BUDGET: f64 = 1638.0;
/// Per cent of a core that ten targets may cost at one count a second.
const CPU_GOAL: f64 = 0.2;
/// How long starting may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs broker, programs and agent for some seconds and reads the figures off `/proc`.
pub(super) fn measure(quick: bool) -> Result<Section> {
    let mut progress = Progress::start("measuring: the agent itself");
    let dir = paths::target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let events = Events::new()?;
    let broker = Broker::start(&dir, None)?;
    let healthy = program("healthy")?.path();
    let targets: Vec<Child> = (0..TARGETS)
        .map(|_| {
            let mut command = Command::new(&healthy);
            command.args(["-stdin", "-requests", "100"]);
            Child::start("healthy", Source::Healthy, &command, &dir, Some(&events))
        })
        .collect::<Result<_>>()?;
    for _ in &targets {
        wait_for(&events, Source::Healthy, "READY ")?;
    }
    let mut command = Command::new(build::host_agent());
    command.arg("run").arg("--config").arg(write_board_file(&dir, broker.port, &healthy)?);
    let agent = Child::start("agent", Source::Agent, &command, &dir, Some(&events))?;
    wait_for(&events, Source::Agent, "link up").with_context(|| agent.log_tail())?;

    let (began, cpu) = (Instant::now(), cpu_seconds(agent.pid())?);
    let length = Duration::from_secs(if quick { 5 } else { 20 });
    while events.next((Instant::now() + Duration::from_secs(1)).min(began + length))?.is_some()
        || began.elapsed() < length
    {
        progress.tick();
    }
    let percent = (cpu_seconds(agent.pid())? - cpu) / began.elapsed().as_secs_f64() * 100.0;
    let memory = Memory::of(agent.pid())?;
    let size = fs::metadata(build::vehicle_agent())?.len();
    progress.done();
    Ok(Section {
        heading: format!("The agent itself, watching {TARGETS} programs at one count a second"),
        remark: "Memory is this machine's build with glibc; the vehicle's is measured in the QEMU run."
            .into(),
        rows: rows(&memory, percent, size)?,
        left_out: Vec::new(),
    })
}

fn rows(memory: &Memory, percent: f64, size: u64) -> Result<Vec<Row>> {
    let Memory { rss, anonymous, file, peak, proportional } = *memory;
    let kib = |kib: u64| -> Result<f64> { Ok(f64::from(u32::try_from(kib)?)) };
    let all = format!(
        "{} KiB resident: {} anonymous, {} of files (evictable, shared: {} proportionally)",
        grouped(rss),
        grouped(anonymous),
        grouped(file),
        grouped(proportional)
    );
    Ok(vec![
        row(
            "anonymous memory : 1.6 MiB",
            kib(anonymous)? / MEMORY_BUDGET,
            format!("{} KiB", grouped(anonymous)),
        ),
        row("resident memory, the C library's included : 1.6 MiB", kib(rss)? / MEMORY_BUDGET, all),
        row(
            "resident memory at its peak : 1.6 MiB",
            kib(peak)? / MEMORY_BUDGET,
            format!("{} KiB", grouped(peak)),
        ),
        row("CPU : 0.2 % of a core", percent / CPU_GOAL, format!("{percent:.3} % of a core")),
        row(
            "vehicle's binary : 5 MB",
            f64::from(u32::try_from(size)?) / f64::from(u32::try_from(BINARY_BUDGET)?),
            format!("{} bytes", grouped(size)),
        ),
    ])
}

/// A share of a budget.
fn row(name: &str, ratio: f64, figures: String) -> Row {
    Row { name: name.into(), ratio, low: ratio, high: ratio, at_least: None, at_most: Some(1.0), figures }
}

/// The bench's board with this broker, and only the programs of the bench watched.
fn write_board_file(dir: &Path, port: u16, healthy: &Path) -> Result<PathBuf> {
    let path = dir.join("board.toml");
    let text = format!(
        "inherits = {:?}\n\n\
         [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\n\n\
         [spool]\ndir = {:?}\n\n\
         [[watch.match]]\npath = {healthy:?}\naction = \"watch\"\n\n\
         [[watch.match]]\naction = \"ignore\"\n",
        paths::repo().join("board-configs/bench.toml"),
        dir.join("spool")
    );
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn wait_for(events: &Events, from: Source, word: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(Event { from: source, what, .. }) = events.next(deadline)? {
        match what {
            What::Line(line) if source == from && line.contains(word) => return Ok(()),
            What::Ended => bail!("{source:?} has ended"),
            What::Line(_) => {}
        }
    }
    bail!("{from:?} did not say {word:?} within {} s", PATIENCE.as_secs())
}

/// Memory of a process in KiB, proc(5).
struct Memory {
    rss: u64,
    anonymous: u64,
    file: u64,
    peak: u64,
    /// Shared pages divided by the number of their users.
    proportional: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Memory> {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).context("the agent is gone")?;
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("/proc/{pid}/{file} without {key}"))
        };
        Ok(Memory {
            rss: field("status", "VmRSS:")?,
            anonymous: field("status", "RssAnon:")?,
            file: field("status", "RssFile:")?,
            peak: field("status", "VmHWM:")?,
            proportional: field("smaps_rollup", "Pss:")?,
        })
    }
}

/// CPU time of all threads so far: the scheduler's account in nanoseconds, where `/proc/PID/stat` has ticks.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the agent is gone")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds: f64 = text.split_whitespace().next().unwrap_or_default().parse()?;
        total += nanoseconds / 1e9;
    }
    Ok(total)
}
