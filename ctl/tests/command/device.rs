//! A device as glg meets it: takes commands, and answers as the test wants.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use glg_proto::command::{
    Action, Command, CommandId, DocumentKind, Made, Outcome, Part, PublicKey, Receipt, Received, sign_receipt,
};
use glg_proto::topics::Topic;
use glg_proto::wire::{Body, ClockQuality, Envelope, Losses, Online, Timestamp, head};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rumqttc::{Client, Event, MqttOptions, Packet, PublishOptions, QoS};

use crate::common::{Broker, payload, run};

pub(crate) const NAME: &str = "van-7";
pub(crate) const BOOT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// Bytes of each part.
pub(crate) const PART: u16 = 16;

/// A command as it came, its signature found good.
pub(crate) struct Heard {
    pub(crate) id: CommandId,
    pub(crate) command: Command,
    /// How many came before.
    pub(crate) nth: usize,
    /// How many other commands came before: a late answer makes one come again.
    pub(crate) nth_command: usize,
}

/// How the device speaks.
pub(crate) struct Mouth {
    client: Client,
    pair: Ed25519KeyPair,
    pub(crate) at: Timestamp,
}

impl Mouth {
    /// From now on with another key.
    pub(crate) fn become_another(&mut self) {
        self.pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    }

    pub(crate) fn publish(&self, topic: Topic, bytes: &[u8]) {
        let topic = topic.of(NAME).unwrap();
        self.client.try_publish(topic.as_str(), bytes.to_vec(), PublishOptions::at_least_once()).unwrap();
    }

    pub(crate) fn signed(&self, id: CommandId, outcome: Outcome) -> Vec<u8> {
        let receipt = Receipt { device: head(NAME), boot: BOOT, at: self.at, command: id, outcome };
        let sign = |bytes: &[u8]| self.pair.sign(bytes).as_ref().try_into().unwrap();
        sign_receipt(&receipt, &public(&self.pair), sign).unwrap().to_vec()
    }

    pub(crate) fn answer(&self, id: CommandId, outcome: Outcome) {
        self.publish(Topic::Receipt, &self.signed(id, outcome));
    }

    pub(crate) fn made(&self, id: CommandId, kind: DocumentKind, document: &[u8]) {
        self.answer(id, Outcome::Made(made(kind, document)));
    }

    pub(crate) fn part(&self, id: CommandId, document: &[u8], index: usize) {
        let parts: Vec<&[u8]> = document.chunks(PART.into()).collect();
        let (index_u32, of) = (u32::try_from(index).unwrap(), u32::try_from(parts.len()).unwrap());
        let part = Part { command: id, index: index_u32, of, bytes: parts[index] };
        self.publish(Topic::Document, &[&part.head().unwrap()[..], part.bytes].concat());
    }

    pub(crate) fn parts_from(&self, id: CommandId, document: &[u8], from: u32) {
        for index in usize::try_from(from).unwrap()..document.len().div_ceil(PART.into()) {
            self.part(id, document, index);
        }
    }

    /// As a device without faults: announces the document and sends it.
    pub(crate) fn deliver(&self, heard: &Heard, document: &[u8]) {
        let Action::Make(request) = &heard.command.action else { panic!("{:?}", heard.command.action) };
        self.made(heard.id, request.kind, document);
        self.parts_from(heard.id, document, 0);
    }
}

pub(crate) fn made(kind: DocumentKind, document: &[u8]) -> Made {
    let sha256 = digest(&SHA256, document).as_ref().try_into().unwrap();
    Made { kind, pid: 1412, bytes: u32::try_from(document.len()).unwrap(), part_bytes: PART, sha256 }
}

