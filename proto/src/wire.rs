//! What the vehicle sends: one version byte, then an [`Envelope`] in postcard.
//!
//! postcard is not self-describing, so the rules are: enum variants are appended, never reordered or
//! removed; a struct that has to change becomes a new variant; the bytes of each variant are pinned in
//! this crate's tests.

use core::fmt;
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::locks::{Contention, Deadlock, LockWait, StuckThreads};

/// First byte of every message.
pub const VERSION: u8 = 1;
/// Longest device name, in bytes.
pub const DEVICE_MAX: usize = 32;
/// An alert, encoded, never exceeds this many bytes.
pub const ALERT_MAX: usize = 256;
/// Longest message of this version, in bytes: what a receive buffer must hold.
pub const MESSAGE_MAX: usize = 1024;
/// Longest function name in an alert, in bytes.
pub const FUNCTION_MAX: usize = 48;
/// Longest name of a call that is likely missing, in bytes.
pub const MISSING_MAX: usize = 40;
/// Sites that one leak alert can name.
pub const SITES_MAX: usize = 3;

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who says it.
    pub device: String<DEVICE_MAX>,
    /// First eight bytes of the kernel's boot id: sequence and monotonic time are relative to it.
    pub boot: [u8; 8],
    /// Seconds after boot at which this agent started: tells its messages from an earlier agent's.
    pub epoch: u32,
    /// Number of an alert, counting up by one for each of this agent's: gaps are losses. Any other message
    /// carries the number that the next alert will have.
    pub seq: u32,
    /// When it was said.
    pub at: Timestamp,
    /// What was lost since the last message.
    pub losses: Losses,
    /// What is said.
    pub body: Body,
}

/// Two clocks, because a vehicle's wall clock cannot be trusted before it has met a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub mono_ms: u64,
    /// `CLOCK_REALTIME` in milliseconds since 1970.
    pub wall_ms: u64,
    /// How far `wall_ms` can be believed.
    pub clock: ClockQuality,
}

/// How far the wall clock can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockQuality {
    /// Before the agent was built: certainly wrong.
    Wrong,
    /// Plausible, but no one has disciplined it (`STA_UNSYNC` of adjtimex(2)).
    Free,
    /// Kept in step by NTP, PTP or GNSS.
    Synced,
}

/// Losses since the last message: loss is a record, not silence. Saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Alerts dropped because the outbox was full.
    pub alerts: u32,
    /// Samples that could not be taken.
    pub samples: u32,
    /// Kernel records dropped because a ring or map was full.
    pub records: u32,
}

impl Losses {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Losses::default()
    }

    /// Adds another loss to this one.
    pub fn add(&mut self, other: Losses) {
        self.alerts = self.alerts.saturating_add(other.alerts);
        self.samples = self.samples.saturating_add(other.samples);
        self.records = self.records.saturating_add(other.records);
    }
}

/// What a message says. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "fixed memory: a message is built and encoded in place")]
pub enum Body {
    /// The agent is there. Retained.
    Online(Online),
    /// The agent ends, and says so. Retained.
    Offline,
    /// Goroutines of a target grow without bound.
    Leak(Leak),
    /// The agent is gone without a good-bye: its last will, encoded when it started. Retained.
    Vanished,
    /// Threads of a target wait for each other and never go on.
    Deadlock(Deadlock),
    /// A thread of a target waits for a lock very long.
    LockWait(LockWait),
    /// More and more threads of a target do not come back from C.
    StuckThreads(StuckThreads),
    /// A lock of a target is waited for again and again.
    Contention(Contention),
    /// Messages were given up before the broker had them, because their place was needed.
    Evicted(Evicted),
    /// How the agent itself fares.
    Health(Health),
}

/// How important a message is: what is more important is sent first, and given up last. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// How the agent fares.
    Routine,
    /// What may be a leak, or costs time.
    Warning,
    /// What is certain and does not pass: a deadlock, a proven leak.
    Critical,
}

/// Which message: no two of a device have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageId {
    /// As in its envelope.
    pub boot: [u8; 8],
    /// As in its envelope.
    pub epoch: u32,
    /// As in its envelope.
    pub seq: u32,
}

/// Messages that never come: of one class, from one run of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// How important they were.
    pub class: Class,
    /// How many.
    pub count: u32,
    /// The first of them.
    pub first: MessageId,
    /// Number of the last of them; of those between some may have been of other classes.
    pub last_seq: u32,
}

/// How the agent itself fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Processes watched.
    pub targets: u16,
    /// Messages that wait for the broker.
    pub waiting: u32,
    /// Bytes they take on flash.
    pub spool_bytes: u32,
    /// Bytes written to flash since the budget's day began.
    pub flash_bytes: u32,
    /// Whether that budget is used up, and messages are kept in memory alone.
    pub memory_only: bool,
    /// Messages given up since the agent began.
    pub evicted: u32,
    /// Records on flash that were damaged and are left out, since the agent began.
    pub damaged: u32,
    /// Bytes sent and received since the budget's day began.
    pub airtime_bytes: u32,
    /// Memory of the agent, in KiB.
    pub rss_kib: u32,
}

