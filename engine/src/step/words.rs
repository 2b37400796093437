//! What is told to the operator, in words.

use core::fmt;

use alloc::borrow::ToOwned;
use alloc::format;

use glg_proto::locks::LockOwner;
use glg_proto::wire::Grade;

use super::{Counts, Event, Note};

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.name, self.id.pid)?;
        match &self.event {
            Event::Watching { go, goroutines } => write!(f, "watching, Go {go}, {goroutines} goroutines"),
            Event::NotWatched(error) => write!(f, "not watched: {error}"),
            Event::NoPlace => f.write_str("not watched: watch.max_targets are watched already"),
            Event::CountFailed(error) => write!(f, "goroutines could not be counted: {error}"),
            Event::CensusFailed(error) => write!(f, "census failed: {error}"),
            Event::Growing { to, window_s: 0, .. } => {
                write!(f, "a command asks: observing its {to} goroutines")
            }
            Event::Growing { from, to, window_s } => {
                write!(f, "goroutines grow, {from} to {to} in {window_s} s: observing")
            }
            Event::NotConfirmed => f.write_str("growth did not go on: no alert"),
            Event::NotAttachable => {
                f.write_str("runtime.newproc1 and goexit0 were not found: creations are not counted")
            }
            Event::Proving => f.write_str("observing whether goroutines can never go on"),
            Event::Unproven { proof: Counts { proven: 0, stuck: 0 }, why } if why.is_empty() => {
                f.write_str("no goroutine is leaked for certain, or stuck")
            }
            Event::Unproven { proof: Counts { proven, stuck }, why } if why.is_empty() => {
                write!(f, "nothing new: {proven} goroutines are leaked for certain, {stuck} are stuck")
            }
            Event::Unproven { why, .. } => write!(f, "nothing is proven: {why}"),
            Event::Leaking { grade, goroutines, function, line, oldest_s } => {
                let grade = match grade {
                    Grade::Suspected => "suspected",
                    Grade::Stuck => "STUCK",
                    Grade::Proven => "PROVEN",
                };
                write!(
                    f,
                    "LEAK {grade}: {goroutines} goroutines, most created by {function} line {line}, seen waiting \
                     for {oldest_s} s and more"
                )
            }
            Event::Deadlocked { members, inferred, age_s, function } => {
                let how = if *inferred { " (in part concluded)" } else { "" };
                write!(f, "DEADLOCK of {members}{how}, for {age_s} s at least")?;
                in_c(f, function)
            }
            Event::LockWaits { waiters, owner, waited_s, function } => {
                let owner = match owner {
                    LockOwner::Unknown => "unknown who has it".to_owned(),
                    LockOwner::Thread(tid) => format!("thread {tid} has it"),
                    LockOwner::Exited(tid) => format!("thread {tid} has ended with it"),
                };
                write!(
                    f,
                    "LOCK WAIT: {waiters} threads wait for a lock, for {waited_s} s at least, {owner}"
                )?;
                in_c(f, function)
            }
            Event::ThreadsStuck { away, baseline, window_s } => {
                write!(f, "THREADS STUCK: {away} in C or in system calls, {baseline} {window_s} s ago")
            }
            Event::Observing => f.write_str("threads wait for locks again and again: observing for how long"),
            Event::Contended { kind, waits, percent, longest_ms, function } => {
                write!(
                    f,
                    "CONTENTION: a {} was waited for {waits} times, {percent} % of the time, {longest_ms} ms the longest",
                    kind.as_str()
                )?;
                in_c(f, function)
            }
            Event::NotContended => f.write_str("no lock is waited for so much that it has to be told"),
            Event::ThreadsUnseen(error) => write!(f, "threads cannot be looked at: {error}"),
            Event::AlertTooLarge => f.write_str("alert does not fit into a message: lost, and counted"),
            Event::Probed { spent, over_budget } => {
                let why = if *over_budget { "over budget, " } else { "" };
                let (ms, percent) = (spent.cpu_ns / 1e6, spent.percent);
                write!(
                    f,
                    "probes taken off: {why}{} hits, {ms:.1} ms of CPU, {percent:.2} % of a core",
                    spent.hits
                )
            }
            Event::Unnamed(error) => write!(f, "creation site has no name: {error}"),
        }
    }
}

fn in_c(f: &mut fmt::Formatter<'_>, function: &str) -> fmt::Result {
    if function.is_empty() { Ok(()) } else { write!(f, ", in {function}") }
}
