//! Everything that travels beside alerts, taken out of its bytes: commands, receipts, parts of documents.

use std::fmt::Write;

use glg_proto::command::{
    Action, Command, CommandId, Outcome, Part, Receipt, Received, Request, Setting, SignedReceipt, Until,
    Window,
};
use glg_proto::wire::ClockQuality;
use serde_json::{Value, json};

use crate::console::size;
use crate::json::clock;
use crate::message::Message;
use crate::remote::is_signed;
use crate::text::{Escaped, hex, utc};
use crate::{json, show};

/// Kinds of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// An alert, birth, good-bye, or how a device fares
    Envelope,
    /// The answer to a command
    Receipt,
    /// A part of a document
    Part,
    /// A command
    Command,
}

/// A payload, taken apart.
pub(crate) enum Raw {
    Envelope(Box<Message>),
    Receipt(Box<Receipt>, Signer),
    Command(Box<Command>, CommandId),
    Part { command: CommandId, index: u32, of: u32, bytes: usize },
}

/// Who is said to have signed a receipt.
pub(crate) struct Signer {
    key: String,
    /// Whether it did.
    good: bool,
}

/// Takes a payload apart, as the kind it is said to be, or as the first that fits. The last one tried is the part,
/// which has the least to tell it by.
pub(crate) fn decode(payload: &[u8], kind: Option<Kind>) -> Result<Raw, String> {
    match kind {
        Some(kind) => decode_as(payload, kind),
        None => {
            let envelope = decode_as(payload, Kind::Envelope);
            let others = [Kind::Receipt, Kind::Command, Kind::Part];
            // What is wrong with it as a message is what most want to know.
            envelope
                .or_else(|why| others.into_iter().find_map(|kind| decode_as(payload, kind).ok()).ok_or(why))
        }
    }
}

fn decode_as(payload: &[u8], kind: Kind) -> Result<Raw, String> {
    match kind {
        Kind::Envelope => Ok(Raw::Envelope(Box::new(Message::of_payload(payload)?))),
        Kind::Receipt => {
            let signed = SignedReceipt::parse(payload).map_err(|error| error.to_string())?;
            let signer = Signer { key: hex(signed.device_key, 32), good: is_signed(&signed) };
            Ok(Raw::Receipt(Box::new(signed.receipt), signer))
        }
        Kind::Command => {
            let received = Received::parse(payload).map_err(|refusal| refusal.to_string())?;
            let command = received.command().map_err(|(refusal, _)| refusal.to_string())?;
            let id = CommandId { key: received.key, counter: command.counter };
            Ok(Raw::Command(Box::new(command), id))
        }
        Kind::Part => {
            let part = Part::parse(payload).map_err(|error| error.to_string())?;
            let Part { command, index, of, bytes } = part;
            Ok(Raw::Part { command, index, of, bytes: bytes.len() })
        }
    }
}

/// As text.
pub(crate) fn text(raw: &Raw) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    match raw {
        Raw::Envelope(message) => return show::text(message),
        Raw::Receipt(receipt, signer) => {
            writeln!(out, "ANSWER of {} to command {}", Escaped(&receipt.device), receipt.command)?;
            writeln!(out, "  outcome   {}", outcome(&receipt.outcome))?;
            let doubt = match receipt.at.clock {
                ClockQuality::Synced => "",
                ClockQuality::Free => " (clock not synchronised)",
                ClockQuality::Wrong => " (clock WRONG)",
            };
            let boot = hex(&receipt.boot, 8);
            writeln!(out, "  said      {}{doubt}, boot {boot}", utc(receipt.at.wall_ms))?;
            let signed = if signer.good { "signed by" } else { "FORGED: not signed by" };
            writeln!(out, "  signature {signed} {}", signer.key)?;
        }
        Raw::Command(command, id) => {
            writeln!(out, "COMMAND to {}, {id}", Escaped(&command.device))?;
            writeln!(out, "  wants     {}", action(&command.action))?;
            let until = match command.until {
                Until::Wall(ms) => utc(ms),
                Until::Boot(boot, ms) => format!("{} s after boot {}", ms / 1000, hex(&boot, 8)),
            };
            writeln!(out, "  until     {until}")?;
            writeln!(out, "  signature not checked: that takes the whole public key of {}", id.key)?;
        }
        Raw::Part { command, index, of, bytes } => {
            writeln!(out, "PART {} of {of}, {bytes} bytes, of the document of command {command}", index + 1)?;
        }
    }
    Ok(out)
}

/// As one JSON object.
pub(crate) fn object(raw: &Raw) -> Value {
    match raw {
        Raw::Envelope(message) => json::object(message),
        Raw::Receipt(receipt, signer) => json!({
            "kind": "receipt",
            "device": receipt.device.as_str(),
            "command": receipt.command.to_string(),
            "outcome": outcome(&receipt.outcome),
            "boot": hex(&receipt.boot, 8),
            "mono_ms": receipt.at.mono_ms,
            "wall_ms": receipt.at.wall_ms,
            "clock": clock(receipt.at.clock),
            "device_key": signer.key,
            "signature_good": signer.good,
        }),
        Raw::Command(command, id) => {
            let (until_wall_ms, until_boot, until_mono_ms) = match command.until {
                Until::Wall(ms) => (Some(ms), None, None),
                Until::Boot(boot, ms) => (None, Some(hex(&boot, 8)), Some(ms)),
            };
            json!({
                "kind": "command",
                "device": command.device.as_str(),
                "command": id.to_string(),
                "action": action(&command.action),
                "until_wall_ms": until_wall_ms,
                "until_boot": until_boot,
                "until_mono_ms": until_mono_ms,
            })
        }
        Raw::Part { command, index, of, bytes } => json!({
            "kind": "part",
            "command": command.to_string(),
            "index": index,
            "of": of,
            "bytes": bytes,
        }),
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Pong(pong) => format!(
            "it is there: agent {}, {} processes watched, {} messages waiting",
            Escaped(&pong.agent),
            pong.targets,
            pong.waiting
        ),
        Outcome::Made(made) => format!(
            "made: {} of process {}, {} in {} parts, SHA-256 {}",
            made.kind.as_str(),
            made.pid,
            size(made.bytes.into()),
            made.parts(),
            hex(&made.sha256, 32)
        ),
        Outcome::Sending => "sending once more".to_owned(),
        Outcome::Set => "set".to_owned(),
        Outcome::Refused(refusal) => format!("refused: {refusal}"),
        Outcome::Failed(failure) => format!("failed: {failure}"),
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Ping => "an answer".to_owned(),
        Action::Make(Request { kind, process, limit }) => {
            let limit = if *limit == 0 { String::new() } else { format!(", {limit} goroutines at most") };
            format!("{} of {process}{limit}", kind.as_str())
        }
        Action::Send(id, from) => format!("the document of {id} once more, from part {} on", from + 1),
        Action::Set(setting) => format!("set: {}", self::setting(setting)),
    }
}

fn setting(setting: &Setting) -> String {
    match setting {
        Setting::Investigate(process) => format!("investigate {process}"),
        Setting::Growth(window, rise, percent) => {
            let window = match window {
                Window::Fast => "fast",
                Window::Medium => "medium",
                Window::Slow => "slow",
            };
            format!("growth {window} {rise} {percent}")
        }
        Setting::RemindS(seconds) => format!("remind {seconds}"),
        Setting::DeadlockS(seconds) => format!("deadlock {seconds}"),
        Setting::LockWaitS(seconds) => format!("lock-wait {seconds}"),
        Setting::Board => "board".to_owned(),
    }
}
