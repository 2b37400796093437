//! Which members of which runtime structs a layout row holds. The one place to add a member: here, and as a
//! documented field of the struct in `engine/src/layout/mod.rs`.

/// What a member's offset becomes in the row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `u16`: every Go version has it.
    One,
    /// `Option<u16>`: some versions do not.
    Maybe,
    /// `&[u16]`: one number that some versions keep in several places; the sum counts.
    Sum,
    /// `&[Area]`: several members, each with its length; those that a version does not have are left out.
    Areas,
}

/// One field of a row.
pub(crate) struct Member {
    /// Name in the engine's struct.
    pub(crate) name: &'static str,
    /// Where Go keeps it: dotted paths, the first that exists counts; `a+b` for a sum.
    pub(crate) paths: &'static [&'static str],
    /// Width in bytes, checked: a reader relies on it. 0 where it differs and the low bytes are what counts.
    pub(crate) width: u64,
    /// What it becomes.
    pub(crate) kind: Kind,
}

/// One runtime struct.
pub(crate) struct Struct {
    /// Go's type; several names, where it was renamed, with `|` in between.
    pub(crate) go: &'static str,
    /// Field of the engine's `Layout`.
    pub(crate) field: &'static str,
    /// The engine's struct.
    pub(crate) rust: &'static str,
    /// Its members.
    pub(crate) members: &'static [Member],
    /// Whether some versions do not have it: then it is an `Option`.
    pub(crate) maybe: bool,
}

