//! What waits to be sent: alerts in a queue of fixed size, one of them in flight, each kept until the broker
//! has acknowledged it. What had to be dropped is said in the next message.

use alloc::collections::VecDeque;

use glg_proto::wire::{ALERT_MAX, Body, Envelope, Losses, TooLarge, encode_alert};

/// One encoded alert.
#[derive(Clone, Debug)]
struct Entry {
    seq: u32,
    losses: Losses,
    len: u16,
    bytes: [u8; ALERT_MAX],
}

/// The queue.
#[derive(Debug)]
pub struct Outbox {
    capacity: usize,
    queue: VecDeque<Entry>,
    in_flight: Option<u32>,
    next_seq: u32,
    /// Not yet said in any message.
    unsaid: Losses,
    /// Since the start, for the agent's own figures.
    pub total_losses: Losses,
}

impl Outbox {
    /// Bytes one alert takes in the queue.
    pub const ENTRY_BYTES: usize = size_of::<Entry>();

    /// An empty queue for `capacity` alerts, at least 1.
    #[must_use]
    pub fn new(capacity: usize) -> Outbox {
        let capacity = capacity.max(1);
        Outbox {
            capacity,
            queue: VecDeque::with_capacity(capacity),
            in_flight: None,
            next_seq: 0,
            unsaid: Losses::default(),
            total_losses: Losses::default(),
        }
    }

    /// Number that the next alert will have.
    #[must_use]
    pub fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// Notes a loss.
    pub fn lost(&mut self, losses: Losses) {
        self.unsaid.add(losses);
        self.total_losses.add(losses);
    }

    /// Takes an alert; sequence and losses are filled in here. When the queue is full the oldest alert that
    /// is not in flight goes, and is counted.
    ///
    /// # Errors
    /// [`TooLarge`] when the message cannot be encoded in [`ALERT_MAX`] bytes; it is counted as lost.
    pub fn push(&mut self, mut envelope: Envelope) -> Result<(), TooLarge> {
        if self.queue.len() >= self.capacity {
            self.evict();
        }
        envelope.seq = self.next_seq;
        // Also a lost one has a number: the gap tells of it.
        self.next_seq = self.next_seq.wrapping_add(1);
        envelope.losses = self.unsaid;
        debug_assert!(!matches!(envelope.body, Body::Online(_) | Body::Offline | Body::Vanished));
        let mut bytes = [0; ALERT_MAX];
        let len = match encode_alert(&mut envelope, &mut bytes) {
            Ok(used) => u16::try_from(used.len()).unwrap_or(0),
            Err(error) => {
                self.lost(Losses { alerts: 1, ..Losses::default() });
                return Err(error);
            }
        };
        let losses = core::mem::take(&mut self.unsaid);
        self.queue.push_back(Entry { seq: envelope.seq, losses, len, bytes });
        Ok(())
    }

    fn evict(&mut self) {
        let oldest = self.queue.iter().position(|entry| Some(entry.seq) != self.in_flight);
        // With room for one only, and that one in flight, there is nothing else to drop.
        if let Some(entry) = self.queue.remove(oldest.unwrap_or(0)) {
            if Some(entry.seq) == self.in_flight {
                self.in_flight = None;
            }
            // What it would have said must be said by another.
            self.unsaid.add(entry.losses);
            self.lost(Losses { alerts: 1, ..Losses::default() });
        }
    }

    /// The alert to publish now, if none is in flight; it then is.
    pub fn send_next(&mut self) -> Option<(u32, &[u8])> {
        if self.in_flight.is_some() {
            return None;
        }
        let entry = self.queue.front()?;
        self.in_flight = Some(entry.seq);
        Some((entry.seq, entry.bytes.get(..usize::from(entry.len))?))
    }

    /// The broker has acknowledged `seq`. `false` if that is not what was in flight.
    pub fn acknowledged(&mut self, seq: u32) -> bool {
        if self.in_flight != Some(seq) {
            return false;
        }
        self.in_flight = None;
        self.queue.retain(|entry| entry.seq != seq);
        true
    }

