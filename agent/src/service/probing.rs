//! The probes as the loop uses them: one target at a time, with what was lost since the last look.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use glg_engine::contention::{Counted, Observation};
use glg_engine::governor::HitCost;
use glg_engine::investigation::CreationCount;
use glg_engine::memory::Addr;
use glg_engine::step::{FilePoint, TargetId};
use glg_proto::probe::{AttributeTarget, ProcessEvent};
use glg_proto::wire::Losses;
use log::{info, warn};

use super::EVENT_BYTES;
use crate::config::Config;
use crate::probes::{AttachId, AttachPoints, Counters, ProbeError, ProbeLimits, Probes, monotonic_ns};
use crate::remote::Remote;

/// The loaded probes.
pub(super) struct Probing {
    probes: Probes,
    attached: Option<(TargetId, AttachId, Instant)>,
    seen: Counters,
    /// Whether the log has said that the counters cannot be read.
    said_unreadable: bool,
    sites: Vec<crate::probes::Site>,
    observed: Option<Observed>,
}

/// A target whose waits are measured.
struct Observed {
    id: TargetId,
    begun: Instant,
    before: Counted,
    observation: Observation,
}

impl Probing {
    /// Loads them; without, the agent still counts, and finds new processes by scanning.
    pub(super) fn start(config: &Config) -> Option<Probing> {
        let limits = ProbeLimits { sites: config.attribute.max_sites, targets: 1, event_bytes: EVENT_BYTES };
        match load(&limits, config.observes().then_some(config.locks.max_threads)) {
            Ok(probes) => Some(Probing {
                probes,
                attached: None,
                seen: Counters::default(),
                said_unreadable: false,
                sites: Vec::new(),
                observed: None,
            }),
            Err(error) => {
                let every = config.watch.rescan_s;
                warn!(
                    "no eBPF: {error}. New processes are found every {every} s, and leaks are not attributed"
                );
                None
            }
        }
    }

    /// Measures what a hit costs here; without that there is no budget, and so no probe.
    pub(super) fn calibrate(&mut self) -> Option<HitCost> {
        match self.probes.calibrate() {
            Ok(cost) => {
                let (emulated_ns, stepped_ns) = (cost.emulated_ns, cost.stepped_ns);
                info!("a probe hit costs {emulated_ns:.0} ns emulated, {stepped_ns:.0} ns single-stepped");
                Some(HitCost { emulated_ns, stepped_ns })
            }
            Err(error) => {
                warn!("the cost of a probe cannot be measured: {error}. Leaks are not attributed");
                None
            }
        }
    }

    /// A descriptor that is readable when process events wait.
    pub(super) fn events(&self) -> std::io::Result<OwnedFd> {
        self.probes.as_fd().try_clone_to_owned()
    }

    /// See [`Probes::drain_events`].
    pub(super) fn drain_events(&mut self, limit: u32, on_event: impl FnMut(ProcessEvent)) -> bool {
        self.probes.drain_events(limit, on_event)
    }

    /// Attaches both probes; `false` when that did not work. To the very file that was read: by its name it
    /// could be another one by now.
    pub(super) fn attach(
        &mut self,
        remote: &Remote,
        create: FilePoint,
        exit: FilePoint,
        gopc_offset: u32,
    ) -> bool {
        let (id, exe) = (remote.id, remote.file());
        let target = AttributeTarget { gopc_offset, reserved: 0 };
        match self.probes.attach(id.pid, &exe, &AttachPoints { create, exit }, target) {
            Ok(attached) => {
                self.attached = Some((id, attached, Instant::now()));
                true
            }
            Err(error) => {
                warn!("process {} is not attributed: {error}", id.pid);
                false
            }
        }
    }

