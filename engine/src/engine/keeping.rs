//! What the engine keeps on flash beside its alerts: the history of its targets.

use glg_proto::wire::Timestamp;

use super::Engine;
use crate::history::History;
use crate::history::checkpoint::{Checkpoint, Told};
use crate::spool::budget::Share;
use crate::spool::store::StoreError;
use crate::step::TargetId;
use crate::watch::{Phase, Watch};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// When the history is kept, and what is remembered of an earlier agent's.
pub(super) struct Keeping {
    checkpoint: Checkpoint,
    /// Milliseconds between two checkpoints; 0 for only at the end.
    every_ms: u64,
    due_ms: u64,
}

impl Keeping {
    pub(super) fn new(checkpoint: Checkpoint, every_ms: u64, now_ms: u64) -> Keeping {
        Keeping { checkpoint, every_ms, due_ms: now_ms.saturating_add(every_ms) }
    }
}

impl Engine {
    /// Targets that an earlier agent watched within this boot, and whose history will go on when they are found.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.keeping.checkpoint.len()
    }

    /// To be called once a tick, with the time.
    pub fn tend(&mut self, now: Timestamp) {
        self.outbox.tick(now);
        let Keeping { every_ms, due_ms, .. } = self.keeping;
        if every_ms == 0 || now.mono_ms < due_ms {
            return;
        }
        let pause_ms = match self.checkpoint(Share::Half) {
            // So that half of the budget lasts for a day of them.
            Ok(0) | Err(_) => 0,
            Ok(len) => {
                let half = u64::from(self.outbox.store().budget().limit() / 2).max(1);
                (u64::from(len) + 4 * 4096).saturating_mul(DAY_MS) / half
            }
        };
        self.keeping.due_ms = now.mono_ms.saturating_add(every_ms.max(pause_ms));
    }

    /// Writes down the history of all targets; how many bytes that were.
    ///
    /// # Errors
    /// When flash or its budget did not take it.
    pub fn checkpoint(&mut self, share: Share) -> Result<u32, StoreError> {
        if self.watches.is_empty() {
            return Ok(0);
        }
        let targets = self.watches.iter().map(|watch| (watch.id, told(watch), &watch.history));
        self.keeping.checkpoint.replace(self.outbox.store(), self.config.boot, targets, share)
    }

    /// What is remembered of a target.
    pub(super) fn recall(&mut self, now_ms: u64, id: TargetId) -> (History, Option<Told>) {
        let mut history = History::new(&self.config.history);
        let now_s = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let told = self.keeping.checkpoint.recall(self.outbox.store(), id, now_s, &mut history);
        (history, told)
    }
}

fn told(watch: &Watch) -> Option<Told> {
    match watch.phase {
        Phase::Alerted { at_ms, level } => {
            Some(Told { at_s: u32::try_from(at_ms / 1000).unwrap_or(u32::MAX), level })
        }
        Phase::Starting { told, .. } => told,
        _ => None,
    }
}
