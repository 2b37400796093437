//! One pass over a running program: who, as far as it shows now, waits for what nobody who could run can reach.
//!
//! What moved while it was looked at counts as in use: a goroutine that ran meanwhile, memory that came into use,
//! and everything that is reachable from there.

use alloc::vec::Vec;

use super::crowd::{Crowd, Role, Seen};
use super::mark::Marker;
use super::places::Places;
use super::roots::{self, Machines};
use super::stacks::{Known, Stacks};
use super::still::Still;
use super::{Abstained, ReachLimits, Region, Stop, held};
use crate::layout::Layout;
use crate::memory::{Addr, Error, Image, Memory, Run};
use crate::runtime::Runtime;

/// Times that it is looked again who ran meanwhile.
const LOOKS: usize = 64;

/// What a pass took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Goroutines that there were.
    pub goroutines: u64,
    /// Those among them that only another one could wake.
    pub waiting: u64,
    /// Bytes of objects that were looked at.
    pub scanned: u64,
    /// Stacks that were looked at, each as often as that was done.
    pub stacks: u64,
    /// Those among them of which only the words in use were looked at.
    pub mapped: u64,
    /// Bytes of our own memory.
    pub bytes: u64,
}

/// A process to be looked at.
pub struct Subject<'a> {
    /// Its Go runtime.
    pub runtime: &'a Runtime,
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its executable file.
    pub image: &'a mut dyn Image,
    /// Where everything is.
    pub places: &'a Places,
    /// All that may be written, in which C keeps its data if there is C; `None` where that is not known.
    pub regions: Option<&'a [Region]>,
    /// Whether time is up.
    pub expired: &'a mut dyn FnMut() -> bool,
}

/// What is read of a program once time is up.
pub(super) const TIME_IS_UP: Error = Error::Unsupported("pass that takes longer");

/// Memory that cannot be read any more once time is up: so every list of the program's, however long, comes to an end.
struct Timed<'m> {
    memory: &'m mut dyn Memory,
    expired: &'m mut dyn FnMut() -> bool,
    over: bool,
}

impl Memory for Timed<'_> {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        self.over = self.over || (self.expired)();
        if self.over {
            return Err(TIME_IS_UP);
        }
        self.memory.read_runs(runs, out)
    }
}

/// All that a pass takes; made once.
pub(super) struct Pass {
    limits: ReachLimits,
    pub(super) crowd: Crowd,
    /// For later looks, which remember nothing.
    eyes: Crowd,
    /// Those at the last look who do not wait.
    live: Vec<Addr>,
    still: Still,
    marker: Marker,
    stacks: Stacks,
    machines: Machines,
    fresh: Vec<u32>,
}

