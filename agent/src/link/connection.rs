//! One connection, from its beginning to its end.

use std::time::Duration;

use glg_proto::topics::Topic;
use log::{debug, info, warn};
use rumqttc::{
    AsyncClient, ConnAck, ConnectionError, Event, EventLoop, Packet, PubAckReason, Publish, PublishOptions,
    PublishProperties, QoS, SubscribeReasonCode,
};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;

use super::failure::Failure;
use super::{COMMAND_MAX, Link, LinkEvent, Message, PACKET_MAX, REQUESTS, Refusal};

/// How long a good-bye may take.
const GOODBYE: Duration = Duration::from_secs(3);
/// Bytes of a PUBLISH beside topic and payload at most: fixed header 5, length of the topic 2, packet number 2,
/// length of the properties 1, expiry 5, topic alias 3.
const PUBLISH_BYTES: usize = 18;

/// A connection that the broker has accepted.
struct Connection<'l> {
    link: &'l Link,
    events: &'l Sender<LinkEvent>,
    client: AsyncClient,
    packets: EventLoop,
    /// Bytes of the largest packet that the broker takes.
    packet_max: usize,
    retains: bool,
    /// Whether that was said: with commands, when the broker has answered the subscription.
    up: bool,
    /// Number of the message that is under way.
    in_flight: Option<u32>,
}

impl Link {
    /// `Ok` when the other end of `messages` has been dropped.
    pub(super) async fn connection(
        &mut self,
        messages: &mut Receiver<Message>,
        events: &Sender<LinkEvent>,
    ) -> Result<(), Failure> {
        let (client, mut packets) = AsyncClient::builder(self.options.clone()).capacity(REQUESTS).build();
        let accepted = tokio::select! {
            accepted = connect(&mut packets) => accepted?,
            // Without a link a message is left over from one that went: the outbox sends it again.
            () = async { while messages.recv().await.is_some() {} } => return Ok(()),
        };
        let properties = accepted.properties.as_ref();
        let packet_max = properties.and_then(|properties| properties.max_packet_size);
        let packet_max = packet_max.and_then(|most| usize::try_from(most).ok()).unwrap_or(PACKET_MAX);
        let retains = properties.and_then(|properties| properties.retain_available) != Some(0);
        let mut connection = Connection {
            link: self,
            events,
            client,
            packets,
            packet_max: packet_max.min(PACKET_MAX),
            retains,
            up: false,
            in_flight: None,
        };
        if !connection.subscribe()? {
            connection.say_up().await;
        }
        connection.run(messages).await
    }
}

/// Connects and waits for the broker's answer.
async fn connect(packets: &mut EventLoop) -> Result<ConnAck, ConnectionError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(accepted)) = packets.poll().await? {
            return Ok(accepted);
        }
    }
}