const fn one(name: &'static str, paths: &'static [&'static str], width: u64) -> Member {
    Member { name, paths, width, kind: Kind::One }
}

const fn maybe(name: &'static str, paths: &'static [&'static str], width: u64) -> Member {
    Member { name, paths, width, kind: Kind::Maybe }
}

const fn sum(name: &'static str, paths: &'static [&'static str], width: u64) -> Member {
    Member { name, paths, width, kind: Kind::Sum }
}

const fn areas(name: &'static str, paths: &'static [&'static str]) -> Member {
    Member { name, paths, width: 0, kind: Kind::Areas }
}

const fn of(go: &'static str, field: &'static str, rust: &'static str, members: &'static [Member]) -> Struct {
    Struct { go, field, rust, members, maybe: false }
}

const fn maybe_of(
    go: &'static str,
    field: &'static str,
    rust: &'static str,
    members: &'static [Member],
) -> Struct {
    Struct { go, field, rust, members, maybe: true }
}

const G: &[Member] = &[
    one("stack_lo", &["stack.lo"], 8),
    one("stack_hi", &["stack.hi"], 8),
    one("defers", &["_defer"], 8),
    one("m", &["m"], 8),
    one("sched_sp", &["sched.sp"], 8),
    one("sched_pc", &["sched.pc"], 8),
    one("sched_bp", &["sched.bp"], 8),
    one("syscallsp", &["syscallsp"], 8),
    one("syscallpc", &["syscallpc"], 8),
    one("atomicstatus", &["atomicstatus"], 4),
    one("goid", &["goid"], 8),
    one("waitsince", &["waitsince"], 8),
    one("waitreason", &["waitreason"], 1),
    one("tracking_seq", &["trackingSeq"], 1),
    one("lockedm", &["lockedm"], 8),
    maybe("parent_goid", &["parentGoid"], 8),
    one("gopc", &["gopc"], 8),
    one("startpc", &["startpc"], 8),
    one("waiting", &["waiting"], 8),
];

const M: &[Member] = &[
    one("g0", &["g0"], 8),
    one("gsignal", &["gsignal"], 8),
    one("procid", &["procid"], 8),
    one("curg", &["curg"], 8),
    one("p", &["p"], 8),
    one("incgo", &["incgo"], 1),
    one("syscalltick", &["syscalltick"], 4),
    one("oldp", &["oldp"], 8),
    one("alllink", &["alllink"], 8),
    one("lockedg", &["lockedg"], 8),
];

const P: &[Member] = &[
    one("id", &["id"], 4),
    one("status", &["status"], 4),
    one("m", &["m"], 8),
    // A count beside the list up to 1.24, inside runtime.gList since.
    one("g_free", &["gFree.n", "gFree.size"], 4),
    // The collector's own buffers, and registers of who was preempted.
    areas("holes", &["wbBuf+gcw+pcache+mspancache+xRegs"]),
    maybe("ptr_buf", &["gcw.ptrBuf"], 8),
];

const SCHED: &[Member] = &[
    one("nmidle", &["nmidle"], 4),
    one("maxmcount", &["maxmcount"], 4),
    one("ngsys", &["ngsys"], 4),
    // One count up to 1.24, one per list since.
    sum("g_free", &["gFree.n", "gFree.stack.size+gFree.noStack.size"], 4),
];

// Since 1.26 elem and c are a maybeTraceablePtr: `vu` is the source of truth, `vp` is nil while the
// collector must not follow it (runtime/runtime2.go).
const SUDOG: &[Member] = &[
    one("g", &["g"], 8),
    one("next", &["next"], 8),
    one("elem", &["elem.vu", "elem"], 8),
    maybe("elem_vp", &["elem.vp"], 8),
    one("waitlink", &["waitlink"], 8),
    one("c", &["c.maybeTraceablePtr.vu", "c"], 8),
    maybe("c_vp", &["c.maybeTraceablePtr.vp"], 8),
];

const DEFER: &[Member] = &[one("link", &["link"], 8)];

const HCHAN: &[Member] = &[
    one("qcount", &["qcount"], 8),
    one("dataqsiz", &["dataqsiz"], 8),
    one("buf", &["buf"], 8),
    one("elemsize", &["elemsize"], 2),
    one("closed", &["closed"], 4),
    one("recvq", &["recvq"], 16),
    one("sendq", &["sendq"], 16),
];

const MODULEDATA: &[Member] = &[
    one("pc_header", &["pcHeader"], 8),
    one("funcnametab", &["funcnametab"], 24),
    one("text", &["text"], 8),
    one("noptrdata", &["noptrdata"], 8),
    one("enoptrdata", &["enoptrdata"], 8),
    one("data", &["data"], 8),
    one("edata", &["edata"], 8),
    one("bss", &["bss"], 8),
    one("ebss", &["ebss"], 8),
    one("noptrbss", &["noptrbss"], 8),
    one("enoptrbss", &["enoptrbss"], 8),
    one("gofunc", &["gofunc"], 8),
    one("gcdatamask", &["gcdatamask.bytedata"], 8),
    one("gcbssmask", &["gcbssmask.bytedata"], 8),
    one("next", &["next"], 8),
];

const MSPAN: &[Member] = &[
    one("start_addr", &["startAddr"], 8),
    one("npages", &["npages"], 8),
    one("state", &["state.s.value", "state.s"], 1),
    one("spanclass", &["spanclass"], 1),
    one("elemsize", &["elemsize"], 8),
    one("specials", &["specials"], 8),
];

const MHEAP: &[Member] =
    &[one("arenas", &["arenas"], 8), one("all_arenas", &["allArenas", "heapArenas"], 24)];

const SPECIAL: &[Member] = &[
    one("next", &["next"], 8),
    // 2 bytes up to 1.23, 8 since; no span is so long that it takes more than 2.
    one("offset", &["offset"], 0),
    one("kind", &["kind"], 1),
];

const FIN_BLOCK: &[Member] = &[one("alllink", &["alllink"], 8)];

const CLEANUP_QUEUE: &[Member] = &[one("all", &["all"], 8)];

const CLEANUP_BLOCK: &[Member] = &[one("alllink", &["cleanupBlockHeader.alllink"], 8)];

const HEAP_ARENA: &[Member] = &[one("spans", &["spans"], 65_536)];

/// Every struct of a row, in the row's order.
pub(crate) const STRUCTS: &[Struct] = &[
    of("runtime.g", "g", "G", G),
    of("runtime.m", "m", "M", M),
    of("runtime.p", "p", "P", P),
    of("runtime.schedt", "sched", "Sched", SCHED),
    of("runtime.sudog", "sudog", "Sudog", SUDOG),
    of("runtime._defer", "deferred", "Deferred", DEFER),
    of("runtime.hchan", "hchan", "Hchan", HCHAN),
    of("runtime.mspan", "mspan", "Mspan", MSPAN),
    of("runtime.mheap", "mheap", "Mheap", MHEAP),
    of("runtime.heapArena", "heap_arena", "HeapArena", HEAP_ARENA),
    of("runtime.special", "special", "Special", SPECIAL),
    of("runtime.specialfinalizer", "special_finalizer", "SpecialRecord", &[]),
    maybe_of("runtime.specialCleanup", "special_cleanup", "SpecialRecord", &[]),
    of("runtime.finblock|runtime.finBlock", "fin_block", "Block", FIN_BLOCK),
    maybe_of("runtime.cleanupQueue", "cleanup_queue", "CleanupQueue", CLEANUP_QUEUE),
    maybe_of("runtime.cleanupBlock", "cleanup_block", "Block", CLEANUP_BLOCK),
    of("runtime.moduledata", "moduledata", "Moduledata", MODULEDATA),
];

/// Structs without a row whose change a person has to look at: the function table's own parts.
pub(crate) const WATCHED: &[&str] =
    &["runtime.pcHeader", "runtime._func", "runtime.functab", "runtime.textsect", "runtime.inlinedCall"];

/// Goroutine statuses as `engine/src/layout/mod.rs` names them (runtime/runtime2.go). Those above 9 came
/// with Go 1.26.
pub(crate) const STATUSES: &[(&str, u32)] = &[
    ("_Gidle", 0),
    ("_Grunnable", 1),
    ("_Grunning", 2),
    ("_Gsyscall", 3),
    ("_Gwaiting", 4),
    ("_Gmoribund_unused", 5),
    ("_Gdead", 6),
    ("_Genqueue_unused", 7),
    ("_Gcopystack", 8),
    ("_Gpreempted", 9),
    ("_Gleaked", 10),
    ("_Gdeadextra", 11),
];
