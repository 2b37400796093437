//! The MQTT link: connects, says when it is up, publishes one message at a time and says when the broker has
//! acknowledged it. What is to be sent, and sent again, is the outbox's business: a new connection starts
//! from nothing.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use glg_proto::topics::Topic;
use log::{debug, info, warn};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;

use crate::config::Config;

/// How long a good-bye may take.
const GOODBYE: Duration = Duration::from_secs(3);
/// A connection that lasted this long was a good one: the next failure starts with the shortest pause.
const GOOD: Duration = Duration::from_secs(30);

/// A message to be published with QoS 1.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where to.
    pub topic: Topic,
    /// Encoded envelope.
    pub payload: Vec<u8>,
    /// Its sequence number, for the acknowledgement.
    pub seq: u32,
}

/// What the link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected and accepted.
    Up,
    /// Not any more; nothing that is not acknowledged yet will be.
    Down,
    /// The broker has this message.
    Acknowledged(u32),
    /// The broker does not want this message, now or ever.
    Refused(u32),
}

/// Everything a connection needs.
pub struct Link {
    options: MqttOptions,
    device: String,
    backoff: Backoff,
}

impl Link {
    /// Prepares the options; `will` is what the broker says when the agent is gone.
    ///
    /// # Errors
    /// When the password file cannot be read.
    pub fn new(config: &Config, will: Vec<u8>) -> std::io::Result<Link> {
        let mqtt = &config.mqtt;
        let mut options = MqttOptions::new(config.client_id(), &mqtt.host, mqtt.port);
        options.set_keep_alive(Duration::from_secs(u64::from(mqtt.keep_alive_s)));
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(mqtt.session_expiry_s));
        // One message is under way at a time; the default would cost 14 MB.
        options.set_outgoing_inflight_upper_limit(2);
        options.set_request_channel_capacity(2);
        options.set_max_packet_size(Some(16 * 1024));
        if let Some(topic) = Topic::State.of(&config.device.name) {
            options.set_last_will(LastWill::new(topic.as_str(), will, QoS::AtLeastOnce, true, None));
        }
        if let Some(user) = &mqtt.username {
            let password = match &mqtt.password_file {
                Some(file) => std::fs::read_to_string(file)?.lines().next().unwrap_or_default().to_owned(),
                None => String::new(),
            };
            options.set_credentials(user, password);
        }
        let backoff = Backoff::new(mqtt.backoff_min_ms, mqtt.backoff_max_ms);
        Ok(Link { options, device: config.device.name.clone(), backoff })
    }

    /// Runs until the other end of `messages` is dropped; then says good-bye.
    pub async fn run(mut self, mut messages: Receiver<Message>, events: Sender<LinkEvent>) {
        let (host, port) = self.options.broker_address();
        loop {
            let began = std::time::Instant::now();
            let ended = self.connection(&mut messages, &events).await;
            if events.send(LinkEvent::Down).await.is_err() {
                return;
            }
            let Err(error) = ended else { return };
            if began.elapsed() >= GOOD {
                self.backoff.reset();
            }
            let pause = self.backoff.next();
            warn!("no link to {host}:{port}: {error}; next attempt in {:.1} s", pause.as_secs_f32());
            // While there is no link nothing is sent: what arrives is left over, or it is the end.
            let end = async { while messages.recv().await.is_some() {} };
            if timeout(pause, end).await.is_ok() {
                return;
            }
        }
    }

    /// One connection, from connect to its end.
    async fn connection(
        &mut self,
        messages: &mut Receiver<Message>,
        events: &Sender<LinkEvent>,
    ) -> Result<(), ConnectionError> {
        let (client, mut connection) = AsyncClient::new(self.options.clone(), 2);
        let (mut up, mut in_flight) = (false, None);
        loop {
            tokio::select! {
                event = connection.poll() => {
                    if let Some(said) = said(&event?, &mut in_flight) {
                        if said == LinkEvent::Up {
                            let (host, port) = self.options.broker_address();
                            info!("link up: {host}:{port}");
                            up = true;
                        }
                        // When nobody listens any more, what is under way and the good-bye still go out.
                        let _ = events.send(said).await;
                    }
                }
                message = messages.recv(), if in_flight.is_none() => {
                    let Some(message) = message else {
                        if up {
                            say_goodbye(&client, &mut connection).await;
                        }
                        return Ok(());
                    };
                    // Without a link it is left over from one that went: the outbox sends it again.
                    if up {
                        in_flight = publish(&client, &self.device, message)?;
                    }
                }
            }
        }
    }
}

/// What an event of the connection means; an acknowledgement is of the message that is under way.
fn said(event: &Event, in_flight: &mut Option<u32>) -> Option<LinkEvent> {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Some(LinkEvent::Up),
        Event::Incoming(Packet::PubAck(answer)) => in_flight.take().map(|seq| {
            use PubAckReason::{NoMatchingSubscribers, Success};
            if matches!(answer.reason, Success | NoMatchingSubscribers) {
                return LinkEvent::Acknowledged(seq);
            }
            warn!("the broker refuses message {seq} ({:?}): see its access rules", answer.reason);
            LinkEvent::Refused(seq)
        }),
        other => {
            debug!("mqtt: {other:?}");
            None
        }
    }
}

/// Sends a message; its sequence number, if it is under way now.
fn publish(client: &AsyncClient, device: &str, message: Message) -> Result<Option<u32>, ConnectionError> {
    let Some(topic) = message.topic.of(device) else { return Ok(None) };
    let retain = message.topic == Topic::State;
    let sent = client.try_publish(topic.as_str(), QoS::AtLeastOnce, retain, message.payload);
    // One message at a time always finds room; without it, begin again.
    sent.map_err(|_| ConnectionError::RequestsDone)?;
    Ok(Some(message.seq))
}

/// Sends DISCONNECT, so that the broker does not publish the last will.
async fn say_goodbye(client: &AsyncClient, connection: &mut EventLoop) {
    if client.try_disconnect().is_ok() {
        let flushed = async { while connection.poll().await.is_ok() {} };
        if timeout(GOODBYE, flushed).await.is_err() {
            debug!("the broker did not close the connection in time");
        }
    }
}

/// Exponential backoff with full jitter, so that a fleet does not come back all at once.
struct Backoff {
    min: u32,
    max: u32,
    limit: u32,
}

impl Backoff {
    fn new(min: u32, max: u32) -> Backoff {
        Backoff { min, max, limit: min }
    }

    fn reset(&mut self) {
        self.limit = self.min;
    }

    fn next(&mut self) -> Duration {
        let random = RandomState::new().hash_one(self.limit);
        let span = u64::from(self.limit.saturating_sub(self.min / 2).max(1));
        let pause = u64::from(self.min / 2) + random % span;
        self.limit = self.limit.saturating_mul(2).min(self.max);
        Duration::from_millis(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit_with_jitter() {
        let mut backoff = Backoff::new(500, 60_000);
        let pauses: Vec<u128> = (0..200).map(|_| backoff.next().as_millis()).collect();
        assert!(pauses.iter().all(|p| (250..=60_000).contains(p)));
        assert!(pauses[0] < 750 && pauses.iter().any(|p| *p > 30_000));
        let late: std::collections::BTreeSet<_> = pauses[50..].iter().collect();
        assert!(late.len() > 100, "no jitter");
        backoff.reset();
        assert!(backoff.next().as_millis() < 750);
    }
}
