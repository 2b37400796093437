//! `goleakguard locks`: the threads of a process that wait for locks in C, for how long, who has the locks, and
//! who waits for ever, with the C and the Go of each in one picture; on demand also how long locks are waited for
//! within some time.

mod contention;
mod json;
mod observe;
mod text;

use std::io::{self, Write};

use anyhow::{Context, bail};
use glg_engine::locks::graph::{Cycle, Node};
use glg_engine::locks::in_go::{GoFrame, stack_in_go};
use glg_engine::locks::scan::{LockLimits, Scan, Subject, Waiter};
use glg_engine::memory::Error;
use glg_engine::runtime::Runtime;
use glg_engine::step::Process;

pub use observe::{Wanted, time};

use observe::Observed;

use crate::native::Native;
use crate::remote::{Remote, absence};
use crate::threads::{CStack, c_stack};

/// Looks of which two in a row have to find the same.
const LOOKS: u32 = 5;

/// What is told of a process.
struct Report {
    pid: u32,
    go: String,
    threads: u32,
    /// Threads that moved each time they were looked at.
    restless: u32,
    /// Whether there are more threads than were looked at.
    cut: bool,
    /// The longest wait first.
    waits: Vec<Wait>,
    deadlocks: Vec<Cycle>,
    /// What came before, if that was wanted.
    observed: Option<Observed>,
    /// Whether the process has ended while it was observed.
    ended: bool,
}

/// What waits at a moment.
#[derive(Default)]
struct Standing {
    scan: Scan,
    waits: Vec<Wait>,
    deadlocks: Vec<Cycle>,
}

/// A thread that waits, and what it stands in.
struct Wait {
    waiter: Waiter,
    waited_ms: Option<u64>,
    c_stack: CStack,
    go_stack: Vec<GoFrame>,
}

/// Writes what waits in process `pid`; before that observes it for a time, if that is wanted.
///
/// # Errors
/// When the process is no Go program we know, cannot be read or observed, or ends meanwhile.
pub fn locks(
    pid: u32,
    json: bool,
    limits: LockLimits,
    wanted: Option<Wanted>,
    mut out: impl Write,
) -> anyhow::Result<()> {
    let Some(mut remote) = Remote::open(pid).with_context(|| format!("process {pid}"))? else {
        bail!("process {pid} {}", absence(pid));
    };
    let report = look(&mut remote, limits, wanted).with_context(|| format!("process {pid}"))?;
    let text = if json { json::object(&report) } else { text::text(&report) };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that goes away has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn look(remote: &mut Remote, limits: LockLimits, wanted: Option<Wanted>) -> anyhow::Result<Report> {
    let (pid, entry) = (remote.id.pid, remote.entry);
    let mut process = remote.process();
    let mut runtime = Runtime::open(process.image, entry)?;
    runtime.confirm(process.memory)?;
    let observed =
        wanted.map(|wanted| observe::observe(pid, &mut process, &runtime, limits, wanted)).transpose()?;
    let (standing, ended) = match (&observed, stand(pid, &runtime, &mut process, limits)) {
        // What was measured until then is told.
        (Some(Observed { ended: true, .. }), _) | (Some(_), Err(Error::Gone)) => (Standing::default(), true),
        (_, standing) => (standing?, false),
    };
    let Standing { scan, waits, deadlocks } = standing;
    let go = runtime.go.to_string();
    let (threads, restless, cut) = (scan.figures.threads, scan.restless, scan.cut);
    Ok(Report { pid, go, threads, restless, cut, waits, deadlocks, observed, ended })
}

fn stand(
    pid: u32,
    runtime: &Runtime,
    process: &mut Process<'_>,
    limits: LockLimits,
) -> Result<Standing, Error> {
    let mut scan = Scan::default();
    let deadlocks = settle(&mut scan, runtime, process, limits)?;
    let mut native = Native::new(pid, runtime.layout.arch);
    let mut waits = Vec::new();
    for waiter in &scan.waiters {
        waits.extend(wait(waiter, runtime, process, &mut native)?);
    }
    waits.sort_by_key(|wait| std::cmp::Reverse(wait.waited_ms));
    Ok(Standing { scan, waits, deadlocks })
}

/// Looks until two looks in a row agree on who waits for ever: what only one has found is not told.
fn settle(
    scan: &mut Scan,
    runtime: &Runtime,
    process: &mut Process<'_>,
    limits: LockLimits,
) -> Result<Vec<Cycle>, Error> {
    let mut before: Option<Vec<Cycle>> = None;
    for _ in 0..LOOKS {
        let Process { memory, image, threads, .. } = process;
        let mut subject = Subject { runtime, memory: *memory, image: *image, threads: *threads };
        scan.look(&mut subject, limits)?;
        let found = scan.deadlocks.clone();
        if before.as_ref() == Some(&found) {
            return Ok(found);
        }
        before = Some(found);
    }
    // A program that is never still has no deadlock that would hold for two looks.
    let known = before.unwrap_or_default();
    Ok(known.into_iter().filter(|cycle| scan.deadlocks.contains(cycle)).collect())
}

/// One wait with its stacks; `None` when it is over.
fn wait(
    waiter: &Waiter,
    runtime: &Runtime,
    process: &mut Process<'_>,
    native: &mut Native,
) -> Result<Option<Wait>, Error> {
    let c_stack = c_stack(native, process.memory, runtime, waiter);
    let go_stack = match waiter.goroutine {
        Some(goroutine) => stack_in_go(runtime, process, goroutine.g)?,
        None => Vec::new(),
    };
    let waited_ms = process.threads.blocked_ms(waiter.tid);
    match process.threads.switches(waiter.tid) {
        Ok(switches) if switches == waiter.switches => {}
        Ok(_) | Err(Error::Gone) => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Some(Wait { waiter: *waiter, waited_ms, c_stack, go_stack }))
}

/// Numbers of the threads of a circle.
fn tids(cycle: &Cycle) -> impl Iterator<Item = u32> + '_ {
    cycle.nodes.iter().filter_map(|node| match node {
        Node::Thread(tid) => Some(*tid),
        Node::Goroutine(_) => None,
    })
}
