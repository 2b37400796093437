//! Watching for a while how long threads wait, and naming who waits: the kernel counts, and now and then a look finds
//! some of the waiters standing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use glg_engine::contention::{Counted, LONG_NS, Observation};
use glg_engine::governor::{Meter, Spent};
use glg_engine::locks::in_go::stack_in_go;
use glg_engine::locks::scan::{CFunction, LockLimits, Scan, Subject, Tid, Waiter};
use glg_engine::memory::{Addr, Error};
use glg_engine::runtime::Runtime;
use glg_engine::step::Process;

use crate::native::Native;
use crate::probes::{ProbeError, ProbeLimits, Probes, monotonic_ns};
use crate::threads::{asking, c_stack};

/// How often what was measured is charged, and who waits is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Waiters that are named.
const NAMED_MAX: usize = 32;
/// The probes that are not used take what they must.
const LIMITS: ProbeLimits = ProbeLimits { sites: 1, targets: 1, event_bytes: 4096 };

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// For how long.
    pub time: Duration,
    /// Per cent of one core that it may cost.
    pub budget_percent: f64,
}

/// What an observation has shown.
pub(super) struct Observed {
    pub(super) observation: Observation,
    pub(super) named: Vec<Named>,
    pub(super) spent: Spent,
    /// Whether it was ended early because it cost too much.
    pub(super) over_budget: bool,
    /// Whether the process has ended meanwhile.
    pub(super) ended: bool,
}

/// Somebody who was seen waiting.
pub(super) struct Named {
    pub(super) word: Addr,
    pub(super) tid: u32,
    pub(super) c_function: CFunction,
    /// Function and place, when Go called that.
    pub(super) go_function: Option<String>,
}

impl Observed {
    /// Who was seen waiting for a futex.
    pub(super) fn waiter(&self, word: Addr) -> Option<&Named> {
        self.named.iter().find(|named| named.word == word)
    }
}

/// A time as people write it: `10s` or `10`, `500ms`, `2m`; from 100 ms to one hour.
#[must_use]
pub fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u32 = number.parse().ok()?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "" | "s" => Duration::from_secs(1),
        "m" | "min" => Duration::from_secs(60),
        _ => return None,
    };
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
    unit.checked_mul(number).filter(|time| (least..=most).contains(time))
}

/// Observes a process. Everything is taken off again, whatever ends it.
pub(super) fn observe(
    pid: u32,
    process: &mut Process<'_>,
    runtime: &Runtime,
    limits: LockLimits,
    wanted: Wanted,
) -> anyhow::Result<Observed> {
    let mut probes = Probes::load_observing(&LIMITS, u32::try_from(limits.threads).unwrap_or(u32::MAX))?;
    probes.observe(pid, runtime.go_code(), LONG_NS)?;
    // It takes its time; what is said beside it must not end up in what is read by others.
    eprintln!("goleakguard: observing process {pid} for {} s", wanted.time.as_secs_f64());
    let native = Native::new(pid, runtime.layout.arch);
    let mut watching = Watching::begin(probes, native, wanted)?;
    while !watching.is_over(wanted) {
        sleep(LOOK_EVERY.min(wanted.time.saturating_sub(watching.begun.elapsed())));
        watching.observed.over_budget = watching.charge()?;
        match watching.name(runtime, process, limits) {
            // What was measured until then is told.
            Err(Error::Gone) => watching.observed.ended = true,
            other => other?,
        }
    }
    let (mut observed, scan) = watching.end(pid)?;
    for lock in &mut observed.observation.locks {
        // The kernel knows them by other numbers than a process in a container.
        let known = |tid: &&Tid| Some(tid.outer) == lock.last_long;
        lock.last_long = scan.threads.iter().find(known).map(|tid| tid.inner).or(lock.last_long);
    }
    match observed.observation.classify(scan.tids(), process.memory) {
        Ok(()) | Err(Error::Gone) => Ok(observed),
        Err(error) => Err(error.into()),
    }
}