/// Birth message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Online {
    /// Version of the agent.
    pub agent: String<16>,
    /// Kernel release.
    pub kernel: String<40>,
    /// Targets watched at this moment.
    pub targets: u16,
}

/// A leak: which program, how strong the verdict is and what it rests on, and the sites it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The leaking program.
    pub target: Target,
    /// Strength of the verdict.
    pub grade: Grade,
    /// Goroutines now.
    pub goroutines: u32,
    /// Goroutines at the start of the window.
    pub baseline: u32,
    /// Seconds over which the growth was seen; 0 when none was.
    pub window_s: u32,
    /// How fast the goroutines of the program become more.
    pub trend: Option<Trend>,
    /// When its memory will be used up at the rate at which it grows now.
    pub left: Option<Left>,
    /// How it was observed, for more than a suspicion.
    pub observed: Option<Observed>,
    /// The sites: of a suspicion those that grew, the largest growth first, else the largest first.
    pub sites: Vec<Site, SITES_MAX>,
}

impl Leak {
    /// Leaves out what tells the least; `false` when there is nothing more.
    fn shrink(&mut self) -> bool {
        if self.sites.len() > 1 {
            self.sites.pop();
            return true;
        }
        let Some(site) = self.sites.first_mut() else { return false };
        if site.attributed.take().is_some() {
            return true;
        }
        // The end of a path tells more than its beginning.
        let mut file = site.file.chars();
        if file.next().is_some() {
            site.file = head(file.as_str());
            return true;
        }
        let told = !site.missing.is_empty();
        site.missing.clear();
        told
    }
}

/// How fast something changes, in units per hour: the median of the slopes between all parts of a window (Theil and
/// Sen), with the interval around it that holds the true one in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trend {
    /// Its lower end.
    pub low: i32,
    /// Most likely.
    pub per_hour: i32,
    /// Its upper end.
    pub high: i32,
}

/// When the memory of a program will be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// In so many minutes.
    pub minutes: u32,
    /// What ends it.
    pub limit: MemoryLimit,
}

/// What bounds the memory of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryLimit {
    /// The memory that the machine has available.
    Machine,
    /// The limit of its control group.
    Cgroup,
}

/// How goroutines were observed that are stuck or leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Passes over the memory of the program, which all agree; of those that are only stuck 0 when none was possible.
    pub passes: u8,
    /// Seconds from the first look to the last.
    pub seconds: u16,
}

/// The identity of a watched process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Base name of its executable.
    pub name: String<24>,
    /// Process id.
    pub pid: u32,
    /// Go minor and patch version: `(24, 11)` is Go 1.24.11.
    pub go: (u8, u8),
}

/// How strong a verdict is. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    /// Growth or age alone.
    Suspected,
    /// Never ran over several observations.
    Stuck,
    /// Nothing that can still run reaches what it waits for.
    Proven,
}

/// Goroutines with one creation point and one reason to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Function that holds the `go` statement.
    pub function: String<FUNCTION_MAX>,
    /// Its file: the last parts of the path.
    pub file: String<36>,
    /// Line of the `go` statement.
    pub line: u32,
    /// What they wait for.
    pub wait: Wait,
    /// Goroutines there now.
    pub count: u32,
    /// How many more than at the first census; 0 when that is not known.
    pub grew: u32,
    /// What the creation and exit probes counted, if they ran.
    pub attributed: Option<Attributed>,
    /// Seconds for which the oldest of their waits was seen; 0 when that is not known.
    pub oldest_s: u32,
    /// Those whose creator has ended, if that is known (`parentGoid`, Go 1.21 and newer).
    pub orphans: Option<u32>,
    /// Those that the program's own runtime says are leaked (`_Gleaked`, Go 1.26 and newer).
    pub marked: u32,
    /// The call that is likely missing, where it is known whose goroutines these are; else empty.
    pub missing: String<MISSING_MAX>,
}

/// Creations and exits counted in the kernel at one creation site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributed {
    /// Goroutines created.
    pub created: u32,
    /// Goroutines ended.
    pub exited: u32,
    /// For how long it was counted, in milliseconds.
    pub millis: u32,
}

macro_rules! waits {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a goroutine waits for, in the words of Go's own tracebacks, independent of the numbers
        /// that differ between Go versions (`runtime/runtime2.go`, `waitReasonStrings`). Append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Wait { $($(#[$doc])* $name,)* }

        impl Wait {
            /// Every wait there is, in wire order.
            pub const ALL: &'static [Wait] = &[$(Wait::$name,)*];

            /// As Go prints it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Wait::$name => $text,)* }
            }
        }
    };
}