    /// Takes the probes off and says for how many milliseconds they counted, and what.
    pub(super) fn detach(&mut self, id: TargetId) -> (u32, Vec<CreationCount>) {
        let Some((_, attached, since)) = self.attached.take_if(|(attached, _, _)| *attached == id) else {
            return (0, Vec::new());
        };
        self.probes.detach(attached);
        let millis = u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = self.probes.sites(id.pid, &mut self.sites) {
            warn!("process {}: {error}", id.pid);
            self.sites.clear();
        }
        if let Err(error) = self.probes.clear_sites(id.pid) {
            warn!("process {}: {error}", id.pid);
        }
        let counts = self.sites.iter().map(|site| CreationCount {
            gopc: Addr(site.pc),
            created: site.count.created,
            exited: site.count.exited,
        });
        (millis, counts.collect())
    }

    /// Whether waits for locks can be measured.
    pub(super) fn can_observe(&self) -> bool {
        self.probes.can_observe()
    }

    /// Begins to measure how long the threads of a target wait; `false` when that does not work.
    pub(super) fn observe(&mut self, id: TargetId, go_code: Range<u64>, long_ns: u64) -> bool {
        // Counted from then on: before, the agent may have rehearsed on itself.
        let observed = self.probes.observe(id.pid, go_code, long_ns).and_then(|()| self.probes.counted());
        match observed {
            Ok(before) => {
                let (begun, observation) = (Instant::now(), Observation::default());
                self.observed = Some(Observed { id, begun, before, observation });
                true
            }
            Err(error) => {
                self.probes.stop_observing();
                warn!("process {} is not observed: {error}", id.pid);
                false
            }
        }
    }

    /// What has been counted since that began, and the longest of the long waits since the last call, in nanoseconds.
    pub(super) fn observing(&mut self) -> Option<(Counted, u64)> {
        let Probing { probes, observed, .. } = self;
        let observed = observed.as_mut()?;
        let mut longest_ns = 0;
        probes.drain_long_waits(|wait| {
            longest_ns = wait.waited_ns.max(longest_ns);
            observed.observation.long_wait(wait);
        });
        // A kernel that does not give the counters is taken for one that counts nothing: its time ends all the same.
        let counted = probes.counted().map(|now| now.since(observed.before)).unwrap_or_default();
        Some((counted, longest_ns))
    }

    /// Ends it and says what it has shown.
    pub(super) fn end_observation(&mut self, id: TargetId) -> Option<Observation> {
        self.observed.as_ref().filter(|observed| observed.id == id)?;
        self.probes.stop_observing();
        let (counted, _) = self.observing()?;
        let Observed { begun, mut observation, .. } = self.observed.take()?;
        let (now_ns, time) = (monotonic_ns(), begun.elapsed());
        let read = self.probes.add_measured(id.pid, now_ns, &mut observation);
        observation.close(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), counted);
        read.map_err(|error| warn!("process {}: {error}", id.pid)).ok()?;
        Some(observation)
    }

    /// Hits of both probes while they are attached, and records lost since the last call. A kernel that does
    /// not give the counters is taken for one that counts nothing, so that the probes' time still ends.
    pub(super) fn read_counters(&mut self) -> (Option<[u64; 2]>, Losses) {
        let before = self.seen;
        match self.probes.counters() {
            Ok(counters) => self.seen = counters,
            Err(error) if !self.said_unreadable => {
                self.said_unreadable = true;
                warn!("{error}");
            }
            Err(_) => {}
        }
        let lost = |c: &Counters| c.sites_full + c.unreadable + c.events_lost;
        let records = u32::try_from(lost(&self.seen).saturating_sub(lost(&before))).unwrap_or(u32::MAX);
        let hits = self.attached.is_some().then_some([self.seen.create_hits, self.seen.exit_hits]);
        (hits, Losses { records, ..Losses::default() })
    }
}

/// Loads the programs; where only the one is refused that measures waits, all others.
fn load(limits: &ProbeLimits, observing: Option<u32>) -> Result<Probes, ProbeError> {
    if let Some(threads) = observing {
        match Probes::load_observing(limits, threads) {
            Ok(probes) => return Ok(probes),
            Err(error) => info!("waits for locks cannot be measured: {error}"),
        }
    }
    Probes::load(limits)
}
