//! What happened, for the operator's log.

use glg_proto::locks::{LockKind, LockOwner};
use glg_proto::proof::Proof;
use glg_proto::wire::{Grade, Leak};
use heapless::String;

use super::{Name, TargetId};
use crate::buildinfo::GoVersion;
use crate::governor::Spent;
use crate::memory::Error;

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// About which process.
    pub id: TargetId,
    /// Its name.
    pub name: Name,
    /// What happened.
    pub event: Event,
}

/// Goroutines of each grade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Leaked for certain.
    pub proven: u32,
    /// Stuck.
    pub stuck: u32,
}

impl Counts {
    pub(crate) fn of(proof: &Proof) -> Counts {
        Counts { proven: proof.proven, stuck: proof.stuck }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is watched.
    Watching {
        /// Its Go release.
        go: GoVersion,
        /// Its goroutines.
        goroutines: u32,
    },
    /// It is not watched.
    NotWatched(Error),
    /// It is not watched because all places are taken.
    NoPlace,
    /// A count failed; said once until one succeeds.
    CountFailed(Error),
    /// A census failed.
    CensusFailed(Error),
    /// It grows and is under observation now.
    Growing {
        /// Goroutines at the start of the window.
        from: u32,
        /// Goroutines at its end.
        to: u32,
        /// Seconds.
        window_s: u32,
    },
    /// The growth did not go on.
    NotConfirmed,
    /// The functions that goroutines are created and ended by were not found: no creations are counted.
    NotAttachable,
    /// It is observed for goroutines that can never go on.
    Proving,
    /// There is nothing to tell of an observation.
    Unproven {
        /// What it has found nevertheless.
        proof: Counts,
        /// Why nothing could be proven; empty when it could be.
        why: String<{ glg_proto::proof::REASON_MAX }>,
    },
    /// It leaks: the alert is in the outbox.
    Leaking {
        /// How sure that is.
        grade: Grade,
        /// Its goroutines at the sites that are named, or all of them where only growth is known.
        goroutines: u32,
        /// The function that creates most of them; empty when unknown.
        function: String<{ glg_proto::wire::FUNCTION_MAX }>,
        /// Line of the `go` statement.
        line: u32,
        /// Seconds for which the oldest of their waits was seen.
        oldest_s: u32,
    },
    /// Threads wait for each other: the alert is in the outbox.
    Deadlocked {
        /// How many.
        members: u16,
        /// Whether that is concluded in part.
        inferred: bool,
        /// Seconds for which it was seen.
        age_s: u32,
        /// The function of C in which the first of them waits; empty when unknown.
        function: String<{ glg_proto::locks::C_FUNCTION_MAX }>,
    },
    /// A lock is waited for very long: the alert is in the outbox.
    LockWaits {
        /// Threads that wait for it.
        waiters: u16,
        /// Who has it.
        owner: LockOwner,
        /// Seconds for which it was seen.
        waited_s: u32,
        /// The function of C in which the first of them waits; empty when unknown.
        function: String<{ glg_proto::locks::C_FUNCTION_MAX }>,
    },
    /// More and more threads do not come back from C: the alert is in the outbox.
    ThreadsStuck {
        /// Those that are away now.
        away: u32,
        /// Those that were, at the start of the window.
        baseline: u32,
        /// Seconds.
        window_s: u32,
    },
    /// Threads are met waiting for locks again and again: it is measured how long.
    Observing,
    /// A lock is waited for very much: the alert is in the outbox.
    Contended {
        /// What it is.
        kind: LockKind,
        /// How often it was waited for.
        waits: u64,
        /// How long, all waits together, in per cent of the time observed.
        percent: u64,
        /// The longest wait, in milliseconds.
        longest_ms: u64,
        /// The function of C in which somebody was met waiting; empty when unknown.
        function: String<{ glg_proto::locks::C_FUNCTION_MAX }>,
    },
    /// What was measured is nothing to tell, or was told lately.
    NotContended,
    /// Its threads cannot be looked at; said once until they can.
    ThreadsUnseen(Error),
    /// The alert could not be encoded.
    AlertTooLarge,
    /// The probes are taken off again.
    Probed {
        /// What they cost.
        spent: Spent,
        /// Whether that was too much.
        over_budget: bool,
    },
    /// A creation site could not be named.
    Unnamed(Error),
}

impl Event {
    /// About an alert.
    #[must_use]
    pub fn leaking(leak: &Leak) -> Event {
        let of_sites = leak.sites.iter().fold(0, |sum: u32, site| sum.saturating_add(site.count));
        let (function, line) =
            leak.sites.first().map(|site| (site.function.clone(), site.line)).unwrap_or_default();
        Event::Leaking {
            grade: leak.grade,
            goroutines: if leak.grade == Grade::Suspected { leak.goroutines } else { of_sites },
            function,
            line,
            oldest_s: leak.sites.iter().map(|site| site.oldest_s).max().unwrap_or(0),
        }
    }

    /// Whether the process is not to be looked at again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Event::NotWatched(error) => *error != Error::Gone,
            Event::NoPlace => true,
            _ => false,
        }
    }

    /// How much the operator should care.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            // Most processes of a system are no Go programs: nothing to tell.
            Event::NotWatched(Error::NotGo | Error::Gone) => Severity::Detail,
            Event::NotWatched(_)
            | Event::NoPlace
            | Event::CountFailed(_)
            | Event::CensusFailed(_)
            | Event::Leaking { .. }
            | Event::Deadlocked { .. }
            | Event::LockWaits { .. }
            | Event::ThreadsStuck { .. }
            | Event::Contended { .. }
            | Event::ThreadsUnseen(_)
            | Event::AlertTooLarge
            | Event::Unnamed(_) => Severity::Warning,
            Event::Watching { .. }
            | Event::Growing { .. }
            | Event::Proving
            | Event::Unproven { .. }
            | Event::Observing
            | Event::NotContended
            | Event::NotConfirmed
            | Event::NotAttachable
            | Event::Probed { .. } => Severity::Info,
        }
    }
}

/// How much the operator should care about an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something to look at.
    Warning,
    /// Worth a line.
    Info,
    /// Only when looking for something.
    Detail,
}
