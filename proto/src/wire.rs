//! What the vehicle sends: one version byte, then an [`Envelope`] in postcard.
//!
//! postcard is not self-describing, so the rules are: enum variants are appended, never reordered or
//! removed; a struct that has to change becomes a new variant; the bytes of each variant are pinned in
//! this crate's tests.

mod leak;
mod wait;

use core::fmt;
use heapless::String;
use serde::{Deserialize, Serialize};

use crate::locks::{Contention, Deadlock, LockWait, StuckThreads};

pub use leak::{Attributed, Grade, Leak, Left, MemoryLimit, Observed, Site, Trend};
pub use wait::Wait;

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
