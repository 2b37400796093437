//! From growth to an alert: two censuses, and the creation and exit probes between them.

use glg_proto::wire::{Grade, Leak, Timestamp};

use super::Engine;
use crate::census::Taking;
use crate::detector::Growth;
use crate::governor::Governor;
use crate::investigation::{CreationCount, Investigation, Judgement};
use crate::memory::{Error, Image};
use crate::probe_point::{self, CODE_BYTES, Probed};
use crate::runtime::{Lifecycle, Runtime};
use crate::step::{Effect, Effects, Event, FilePoint, Process, TargetId};
use crate::trend;
use crate::watch::{Phase, act};

/// The probes while they are attached.
pub(super) struct Attribution {
    pub(super) id: TargetId,
    pub(super) until_ms: u64,
    /// Cost of a creation hit and of an exit hit, in nanoseconds.
    pub(super) costs_ns: [f32; 2],
    /// Runs from the first hit counters on.
    pub(super) governor: Option<Governor>,
    pub(super) detaching: bool,
}

impl Engine {
    /// Takes a census of one target into the common table; a second one of the same part as the first.
    pub(super) fn take_census(
        &mut self,
        now_ms: u64,
        id: TargetId,
        process: &mut Process<'_>,
    ) -> Result<(), Error> {
        let watch = self.watches.iter().find(|watch| watch.id == id).ok_or(Error::Gone)?;
        let limit = self.config.census_goroutines;
        let from = match &watch.phase {
            Phase::Observing(investigation) => Some(investigation.from()),
            _ => None,
        };
        self.figures.censuses += 1;
        let seen = Some((id.pid, u32::try_from(now_ms / 1000).unwrap_or(u32::MAX)));
        let taking = Taking { from, limit, seen };
        self.census.take_from(&mut self.walker, &watch.runtime, process.memory, process.image, taking)
    }

    /// Growth: the first census, and the probes if they are free.
    pub(super) fn observe(
        &mut self,
        now_ms: u64,
        id: TargetId,
        growth: Growth,
        process: &mut Process<'_>,
        effects: &mut Effects,
    ) {
        if let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) {
            watch.asked = false;
            // What was observed until now is given up for this.
            watch.phase = Phase::Calm { not_before_ms: now_ms, window_s: 0 };
        }
        let census = self.take_census(now_ms, id, process);
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        if let Err(error) = census {
            return watch.census_failed(now_ms, growth, error, effects);
        }
        watch.phase = Phase::Observing(Investigation::begin(growth, &self.census, now_ms));
        watch.say(
            effects,
            Event::Growing { from: growth.baseline, to: growth.level, window_s: growth.window_s },
        );
        let (Some(config), None) = (self.config.attribute, &self.attribution) else { return };
        let Some((create, exit)) = attach_points(&watch.runtime, process.image) else {
            return watch.say(effects, Event::NotAttachable);
        };
        self.attribution = Some(Attribution {
            id,
            until_ms: now_ms.saturating_add(config.millis),
            costs_ns: [create, exit].map(|point| config.cost.of(point.class)),
            governor: None,
            detaching: false,
        });
        let gopc_offset = u32::from(watch.runtime.layout.g.gopc);
        act(effects, Effect::Attach { id, create, exit, gopc_offset });
    }

    /// New hit counters: charge them, and take the probes off when their time or their budget is over.
    pub(super) fn hits(&mut self, now_ms: u64, hits: [u64; 2], effects: &mut Effects) {
        let (Some(config), Some(attribution)) = (self.config.attribute, &mut self.attribution) else {
            return;
        };
        let Some(governor) = &mut attribution.governor else {
            attribution.governor =
                Some(Governor::start(config.budget_percent, attribution.costs_ns, now_ms, hits));
            return;
        };
        let over_budget = governor.charge(now_ms, hits);
        if (!over_budget && now_ms < attribution.until_ms) || attribution.detaching {
            return;
        }
        attribution.detaching = true;
        let (id, spent) = (attribution.id, governor.spent());
        self.figures.charge(spent);
        if let Some(watch) = self.watches.iter().find(|watch| watch.id == id) {
            watch.say(effects, Event::Probed { spent, over_budget });
        }
        act(effects, Effect::Detach(id));
    }

    pub(super) fn attributed(&mut self, id: TargetId, millis: u32, counts: &[CreationCount]) {
        self.attribution = self.attribution.take().filter(|a| a.id != id);
        let watch = self.watches.iter_mut().find(|watch| watch.id == id);
        if let Some(Phase::Observing(investigation)) = watch.map(|watch| &mut watch.phase) {
            investigation.attribute(counts, millis);
        }
    }

    /// The second census, and the verdict.
    pub(super) fn conclude(
        &mut self,
        now: Timestamp,
        id: TargetId,
        count: u32,
        process: &mut Process<'_>,
        effects: &mut Effects,
    ) {
        let census = self.take_census(now.mono_ms, id, process);
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return };
        let again = Phase::Calm { not_before_ms: now.mono_ms, window_s: 0 };
        let Phase::Observing(investigation) = core::mem::replace(&mut watch.phase, again) else { return };
        let growth = investigation.growth;
        if let Err(error) = census {
            return watch.census_failed(now.mono_ms, growth, error, effects);
        }
        let Judgement::Leak(sites) = investigation.judge(&self.census, now.mono_ms) else {
            watch.pause(now.mono_ms, growth);
            return watch.say(effects, Event::NotConfirmed);
        };
        watch.phase = Phase::Alerted { at_ms: now.mono_ms, level: count };
        let window_s =
            [growth.window_s, self.config.growth.medium.window_s, self.config.growth.fast.window_s];
        let trend_of = |window_s: &u32| trend::goroutines(&watch.history, *window_s);
        let leak = Leak {
            target: watch.describe(),
            grade: Grade::Suspected,
            goroutines: count,
            baseline: growth.baseline,
            window_s: growth.window_s.saturating_add(investigation.observed_s(now.mono_ms)),
            trend: window_s.iter().find_map(trend_of),
            left: process.footprint.room().and_then(|room| trend::left(&watch.history, &window_s, room)),
            observed: None,
            sites: sites.iter().map(|site| watch.name_site(process.image, site, effects)).collect(),
        };
        watch.suspicion.alerted(now.mono_ms, &leak, &sites);
        self.tell(now, id, leak, effects);
    }
}

/// Where to attach the creation and the exit probe; `None` when the functions cannot be found.
fn attach_points(runtime: &Runtime, image: &mut dyn Image) -> Option<(FilePoint, FilePoint)> {
    let Lifecycle { create, exit } = runtime.lifecycle?;
    let mut point = |entry, function| {
        let mut code = [0u8; CODE_BYTES];
        let start = runtime.code(image, entry, &mut code).ok()?;
        let found = probe_point::find(runtime.layout.arch, function, &code);
        Some(FilePoint { offset: start.checked_add(u64::from(found.offset))?, class: found.class })
    };
    Some((point(create, Probed::Newproc1)?, point(exit, Probed::Goexit0)?))
}
