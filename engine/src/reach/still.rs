//! Who has stood still since the look before: only of them is it known which words of their stacks are in use. Whoever
//! moves about may hand what he has to anybody while we look, and what he has left behind is a trace of that.

use alloc::vec::Vec;

use super::Stop;
use super::crowd::{Crowd, Seen};
use crate::layout::Status;
use crate::memory::{Addr, Memory};
use crate::runtime::Runtime;
use crate::traces::{Tick, Traced, read_still};

/// Goroutines in system calls and in C that are followed; each takes a thread.
const CALLS_MAX: usize = 512;

/// A goroutine in a system call or in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) g: Addr,
    /// How it stands there, and which call that is.
    pub(super) stands: (Traced, Option<Tick>),
}

/// Who has stood still.
#[derive(Default)]
pub(super) struct Still {
    /// Of those that are parked, by their places in the crowd.
    parked: Vec<bool>,
    /// Those in calls at this look, by address, and whether they were at the look before.
    calls: Vec<(Call, bool)>,
    /// Those in calls at the look before, by address.
    before: Vec<Call>,
}

impl Still {
    pub(super) fn bytes(&self) -> usize {
        super::held(&self.parked) + super::held(&self.calls) + super::held(&self.before)
    }

    /// Looks who is in a call: the same as at the last look that was kept, or another.
    pub(super) fn look(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        crowd: &Crowd,
    ) -> Result<(), Stop> {
        self.calls.clear();
        for seen in crowd.all.iter().filter(|seen| seen.status == Status::Syscall).take(CALLS_MAX) {
            let Some(stands) = read_still(memory, runtime.layout, seen.g)? else { continue };
            // Of which it is not known which call that is, it is not known whether it is the same.
            if stands.1.is_none() {
                continue;
            }
            let call = Call { g: seen.g, stands };
            let same = self.before.binary_search_by_key(&seen.g, |call| call.g).ok();
            let same = same.and_then(|at| self.before.get(at)).is_some_and(|before| *before == call);
            self.calls.push((call, same));
        }
        Ok(())
    }

    /// The look is done, and is the one before from now on; one that is to be tried again is not.
    pub(super) fn keep(&mut self) {
        self.before.clear();
        self.before.extend(self.calls.iter().map(|(call, _)| *call));
    }

    /// Notes who of the crowd is parked as before.
    pub(super) fn note(&mut self, crowd: &Crowd, is_as_before: &dyn Fn(&Seen) -> bool) {
        self.parked.clear();
        self.parked.extend(crowd.all.iter().map(is_as_before));
    }

    /// Whether the one at this place of the crowd has been parked since the look before.
    pub(super) fn is_parked(&self, who: usize) -> bool {
        self.parked.get(who).copied().unwrap_or(false)
    }

    /// The call that a goroutine has been in since the look before.
    pub(super) fn call(&self, g: Addr) -> Option<&Call> {
        let at = self.calls.binary_search_by_key(&g, |(call, _)| call.g).ok()?;
        self.calls.get(at).filter(|(_, same)| *same).map(|(call, _)| call)
    }
}
