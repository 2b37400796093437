//! `goleakguard leaks`: goroutines of a process that can never go on, and those that stand still for a reason that
//! healthy ones do not have.

mod json;
mod regions;
mod sites;
mod text;

use std::io::{self, BufWriter, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use glg_engine::cached_image::CachedImage;
use glg_engine::goroutines::Counter;
use glg_engine::layout::Arch;
use glg_engine::memory::{Addr, Error, Image, Memory};
use glg_engine::reach::proof::{Finding, Look, Plan, Proof, moments};
use glg_engine::reach::report::{Report, describe};
use glg_engine::reach::{Abstained, Figures, Places, Subject};
use glg_engine::runtime::Runtime;
use glg_engine::step::{Process, TargetId};
use glg_engine::symbols::Symbols;
use glg_engine::traces::{Target, Tracer};
use glg_proto::proof::Proof as Proven;

use crate::config;
use crate::groups::Groups;
use crate::probes::monotonic_ns;
use crate::remote::{self, Remote};

/// Bytes written in one go.
const OUT_BYTES: usize = 16 << 10;

/// What is told of a process.
struct Told {
    pid: u32,
    go: String,
    arch: Arch,
    goroutines: u32,
    report: Report,
    abstained: Option<Abstained>,
    /// Passes, and glances in between.
    looks: (u32, u32),
    /// From the first to the last.
    observed: Duration,
    /// What the passes took of the processor, all together.
    spent: Duration,
    figures: Figures,
}

/// Bounds of an observation, and of what is told.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'c> {
    /// Of the proof.
    pub prove: &'c config::Prove,
    /// Of the stacks.
    pub dump: &'c config::Dump,
}

/// Observes process `pid` for as long as is wanted, or as the board's config says, and writes what it has found.
///
/// # Errors
/// When the process is no Go program we know, cannot be read, or ends meanwhile.
pub fn leaks(
    pid: u32,
    json: bool,
    observe: Option<Duration>,
    limits: Limits<'_>,
    out: impl Write,
) -> anyhow::Result<()> {
    let process = remote::process_of(pid).unwrap_or(pid);
    if process != pid {
        eprintln!("goleakguard: {pid} is a thread of process {process}, whose goroutines these are");
    }
    let context = || format!("process {process}");
    let Some(mut remote) = Remote::open(process).with_context(context)? else {
        bail!("process {process} {}", remote::absence(process));
    };
    let told = look(&mut remote, limits.prove.plan(observe), &[], limits).with_context(context)?;
    let mut out = BufWriter::with_capacity(OUT_BYTES, out);
    let written =
        if json { json::write(&told, &mut out) } else { out.write_all(text::text(&told).as_bytes()) };
    match written.and_then(|()| out.flush()) {
        // A reader that goes away has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Observes a target of the service, as the board's config says; of these `go` statements it knows that they grow.
///
/// # Errors
/// As [`leaks`].
pub fn proof(id: TargetId, growing: &[Addr], limits: Limits<'_>) -> anyhow::Result<Proven> {
    let remote = Remote::open(id.pid)?.filter(|remote| remote.id == id);
    let Some(mut remote) = remote else { bail!("the process has ended") };
    let told = look(&mut remote, limits.prove.plan(None), growing, limits)?;
    let entry = remote.entry;
    let image = &mut CachedImage::new(remote.process().image);
    let runtime = Runtime::open(image, entry)?;
    Ok(sites::proof(&told, &runtime, image))
}

fn look(remote: &mut Remote, plan: Plan, growing: &[Addr], limits: Limits<'_>) -> anyhow::Result<Told> {
    let (pid, entry) = (remote.id.pid, remote.entry);
    let Process { memory, image, .. } = remote.process();
    let image = &mut CachedImage::new(image);
    let mut runtime = Runtime::open(image, entry)?;
    runtime.confirm(memory)?;
    let mut proof = Proof::new(runtime.layout, limits.prove.limits());
    proof.known_to_grow(growing);
    let begin = Instant::now();
    let spent = observe(pid, &runtime, memory, image, (plan, limits.prove), &mut proof)?;
    let observed = begin.elapsed();
    proof.date(monotonic_ns(), limits.prove.stuck_s);
    let mut findings = proof.findings(plan);
    let report = describe_all(&runtime, memory, image, &mut findings, limits.dump)?;
    Ok(Told {
        pid,
        go: runtime.go.to_string(),
        arch: runtime.layout.arch,
        goroutines: Counter::default().count(&runtime, memory)?,
        report,
        abstained: proof.abstained(),
        looks: proof.looks(),
        observed,
        spent,
        figures: proof.figures,
    })
}

/// Looks at a process at irregular distances; returns what that took.
fn observe(
    pid: u32,
    runtime: &Runtime,
    memory: &mut dyn Memory,
    image: &mut dyn Image,
    (plan, limits): (Plan, &config::Prove),
    proof: &mut Proof,
) -> Result<Duration, Error> {
    let places = match Places::find(runtime, memory, image) {
        Ok(places) => Some(places),
        Err(Error::Gone) => return Err(Error::Gone),
        Err(error) => {
            proof.abstain(error);
            None
        }
    };
    let (begin, mut spent) = (Instant::now(), Duration::ZERO);
    let seed = u64::from(pid).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(begin.elapsed().subsec_nanos());
    for (moment, look) in moments(plan, seed) {
        thread::sleep(Duration::from_millis(moment).saturating_sub(begin.elapsed()));
        let from = Instant::now();
        if let Some(why) = halted(pid) {
            proof.halt(why);
        }
        match (look, &places) {
            (Look::Pass, Some(places)) => {
                let most = Duration::from_secs(limits.max_seconds.into());
                let regions = regions::present(pid);
                let expired = &mut || from.elapsed() > most;
                let (memory, image, regions) = (&mut *memory, &mut *image, regions.as_deref());
                proof.pass(&mut Subject { runtime, memory, image, places, regions, expired })?;
            }
            _ => proof.glance(runtime, memory)?,
        }
        spent += from.elapsed();
    }
    Ok(spent)
}

/// Why a process cannot go on, if so.
fn halted(pid: u32) -> Option<&'static str> {
    if remote::stat(pid).is_some_and(|stat| matches!(stat.state, 'T' | 't')) {
        Some("the process is stopped")
    } else if Groups::of(pid).is_some_and(|groups| groups.are_frozen()) {
        Some("the process is frozen with its control group")
    } else {
        None
    }
}

fn describe_all(
    runtime: &Runtime,
    memory: &mut dyn Memory,
    image: &mut dyn Image,
    findings: &mut [Finding],
    dump: &config::Dump,
) -> Result<Report, Error> {
    if findings.is_empty() {
        return Ok(Report::default());
    }
    let limits = dump.limits();
    let mut symbols = Symbols::new(runtime, image, limits.places, limits.text_bytes)?;
    let mut target = Target { runtime, memory, image, symbols: &mut symbols };
    let max = usize::try_from(dump.max_stacks).unwrap_or(usize::MAX);
    describe(findings, &mut Tracer::new(limits), &mut target, max)
}
