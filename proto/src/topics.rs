//! Topic names. Three levels below the fixed prefix at most, well within the seven that the strictest
//! cloud brokers allow.

use heapless::String;

use crate::wire::DEVICE_MAX;

/// Prefix of everything, with the wire version.
pub const PREFIX: &str = "glg/v1";
/// What `glg watch` subscribes to for one device (`DEVICE`) or all (`+`): every kind of message.
pub const ALL: &str = "glg/v1/+/+";

/// Longest topic this crate makes, in bytes.
pub const TOPIC_MAX: usize = PREFIX.len() + 1 + DEVICE_MAX + 1 + 8;

/// Kinds of messages, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Alerts, QoS 1, not retained.
    Alert,
    /// Birth and last will, QoS 1, retained.
    State,
    /// How the agent fares, QoS 1, not retained.
    Health,
    /// Answers to commands, QoS 1, not retained.
    Receipt,
    /// Parts of documents that a command asked for, QoS 1, not retained.
    Document,
    /// Commands to the device, QoS 1, not retained: the only one that a device subscribes to.
    Command,
}

impl Topic {
    /// All of them.
    pub const ALL: [Topic; 6] =
        [Topic::Alert, Topic::State, Topic::Health, Topic::Receipt, Topic::Document, Topic::Command];

    /// The last level of the topic.
    #[must_use]
    pub fn leaf(self) -> &'static str {
        match self {
            Topic::Alert => "alert",
            Topic::State => "state",
            Topic::Health => "health",
            Topic::Receipt => "receipt",
            Topic::Document => "document",
            Topic::Command => "command",
        }
    }

    /// The full topic of `device`, or `None` when the name cannot be a topic level
    /// (empty, longer than [`DEVICE_MAX`], or with `/`, `+`, `#` or control characters).
    #[must_use]
    pub fn of(self, device: &str) -> Option<String<TOPIC_MAX>> {
        if !is_device_name(device) {
            return None;
        }
        let mut topic = String::new();
        for part in [PREFIX, "/", device, "/", self.leaf()] {
            topic.push_str(part).ok()?;
        }
        Some(topic)
    }
}

/// Whether `name` may stand as the device level of a topic.
#[must_use]
pub fn is_device_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= DEVICE_MAX
        && name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '+' | '#' | '$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_a_device() {
        assert_eq!(Topic::Alert.of("van-7").unwrap(), "glg/v1/van-7/alert");
        assert_eq!(Topic::State.of("van-7").unwrap(), "glg/v1/van-7/state");
        let longest = "x".repeat(DEVICE_MAX);
        for topic in Topic::ALL {
            assert!(topic.of(&longest).unwrap().ends_with(topic.leaf()));
        }
    }

    #[test]
    fn wildcards_and_levels_are_refused_in_device_names() {
        for bad in ["", "a/b", "+", "#", "a b", "$SYS", "x\n", "0123456789012345678901234567890123"] {
            assert_eq!(Topic::Alert.of(bad), None, "{bad:?}");
        }
    }
}
