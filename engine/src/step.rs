//! What goes into the engine and what comes out of it: closed lists, so that there is no second path.

mod words;

use alloc::vec::Vec;
use core::ops::Range;

use glg_proto::command::{CommandId, DocumentKind, Outcome};
use glg_proto::locks::{LockKind, LockOwner};
use glg_proto::proof::Proof;
use glg_proto::wire::{Grade, Leak, Losses};
use heapless::String;

use crate::buildinfo::GoVersion;
use crate::contention::{Counted, Observation};
use crate::detector::GrowthConfig;
pub use crate::engine::ProveConfig;
use crate::footprint::Footprint;
use crate::governor::{HitCost, Spent};
use crate::history::HistoryConfig;
use crate::investigation::CreationCount;
use crate::locks::scan::Threads;
use crate::locks::watching::LockConfig;
use crate::memory::{Addr, Error, Image, Memory};
use crate::outbox::{OutboxConfig, Ticket};
use crate::probe_point::HitClass;

/// Longest effects list of one step.
const EFFECTS_MAX: usize = 8;

/// A process, distinguished from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start: u64,
}

/// How closely a target is looked at: the rungs of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Its goroutines are counted.
    Watch,
    /// It grows: there was a first census, and the second will follow.
    Census,
    /// The probes are on as well.
    Attribute,
    /// It is observed for goroutines that can never go on.
    Prove,
}

impl Rung {
    /// All, the lowest first.
    pub const ALL: [Rung; 4] = [Rung::Watch, Rung::Census, Rung::Attribute, Rung::Prove];

    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Rung::Watch => "watch",
            Rung::Census => "census",
            Rung::Attribute => "attribute",
            Rung::Prove => "prove",
        }
    }
}

/// Name of a target: base name of its executable.
pub type Name = String<24>;

/// What the engine is configured with; the agent makes it from the board config.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Name of the device.
    pub device: String<{ glg_proto::wire::DEVICE_MAX }>,
    /// First eight bytes of the boot id.
    pub boot: [u8; 8],
    /// Seconds after boot at which the agent started.
    pub epoch: u32,
    /// Targets at most.
    pub max_targets: usize,
    /// Rings per target.
    pub history: HistoryConfig,
    /// What is growth.
    pub growth: GrowthConfig,
    /// Seconds before an unchanged alert is repeated.
    pub remind_s: u32,
    /// Goroutines looked at in a census.
    pub census_goroutines: u64,
    /// Sites in a census.
    pub census_sites: usize,
    /// Goroutines of which is remembered since when they wait.
    pub census_ages: usize,
    /// Bytes fetched in one go.
    pub chunk_bytes: usize,
    /// Whether and how long to probe; `None`: never.
    pub attribute: Option<AttributeConfig>,
    /// Whether and when leaks are proven; `None`: never.
    pub prove: Option<ProveConfig>,
    /// Whether and how threads are looked at that wait in C; `None`: not at all.
    pub locks: Option<LockConfig>,
    /// Milliseconds between two checkpoints of the history; 0 for only at the end.
    pub checkpoint_ms: u64,
    /// Messages kept.
    pub outbox: OutboxConfig,
}

/// Limits of the probes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttributeConfig {
    /// Milliseconds attached.
    pub millis: u64,
    /// Per cent of one core.
    pub budget_percent: f64,
    /// Measured at start.
    pub cost: HitCost,
}

/// Both sides of a process, held open by the agent for as long as it is a target.
pub struct Process<'a> {
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its executable file.
    pub image: &'a mut dyn Image,
    /// Its threads.
    pub threads: &'a mut dyn Threads,
    /// How much memory it takes.
    pub footprint: &'a mut dyn Footprint,
}

