//! What a program means by its memory: who refers to whom, and who waits for what.

use std::collections::BTreeMap;

use glg_engine::layout::Layout;

use super::heap::Heap;
use super::random::Random;

/// A pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref {
    /// Into which holder.
    pub to: usize,
    /// Which byte of it.
    pub offset: u64,
}

/// A word that may be a pointer.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Where it is; 0 for what stands nowhere as such.
    pub at: u64,
    /// What it refers to.
    pub to: Option<Ref>,
    /// When it was last written.
    pub stamp: u64,
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In use whatever happens: global variables, finalisers and the like.
    Root,
    /// A goroutine's stack, and what its `g` holds: in use while the goroutine can go on.
    Goroutine(usize),
    /// An object of the heap: in use while something in use refers to it.
    Object,
    /// A channel: only a pointer to its first byte is one.
    Channel,
    /// A block of small objects that share a place.
    Tiny,
    /// A `sync.Cond`.
    Cond,
    /// Words that look like pointers, and are none.
    Decoy,
    /// An object that was freed.
    Freed,
}

/// Something with words in it.
#[derive(Clone, Debug)]
pub struct Holder {
    /// What it is.
    pub kind: Kind,
    /// First byte and bytes, of an object.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// Its words.
    pub slots: Vec<Slot>,
}

/// Something that wakes a goroutine when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An object that is reached by a pointer which is not behind `up_to`.
    Object {
        /// The object.
        to: usize,
        /// The last offset from which it can be used.
        up_to: u64,
    },
    /// Anybody may use it.
    Anybody,
}

/// What a goroutine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Dead,
    /// It runs, or will by itself.
    Runs,
    /// It goes on only when one of these is used.
    Waits(Vec<Target>),
}

/// A goroutine.
#[derive(Clone, Debug)]
pub struct Goroutine {
    /// Its `g`.
    pub g: u64,
    /// Its number.
    pub goid: u64,
    /// Its words.
    pub holder: usize,
    /// What it does.
    pub state: State,
    /// Its stack: lowest address, end, and how much of it is in use.
    pub lo: u64,
    /// End of the stack.
    pub hi: u64,
    /// Lowest address in use.
    pub sp: u64,
    /// What is below that.
    pub below: usize,
    /// Its sudogs, and the queues that they stand in.
    pub sudogs: Vec<(u64, Option<u64>)>,
    /// `g.trackingSeq`.
    pub seq: u8,
    /// When it last began to run.
    pub ran: u64,
    /// When it last began to wait.
    pub blocked: u64,
    /// When it was created.
    pub since: u64,
}

/// A program.
pub struct World {
    /// Its memory.
    pub heap: Heap,
    /// Everything that has words.
    pub holders: Vec<Holder>,
    /// All goroutines.
    pub goroutines: Vec<Goroutine>,
    /// Sudogs that wait, by the address of the pair of words that leads to them.
    pub queues: BTreeMap<u64, Vec<u64>>,
    /// Stacks that nobody has.
    pub stacks: Vec<u64>,
    /// Steps so far.
    pub now: u64,
    /// Where the choices come from.
    pub random: Random,
}

impl World {
    /// An empty one.
    #[must_use]
    pub fn new(layout: &'static Layout, arenas: &[u64], seed: u64) -> World {
        World {
            heap: Heap::new(layout, arenas),
            holders: Vec::new(),
            goroutines: Vec::new(),
            queues: BTreeMap::new(),
            stacks: Vec::new(),
            now: 0,
            random: Random::new(seed),
        }
    }

    /// The release.
    #[must_use]
    pub fn layout(&self) -> &'static Layout {
        self.heap.layout
    }

    /// Adds something.
    pub fn hold(&mut self, kind: Kind, at: u64, len: u64, slots: impl IntoIterator<Item = u64>) -> usize {
        let stamp = self.now;
        let slots = slots.into_iter().map(|at| Slot { at, to: None, stamp }).collect();
        self.holders.push(Holder { kind, at, len, slots });
        self.holders.len() - 1
    }

    /// Adds an object.
    pub fn object(&mut self, kind: Kind, len: u64, scan: bool, slots: &[u64]) -> usize {
        let at = self.heap.slot(len, scan, self.now, &mut self.random);
        self.hold(kind, at, len, slots.iter().map(|offset| at + offset))
    }

    /// The address that a pointer is.
    #[must_use]
    pub fn address(&self, to: Ref) -> u64 {
        self.holders.get(to.to).map_or(0, |holder| holder.at + to.offset)
    }

    /// Adds a word to a holder.
    pub fn add(&mut self, holder: usize, at: u64, to: Option<Ref>) {
        let stamp = self.now;
        let Some(found) = self.holders.get_mut(holder) else { return };
        found.slots.push(Slot { at, to: None, stamp });
        let nth = found.slots.len() - 1;
        self.set(holder, nth, to);
    }

    /// Writes a word.
    pub fn set(&mut self, holder: usize, nth: usize, to: Option<Ref>) {
        let (value, now) = (to.map_or(0, |to| self.address(to)), self.now);
        let slot = self.holders.get_mut(holder).and_then(|holder| holder.slots.get_mut(nth));
        let Some(slot) = slot else { return };
        (slot.to, slot.stamp) = (to, now);
        if slot.at != 0 {
            let at = slot.at;
            self.heap.space.word(at, value);
        }
    }
}
