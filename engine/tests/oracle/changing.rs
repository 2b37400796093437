//! What the program does while it is looked at: random, but nothing that a Go program could not do. Whoever runs
//! reads and writes only what it can reach, and wakes only who waits for that.

use std::collections::BTreeSet;

use glg_engine::memory::{Error, Memory, Run};

use crate::made::generate::{GOROUTINES_MAX, Made};
use crate::made::machines::ALLP;
use crate::made::roots::{MASKS, VARIABLES};
use crate::made::waits::Way;
use crate::made::world::{Kind, Ref, State, Target, World};
use crate::oracle;

/// How fast a program goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Reads after which it does something.
    pub(crate) every: u64,
    /// Steps that it takes then.
    pub(crate) steps: u64,
    /// Whether references are only moved, never copied: of most there is but one then, and it is never at rest.
    pub(crate) moves: bool,
}

/// A program whose memory is read.
pub(crate) struct Living<'w> {
    world: &'w mut World,
    pace: Pace,
    reads: u64,
    arenas: u64,
    /// What time it was when the list of arenas and the processors were read.
    spans_read: Vec<u64>,
    processors_read: Vec<u64>,
}

impl<'w> Living<'w> {
    pub(crate) fn new(made: &'w mut Made, pace: Pace) -> Living<'w> {
        let (_, arenas) = made.world.heap.places();
        let (spans_read, processors_read) = (Vec::new(), Vec::new());
        Living { world: &mut made.world, pace, reads: 0, arenas, spans_read, processors_read }
    }

    /// Of the last pass: when it had found out who waits for what, and when it began once more.
    pub(crate) fn window(&self) -> Option<(u64, u64)> {
        let first = self.processors_read.len().checked_sub(2)?;
        Some((*self.processors_read.get(first)?, *self.spans_read.last()?))
    }
}

impl Memory for Living<'_> {
    fn read_runs(&mut self, runs: &[Run], out: &mut [u8]) -> Result<(), Error> {
        self.reads += 1;
        if self.reads.is_multiple_of(self.pace.every) {
            (0..self.pace.steps).for_each(|_| step(self.world, self.pace.moves));
        }
        if let [run] = runs {
            if run.at.0 == self.arenas {
                self.spans_read.push(self.world.now);
            } else if run.at.0 == ALLP {
                self.processors_read.push(self.world.now);
            }
        }
        self.world.heap.space.read_runs(runs, out)
    }
}

/// Forgets what lies on stacks below what is in use, of those who will run.
pub(crate) fn tidy(world: &mut World) {
    for who in 0..world.goroutines.len() {
        if world.goroutines[who].state == State::Runs {
            let below = world.goroutines[who].below;
            (0..world.holders[below].slots.len()).for_each(|nth| world.set(below, nth, None));
        }
    }
}

/// A word that somebody can read and write: of whom, which one, and what it refers to.
type Word = (usize, usize, Option<Ref>);

/// All words that a goroutine can reach.
fn words(world: &World, who: usize) -> Vec<Word> {
    let mut open: Vec<usize> = vec![world.goroutines[who].holder];
    let is_global = |at: u64| (VARIABLES..MASKS).contains(&at);
    for (nth, holder) in world.holders.iter().enumerate() {
        if holder.kind == Kind::Root && holder.slots.first().is_some_and(|slot| is_global(slot.at)) {
            open.push(nth);
        }
    }
    let (mut seen, mut all) = (open.iter().copied().collect::<BTreeSet<usize>>(), Vec::new());
    while let Some(holder) = open.pop() {
        for (nth, slot) in world.holders[holder].slots.iter().enumerate() {
            all.push((holder, nth, slot.to));
            if let Some(to) = slot.to.filter(|to| seen.insert(to.to)) {
                open.push(to.to);
            }
        }
    }
    all
}