pub(crate) fn deflate(text: &[u8]) -> Vec<u8> {
    let mut out = DeflateEncoder::new(Vec::new(), Compression::default());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn public(pair: &Ed25519KeyPair) -> PublicKey {
    pair.public_key().as_ref().try_into().unwrap()
}

/// A broker, a device with one key of its own, the operator's key, and a folder for everything.
pub(crate) struct Workshop {
    pub(crate) broker: Broker,
    pub(crate) folder: PathBuf,
}

impl Workshop {
    pub(crate) fn new(name: &str) -> Workshop {
        let folder = std::env::temp_dir().join(format!("glg-command-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = folder.join("k.key");
        let (success, _, err) = run(&["keys", "new", "k", "--out", path(&key)], b"");
        assert!(success, "{err}");
        Workshop { broker: Broker::start(), folder }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a command; nothing here takes longer than a few seconds.
    pub(crate) fn glg(&self, arguments: &[&str]) -> (bool, String, String) {
        let port = self.broker.port.to_string();
        let (key, devices) = (self.file("k.key"), self.file("devices"));
        let usual = ["--port", &port, "--key", path(&key), "--devices", path(&devices)];
        let patience = ["--timeout", "20s", "--again", "1s", "--silence", "1s"];
        let patience = if arguments.contains(&"--timeout") { &patience[2..] } else { &patience[..] };
        run(&[arguments, &usual, patience].concat(), b"")
    }

    /// The public half of the operator's key.
    fn public(&self) -> PublicKey {
        let (_, out, _) = run(&["keys", "show", path(&self.file("k.key"))], b"");
        let hex = out.split("public = \"").nth(1).unwrap().split('"').next().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        std::array::from_fn(|index| byte(index * 2))
    }

    /// Starts the device; returns when it listens and the broker keeps its birth.
    pub(crate) fn device(
        &self,
        script: impl FnMut(&mut Mouth, &Heard) + Send + 'static,
    ) -> Receiver<Vec<u8>> {
        self.device_with(ClockQuality::Synced, script)
    }

    /// One with such a clock.
    pub(crate) fn device_with(
        &self,
        clock: ClockQuality,
        mut script: impl FnMut(&mut Mouth, &Heard) + Send + 'static,
    ) -> Receiver<Vec<u8>> {
        let at = Timestamp { mono_ms: 90_000, wall_ms: 1_795_308_315_000, clock };
        let online = Body::Online(Online { agent: head("0.1.0"), kernel: head("6.1"), targets: 3 });
        let losses = Losses::default();
        let birth = Envelope { device: head(NAME), boot: BOOT, epoch: 1, seq: 0, at, losses, body: online };
        let state = Topic::State.of(NAME).unwrap();
        self.broker.publish(&[(&state, &payload(&birth), true)]);
        let options = MqttOptions::new("fake", ("127.0.0.1", self.broker.port));
        let (client, mut connection) = Client::builder(options).capacity(10_000).build();
        client.subscribe(Topic::Command.of(NAME).unwrap().as_str(), QoS::AtLeastOnce).unwrap();
        let operator = UnparsedPublicKey::new(&ED25519, self.public());
        let (heard_by_device, frames) = channel();
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
            let mut mouth = Mouth { client, pair, at };
            let (mut nth, mut counters) = (0, Vec::new());
            while let Ok(Ok(event)) = connection.recv() {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => ready.send(()).unwrap(),
                    Event::Incoming(Packet::Publish(publish)) => {
                        let frame = publish.payload.to_vec();
                        let received = Received::parse(&frame).unwrap();
                        operator.verify(&received.signed(), received.signature).unwrap();
                        let command = received.command().unwrap();
                        assert_eq!(command.device, NAME);
                        let id = CommandId { key: received.key, counter: command.counter };
                        if !counters.contains(&command.counter) {
                            counters.push(command.counter);
                        }
                        script(&mut mouth, &Heard { id, command, nth, nth_command: counters.len() - 1 });
                        nth += 1;
                        let _ = heard_by_device.send(frame);
                    }
                    _ => {}
                }
            }
        });
        is_ready.recv_timeout(Duration::from_secs(60)).unwrap();
        frames
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
