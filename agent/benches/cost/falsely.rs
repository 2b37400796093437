//! How often a proof is false: goroutines proven to wait for ever in programs in which none does.
//!
//! Many observers look at one program at the same time, each as the agent does by default, at moments of its own.
//! After each pass it is noted whom the passes so far would prove, so that one run tells the rate for fewer passes as
//! well.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use glg_engine::cached_image::CachedImage;
use glg_engine::reach::proof::{Grade, Look, Plan, Proof, moments};
use glg_engine::reach::{Abstained, Places, ReachLimits, Subject};
use glg_engine::runtime::Runtime;
use goleakguard::remote::Remote;
use serde_json::Value;

use crate::Effort;
use crate::program::Program;
use crate::row::{self, Goal, Spread, grouped};

/// As in `board-configs/base.toml`.
const PLAN: Plan = Plan { passes: 8, millis: 10_000 };
const LIMITS: ReachLimits = ReachLimits { memory_bytes: 24 << 20, goroutines: 200_000 };
const PASS_MOST: Duration = Duration::from_secs(20);
/// Those who look at a program at the same time.
const OBSERVERS: u32 = 100;
/// Between two moves of a reference.
const PAUSES: [&str; 6] = ["0s", "5us", "50us", "1ms", "5ms", "20ms"];
/// The release whose runtime moves references, and those that serve HTTP.
const GO: &str = "1.27.3";
const RELEASES: [&str; 3] = ["1.22.10", "1.24.11", GO];

/// How many proofs each number of passes made of one goroutine, all of them false.
type False = [u32; PLAN.passes as usize];

/// What observers found.
#[derive(Default)]
struct Found {
    proofs: u32,
    /// Observations that proved nothing whatever they saw, and why the last of them did.
    abstained: u32,
    why: Option<Abstained>,
    /// By number of the goroutine.
    falsely: BTreeMap<u64, False>,
}

impl Found {
    fn add(mut self, other: Found) -> Found {
        self.proofs += other.proofs;
        self.abstained += other.abstained;
        self.why = other.why.or(self.why);
        for (goid, falsely) in other.falsely {
            let sums = self.falsely.entry(goid).or_default();
            sums.iter_mut().zip(falsely).for_each(|(sum, one)| *sum += one);
        }
        self
    }
}

/// References that move, one speed after the other, and then servers of HTTP.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let each = effort.pick(1, 10);
    for pause in PAUSES {
        movers(pause, each).with_context(|| format!("movers {pause}"))?;
    }
    for release in RELEASES {
        server(release, each).with_context(|| format!("HTTP, Go {release}"))?;
    }
    Ok(())
}

fn movers(pause: &str, each: u32) -> Result<()> {
    let mut program = Program::start_of(GO, "leaks", &["movers", pause])?;
    let expected = program.ask("expected")?;
    let victims = expected.get("alive").and_then(Value::as_array).context("no goroutines")?;
    let victim = |one: &Value| Some((one.get("goid")?.as_u64()?, one.get("name")?.as_str()?.to_owned()));
    let victims: BTreeMap<u64, String> = victims.iter().filter_map(victim).collect();
    let before = program.ask("moves")?;
    let mut found = observe(program.remote.id.pid, each)?;
    let after = program.ask("moves")?;
    for (goid, name) in &victims {
        let moves = |at: &Value| at.get(name).and_then(Value::as_u64).context("no moves");
        let moved = moves(&after)? - moves(&before)?;
        ensure!(moved > 100, "{name} has moved {moved} times");
        let falsely = found.falsely.remove(goid).unwrap_or_default();
        report(&format!("{name}: false proofs"), &found, falsely, &format!("{} moves", grouped(moved)));
    }
    let others = sum(&found);
    report(&format!("others beside movers, {pause}: false proofs"), &found, others, "");
    Ok(())
}

