//! How long the threads of one process wait for locks in C: the program on `sched_switch`, attached while somebody
//! observes, and what it has measured.

use std::fs::{self, File};
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLinkId;
use glg_engine::btf::{Question, answers};
use glg_engine::contention::{Counted, Observation};
use glg_engine::locks::scan::{Threads as _, Tid};
use glg_engine::locks::standing::Standing;
use glg_engine::memory::Error;
use glg_proto::probe::{
    BlockedThread, Counter, LockKey, LockWaits, LongWait, MAP_BLOCKED, MAP_LOCKS, MAP_LONG_WAITS,
    MAP_OBSERVED, Observed,
};
use nix::time::{ClockId, clock_gettime};

use super::{ProbeError, Probes, map, program};
use crate::remote::ImageFile;
use crate::threads::ProcThreads;

/// Locks told apart; those of a busy program that matter are a handful.
pub const LOCKS_MAX: u32 = 512;
/// Room for long waits between two looks, in bytes: 85 of them.
pub const LONG_WAITS_BYTES: u32 = 4096;

const SWITCH: &str = "futex_switch";
const TRACEPOINT: &str = "sched_switch";
/// The kernel's description of its own types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// `THREAD_SIZE` where the kernel does not tell it: as built for most, with KASAN, with pages of 64 KiB.
const STACK_SIZES: [u32; 3] = [16 << 10, 32 << 10, 64 << 10];
/// What the kernel leaves free above the saved registers: on x86-64 16 bytes when it was built with
/// CONFIG_X86_FRED (arch/x86/include/asm/thread_info.h, `TOP_OF_KERNEL_STACK_PADDING`).
#[cfg(target_arch = "x86_64")]
const PADDINGS: &[u32] = &[0, 16];
#[cfg(target_arch = "aarch64")]
const PADDINGS: &[u32] = &[0];
/// Members of `pt_regs` that the program reads at these places.
#[cfg(target_arch = "x86_64")]
const REGISTERS: [(&str, u32); 2] = [("dx", 96), ("orig_ax", 120)];
#[cfg(target_arch = "aarch64")]
const REGISTERS: [(&str, u32); 2] = [("orig_x0", 272), ("syscallno", 280)];
/// How long the agent waits, some times, to see whether that is measured; it may be somewhat less, or much more.
const REHEARSAL: Duration = Duration::from_millis(1);
const REHEARSAL_MAX: Duration = Duration::from_secs(10);
const REHEARSALS: u32 = 3;
/// How often each place is tried.
const ROUNDS: usize = 3;
/// Says `1` on a kernel with PREEMPT_RT (kernel/ksysfs.c). There a ring buffer's lock may sleep (before Linux 6.12,
/// kernel/bpf/ringbuf.c), and the scheduler must not: no wait is told one by one.
const REALTIME: &str = "/sys/kernel/realtime";

/// The program's maps, and what was learnt of this kernel.
pub(super) struct Contention {
    observed: Array<MapData, [u8; Observed::BYTES]>,
    blocked: HashMap<MapData, u32, [u8; BlockedThread::BYTES]>,
    locks: HashMap<MapData, [u8; 16], [u8; LockWaits::BYTES]>,
    long_waits: RingBuf<MapData>,
    /// How many threads there is room for.
    threads: usize,
    /// Where things stand in this kernel; nobody is observed.
    places: Option<Observed>,
    link: Option<RawTracePointLinkId>,
}

impl Contention {
    /// Loads the program, whose maps have been made; nothing is attached.
    pub(super) fn load(programs: &mut Ebpf, threads: u32) -> Result<Contention, ProbeError> {
        let switch: &mut RawTracePoint = program(programs, SWITCH)?;
        switch.load().map_err(|error| ProbeError::of_verifier(SWITCH, error))?;
        Ok(Contention {
            observed: map(programs, MAP_OBSERVED)?,
            blocked: map(programs, MAP_BLOCKED)?,
            locks: map(programs, MAP_LOCKS)?,
            long_waits: map(programs, MAP_LONG_WAITS)?,
            threads: size(threads),
            places: None,
            link: None,
        })
    }

