//! What `glg watch` remembers of messages: which have come, and how the clocks of devices stood.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use glg_proto::wire::{ClockQuality, Envelope, MessageId};

use crate::message::Message;

/// Alerts that are remembered; of more the oldest are forgotten, and would not be known again.
const ALERTS_MAX: usize = 1 << 16;
/// Boots of devices that are remembered.
const BOOTS_MAX: usize = 1 << 12;

type Device = heapless::String<{ glg_proto::wire::DEVICE_MAX }>;

/// The keys of the last so many, in the order in which they came.
struct Latest<K> {
    order: VecDeque<K>,
    max: usize,
}

impl<K> Latest<K> {
    /// Adds one; the one that has to go for it.
    fn add(&mut self, key: K) -> Option<K> {
        self.order.push_back(key);
        if self.order.len() > self.max { self.order.pop_front() } else { None }
    }
}

/// The past.
pub(crate) struct Past {
    alerts: BTreeSet<(Device, MessageId)>,
    alerts_order: Latest<(Device, MessageId)>,
    /// The wall clock at the moment of boot, in milliseconds since 1970, by the last message that could be believed.
    boots: BTreeMap<(Device, [u8; 8]), u64>,
    boots_order: Latest<(Device, [u8; 8])>,
}

impl Past {
    pub(crate) fn new() -> Past {
        Past::of(ALERTS_MAX, BOOTS_MAX)
    }

    fn of(alerts_max: usize, boots_max: usize) -> Past {
        Past {
            alerts: BTreeSet::new(),
            alerts_order: latest(alerts_max),
            boots: BTreeMap::new(),
            boots_order: latest(boots_max),
        }
    }

    /// Says of a message whether it has come before, and when it was said, and remembers it.
    pub(crate) fn look(&mut self, message: &mut Message) {
        message.about_ms = self.time(&message.envelope);
        if message.is_alert {
            message.again = !self.is_new(&message.envelope);
        }
    }

    fn time(&mut self, envelope: &Envelope) -> Option<u64> {
        let (at, key) = (envelope.at, (envelope.device.clone(), envelope.boot));
        if at.clock != ClockQuality::Synced {
            return Some(self.boots.get(&key)?.saturating_add(at.mono_ms));
        }
        if self.boots.insert(key.clone(), at.wall_ms.saturating_sub(at.mono_ms)).is_none()
            && let Some(oldest) = self.boots_order.add(key)
        {
            self.boots.remove(&oldest);
        }
        None
    }

    fn is_new(&mut self, envelope: &Envelope) -> bool {
        let id = MessageId { boot: envelope.boot, epoch: envelope.epoch, seq: envelope.seq };
        let key = (envelope.device.clone(), id);
        if !self.alerts.insert(key.clone()) {
            return false;
        }
        if let Some(oldest) = self.alerts_order.add(key) {
            self.alerts.remove(&oldest);
        }
        true
    }
}

fn latest<K>(max: usize) -> Latest<K> {
    Latest { order: VecDeque::new(), max }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glg_proto::wire::{Body, Losses, Timestamp, head};

    fn message(boot: u8, seq: u32, mono_ms: u64, wall_ms: u64, clock: ClockQuality) -> Message {
        let envelope = Envelope {
            device: head("van-7"),
            boot: [boot; 8],
            epoch: 1,
            seq,
            at: Timestamp { mono_ms, wall_ms, clock },
            losses: Losses::default(),
            body: Body::Offline,
        };
        Message {
            envelope,
            payload_bytes: 0,
            bytes: None,
            retained: false,
            is_alert: true,
            again: false,
            about_ms: None,
        }
    }

    fn looked(past: &mut Past, mut message: Message) -> (bool, Option<u64>) {
        past.look(&mut message);
        (message.again, message.about_ms)
    }

    #[test]
    fn time_is_computed_once_it_is_trusted() {
        use ClockQuality::{Free, Synced, Wrong};
        let mut past = Past::new();
        assert_eq!(looked(&mut past, message(1, 0, 5_000, 7, Wrong)), (false, None));
        assert_eq!(looked(&mut past, message(1, 9, 60_000, 1_060_000, Synced)), (false, None));
        assert_eq!(looked(&mut past, message(1, 1, 6_000, 7, Wrong)), (false, Some(1_006_000)));
        assert_eq!(looked(&mut past, message(1, 2, 7_000, 1_000, Free)), (false, Some(1_007_000)));
        assert_eq!(looked(&mut past, message(2, 3, 7_000, 1_000, Free)), (false, None), "another boot");
    }

    #[test]
    fn duplicates_are_known_and_memory_is_bounded() {
        let mut past = Past::of(2, 2);
        let mut comes = |boot, seq| looked(&mut past, message(boot, seq, 1, 1, ClockQuality::Synced)).0;
        assert_eq!([comes(1, 1), comes(1, 1), comes(1, 2), comes(2, 2)], [false, true, false, false]);
        assert!(!comes(1, 1), "forgotten");
        assert!(!comes(3, 1));
        assert_eq!((past.alerts.len(), past.boots.len()), (2, 2));
        let mut state = message(3, 1, 1, 1, ClockQuality::Synced);
        state.is_alert = false;
        assert!(!looked(&mut past, state).0, "the number of what is no alert belongs to the next alert");
    }
}
