//! What goes to the link, one message at a time: the birth message, receipts, the outbox, the parts of documents, in
//! this order; and what the link says.

use std::fs;
use std::time::Duration;

use glg_engine::step::Input;
use glg_proto::topics::Topic;
use glg_proto::wire::{Body, Class, Envelope, Losses, MESSAGE_MAX, Online, encode, head};
use log::warn;
use tokio::time::timeout;

use super::Service;
use super::commanding::{PART_SEQ, RECEIPT_SEQ};
use crate::clock;
use crate::link::{LinkEvent, Message};

/// State messages are not in the outbox: their acknowledgement must fit nothing there.
pub(super) const STATE_SEQ: u32 = u32::MAX;
/// How long the last message may wait for its turn.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Seconds after which nobody wants to know any more how the agent fared.
const HEALTH_EXPIRY_S: u32 = 24 * 3600;

impl Service {
    pub(super) fn link_event(&mut self, event: Option<LinkEvent>) {
        match event {
            Some(LinkEvent::Up) => {
                self.link_up = true;
                self.sending = None;
                self.input(Input::Link(true));
                self.announced = self.engine.outbox.take_unsaid();
                let online = self.online();
                self.announce = Some(to_bytes(&online));
            }
            Some(LinkEvent::Down) | None => {
                self.link_up = false;
                self.sending = None;
                self.engine.outbox.unsay(std::mem::take(&mut self.announced));
                self.input(Input::Link(false));
            }
            Some(LinkEvent::Refused(seq, why)) => {
                warn!("message {seq} can never be sent: {why}");
                self.sent(seq, false);
            }
            Some(LinkEvent::Acknowledged(seq)) => self.sent(seq, true),
            // It is chosen again when there is airtime, or something more important.
            Some(LinkEvent::Postponed(_)) => {
                self.sending = None;
                self.engine.outbox.link_lost();
            }
            Some(LinkEvent::Command(bytes)) => self.command(&bytes),
            Some(LinkEvent::Oversized(_)) => self.oversized(),
        }
    }

    /// The broker has a message, or never will.
    fn sent(&mut self, seq: u32, acknowledged: bool) {
        // Of a connection that is no more.
        if self.sending != Some(seq) {
            return;
        }
        self.sending = None;
        match seq {
            STATE_SEQ if acknowledged => self.announced = Losses::default(),
            STATE_SEQ => {}
            RECEIPT_SEQ | PART_SEQ => self.commanding_sent(seq),
            ticket if acknowledged => self.input(Input::Acknowledged(ticket)),
            ticket => self.input(Input::Refused(ticket)),
        }
    }

    fn online(&self) -> Envelope {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let targets = u16::try_from(self.engine.figures().targets).unwrap_or(u16::MAX);
        let agent = head(env!("CARGO_PKG_VERSION"));
        let online = Online { agent, kernel: head(kernel.trim_end()), targets };
        let envelope = self.engine.envelope(clock::now(), Body::Online(online));
        Envelope { losses: self.announced, ..envelope }
    }

    /// Hands the link its next message, if it is free.
    pub(super) fn send(&mut self) {
        if !self.link_up || self.sending.is_some() {
            return;
        }
        let Some(message) = self.next_message() else { return };
        let seq = message.seq;
        // The channel has room for one and nothing is under way.
        match self.to_link.try_send(message) {
            Ok(()) => self.sending = Some(seq),
            // One of the last connection is still there: it is chosen again.
            Err(left) => {
                let message = left.into_inner();
                if message.seq == STATE_SEQ {
                    self.announce = Some(message.payload);
                }
                self.engine.outbox.link_lost();
            }
        }
    }

    fn next_message(&mut self) -> Option<Message> {
        if let Some(payload) = self.announce.take() {
            return Some(state_message(payload));
        }
        if let Some(receipt) = self.next_receipt() {
            return Some(receipt);
        }
        // Past the day's airtime only what is critical goes.
        let all = self.airtime.allows(Class::Routine);
        let least = if all { Class::Routine } else { Class::Critical };
        if let Some((seq, bytes)) = self.engine.outbox.send_next_of(least) {
            let payload = bytes.to_vec();
            let class = self.engine.outbox.class_in_flight().unwrap_or(Class::Critical);
            let (topic, expiry_s) = match class {
                Class::Routine => (Topic::Health, Some(HEALTH_EXPIRY_S)),
                Class::Warning | Class::Critical => (Topic::Alert, None),
            };
            return Some(Message { topic, payload, seq, class, expiry_s });
        }
        if all { self.next_part() } else { None }
    }

    pub(super) async fn say_offline(&mut self) {
        if self.link_up {
            let payload = to_bytes(&self.engine.envelope(clock::now(), Body::Offline));
            // After what is under way.
            let _ = timeout(LAST_WORD, self.to_link.send(state_message(payload))).await;
        }
    }
}

fn state_message(payload: Vec<u8>) -> Message {
    Message { topic: Topic::State, payload, seq: STATE_SEQ, class: Class::Critical, expiry_s: None }
}

pub(super) fn to_bytes(envelope: &Envelope) -> Vec<u8> {
    let mut buf = [0; MESSAGE_MAX];
    encode(envelope, &mut buf).map(|used| used.to_vec()).unwrap_or_default()
}
