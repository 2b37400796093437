//! A client of the broker that hears everything, and can say something.
#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use glg_proto::topics::{ALL, Topic};
use rumqttc::{Client, ConnectionError, Event, MqttOptions, Packet, Publish, PublishOptions, QoS};

use super::common::{PATIENCE, eventually};
use super::driven::DEVICE;

/// It comes back by itself. What it hears it does not acknowledge: when the broker is killed, it can still read
/// everything that was sent to it, as it has nothing to write that would fail.
pub(crate) struct Ear {
    client: Client,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    heard: Receiver<Publish>,
    subscribed: Arc<AtomicU64>,
}

impl Ear {
    /// Returns once the broker has confirmed the subscription.
    pub(crate) fn start(port: u16) -> Ear {
        let mut options = MqttOptions::new("ear", ("127.0.0.1", port));
        options.set_outgoing_inflight_upper_limit(16);
        options.set_max_packet_size(Some(1024 * 1024));
        // One packet at a time: of a batch that ends with an error the MQTT client would forget the rest.
        options.set_read_batch_size(1);
        let (client, mut connection) = Client::builder(options).capacity(16).build();
        let (stop, subscribed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (said, heard) = channel();
        let (stopped, count, subscriber) = (Arc::clone(&stop), Arc::clone(&subscribed), client.clone());
        let thread = std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        subscriber.subscribe(ALL, QoS::AtMostOnce).unwrap();
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => _ = count.fetch_add(1, Ordering::SeqCst),
                    Ok(Event::Incoming(Packet::Publish(publish))) => _ = said.send(publish),
                    Err(ConnectionError::RequestsDone) => return,
                    Err(_) if stopped.load(Ordering::Relaxed) => return,
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                    Ok(_) => {}
                }
            }
        });
        let ear = Ear { client, stop, thread: Some(thread), heard, subscribed };
        ear.until_subscribed(0);
        ear
    }

    /// How often the broker has confirmed the subscription.
    pub(crate) fn subscribed(&self) -> u64 {
        self.subscribed.load(Ordering::SeqCst)
    }

    /// Returns once the broker has confirmed it more often than that.
    pub(crate) fn until_subscribed(&self, before: u64) {
        eventually("a subscription", || (self.subscribed() > before).then_some(()));
    }

    /// The next message of a kind.
    pub(crate) fn hears(&self, topic: Topic) -> Publish {
        let wanted = topic.of(DEVICE).unwrap();
        loop {
            let publish = self.heard.recv_timeout(PATIENCE).expect("nothing comes");
            if publish.topic == wanted.as_bytes() {
                return publish;
            }
        }
    }

    /// What has come and was not asked for.
    pub(crate) fn rest(&self) -> Vec<Publish> {
        self.heard.try_iter().collect()
    }

    /// Publishes a command.
    pub(crate) fn command(&self, payload: &[u8]) {
        let topic = Topic::Command.of(DEVICE).unwrap();
        let options = PublishOptions::at_least_once();
        self.client.publish(topic.as_str(), payload.to_vec(), options).unwrap();
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