    /// Begins to observe from nothing.
    fn attach(&mut self, programs: &mut Ebpf, observed: Observed) -> Result<(), ProbeError> {
        let clear = |error: MapError| ProbeError::of_map("clearing the waits", &error);
        let blocked: Result<Vec<u32>, MapError> = self.blocked.keys().take(self.threads).collect();
        for tid in blocked.map_err(clear)? {
            self.blocked.remove(&tid).map_err(clear)?;
        }
        let locks: Result<Vec<[u8; 16]>, MapError> = self.locks.keys().take(size(LOCKS_MAX)).collect();
        for key in locks.map_err(clear)? {
            self.locks.remove(&key).map_err(clear)?;
        }
        while self.long_waits.next().is_some() {}
        let told = self.observed.set(0, observed.to_bytes(), 0);
        told.map_err(|error| ProbeError::of_map("naming whom to observe", &error))?;
        let switch: &mut RawTracePoint = program(programs, SWITCH)?;
        let link = switch.attach(TRACEPOINT);
        self.link = Some(link.map_err(|error| ProbeError::of_program("observing waits", &error))?);
        Ok(())
    }

    fn detach(&mut self, programs: &mut Ebpf) {
        let Some(link) = self.link.take() else { return };
        let detached = program::<RawTracePoint>(programs, SWITCH).and_then(|switch| {
            switch.detach(link).map_err(|error| ProbeError::of_program("detaching", &error))
        });
        if let Err(error) = detached {
            log::warn!("{SWITCH}: {error}");
        }
    }

    fn drain(&mut self, mut on_wait: impl FnMut(LongWait)) {
        while let Some(record) = self.long_waits.next() {
            let wait = LongWait::from_bytes(&record);
            drop(record);
            wait.into_iter().for_each(&mut on_wait);
        }
    }

    /// Where things stand in this kernel: as it says itself, and, of what it does not say, as a wait of the agent's
    /// own shows.
    fn learn(&mut self, programs: &mut Ebpf) -> Result<Observed, ProbeError> {
        let (told, stack_sizes, registers) = told_by_kernel()?;
        let tops = stack_sizes
            .iter()
            .flat_map(|stack| PADDINGS.iter().map(move |padding| stack.saturating_sub(*padding)));
        // On a busy machine the right place may not show at once.
        for top in std::iter::repeat_n(tops, ROUNDS).flatten() {
            let places = Observed { registers: top.saturating_sub(registers), ..told };
            if self.rehearse(programs, places)? {
                return Ok(places);
            }
        }
        Err(ProbeError::NotObservable(
            "a wait of its own is not seen where this kernel should save registers",
        ))
    }

    /// Whether a wait of this thread's own comes out as it was.
    fn rehearse(&mut self, programs: &mut Ebpf, places: Observed) -> Result<bool, ProbeError> {
        let observed = Observed { tgid: std::process::id(), long_ns: u64::MAX, ..places };
        let (lock, bell) = (Mutex::new(()), Condvar::new());
        self.attach(programs, observed)?;
        for _ in 0..REHEARSALS {
            let held = lock.lock().unwrap_or_else(PoisonError::into_inner);
            drop(bell.wait_timeout(held, REHEARSAL));
        }
        self.detach(programs);
        let from = std::ptr::from_ref(&bell) as u64;
        let own = from..from + size_of_val(&bell) as u64;
        let mut seen = false;
        self.locks(|key, waits| {
            let lasted = Duration::from_nanos(waits.total_ns);
            seen |= own.contains(&key.word) && (REHEARSAL / 2..REHEARSAL_MAX).contains(&lasted);
        })?;
        Ok(seen)
    }

