//! What goes into the engine and what comes out of it: closed lists, so that there is no second path.

mod event;
mod words;

use alloc::vec::Vec;
use core::ops::Range;

use glg_proto::command::{CommandId, DocumentKind, Outcome};
use glg_proto::proof::Proof;
use glg_proto::wire::Losses;
use heapless::String;

use crate::contention::{Counted, Observation};
use crate::detector::GrowthConfig;
pub use crate::engine::ProveConfig;
use crate::footprint::Footprint;
use crate::governor::HitCost;
use crate::history::HistoryConfig;
use crate::investigation::CreationCount;
use crate::locks::scan::Threads;
use crate::locks::watching::LockConfig;
use crate::memory::{Addr, Image, Memory};
use crate::outbox::{OutboxConfig, Ticket};
use crate::probe_point::HitClass;
pub use event::{Counts, Event, Note, Severity};

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

/// Effects of one step.
pub type Effects = heapless::Vec<Effect, EFFECTS_MAX>;
