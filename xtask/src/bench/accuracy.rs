//! `cargo xtask bench accuracy`: what `goleakguard leaks` finds of the leaks in GoKer, real bugs of real programs cut
//! down to kernels, which come with Go's own sources and are the test of Go's own leak profile.
//!
//! Each kernel is held alive in a process of its own, is observed from outside, and then asked what Go's profile says
//! of it, where there is one: since Go 1.27. Nothing of those sources is kept: they are copied from the toolchain, the
//! calls of the profile in them replaced. The test command checks a third of them.

mod kernels;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};

use crate::go::{self, Arch, Variant};
use crate::test::Count;
use crate::{build, cmd};
use kernels::{Held, Observed};

/// Below the GOROOT of the newest release.
const SOURCES: &str = "src/runtime/testdata/testgoroutineleakprofile/goker";
/// Whose kernels these are, and whose profile judges.
const NEWEST: &str = "1.27";
/// The other releases that they are built with.
const OTHERS: [&str; 3] = ["1.24", "1.22", "1.19"];
/// Those of them that the test command has time for.
const TESTED: [&str; 2] = ["1.24", "1.22"];
/// Kernels held at a time: most of them wait.
const AT_A_TIME: usize = 6;
/// In ten thousand goroutines that Go's profile names: those that have to be proven, and those that have to be found
/// at least. The second is Go's own recall of what is known to be leaked.
const ALL_LEAST: Least = Least { proven: 9800, found: 9903 };
/// What the test command asks of a third: what chance takes away from it in one run is no defect.
const THIRD_LEAST: Least = Least { proven: 9000, found: 9000 };
/// Of so many that Go's profile names, one may be proven that it does not name because of a small lock.
const FINER_ONE_IN: usize = 200;
/// On older releases, of so many kernels one may be missed: some leak a single goroutine, which a word that a call has
/// left on a stack may keep.
const MISSED_ONE_IN: usize = 20;
/// Programs that leak nothing, of which nothing may be told.
const HEALTHY: [(&str, &[&str]); 3] =
    [("healthy", &["-stdin"]), ("busy", &[]), ("leaks", &["movers", "20ms"])];

/// Shares of those named by Go's profile, in ten thousand.
#[derive(Clone, Copy)]
struct Least {
    proven: usize,
    found: usize,
}

/// Which kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Every third, by name.
    Third,
}

/// Goroutines, added up over kernels.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    kernels: usize,
    /// Named by Go's profile.
    named: usize,
    proven: usize,
    stuck: usize,
    /// Proven, or either, among those named.
    named_proven: usize,
    named_found: usize,
    /// Proven and not named, however often the profile was asked.
    unnamed: usize,
    /// The same where a small lock can be why.
    finer: usize,
    /// Kernels that leak, and those of them of which at least one goroutine was proven.
    leaking: usize,
    caught: usize,
    abstained: usize,
}

/// Builds the kernels with each release, observes them, and prints the table.
pub(crate) fn run() -> Result<()> {
    judge(Which::All, &OTHERS).map(drop)
}

/// The same of a third of them, with programs that leak nothing.
pub(crate) fn check_third() -> Result<Count> {
    let passed = judge(Which::Third, &TESTED)? + healthy()?;
    Ok(Count { passed, failed: 0 })
}

