//! The kernel's side, seen from the agent: process events always, goroutine counts and waits on suspicion.
//!
//! Everything here ends with the agent: programs, maps and probes hang on its file descriptors, so a killed
//! agent leaves no probe behind.

mod calibrate;
mod contention;
mod error;

use std::{
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        RawTracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeLinkId, UProbeScope},
    },
};
use contention::Contention;
use glg_proto::probe::{
    AttributeTarget, Counter, MAP_ATTRIBUTE_TARGETS, MAP_BLOCKED, MAP_COUNTERS, MAP_LOCKS, MAP_LONG_WAITS,
    MAP_PROCESS_EVENTS, MAP_SITES, ProcessEvent, SiteCount, SiteKey,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::chroot,
};

pub use calibrate::Calibration;
pub use contention::{LOCKS_MAX, LONG_WAITS_BYTES, monotonic_ns};
pub use error::ProbeError;
pub use glg_engine::step::FilePoint;

static OBJECT: &[u8] = include_bytes_aligned!(env!("GOLEAKGUARD_BPF_OBJECT"));

const CREATE: &str = "goroutine_create";
const EXIT: &str = "goroutine_exit";
const CALIBRATE: &str = "calibrate";
/// Program and the raw tracepoint it belongs to. Raw ones need no tracefs, which small systems do not mount.
const TRACEPOINTS: [(&str, &str); 2] =
    [("process_exec", "sched_process_exec"), ("process_exit", "sched_process_exit")];

/// Capacities of the kernel's maps, fixed for the agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeLimits {
    /// Creation sites counted, all targets together; at least 1.
    pub sites: u32,
    /// Targets attributed at once; at least 1.
    pub targets: u32,
    /// Buffer for process events, in bytes: a power of two of at least one page. An event takes 16.
    pub event_bytes: u32,
}

/// The two probes of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachPoints {
    /// In `runtime.newproc1`.
    pub create: FilePoint,
    /// In `runtime.goexit0`.
    pub exit: FilePoint,
}

/// One attachment. Never used twice in the agent's life, though the kernel uses its process ids again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachId(u64);

/// What was counted at one creation site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Return address of the `go` statement, as the process sees it.
    pub pc: u64,
    /// Since the probes were attached or the sites cleared.
    pub count: SiteCount,
}

/// The kernel's counters, summed over the processors. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Hits of the creation probe, those of no target included.
    pub create_hits: u64,
    /// Hits of the exit probe, those of no target included.
    pub exit_hits: u64,
    /// Hits during calibration.
    pub calibration_hits: u64,
    /// Goroutines not counted because there was no room for their site.
    pub sites_full: u64,
    /// Exits not counted because their `g` could not be read.
    pub unreadable: u64,
    /// Process events lost because the agent did not read them in time.
    pub events_lost: u64,
}

struct Attachment {
    id: AttachId,
    pid: u32,
    create: UProbeLinkId,
    exit: UProbeLinkId,
}

/// The loaded programs and their maps.
pub struct Probes {
    programs: Ebpf,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    targets: HashMap<MapData, u32, [u8; 8]>,
    sites: HashMap<MapData, [u8; 16], [u8; 16]>,
    limits: ProbeLimits,
    attached: Vec<Attachment>,
    attachments_made: u64,
    /// Only where it was asked for.
    contention: Option<Contention>,
}

impl Probes {
    /// Loads the programs and begins to listen for processes that begin and end. No probe is attached yet.
    ///
    /// # Errors
    /// When the kernel does not offer or not permit it; see [`ProbeError`].
    pub fn load(limits: &ProbeLimits) -> Result<Self, ProbeError> {
        Self::load_with(limits, None)
    }

    /// The same, and waits for locks can be observed then, of so many threads at a time; at least 1.
    ///
    /// # Errors
    /// As [`Probes::load`].
    pub fn load_observing(limits: &ProbeLimits, threads: u32) -> Result<Self, ProbeError> {
        Self::load_with(limits, Some(threads.max(1)))
    }

