//! What blocked goroutines wait for: the addresses of channels and locks, of which each ends the wait when it is
//! used.

use alloc::vec;
use alloc::vec::Vec;

use glg_proto::wire::Wait;

use super::crowd::{Crowd, Role, Seen};
use super::span::Span;
use super::spans::Spans;
use super::{Stop, held};
use crate::gather::Gather;
use crate::layout::Layout;
use crate::memory::{Addr, Error, Memory, Run, le};
use crate::runtime::Runtime;

/// Goroutines whose waits are read in one go.
const BATCH: usize = 256;
/// Bytes of a sudog at most.
const SUDOG_MAX: usize = 128;
/// Bytes of the innermost frames in which a sudog is searched for that nothing else names: those of the runtime's
/// functions that wait.
const PARK_BYTES: usize = 1024;
/// Cases of one `select` at most (`selectgo` of `runtime/select.go`), and of those of one batch.
const CASES_MAX: usize = 1 << 16;
/// Bytes of a semaphore that may be reached by a pointer to it, less one.
const SEMAPHORE: u64 = 3;

/// What wakes whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Watch {
    /// Where the object begins.
    object: u64,
    /// The highest pointer into the object that may lead to it.
    up_to: u64,
    /// Who waits: a place among all goroutines.
    who: u32,
}

/// All that is waited for in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    object: u64,
    /// Where its watches begin, and how many of them nobody was woken by yet: those with the lowest pointers.
    first: usize,
    left: usize,
}

/// Whether all that a goroutine waits for is known.
enum Named {
    Whole,
    /// There is more, which the sudog at this address names.
    Next(u64),
    /// It is not, or anybody may use it.
    Unknown,
}

/// All of it.
pub(super) struct Watches {
    /// By object and pointer.
    all: Vec<Watch>,
    objects: Vec<Watched>,
    gather: Gather,
    runs: Vec<Run>,
    stack: Vec<u8>,
}

