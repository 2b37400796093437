//! The runtime's own list of its threads: which goroutine is on which, and which of them are in C.

use alloc::vec;
use alloc::vec::Vec;

use crate::layout::Status;
use crate::memory::{Addr, Error, Memory, Run, le};
use crate::runtime::Runtime;

/// Bytes of an `m` at most, up to the last member that is looked at.
const M_MAX: usize = 512;

/// A thread as the runtime knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct M {
    /// Address of the `m`.
    pub m: Addr,
    /// Number of the thread in the process's own namespace; 0 before it runs.
    pub tid: u32,
    /// Its goroutine with the scheduling stack.
    pub g0: Addr,
    /// The goroutine it runs, or that is in C on it.
    pub curg: Option<Addr>,
    /// The goroutine that is locked to it: `LockOSThread`, and callbacks from C.
    pub lockedg: Option<Addr>,
    /// Whether it is in C.
    pub in_c: bool,
}

/// A goroutine on a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnThread {
    /// Address of the `g`.
    pub g: Addr,
    /// Its number.
    pub goid: u64,
    /// What it does.
    pub status: Status,
    /// Bumped when it stops running.
    pub ran: u8,
    /// Where its stack is in use from: saved stack pointer, that of its system call if it is in one.
    pub sp: Addr,
    /// Saved stack pointer in any case: in C, where Go has left its stack.
    pub sched_sp: Addr,
}

/// Reads the list of threads into `out`, `max` of them; says how many more there are at least.
///
/// # Errors
/// [`Error::Unsupported`] when the list was not found; [`Error::Malformed`] when it contradicts itself;
/// [`Error::Gone`], [`Error::Unreadable`].
pub fn list(runtime: &Runtime, memory: &mut dyn Memory, max: usize, out: &mut Vec<M>) -> Result<bool, Error> {
    out.clear();
    let allm = runtime.globals.allm.ok_or(Error::Unsupported("Go program whose allm cannot be found"))?;
    let l = &runtime.layout.m;
    let last = [l.g0, l.procid, l.curg, l.incgo, l.alllink, l.lockedg].into_iter().max().unwrap_or(0);
    let mut bytes = [0u8; M_MAX];
    let record = bytes.get_mut(..usize::from(last) + 8).ok_or(Error::Unsupported("size of runtime.m"))?;
    let mut next = memory.word(allm)?;
    while next != 0 {
        if out.len() >= max {
            return Ok(true);
        }
        memory.read(Addr(next), record)?;
        let word = |offset: u16| le::u64(record, offset.into());
        let some = |g: u64| (g != 0).then_some(Addr(g));
        let tid = u32::try_from(word(l.procid)?).map_err(|_| Error::Malformed { what: "m", at: next })?;
        out.push(M {
            m: Addr(next),
            tid,
            g0: Addr(word(l.g0)?),
            curg: some(word(l.curg)?),
            lockedg: some(word(l.lockedg)?),
            in_c: le::u8(record, l.incgo.into())? != 0,
        });
        next = word(l.alllink)?;
    }
    Ok(false)
}

/// Threads that are neither in C nor in a system call, by their numbers in ascending order: idle ones, and those whose
/// goroutine runs Go. None when that cannot be read.
///
/// # Errors
/// [`Error::Gone`].
pub fn inside(runtime: &Runtime, memory: &mut dyn Memory, ms: &[M]) -> Result<Vec<u32>, Error> {
    let status = u64::from(runtime.layout.g.atomicstatus);
    let at_work = ms.iter().filter_map(|m| m.curg);
    let runs: Vec<Run> = at_work.map(|g| Run { at: Addr(g.0.saturating_add(status)), len: 4 }).collect();
    let mut bytes = vec![0u8; 4 * runs.len()];
    match memory.read_runs(&runs, &mut bytes) {
        Err(Error::Gone) => return Err(Error::Gone),
        Err(_) => return Ok(Vec::new()),
        Ok(()) => {}
    }
    let mut statuses = bytes.chunks_exact(4).map(|raw| le::u32(raw, 0).ok().and_then(Status::from_raw));
    let mut inside = Vec::with_capacity(ms.len());
    for m in ms {
        let of_go = m.curg.is_none() || matches!(statuses.next(), Some(Some(Status::Running)));
        if of_go && !m.in_c {
            inside.push(m.tid);
        }
    }
    inside.sort_unstable();
    Ok(inside)
}

/// The saved stack pointer of a thread's own stack, on which C runs that Go has called.
///
/// # Errors
/// As [`Memory::read_runs`].
pub fn g0_sp(runtime: &Runtime, memory: &mut dyn Memory, m: &M) -> Result<Addr, Error> {
    memory.word(m.g0.plus(runtime.layout.g.sched_sp.into())?).map(Addr)
}

/// Reads the goroutine at `g`; `None` when there is none any more.
///
/// # Errors
/// As [`Memory::read_runs`].
pub fn goroutine(runtime: &Runtime, memory: &mut dyn Memory, g: Addr) -> Result<Option<OnThread>, Error> {
    let l = &runtime.layout.g;
    let fields = [(l.atomicstatus, 4), (l.goid, 8), (l.tracking_seq, 1), (l.sched_sp, 8), (l.syscallsp, 8)];
    let mut runs = [Run { at: g, len: 0 }; 5];
    for (run, (offset, len)) in runs.iter_mut().zip(fields) {
        *run = Run { at: g.plus(offset.into())?, len };
    }
    let mut bytes = [0u8; 29];
    memory.read_runs(&runs, &mut bytes)?;
    let status = Status::from_raw(le::u32(&bytes, 0)?).filter(|status| !status.is_dead());
    let (goid, sched_sp, syscall_sp) = (le::u64(&bytes, 4)?, le::u64(&bytes, 13)?, le::u64(&bytes, 21)?);
    let sp = Addr(if syscall_sp != 0 { syscall_sp } else { sched_sp });
    let ran = le::u8(&bytes, 12)?;
    let sched_sp = Addr(sched_sp);
    Ok(status.filter(|_| goid != 0).map(|status| OnThread { g, goid, status, ran, sp, sched_sp }))
}
