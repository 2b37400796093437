//! The probes as the loop uses them: one target at a time, with what was lost since the last look.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use glg_engine::governor::HitCost;
use glg_engine::investigation::CreationCount;
use glg_engine::memory::Addr;
use glg_engine::step::{FilePoint, TargetId};
use glg_proto::probe::{AttributeTarget, ProcessEvent};
use glg_proto::wire::Losses;
use log::{info, warn};

use super::EVENT_BYTES;
use crate::config::Config;
use crate::probes::{AttachId, AttachPoints, Counters, ProbeLimits, Probes};
use crate::remote::Remote;

/// The loaded probes.
pub(super) struct Probing {
    probes: Probes,
    attached: Option<(TargetId, AttachId, Instant)>,
    seen: Counters,
    /// Whether the log has said that the counters cannot be read.
    said_unreadable: bool,
    sites: Vec<crate::probes::Site>,
}

impl Probing {
    /// Loads them; without, the agent still counts, and finds new processes by scanning.
    pub(super) fn start(config: &Config) -> Option<Probing> {
        let limits = ProbeLimits { sites: config.attribute.max_sites, targets: 1, event_bytes: EVENT_BYTES };
        match Probes::load(&limits) {
            Ok(probes) => Some(Probing {
                probes,
                attached: None,
                seen: Counters::default(),
                said_unreadable: false,
                sites: Vec::new(),
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
