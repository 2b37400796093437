//! The memory of a target: how much it takes, and how much it may still take.

use glg_proto::wire::MemoryLimit;

/// What the kernel tells of a process and its memory.
pub trait Footprint {
    /// KiB of it that are in memory now; `None` when that cannot be told.
    fn resident_kib(&mut self) -> Option<u32>;

    /// KiB that are left to it; `None` when that cannot be told.
    fn room(&mut self) -> Option<Room>;
}

/// Memory that a process may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// KiB.
    pub kib: u64,
    /// What bounds it.
    pub limit: MemoryLimit,
}
