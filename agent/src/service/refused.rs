//! Processes that were looked at and are not watched: looked at once, named once.

use std::collections::VecDeque;

use crate::remote::Identity;

/// Refused processes that are remembered; of more, the oldest are looked at again.
const REMEMBERED: usize = 512;

/// Remembers refused processes.
pub(super) struct Refused(VecDeque<Identity>);

impl Refused {
    /// Bytes that it takes.
    pub(super) const BYTES: usize = REMEMBERED * size_of::<Identity>();

    pub(super) fn new() -> Refused {
        Refused(VecDeque::with_capacity(REMEMBERED))
    }

    pub(super) fn contains(&self, who: Identity) -> bool {
        self.0.contains(&who)
    }

    pub(super) fn add(&mut self, who: Identity) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(who);
    }

    /// It ended, or runs another program now.
    pub(super) fn forget(&mut self, pid: u32) {
        self.0.retain(|who| who.id.pid != pid);
    }

    /// A place is free again: who was refused for want of one may have it.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }
}
