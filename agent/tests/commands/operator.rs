//! Somebody who sends commands, and hears what the device says to them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use glg_engine::command::Crypto;
use glg_proto::command::{
    Action, Command, CommandId, KeyId, Made, Outcome, Part, PublicKey, SignedReceipt, Until, sign_command,
};
use glg_proto::topics::Topic;
use glg_proto::wire::head;
use goleakguard::keys::Ring;
use goleakguard::link::NothingUnderWay;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use crate::common::PATIENCE;

/// A key to sign with.
pub(crate) struct Key(Ed25519KeyPair);

impl Key {
    pub(crate) fn new() -> Key {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).unwrap();
        Key(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap())
    }

    fn public(&self) -> PublicKey {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    pub(crate) fn public_hex(&self) -> String {
        self.public().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn sign(&self, command: &Command) -> Vec<u8> {
        let sign = |bytes: &[u8]| self.0.sign(bytes).as_ref().try_into().unwrap();
        sign_command(command, KeyId::of(&self.public()), sign).unwrap().to_vec()
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

pub(crate) struct Operator {
    key: Key,
    device: String,
    counter: u64,
    client: Client,
    receipts: Receiver<Vec<u8>>,
    parts: Receiver<Vec<u8>>,
    /// Of the first receipt: all are of the same.
    device_key: Option<PublicKey>,
}

impl Operator {
    /// Returns once it hears the device.
    pub(crate) fn start(port: u16, device: &str, key: Key) -> Operator {
        let mut options = MqttOptions::new("operator", ("127.0.0.1", port));
        options.set_outgoing_inflight_upper_limit(16);
        options.set_session_store(NothingUnderWay::of(&options));
        let (client, mut connection) = Client::builder(options).capacity(16).build();
        for topic in [Topic::Receipt, Topic::Document] {
            client.subscribe(topic.of(device).unwrap().as_str(), QoS::AtLeastOnce).unwrap();
        }
        let ((said, receipts), (sent, parts), (subscribed, confirmed)) = (channel(), channel(), channel());
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => _ = subscribed.send(()),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let to = if publish.topic.ends_with(b"receipt") { &said } else { &sent };
                        if to.send(publish.payload.to_vec()).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        for _ in 0..2 {
            confirmed.recv_timeout(PATIENCE).expect("the broker confirms a subscription");
        }
        let device = device.to_owned();
        Operator { key, device, counter: now_ms(), client, receipts, parts, device_key: None }
    }

    /// The next command.
    pub(crate) fn command(&mut self, action: Action) -> Command {
        self.counter += 10;
        let until = Until::Wall(now_ms() + 600_000);
        Command { device: head(&self.device), counter: self.counter, until, action }
    }

    pub(crate) fn sign(&self, command: &Command) -> Vec<u8> {
        self.key.sign(command)
    }

    pub(crate) fn publish(&self, bytes: &[u8]) {
        let topic = Topic::Command.of(&self.device).unwrap();
        self.client
            .publish(topic.as_str(), bytes.to_vec(), rumqttc::PublishOptions::new(QoS::AtLeastOnce))
            .unwrap();
    }

    /// Sends these bytes, and returns what the device says to them, with a signature that is good.
    pub(crate) fn tell(&mut self, bytes: &[u8]) -> (CommandId, Outcome) {
        self.publish(bytes);
        let bytes = self.receipts.recv_timeout(PATIENCE).expect("no receipt came");
        let signed = SignedReceipt::parse(&bytes).unwrap();
        let key = *self.device_key.get_or_insert(*signed.device_key);
        assert_eq!(key, *signed.device_key, "another key");
        assert!(Ring.verify(&key, &signed.signed(), signed.signature), "a bad signature");
        assert_eq!(signed.receipt.device, self.device.as_str());
        (signed.receipt.command, signed.receipt.outcome)
    }

    /// Sends a new command, and returns what the device says to it.
    pub(crate) fn ask(&mut self, action: &Action) -> (CommandId, Outcome) {
        let command = self.command(action.clone());
        let bytes = self.sign(&command);
        let (id, outcome) = self.tell(&bytes);
        assert_eq!((id.key, id.counter), (KeyId::of(&self.key.public()), command.counter));
        (id, outcome)
    }

    /// So many parts of the document of this command, in the order in which they came.
    pub(crate) fn parts(&self, count: usize, of: CommandId) -> Vec<(u32, Vec<u8>)> {
        let mut parts = Vec::new();
        while parts.len() < count {
            let bytes = self.parts.recv_timeout(PATIENCE.max(Duration::from_secs(60))).expect("no part came");
            let part = Part::parse(&bytes).unwrap();
            if part.command == of {
                parts.push((part.index, part.bytes.to_vec()));
            }
        }
        parts
    }

    /// The whole document, as its receipt has announced it.
    pub(crate) fn document(&self, id: CommandId, made: &Made) -> Vec<u8> {
        let parts: BTreeMap<u32, Vec<u8>> = self.parts(made.parts() as usize, id).into_iter().collect();
        let bytes: Vec<u8> = parts.into_values().flatten().collect();
        assert_eq!((bytes.len(), Ring.sha256(&[&bytes])), (made.bytes as usize, made.sha256));
        bytes
    }
}