/// One step of somebody who runs.
pub(crate) fn step(world: &mut World, moves: bool) {
    world.now += 1;
    let all = world.goroutines.iter().enumerate();
    let running: Vec<usize> = all.filter(|(_, g)| g.state == State::Runs).map(|(who, _)| who).collect();
    let Some(who) = world.random.pick(&running) else { return };
    let words = words(world, who);
    let full: Vec<Word> = words.iter().copied().filter(|word| word.2.is_some()).collect();
    let own = world.goroutines[who].holder;
    // What somebody waits for is moved most: that is what could go wrong.
    let waited = |word: &&Word| word.2.is_some_and(|at| is_waited_for(world, at.to));
    let choice: Vec<Word> = full.iter().filter(waited).copied().collect();
    let word = if world.random.chance(60) { world.random.pick(&choice) } else { world.random.pick(&full) };
    let what = world.random.below(25);
    match (if moves && what < 7 { 7 } else { what }, word, world.random.pick(&words)) {
        (0..=3, Some((.., to)), _) => {
            let nth = world.random.below(7);
            world.set(own, nth, to);
        }
        (4..=6, Some((.., to)), Some((holder, nth, _))) => world.set(holder, nth, to),
        // A reference that moves: at no time there is none.
        (7..=10, Some((holder, nth, to)), Some((other, place, _))) if (holder, nth) != (other, place) => {
            world.set(other, place, to);
            world.set(holder, nth, None);
        }
        (11, Some((holder, nth, _)), _) => world.set(holder, nth, None),
        (12, ..) => allocate(world, own),
        (13, Some(word), _) => wrap(world, word),
        (14, ..) => start(world, &full),
        (15 | 16, ..) if who != 0 => block(world, who, &full),
        (17..=20, ..) => wake(world, &full),
        (21, ..) if who != 0 && running.len() > 2 => exit(world, who),
        (22, ..) => collect(world),
        (23, ..) => move_stack(world),
        _ => {
            // It goes on running, or comes to wait for its own.
            let ran = world.goroutines[who].ran;
            world.run(who);
            world.goroutines[who].ran = ran;
        }
    }
}

fn is_waited_for(world: &World, object: usize) -> bool {
    let is = |target: &Target| matches!(target, Target::Object { to, .. } if *to == object);
    let waits = |state: &State| matches!(state, State::Waits(targets) if targets.iter().any(is));
    world.goroutines.iter().any(|goroutine| waits(&goroutine.state))
}

fn allocate(world: &mut World, own: usize) {
    if !world.heap.has_room() {
        return;
    }
    let made = match world.random.below(4) {
        0 => world.channel(),
        1 => world.object(Kind::Tiny, 16, false, &[]),
        2 => world.plain(2000),
        _ => world.plain(48),
    };
    let nth = world.random.below(7);
    world.set(own, nth, Some(Ref { to: made, offset: 0 }));
}

/// Puts a new object between a reference and what it is to; more often than not in a new span.
fn wrap(world: &mut World, (holder, nth, to): Word) {
    const SIZES: [u64; 8] = [200, 300, 500, 760, 1100, 1700, 2600, 3100];
    if world.heap.has_room() {
        let size = world.random.pick(&SIZES).unwrap_or(8);
        let made = world.object(Kind::Object, size, true, &[0]);
        world.set(made, 0, to);
        world.set(holder, nth, Some(Ref { to: made, offset: 0 }));
    }
}

/// A `go` statement: the new goroutine has something of the old one's.
fn start(world: &mut World, full: &[Word]) {
    let given: Vec<Option<Ref>> = (0..2).map(|_| world.random.pick(full).and_then(|word| word.2)).collect();
    let dead = world.goroutines.iter().position(|goroutine| goroutine.state == State::Dead);
    let next = world.goroutines.iter().map(|goroutine| goroutine.goid).max().unwrap_or(0) + 1;
    let who = match dead {
        Some(who) => who,
        None if world.heap.has_room() && world.goroutines.len() < GOROUTINES_MAX => world.goroutine(false),
        None => return,
    };
    let (holder, below, g) =
        (world.goroutines[who].holder, world.goroutines[who].below, world.goroutines[who].g);
    for nth in 0..world.holders[holder].slots.len() {
        world.set(holder, nth, given.get(nth).copied().flatten());
    }
    (0..world.holders[below].slots.len()).for_each(|nth| world.set(below, nth, None));
    world.holders[holder].kind = Kind::Goroutine(who);
    world.goroutines[who].goid = next;
    world.goroutines[who].since = world.now;
    world.heap.space.word(g + u64::from(world.layout().g.goid), next);
    world.run(who);
}

fn block(world: &mut World, who: usize, full: &[Word]) {
    let Some(to) = world.random.pick(full).and_then(|word| word.2) else { return };
    if !world.heap.has_room() {
        return;
    }
    let way = match world.holders[to.to].kind {
        Kind::Channel => {
            let is_channel = |word: &Word| word.2.filter(|to| world.holders[to.to].kind == Kind::Channel);
            let all: Vec<usize> = full.iter().filter_map(is_channel).map(|to| to.to).collect();
            let cases = 1 + world.random.below(3);
            Way::Channels((0..cases).filter_map(|_| world.random.pick(&all)).collect())
        }
        Kind::Cond => Way::Cond(to.to),
        Kind::Tiny => Way::Lock(Ref { to: to.to, offset: to.offset.next_multiple_of(4).min(12) }),
        _ if world.random.chance(5) => Way::Nobody,
        _ => Way::Lock(Ref { to: to.to, offset: to.offset & !3 }),
    };
    world.block(who, &way);
}

