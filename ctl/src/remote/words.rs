//! What a device's refusals and failures mean, and what to do about them.

use std::time::Duration;

use glg_proto::command::{Action, DocumentKind, Failure, Receipt, Refusal};
use glg_proto::wire::ClockQuality;

use crate::text::{Escaped, span, utc};

/// Foreign text on one line.
pub(crate) fn one_line(text: &str) -> String {
    Escaped(&text.replace('\n', " ")).to_string()
}

/// Nothing came back.
pub(crate) fn no_answer(device: &str, waited: Duration, keeps: Duration) -> String {
    let waits = match keeps.as_secs() {
        0 => "The command is too old to be carried out now.".to_owned(),
        seconds => format!(
            "The command may still reach it within {}; done twice it is never. --timeout waits longer, --valid keeps it \
             longer.",
            span(seconds)
        ),
    };
    format!("{device} did not answer within {}. {waits}", span(waited.as_secs()))
}

/// A refusal, as a sentence, and what to do.
pub(crate) fn refused(refusal: Refusal, receipt: &Receipt, action: &Action, now_ms: u64) -> String {
    let device = &receipt.device;
    match refusal {
        Refusal::Oversized | Refusal::Malformed => {
            format!("{device} cannot read the command: its agent is of another version than this glg")
        }
        Refusal::UnknownKey => format!(
            "{device} does not know this key: put what `glg keys show FILE` prints into its board configuration"
        ),
        Refusal::Forged => format!(
            "{device} finds the signature to be another key's: compare its board configuration with `glg keys show FILE`"
        ),
        Refusal::OtherDevice => format!("{device} says that the command is for another device"),
        Refusal::Replayed(used) => format!(
            "{device} has seen the counter {used} of this key, which is after {}: another computer with a wrong clock \
             has used the key. Give this one a new key, or go on with that computer",
            utc(now_ms)
        ),
        Refusal::Expired => format!(
            "{device} says that the command comes too late. Its clock shows {}, this computer's {}{}",
            utc(receipt.at.wall_ms),
            utc(now_ms),
            match receipt.at.clock {
                ClockQuality::Synced =>
                    ": if they differ, mend the clock here; else --valid keeps commands longer",
                _ => "; nobody keeps the device's clock in step: --valid bridges the difference",
            }
        ),
        Refusal::NoClock => format!(
            "{device} has no clock that could be believed and has lost what it knew of earlier commands: it obeys again \
             as soon as it has the time from the network"
        ),
        Refusal::NotAllowed => {
            format!("{device} does not let this key do that: its roles have no \"{}\"", role(action))
        }
        Refusal::Unknown => format!("{device} does not know this command: its agent is too old for it"),
        Refusal::Busy => format!("{device} is still at another command: say it again in a minute"),
        Refusal::NotRecorded => format!(
            "{device} cannot write down that the command came, and so does not do it: its flash is full or broken. \
             Nothing was done"
        ),
    }
}

/// The role that a key needs.
fn role(action: &Action) -> &'static str {
    match action {
        Action::Make(request) => match request.kind {
            DocumentKind::Grouped | DocumentKind::Full => "dump",
            DocumentKind::Locks | DocumentKind::Leaks => "look",
            DocumentKind::Audit => "audit",
        },
        Action::Set(_) => "set",
        Action::Ping | Action::Send(..) => "any",
    }
}

/// A failure, as a sentence, and what to do.
pub(crate) fn failed(failure: &Failure, device: &str) -> String {
    match failure {
        Failure::NoSuchProcess => format!(
            "{device} watches no such process: `goleakguard ps` there shows which; names are those of the executables"
        ),
        Failure::Several(count) => {
            format!("{device} watches {count} processes of this name: give the number of one")
        }
        Failure::OutOfRange(from, to) => {
            format!("the board configuration of {device} allows {from} to {to}: nothing was changed")
        }
        Failure::TooLarge(kib) => format!(
            "the document would be larger than the {kib} KiB that the board configuration of {device} allows: --limit N \
             asks for fewer goroutines"
        ),
        Failure::TookTooLong(seconds) => format!(
            "it took longer than the {} that the board configuration of {device} allows: --limit N asks for fewer \
             goroutines",
            span((*seconds).into())
        ),
        Failure::Interrupted => format!(
            "the agent on {device} ended while it was at it, and began anew: what it had done is lost. Ask again"
        ),
        Failure::NoDocument => {
            format!(
                "{device} has the document no longer: remove what is left in the .parts file, and ask anew"
            )
        }
        Failure::Other(text) => format!("{device} could not do it: {}", Escaped(text)),
    }
}