    fn locks(&self, mut on_lock: impl FnMut(LockKey, LockWaits)) -> Result<(), ProbeError> {
        let read = |error: MapError| ProbeError::of_map("reading the waits", &error);
        for key in self.locks.keys().take(size(LOCKS_MAX)) {
            let key = key.map_err(read)?;
            match self.locks.get(&key, 0) {
                Ok(waits) => on_lock(LockKey::from_bytes(&key), LockWaits::from_bytes(&waits)),
                // Evicted while it is observed.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(read(error)),
            }
        }
        Ok(())
    }
}

/// What the kernel tells of its structures; besides, the sizes that its stacks may have, and that of what it saves
/// at their top.
fn told_by_kernel() -> Result<(Observed, Vec<u32>, u32), ProbeError> {
    let unknown = ProbeError::NotObservable;
    let file = File::open(TYPES).map_err(|_| {
        unknown("the kernel does not describe its structures: it was built without CONFIG_DEBUG_INFO_BTF")
    })?;
    let of_task = |member| Question::Offset("task_struct", member);
    let [first, second] = REGISTERS.map(|(name, _)| Question::Offset("pt_regs", name));
    let questions = [
        of_task("pid"),
        of_task("tgid"),
        of_task("stack"),
        of_task("__state"),
        of_task("state"),
        first,
        second,
        Question::Size("pt_regs"),
        Question::Size("thread_union"),
    ];
    let told = answers(&mut ImageFile(file), questions);
    let [pid, tgid, stack, state, old_state, first, second, registers, thread] =
        told.map_err(|_| unknown("the kernel's description of its structures cannot be read"))?;
    if REGISTERS.map(|(_, at)| Some(at)) != [first, second] || tgid != pid.map(|pid| pid + 4) {
        return Err(unknown("the kernel's structures are not laid out as expected"));
    }
    let (Some(pid), Some(stack), Some(state), Some(registers)) = (pid, stack, state.or(old_state), registers)
    else {
        return Err(unknown("the kernel's structures lack what is looked for"));
    };
    let stack_sizes = thread.map_or(STACK_SIZES.to_vec(), |size| vec![size]);
    Ok((Observed { pid, state, stack, ..Observed::default() }, stack_sizes, registers))
}

impl Probes {
    /// Whether it was asked for when the programs were loaded that waits can be observed.
    #[must_use]
    pub fn can_observe(&self) -> bool {
        self.contention.is_some()
    }

    /// Measures from now on how long the threads of process `pid` wait in C; Go's code is at `text`. Waits of
    /// `long_ns` and more are told one by one, but not by a kernel with PREEMPT_RT. One process at a time.
    ///
    /// The first time a few milliseconds go by in which the agent sees whether it works here, on itself.
    ///
    /// # Errors
    /// [`ProbeError::NotObservable`], [`ProbeError::AlreadyAttached`], and what the kernel refuses.
    pub fn observe(&mut self, pid: u32, text: Range<u64>, long_ns: u64) -> Result<(), ProbeError> {
        let contention = self.contention.as_mut().ok_or(NOT_LOADED)?;
        if contention.link.is_some() {
            return Err(ProbeError::AlreadyAttached { pid });
        }
        let places = match contention.places {
            Some(places) => places,
            None => contention.learn(&mut self.programs)?,
        };
        contention.places = Some(places);
        let realtime = fs::read(REALTIME).is_ok_and(|text| text.starts_with(b"1"));
        let long_ns = if realtime { u64::MAX } else { long_ns };
        let (text_start, text_end) = (text.start, text.end);
        contention.attach(&mut self.programs, Observed { tgid: pid, text_start, text_end, long_ns, ..places })
    }

    /// Ends it. What was measured stays until the next time.
    pub fn stop_observing(&mut self) {
        if let Some(contention) = &mut self.contention {
            contention.detach(&mut self.programs);
        }
    }

