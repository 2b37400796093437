//! How goroutines wait, as the runtime writes it down (`runtime/chan.go`, `select.go`, `sema.go`).

use glg_engine::layout::Layout;
use glg_proto::wire::Wait;

use super::roots::SEMAPHORES;
use super::world::{Kind, Ref, State, Target, World};

/// `_Grunnable`, `_Grunning`, `_Gwaiting`.
const RUNNABLE: u32 = 1;
const RUNNING: u32 = 2;
const WAITING: u32 = 4;
/// The collector looks at the stack.
const SCAN: u32 = 0x1000;
/// A reason without which it counts as a wait for oneself.
const OWN: [Wait; 3] = [Wait::Sleep, Wait::IoWait, Wait::Runtime];
/// Where on the stack a sudog is named, from its lowest word in use on.
const NAMED: u64 = 16;
/// Where the frames are that wait, from there on, and how many words of a goroutine are not of such frames.
const WAIT_FRAMES: u64 = 320;
const OWN_WORDS: usize = 7;
/// Where a `sync.Cond` keeps its list, and its semaphore's address.
const LIST: u64 = 32;

/// What for.
#[derive(Clone, Debug)]
pub enum Way {
    /// For nobody: a nil channel, or a `select` without cases.
    Nobody,
    /// For channels.
    Channels(Vec<usize>),
    /// For a lock in an object.
    Lock(Ref),
    /// For a lock at an address that is none of the heap's.
    Anywhere(u64),
    /// For a condition.
    Cond(usize),
}

/// A number of a reason among `wanted`.
fn reason(layout: &Layout, wanted: &[Wait], nth: usize) -> Option<u8> {
    let texts = layout.wait_reasons.iter().zip(layout.wait_texts).enumerate();
    let plain = |text: &str| !text.ends_with(" (durable)") && !text.ends_with(" (synctest)");
    let fits = texts.filter(|(_, (wait, text))| wanted.contains(wait) && plain(text));
    let fits: Vec<usize> = fits.map(|(i, _)| i).collect();
    fits.get(nth % fits.len().max(1)).and_then(|i| u8::try_from(*i).ok())
}

impl World {
    /// Writes what a goroutine does.
    fn tell(&mut self, who: usize, status: u32, reason: u8, waiting: u64) {
        let (l, scan) = (self.layout().g, self.random.chance(10));
        let goroutine = &self.goroutines[who];
        let at = |offset: u16| goroutine.g + u64::from(offset);
        let status = if scan { status | SCAN } else { status };
        self.heap.space.write(at(l.atomicstatus), &status.to_le_bytes());
        self.heap.space.write(at(l.waitreason), &[reason]);
        self.heap.space.word(at(l.waiting), waiting);
        self.heap.space.write(at(l.tracking_seq), &[goroutine.seq]);
        self.heap.space.word(at(l.sched_sp), goroutine.sp);
        self.heap.space.word(at(l.syscallsp), 0);
    }

    /// Lets a goroutine run, or wait for its own: one of the ways in which that can be.
    pub fn run(&mut self, who: usize) {
        let layout = self.layout();
        let (below, sp) = (self.goroutines[who].below, self.goroutines[who].sp);
        let nth = self.random.below(8);
        // Of those that run now it is not known which part of their stacks is in use.
        let whole = matches!(nth, 1..=3);
        let kind = if whole { Kind::Goroutine(who) } else { Kind::Decoy };
        self.holders[below].kind = kind;
        let asleep = |wanted: &[Wait]| reason(layout, wanted, usize::from(sp.to_le_bytes()[1]));
        match nth {
            0 => self.tell(who, RUNNABLE, 0, 0),
            1 => self.tell(who, RUNNING, 0, 0),
            2 => self.tell(who, 8, 0, 0),
            3 => self.tell(who, 3, 0, 0),
            4 => self.tell(who, 9, 0, 0),
            5 => {
                self.tell(who, 3, 0, 0);
                let at = self.goroutines[who].g + u64::from(layout.g.syscallsp);
                self.heap.space.word(at, sp);
            }
            _ => self.tell(who, WAITING, asleep(&OWN).unwrap_or(0), 0),
        }
        self.goroutines[who].state = State::Runs;
        self.goroutines[who].ran = self.now;
    }