waits! {
    /// A wait reason this version has no word for.
    Other = "waiting",
    /// Runnable, not waiting.
    Runnable = "runnable",
    /// Running.
    Running = "running",
    /// In a system call or in C.
    Syscall = "syscall",
    /// `<-ch`.
    ChanReceive = "chan receive",
    /// `ch <-`.
    ChanSend = "chan send",
    /// `<-nil`.
    ChanReceiveNil = "chan receive (nil chan)",
    /// `nil <-`.
    ChanSendNil = "chan send (nil chan)",
    /// `select` with cases.
    Select = "select",
    /// `select {}`.
    SelectNoCases = "select (no cases)",
    /// `time.Sleep`.
    Sleep = "sleep",
    /// The network poller.
    IoWait = "IO wait",
    /// Semaphores: before Go 1.20 also sync.Mutex and RWMutex, before Go 1.24 also WaitGroup.
    Semacquire = "semacquire",
    /// `sync.Mutex.Lock`.
    MutexLock = "sync.Mutex.Lock",
    /// `sync.RWMutex.RLock`.
    RwMutexRLock = "sync.RWMutex.RLock",
    /// `sync.RWMutex.Lock`.
    RwMutexLock = "sync.RWMutex.Lock",
    /// `sync.Cond.Wait`.
    CondWait = "sync.Cond.Wait",
    /// `sync.WaitGroup.Wait`.
    WaitGroupWait = "sync.WaitGroup.Wait",
    /// Waits of the runtime itself (garbage collection, scavenger, finalisers).
    Runtime = "runtime",
    /// Being copied or preempted.
    Preempted = "preempted",
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// No bytes at all.
    Empty,
    /// A version this program does not know.
    Version(u8),
    /// Not an envelope of this version: cut short, a field out of range, or a name too long.
    Malformed,
    /// An envelope, followed by this many bytes that do not belong to it.
    Trailing(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Empty => f.write_str("empty message"),
            DecodeError::Version(v) => {
                write!(f, "wire version {v} is unknown (this program reads version {VERSION}): update it")
            }
            DecodeError::Malformed => f.write_str("not a message of this version: cut short or damaged"),
            DecodeError::Trailing(n) => write!(f, "{n} bytes too many behind the message"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// The message does not fit into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Encodes into `buf` and returns the part that was used.
///
/// # Errors
/// [`TooLarge`] when `buf` is too small; [`MESSAGE_MAX`] bytes are always enough.
pub fn encode<'b>(envelope: &Envelope, buf: &'b mut [u8]) -> Result<&'b mut [u8], TooLarge> {
    let (version, rest) = buf.split_first_mut().ok_or(TooLarge)?;
    *version = VERSION;
    let used = postcard::to_slice(envelope, rest).map_err(|_| TooLarge)?.len();
    buf.get_mut(..used + 1).ok_or(TooLarge)
}

/// Decodes one message. Total: any bytes give an envelope or an error.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Envelope, DecodeError> {
    let (&version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    match postcard::take_from_bytes::<Envelope>(rest) {
        Ok((envelope, [])) => Ok(envelope),
        Ok((_, extra)) => Err(DecodeError::Trailing(extra.len())),
        Err(_) => Err(DecodeError::Malformed),
    }
}

/// Encodes an alert within [`ALERT_MAX`] bytes: of several sites the smallest, of the members of a deadlock
/// the last are left out until it fits. One always fits, whatever its names: of a site some of the details go first.
///
/// # Errors
/// [`TooLarge`] cannot happen for a body that is an alert.
pub fn encode_alert<'b>(
    envelope: &mut Envelope,
    buf: &'b mut [u8; ALERT_MAX],
) -> Result<&'b mut [u8], TooLarge> {
    loop {
        match encode(envelope, buf) {
            Ok(used) => {
                let len = used.len();
                return buf.get_mut(..len).ok_or(TooLarge);
            }
            Err(TooLarge) => {
                let smaller = match &mut envelope.body {
                    Body::Leak(leak) => leak.shrink(),
                    Body::Deadlock(deadlock) if deadlock.members.len() > 1 => {
                        deadlock.members.pop().is_some()
                    }
                    _ => false,
                };
                if !smaller {
                    return Err(TooLarge);
                }
            }
        }
    }
}

/// The first bytes of `text` that fit, cut at a character.
#[must_use]
pub fn head<const N: usize>(text: &str) -> String<N> {
    let mut out = String::new();
    for c in text.chars() {
        if out.push(c).is_err() {
            break;
        }
    }
    out
}

/// The end of `path` that fits, cut at a `/` where there is one: the last parts of a path tell the most.
/// A last part that is itself too long loses its beginning.
#[must_use]
pub fn tail<const N: usize>(path: &str) -> String<N> {
    if path.len() <= N {
        return head(path);
    }
    let mut start = path.len() - N;
    while !path.is_char_boundary(start) {
        start += 1;
    }
    let end = path.get(start..).unwrap_or_default();
    if path.get(..start).is_some_and(|before| before.ends_with('/')) {
        return head(end);
    }
    match end.find('/') {
        Some(slash) if slash + 1 < end.len() => head(end.get(slash + 1..).unwrap_or_default()),
        _ => head(end),
    }
}