/// What happened.
pub enum Input<'a> {
    /// A process appeared that the board wants watched.
    Found {
        /// Which.
        id: TargetId,
        /// Base name of its executable.
        name: Name,
        /// Where it began to run: `AT_ENTRY` of its auxiliary vector.
        entry: Addr,
        /// Its bytes.
        process: Process<'a>,
    },
    /// Time to look at a target.
    Sample {
        /// Which.
        id: TargetId,
        /// Its bytes.
        process: Process<'a>,
    },
    /// A process ended or runs another program now.
    Gone(TargetId),
    /// Hit counters of the creation and the exit probe.
    Hits([u64; 2]),
    /// The probes are off; this is what they counted at each creation site.
    Attributed {
        /// Of which target.
        id: TargetId,
        /// For how long.
        millis: u32,
        /// Per creation site.
        counts: &'a [CreationCount],
    },
    /// The probes could not be attached.
    NotAttached(TargetId),
    /// An observation for leaks has ended; `None` when it came to nothing.
    Proved {
        /// Of which target.
        id: TargetId,
        /// What it has shown.
        proof: Option<&'a Proof>,
    },
    /// What has been counted since the observation of locks began, and how long the longest wait in the time since
    /// the last such input was, in nanoseconds, as far as it was a long one.
    Observing(Counted, u64),
    /// The observation has ended; this is what it has shown.
    Observed {
        /// Of which target.
        id: TargetId,
        /// What was measured.
        observation: &'a mut Observation,
        /// The target's bytes.
        process: Process<'a>,
    },
    /// Locks could not be observed, or the target has ended meanwhile.
    NotObserved(TargetId),
    /// A command came, or what is said to be one.
    Command(&'a [u8]),
    /// A command has been carried out.
    CommandDone {
        /// Which.
        id: CommandId,
        /// What became of it.
        outcome: Outcome,
    },
    /// Something was lost outside of the engine.
    Lost(Losses),
    /// The link came (`true`) or went.
    Link(bool),
    /// The broker has acknowledged a message.
    Acknowledged(Ticket),
    /// The broker refuses a message.
    Refused(Ticket),
}

/// An instruction to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePoint {
    /// Offset in the executable file.
    pub offset: u64,
    /// What a hit costs.
    pub class: HitClass,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Forget a process and close what was opened for it.
    Forget(TargetId),
    /// Attach the creation and exit probes.
    Attach {
        /// To which process.
        id: TargetId,
        /// Where goroutines are created.
        create: FilePoint,
        /// Where they end.
        exit: FilePoint,
        /// Byte offset of `gopc` in `g`.
        gopc_offset: u32,
    },
    /// Take the probes off, read what they counted and report [`Input::Attributed`].
    Detach(TargetId),
    /// Observe a process for goroutines that can never go on, and report [`Input::Proved`].
    Prove {
        /// Which.
        id: TargetId,
        /// Return addresses of `go` statements that are known to have ever more goroutines.
        growing: heapless::Vec<Addr, { glg_proto::wire::SITES_MAX }>,
    },
    /// End that, and report nothing.
    EndProof(TargetId),
    /// Measure in the kernel how long threads wait in C, and report it as [`Input::Observing`].
    Observe {
        /// Of which process.
        id: TargetId,
        /// Where its Go code is: waits in it are the Go runtime's own.
        go_code: Range<u64>,
        /// Nanoseconds from which on a wait is told one by one.
        long_ns: u64,
    },
    /// End that, and report [`Input::Observed`].
    EndObservation(TargetId),
    /// Sign and send the answer to a command.
    Answer {
        /// To which.
        id: CommandId,
        /// What it says.
        outcome: Outcome,
    },
    /// Make a document and report [`Input::CommandDone`].
    Make {
        /// For which command.
        id: CommandId,
        /// Which document.
        kind: DocumentKind,
        /// Of which process.
        target: TargetId,
        /// Of so many goroutines at most; 0 for the board's own limit.
        limit: u32,
    },
    /// Make a document of these records, encrypted, and report [`Input::CommandDone`].
    MakeAudit {
        /// For which command.
        id: CommandId,
        /// As [`crate::command::audit::Audit::export`] gives them.
        bytes: Vec<u8>,
    },
    /// Send parts of a document once more and report [`Input::CommandDone`].
    SendAgain {
        /// For which command.
        id: CommandId,
        /// The command that asked for the document.
        document: CommandId,
        /// From which part on.
        from: u32,
    },
    /// Tell the operator.
    Note(Note),
}

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

/// Effects of one step.
pub type Effects = heapless::Vec<Effect, EFFECTS_MAX>;