    /// Preempts all that run, and lets them go on.
    pub fn preempt(&mut self) {
        let l = self.layout().g;
        for goroutine in &mut self.goroutines {
            let at = |offset: u16| goroutine.g + u64::from(offset);
            if self.heap.space.get(at(l.atomicstatus)) & u64::from(!SCAN) & 0xffff_ffff == RUNNING.into() {
                goroutine.seq = goroutine.seq.wrapping_add(1);
                self.heap.space.write(at(l.tracking_seq), &[goroutine.seq]);
            }
        }
    }

    /// Lets a goroutine wait.
    pub fn block(&mut self, who: usize, way: &Way) {
        let layout = self.layout();
        let (goroutine, new) = (&mut self.goroutines[who], layout.sudog.elem_vp.is_some());
        goroutine.seq = goroutine.seq.wrapping_add(1);
        goroutine.blocked = self.now;
        self.holders[self.goroutines[who].below].kind = Kind::Decoy;
        let locks = [
            Wait::MutexLock,
            Wait::RwMutexLock,
            Wait::RwMutexRLock,
            Wait::WaitGroupWait,
            if new { Wait::MutexLock } else { Wait::Semacquire },
        ];
        let nth = self.random.below(8);
        let (wanted, waiting, targets): (&[Wait], u64, Vec<Target>) = match way {
            Way::Nobody => (&[Wait::ChanReceiveNil, Wait::ChanSendNil, Wait::SelectNoCases], 0, Vec::new()),
            Way::Channels(channels) => {
                let one: &[Wait] = if channels.len() == 1 {
                    &[Wait::ChanReceive, Wait::ChanSend, Wait::Select]
                } else {
                    &[Wait::Select]
                };
                (one, self.on_channels(who, channels), channels.iter().map(|to| at_first(*to)).collect())
            }
            Way::Lock(at) => {
                let first = self.on_semaphore(who, self.address(*at), Some(*at));
                let tiny = self.holders[at.to].kind == Kind::Tiny;
                let up_to = if tiny { at.offset + 3 } else { u64::MAX };
                (&locks, first, vec![Target::Object { to: at.to, up_to }])
            }
            Way::Anywhere(at) => (&locks, self.on_semaphore(who, *at, None), vec![Target::Anybody]),
            Way::Cond(cond) => {
                let to = Ref { to: *cond, offset: 0 };
                let first = self.on_condition(who, to);
                (&[Wait::CondWait], first, vec![Target::Object { to: *cond, up_to: u64::MAX }])
            }
        };
        let reason = reason(layout, wanted, nth).unwrap_or(0);
        self.tell(who, WAITING, reason, waiting);
        self.goroutines[who].state = State::Waits(targets);
    }

    /// A word of a sudog, which the frames that wait have as well.
    fn refer(&mut self, who: usize, at: u64, to: Ref) {
        self.add(self.goroutines[who].holder, at, Some(to));
        self.frame(who, to);
    }

    /// A word of the frames that wait.
    fn frame(&mut self, who: usize, to: Ref) {
        let (holder, sp) = (self.goroutines[who].holder, self.goroutines[who].sp);
        let nth = self.holders[holder].slots.len() - OWN_WORDS;
        self.add(holder, sp + WAIT_FRAMES + 8 * nth as u64, Some(to));
    }

    fn sudog(&mut self, who: usize, queue: Option<u64>) -> u64 {
        let l = self.layout().sudog;
        let sudog = self.heap.slot(l.size.into(), true, self.now, &mut self.random);
        self.heap.space.word(sudog + u64::from(l.g), self.goroutines[who].g);
        self.goroutines[who].sudogs.push((sudog, queue));
        if let Some(queue) = queue {
            self.queues.entry(queue).or_default().push(sudog);
            self.relink(queue);
        }
        sudog
    }