/// An observation under way.
struct Watching {
    probes: Probes,
    /// What is learnt of the program's C on the way makes the next look quicker than most waits.
    native: Native,
    scan: Scan,
    meter: Meter,
    begun: Instant,
    /// What was counted when it began, and at the last charge.
    counted: [Counted; 2],
    observed: Observed,
}

impl Watching {
    fn begin(probes: Probes, native: Native, wanted: Wanted) -> Result<Watching, ProbeError> {
        let counted = probes.counted()?;
        let observation = Observation::default();
        let (named, spent) = (Vec::new(), Spent::default());
        Ok(Watching {
            probes,
            native,
            scan: Scan::default(),
            meter: Meter::start(wanted.budget_percent, 0),
            begun: Instant::now(),
            counted: [counted; 2],
            observed: Observed { observation, named, spent, over_budget: false, ended: false },
        })
    }

    fn is_over(&self, wanted: Wanted) -> bool {
        let Observed { over_budget, ended, .. } = self.observed;
        over_budget || ended || self.begun.elapsed() >= wanted.time
    }

    /// Charges what has come since the last time; whether that was too much.
    fn charge(&mut self) -> Result<bool, ProbeError> {
        let Watching { probes, observed, .. } = self;
        probes.drain_long_waits(|wait| observed.observation.long_wait(wait));
        let [_, last] = &mut self.counted;
        let now = probes.counted()?;
        let new = now.since(std::mem::replace(last, now));
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let over_budget = self.meter.charge(now_ms, new.switches, new.cost_ns());
        observed.spent = self.meter.spent();
        Ok(over_budget)
    }

    /// Names those who wait now, one for each lock.
    fn name(
        &mut self,
        runtime: &Runtime,
        process: &mut Process<'_>,
        limits: LockLimits,
    ) -> Result<(), Error> {
        let Watching { scan, native, .. } = self;
        let Process { memory, image, threads, .. } = process;
        let mut subject = Subject { runtime, memory: *memory, image: *image, threads: *threads };
        scan.look(&mut subject, limits)?;
        for waiter in &scan.waiters {
            let room = self.observed.named.len() < NAMED_MAX;
            if room && self.observed.waiter(waiter.futex.word).is_none() {
                self.observed.named.extend(named(waiter, runtime, process, native)?);
            }
        }
        Ok(())
    }

    fn end(mut self, pid: u32) -> Result<(Observed, Scan), ProbeError> {
        self.probes.stop_observing();
        let (now_ns, time) = (monotonic_ns(), self.begun.elapsed());
        self.charge()?;
        let ([before, counted], mut observed) = (self.counted, self.observed);
        let observation = &mut observed.observation;
        self.probes.add_measured(pid, now_ns, observation)?;
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        observation.close(time_ns, counted.since(before));
        observed.spent.percent = observed.spent.cpu_ns / time.as_nanos().max(1) as f64 * 100.0;
        Ok((observed, self.scan))
    }
}

/// Who waits, if it still does after it was looked at.
fn named(
    waiter: &Waiter,
    runtime: &Runtime,
    process: &mut Process<'_>,
    native: &mut Native,
) -> Result<Option<Named>, Error> {
    let c_function = asking(&c_stack(native, process.memory, runtime, waiter).frames);
    let stack = match waiter.goroutine {
        Some(goroutine) => stack_in_go(runtime, process, goroutine.g)?,
        None => Vec::new(),
    };
    let frame = stack.iter().find(|frame| !frame.is_machinery());
    let go_function = frame.map(|frame| format!("{} {}:{}", frame.function, frame.file, frame.line));
    let still = process.threads.switches(waiter.tid) == Ok(waiter.switches);
    Ok(still.then_some(Named { word: waiter.futex.word, tid: waiter.tid.inner, c_function, go_function }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(
            (time("10s"), time("10"), time("2m"), time("1min")),
            (seconds(10), seconds(10), seconds(120), seconds(60))
        );
        assert_eq!(time("500ms"), Some(Duration::from_millis(500)));
        for wrong in ["", "s", "0", "-1s", "1.5s", "10x", "99ms", "2h", "61m", "99999999999s", "1ſ"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