impl Pass {
    pub(super) fn new(layout: &Layout, limits: ReachLimits) -> Pass {
        Pass {
            limits,
            crowd: Crowd::new(),
            eyes: Crowd::new(),
            live: Vec::new(),
            still: Still::default(),
            marker: Marker::new(layout, limits.memory_bytes),
            stacks: Stacks::new(),
            machines: Machines::default(),
            fresh: Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        let eyes = self.eyes.bytes() + held(&self.live) + self.still.bytes();
        self.crowd.bytes() + eyes + self.marker.bytes() + Stacks::BYTES
    }

    /// Looks once; afterwards [`Pass::is_unreached`] has the answer. `is_as_before` says who stands as at the look
    /// before.
    pub(super) fn run(
        &mut self,
        subject: &mut Subject<'_>,
        is_as_before: &dyn Fn(&Seen) -> bool,
    ) -> Result<Figures, Stop> {
        let Subject { runtime, memory, image, places, regions, expired } = subject;
        let mut timed = Timed { memory: *memory, expired: *expired, over: false };
        let looked = {
            let (memory, image, regions) = (&mut timed, &mut **image, *regions);
            let timed = &mut Subject { runtime, memory, image, places, regions, expired: &mut || false };
            self.look(timed, is_as_before)
        };
        if timed.over { Err(Stop::Abstained(Abstained::Time)) } else { looked }
    }

    fn look(
        &mut self,
        subject: &mut Subject<'_>,
        is_as_before: &dyn Fn(&Seen) -> bool,
    ) -> Result<Figures, Stop> {
        self.begin(subject)?;
        self.still.note(&self.crowd, is_as_before);
        self.roots(subject)?;
        self.settle(subject)?;
        self.look_again(subject)?;
        self.still.keep();
        let waiting = self.crowd.all.iter().filter(|seen| seen.waits()).count();
        Ok(Figures {
            goroutines: self.crowd.all.iter().filter(|seen| seen.role != Role::Dead).count() as u64,
            waiting: waiting as u64,
            scanned: self.marker.scanned,
            stacks: self.stacks.looked_at,
            mapped: self.stacks.mapped,
            bytes: self.bytes() as u64,
        })
    }

    /// Only looks who has run.
    pub(super) fn glance(&mut self, runtime: &Runtime, memory: &mut dyn Memory) -> Result<(), Stop> {
        self.crowd.look(runtime, memory, self.limits.goroutines)?;
        self.still.look(runtime, memory, &self.crowd)?;
        self.still.keep();
        Ok(())
    }

    /// Whether nobody can wake the goroutine at this place.
    pub(super) fn is_unreached(&self, who: usize) -> bool {
        self.marker.waits(who)
    }

    /// The heap, the goroutines, and what they wait for.
    fn begin(&mut self, subject: &mut Subject<'_>) -> Result<(), Stop> {
        let runtime = subject.runtime;
        self.marker.clear();
        self.stacks.clear();
        self.marker.spans.refresh(runtime, subject.places, subject.memory, &mut self.fresh)?;
        self.crowd.look(runtime, subject.memory, self.limits.goroutines)?;
        self.still.look(runtime, subject.memory, &self.crowd)?;
        self.marker.watches.find(runtime, subject.memory, &mut self.crowd, &mut self.marker.spans)?;
        self.marker.begin(self.crowd.all.len());
        for (who, seen) in self.crowd.all.iter().enumerate() {
            self.marker.pass_over(seen.g.0);
            self.marker.set_waits(who, seen.role == Role::Waits);
        }
        self.machines.find(runtime, subject.memory, &mut self.marker)
    }

    /// What is reachable by itself, and by those who can run.
    fn roots(&mut self, subject: &mut Subject<'_>) -> Result<(), Stop> {
        let regions = self.machines.c_memory(subject.regions)?;
        let (runtime, places) = (subject.runtime, subject.places);
        roots::scan(runtime, places, &self.machines, regions, subject.memory, &mut self.marker)?;
        let live = self.crowd.all.iter().filter(|seen| matches!(seen.role, Role::Live | Role::Open));
        let known = Known { crowd: &self.crowd, still: &self.still };
        self.stacks.scan(subject, known, live.map(|seen| seen.g), &mut self.marker)
    }

    /// Marks until nobody is woken any more; says how many were.
    fn settle(&mut self, subject: &mut Subject<'_>) -> Result<usize, Stop> {
        let mut all = 0;
        loop {
            let layout = subject.runtime.layout;
            self.marker.drain(layout, &self.crowd, subject.memory, self.limits.memory_bytes)?;
            let mut woken = core::mem::take(&mut self.marker.wake);
            woken.retain(|who| {
                let who = usize::try_from(*who).unwrap_or(usize::MAX);
                let waited = self.marker.waits(who);
                self.marker.set_waits(who, false);
                waited
            });
            if woken.is_empty() {
                self.marker.wake = woken;
                return Ok(all);
            }
            all += woken.len();
            // As they lie in memory, where one is read with the next.
            woken.sort_unstable();
            let of = |who: &u32| self.crowd.all.get(usize::try_from(*who).unwrap_or(usize::MAX));
            let gs = woken.iter().filter_map(of).map(|seen| seen.g);
            let known = Known { crowd: &self.crowd, still: &self.still };
            self.stacks.scan(subject, known, gs, &mut self.marker)?;
        }
    }

    /// Whoever ran meanwhile, and what came into use, counts as in use; until nobody who waits is woken and no stack
    /// moves any more, so that after every stack was looked at it was looked whether it had moved.
    fn look_again(&mut self, subject: &mut Subject<'_>) -> Result<(), Stop> {
        for nth in 0..LOOKS {
            let moved = self.wake_moved(subject)?;
            if nth == 0 {
                self.roots_again(subject)?;
            }
            let live = self.live.iter().copied();
            let known = Known { crowd: &self.crowd, still: &self.still };
            self.stacks.scan(subject, known, live, &mut self.marker)?;
            if self.settle(subject)? == 0 && moved == 0 && nth > 0 {
                return Ok(());
            }
        }
        Err(Stop::Abstained(Abstained::Restless))
    }

    /// Wakes those that are not as they were; notes all others that are alive, unless they have not run since their
    /// stacks were looked at, and these are where they were. The collector moves stacks that are mostly empty
    /// (`shrinkstack` of `runtime/stack.go`): what was read meanwhile may have been anything. Returns how many of them
    /// it has moved.
    fn wake_moved(&mut self, subject: &mut Subject<'_>) -> Result<usize, Stop> {
        self.live.clear();
        let (known, marker, live) = (&mut self.crowd, &mut self.marker, &mut self.live);
        let mut moved = 0;
        self.eyes.each(subject.runtime, subject.memory, self.limits.goroutines, &mut |now| {
            let who = known.place(now.g.0);
            let before = who.and_then(|who| known.all.get_mut(who)).filter(|before| now.is_as(before));
            match (who.filter(|who| marker.waits(*who)), before) {
                (Some(_), Some(_)) => {}
                (None, Some(before)) if before.sp == now.sp => {}
                (None, Some(before)) => {
                    before.sp = now.sp;
                    moved += 1;
                    live.push(now.g);
                }
                (Some(who), None) => marker.wake.push(u32::try_from(who).unwrap_or(u32::MAX)),
                (None, None) if now.role == Role::Dead => {}
                (None, None) => live.push(now.g),
            }
        })?;
        Ok(moved)
    }

    /// Begins once more with what is there now: all that was not there before, and all that is not waiting.
    fn roots_again(&mut self, subject: &mut Subject<'_>) -> Result<(), Stop> {
        let regions = subject.regions;
        let Subject { runtime, memory, places, .. } = subject;
        self.marker.spans.refresh(runtime, places, *memory, &mut self.fresh)?;
        self.machines.find(runtime, *memory, &mut self.marker)?;
        for g in &self.live {
            self.marker.pass_over(g.0);
        }
        for number in self.fresh.drain(..) {
            self.marker.visit_all(number);
        }
        let regions = self.machines.c_memory(regions)?;
        roots::scan(runtime, places, &self.machines, regions, *memory, &mut self.marker)
    }
}