    /// Writes a queue anew.
    fn relink(&mut self, queue: u64) {
        let next = u64::from(self.layout().sudog.next);
        let all = self.queues.get(&queue).cloned().unwrap_or_default();
        for (i, sudog) in all.iter().enumerate() {
            self.heap.space.word(sudog + next, all.get(i + 1).copied().unwrap_or(0));
        }
        self.heap.space.word(queue, all.first().copied().unwrap_or(0));
        self.heap.space.word(queue + 8, all.last().copied().unwrap_or(0));
    }

    fn on_channels(&mut self, who: usize, channels: &[usize]) -> u64 {
        let l = self.layout().sudog;
        let mut first = 0;
        for channel in channels {
            let sends = self.random.chance(50);
            let queue = if sends { self.layout().hchan.sendq } else { self.layout().hchan.recvq };
            let queue = self.holders[*channel].at + u64::from(queue);
            let sudog = self.sudog(who, Some(queue));
            let to = Ref { to: *channel, offset: 0 };
            self.refer(who, sudog + u64::from(l.c), to);
            if let Some(other) = l.c_vp.filter(|_| self.random.chance(50)) {
                self.heap.space.word(sudog + u64::from(other), self.address(to));
            }
            // What it sends or receives.
            let has_element = self.now == 0 && self.random.chance(40);
            if let Some(element) = has_element.then(|| self.some_ref()).flatten() {
                self.refer(who, sudog + u64::from(l.elem), element);
            }
            self.heap.space.word(sudog + u64::from(l.waitlink), first);
            first = sudog;
        }
        first
    }

    fn on_semaphore(&mut self, who: usize, at: u64, to: Option<Ref>) -> u64 {
        let l = self.layout().sudog;
        let sudog = self.sudog(who, Some(SEMAPHORES));
        match to {
            Some(to) => self.refer(who, sudog + u64::from(l.elem), to),
            None => self.heap.space.word(sudog + u64::from(l.elem), at),
        }
        if let Some(other) = l.elem_vp {
            if self.random.chance(50) {
                self.heap.space.word(sudog + u64::from(other), at);
            }
            return sudog;
        }
        self.heap.space.word(self.goroutines[who].sp + NAMED, sudog);
        0
    }

    fn on_condition(&mut self, who: usize, cond: Ref) -> u64 {
        let l = self.layout().sudog;
        let list = self.address(cond) + LIST;
        let sudog = self.sudog(who, Some(list));
        if l.elem_vp.is_some() {
            self.refer(who, sudog + u64::from(l.elem), Ref { offset: LIST, ..cond });
            return sudog;
        }
        self.frame(who, cond);
        self.heap.space.word(self.goroutines[who].sp + NAMED, sudog);
        0
    }

    /// Ends a goroutine's wait.
    pub fn unblock(&mut self, who: usize) {
        let size = u64::from(self.layout().sudog.size);
        for (sudog, queue) in std::mem::take(&mut self.goroutines[who].sudogs) {
            if let Some(queue) = queue {
                self.queues.entry(queue).or_default().retain(|known| *known != sudog);
                self.relink(queue);
            }
            self.heap.space.clear(sudog, size);
            self.heap.free(sudog);
        }
        let holder = self.goroutines[who].holder;
        for slot in self.holders[holder].slots.split_off(OWN_WORDS) {
            self.heap.space.word(slot.at, 0);
        }
        // The frames in which it waited are no more, nor is what was below.
        let (sp, below) = (self.goroutines[who].sp, self.goroutines[who].below);
        self.heap.space.word(sp + NAMED, 0);
        for nth in 0..self.holders[below].slots.len() {
            self.set(below, nth, None);
        }
        self.run(who);
    }
}

/// A channel is used by a pointer to its first byte.
fn at_first(to: usize) -> Target {
    Target::Object { to, up_to: 0 }
}
