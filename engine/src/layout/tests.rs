//! The generated rows against what was read by hand in Go's sources and measured on live programs.

use super::*;
use std::string::ToString;

extern crate std;

/// Versions whose offsets were established by hand.
const MINORS: [u16; 8] = [19, 21, 22, 23, 24, 25, 26, 27];

fn amd64(minor: u16) -> &'static Layout {
    layout_for(minor, Arch::Amd64).unwrap()
}

/// A member's offset in each version, in the order of `MINORS`; a newer release needs no column here.
#[track_caller]
fn check(name: &str, member: impl Fn(&Layout) -> u16, expected: [u16; 8]) {
    for (minor, offset) in MINORS.into_iter().zip(expected) {
        assert_eq!(member(amd64(minor)), offset, "{name} in Go 1.{minor}");
    }
}

#[test]
fn every_supported_version_has_both_architectures() {
    for minor in MINORS {
        for arch in [Arch::Amd64, Arch::Arm64] {
            let row = layout_for(minor, arch).unwrap();
            assert!(row.go.starts_with(std::format!("1.{minor}.").as_str()), "{}", row.go);
        }
    }
    assert_eq!(layout_for(20, Arch::Amd64), None);
    assert_eq!(layout_for(99, Arch::Arm64), None);
    assert!(supported().to_string().starts_with("1.19, 1.21–1."), "{}", supported());
}

#[test]
fn architectures_differ_in_cache_lines_and_registers() {
    for minor in MINORS {
        let arm64 = *layout_for(minor, Arch::Arm64).unwrap();
        let mut same = *amd64(minor);
        same.arch = Arch::Arm64;
        if minor >= 26 {
            // p.xRegs: more extended registers than arm64's (runtime/preempt_xreg.go).
            assert!(same.p.size > arm64.p.size);
            same.p.size = arm64.p.size;
            let (last, others) = same.p.holes.split_last().unwrap();
            assert_eq!(arm64.p.holes.split_last().unwrap().1, others);
            assert!(last.len > arm64.p.holes.last().unwrap().len);
            same.p.holes = arm64.p.holes;
        }
        // 64 bytes against 128 (internal/cpu, CacheLinePadSize).
        let apart = |l: &Layout| l.mheap.all_arenas - l.mheap.arenas;
        assert_eq!(apart(&same), apart(&arm64));
        same.mheap = arm64.mheap;
        let all = |l: &Layout| l.cleanup_queue.map(|queue| queue.all);
        assert_eq!((all(&same), all(&arm64)), if minor < 25 { (None, None) } else { (Some(128), Some(256)) });
        same.cleanup_queue = arm64.cleanup_queue;
        assert_eq!(same, arm64, "Go 1.{minor}");
    }
}

#[test]
fn goroutines() {
    check("g.stack.lo", |l| l.g.stack_lo, [0; 8]);
    check("g.stack.hi", |l| l.g.stack_hi, [8; 8]);
    check("g.m", |l| l.g.m, [48; 8]);
    check("g.sched.sp", |l| l.g.sched_sp, [56; 8]);
    check("g.sched.pc", |l| l.g.sched_pc, [64; 8]);
    check("g.sched.bp", |l| l.g.sched_bp, [104, 104, 104, 104, 104, 96, 96, 96]);
    check("g.syscallsp", |l| l.g.syscallsp, [112, 112, 112, 112, 112, 104, 104, 104]);
    check("g.syscallpc", |l| l.g.syscallpc, [120, 120, 120, 120, 120, 112, 112, 112]);
    check("g.atomicstatus", |l| l.g.atomicstatus, [144, 144, 144, 152, 152, 144, 144, 144]);
    check("g.goid", |l| l.g.goid, [152, 152, 152, 160, 160, 152, 152, 152]);
    check("g.waitreason", |l| l.g.waitreason, [176, 176, 176, 184, 184, 176, 176, 176]);
    check("g.parentGoid", |l| l.g.parent_goid.unwrap_or(0), [0, 272, 272, 280, 280, 272, 280, 280]);
    check("g.gopc", |l| l.g.gopc, [296, 280, 280, 288, 288, 280, 288, 288]);
    check("g.startpc", |l| l.g.startpc, [312, 296, 296, 304, 304, 296, 304, 304]);
    check("g.waiting", |l| l.g.waiting, [328, 312, 312, 320, 320, 312, 320, 320]);
}

#[test]
fn threads_processors_and_the_scheduler() {
    check("m.procid", |l| l.m.procid, [72, 72, 72, 72, 72, 64, 64, 64]);
    check("m.curg", |l| l.m.curg, [192, 192, 192, 192, 192, 184, 184, 184]);
    check("m.alllink", |l| l.m.alllink, [336, 336, 328, 328, 352, 344, 352, 352]);
    check("p.id", |l| l.p.id, [0; 8]);
    check("p.status", |l| l.p.status, [4; 8]);
    check("p.gFree", |l| l.p.g_free, [2472, 2472, 2472, 2464, 2464, 2464, 2472, 2472]);
    check("sched.ngsys", |l| l.sched.ngsys, [72, 72, 72, 72, 72, 80, 96, 96]);
    let free: [&[u16]; 8] = [&[176], &[184], &[184], &[184], &[184], &[184, 200], &[200, 216], &[200, 216]];
    for (minor, offsets) in MINORS.into_iter().zip(free) {
        assert_eq!(amd64(minor).sched.g_free, offsets, "sched.gFree in Go 1.{minor}");
    }
}