impl Connection<'_> {
    async fn run(mut self, messages: &mut Receiver<Message>) -> Result<(), Failure> {
        loop {
            tokio::select! {
                event = self.packets.poll() => self.event(event?).await?,
                message = messages.recv(), if self.in_flight.is_none() => match message {
                    Some(message) if self.up => self.send(message).await?,
                    // Left over from a connection that went.
                    Some(_) => {}
                    None => {
                        self.say_goodbye().await;
                        return Ok(());
                    }
                },
            }
        }
    }

    /// When nobody listens any more, what is under way and the good-bye still go out.
    async fn say(&self, event: LinkEvent) -> bool {
        self.events.send(event).await.is_ok()
    }

    async fn say_up(&mut self) {
        info!("link up: {}:{}", self.link.dialer.host, self.link.dialer.port);
        self.up = true;
        self.say(LinkEvent::Up).await;
    }

    /// Each time: the broker may have forgotten, or the session be older than the wish for commands. `false` when
    /// there is no such wish.
    fn subscribe(&self) -> Result<bool, Failure> {
        let Some(topic) = Topic::Command.of(&self.link.device).filter(|_| self.link.commands) else {
            return Ok(false);
        };
        self.client.try_subscribe(topic.as_str(), QoS::AtLeastOnce).map_err(|_| stuck())?;
        Ok(true)
    }

    async fn event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Incoming(Packet::PubAck(answer)) => {
                if let Some(seq) = self.in_flight.take() {
                    let said = answered(seq, answer.reason)?;
                    self.say(said).await;
                }
            }
            Event::Incoming(Packet::Publish(publish)) => self.command(&publish).await?,
            Event::Incoming(Packet::SubAck(answer)) => {
                for code in answer.return_codes {
                    if !matches!(code, SubscribeReasonCode::Success(_)) {
                        warn!(
                            "no commands: the broker refuses the subscription ({code:?}): see its access rules"
                        );
                    }
                }
                self.say_up().await;
            }
            other => debug!("mqtt: {other:?}"),
        }
        Ok(())
    }

    /// The broker keeps a command until it was handed over.
    async fn command(&mut self, publish: &Publish) -> Result<(), Failure> {
        let topic = Topic::Command.of(&self.link.device);
        let wanted = self.link.commands && topic.is_some_and(|topic| topic.as_bytes() == publish.topic);
        let payload = &publish.payload;
        let handed_over = match payload.len() {
            _ if !wanted => true,
            ..=COMMAND_MAX => self.say(LinkEvent::Command(payload.to_vec())).await,
            bytes => self.say(LinkEvent::Oversized(bytes)).await,
        };
        match handed_over {
            true => self.client.try_ack(publish).map_err(|_| stuck()),
            false => Ok(()),
        }
    }

    /// Sends a message, or says why not.
    async fn send(&mut self, message: Message) -> Result<(), Failure> {
        let seq = message.seq;
        let topic = message.topic.of(&self.link.device);
        let bytes = message.payload.len() + topic.as_ref().map_or(0, |topic| topic.len()) + PUBLISH_BYTES;
        let refusal = match &topic {
            None => Some(Refusal::NoTopic),
            Some(_) if bytes > self.packet_max => Some(Refusal::TooLarge(bytes, self.packet_max)),
            Some(_) => None,
        };
        let (Some(topic), None) = (topic, refusal) else {
            let refusal = refusal.unwrap_or(Refusal::NoTopic);
            self.say(LinkEvent::Refused(seq, refusal)).await;
            return Ok(());
        };
        // Birth and good-bye are few and small, and what others judge the device by.
        if message.topic != Topic::State && !self.link.dialer.airtime.allows(message.class) {
            self.say(LinkEvent::Postponed(seq)).await;
            return Ok(());
        }
        let mut options =
            PublishOptions::at_least_once().retain(message.topic == Topic::State && self.retains);
        if message.expiry_s.is_some() {
            let message_expiry_interval = message.expiry_s;
            options = options.properties(PublishProperties { message_expiry_interval, ..Default::default() });
        }
        // One message at a time always finds room; without it, begin again.
        self.client.try_publish(topic.as_str(), message.payload, options).map_err(|_| stuck())?;
        self.in_flight = Some(seq);
        Ok(())
    }

    /// Sends DISCONNECT, so that the broker does not publish the last will.
    async fn say_goodbye(&mut self) {
        if self.client.try_disconnect().is_ok() {
            let flushed = async { while self.packets.poll().await.is_ok() {} };
            if timeout(GOODBYE, flushed).await.is_err() {
                debug!("the broker did not close the connection in time");
            }
        }
    }
}

/// What the broker's answer means for the message.
fn answered(seq: u32, reason: PubAckReason) -> Result<LinkEvent, Failure> {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(LinkEvent::Acknowledged(seq)),
        PubAckReason::QuotaExceeded => Err(Failure::Quota),
        reason => Ok(LinkEvent::Refused(seq, Refusal::Broker(reason))),
    }
}

/// The MQTT client takes nothing more, though there is always room: its connection is gone.
fn stuck() -> Failure {
    Failure::from(ConnectionError::RequestsDone)
}