    /// What has been counted since the programs were loaded.
    ///
    /// # Errors
    /// When the kernel does not give the map.
    pub fn counted(&self) -> Result<Counted, ProbeError> {
        Ok(Counted {
            switches: self.counter(Counter::Switches)?,
            timed_ns: self.counter(Counter::SwitchTimedNs)?,
            waits: self.counter(Counter::Waits)?,
            locks_seen: self.counter(Counter::LocksSeen)?,
            blocked_full: self.counter(Counter::BlockedFull)?,
            ends_missed: self.counter(Counter::EndsMissed)?,
            locks_full: self.counter(Counter::LocksFull)?,
            long_waits_lost: self.counter(Counter::LongWaitsLost)?,
            unreadable: self.counter(Counter::CallsUnreadable)?,
        })
    }

    /// Hands over the long waits that have ended since the last call.
    pub fn drain_long_waits(&mut self, on_wait: impl FnMut(LongWait)) {
        if let Some(contention) = &mut self.contention {
            contention.drain(on_wait);
        }
    }

    /// Hands over what was waited for, in no order: at most [`LOCKS_MAX`].
    ///
    /// # Errors
    /// When the kernel does not give the map.
    pub fn locks_waited_for(&self, on_lock: impl FnMut(LockKey, LockWaits)) -> Result<(), ProbeError> {
        self.contention.as_ref().ok_or(NOT_LOADED)?.locks(on_lock)
    }

    /// Hands over the threads of process `pid`, which was observed, that have begun to wait and wait still, in no
    /// order: at most as many as there is room for. Returns how many have gone on without the kernel having told it.
    ///
    /// # Errors
    /// When the kernel does not give the map.
    pub fn still_blocked(
        &self,
        pid: u32,
        mut on_thread: impl FnMut(BlockedThread),
    ) -> Result<u64, ProbeError> {
        let read = |error: MapError| ProbeError::of_map("reading the waits", &error);
        let contention = self.contention.as_ref().ok_or(NOT_LOADED)?;
        let (mut threads, mut gone_on) = (ProcThreads::new(pid), 0);
        for tid in contention.blocked.keys().take(contention.threads) {
            let tid = tid.map_err(read)?;
            match contention.blocked.get(&tid, 0).map(|wait| BlockedThread::from_bytes(&wait)) {
                Ok(wait) if waits_still(&mut threads, tid, &wait) => on_thread(wait),
                Ok(_) => gone_on += 1,
                // It has gone on while it is looked at.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(read(error)),
            }
        }
        Ok(gone_on)
    }

    /// Adds to an observation of process `pid`, which has stopped, what was measured of each lock, and who waits still
    /// at `now_ns`.
    ///
    /// # Errors
    /// When the kernel does not give the maps.
    pub fn add_measured(
        &self,
        pid: u32,
        now_ns: u64,
        observation: &mut Observation,
    ) -> Result<(), ProbeError> {
        self.locks_waited_for(|key, waits| observation.add(key, &waits))?;
        let gone_on = self.still_blocked(pid, |wait| observation.add_ongoing(&wait, now_ns))?;
        observation.add_ends_missed(gone_on);
        Ok(())
    }
}

/// Whether a thread that has begun to wait is still seen waiting. Some kernels of virtual machines (6.18) leave out
/// switches from an idle processor, and so the ends of waits.
fn waits_still(threads: &mut ProcThreads, tid: u32, wait: &BlockedThread) -> bool {
    match threads.standing(Tid { outer: tid, inner: tid }) {
        Ok(Standing::Call(call)) => call.args.first() == Some(&wait.word),
        Ok(_) | Err(Error::Gone) => false,
        // Where the kernel does not tell, its word stands.
        Err(_) => true,
    }
}

const NOT_LOADED: ProbeError =
    ProbeError::NotObservable("it was not asked for when the programs were loaded");

/// The clock in which waits are measured, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
