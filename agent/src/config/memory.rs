//! What a config costs in memory: every ring, map, cache and queue, before anything is allocated.

use std::fmt;

use glg_engine::ages::Ages;
use glg_engine::census::Census;
use glg_engine::command::Commands;
use glg_engine::command::audit::SEGMENT_MAX;
use glg_engine::engine::Engine;
use glg_engine::goroutines::Walker;
use glg_engine::history::checkpoint::Checkpoint;
use glg_engine::locks::scan::Scan;
use glg_engine::outbox::Outbox;
use glg_proto::command::{PART_HEAD_MAX, RECEIPT_MAX};
use glg_proto::probe::{BlockedThread, LockKey, LockWaits, SiteCount, SiteKey};
use glg_proto::wire::MESSAGE_MAX;

use super::Config;
use crate::probes::{LOCKS_MAX, LONG_WAITS_BYTES};
use crate::remote::Remote;
use crate::service::{BYSTANDERS_BYTES, EVENT_BYTES, RECEIPTS_MAX};
use crate::state::State;

/// The longest name of an executable, which is remembered with its open process: `NAME_MAX` of the kernel.
const NAME_BYTES: usize = 255;
/// A slot of a preallocated BPF hash map beside its key and value: `struct htab_elem` and the bucket
/// (Linux 6.1, kernel/bpf/hashtab.c).
const KERNEL_MAP_SLOT_BYTES: usize = 48 + 16;
/// The MQTT client's buffers beside the two messages under way: packets, options, 16 in flight.
const MQTT_CLIENT_BYTES: usize = 32 * 1024;
/// What TLS keeps: buffers of one record each way, of 16 KiB and a little, certificates, tickets of the last session.
const TLS_BYTES: usize = 48 * 1024;
/// Bytes of a proof for each goroutine that waits: what is remembered of it, and, when all are leaked, their findings,
/// vectors that grow included.
const WAITING_BYTES: usize = 300;

/// What each part takes, and the budget for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySum {
    /// Name and bytes of each part.
    pub rows: Vec<(&'static str, usize)>,
    /// `memory.budget_kib` in bytes.
    pub budget: usize,
    /// What a dump takes while it is taken: not in the sum, because it is taken by a process of its own.
    pub dump: usize,
    /// What a proof of leaks may take, likewise.
    pub proof: usize,
}

impl MemorySum {
    /// Bytes of all parts together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.rows.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Whether the parts fit into the budget.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.total() <= self.budget
    }
}

impl fmt::Display for MemorySum {
    /// A table, one line per part, without a newline at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in &self.rows {
            writeln!(f, "{name:<32}{bytes:>10} B")?;
        }
        writeln!(f, "{:<32}{:>10} B", "total", self.total())?;
        writeln!(f, "{:<32}{:>10} B", "budget", self.budget)?;
        writeln!(f, "{:<32}{:>10} B, while one is taken", "a dump, besides", self.dump)?;
        writeln!(f, "{:<32}{:>10} B at most, likewise,", "a proof of leaks, besides", self.proof)?;
        write!(f, "{:<32}{WAITING_BYTES:>10} B for each goroutine that waits", "")
    }
}

impl Config {
    /// Bytes of the kernel's maps for the waits of a target.
    fn contention_bytes(&self) -> usize {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let lock = size_of::<LockKey>() + size_of::<LockWaits>() + KERNEL_MAP_SLOT_BYTES;
        let thread = size_of::<u64>() + size_of::<BlockedThread>() + KERNEL_MAP_SLOT_BYTES;
        match self.observes() {
            true => {
                let threads = size(self.locks.max_threads).saturating_mul(thread);
                threads.saturating_add(size(LOCKS_MAX) * lock + size(LONG_WAITS_BYTES))
            }
            false => 0,
        }
    }

    /// Bytes of what is kept for commands: counters and answers, receipts, one part as it is read and as it is sent, and a
    /// segment of the records while it is written.
    fn commands_bytes(&self) -> usize {
        match self.commands.keys.is_empty() {
            true => 0,
            false => {
                let parts = 2 * (usize::from(self.commands.part_bytes) + PART_HEAD_MAX);
                Commands::BYTES + RECEIPTS_MAX * RECEIPT_MAX + parts + SEGMENT_MAX
            }
        }
    }

    /// Bytes of everything whose size this config decides.
    #[must_use]
    pub fn memory_sum(&self) -> MemorySum {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let targets = size(self.watch.max_targets);
        let history = self.history.to_engine();
        let target = Engine::target_bytes(&history) - history.bytes()
            + size_of::<Remote>()
            + NAME_BYTES
            + State::TARGET_BYTES;
        let rules = self.watch.rules.iter().map(|rule| {
            let text = |pattern: &Option<String>| pattern.as_ref().map_or(0, String::len);
            size_of_val(rule) + text(&rule.name) + text(&rule.path)
        });
        let map_slot = size_of::<SiteKey>() + size_of::<SiteCount>() + KERNEL_MAP_SLOT_BYTES;
        let attribute_sites = if self.attribute.enabled { size(self.attribute.max_sites) } else { 0 };
        let rows = vec![
            ("targets", targets.saturating_mul(target)),
            ("watch rules", rules.sum()),
            ("processes that are not watched", BYSTANDERS_BYTES),
            ("history", targets.saturating_mul(history.bytes())),
            ("census sites", Census::bytes(size(self.census.max_sites))),
            ("ages of waits", Ages::bytes(size(self.census.max_ages))),
            ("census buffers", Walker::bytes(size(self.census.chunk_bytes))),
            ("attributed sites (kernel)", attribute_sites.saturating_mul(map_slot)),
            (
                "attributed sites",
                attribute_sites.saturating_mul(size_of::<SiteKey>() + size_of::<SiteCount>()),
            ),
            ("process events (kernel)", size(EVENT_BYTES)),
            ("waits for locks (kernel)", self.contention_bytes()),
            ("threads", if self.locks.enabled { Scan::bytes(size(self.locks.max_threads)) } else { 0 }),
            ("outbox", Outbox::bytes(&self.outbox_limits())),
            ("history checkpoint", Checkpoint::bytes(targets)),
            ("commands", self.commands_bytes()),
            ("MQTT client", MQTT_CLIENT_BYTES + 2 * MESSAGE_MAX),
            ("TLS", if self.mqtt.tls.is_some() { TLS_BYTES } else { 0 }),
        ];
        let budget = size(self.memory.budget_kib).saturating_mul(1024);
        // Whoever is found is described by the means of a dump.
        let proof = size(self.prove.max_memory_kib).saturating_mul(1024).saturating_add(self.dump.bytes());
        MemorySum { rows, budget, dump: self.dump.bytes(), proof }
    }
}
