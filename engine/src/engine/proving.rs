//! The highest rung: a target that grows, and each of them now and then, is observed for goroutines that can never go
//! on. That takes a while and some memory, so a child of the service does it, for one target at a time.

use glg_proto::proof::Proof;
use glg_proto::wire::{
    Attributed, Body, Envelope, Grade, Leak, Left, SITES_MAX, Site, Timestamp, Trend, Wait,
};

use super::Engine;
use crate::crc;
use crate::investigation::SiteGrowth;
use crate::memory::Addr;
use crate::step::{Counts, Effect, Effects, Event, Note, TargetId};
use crate::trend;
use crate::watch::{Phase, Watch, act};

/// The first observation of a target that nothing is suspected of, in milliseconds after it was found: its start-up is
/// over by then.
const FIRST_MS: u64 = 600_000;
/// An observation that failed is tried again so often, after so many milliseconds and then twice that each time.
const RETRIES: u8 = 3;
const RETRY_MS: u64 = 5000;
/// Window of the trend that is told of a target that was not seen to grow.
const HOUR_S: u32 = 3600;

/// When it is observed without any suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProveConfig {
    /// Milliseconds from one observation to the next; 0 for never.
    pub every_ms: u64,
}

/// The observation under way.
pub(super) struct Proving {
    pub(super) id: TargetId,
    /// If it grows: how often an observation of that has failed.
    tried: Option<u8>,
}

/// What a target's watch remembers for its proof.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// The last alert about growth.
    alerted: Option<Alerted>,
    /// When that has to be looked into, in milliseconds, if it still has to be; and how often that has failed.
    open: Option<(u64, u8)>,
    /// From when on it is looked at without one.
    due_ms: u64,
    /// Goroutines that were told to be leaked for certain.
    told: u32,
}

/// What is kept of an alert about growth.
#[derive(Debug)]
struct Alerted {
    at_ms: u64,
    baseline: u32,
    window_s: u32,
    trend: Option<Trend>,
    left: Option<Left>,
    sites: heapless::Vec<Grown, SITES_MAX>,
}

/// What is known of a site that a proof does not tell.
#[derive(Debug)]
struct Grown {
    gopc: Addr,
    /// CRC-32 of its names: there are three at most.
    names: u32,
    line: u32,
    wait: Wait,
    grew: u32,
    attributed: Option<Attributed>,
    count: u32,
    oldest_s: u32,
}

impl Alerted {
    fn grown(&self, site: &Site) -> Option<&Grown> {
        self.sites.iter().find(|grown| grown.is(site))
    }
}

impl Grown {
    fn of(site: &Site, gopc: Addr) -> Grown {
        let Site { line, wait, grew, attributed, count, oldest_s, .. } = *site;
        Grown { gopc, names: Grown::names(site), line, wait, grew, attributed, count, oldest_s }
    }

    fn names(site: &Site) -> u32 {
        crc::of(site.function.as_bytes()) ^ crc::of(site.file.as_bytes()).rotate_left(1)
    }

    fn is(&self, site: &Site) -> bool {
        (self.line, self.wait, self.names) == (site.line, site.wait, Grown::names(site))
    }
}

impl Suspicion {
    /// Of a target that is found now.
    pub(crate) fn begin(now_ms: u64, config: Option<ProveConfig>) -> Suspicion {
        let every_ms = config.map_or(0, |config| config.every_ms);
        Suspicion { due_ms: now_ms.saturating_add(every_ms.min(FIRST_MS)), ..Suspicion::default() }
    }

    /// Growth was told, and is to be looked into.
    pub(crate) fn alerted(&mut self, now_ms: u64, leak: &Leak, sites: &[SiteGrowth]) {
        self.alerted = Some(Alerted {
            at_ms: now_ms,
            baseline: leak.baseline,
            window_s: leak.window_s,
            trend: leak.trend,
            left: leak.left,
            sites: leak
                .sites
                .iter()
                .zip(sites)
                .map(|(site, grown)| Grown::of(site, grown.key.gopc))
                .collect(),
        });
        self.open = Some((now_ms, 0));
    }
}

impl Engine {
    /// Begins to observe a target, if there is a reason to and no other one is observed. Growth that was told comes
    /// first; then who has waited longest for its turn.
    pub(super) fn climb(&mut self, now_ms: u64, effects: &mut Effects) {
        let (Some(config), None) = (self.config.prove, &self.proving) else { return };
        let open = |watch: &Watch| watch.suspicion.open.map(|(from_ms, _)| from_ms);
        let due = |watch: &Watch| {
            let calm = matches!(watch.phase, Phase::Calm { .. } | Phase::Alerted { .. });
            (calm && config.every_ms > 0).then_some(watch.suspicion.due_ms)
        };
        let first = |when: &dyn Fn(&Watch) -> Option<u64>| {
            let ripe = self.watches.iter().filter_map(|watch| Some((when(watch)?, watch.id)));
            ripe.filter(|(from_ms, _)| *from_ms <= now_ms).min_by_key(|(from_ms, _)| *from_ms)
        };
        let Some((_, id)) = first(&open).or_else(|| first(&due)) else { return };
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let open = watch.suspicion.open.take_if(|(from_ms, _)| *from_ms <= now_ms);
        watch.say(effects, Event::Proving);
        self.proving = Some(Proving { id, tried: open.map(|(_, tried)| tried) });
        let alerted = watch.alerted().into_iter().flat_map(|alerted| alerted.sites.iter());
        let growing = alerted.map(|grown| grown.gopc).collect();
        act(effects, Effect::Prove { id, growing });
    }

