//! Measures how long the threads of one process wait for futexes in C, per futex.
//!
//! One program, where the scheduler gives a processor from one thread to another (`sched_switch`). So a call
//! that does not have to wait costs nothing, and a wait costs two passes. It is attached only while somebody
//! observes; every other switch of the machine passes it meanwhile too, which is why it asks for the process first.
//!
//! A wait lasts from giving up the processor to having it again: the time in a queue for it is part of that, as
//! it is for who waits.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap, LruHashMap, RingBuf},
    programs::RawTracePointContext,
};
use glg_proto::probe::{
    BlockedThread, Counter, LockKey, LockWaits, LongWait, Observed, STACK_NEAR, SWITCHES_PER_TIMED,
};

use crate::count::{add, add_one, add_one_short, count, count_more, count_on};

/// Whom to observe, and where things stand in this kernel's structures. The agent writes it while nothing is attached.
#[map]
static OBSERVED: Array<Observed> = Array::with_max_entries(1, 0);

/// Threads that wait, by number. The agent sets the size at load.
#[map]
static BLOCKED: HashMap<u32, BlockedThread> = HashMap::with_max_entries(1, 0);

/// What was waited for; the one that was not waited for the longest gives way. The agent sets the size at load.
#[map]
static LOCKS: LruHashMap<LockKey, LockWaits> = LruHashMap::with_max_entries(1, 0);

/// The long waits, one by one. The agent sets the size at load.
#[map]
static LONG_WAITS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// `TASK_INTERRUPTIBLE` (include/linux/sched.h): futexes are waited for in it, and only what blocks for something
/// else within the call is not.
const INTERRUPTIBLE: u32 = 1;
/// `TASK_WAKING`: it has blocked, and somebody wakes it already, before it has left the processor.
const WAKING: u32 = 0x200;

/// Futex operations without their flags (include/uapi/linux/futex.h): those that wait.
const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_LOCK_PI2: u64 = 13;

/// One pass takes at most so many nanoseconds: if the clock says more, the machine itself was stopped meanwhile, as
/// virtual ones are, which must not be taken times [`SWITCHES_PER_TIMED`].
const PASS_MAX_NS: u64 = 20_000;

/// Attempts to leave the longest wait as the longest.
const ATTEMPTS: u32 = 3;

/// Arguments: whether the thread that leaves was preempted, it, the one that comes (include/trace/events/sched.h).
/// The current thread is still the one that leaves.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn futex_switch(ctx: RawTracePointContext) -> i32 {
    let timed = count_on(Counter::Switches) % SWITCHES_PER_TIMED == 0;
    // SAFETY: the helper only reads the clock; here and below.
    let begun = opaque(if timed { unsafe { bpf_ktime_get_ns() } } else { 0 });
    switched(&ctx);
    if begun != 0 {
        // SAFETY: as above.
        let took = unsafe { bpf_ktime_get_ns() } - begun;
        count_more(Counter::SwitchTimedNs, if took < PASS_MAX_NS { took } else { PASS_MAX_NS });
    }
    0
}

