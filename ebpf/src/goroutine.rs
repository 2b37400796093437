//! Counts goroutines created and ended per creation site, for the processes under suspicion.
//!
//! Both functions run on the scheduler's stack (g0), which does not grow, so none is entered twice for one
//! goroutine. A hit is counted before anything else is looked at: the trap was paid for either way.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, pt_regs},
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use glg_proto::probe::{AttributeTarget, Counter, SiteCount, SiteKey};

use crate::count::{add_one, count};

/// Whom to count. The agent sets the size at load.
#[map]
static ATTRIBUTE_TARGETS: HashMap<u32, AttributeTarget> = HashMap::with_max_entries(1, 0);

/// The agent sets the size at load.
#[map]
static SITES: HashMap<SiteKey, SiteCount> = HashMap::with_max_entries(1, 0);

/// In `runtime.newproc1(fn *funcval, callergp *g, callerpc uintptr, …)`, while `callerpc` is live:
/// the return address of the `go` statement, which becomes `g.gopc`.
#[uprobe]
pub fn goroutine_create(ctx: ProbeContext) -> u32 {
    count(Counter::CreateHits);
    if let Some((tgid, _)) = target() {
        let pc = third_argument(&ctx);
        if let Some(site) = site(tgid, pc) {
            // SAFETY: `site` is a live value of SITES; the field is aligned to 8.
            unsafe { add_one(&raw mut (*site).created) };
        }
    }
    0
}

/// In `runtime.goexit0(gp *g)`, while `gp` is live and its `gopc` not yet reused.
#[uprobe]
pub fn goroutine_exit(ctx: ProbeContext) -> u32 {
    count(Counter::ExitHits);
    if let Some((tgid, target)) = target() {
        let gopc = first_argument(&ctx).wrapping_add(u64::from(target.gopc_offset)) as *const u64;
        // SAFETY: the helper checks the address and fails on one that cannot be read.
        let Ok(pc) = (unsafe { bpf_probe_read_user(gopc) }) else {
            count(Counter::Unreadable);
            return 0;
        };
        if let Some(site) = site(tgid, pc) {
            // SAFETY: `site` is a live value of SITES; the field is aligned to 8.
            unsafe { add_one(&raw mut (*site).exited) };
        }
    }
    0
}

/// Does a hit's look-ups and changes nothing, so that the calibration measures what a hit costs.
#[inline(always)]
pub(crate) fn rehearse(ctx: &ProbeContext) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let _ = target();
    let _ = SITES.get_ptr_mut(SiteKey { tgid, reserved: 0, pc: third_argument(ctx) });
}

#[inline(always)]
fn target() -> Option<(u32, AttributeTarget)> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied at once; the agent writes it before it attaches and never changes it.
    unsafe { ATTRIBUTE_TARGETS.get(tgid) }.map(|target| (tgid, *target))
}

/// The site's counts, made on first sight. `None` (and counted) when the map is full.
#[inline(always)]
fn site(tgid: u32, pc: u64) -> Option<*mut SiteCount> {
    let key = SiteKey { tgid, reserved: 0, pc };
    if let Some(site) = SITES.get_ptr_mut(key) {
        return Some(site);
    }
    // Two threads may come here at once: BPF_NOEXIST lets the first win and both then count in its entry.
    let fresh = SiteCount { created: 0, exited: 0 };
    let _ = SITES.insert(key, fresh, u64::from(BPF_NOEXIST));
    let site = SITES.get_ptr_mut(key);
    if site.is_none() {
        count(Counter::SitesFull);
    }
    site
}

// Registers of Go's ABIInternal (src/cmd/compile/abi-internal.md): amd64 RAX, RBX, RCX; arm64 R0, R1, R2.

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn first_argument(ctx: &ProbeContext) -> u64 {
    let regs: *const pt_regs = ctx.regs;
    // SAFETY: the context of a uprobe program is the probed thread's registers.
    unsafe { (*regs).rax }
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn third_argument(ctx: &ProbeContext) -> u64 {
    let regs: *const pt_regs = ctx.regs;
    // SAFETY: as above.
    unsafe { (*regs).rcx }
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn first_argument(ctx: &ProbeContext) -> u64 {
    let regs: *const pt_regs = ctx.regs;
    // SAFETY: the context of a uprobe program is the probed thread's registers.
    unsafe { (*regs).regs[0] }
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn third_argument(ctx: &ProbeContext) -> u64 {
    let regs: *const pt_regs = ctx.regs;
    // SAFETY: as above.
    unsafe { (*regs).regs[2] }
}
