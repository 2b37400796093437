//! Commands, between the link that brings them and the engine that judges them; and what goes back: receipts, and
//! the parts of documents.

use std::collections::VecDeque;
use std::path::Path;

use glg_engine::engine::Engine;
use glg_engine::step::{Effect, Input, TargetId};
use glg_proto::command::{
    COMMAND_MAX, CommandId, DocumentKind, Failure, Outcome, Receipt, Refusal, sign_receipt,
};
use glg_proto::topics::Topic;
use glg_proto::wire::{Class, head};
use log::{info, warn};

use super::Service;
use super::documents::Documents;
use crate::age;
use crate::clock;
use crate::config::Config;
use crate::flash::FlashDir;
use crate::keys::{DeviceKey, Ring};
use crate::link::Message;

/// Receipts and parts are not in the outbox: their acknowledgement must fit nothing there.
pub(super) const RECEIPT_SEQ: u32 = u32::MAX - 1;
pub(super) const PART_SEQ: u32 = u32::MAX - 2;
/// Receipts that wait for the link; the oldest goes, and its command can be sent again to have it.
pub const RECEIPTS_MAX: usize = 8;
/// Seconds after which nobody waits for a receipt or a part any more.
const EXPIRY_S: u32 = 24 * 3600;
/// Where counters, records and the device's key are, in the spool's directory.
const FOLDER: &str = "commands";

/// All that a service has for commands.
pub(super) struct Commanding {
    key: DeviceKey,
    boot: [u8; 8],
    /// Signed, the oldest first.
    receipts: VecDeque<Vec<u8>>,
    pub(super) documents: Documents,
}