fn server(release: &str, each: u32) -> Result<()> {
    let mut program = Program::start_of(release, "busy", &[])?;
    let mut requests = || program.ask("requests")?.get("requests").and_then(Value::as_u64).context("none");
    let before = requests()?;
    let pid = program.remote.id.pid;
    let found = observe(pid, each)?;
    let mut requests = || program.ask("requests")?.get("requests").and_then(Value::as_u64).context("none");
    let served = requests()? - before;
    ensure!(served > 1000, "{served} requests were served");
    let leaked = program.ask("leaked")?.get("leaked").and_then(Value::as_u64);
    ensure!(leaked == Some(0), "it says itself that it leaks: {leaked:?}");
    let what = format!("{} requests", grouped(served));
    report(&format!("HTTP, Go {release}: false proofs"), &found, sum(&found), &what);
    Ok(())
}

/// Proofs of any goroutine.
fn sum(found: &Found) -> False {
    let add = |sums: False, one: &False| std::array::from_fn(|i| sums[i] + one[i]);
    found.falsely.values().fold(False::default(), add)
}

fn report(name: &str, found: &Found, falsely: False, more: &str) {
    let by_passes = falsely.iter().enumerate().map(|(i, number)| format!("k={}: {number}", i + 1));
    let abstained = match found.why {
        Some(why) => format!("; {} abstained: {why}", found.abstained),
        None => String::new(),
    };
    let figures = format!(
        "{} proofs over {} s; {}{abstained}; {more}",
        grouped(found.proofs.into()),
        PLAN.millis / 1000,
        by_passes.collect::<Vec<_>>().join(", "),
    );
    let rate = f64::from(falsely[falsely.len() - 1]) / f64::from(found.proofs.max(1));
    row::print(name, Spread::of(&[rate]), Goal::AtMost(0.0), figures.trim_end_matches("; "));
}

/// Has all observers prove what they can, `each` so many times.
fn observe(pid: u32, each: u32) -> Result<Found> {
    let observer = |nth: u32| -> Result<Found> {
        // Not all at the same time.
        let apart = PLAN.millis * u64::from(nth) / u64::from(OBSERVERS);
        thread::sleep(Duration::from_millis(apart));
        let mut found = Found::default();
        for time in 0..each {
            let seed = u64::from(nth * each + time + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            found = found.add(prove(pid, seed)?);
        }
        Ok(found)
    };
    thread::scope(|scope| {
        let observers: Vec<_> = (0..OBSERVERS).map(|nth| scope.spawn(move || observer(nth))).collect();
        observers.into_iter().try_fold(Found::default(), |all, one| {
            Ok(all.add(one.join().map_err(|_| anyhow!("an observer has failed"))??))
        })
    })
}

/// One observation.
fn prove(pid: u32, seed: u64) -> Result<Found> {
    let mut remote = Remote::open(pid)?.context("the program has ended")?;
    let entry = remote.entry;
    let process = remote.process();
    let mut runtime = Runtime::open(process.image, entry)?;
    runtime.confirm(process.memory)?;
    let places = &Places::find(&runtime, process.memory, process.image)?;
    let mut proof = Proof::new(runtime.layout, LIMITS);
    let mut falsely = BTreeMap::<u64, False>::new();
    let (begin, memory, image) = (Instant::now(), process.memory, &mut CachedImage::new(process.image));
    for (moment, look) in moments(PLAN, seed) {
        thread::sleep(Duration::from_millis(moment).saturating_sub(begin.elapsed()));
        if look == Look::Glance {
            proof.glance(&runtime, memory)?;
            continue;
        }
        let from = Instant::now();
        let expired = &mut || from.elapsed() > PASS_MOST;
        let image = &mut *image;
        proof.pass(&mut Subject { runtime: &runtime, memory, image, places, regions: None, expired })?;
        let passes = proof.looks().0;
        for found in proof.findings(Plan { passes, ..PLAN }) {
            let by_passes = falsely.entry(found.goid).or_default();
            let slot = by_passes.get_mut(passes.saturating_sub(1) as usize);
            if let Some(slot) = slot.filter(|_| found.grade == Grade::Proven) {
                *slot = 1;
            }
        }
    }
    let why = proof.abstained();
    let whole = u32::from(why.is_none());
    Ok(Found { proofs: whole, abstained: 1 - whole, why, falsely })
}
