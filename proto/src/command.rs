//! What the cloud asks a vehicle for, and its answers.
//!
//! A command is signed by its key, an answer by the device: Ed25519 over a word that says which of both it is,
//! followed by everything behind the signature. A document that was asked for travels in parts; the answer that
//! announces it carries its SHA-256, so the parts need no signature of their own.
//!
//! Append only, as everything in [`crate::wire`].

mod frames;

use core::fmt;
use heapless::String;
use serde::{Deserialize, Serialize};

use crate::wire::{DEVICE_MAX, Timestamp};

pub use frames::{Head, Part, Received, SignedBytes, SignedReceipt, sign_command, sign_receipt};

/// First byte of every command, receipt and part.
pub const VERSION: u8 = 1;
/// Longest command with its signature, in bytes.
pub const COMMAND_MAX: usize = 256;
/// Longest receipt with its signature, in bytes.
pub const RECEIPT_MAX: usize = 384;
/// Bytes of a document in one part, at most; the agent's configuration may say less.
pub const PART_MAX: usize = 16 << 10;
/// Bytes of a part before those of the document, at most.
pub const PART_HEAD_MAX: usize = 1 + 8 + 10 + 5 + 5;
/// Bytes of an Ed25519 public key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A public key.
pub type PublicKey = [u8; KEY_BYTES];
/// A signature.
pub type Signature = [u8; SIGNATURE_BYTES];

/// Which key: the first bytes of it. It only selects; what counts is the signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    /// Of a key.
    #[must_use]
    pub fn of(key: &PublicKey) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&key[..8]);
        KeyId(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which command: no two have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandId {
    /// The key that signed it.
    pub key: KeyId,
    /// Its counter.
    pub counter: u64,
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.counter)
    }
}

/// What a device is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Which device.
    pub device: String<DEVICE_MAX>,
    /// Larger than that of every command of this key before it. `glg` takes the milliseconds since 1970.
    pub counter: u64,
    /// Until when it may begin.
    pub until: Until,
    /// What to do.
    pub action: Action,
}

/// Until when a command may begin. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// `CLOCK_REALTIME` of the device, in milliseconds since 1970: for one whose clock can be believed.
    Wall(u64),
    /// `CLOCK_BOOTTIME` of the device in milliseconds, in the boot that begins with these bytes of its id: for one
    /// without a clock.
    Boot([u8; 8], u64),
}

/// What to do. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Answer.
    Ping,
    /// Make a document and send it.
    Make(Request),
    /// Send parts of the document that this command has asked for, from this one on, once more.
    Send(CommandId, u32),
    /// Change how closely is looked, until the agent begins anew.
    Set(Setting),
}

/// How many variants [`Action`] has: what begins with a larger number is unknown to this version.
pub const ACTIONS: u8 = 4;

/// A document to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which.
    pub kind: DocumentKind,
    /// Of which process.
    pub process: Which,
    /// Of so many goroutines at most; 0 for the board's own limit.
    pub limit: u32,
}

/// Kinds of documents. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DocumentKind {
    /// Each stack once, and which goroutines have it: see `goleakguard dump --compact`.
    Grouped,
    /// Text as of `debug=2`, with arguments.
    Full,
    /// JSON as of `goleakguard locks --json`.
    Locks,
    /// JSON as of `goleakguard leaks --json`.
    Leaks,
    /// What commands came and what became of them.
    Audit,
}

impl DocumentKind {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DocumentKind::Grouped => "grouped dump",
            DocumentKind::Full => "dump",
            DocumentKind::Locks => "locks",
            DocumentKind::Leaks => "leaks",
            DocumentKind::Audit => "audit",
        }
    }
}

/// Which process. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// By number.
    Pid(u32),
    /// By the base name of its executable: there must be one only.
    Name(String<24>),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Pid(pid) => write!(f, "process {pid}"),
            Which::Name(name) => write!(f, "process \"{}\"", name.escape_debug()),
        }
    }
}

/// What can be changed from far away. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// A suspicion: one process is looked at as if it had grown.
    Investigate(Which),
    /// Rise that counts as growth: in goroutines, and in per cent of where it began.
    Growth(Window, u32, u32),
    /// Seconds after which an alert is said again.
    RemindS(u32),
    /// Seconds of waiting for a lock after which it is asked whether that can ever end.
    DeadlockS(u32),
    /// Seconds of waiting for a lock after which it is told.
    LockWaitS(u32),
    /// Everything as the board's configuration has it.
    Board,
}

