//! What the program `locks` says that has to be found, and what a look found, in the same words.

use std::collections::BTreeMap;

use glg_engine::locks::graph::{Cycle, Node};
use glg_engine::locks::in_go::place_in_go;
use glg_engine::locks::mutex::Owner;
use glg_engine::locks::scan::{LockLimits, Scan, Subject, Tid, Waiter};
use serde_json::Value;

use crate::common::Seen;

const LIMITS: LockLimits = LockLimits { threads: 1000, goroutines: 1000 };

/// A wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) kind: String,
    /// Where the lock is; `None` where it is no lock.
    pub(crate) lock: Option<u64>,
    pub(crate) owner: Option<u32>,
    pub(crate) owner_exited: bool,
    pub(crate) goid: Option<u64>,
}

/// A deadlock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadlock {
    pub(crate) threads: Vec<u32>,
    pub(crate) goroutines: Vec<u64>,
    pub(crate) inferred: bool,
}

/// All of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// By thread.
    pub(crate) waits: BTreeMap<u32, Wait>,
    pub(crate) deadlocks: Vec<Deadlock>,
}

impl State {
    /// As the program says.
    pub(crate) fn said(said: &Value) -> State {
        let waits = list(&said["waits"]).map(|wait| (number(&wait["tid"]), Wait::said(wait))).collect();
        let mut deadlocks: Vec<Deadlock> = list(&said["deadlocks"]).map(Deadlock::said).collect();
        deadlocks.sort();
        State { waits, deadlocks }
    }

    /// As the scan saw it.
    pub(crate) fn seen(scan: &Scan) -> State {
        let waits = scan.waiters.iter().map(|waiter| (waiter.tid.inner, Wait::seen(waiter))).collect();
        let mut deadlocks: Vec<Deadlock> =
            scan.deadlocks.iter().map(|cycle| Deadlock::seen(cycle, scan)).collect();
        deadlocks.sort();
        State { waits, deadlocks }
    }

    /// With nothing to find.
    pub(crate) fn nothing() -> State {
        State { waits: BTreeMap::new(), deadlocks: Vec::new() }
    }
}

impl Wait {
    fn said(wait: &Value) -> Wait {
        Wait {
            kind: wait["kind"].as_str().unwrap().to_owned(),
            lock: wait["lock"].as_u64().filter(|at| *at != 0),
            owner: wait["owner"].as_u64().map(|tid| tid.try_into().unwrap()),
            owner_exited: wait["owner_exited"].as_bool().unwrap(),
            goid: wait["goid"].as_u64(),
        }
    }

    fn seen(waiter: &Waiter) -> Wait {
        let kind = waiter.lock.kind.as_str().to_owned();
        let (owner, owner_exited) = match waiter.lock.owner {
            Owner::Thread(tid) => (Some(tid), false),
            // A library that takes the number out of the lock leaves none.
            Owner::Exited(tid) => (Some(tid).filter(|tid| *tid != 0), true),
            Owner::Unknown => (None, false),
        };
        let lock =
            matches!(&*kind, "mutex" | "robust mutex" | "PI mutex" | "rwlock").then_some(waiter.lock.at.0);
        Wait { kind, lock, owner, owner_exited, goid: waiter.goroutine.map(|g| g.goid) }
    }
}

impl Deadlock {
    fn said(deadlock: &Value) -> Deadlock {
        let threads = list(&deadlock["threads"]).map(number).collect();
        let goroutines = list(&deadlock["goroutines"]).map(|goid| goid.as_u64().unwrap()).collect();
        Deadlock { threads, goroutines, inferred: deadlock["inferred"].as_bool().unwrap() }.sorted()
    }

    fn seen(cycle: &Cycle, scan: &Scan) -> Deadlock {
        let mut deadlock = Deadlock { threads: Vec::new(), goroutines: Vec::new(), inferred: cycle.inferred };
        for node in &cycle.nodes {
            match node {
                Node::Goroutine(goid) => deadlock.goroutines.push(*goid),
                Node::Thread(tid) => {
                    deadlock.threads.push(*tid);
                    let waiter = scan.waiters.iter().find(|waiter| waiter.tid.inner == *tid);
                    deadlock.goroutines.extend(waiter.and_then(|w| w.goroutine).map(|g| g.goid));
                }
            }
        }
        deadlock.sorted()
    }

    fn sorted(mut self) -> Deadlock {
        self.threads.sort_unstable();
        self.goroutines.sort_unstable();
        self.goroutines.dedup();
        self
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).iter()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

/// Where a thread asked for what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The function that called into the C library.
    pub(crate) c_function: String,
    /// Function and line of the program's own Go that called C; empty and 0 on a thread of C's own.
    pub(crate) go: (String, u32),
}

/// Places of the waits, by thread, as the program says.
pub(crate) fn places_said(said: &Value) -> BTreeMap<u32, Place> {
    let place = |wait: &Value| Place {
        c_function: wait["c_function"].as_str().unwrap().to_owned(),
        go: (wait["go_function"].as_str().unwrap().to_owned(), number(&wait["go_line"])),
    };
    list(&said["waits"]).map(|wait| (number(&wait["tid"]), place(wait))).collect()
}

/// Somebody who looks at the threads of a process again and again.
pub(crate) struct Looking {
    seen: Seen,
    pub(crate) scan: Scan,
}

impl Looking {
    pub(crate) fn at(pid: u32) -> Looking {
        Looking { seen: Seen::open(pid), scan: Scan::default() }
    }

    pub(crate) fn look(&mut self) -> State {
        let process = self.seen.remote.process();
        let mut subject = Subject {
            runtime: &self.seen.runtime,
            memory: process.memory,
            image: process.image,
            threads: process.threads,
        };
        self.scan.look(&mut subject, LIMITS).unwrap();
        assert!(!self.scan.cut);
        State::seen(&self.scan)
    }

    /// The threads that wait in C when only those are asked for that Go itself says are outside of it.
    pub(crate) fn outside(&mut self) -> Vec<Tid> {
        let process = self.seen.remote.process();
        let mut subject = Subject {
            runtime: &self.seen.runtime,
            memory: process.memory,
            image: process.image,
            threads: process.threads,
        };
        let mut scan = Scan::default();
        let whose = scan.newcomer();
        scan.glance_again(&mut subject, LIMITS, whose, false, &|_| false).unwrap();
        scan.waiters.iter().map(|waiter| waiter.tid).collect()
    }

    /// Where the threads that the last look found asked for what they wait for.
    pub(crate) fn places(&mut self) -> BTreeMap<u32, Place> {
        let (mut places, runtime) = (BTreeMap::new(), &self.seen.runtime);
        for waiter in &self.scan.waiters {
            let mut process = self.seen.remote.process();
            let go = waiter.goroutine.map(|g| place_in_go(runtime, &mut process, g.g).unwrap());
            let go = go.map(|frame| (frame.function, frame.line)).unwrap_or_default();
            let c_function = process.threads.asked_by(process.memory, runtime, waiter).to_string();
            places.insert(waiter.tid.inner, Place { c_function, go });
        }
        places
    }
}