#[inline(always)]
fn switched(ctx: &RawTracePointContext) {
    let Some(observed) = OBSERVED.get(0) else { return };
    let (preempted, leaves, comes): (u64, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let id = bpf_get_current_pid_tgid();
    let mut now_ns = 0;
    if (id >> 32) as u32 == observed.tgid && preempted & 0xff == 0 {
        now_ns = blocked(observed, id as u32, leaves).unwrap_or(0);
    }
    // Thread and process, side by side: the agent has made sure of it.
    let ids = (comes + u64::from(observed.pid)) as *const [u32; 2];
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    if let Ok([tid, tgid]) = unsafe { bpf_probe_read_kernel(ids) }
        && tgid == observed.tgid
    {
        resumed(observed, tid, now_ns);
    }
}

/// A thread of the observed process leaves the processor: notes the futex it waits for, if that is why, and says when.
#[inline(always)]
fn blocked(observed: &Observed, tid: u32, task: u64) -> Option<u64> {
    // SAFETY: the helper checks the address and fails on one that cannot be read; here and below.
    let state = unsafe { bpf_probe_read_kernel((task + u64::from(observed.state)) as *const u32) };
    if !state.is_ok_and(|state| state & (INTERRUPTIBLE | WAKING) != 0) {
        return None;
    }
    // SAFETY: as above.
    let stack = unsafe { bpf_probe_read_kernel((task + u64::from(observed.stack)) as *const u64) };
    let Ok(call) = stack.and_then(|stack| user_call(stack + u64::from(observed.registers))) else {
        count(Counter::CallsUnreadable);
        return None;
    };
    let waits = matches!(
        call.op & FUTEX_COMMAND,
        FUTEX_WAIT | FUTEX_LOCK_PI | FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2
    );
    let in_go = call.pc >= observed.text_start && call.pc < observed.text_end;
    if call.number != FUTEX || !waits || in_go {
        return None;
    }
    // SAFETY: the helper only reads the clock.
    let since_ns = unsafe { bpf_ktime_get_ns() };
    let (op, value) = (call.op as u32, call.value as u32);
    let on_stack = u32::from(call.word.wrapping_sub(call.sp) < STACK_NEAR);
    let wait = BlockedThread { since_ns, word: call.word, op, value, on_stack, reserved: 0 };
    if BLOCKED.insert(tid, wait, u64::from(BPF_NOEXIST)).is_err() {
        // It is there already, or there is no room: some kernels of virtual machines (6.18) leave out switches from an
        // idle processor, for every kind of tracing alike.
        count(match BLOCKED.insert(tid, wait, u64::from(BPF_EXIST)) {
            Ok(()) => Counter::EndsMissed,
            Err(_) => Counter::BlockedFull,
        });
    }
    Some(since_ns)
}

/// A thread of the observed process has the processor again: accounts for the wait, if it was in one. `now_ns` is 0 when
/// the clock has not been read yet.
#[inline(always)]
fn resumed(observed: &Observed, tid: u32, now_ns: u64) {
    let Some(wait) = BLOCKED.get_ptr(tid) else { return };
    // SAFETY: a live value of BLOCKED. Only this thread's own switches write it, and these come one by one.
    let wait = unsafe { *wait };
    let _ = BLOCKED.remove(tid);
    // SAFETY: the helper only reads the clock.
    let now_ns = if now_ns == 0 { unsafe { bpf_ktime_get_ns() } } else { now_ns };
    let waited_ns = now_ns.saturating_sub(wait.since_ns);
    count(Counter::Waits);
    let key = LockKey { word: wait.word, op: wait.op, on_stack: wait.on_stack };
    match waits(key) {
        // SAFETY: a live value of LOCKS, or one that was evicted and is still memory of this map's.
        Some(waits) => unsafe { account(waits, wait.value, waited_ns) },
        None => count(Counter::LocksFull),
    }
    if waited_ns < observed.long_ns {
        return;
    }
    match LONG_WAITS.reserve::<LongWait>(0) {
        Some(mut slot) => {
            let BlockedThread { since_ns, word, op, value, .. } = wait;
            slot.write(LongWait { word, since_ns, waited_ns, op, value, tid, reserved: 0 });
            slot.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(Counter::LongWaitsLost),
    }
}

/// The lock's figures, made on first sight.
#[inline(always)]
fn waits(key: LockKey) -> Option<*mut LockWaits> {
    if let Some(waits) = LOCKS.get_ptr_mut(key) {
        return Some(waits);
    }
    // Zeroes, written one by one: for a whole structure the compiler would call a function.
    let mut none = MaybeUninit::<LockWaits>::uninit();
    for word in 0..size_of::<LockWaits>() / size_of::<u64>() {
        // SAFETY: it has so many words, and is aligned as they are.
        unsafe { none.as_mut_ptr().cast::<u64>().add(word).write_volatile(0) };
    }
    // SAFETY: all of it has been written, and zeroes are such a value.
    let none = unsafe { none.assume_init_ref() };
    // Two threads may come here at once: the first wins, and both then count in its entry.
    if LOCKS.insert(key, none, u64::from(BPF_NOEXIST)).is_ok() {
        count(Counter::LocksSeen);
    }
    LOCKS.get_ptr_mut(key)
}

/// # Safety
/// `waits` points to a value of LOCKS.
#[inline(always)]
unsafe fn account(waits: *mut LockWaits, value: u32, waited_ns: u64) {
    // SAFETY: the caller's promise; all members are aligned, and the bucket is one of those there are.
    unsafe {
        add_one(&raw mut (*waits).waits);
        add(&raw mut (*waits).total_ns, waited_ns);
        (&raw mut (*waits).value).write_volatile(value);
        add_one_short((&raw mut (*waits).histogram).cast::<u32>().add(bucket(waited_ns)));
        // There is no maximum in one instruction. When two threads write at once the longer one may be overwritten;
        // it sees that and writes again, and only one that is overwritten each time is lost to the longest (it is in
        // the histogram in any case).
        let longest = &raw mut (*waits).longest_ns;
        for _ in 0..ATTEMPTS {
            if longest.read_volatile() >= waited_ns {
                break;
            }
            longest.write_volatile(waited_ns);
        }
    }
}

/// As [`LockWaits::bucket`], with the check of its bound where the verifier needs it.
#[inline(always)]
fn bucket(waited_ns: u64) -> usize {
    let bucket = opaque(LockWaits::bucket(waited_ns) as u64) as usize;
    if bucket >= LockWaits::BUCKETS { LockWaits::BUCKETS - 1 } else { bucket }
}

/// The same number, of which the compiler knows nothing any more: it would make two programs of one, and move checks
/// to where the verifier does not see what they are good for.
#[inline(always)]
fn opaque(mut number: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}

/// The system call in which a thread has left the processor, from what it has saved of the user's registers.
struct UserCall {
    number: u64,
    word: u64,
    op: u64,
    value: u64,
    pc: u64,
    sp: u64,
}

#[cfg(bpf_target_arch = "x86_64")]
const FUTEX: u64 = 202;

/// `struct pt_regs` (arch/x86/include/asm/ptrace.h), from `dx` at byte 96 to `sp`.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn user_call(registers: u64) -> Result<UserCall, i32> {
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    let [value, op, word, number, pc, _, _, sp] =
        unsafe { bpf_probe_read_kernel((registers + 96) as *const [u64; 8]) }?;
    Ok(UserCall { number, word, op, value, pc, sp })
}

#[cfg(bpf_target_arch = "aarch64")]
const FUTEX: u64 = 98;

/// `struct pt_regs` (arch/arm64/include/asm/ptrace.h): from `x1` at byte 8, and from `sp` at byte 248 over `pc`
/// and `orig_x0` to `syscallno`. The agent has compared the last two with the kernel's own description.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn user_call(registers: u64) -> Result<UserCall, i32> {
    // SAFETY: the helper checks the addresses and fails on one that cannot be read.
    let ([op, value], [sp, pc, _, word, number]) = unsafe {
        (
            bpf_probe_read_kernel((registers + 8) as *const [u64; 2])?,
            bpf_probe_read_kernel((registers + 248) as *const [u64; 5])?,
        )
    };
    // The number has 32 bits; what stands beside it is anything.
    Ok(UserCall { number: number & 0xffff_ffff, word, op, value, pc, sp })
}