    /// Nobody is to be observed any more who is not watched any more.
    pub(super) fn stop_proving(&mut self, id: TargetId, effects: &mut Effects) {
        if self.proving.take_if(|proving| proving.id == id).is_some() {
            act(effects, Effect::EndProof(id));
        }
    }

    /// Tells what an observation has shown; `None` for one that came to nothing.
    pub(super) fn proved(
        &mut self,
        now: Timestamp,
        id: TargetId,
        proof: Option<&Proof>,
        effects: &mut Effects,
    ) {
        let Some(Proving { tried, .. }) = self.proving.take_if(|proving| proving.id == id) else { return };
        let every_ms = self.config.prove.map_or(0, |config| config.every_ms);
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        watch.suspicion.due_ms = now.mono_ms.saturating_add(every_ms);
        // What could not be seen now may be seen soon: a program that did not hold still, for example.
        if proof.is_none_or(|proof| proof.proven + proof.stuck == 0 && !proof.abstained.is_empty()) {
            let again = tried.filter(|tried| *tried < RETRIES);
            let due = |tried: u8| (now.mono_ms.saturating_add(RETRY_MS << tried), tried + 1);
            watch.suspicion.open = watch.suspicion.open.or(again.map(due));
        }
        let Some(proof) = proof else { return };
        let grades = [Grade::Proven, Grade::Stuck];
        let verdicts = grades.map(|grade| verdict(watch, grade, proof, tried.is_some(), now.mono_ms));
        if verdicts.iter().all(Option::is_none) {
            watch.say(effects, Event::Unproven { proof: Counts::of(proof), why: proof.abstained.clone() });
        }
        for leak in verdicts.into_iter().flatten() {
            self.tell(now, id, leak, effects);
        }
    }

    /// Puts an alert about a leak into the outbox.
    pub(super) fn tell(&mut self, now: Timestamp, id: TargetId, leak: Leak, effects: &mut Effects) {
        let Some(watch) = self.watches.iter().find(|watch| watch.id == id) else { return };
        watch.say(effects, Event::leaking(&leak));
        let note = Note { id, name: watch.name.clone(), event: Event::AlertTooLarge };
        self.figures.alerts += 1;
        let envelope: Envelope = self.envelope(now, Body::Leak(leak));
        if self.outbox.push(envelope).is_err() {
            act(effects, Effect::Note(note));
        }
    }
}

impl Watch {
    /// The alert about its growth, while that is what it stands for.
    fn alerted(&self) -> Option<&Alerted> {
        self.suspicion.alerted.as_ref().filter(|_| matches!(self.phase, Phase::Alerted { .. }))
    }
}

/// What there is to tell of one grade. What grows is told as often as its growth is; of anything else only what is
/// certain, and only what is new: who stands still for long may have nothing to do.
fn verdict(watch: &mut Watch, grade: Grade, proof: &Proof, grew: bool, now_ms: u64) -> Option<Leak> {
    let of_grade = |grade| {
        let of_grade = move |(other, _): &&(Grade, Site)| *other == grade;
        proof.sites.iter().filter(of_grade).map(|(_, site)| site)
    };
    // Of leaked ones a few may still be reached by chance: they are no news of their own.
    let place = |site: &Site| (site.function.clone(), site.file.clone(), site.line, site.wait);
    let told = |site: &Site| {
        grade == Grade::Stuck && of_grade(Grade::Proven).any(|other| place(other) == place(site))
    };
    let found = || of_grade(grade).filter(|site| !told(site));
    // Growth says nothing of sites that are not those which grew.
    let alerted = watch.alerted().filter(|alerted| found().any(|site| alerted.grown(site).is_some()));
    let new = grade == Grade::Proven && proof.proven > watch.suspicion.told;
    if found().next().is_none() || !(new || grew && alerted.is_some()) {
        return None;
    }
    // Until now: the number of goroutines is that of now, too.
    let window_s = |alerted: &Alerted| {
        let since_s = now_ms.saturating_sub(alerted.at_ms) / 1000;
        alerted.window_s.saturating_add(u32::try_from(since_s).unwrap_or(u32::MAX))
    };
    let leak = Leak {
        target: watch.describe(),
        grade,
        goroutines: proof.goroutines,
        baseline: alerted.map_or(proof.goroutines, |leak| leak.baseline),
        window_s: alerted.map_or(0, window_s),
        trend: alerted.map_or_else(|| trend::goroutines(&watch.history, HOUR_S), |leak| leak.trend),
        left: alerted.and_then(|leak| leak.left),
        observed: Some(proof.observed),
        sites: found().take(SITES_MAX).map(|site| known(site, alerted)).collect(),
    };
    if grade == Grade::Proven {
        watch.suspicion.told = proof.proven;
    }
    Some(leak)
}

/// A site of a proof, with what else is known of it.
fn known(site: &Site, alerted: Option<&Alerted>) -> Site {
    let Some(before) = alerted.and_then(|alerted| alerted.grown(site)) else { return site.clone() };
    // The oldest of a part of them may be younger than the oldest of all.
    let oldest_s = if site.count >= before.count { before.oldest_s } else { 0 };
    Site {
        grew: before.grew,
        attributed: before.attributed,
        oldest_s: site.oldest_s.max(oldest_s),
        ..site.clone()
    }
}
