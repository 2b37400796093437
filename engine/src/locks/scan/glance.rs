//! A glance: where the threads of a process stand, and not a word of the locks. Taken at every tick, so the kernel is
//! asked as little as can be: each answer of `/proc` costs as much as reading the state of dozens of threads from memory.

use super::known::{Wait, Whose};
use super::{Figures, LockLimits, Scan, Subject, Tid, Waiter, ended};
use crate::locks::standing::{Call, FutexWait, Standing};
use crate::locks::threads;
use crate::memory::Error;

/// How often a thread was switched in that was not asked for that: one that waits was, at least once.
const NOT_ASKED: u64 = 0;

/// Who waited at the last glance.
#[derive(Clone, Copy, Default)]
struct Waits<'a> {
    /// In the order of their numbers.
    known: &'a [Wait],
    /// Whether they are in the same waits if they were not switched in.
    believed: bool,
}

impl Waits<'_> {
    fn of(&self, tid: Tid) -> Option<&Wait> {
        let at = self.known.binary_search_by_key(&tid, |wait| wait.tid).ok()?;
        self.known.get(at)
    }
}

impl Scan {
    /// Looks at where each thread stands: who waits in C, for which futex, and since when that has not changed.
    /// Nothing is known of the locks then.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Unsupported`] when the kernel does not tell where threads stand.
    pub fn glance(&mut self, subject: &mut Subject<'_>, limits: LockLimits) -> Result<(), Error> {
        self.list(subject, limits)?;
        self.ask(subject, &|_| true, Waits::default())
    }

    /// A name for a process that will be glanced at again and again.
    pub fn newcomer(&mut self) -> Whose {
        self.known.newcomer()
    }

    /// As [`Scan::glance`], but the kernel is not asked for threads of which the runtime itself says that they are
    /// neither in C nor in a system call, nor in `waited`; and of a thread that waited at the last glance it is asked
    /// first how often it was switched in: if that is the same, so is the wait. With `anew` it is asked of all threads
    /// where they stand.
    ///
    /// What the scheduler itself has called in C is overlooked without `anew`, as the creation of a thread.
    ///
    /// # Errors
    /// As [`Scan::glance`].
    pub fn glance_again(
        &mut self,
        subject: &mut Subject<'_>,
        limits: LockLimits,
        whose: Whose,
        anew: bool,
        waited: &dyn Fn(Tid) -> bool,
    ) -> Result<(), Error> {
        let known = core::mem::take(&mut self.known);
        let waits = Waits { known: known.of(whose), believed: !anew };
        let glanced = match anew {
            true => self.list(subject, limits).and_then(|()| self.ask(subject, &|_| true, waits)),
            false => self.outside(subject, limits, waited, waits),
        };
        self.known = known;
        glanced?;
        self.known.keep(whose, &self.waiters, limits.threads);
        Ok(())
    }

    fn outside(
        &mut self,
        subject: &mut Subject<'_>,
        limits: LockLimits,
        waited: &dyn Fn(Tid) -> bool,
        waits: Waits<'_>,
    ) -> Result<(), Error> {
        self.list(subject, limits)?;
        self.read_ms(subject, limits)?;
        let inside = threads::inside(subject.runtime, subject.memory, &self.ms)?;
        self.ask(subject, &|tid| waited(tid) || inside.binary_search(&tid.inner).is_err(), waits)
    }

    /// Begins anew, with the list of threads.
    fn list(&mut self, subject: &mut Subject<'_>, limits: LockLimits) -> Result<(), Error> {
        self.waiters.clear();
        self.deadlocks.clear();
        self.edges.clear();
        self.parked.clear();
        self.ms.clear();
        (self.restless, self.figures) = (0, Figures::default());
        self.cut = subject.threads.list(limits.threads, &mut self.threads)?;
        self.threads.sort_unstable();
        self.inner.clear();
        self.inner.extend(self.threads.iter().map(|tid| tid.inner));
        self.figures.threads = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Asks the kernel where threads stand.
    fn ask(
        &mut self,
        subject: &mut Subject<'_>,
        worth: &dyn Fn(Tid) -> bool,
        waits: Waits<'_>,
    ) -> Result<(), Error> {
        for i in 0..self.threads.len() {
            let Some(tid) = self.threads.get(i).copied() else { break };
            if !worth(tid) {
                continue;
            }
            let waiter = match waits.of(tid) {
                Some(wait) => self.in_c_again(subject, wait, waits.believed)?,
                None => {
                    self.in_c(subject, tid)?.map(|(call, futex)| Waiter::new(tid, call, futex, NOT_ASKED))
                }
            };
            self.waiters.extend(waiter);
        }
        self.stand_still(subject)?;
        self.figures.waiting = u32::try_from(self.waiters.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// The futex that a thread waits for outside of Go's own code.
    fn in_c(&mut self, subject: &mut Subject<'_>, tid: Tid) -> Result<Option<(Call, FutexWait)>, Error> {
        let standing = match subject.threads.standing(tid) {
            Err(Error::Gone) => return Ok(None),
            other => other?,
        };
        let Standing::Call(call) = standing else { return Ok(None) };
        let arch = subject.runtime.layout.arch;
        let in_go = subject.runtime.is_go_code(call.pc);
        self.figures.away += u32::from(!in_go || !call.is_schedulers(arch));
        Ok(call.futex(arch).filter(|_| !in_go).map(|futex| (call, futex)))
    }

    /// The same of a thread that waited before. Where it stands is asked after the count: if it ran in between, the next
    /// count tells.
    fn in_c_again(
        &mut self,
        subject: &mut Subject<'_>,
        wait: &Wait,
        believed: bool,
    ) -> Result<Option<Waiter>, Error> {
        let switches = match subject.threads.switches(wait.tid) {
            Err(Error::Gone) => return Ok(None),
            other => other?,
        };
        let found = if believed && switches == wait.switches {
            self.figures.away += 1;
            wait.call.futex(subject.runtime.layout.arch).map(|futex| (wait.call, futex))
        } else {
            self.in_c(subject, wait.tid)?
        };
        Ok(found.map(|(call, futex)| Waiter::new(wait.tid, call, futex, switches)))
    }

    /// From here on it is known of each whether it moves.
    fn stand_still(&mut self, subject: &mut Subject<'_>) -> Result<(), Error> {
        let before = self.waiters.len();
        let mut failed = Ok(());
        self.waiters.retain_mut(|waiter| {
            if waiter.switches != NOT_ASKED {
                return true;
            }
            let mut again = || {
                waiter.switches = subject.threads.switches(waiter.tid)?;
                Ok(subject.threads.standing(waiter.tid)? == Standing::Call(waiter.call))
            };
            ended(again()).unwrap_or_else(|error| {
                failed = Err(error);
                false
            })
        });
        self.count_restless(before);
        failed
    }
}