/// Which of the three windows of growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// `[growth.fast]`
    Fast,
    /// `[growth.medium]`
    Medium,
    /// `[growth.slow]`
    Slow,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who says it.
    pub device: String<DEVICE_MAX>,
    /// First eight bytes of the kernel's boot id.
    pub boot: [u8; 8],
    /// When.
    pub at: Timestamp,
    /// To which command; zeroes where that cannot be read.
    pub command: CommandId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a command. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The device is there.
    Pong(Pong),
    /// The document is made, and follows.
    Made(Made),
    /// It is sent once more.
    Sending,
    /// It is set.
    Set,
    /// Nothing was done.
    Refused(Refusal),
    /// It was tried.
    Failed(Failure),
}

/// Answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Version of the agent.
    pub agent: String<16>,
    /// Processes watched.
    pub targets: u16,
    /// Messages that wait for the broker.
    pub waiting: u32,
}

/// A document that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Which.
    pub kind: DocumentKind,
    /// The process.
    pub pid: u32,
    /// Bytes as it travels: compressed with DEFLATE (RFC 1951).
    pub bytes: u32,
    /// Bytes of each part but the last.
    pub part_bytes: u16,
    /// SHA-256 of these bytes.
    pub sha256: [u8; 32],
}

impl Made {
    /// How many parts it has.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.bytes.div_ceil(u32::from(self.part_bytes.max(1)))
    }
}

/// Why a command was refused. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It is longer than any command.
    Oversized,
    /// It is cut short or damaged, or of a version that this agent does not know.
    Malformed,
    /// The device has no such key.
    UnknownKey,
    /// The signature is not of that key.
    Forged,
    /// It is for another device.
    OtherDevice,
    /// This key's counter has been there: the largest was this.
    Replayed(u64),
    /// It came too late.
    Expired,
    /// Whether it came too late cannot be told: the device has no clock that could be believed, and the command does not
    /// name the device's boot.
    NoClock,
    /// The key may not do this.
    NotAllowed,
    /// This agent does not know what to do.
    Unknown,
    /// Another command is still being carried out.
    Busy,
    /// That it came could not be written down, without which it might be carried out twice.
    NotRecorded,
}

impl Refusal {
    /// How many variants there are.
    pub const COUNT: usize = 12;

    /// Its place among them.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Refusal::Oversized => 0,
            Refusal::Malformed => 1,
            Refusal::UnknownKey => 2,
            Refusal::Forged => 3,
            Refusal::OtherDevice => 4,
            Refusal::Replayed(_) => 5,
            Refusal::Expired => 6,
            Refusal::NoClock => 7,
            Refusal::NotAllowed => 8,
            Refusal::Unknown => 9,
            Refusal::Busy => 10,
            Refusal::NotRecorded => 11,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Refusal::Oversized => "longer than any command",
            Refusal::Malformed => "no command of a version that the agent knows",
            Refusal::UnknownKey => "the device has no such key",
            Refusal::Forged => "the signature is not of that key",
            Refusal::OtherDevice => "for another device",
            Refusal::Replayed(last) => {
                return write!(f, "this key's counter has been there: the largest was {last}");
            }
            Refusal::Expired => "too late",
            Refusal::NoClock => "the device has no clock, and the command does not name its boot",
            Refusal::NotAllowed => "the key may not do this",
            Refusal::Unknown => "the agent does not know this command",
            Refusal::Busy => "another command is being carried out",
            Refusal::NotRecorded => "the device cannot write down that it came",
        };
        f.write_str(text)
    }
}

/// Why a command could not be carried out. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// No such process is watched.
    NoSuchProcess,
    /// So many processes have this name.
    Several(u16),
    /// A number is outside of what the board's configuration may have: from, to.
    OutOfRange(u32, u32),
    /// The document would be larger than the board's limit, in KiB.
    TooLarge(u32),
    /// It took longer than the board's limit, in seconds.
    TookTooLong(u32),
    /// The agent ended while it was at it, and what it had done is not known.
    Interrupted,
    /// There is no such document (any more).
    NoDocument,
    /// In words.
    Other(String<96>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoSuchProcess => f.write_str("no such process is watched"),
            Failure::Several(n) => write!(f, "{n} watched processes have this name: give the number"),
            Failure::OutOfRange(from, to) => write!(f, "allowed are {from} to {to}"),
            Failure::TooLarge(kib) => write!(f, "larger than the board's limit of {kib} KiB"),
            Failure::TookTooLong(s) => write!(f, "longer than the board's limit of {s} s"),
            Failure::Interrupted => f.write_str("the agent ended while it was at it"),
            Failure::NoDocument => f.write_str("there is no such document any more"),
            Failure::Other(text) => write!(f, "{}", text.escape_debug()),
        }
    }
}
