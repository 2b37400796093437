//! Exact counters: the one way in which every program here counts.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use core::arch::asm;
use glg_proto::probe::Counter;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_more(counter, 1);
}

/// Adds `more` to a counter of this CPU.
#[inline(always)]
pub(crate) fn count_more(counter: Counter, more: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: `value` is an element of a map, checked against null and aligned to 8.
        unsafe { add(value, more) };
    }
}

/// Adds one to a counter of this CPU and says what it was before, as far as nobody else counts meanwhile.
#[inline(always)]
pub(crate) fn count_on(counter: Counter) -> u64 {
    let Some(value) = COUNTERS.get_ptr_mut(counter as u32) else { return 0 };
    // SAFETY: `value` is an element of a map, checked against null and aligned to 8.
    unsafe {
        let before = value.read_volatile();
        add(value, 1);
        before
    }
}

/// Adds one to a map value, atomically; see [`add`].
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn add_one(value: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { add(value, 1) };
}

/// Adds to a map value, atomically.
///
/// Even on a per-CPU value a plain `+= 1` loses counts: since Linux 6.0 a uprobe's program can be preempted
/// (`bpf_prog_run_array_uprobe` holds only RCU and migration), and another thread can hit the probe meanwhile.
/// Written as an instruction because `core` offers no `fetch_add` for BPF. XADD is in every kernel's JIT;
/// the fetching atomics need 5.12 (x86) and later (arm64).
///
/// # Safety
/// `value` points to a live map value of 8 bytes, aligned to 8.
#[inline(always)]
pub(crate) unsafe fn add(value: *mut u64, more: u64) {
    // SAFETY: the caller's promise; the instruction touches only these 8 bytes.
    unsafe { asm!("lock *(u64 *)({value} + 0) += {more}", value = in(reg) value, more = in(reg) more) };
}

/// Adds one to a map value of 4 bytes, atomically.
///
/// # Safety
/// `value` points to a live map value of 4 bytes, aligned to 4.
#[inline(always)]
pub(crate) unsafe fn add_one_short(value: *mut u32) {
    // SAFETY: the caller's promise; the instruction touches only these 4 bytes.
    unsafe { asm!("lock *(u32 *)({value} + 0) += {one}", value = in(reg) value, one = in(reg) 1u64) };
}
