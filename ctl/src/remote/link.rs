//! The way to a device and back: connects again and again, subscribes before anything is said, and hands on what comes.

use std::time::Duration;

use anyhow::{Context, Result};
use glg_proto::topics::Topic;
use rumqttc::{
    AsyncClient, Event, Packet, PubAckReason, PublishOptions, PublishProperties, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connect::{self, Connect};

/// Messages that wait here; when they are so many, the broker waits.
const QUEUE: usize = 64;
/// First wait before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait before connecting again.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// What comes from the device.
const FROM: [Topic; 3] = [Topic::Receipt, Topic::Document, Topic::State];

/// What comes over the link.
pub(crate) enum Incoming {
    /// Connected and subscribed: from now on nothing is missed, and it can be published.
    Ready(AsyncClient),
    /// Not any more, and why.
    Lost(String),
    /// The broker does not let us do that, in words: it is no use to try again.
    Forbidden(String),
    /// The broker has our command, and nobody it could give it to.
    Nobody,
    /// A message of one of these topics.
    Message(Topic, Vec<u8>),
}

/// The link to one device.
pub(crate) struct Link {
    incoming: Receiver<Incoming>,
    client: Option<AsyncClient>,
    topic: String,
}

impl Link {
    /// Begins to connect.
    pub(crate) fn open(connect: Connect, device: &str) -> Result<Link> {
        let topic = |kind: Topic| kind.of(device).map(|topic| topic.as_str().to_owned());
        let no_name = "no device can have this name";
        let from: Option<Vec<(Topic, String)>> =
            FROM.into_iter().map(|kind| Some((kind, topic(kind)?))).collect();
        let (sender, incoming) = channel(QUEUE);
        tokio::spawn(run(connect, from.context(no_name)?, sender));
        Ok(Link { incoming, client: None, topic: topic(Topic::Command).context(no_name)? })
    }

    /// What comes next; `None` when nothing has come by then.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Option<Incoming> {
        // The other end is dropped only with the whole program.
        let incoming = timeout_at(deadline, self.incoming.recv()).await.ok()??;
        match &incoming {
            Incoming::Ready(client) => self.client = Some(client.clone()),
            Incoming::Lost(_) => self.client = None,
            _ => {}
        }
        Some(incoming)
    }

    /// Publishes a command, if there is a connection; the broker keeps it for so long.
    pub(crate) fn publish(&self, command: &[u8], keep: Duration) {
        let Some(client) = &self.client else { return };
        let message_expiry_interval = Some(u32::try_from(keep.as_secs()).unwrap_or(u32::MAX).max(1));
        let properties = PublishProperties { message_expiry_interval, ..Default::default() };
        let options = PublishOptions::at_least_once().properties(properties);
        // When there is no room, the connection hangs; the command is published again.
        let _ = client.try_publish(self.topic.as_str(), command.to_vec(), options);
    }

    /// Says good-bye.
    pub(crate) async fn close(mut self) {
        let Some(client) = self.client.take() else { return };
        if client.try_disconnect().is_ok() {
            let deadline = Instant::now() + Duration::from_secs(1);
            while !matches!(self.next(deadline).await, None | Some(Incoming::Lost(_))) {}
        }
    }
}

async fn run(connect: Connect, from: Vec<(Topic, String)>, to: Sender<Incoming>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let Some((reason, subscribed)) = connection(&connect, &from, &to).await else { return };
        if subscribed {
            backoff = BACKOFF_MIN;
        }
        if to.send(Incoming::Lost(reason)).await.is_err() {
            return;
        }
        sleep(connect::jittered(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One connection; why it ended, and whether we had been subscribed. `None` when nobody listens any more.
async fn connection(
    connect: &Connect,
    from: &[(Topic, String)],
    to: &Sender<Incoming>,
) -> Option<(String, bool)> {
    let (client, mut events) = AsyncClient::builder(connect.options()).capacity(8).build();
    let mut subscribed = false;
    loop {
        let packet = match events.poll().await {
            Ok(Event::Incoming(packet)) => packet,
            Ok(_) => continue,
            Err(error) => return Some((connect::reason(&error), subscribed)),
        };
        let incoming = match packet {
            Packet::ConnAck(_) => {
                let filters =
                    from.iter().map(|(_, topic)| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
                if client.try_subscribe_many(filters).is_err() {
                    return Some(("the client does not take the subscription".to_owned(), subscribed));
                }
                continue;
            }
            Packet::SubAck(answer) => {
                let refused =
                    answer.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                subscribed = refused.is_none();
                match refused {
                    None => Incoming::Ready(client.clone()),
                    Some(code) => Incoming::Forbidden(format!(
                        "the broker does not let us listen to the device ({code:?}): see its access rules"
                    )),
                }
            }
            Packet::PubAck(answer) => match answer.reason {
                PubAckReason::Success => continue,
                PubAckReason::NoMatchingSubscribers => Incoming::Nobody,
                reason => Incoming::Forbidden(format!(
                    "the broker does not let us command the device ({reason:?}): see its access rules"
                )),
            },
            Packet::Publish(publish) => {
                let kind = from.iter().find(|(_, topic)| topic.as_bytes() == publish.topic);
                let Some((kind, _)) = kind else { continue };
                Incoming::Message(*kind, publish.payload.to_vec())
            }
            _ => continue,
        };
        to.send(incoming).await.ok()?;
    }
}