    fn load_with(limits: &ProbeLimits, threads: Option<u32>) -> Result<Self, ProbeError> {
        if !limits.event_bytes.is_power_of_two() || limits.event_bytes < 4096 {
            return Err(ProbeError::EventBytes(limits.event_bytes));
        }
        allow_locked_memory();
        // What is not asked for takes no memory of the kernel's.
        let (locks, blocked) = threads.map_or((1, 1), |threads| (LOCKS_MAX, threads));
        let mut programs = loader()
            .btf(None)
            .map_max_entries(MAP_PROCESS_EVENTS, limits.event_bytes)
            .map_max_entries(MAP_ATTRIBUTE_TARGETS, limits.targets.max(1))
            .map_max_entries(MAP_SITES, limits.sites.max(1))
            .map_max_entries(MAP_LOCKS, locks)
            .map_max_entries(MAP_BLOCKED, blocked)
            .map_max_entries(MAP_LONG_WAITS, LONG_WAITS_BYTES)
            .load(OBJECT)
            .map_err(ProbeError::of_object)?;
        for (name, tracepoint) in TRACEPOINTS {
            let program: &mut RawTracePoint = program(&mut programs, name)?;
            program.load().map_err(|error| ProbeError::of_verifier(name, error))?;
            program
                .attach(tracepoint)
                .map_err(|error| ProbeError::of_program("listening for processes", &error))?;
        }
        for name in [CREATE, EXIT, CALIBRATE] {
            let program: &mut UProbe = program(&mut programs, name)?;
            program.load().map_err(|error| ProbeError::of_verifier(name, error))?;
        }
        let contention = threads.map(|threads| Contention::load(&mut programs, threads)).transpose()?;
        Ok(Self {
            contention,
            events: map(&mut programs, MAP_PROCESS_EVENTS)?,
            counters: map(&mut programs, MAP_COUNTERS)?,
            targets: map(&mut programs, MAP_ATTRIBUTE_TARGETS)?,
            sites: map(&mut programs, MAP_SITES)?,
            programs,
            limits: *limits,
            attached: Vec::with_capacity(usize::try_from(limits.targets).unwrap_or_default()),
            attachments_made: 0,
        })
    }

    /// Hands over waiting process events, `limit` of them at most. Whether there may be more: only when it
    /// says `false` does the descriptor become readable again by itself.
    pub fn drain_events(&mut self, limit: u32, mut on_event: impl FnMut(ProcessEvent)) -> bool {
        for _ in 0..limit {
            let Some(record) = self.events.next() else { return false };
            let event = ProcessEvent::from_bytes(&record);
            drop(record);
            if let Some(event) = event {
                on_event(event);
            }
        }
        true
    }

    /// Counts the goroutines that process `pid` creates and ends from now on, per creation site. Processes
    /// that run the same file are not touched: the kernel puts the probe into this one's memory alone.
    ///
    /// `exe` is the file that the process runs, best named as `/proc/PID/exe`.
    ///
    /// # Errors
    /// [`ProbeError::TargetsFull`], [`ProbeError::AlreadyAttached`], [`ProbeError::TargetGone`], and what the kernel refuses. Nothing is left
    /// attached then.
    pub fn attach(
        &mut self,
        pid: u32,
        exe: &Path,
        points: &AttachPoints,
        target: AttributeTarget,
    ) -> Result<AttachId, ProbeError> {
        if self.attached.len() >= usize::try_from(self.limits.targets).unwrap_or_default() {
            return Err(ProbeError::TargetsFull { limit: self.limits.targets });
        }
        if self.attached.iter().any(|attachment| attachment.pid == pid) {
            return Err(ProbeError::AlreadyAttached { pid });
        }
        self.targets
            .insert(pid, target.to_bytes(), 0)
            .map_err(|error| ProbeError::of_map("naming the target", &error))?;
        match self.attach_both(pid, exe, points) {
            Ok((create, exit)) => {
                self.attachments_made += 1;
                let id = AttachId(self.attachments_made);
                self.attached.push(Attachment { id, pid, create, exit });
                Ok(id)
            }
            Err(error) => {
                self.forget_target(pid);
                Err(error)
            }
        }
    }

    fn attach_both(
        &mut self,
        pid: u32,
        exe: &Path,
        points: &AttachPoints,
    ) -> Result<(UProbeLinkId, UProbeLinkId), ProbeError> {
        let exit = attach_uprobe(&mut self.programs, EXIT, pid, exe, points.exit.offset)?;
        match attach_uprobe(&mut self.programs, CREATE, pid, exe, points.create.offset) {
            Ok(create) => Ok((create, exit)),
            Err(error) => {
                detach_uprobe(&mut self.programs, EXIT, exit);
                Err(error)
            }
        }
    }

    /// Takes the probes out of the target; what was counted stays until [`Probes::clear_sites`]. An
    /// attachment that is gone already is no error. The caller (not the target) waits for the kernel's grace
    /// periods, about 0.2 s in all.
    pub fn detach(&mut self, id: AttachId) {
        let Some(at) = self.attached.iter().position(|attachment| attachment.id == id) else { return };
        let Attachment { pid, create, exit, .. } = self.attached.swap_remove(at);
        detach_uprobe(&mut self.programs, CREATE, create);
        detach_uprobe(&mut self.programs, EXIT, exit);
        self.forget_target(pid);
    }

    fn forget_target(&mut self, pid: u32) {
        if let Err(error) = self.targets.remove(&pid) {
            log::warn!("process {pid} stays in the kernel's list of targets: {error}");
        }
    }

