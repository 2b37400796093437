//! What the engine does about threads that wait in C: a glance at each tick, a look on suspicion, an alert when
//! the suspicion holds.

use glg_proto::locks::{Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::{Body, Timestamp, head};

use super::Engine;
use crate::history::Waits;
use crate::locks::graph::{Cycle, Node};
use crate::locks::in_go::place_in_go;
use crate::locks::mutex::Owner;
use crate::locks::scan::{Scan, Subject, Waiter};
use crate::locks::threads::OnThread;
use crate::locks::watching::{Finding, LockConfig, Ticked};
use crate::memory::Error;
use crate::step::{Effect, Effects, Event, Note, Process, TargetId};
use crate::watch::{Watch, act};

impl Engine {
    /// Glances at the threads of a target, and raises an alert when there is something to tell. Answers what its
    /// history takes of it.
    pub(super) fn threads(
        &mut self,
        now: Timestamp,
        id: TargetId,
        process: &mut Process<'_>,
        effects: &mut Effects,
    ) -> Waits {
        let Some(config) = self.config.locks else { return Waits::default() };
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else {
            return Waits::default();
        };
        let seen = glance(watch, &mut self.scan, now.mono_ms, process, &config);
        let (ticked, finding) = match seen {
            Ok(seen) => seen,
            // That it has ended is said by the next count.
            Err(Error::Gone) => return Waits::default(),
            Err(error) => {
                if !core::mem::replace(&mut watch.threads_unseen, true) {
                    watch.say(effects, Event::ThreadsUnseen(error));
                }
                return Waits::default();
            }
        };
        watch.threads_unseen = false;
        let narrow = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        let waits = Waits {
            threads: narrow(ticked.figures.waiting.into()),
            longest_s: narrow(ticked.oldest_ms / 1000),
        };
        if let Some(finding) = finding {
            let (event, body) = told(watch, &self.scan, &config, process, ticked, finding);
            watch.say(effects, event);
            self.figures.alerts += 1;
            let note = Note { id, name: watch.name.clone(), event: Event::AlertTooLarge };
            let envelope = self.envelope(now, body);
            if self.outbox.push(envelope).is_err() {
                act(effects, Effect::Note(note));
            }
        }
        self.contention(now.mono_ms, id, process, effects);
        waits
    }
}

fn glance(
    watch: &mut Watch,
    scan: &mut Scan,
    now_ms: u64,
    process: &mut Process<'_>,
    config: &LockConfig,
) -> Result<(Ticked, Option<Finding>), Error> {
    let Process { memory, image, threads, .. } = process;
    let mut subject = Subject { runtime: &watch.runtime, memory: *memory, image: *image, threads: *threads };
    let ticked = watch.locks.tick(now_ms, scan, &mut subject, config)?;
    let finding = watch.locks.finding(now_ms, ticked, scan, &mut subject, config)?;
    Ok((ticked, finding))
}

/// A finding in words: for the log, and for the wire.
fn told(
    watch: &Watch,
    scan: &Scan,
    config: &LockConfig,
    process: &mut Process<'_>,
    ticked: Ticked,
    finding: Finding,
) -> (Event, Body) {
    let target = watch.describe();
    let seconds = |ms: u64| u32::try_from(ms / 1000).unwrap_or(u32::MAX);
    match finding {
        Finding::Deadlock { cycle, age_ms } => {
            let Cycle { mut nodes, inferred } = cycle;
            // A thread that waits for the goroutine locked to it is one with it.
            let all = nodes.clone();
            nodes.retain(|node| {
                let Node::Thread(tid) = node else { return true };
                let locked = scan.parked.iter().filter(|parked| parked.tid == Some(*tid));
                !locked.map(|parked| Node::Goroutine(parked.goroutine.goid)).any(|g| all.contains(&g))
            });
            let total = u16::try_from(nodes.len()).unwrap_or(u16::MAX);
            let members = nodes.iter().take(glg_proto::locks::MEMBERS_MAX);
            let members: heapless::Vec<Stuck, { glg_proto::locks::MEMBERS_MAX }> =
                members.map(|node| member(watch, scan, process, *node)).collect();
            let function = members.first().map(|m| m.c_function.clone()).unwrap_or_default();
            let event = Event::Deadlocked { members: total, inferred, age_s: seconds(age_ms), function };
            (event, Body::Deadlock(Deadlock { target, age_s: seconds(age_ms), inferred, total, members }))
        }
        Finding::Wait { waiter, waiters, age_ms } => {
            let owner = match waiter.lock.owner {
                Owner::Thread(tid) => LockOwner::Thread(tid),
                Owner::Exited(tid) => LockOwner::Exited(tid),
                Owner::Unknown => LockOwner::Unknown,
            };
            let waited_s = seconds(age_ms);
            let waiter = stuck(watch, process, &waiter);
            let event = Event::LockWaits { waiters, owner, waited_s, function: waiter.c_function.clone() };
            (event, Body::LockWait(LockWait { target, waited_s, waiters, owner, waiter }))
        }
        Finding::Threads { away, baseline } => {
            let known = |tid: u32| scan.ms.iter().any(|m| m.tid == tid);
            let foreign = scan.threads.iter().filter(|tid| !known(tid.inner)).count();
            // With cgo the runtime keeps an `m` in reserve, with a goroutine locked to it and without a thread.
            let pinned = scan.ms.iter().filter(|m| m.lockedg.is_some() && m.tid != 0).count();
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let (threads, window_s) = (ticked.figures.threads, config.threads.window_s);
            let body = StuckThreads {
                target,
                threads,
                away,
                baseline,
                window_s,
                pinned: narrow(pinned),
                foreign: if scan.ms.is_empty() { 0 } else { narrow(foreign) },
            };
            (Event::ThreadsStuck { away, baseline, window_s }, Body::StuckThreads(body))
        }
    }
}

fn member(watch: &Watch, scan: &Scan, process: &mut Process<'_>, node: Node) -> Stuck {
    let of_thread = |tid: u32| scan.waiters.iter().find(|waiter| waiter.tid.inner == tid);
    match node {
        Node::Thread(tid) => match of_thread(tid) {
            Some(waiter) => stuck(watch, process, waiter),
            // It waits for the goroutine that is locked to it.
            None => {
                let parked = scan.parked.iter().find(|parked| parked.tid == Some(tid));
                in_go(watch, process, tid, parked.map(|parked| &parked.goroutine), 0)
            }
        },
        Node::Goroutine(goid) => {
            let parked = scan.parked.iter().find(|parked| parked.goroutine.goid == goid);
            let lock = parked.and_then(|parked| parked.object).map_or(0, |object| object.at().0);
            let tid = parked.and_then(|parked| parked.tid).unwrap_or(0);
            let said = in_go(watch, process, tid, parked.map(|parked| &parked.goroutine), lock);
            Stuck { goid, ..said }
        }
    }
}

/// Someone who waits in Go.
pub(super) fn in_go(
    watch: &Watch,
    process: &mut Process<'_>,
    tid: u32,
    g: Option<&OnThread>,
    lock: u64,
) -> Stuck {
    let place = g.and_then(|g| place_in_go(&watch.runtime, process, g.g).ok()).unwrap_or_default();
    Stuck {
        tid,
        goid: g.map_or(0, |g| g.goid),
        kind: LockKind::Go,
        lock,
        c_function: heapless::String::new(),
        go_function: head(&place.function),
        line: place.line,
    }
}

/// A thread that waits in C, and the Go that called it.
fn stuck(watch: &Watch, process: &mut Process<'_>, waiter: &Waiter) -> Stuck {
    let c_function = process.threads.asked_by(process.memory, &watch.runtime, waiter);
    let said = in_go(watch, process, waiter.tid.inner, waiter.goroutine.as_ref(), waiter.lock.at.0);
    Stuck { kind: waiter.lock.kind, c_function, ..said }
}
