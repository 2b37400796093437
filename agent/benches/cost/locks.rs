//! What watching costs programs whose threads do nothing but take locks in C, and what it costs to measure how they
//! wait, against a uprobe on the library's `pthread_mutex_lock`, as common tools use.

use std::fs;
use std::num::NonZeroU32;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeLinkId, UProbeScope};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use glg_engine::contention::LONG_NS;
use goleakguard::probes::{ProbeLimits, Probes};
use serde_json::Value;

use crate::Effort;
use crate::program::Program;
use crate::row::{self, Goal, Spread};
use crate::service::Service;

static OBJECT: &[u8] = include_bytes_aligned!(env!("GOLEAKGUARD_BPF_OBJECT"));
/// The probes that are not used take what they must.
const LIMITS: ProbeLimits = ProbeLimits { sites: 1, targets: 1, event_bytes: 4096 };
/// Threads that may wait at a time while it is measured.
const THREADS: u32 = 64;
/// Counts its hits and does nothing else.
const COUNTS: &str = "calibrate";

/// Lets a program of many turns be watched, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Unwatched,
    /// By the service, one tick a second.
    Watched,
    /// The service watches another program.
    Beside,
    /// A counting uprobe on `pthread_mutex_lock`.
    Probed,
    /// Its contention is measured where the scheduler switches threads.
    Measured,
    /// The same of another program.
    MeasuredBeside,
}

/// A mode of the program `locking`, and what is done to it.
struct Load {
    mode: &'static str,
    what: &'static str,
    treatments: &'static [(&'static str, Treatment, Goal)],
}

const WATCHED: (&str, Treatment, Goal) = ("watched by the service", Treatment::Watched, Goal::AtLeast(0.97));
const PROBED: (&str, Treatment, Goal) = ("a uprobe on pthread_mutex_lock", Treatment::Probed, Goal::None);
const BESIDE: (&str, Treatment, Goal) =
    ("the service watches another program", Treatment::Beside, Goal::AtLeast(0.97));
const MEASURED: &str = "contention measured";
// A lock that is not waited for passes nothing.
const MEASURED_FREE: (&str, Treatment, Goal) = (MEASURED, Treatment::Measured, Goal::AtLeast(0.97));
// The others pass it at every switch; how long that may go on the governor decides.
const MEASURED_HERE: (&str, Treatment, Goal) = (MEASURED, Treatment::Measured, Goal::None);
const MEASURED_BESIDE: (&str, Treatment, Goal) =
    ("contention of another program measured", Treatment::MeasuredBeside, Goal::None);

const LOADS: [Load; 3] = [
    Load { mode: "uncontended", what: "lock of one thread", treatments: &[WATCHED, PROBED, MEASURED_FREE] },
    Load { mode: "contended", what: "lock of two threads", treatments: &[WATCHED, PROBED, MEASURED_HERE] },
    Load { mode: "futex", what: "bare futexes", treatments: &[BESIDE, MEASURED_BESIDE, MEASURED_HERE] },
];

/// All loads, one after the other; of each all treatments take turns with nobody looking.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let other = Program::start("park", &["8"])?;
    for load in LOADS {
        let mut bench = Bench {
            program: Program::start("locking-cgo", &[load.mode])?,
            other: &other,
            waits: load.mode != "uncontended",
            length: Duration::from_millis(effort.pick(1200, 3000)),
        };
        let mut unwatched = Vec::new();
        let mut rates: Vec<Vec<f64>> = load.treatments.iter().map(|_| Vec::new()).collect();
        for _ in 0..effort.pick(3, 9) {
            unwatched.push(bench.turn(Treatment::Unwatched)?);
            for ((_, treatment, _), rates) in load.treatments.iter().zip(&mut rates) {
                rates.push(bench.turn(*treatment)?);
            }
        }
        let figure = |rates: &[f64]| format!("{:.0}/s", Spread::of(rates).median);
        for ((name, _, goal), rates) in load.treatments.iter().zip(&rates) {
            let name = format!("{}, {name} : unwatched", load.what);
            let figures = format!("{} : {}", figure(rates), figure(&unwatched));
            row::print(&name, Spread::of_ratios(rates, &unwatched), *goal, &figures);
        }
    }
    Ok(())
}

struct Bench<'a> {
    program: Program,
    other: &'a Program,
    /// Whether its threads wait.
    waits: bool,
    length: Duration,
}

impl Bench<'_> {
    /// Turns per second under a treatment.
    fn turn(&mut self, treatment: Treatment) -> Result<f64> {
        match treatment {
            Treatment::Unwatched => self.rate(),
            Treatment::Watched => {
                let _service = Service::watching(&self.program)?;
                self.rate()
            }
            Treatment::Beside => {
                let _service = Service::watching(self.other)?;
                self.rate()
            }
            Treatment::Probed => {
                let _probe = LockProbe::attach(self.program.remote.id.pid)?;
                self.rate()
            }
            Treatment::Measured => {
                let probes = measuring(&self.program)?;
                let rate = self.rate()?;
                // Where most turns are waits, these must have been seen.
                if self.waits && probes.counted()?.waits == 0 {
                    bail!("no wait was measured");
                }
                Ok(rate)
            }
            Treatment::MeasuredBeside => {
                let _probes = measuring(self.other)?;
                self.rate()
            }
        }
    }

    fn rate(&mut self) -> Result<f64> {
        self.program.ask("rate")?; // begins a new interval
        sleep(self.length);
        self.program.ask("rate")?.get("rate").and_then(Value::as_f64).context("no rate")
    }
}

/// Measures how a program's threads wait in C until it is dropped. No governor: it would take it off.
fn measuring(program: &Program) -> Result<Probes> {
    let mut probes = Probes::load_observing(&LIMITS, THREADS)?;
    probes.observe(program.remote.id.pid, program.runtime.go_code(), LONG_NS)?;
    Ok(probes)
}

/// A uprobe on the first instruction of `pthread_mutex_lock` of the library that a process has loaded, in this process
/// only. Taken off when it is dropped.
struct LockProbe {
    programs: Ebpf,
    link: Option<UProbeLinkId>,
}

impl LockProbe {
    fn attach(pid: u32) -> Result<LockProbe> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let library = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
        let library = library.into_iter().find(|path| path.ends_with("/libc.so.6"));
        let library = library.context("the program has loaded no C library")?;
        let mut programs = EbpfLoader::new().btf(None).load(OBJECT)?;
        let process = NonZeroU32::new(pid).context("no process")?;
        let program = counting(&mut programs)?;
        program.load()?;
        let at = UProbeAttachLocation::Symbol("pthread_mutex_lock");
        let link = program.attach(at, library, UProbeScope::OneProcess(process))?;
        Ok(LockProbe { programs, link: Some(link) })
    }
}

impl Drop for LockProbe {
    fn drop(&mut self) {
        let link = self.link.take();
        if let (Ok(program), Some(link)) = (counting(&mut self.programs), link) {
            // The process may have ended: then there is nothing to take off.
            let _ = program.detach(link);
        }
    }
}

fn counting(programs: &mut Ebpf) -> Result<&mut UProbe> {
    Ok(programs.program_mut(COUNTS).with_context(|| format!("no program {COUNTS}"))?.try_into()?)
}