/// Makes the engine obey, if the board has keys and there is flash to keep counters on.
pub(super) fn start(config: &Config, board: &Path, engine: &mut Engine) -> Option<Commanding> {
    if config.commands.keys.is_empty() {
        info!("commands are off: the board has no [[command.key]]");
        return None;
    }
    let mut begun = || -> Result<Commanding, Box<dyn std::error::Error>> {
        if config.spool.dir.is_empty() {
            return Err("they need spool.dir, to keep their counters in".into());
        }
        let folder = Path::new(&config.spool.dir).join(FOLDER);
        let flash = FlashDir::open(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let key = DeviceKey::open(&folder.join("device.key"))?;
        engine.obey(clock::now(), &config.commands.keys(), Box::new(flash), Box::new(Ring))?;
        let documents = Documents::new(&config.commands, board);
        Ok(Commanding {
            key,
            boot: clock::boot_id(),
            receipts: VecDeque::with_capacity(RECEIPTS_MAX),
            documents,
        })
    };
    match begun() {
        Ok(commanding) => {
            info!("commands are on, for {} keys", config.commands.keys.len());
            Some(commanding)
        }
        Err(error) => {
            warn!("commands are OFF: {error}");
            None
        }
    }
}

impl Service {
    /// Something came where commands arrive.
    pub(super) fn command(&mut self, bytes: &[u8]) {
        self.input(Input::Command(bytes));
    }

    /// Something came that is longer than any command.
    pub(super) fn oversized(&mut self) {
        self.input(Input::Command(&[0; COMMAND_MAX + 1]));
    }

    pub(super) fn command_done(&mut self, id: CommandId, outcome: Outcome) {
        self.input(Input::CommandDone { id, outcome });
    }

    /// Carries out an effect that is about commands.
    pub(super) fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { id, outcome } => self.answer(id, outcome),
            Effect::Make { id, kind, target, limit } => self.make(id, kind, target, limit),
            Effect::MakeAudit { id, bytes } => {
                let outcome = self.make_audit(id, &bytes).unwrap_or_else(Outcome::Failed);
                self.command_done(id, outcome);
            }
            Effect::SendAgain { id, document, from } => {
                let sent = self.commanding.as_mut().map(|c| c.documents.send_again(document, from));
                let outcome = match sent {
                    Some(Ok(())) => Outcome::Sending,
                    Some(Err(failure)) => Outcome::Failed(failure),
                    None => Outcome::Failed(Failure::NoDocument),
                };
                self.command_done(id, outcome);
            }
            _ => {}
        }
    }

    fn make(&mut self, id: CommandId, kind: DocumentKind, target: TargetId, limit: u32) {
        let begun = self.commanding.as_mut().map(|c| c.documents.make(id, kind, target, limit));
        if let Some(Err(failure)) = begun {
            self.command_done(id, Outcome::Failed(failure));
        }
    }

    fn make_audit(&mut self, id: CommandId, bytes: &[u8]) -> Result<Outcome, Failure> {
        let nobody = || Failure::Other(head("the board has no command.audit_recipient to encrypt it to"));
        let recipient = self.config.commands.audit_recipient.ok_or_else(nobody)?;
        let sealed = age::encrypt(&recipient, bytes);
        let sealed = sealed.map_err(|error| Failure::Other(head(&error.to_string())))?;
        let commanding = self.commanding.as_mut().ok_or(Failure::NoDocument)?;
        commanding.documents.make_of(id, DocumentKind::Audit, &sealed).map(Outcome::Made)
    }

    fn answer(&mut self, id: CommandId, outcome: Outcome) {
        match &outcome {
            Outcome::Refused(Refusal::Replayed(_)) => info!("command {id} was there already: refused"),
            Outcome::Refused(refusal) => warn!("command {id} is refused: {refusal}"),
            Outcome::Failed(failure) => warn!("command {id} failed: {failure}"),
            Outcome::Pong(_) | Outcome::Made(_) | Outcome::Sending | Outcome::Set => {
                info!("command {id} is carried out");
            }
        }
        // The acknowledgement of the first one may be on its way.
        let under_way = usize::from(self.sending == Some(RECEIPT_SEQ));
        let Some(commanding) = &mut self.commanding else { return };
        let (device, boot) = (head(&self.config.device.name), commanding.boot);
        let receipt = Receipt { device, boot, at: clock::now(), command: id, outcome };
        let signed = sign_receipt(&receipt, &commanding.key.public(), |bytes| commanding.key.sign(bytes));
        // It always fits.
        let Ok(signed) = signed else { return };
        if commanding.receipts.len() >= RECEIPTS_MAX {
            commanding.receipts.remove(under_way);
        }
        commanding.receipts.push_back(signed.to_vec());
    }

    /// The receipt that goes next; it waits until the broker has it.
    pub(super) fn next_receipt(&self) -> Option<Message> {
        let payload = self.commanding.as_ref()?.receipts.front()?.clone();
        Some(Message {
            topic: Topic::Receipt,
            payload,
            seq: RECEIPT_SEQ,
            // Somebody waits for it.
            class: Class::Critical,
            expiry_s: Some(EXPIRY_S),
        })
    }

    /// The part that goes next, when there is nothing else.
    pub(super) fn next_part(&mut self) -> Option<Message> {
        let payload = self.commanding.as_mut()?.documents.next_part()?;
        let (topic, expiry_s) = (Topic::Document, Some(EXPIRY_S));
        Some(Message { topic, payload, seq: PART_SEQ, class: Class::Warning, expiry_s })
    }

    /// The broker has taken, or does not want, what has this number: either way it is not sent again.
    pub(super) fn commanding_sent(&mut self, seq: u32) {
        let Some(commanding) = &mut self.commanding else { return };
        match seq {
            RECEIPT_SEQ => drop(commanding.receipts.pop_front()),
            PART_SEQ => commanding.documents.part_sent(),
            _ => {}
        }
    }
}

/// Waits until a document is made; for ever where none is being made.
pub(super) async fn made(commanding: Option<&mut Commanding>) -> (CommandId, Outcome) {
    let Some(commanding) = commanding else { return std::future::pending().await };
    let (id, result) = commanding.documents.made().await;
    (id, result.map_or_else(Outcome::Failed, Outcome::Made))
}
