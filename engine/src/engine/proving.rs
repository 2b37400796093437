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
use crate::step::{Effect, Effects, Event, Note, TargetId};
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
    /// Before this, nothing is looked for without one.
    not_before_ms: u64,
    /// Goroutines that were told to be leaked for certain.
    told: u32,
}

/// What is kept of an alert about growth.
#[derive(Debug)]
struct Alerted {
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
    oldest_s: u32,
}

impl Grown {
    fn of(site: &Site, gopc: Addr) -> Grown {
        let Site { line, wait, grew, attributed, oldest_s, .. } = *site;
        Grown { gopc, names: Grown::names(site), line, wait, grew, attributed, oldest_s }
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
        Suspicion { not_before_ms: now_ms.saturating_add(every_ms.min(FIRST_MS)), ..Suspicion::default() }
    }

    /// Growth was told, and is to be looked into.
    pub(crate) fn alerted(&mut self, leak: &Leak, sites: &[SiteGrowth]) {
        self.alerted = Some(Alerted {
            baseline: leak.baseline,
            window_s: leak.window_s,
            trend: leak.trend,
            left: leak.left,
            sites: leak.sites.iter().zip(sites).map(|(site, grown)| Grown::of(site, grown.key.gopc)).collect(),
        });
        self.open = Some((0, 0));
    }
}

impl Engine {
    /// Begins to observe a target, if there is a reason to and no other one is observed.
    pub(super) fn climb(&mut self, now_ms: u64, id: TargetId, effects: &mut Effects) {
        let (Some(config), None) = (self.config.prove, &self.proving) else { return };
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let calm = matches!(watch.phase, Phase::Calm { .. } | Phase::Alerted { .. });
        let open = watch.suspicion.open.take_if(|(from_ms, _)| now_ms >= *from_ms);
        let due = config.every_ms > 0 && calm && now_ms >= watch.suspicion.not_before_ms;
        if open.is_some() || due {
            watch.suspicion.not_before_ms = now_ms.saturating_add(config.every_ms);
            watch.say(effects, Event::Proving);
            self.proving = Some(Proving { id, tried: open.map(|(_, tried)| tried) });
            let alerted = watch.suspicion.alerted.iter().filter(|_| open.is_some());
            let growing = alerted.flat_map(|alerted| alerted.sites.iter().map(|grown| grown.gopc)).collect();
            act(effects, Effect::Prove { id, growing });
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
        let watch = self.watches.iter_mut().find(|watch| watch.id == id);
        let Some(watch) = watch else { return };
        let Some(proof) = proof else {
            let again = tried.filter(|tried| *tried < RETRIES);
            let due = |tried: u8| (now.mono_ms.saturating_add(RETRY_MS << tried), tried + 1);
            watch.suspicion.open = watch.suspicion.open.or(again.map(due));
            return;
        };
        let grows = tried.is_some();
        let verdicts = [Grade::Proven, Grade::Stuck].map(|grade| verdict(watch, grade, proof, grows));
        if verdicts.iter().all(Option::is_none) {
            watch.say(effects, Event::Unproven(proof.abstained.clone()));
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

/// What there is to tell of one grade. Of a target that does not grow only what is certain, and only what is new: who
/// stands still for long may have nothing to do.
fn verdict(watch: &mut Watch, grade: Grade, proof: &Proof, grows: bool) -> Option<Leak> {
    if !grows && (grade != Grade::Proven || proof.proven <= watch.suspicion.told) {
        return None;
    }
    let alerted = watch.suspicion.alerted.as_ref().filter(|_| grows);
    let of_grade = proof.sites.iter().filter(|(other, _)| *other == grade);
    let sites: heapless::Vec<Site, _> =
        of_grade.take(SITES_MAX).map(|(_, site)| known(site, alerted)).collect();
    if sites.is_empty() {
        return None;
    }
    let leak = Leak {
        target: watch.describe(),
        grade,
        goroutines: proof.goroutines,
        baseline: alerted.map_or(proof.goroutines, |leak| leak.baseline),
        window_s: alerted.map_or(0, |leak| leak.window_s),
        trend: alerted.map_or_else(|| trend::goroutines(&watch.history, HOUR_S), |leak| leak.trend),
        left: alerted.and_then(|leak| leak.left),
        observed: Some(proof.observed),
        sites,
    };
    if grade == Grade::Proven {
        watch.suspicion.told = proof.proven;
    }
    Some(leak)
}

/// A site of a proof, with what else is known of it.
fn known(site: &Site, alerted: Option<&Alerted>) -> Site {
    let before = alerted.and_then(|alerted| alerted.sites.iter().find(|grown| grown.is(site)));
    let Some(before) = before else { return site.clone() };
    Site {
        grew: before.grew,
        attributed: before.attributed,
        oldest_s: site.oldest_s.max(before.oldest_s),
        ..site.clone()
    }
}