    /// Copies the counts of a process into `out`, in no order: at most as many as the limits' `sites`.
    ///
    /// # Errors
    /// When the kernel does not give the map.
    pub fn sites(&self, pid: u32, out: &mut Vec<Site>) -> Result<(), ProbeError> {
        let read = |error: MapError| ProbeError::of_map("reading the sites", &error);
        let limit = usize::try_from(self.limits.sites).unwrap_or_default();
        out.clear();
        for key in self.sites.keys().take(limit) {
            let key = key.map_err(read)?;
            let SiteKey { tgid, pc, .. } = SiteKey::from_bytes(key);
            if tgid == pid {
                let count = self.sites.get(&key, 0).map_err(read)?;
                out.push(Site { pc, count: SiteCount::from_bytes(count) });
            }
        }
        Ok(())
    }

    /// Forgets what was counted for a process.
    ///
    /// # Errors
    /// When the kernel does not give the map.
    pub fn clear_sites(&mut self, pid: u32) -> Result<(), ProbeError> {
        let clear = |error: MapError| ProbeError::of_map("clearing the sites", &error);
        let keys: Result<Vec<[u8; 16]>, MapError> =
            self.sites.keys().take(usize::try_from(self.limits.sites).unwrap_or_default()).collect();
        for key in keys.map_err(clear)? {
            if SiteKey::from_bytes(key).tgid == pid {
                self.sites.remove(&key).map_err(clear)?;
            }
        }
        Ok(())
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// When the kernel does not give the map.
    pub fn counters(&self) -> Result<Counters, ProbeError> {
        Ok(Counters {
            create_hits: self.counter(Counter::CreateHits)?,
            exit_hits: self.counter(Counter::ExitHits)?,
            calibration_hits: self.counter(Counter::CalibrationHits)?,
            sites_full: self.counter(Counter::SitesFull)?,
            unreadable: self.counter(Counter::Unreadable)?,
            events_lost: self.counter(Counter::EventsLost)?,
        })
    }

    fn counter(&self, counter: Counter) -> Result<u64, ProbeError> {
        let per_cpu = self.counters.get(&(counter as u32), 0);
        let per_cpu = per_cpu.map_err(|error| ProbeError::of_map("reading the counters", &error))?;
        Ok(per_cpu.iter().sum())
    }
}

impl AsFd for Probes {
    /// Readable when process events wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl AsRawFd for Probes {
    /// Readable when process events wait.
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

/// A loader that has not read the kernel's BTF, which the object does not need.
///
/// `EbpfLoader::new` (aya 0.14.0, bpf.rs) parses `/sys/kernel/btf/vmlinux` before it can be told not to: 20 MB at
/// the peak, of which the allocator keeps some. So it is called on a thread that has no such file below its root.
/// Where that is not permitted the file is read.
fn loader() -> EbpfLoader<'static> {
    let elsewhere = || {
        if let Err(error) = unshare(CloneFlags::CLONE_FS).and_then(|()| chroot("/proc/self/fdinfo")) {
            log::debug!("the kernel's BTF is read for nothing: {error}");
        }
        EbpfLoader::new()
    };
    let thread = std::thread::Builder::new().name("ebpf-loader".into()).spawn(elsewhere);
    thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// Before Linux 5.11 maps count as locked memory. A refusal shows when the first map is made.
fn allow_locked_memory() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        log::debug!("the limit of locked memory stays as it is: {error}");
    }
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, ProbeError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = programs.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| ProbeError::Object(format!("no program {name}")))
}

fn map<M>(programs: &mut Ebpf, name: &'static str) -> Result<M, ProbeError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = programs.take_map(name).ok_or_else(|| ProbeError::Object(format!("no map {name}")))?;
    M::try_from(map).map_err(|error| ProbeError::of_map("opening eBPF maps", &error))
}

fn attach_uprobe(
    programs: &mut Ebpf,
    name: &'static str,
    pid: u32,
    exe: &Path,
    offset: u64,
) -> Result<UProbeLinkId, ProbeError> {
    let process = NonZeroU32::new(pid).ok_or(ProbeError::TargetGone { pid })?;
    let program: &mut UProbe = program(programs, name)?;
    program
        .attach(UProbeAttachLocation::AbsoluteOffset(offset), exe, UProbeScope::OneProcess(process))
        .map_err(|error| ProbeError::of_attach(pid, offset, error))
}

fn detach_uprobe(programs: &mut Ebpf, name: &'static str, link: UProbeLinkId) {
    let detached = program::<UProbe>(programs, name).and_then(|program| {
        program.detach(link).map_err(|error| ProbeError::of_program("detaching", &error))
    });
    if let Err(error) = detached {
        log::warn!("{name}: {error}");
    }
}
