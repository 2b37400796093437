//! Waits as they were when they were last seen, of all targets together: what is remembered need not be asked again.

use alloc::vec::Vec;

use super::{Tid, Waiter};
use crate::locks::standing::Call;

/// More glances than there can be targets: one of whom nothing was heard in so many is gone.
const GLANCES_MAX: u32 = 256;

/// Whose waits they are: each process that is glanced at again and again has one of its own. A thread's number is not
/// enough, because one that has ended gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose(u32);

/// A wait in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    whose: Whose,
    /// The glance in which it was last seen.
    glance: u32,
    pub(super) tid: Tid,
    pub(super) switches: u64,
    pub(super) call: Call,
}

/// All that is remembered; the waits of one process stand together, in the order of the threads' numbers.
#[derive(Debug, Default)]
pub(super) struct Known {
    waits: Vec<Wait>,
    glances: u32,
    last: u32,
}

impl Known {
    /// A name for a process that was not glanced at before.
    pub(super) fn newcomer(&mut self) -> Whose {
        self.last = self.last.wrapping_add(1);
        Whose(self.last)
    }

    /// The waits of a process, in the order of its threads' numbers.
    pub(super) fn of(&self, whose: Whose) -> &[Wait] {
        let mut all = self.waits.chunk_by(|a, b| a.whose == b.whose);
        all.find(|waits| waits.first().is_some_and(|wait| wait.whose == whose)).unwrap_or_default()
    }

    /// Remembers who waits now, and forgets all else of this process: whoever was missed once is asked anew. What
    /// finds no room is asked anew as well.
    pub(super) fn keep(&mut self, whose: Whose, waiters: &[Waiter], max: usize) {
        self.glances = self.glances.wrapping_add(1);
        let glance = self.glances;
        self.waits.retain(|wait| wait.whose != whose && glance.wrapping_sub(wait.glance) < GLANCES_MAX);
        let room = max.saturating_sub(self.waits.len());
        let waits = waiters.iter().map(|waiter| {
            let Waiter { tid, switches, call, .. } = *waiter;
            Wait { whose, glance, tid, switches, call }
        });
        self.waits.extend(waits.take(room));
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::layout::Arch;
    use crate::memory::Addr;

    fn waiter(number: u32) -> Waiter {
        let call = Call { number: 202, args: [0x1000, 0x80, 2, 0, 0, 0], sp: Addr(1), pc: Addr(2) };
        let futex = call.futex(Arch::Amd64).unwrap();
        Waiter::new(Tid { inner: number, outer: number }, call, futex, 7)
    }

    fn numbers(known: &Known, whose: Whose) -> Vec<u32> {
        known.of(whose).iter().map(|wait| wait.tid.inner).collect()
    }

    #[test]
    fn each_process_has_its_own() {
        let mut known = Known::default();
        let (one, other) = (known.newcomer(), known.newcomer());
        known.keep(one, &[waiter(1), waiter(2)], 10);
        known.keep(other, &[waiter(2), waiter(3)], 10);
        assert_eq!((numbers(&known, one), numbers(&known, other)), (vec![1, 2], vec![2, 3]));
        known.keep(one, &[waiter(2)], 10);
        assert_eq!((numbers(&known, one), numbers(&known, other)), (vec![2], vec![2, 3]));
    }

    #[test]
    fn room_is_bounded_and_comes_back_from_who_is_gone() {
        let mut known = Known::default();
        let (gone, one) = (known.newcomer(), known.newcomer());
        known.keep(gone, &[waiter(1), waiter(2)], 3);
        let waiters = [waiter(3), waiter(4), waiter(5)];
        known.keep(one, &waiters, 3);
        assert_eq!((numbers(&known, gone), numbers(&known, one)), (vec![1, 2], vec![3]));
        for _ in 0..GLANCES_MAX {
            known.keep(one, &waiters, 3);
        }
        assert_eq!((numbers(&known, gone), numbers(&known, one)), (vec![], vec![3, 4, 5]));
    }
}
