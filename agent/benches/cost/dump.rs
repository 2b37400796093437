//! Dumps of all stacks, by the agent's own command: time, CPU time and memory, against the programs' profiles.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::crowd::{Cost, Crowd};
use crate::program::Program;
use crate::row::{self, Goal, Spread, time};

/// CPU time that a dump of 100,000 goroutines may take at most, in nanoseconds.
const DUMP_GOAL: f64 = 100e6;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Every stack.
    Plain,
    /// Equal stacks once.
    Grouped,
}

/// What one run of the command took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dumped {
    pub(crate) cost: Cost,
    /// The most memory it ever had, in KiB; `None` when it ended before it could be asked.
    peak: Option<u64>,
}

/// Runs the command; its text goes nowhere.
pub(crate) fn take(program: &Program, form: Form) -> Result<Dumped> {
    let (began, before) = (Instant::now(), children_cpu()?);
    let mut command = Command::new(agent());
    command.args(["dump", "--pid", &program.remote.id.pid.to_string()]);
    command.args((form == Form::Grouped).then_some("--grouped"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let peak = peak_at_exit(Pid::from_raw(i32::try_from(child.id())?))?;
    let status = child.wait()?;
    if !status.success() {
        bail!("goleakguard dump: {status}");
    }
    let wall = began.elapsed().as_secs_f64() * 1e9;
    let cpu = children_cpu()?.saturating_sub(before).as_secs_f64() * 1e9;
    Ok(Dumped { cost: Cost { wall, cpu }, peak })
}

/// The agent of this machine, as it is handed out.
pub(crate) fn agent() -> PathBuf {
    env::var_os("GLG_AGENT").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_goleakguard")), PathBuf::from)
}

/// CPU time of all children that have ended.
fn children_cpu() -> Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// Waits for the end of a child and reads its peak while its memory is still there (ptrace(2),
/// `PTRACE_EVENT_EXIT`); `None` when it was quicker. It remains to be waited for.
fn peak_at_exit(child: Pid) -> Result<Option<u64>> {
    if ptrace::seize(child, ptrace::Options::PTRACE_O_TRACEEXIT).is_err() {
        return Ok(None);
    }
    loop {
        match waitpid(child, None)? {
            WaitStatus::PtraceEvent(..) => break,
            WaitStatus::Stopped(_, signal) => ptrace::cont(child, signal)?,
            other => bail!("goleakguard dump: {other:?}"),
        }
    }
    let status = fs::read_to_string(format!("/proc/{child}/status"))?;
    ptrace::detach(child, None)?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.context("a process without VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok(Some(peak))
}

pub(crate) fn rows(crowds: &[Crowd]) {
    for crowd in crowds.iter().filter(|crowd| crowd.size == 100_000) {
        for (what, dumps) in [("dump", &crowd.plain), ("grouped dump", &crowd.grouped)] {
            let cpu = cpu(dumps);
            let name = format!("{what} of {} : its goal, CPU", crowd.label());
            let figures = format!("{} : {}", time(Spread::of(&cpu).median), time(DUMP_GOAL));
            let goal = vec![DUMP_GOAL; cpu.len()];
            row::print(&name, Spread::of_ratios(&cpu, &goal), Goal::AtMost(1.0), &figures);
        }
    }
    for crowd in crowds {
        against(crowd, "dump", &crowd.plain, "debug=2", &crowd.debug2);
        against(crowd, "grouped dump", &crowd.grouped, "debug=1", &crowd.debug1);
    }
    crate::crowd::linear_row(crowds, "dump", 1.25, |crowd| cpu(&crowd.plain));
    memory(crowds);
}

/// CPU time against that of the program's own profile.
fn against(crowd: &Crowd, what: &str, dumps: &[Dumped], profile: &str, profiles: &[Cost]) {
    let own: Vec<f64> = profiles.iter().map(|cost| cost.cpu).collect();
    let typical =
        |values: &mut dyn Iterator<Item = f64>| time(Spread::of(&values.collect::<Vec<f64>>()).median);
    let mut figures = format!(
        "{} : {} CPU, {} : {} wall",
        typical(&mut dumps.iter().map(|dumped| dumped.cost.cpu)),
        typical(&mut own.iter().copied()),
        typical(&mut dumps.iter().map(|dumped| dumped.cost.wall)),
        typical(&mut profiles.iter().map(|cost| cost.wall)),
    );
    if profile == "debug=2" && crowd.debug2_shown < u64::from(crowd.size) {
        figures += &format!("; that ends after {} of them", row::grouped(crowd.debug2_shown));
    }
    let name = format!("{what} of {} : its own {profile}, CPU", crowd.label());
    row::print(&name, Spread::of_ratios(&cpu(dumps), &own), Goal::None, &figures);
}

fn memory(crowds: &[Crowd]) {
    let peaks = |crowd: &Crowd| -> Vec<f64> {
        let kib = crowd.plain.iter().chain(&crowd.grouped).filter_map(|dumped| dumped.peak);
        kib.map(|kib| kib as f64).collect()
    };
    let [least, .., most] = crowds else { return };
    let megabytes = |crowd| format!("{:.2}", Spread::of(&peaks(crowd)).median * 1024.0 / 1e6);
    let each: Vec<String> = crowds.iter().map(megabytes).collect();
    let sizes: Vec<String> = crowds.iter().map(Crowd::label).collect();
    let name = format!("dump of {} : of {}, memory at its peak", most.label(), least.label());
    let figures = format!("{} MB at {}", each.join(" : "), sizes.join(", "));
    row::print(&name, Spread::of_ratios(&peaks(most), &peaks(least)), Goal::AtMost(1.1), &figures);
}

fn cpu(dumps: &[Dumped]) -> Vec<f64> {
    dumps.iter().map(|dumped| dumped.cost.cpu).collect()
}