impl Watches {
    pub(super) fn new() -> Watches {
        let gather = Gather::new(BATCH, 2 * BATCH * SUDOG_MAX);
        Watches {
            all: Vec::new(),
            objects: Vec::new(),
            gather,
            runs: Vec::with_capacity(BATCH),
            stack: vec![0; PARK_BYTES],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        held(&self.all) + held(&self.objects) + Gather::bytes(BATCH, 2 * BATCH * SUDOG_MAX)
    }

    /// Wakes who waits for the object that begins at `object` and is reached by the pointer `at`; each is woken by it
    /// once, however many such pointers there are.
    pub(super) fn woken_by(&mut self, object: u64, at: u64, wake: &mut Vec<u32>) {
        let place = self.objects.binary_search_by_key(&object, |watched| watched.object);
        let Some(watched) = place.ok().and_then(|place| self.objects.get_mut(place)) else { return };
        while let Some(last) = watched.left.checked_sub(1)
            && let Some(watch) = self.all.get(watched.first + last).filter(|watch| at <= watch.up_to)
        {
            wake.push(watch.who);
            watched.left = last;
        }
    }

    /// Wakes who waits for any object in a stretch of memory.
    pub(super) fn woken_in(&mut self, from: u64, bytes: u64, wake: &mut Vec<u32>) {
        let first = self.objects.partition_point(|watched| watched.object < from);
        let to = self.objects.partition_point(|watched| watched.object < from.saturating_add(bytes));
        for place in first..to {
            let Some(object) = self.objects.get(place).map(|watched| watched.object) else { return };
            self.woken_by(object, 0, wake);
        }
    }

    /// Finds out what all goroutines wait for. Those of which that is not known may run.
    pub(super) fn find(
        &mut self,
        runtime: &Runtime,
        memory: &mut dyn Memory,
        crowd: &mut Crowd,
        spans: &mut Spans,
    ) -> Result<(), Stop> {
        self.all.clear();
        let waiting = |(_, seen): &(usize, &Seen)| seen.role == Role::Waits;
        let who: Vec<usize> = crowd.all.iter().enumerate().filter(waiting).map(|(i, _)| i).collect();
        self.all.reserve_exact(who.len());
        for batch in who.chunks(BATCH) {
            self.find_some(runtime.layout, memory, crowd, spans, batch)?;
        }
        self.index();
        for watched in &self.objects {
            let span = spans.find(watched.object).and_then(|span| spans.get_mut(span));
            span.into_iter().for_each(|span| span.watched = true);
        }
        Ok(())
    }

    /// Finds out what some goroutines wait for. Most wait for one thing, and it is named by their first sudog; that
    /// of each case of a `select` names the next one.
    fn find_some(
        &mut self,
        layout: &Layout,
        memory: &mut dyn Memory,
        crowd: &mut Crowd,
        spans: &Spans,
        who: &[usize],
    ) -> Result<(), Stop> {
        let first = |who: &usize| (*who, crowd.all.get(*who).map_or(0, |seen| seen.waiting));
        let mut open: Vec<(usize, u64)> = who.iter().map(first).collect();
        let most = self.all.len() + CASES_MAX;
        while !open.is_empty() && self.all.len() <= most {
            self.runs.clear();
            let len = |at: u64| if at == 0 { 0 } else { usize::from(layout.sudog.size) };
            self.runs.extend(open.iter().map(|(_, at)| Run { at: Addr(*at), len: len(*at) }));
            self.gather.read(memory, &self.runs)?;
            let mut next = Vec::new();
            for (nth, (who, _)) in open.iter().enumerate() {
                let Some(seen) = crowd.all.get_mut(*who) else { continue };
                match self.wait(layout, memory, spans, seen, nth, *who)? {
                    Named::Next(sudog) => next.push((*who, sudog)),
                    Named::Whole => {}
                    // What was found of it wakes nobody who may run.
                    Named::Unknown => seen.role = Role::Open,
                }
            }
            open = next;
        }
        for (who, _) in open {
            crowd.all.get_mut(who).into_iter().for_each(|seen| seen.role = Role::Open);
        }
        Ok(())
    }

    /// Sorts the watches by object.
    fn index(&mut self) {
        self.all.sort_unstable();
        self.objects.clear();
        self.objects.reserve_exact(self.all.len());
        for (first, watch) in self.all.iter().enumerate() {
            match self.objects.last_mut().filter(|last| last.object == watch.object) {
                Some(last) => last.left += 1,
                None => self.objects.push(Watched { object: watch.object, first, left: 1 }),
            }
        }
    }

    /// Watches what one goroutine waits for, as far as its `nth` sudog names it.
    fn wait(
        &mut self,
        layout: &Layout,
        memory: &mut dyn Memory,
        spans: &Spans,
        seen: &Seen,
        nth: usize,
        who: usize,
    ) -> Result<Named, Stop> {
        let Ok(who) = u32::try_from(who) else { return Ok(Named::Unknown) };
        let l = &layout.sudog;
        let sudog = self.gather.get(nth);
        let word = |offset: u16| le::u64(sudog, offset.into());
        let known = match seen.wait {
            Wait::ChanReceiveNil | Wait::ChanSendNil | Wait::SelectNoCases => true,
            Wait::CondWait if l.elem_vp.is_none() => self.old_condition(layout, memory, spans, seen, who)?,
            Wait::ChanReceive | Wait::ChanSend | Wait::Select if seen.waiting != 0 => {
                let (g, channel, next) = (word(l.g)?, word(l.c)?, word(l.waitlink)?);
                // Nobody has a pointer into the middle of a channel.
                let known = g == seen.g.0 && self.watch(spans, channel, Some(channel), who);
                if known && next != 0 {
                    return Ok(Named::Next(next));
                }
                known
            }
            Wait::ChanReceive | Wait::ChanSend | Wait::Select => false,
            _ if l.elem_vp.is_none() => self.old_semaphore(layout, memory, spans, seen, who)?,
            _ if seen.waiting == 0 => false,
            _ => {
                let (g, at) = (word(l.g)?, word(l.elem)?);
                g == seen.g.0 && self.watch_semaphore(spans, at, who)
            }
        };
        Ok(if known { Named::Whole } else { Named::Unknown })
    }

    /// Up to Go 1.25 only the stack says which semaphore it is.
    fn old_semaphore(
        &mut self,
        layout: &Layout,
        memory: &mut dyn Memory,
        spans: &Spans,
        seen: &Seen,
        who: u32,
    ) -> Result<bool, Stop> {
        let found = self.sudogs_on_stack(layout, memory, spans, seen)?;
        let mut semaphores: Vec<u64> = found.iter().map(|(_, elem, _)| *elem).filter(|at| *at != 0).collect();
        semaphores.sort_unstable();
        semaphores.dedup();
        match semaphores.as_slice() {
            [at] => Ok(self.watch_semaphore(spans, *at, who)),
            _ => Ok(false),
        }
    }

    /// Up to Go 1.25 a condition is not named at all. What leads to it leads to the sudogs that wait for it: its
    /// own among them.
    fn old_condition(
        &mut self,
        layout: &Layout,
        memory: &mut dyn Memory,
        spans: &Spans,
        seen: &Seen,
        who: u32,
    ) -> Result<bool, Stop> {
        let mut found = self.sudogs_on_stack(layout, memory, spans, seen)?;
        // One that is not in use any more may still stand there: it is watched as well.
        found.retain(|(_, elem, channel)| (*elem, *channel) == (0, 0));
        Ok(!found.is_empty() && found.iter().all(|(at, ..)| self.watch(spans, *at, None, who)))
    }

    /// The goroutine's own sudogs that the innermost part of its stack refers to: address, element and channel.
    fn sudogs_on_stack(
        &mut self,
        layout: &Layout,
        memory: &mut dyn Memory,
        spans: &Spans,
        seen: &Seen,
    ) -> Result<Vec<(u64, u64, u64)>, Stop> {
        let l = &layout.sudog;
        let len = usize::try_from(seen.depth).unwrap_or(0).min(PARK_BYTES);
        let stack = self.stack.get_mut(..len).unwrap_or_default();
        memory.read(Addr(seen.sp), stack)?;
        let (mut found, mut record) = (Vec::<(u64, u64, u64)>::new(), [0u8; SUDOG_MAX]);
        let record = record.get_mut(..l.size.into()).ok_or(Error::Unsupported("size of runtime.sudog"))?;
        for at in stack.chunks_exact(8).flat_map(|word| le::u64(word, 0)) {
            let span = spans.find(at).and_then(|span| spans.get(span));
            let begins = |span: &Span| span.index(at).is_some_and(|index| span.object(index) == at);
            if !span.is_some_and(|span| is_sudogs(layout, span) && begins(span)) {
                continue;
            }
            memory.read(Addr(at), record)?;
            let known = found.iter().any(|(known, ..)| *known == at);
            if le::u64(record, l.g.into())? == seen.g.0 && !known {
                found.push((at, le::u64(record, l.elem.into())?, le::u64(record, l.c.into())?));
            }
        }
        Ok(found)
    }

    /// Watches the lock that a semaphore belongs to. Tiny objects share a place: a pointer behind the semaphore is to
    /// another one.
    fn watch_semaphore(&mut self, spans: &Spans, at: u64, who: u32) -> bool {
        let tiny = spans.find(at).and_then(|span| spans.get(span)).is_some_and(Span::is_tiny);
        self.watch(spans, at, tiny.then(|| at.saturating_add(SEMAPHORE)), who)
    }

    /// Watches the object that `at` is in, for pointers up to a certain one; `false` when it is in none: anybody may use
    /// a global variable.
    fn watch(&mut self, spans: &Spans, at: u64, up_to: Option<u64>, who: u32) -> bool {
        let Some(span) = spans.find(at).and_then(|span| spans.get(span)) else { return false };
        let Some(index) = span.index(at) else { return false };
        let up_to = up_to.unwrap_or(u64::MAX);
        self.all.push(Watch { object: span.object(index), up_to, who });
        true
    }
}

/// Whether the objects of a span have the size of sudogs.
pub(super) fn is_sudogs(layout: &Layout, span: &Span) -> bool {
    let size = u64::from(layout.sudog.size);
    !span.noscan && (size..size + 16).contains(&span.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches(all: &[(u64, u64, u32)]) -> Watches {
        let mut watches = Watches::new();
        watches.all = all
            .iter()
            .map(|(object, up_to, who)| Watch { object: *object, up_to: *up_to, who: *who })
            .collect();
        watches.index();
        watches
    }

    fn woken(watches: &mut Watches, object: u64, at: u64) -> Vec<u32> {
        let mut wake = Vec::new();
        watches.woken_by(object, at, &mut wake);
        wake.sort_unstable();
        wake
    }

    #[test]
    fn each_is_woken_once() {
        let mut watches = watches(&[(0x100, u64::MAX, 1), (0x200, u64::MAX, 2), (0x200, u64::MAX, 3)]);
        assert_eq!(woken(&mut watches, 0x180, 0x180), []);
        assert_eq!(woken(&mut watches, 0x200, 0x208), [2, 3]);
        assert_eq!(woken(&mut watches, 0x200, 0x200), []);
        assert_eq!(woken(&mut watches, 0x100, 0x1ff), [1]);
    }

    #[test]
    fn a_pointer_behind_a_tiny_lock_is_to_something_else() {
        // Two semaphores of one place, at 4 and at 12.
        let mut watches = watches(&[(0x100, 0x107, 1), (0x100, 0x10f, 2)]);
        assert_eq!(woken(&mut watches, 0x100, 0x108), [2]);
        assert_eq!(woken(&mut watches, 0x100, 0x108), []);
        assert_eq!(woken(&mut watches, 0x100, 0x107), [1]);
    }

    #[test]
    fn a_stretch_of_memory_wakes_all_that_wait_for_something_in_it() {
        let mut watches = watches(&[(0x100, 0x100, 1), (0x1ff0, 0x1ff0, 2), (0x2000, u64::MAX, 3)]);
        let mut wake = Vec::new();
        watches.woken_in(0x100, 0x1f00, &mut wake);
        assert_eq!(wake, [1, 2]);
    }
}
