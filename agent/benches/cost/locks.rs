//! What watching costs programs whose threads do nothing but take locks in C, against a uprobe on the library's
//! `pthread_mutex_lock`, as common tools use.

use std::fs;
use std::num::NonZeroU32;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeLinkId, UProbeScope};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use serde_json::Value;

use crate::Effort;
use crate::program::Program;
use crate::row::{self, Goal, Spread};
use crate::service::Service;

static OBJECT: &[u8] = include_bytes_aligned!(env!("GOLEAKGUARD_BPF_OBJECT"));
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

// Contention as the scheduler tells of it, when it is attached, is one more treatment of all three.
const LOADS: [Load; 3] = [
    Load { mode: "uncontended", what: "lock of one thread", treatments: &[WATCHED, PROBED] },
    Load { mode: "contended", what: "lock of two threads", treatments: &[WATCHED, PROBED] },
    Load { mode: "futex", what: "bare futexes", treatments: &[BESIDE] },
];

/// All loads, one after the other; of each all treatments take turns with nobody looking.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let other = Program::start("park", &["8"])?;
    for load in LOADS {
        let mut bench = Bench {
            program: Program::start("locking-cgo", &[load.mode])?,
            other: &other,
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
        }
    }

    fn rate(&mut self) -> Result<f64> {
        self.program.ask("rate")?; // begins a new interval
        sleep(self.length);
        self.program.ask("rate")?.get("rate").and_then(Value::as_f64).context("no rate")
    }
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