    /// The broker does not take `seq`: it is lost, and counted.
    pub fn refused(&mut self, seq: u32) {
        let said = self.queue.iter().find(|entry| entry.seq == seq).map(|entry| entry.losses);
        if self.acknowledged(seq) {
            self.unsaid.add(said.unwrap_or_default());
            self.lost(Losses { alerts: 1, ..Losses::default() });
        }
    }

    /// Takes the losses that no message has said yet, to say them in one that is not in this queue.
    pub fn take_unsaid(&mut self) -> Losses {
        core::mem::take(&mut self.unsaid)
    }

    /// The message that was to say these did not arrive.
    pub fn unsay(&mut self, losses: Losses) {
        self.unsaid.add(losses);
    }

    /// The link is gone: what was in flight is to be sent again.
    pub fn link_lost(&mut self) {
        self.in_flight = None;
    }

    /// Alerts waiting, the one in flight included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glg_proto::wire::{ClockQuality, Grade, Leak, Target, Timestamp, decode, head};

    fn alert(pid: u32) -> Envelope {
        Envelope {
            device: head("van-7"),
            boot: [0; 8],
            epoch: 5,
            seq: 0,
            at: Timestamp { mono_ms: 1, wall_ms: 2, clock: ClockQuality::Free },
            losses: Losses::default(),
            body: Body::Leak(Leak {
                target: Target { name: head("gateway"), pid, go: (24, 11) },
                grade: Grade::Suspected,
                goroutines: 1,
                baseline: 1,
                window_s: 1,
                sites: heapless::Vec::new(),
            }),
        }
    }

    fn send(outbox: &mut Outbox) -> Option<Envelope> {
        outbox.send_next().map(|(seq, bytes)| {
            let envelope = decode(bytes).unwrap();
            assert_eq!(envelope.seq, seq);
            envelope
        })
    }

    #[test]
    fn one_in_flight_until_acknowledged_then_the_next() {
        let mut outbox = Outbox::new(4);
        outbox.push(alert(1)).unwrap();
        outbox.push(alert(2)).unwrap();
        assert_eq!(send(&mut outbox).unwrap().seq, 0);
        assert!(send(&mut outbox).is_none());
        assert!(!outbox.acknowledged(1));
        assert!(outbox.acknowledged(0));
        assert!(!outbox.acknowledged(0), "acknowledged twice");
        assert_eq!(send(&mut outbox).unwrap().seq, 1);
    }

    #[test]
    fn a_lost_link_sends_the_same_bytes_again() {
        let mut outbox = Outbox::new(4);
        outbox.push(alert(1)).unwrap();
        let first = send(&mut outbox).unwrap();
        outbox.link_lost();
        assert_eq!(send(&mut outbox).unwrap(), first);
    }

    #[test]
    fn every_loss_is_said_even_when_the_message_that_said_it_is_dropped() {
        let mut outbox = Outbox::new(2);
        outbox.lost(Losses { samples: 7, ..Losses::default() });
        for pid in 0..10 {
            outbox.push(alert(pid)).unwrap();
            assert!(outbox.len() <= 2);
        }
        let mut said = Losses::default();
        let mut received = 0;
        while let Some(envelope) = send(&mut outbox) {
            said.add(envelope.losses);
            received += 1;
            outbox.acknowledged(envelope.seq);
        }
        assert_eq!((received, said.alerts, said.samples), (2, 8, 7));
    }

    #[test]
    fn what_is_in_flight_is_not_dropped() {
        let mut outbox = Outbox::new(2);
        outbox.push(alert(1)).unwrap();
        assert_eq!(send(&mut outbox).unwrap().seq, 0);
        for pid in 2..6 {
            outbox.push(alert(pid)).unwrap();
        }
        assert!(outbox.acknowledged(0));
        assert_eq!(send(&mut outbox).unwrap().seq, 4);
    }

    #[test]
    fn what_the_broker_refuses_is_lost_and_said() {
        let mut outbox = Outbox::new(4);
        outbox.lost(Losses { samples: 3, ..Losses::default() });
        outbox.push(alert(1)).unwrap();
        let refused = send(&mut outbox).unwrap();
        outbox.refused(refused.seq);
        outbox.push(alert(2)).unwrap();
        let next = send(&mut outbox).unwrap();
        assert_eq!(next.losses, Losses { alerts: 1, samples: 3, records: 0 });
    }
}