/// Wakes somebody who waits for something that is at hand.
fn wake(world: &mut World, full: &[Word]) {
    let at_hand = |target: &Target| match target {
        Target::Anybody => true,
        Target::Object { to, up_to } => {
            full.iter().filter_map(|word| word.2).any(|at| at.to == *to && at.offset <= *up_to)
        }
    };
    let wakes = |state: &State| matches!(state, State::Waits(targets) if targets.iter().any(at_hand));
    let all = world.goroutines.iter().enumerate();
    let sleepers: Vec<usize> = all.filter(|(_, g)| wakes(&g.state)).map(|(who, _)| who).collect();
    if let Some(who) = world.random.pick(&sleepers) {
        world.unblock(who);
    }
}

fn exit(world: &mut World, who: usize) {
    let goroutine = &mut world.goroutines[who];
    goroutine.state = State::Dead;
    goroutine.seq = goroutine.seq.wrapping_add(1);
    let (g, holder, below) = (goroutine.g, goroutine.holder, goroutine.below);
    world.holders[holder].kind = Kind::Decoy;
    world.holders[below].kind = Kind::Decoy;
    let status = g + u64::from(world.layout().g.atomicstatus);
    world.heap.space.write(status, &6u32.to_le_bytes());
}

/// The collector moves the stack of somebody who is parked (`shrinkstack` of `runtime/stack.go`): where it was there is
/// nothing any more. Not of who waits for a lock: which one is known from his stack, and not at all while it moves.
fn move_stack(world: &mut World) {
    let l = world.layout().g;
    let parked = |world: &World, who: &usize| {
        let status = world.heap.space.get(world.goroutines[*who].g + u64::from(l.atomicstatus));
        let for_lock = matches!(&world.goroutines[*who].state, State::Waits(_))
            && world.heap.space.get(world.goroutines[*who].g + u64::from(l.waiting)) == 0;
        status & 0xfff == 4 && !for_lock
    };
    let all: Vec<usize> = (0..world.goroutines.len()).filter(|who| parked(world, who)).collect();
    let Some(who) = world.random.pick(&all).filter(|_| world.heap.has_room()) else { return };
    let to = world.stack();
    let goroutine = &mut world.goroutines[who];
    let (from, up_to, by) = (goroutine.lo, goroutine.hi, to.wrapping_sub(goroutine.lo));
    for place in [&mut goroutine.lo, &mut goroutine.hi, &mut goroutine.sp] {
        *place = place.wrapping_add(by);
    }
    let words = [(l.stack_lo, goroutine.lo), (l.stack_hi, goroutine.hi), (l.sched_sp, goroutine.sp)];
    let (g, holders) = (goroutine.g, [goroutine.holder, goroutine.below]);
    words.into_iter().for_each(|(offset, word)| world.heap.space.word(g + u64::from(offset), word));
    for at in (from..up_to).step_by(8) {
        let word = world.heap.space.get(at);
        world.heap.space.word(at.wrapping_add(by), word);
    }
    for holder in holders {
        for slot in &mut world.holders[holder].slots {
            if (from..up_to).contains(&slot.at) {
                slot.at = slot.at.wrapping_add(by);
            }
        }
    }
    world.heap.space.clear(from, up_to - from);
}

/// The collector: frees what no goroutine can reach, whether it can go on or not, and gives empty spans back.
fn collect(world: &mut World) {
    let kept = oracle::ask(world, &|goroutine| goroutine.state != State::Dead, &|_, _| true).reached;
    for (nth, reached) in kept.into_iter().enumerate() {
        let holder = &mut world.holders[nth];
        let object = matches!(holder.kind, Kind::Object | Kind::Channel | Kind::Tiny | Kind::Cond);
        if object && reached.is_none() {
            (holder.kind, holder.slots) = (Kind::Freed, Vec::new());
            world.heap.free(holder.at);
        }
    }
    let specials = u64::from(world.layout().mspan.specials);
    for number in 0..world.heap.spans.len() {
        let span = &world.heap.spans[number];
        let empty = span.alive && !span.manual && !span.used.contains(&true);
        if empty && world.heap.space.get(span.record + specials) == 0 {
            world.heap.release(number);
        }
    }
}