/// Checks what must hold: on the newest release Go's own recall, and nobody told whom Go does not name, but for locks; on
/// the others that of nearly each kernel that leaks one goroutine is proven. Returns how many checks that were.
fn judge(which: Which, others: &[&str]) -> Result<u64> {
    ensure!(cmd::is_root(), "reading other processes' memory takes root");
    let agent = agent()?;
    let sources = go::toolchain(&go::version(NEWEST)?)?.root.join(SOURCES);
    println!(
        "| Go | kernels | named by Go | proven of them | proven or stuck | proven | stuck | not named | leaking, caught |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let newest = observe_all(&agent, NEWEST, &sources, which)?;
    let names = |one: &&Observed| one.named.as_ref().is_some_and(|named| !named.is_empty());
    let leaking: BTreeSet<&str> = newest.iter().filter(names).map(|one| one.name.as_str()).collect();
    let sums = Sums::of(&newest, &leaking);
    print(NEWEST, &newest, &sums, &leaking);
    let least = if which == Which::Third { THIRD_LEAST } else { ALL_LEAST };
    let mut wrong = check(&sums, least).err().into_iter().collect::<Vec<_>>();
    for release in others {
        let observed = observe_all(&agent, release, &sources, which)?;
        let sums = Sums::of(&observed, &leaking);
        print(release, &observed, &sums, &leaking);
        let least = sums.leaking - sums.leaking.div_ceil(MISSED_ONE_IN);
        wrong.extend(caught(&sums, least).with_context(|| format!("Go {release}")).err());
    }
    match wrong.into_iter().next() {
        Some(wrong) => Err(wrong),
        None => Ok(1 + others.len() as u64),
    }
}

/// This machine's agent, or the one that `GLG_BIN` names.
fn agent() -> Result<PathBuf> {
    match env::var_os("GLG_BIN") {
        Some(path) => Ok(path.into()),
        None => build::host().map(|()| build::host_agent()),
    }
}

/// Go's own recall, and nobody told whom Go does not name.
fn check(sums: &Sums, least: Least) -> Result<()> {
    ensure!(sums.named > 0, "Go's profile names nobody");
    ensure!(sums.unnamed == 0, "{} goroutines are proven that Go does not name", sums.unnamed);
    ensure!(sums.finer * FINER_ONE_IN <= sums.named, "{} that wait for locks are not named", sums.finer);
    let share = |part: usize| part * 10_000 / sums.named;
    let (proven, found) = (share(sums.named_proven), share(sums.named_found));
    ensure!(proven >= least.proven, "only {} of {} are proven", sums.named_proven, sums.named);
    ensure!(found >= least.found, "only {} of {} are found", sums.named_found, sums.named);
    caught(sums, sums.leaking)
}

/// Each kernel was judged, and at least so many are caught.
fn caught(sums: &Sums, least: usize) -> Result<()> {
    ensure!(sums.abstained == 0, "{} kernels were not judged", sums.abstained);
    ensure!(sums.caught >= least, "{} of {} kernels are caught", sums.caught, sums.leaking);
    Ok(())
}

/// Nothing is told of programs that leak nothing.
fn healthy() -> Result<u64> {
    let agent = agent()?;
    let build = |program: &str| -> Result<go::Build> {
        let (program, arch, variant) = (program.to_owned(), Arch::host(), Variant::Plain);
        Ok(go::Build { version: go::version(NEWEST)?, program, arch, variant })
    };
    let builds = HEALTHY.iter().map(|(program, _)| build(program)).collect::<Result<Vec<_>>>()?;
    go::build_programs(&builds)?;
    go::at_a_time(HEALTHY.len(), "observing programs that leak nothing", &HEALTHY, |(program, args)| {
        let reported = Held::start(&build(program)?.path(), args)?.reported(&agent)?;
        ensure!(reported == 0, "{reported} goroutines are told of {program}, which leaks nothing");
        Ok(())
    })?;
    Ok(HEALTHY.len() as u64)
}

fn observe_all(agent: &Path, release: &str, sources: &Path, which: Which) -> Result<Vec<Observed>> {
    let program = kernels::compile(&go::toolchain(&go::version(release)?)?, sources)?;
    let names = cmd::output(&mut Command::new(&program))?;
    let mut names: Vec<&str> = names.split_whitespace().collect();
    names.sort_unstable();
    let step = if which == Which::Third { 3 } else { 1 };
    let names: Vec<&str> = names.into_iter().step_by(step).collect();
    ensure!(!names.is_empty(), "{} has no kernels", program.display());
    let all = Mutex::new(Vec::new());
    let label = format!("observing {} kernels of Go {release}", names.len());
    go::at_a_time(AT_A_TIME, &label, &names, |name| {
        let held = Held::start(&program, &[name]).with_context(|| (*name).to_owned())?;
        let one = held.observe(name, agent).with_context(|| (*name).to_owned())?;
        all.lock().map_err(|_| anyhow!("an observer has failed"))?.push(one);
        Ok(())
    })?;
    let mut all = all.into_inner().map_err(|_| anyhow!("an observer has failed"))?;
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl Sums {
    fn of(all: &[Observed], leaking: &BTreeSet<&str>) -> Sums {
        all.iter().fold(Sums::default(), |sums, one| sums.with(one, leaking.contains(one.name.as_str())))
    }

    fn with(mut self, one: &Observed, leaks: bool) -> Sums {
        let proven = one.told.values().filter(|leak| leak.is_proven()).count();
        self.kernels += 1;
        self.proven += proven;
        self.stuck += one.told.len() - proven;
        self.leaking += usize::from(leaks);
        self.caught += usize::from(leaks && proven > 0);
        self.abstained += usize::from(one.abstained.is_some());
        let Some(named) = &one.named else { return self };
        let told = || named.iter().filter_map(|goid| one.told.get(goid));
        self.named += named.len();
        self.named_proven += told().filter(|leak| leak.is_proven()).count();
        self.named_found += told().count();
        match one.unnamed() {
            (number, true) => self.finer += number,
            (number, false) => self.unnamed += number,
        }
        self
    }
}

/// A row of the table, and below it which kernels are not proven as a whole.
fn print(release: &str, all: &[Observed], sums: &Sums, leaking: &BTreeSet<&str>) {
    let Sums { kernels, named, proven, stuck, named_proven, named_found, .. } = sums;
    let unnamed = &(sums.unnamed + sums.finer);
    let judged = [named, named_proven, named_found, unnamed].map(|number| match sums.named {
        0 => String::new(),
        _ => number.to_string(),
    });
    let [named, named_proven, named_found, unnamed] = judged;
    let abstained = match sums.abstained {
        0 => String::new(),
        number => format!(" (abstained: {number})"),
    };
    let (leaking_kernels, caught) = (sums.leaking, sums.caught);
    println!(
        "| {release} | {kernels} | {named} | {named_proven} | {named_found} | {proven} | {stuck} | {unnamed} | \
         {leaking_kernels}, {caught}{abstained} |"
    );
    for one in all {
        let proven = one.told.values().filter(|leak| leak.is_proven()).count();
        let mut others = BTreeMap::<&str, usize>::new();
        for leak in one.told.values().filter(|leak| !leak.is_proven()) {
            *others.entry(&leak.wait).or_default() += 1;
        }
        let missed = one.named.iter().flatten().filter(|goid| !one.told.contains_key(goid)).count();
        let (unnamed, _) = one.unnamed();
        let remarks = [("named by Go and not told", missed), ("of them not named by Go", unnamed)];
        others.extend(remarks.into_iter().filter(|(_, number)| *number > 0));
        if !others.is_empty() || proven == 0 && leaking.contains(one.name.as_str()) {
            let others = others.iter().map(|(what, number)| format!(", {number} {what}"));
            println!("  {}: {proven} proven{}", one.name, others.collect::<String>());
        }
    }
}
