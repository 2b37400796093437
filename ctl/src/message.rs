//! A message as it arrived: decoded, with what its way over the broker adds.

use glg_proto::topics::{PREFIX, Topic};
use glg_proto::wire::{self, ClockQuality, Envelope};

use crate::text::{Escaped, hex};

/// What is for everybody: documents and the answers to commands are for who asked.
const TOPICS: [Topic; 3] = [Topic::Alert, Topic::State, Topic::Health];

/// A decoded message.
pub(crate) struct Message {
    pub(crate) envelope: Envelope,
    /// Bytes of the payload.
    pub(crate) payload_bytes: usize,
    /// Bytes of the MQTT PUBLISH packet; `None` for a message from a file.
    pub(crate) bytes: Option<usize>,
    /// Kept by the broker from an earlier time, not sent just now.
    pub(crate) retained: bool,
    /// It was published as an alert: its number is its own.
    pub(crate) is_alert: bool,
    /// It has come before.
    pub(crate) again: bool,
    /// Milliseconds since 1970 when it was said, computed: its own clock could not be believed.
    pub(crate) about_ms: Option<u64>,
}

impl Message {
    /// Decodes a payload without its topic.
    pub(crate) fn of_payload(payload: &[u8]) -> Result<Message, String> {
        let envelope = wire::decode(payload)
            .map_err(|e| format!("{e}; {} bytes beginning {}", payload.len(), hex(payload, 16)))?;
        Ok(Message {
            envelope,
            payload_bytes: payload.len(),
            bytes: None,
            retained: false,
            is_alert: false,
            again: false,
            about_ms: None,
        })
    }

    /// Decodes a payload that arrived on `topic`, which must be the sender's own.
    pub(crate) fn of_publish(topic: &[u8], payload: &[u8], retained: bool) -> Result<Message, String> {
        let message = Message::of_payload(payload)?;
        let name = &message.envelope.device;
        let is_own = |kind: Topic| kind.of(name).is_some_and(|own| own.as_bytes() == topic);
        if !TOPICS.into_iter().any(is_own) {
            return Err(format!("device \"{}\" has no business on this topic", Escaped(name)));
        }
        let (bytes, is_alert) = (Some(publish_bytes(topic.len(), payload.len())), is_own(Topic::Alert));
        Ok(Message { bytes, retained, is_alert, ..message })
    }

    /// When it was said, in milliseconds since 1970, if that can be told.
    pub(crate) fn said_ms(&self) -> Option<u64> {
        let at = self.envelope.at;
        self.about_ms.or_else(|| (at.clock != ClockQuality::Wrong).then_some(at.wall_ms))
    }
}

/// Topic filters for all messages of one device, or of all with `+`. `None` when `device` cannot be a level
/// of a topic.
pub(crate) fn filters(device: &str) -> Option<[String; TOPICS.len()]> {
    let valid = device == "+" || glg_proto::topics::is_device_name(device);
    valid.then(|| TOPICS.map(|topic| format!("{PREFIX}/{device}/{}", topic.leaf())))
}

/// Size of a QoS 1 PUBLISH packet without properties (MQTT 5, section 3.3).
fn publish_bytes(topic: usize, payload: usize) -> usize {
    let rest = 2 + topic + 2 + 1 + payload;
    let length = match rest {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        _ => 3,
    };
    1 + length + rest
}