#[test]
fn wait_queues_and_modules() {
    check("sudog.g", |l| l.sudog.g, [0; 8]);
    check("sudog.next", |l| l.sudog.next, [8; 8]);
    // vu of the pair {vp, vu} at 24 and 88.
    check("sudog.elem", |l| l.sudog.elem, [24, 24, 24, 24, 24, 24, 32, 32]);
    check("sudog.c", |l| l.sudog.c, [80, 80, 80, 80, 80, 80, 96, 96]);
    check("hchan.qcount", |l| l.hchan.qcount, [0; 8]);
    check("hchan.dataqsiz", |l| l.hchan.dataqsiz, [8; 8]);
    check("hchan.buf", |l| l.hchan.buf, [16; 8]);
    check("hchan.closed", |l| l.hchan.closed, [28; 8]);
    check("moduledata.text", |l| l.moduledata.text, [176; 8]);
    check("moduledata.data", |l| l.moduledata.data, [208; 8]);
    check("moduledata.bss", |l| l.moduledata.bss, [224; 8]);
}

#[test]
fn the_heap() {
    check(
        "heapArena.spans",
        |l| u16::try_from(l.heap_arena.spans >> 8).unwrap(),
        [8192, 4160, 0, 0, 0, 0, 0, 0],
    );
    check("mspan.spanclass", |l| l.mspan.spanclass, [98, 106, 98, 98, 98, 98, 98, 98]);
    check("mspan.state", |l| l.mspan.state, [99, 107, 99, 99, 99, 99, 99, 99]);
    check("mspan.elemsize", |l| l.mspan.elemsize, [104, 112, 104, 104, 104, 104, 104, 104]);
    check("mspan.specials", |l| l.mspan.specials, [128, 136, 128, 128, 128, 128, 128, 128]);
    check("special.kind", |l| l.special.kind, [10, 10, 10, 10, 16, 16, 16, 16]);
    let list = |l: &Layout| u16::try_from(l.mheap.all_arenas - l.mheap.arenas).unwrap();
    check("mheap.allArenas behind mheap.arenas", list, [80, 88, 88, 88, 88, 88, 88, 88]);
    check("a finaliser's number", |l| l.special_kinds.finalizer.into(), [1, 1, 1, 1, 1, 2, 2, 2]);
    let weak = |l: &Layout| l.special_kinds.weak_handle.unwrap_or(0).into();
    check("a weak pointer's number", weak, [0, 0, 0, 2, 2, 3, 3, 3]);
    check("a cleanup's number", |l| l.special_kinds.cleanup.unwrap_or(0).into(), [0, 0, 0, 0, 6, 7, 7, 7]);
    check("sudog.size", |l| l.sudog.size, [88, 88, 88, 88, 88, 88, 104, 104]);
    let holes = [(64, 24), (3520, 1032), (4680, 40), (4720, 4112)];
    assert_eq!(sorted_holes(amd64(24)), holes);
    let holes = [(64, 24), (3528, 1032), (4696, 4856), (9552, 4112), (13_800, 2120)];
    assert_eq!(sorted_holes(amd64(27)), holes);
}

fn sorted_holes(layout: &Layout) -> std::vec::Vec<(u16, u16)> {
    let mut holes: std::vec::Vec<(u16, u16)> =
        layout.p.holes.iter().map(|hole| (hole.at, hole.len)).collect();
    holes.sort_unstable();
    holes
}

#[test]
fn members_are_aligned_and_inside_their_struct() {
    for l in table::TABLE {
        let words = [
            (l.g.size, l.g.waiting, 8),
            (l.g.size, l.g.goid, 8),
            (l.g.size, l.g.atomicstatus, 4),
            (l.m.size, l.m.alllink, 8),
            (l.p.size, l.p.g_free, 4),
            (l.sched.size, l.sched.ngsys, 4),
            (l.sched.size, l.sched.maxmcount, 4),
            (l.sudog.size, l.sudog.c, 8),
            (l.hchan.size, l.hchan.sendq + 8, 8),
            (l.moduledata.size, l.moduledata.next, 8),
        ];
        for (size, offset, width) in words {
            assert!(offset % width == 0 && offset + width <= size, "Go {}: {offset} of {size}", l.go);
        }
    }
}

#[test]
fn wait_reasons_follow_the_version() {
    let number = |minor, wait| amd64(minor).wait_reasons.iter().position(|w| *w == wait);
    for (minor, receive, select, semacquire) in
        [(19, 14, 9, 18), (25, 14, 9, 19), (26, 19, 18, 13), (27, 19, 18, 13)]
    {
        assert_eq!(number(minor, Wait::ChanReceive), Some(receive), "Go 1.{minor}");
        assert_eq!(number(minor, Wait::Select), Some(select), "Go 1.{minor}");
        assert_eq!(number(minor, Wait::Semacquire), Some(semacquire), "Go 1.{minor}");
    }
    assert_eq!(number(19, Wait::MutexLock), None);
    assert_eq!((number(24, Wait::MutexLock), number(25, Wait::MutexLock)), (Some(21), Some(22)));
    assert_eq!((number(23, Wait::WaitGroupWait), number(24, Wait::WaitGroupWait)), (None, Some(24)));
    for l in table::TABLE {
        assert_eq!((l.wait(2), l.wait(1), l.wait(255)), (Wait::IoWait, Wait::Runtime, Wait::Other));
    }
}

#[test]
fn statuses_lose_the_scan_bit() {
    assert_eq!(Status::from_raw(0x1004), Some(Status::Waiting));
    assert_eq!(Status::from_raw(7), None);
    assert_eq!(Status::from_raw(12), None);
    assert_eq!((0..12).filter_map(Status::from_raw).filter(|s| s.is_dead()).count(), 3);
}
