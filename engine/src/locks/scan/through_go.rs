//! Edges through Go: who has a lock may itself have to wait for a goroutine, and that for others.

use alloc::vec::Vec;

use super::{LockLimits, PARKED_MAX, Parked, Scan, Subject, read};
use crate::layout::Status;
use crate::locks::graph::{Edge, Node};
use crate::locks::mutex::Owner;
use crate::locks::refers::{Referrers, waits_for};
use crate::locks::threads::OnThread;
use crate::memory::Error;

impl Scan {
    /// Edges through Go: an owner that waits for no lock itself may have to wait for a goroutine that is locked
    /// to it, as is one that C has called. What that waits for is followed.
    pub(super) fn through_go(&mut self, subject: &mut Subject<'_>, limits: LockLimits) -> Result<(), Error> {
        let waits = |tid: u32, scan: &Scan| scan.waiters.iter().any(|waiter| waiter.tid.inner == tid);
        for i in 0..self.waiters.len() {
            let Some(Owner::Thread(owner)) = self.waiters.get(i).map(|w| w.lock.owner) else { continue };
            let m = self.ms.iter().find(|m| m.tid == owner).copied();
            let Some(locked) = m.and_then(|m| m.lockedg) else { continue };
            if waits(owner, self) {
                continue;
            }
            if let Some(goroutine) = read(subject, locked)?.filter(|g| g.status == Status::Waiting) {
                self.park(Node::Thread(owner), goroutine, Some(owner), false);
            }
        }
        let mut next = 0;
        while let Some(parked) = self.parked.get(next).cloned() {
            self.follow(subject, limits, next, &parked)?;
            next += 1;
        }
        Ok(())
    }

    /// Takes in a parked goroutine that `from` waits for; one beyond the bound is no start of an edge, so that
    /// nothing is concluded from it.
    fn park(&mut self, from: Node, goroutine: OnThread, tid: Option<u32>, inferred: bool) {
        self.edges.push(Edge { from, to: Node::Goroutine(goroutine.goid), inferred });
        let known = self.parked.iter().any(|parked| parked.goroutine.g == goroutine.g);
        if !known && self.parked.len() < PARKED_MAX {
            self.parked.push(Parked { goroutine, tid, object: None });
        }
    }

    /// Edges from a parked goroutine to those that could end its wait.
    fn follow(
        &mut self,
        subject: &mut Subject<'_>,
        limits: LockLimits,
        index: usize,
        parked: &Parked,
    ) -> Result<(), Error> {
        let from = Node::Goroutine(parked.goroutine.goid);
        let objects = waits_for(subject.runtime, subject.memory, &parked.goroutine)?;
        let mut found: Vec<OnThread> = Vec::new();
        for object in &objects {
            let (except, max) = (parked.goroutine.g, limits.goroutines);
            let mut visit = |g: &OnThread| {
                if found.len() <= PARKED_MAX && !found.iter().any(|known| known.g == g.g) {
                    found.push(*g);
                }
            };
            let searched = Referrers::new(subject.runtime, subject.memory, subject.image, *object).and_then(
                |mut referrers| referrers.find(subject.memory, subject.image, except, max, &mut visit),
            );
            let all = match searched {
                Err(Error::Gone) => return Err(Error::Gone),
                // Without the tables nothing can be concluded.
                other => other.unwrap_or(false),
            };
            // Someone unknown could end it, too.
            if !all || found.len() > PARKED_MAX {
                return Ok(());
            }
        }
        if let Some(known) = self.parked.get_mut(index) {
            known.object = objects.first().copied();
        }
        for goroutine in found {
            let on = self.waiters.iter().find(|waiter| waiter.goroutine.is_some_and(|g| g.g == goroutine.g));
            match on.map(|waiter| Node::Thread(waiter.tid.inner)) {
                Some(to) => self.edges.push(Edge { from, to, inferred: true }),
                None if goroutine.status == Status::Waiting => {
                    let tid = self.ms.iter().find(|m| m.lockedg == Some(goroutine.g)).map(|m| m.tid);
                    self.park(from, goroutine, tid, true);
                }
                // It can go on: so can the other one.
                None => {
                    let to = Node::Goroutine(goroutine.goid);
                    self.edges.push(Edge { from, to, inferred: true });
                }
            }
        }
        Ok(())
    }
}
