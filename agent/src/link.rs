//! The MQTT link: connects, says when it is up, publishes one message at a time and says when the broker has
//! acknowledged it. What is to be sent, and sent again, is the outbox's business: a new connection starts
//! from nothing.

mod airtime;
mod backoff;
mod connection;
mod dial;
mod failure;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use glg_proto::topics::Topic;
use glg_proto::wire::Class;
use glg_tls::{Tls, TlsError};
use log::warn;
use rumqttc::{AckMode, LastWill, MqttOptions, PubAckReason, QoS, TopicAliasPolicy};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;

use crate::config::{Config, Mqtt};

pub use airtime::Airtime;
pub use session::NothingUnderWay;

use backoff::Backoff;
use dial::Dialer;

/// A connection that lasted this long was a good one: the next failure starts with the shortest pause.
const GOOD: Duration = Duration::from_secs(30);
/// From the first packet to the broker's CONNACK, the TLS handshake included: a slow link may need it.
const CONNECT: Duration = Duration::from_secs(20);
/// The largest packet sent: what AWS IoT Core allows, the strictest of the large brokers.
pub const PACKET_MAX: usize = 128 * 1024;
/// The largest packet taken, which the broker is told.
const INCOMING_MAX: u32 = 16 * 1024;
/// The largest command.
pub const COMMAND_MAX: usize = 1024;
/// Commands that the broker may send before the first is acknowledged.
const COMMANDS_UNDER_WAY: u16 = 2;
/// Room for what is handed to the MQTT client at a time: a subscription, a message, and as many acknowledgements.
const REQUESTS: usize = 4;

/// A message to be published with QoS 1.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where to.
    pub topic: Topic,
    /// Encoded envelope.
    pub payload: Vec<u8>,
    /// Its sequence number, for the acknowledgement.
    pub seq: u32,
    /// How important it is: past the day's airtime only the critical ones are sent.
    pub class: Class,
    /// Seconds after which nobody wants to know any more, and the broker may drop it.
    pub expiry_s: Option<u32>,
}

/// What the link says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected and accepted; with commands, subscribed, too.
    Up,
    /// Not any more; nothing that is not acknowledged yet will be.
    Down,
    /// The broker has this message.
    Acknowledged(u32),
    /// This message can never be sent.
    Refused(u32, Refusal),
    /// This message was not sent, because the day's airtime is used up ([`Airtime::allows`]).
    Postponed(u32),
    /// A command, of at most [`COMMAND_MAX`] bytes. The broker sends it again unless this was received.
    Command(Vec<u8>),
    /// Something of so many bytes where commands arrive: too long to be one.
    Oversized(usize),
}

/// Why a message can never be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The broker does not want it.
    Broker(PubAckReason),
    /// As a packet it would have so many bytes, and so many are allowed.
    TooLarge(usize, usize),
    /// The device's name is no part of a topic.
    NoTopic,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Broker(reason) => write!(f, "the broker refuses it ({reason:?}): see its access rules"),
            Refusal::TooLarge(bytes, most) => write!(f, "its packet has {bytes} bytes, allowed are {most}"),
            Refusal::NoTopic => f.write_str("the device's name cannot stand in a topic"),
        }
    }
}

/// Why there can be no link with this config.
#[derive(Debug)]
pub enum LinkError {
    /// The password's file cannot be read.
    Password(PathBuf, io::Error),
    /// The name for TLS is none.
    Tls(TlsError),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Password(path, error) => write!(f, "mqtt.password_file {}: {error}", path.display()),
            LinkError::Tls(error) => write!(f, "mqtt.server_name: {error}"),
        }
    }
}

impl std::error::Error for LinkError {}

/// Everything a connection needs.
pub struct Link {
    options: MqttOptions,
    dialer: Arc<Dialer>,
    device: String,
    commands: bool,
    backoff: Backoff,
}

impl Link {
    /// Prepares the options; `will` is what the broker says when the agent is gone. Commands are taken only with
    /// `commands`. Certificates are read when a connection begins.
    ///
    /// # Errors
    /// When the password file cannot be read, or the host's name cannot be in a certificate.
    pub fn new(config: &Config, will: Vec<u8>, commands: bool) -> Result<Link, LinkError> {
        let mqtt = &config.mqtt;
        let tls = mqtt.tls.as_ref().map(|tls| Tls::new(tls.clone())).transpose().map_err(LinkError::Tls)?;
        let airtime = Airtime::new(mqtt.airtime_kib);
        let dialer = Arc::new(Dialer { host: mqtt.host.clone(), port: mqtt.port, tls, airtime });
        let mut options = options(&config.client_id(), mqtt)?;
        if let Some(topic) = Topic::State.of(&config.device.name) {
            options.set_last_will(LastWill::new(topic.as_str(), will, QoS::AtLeastOnce, true, None));
        }
        let connector = Arc::clone(&dialer);
        options.set_socket_connector(move |_, _| Arc::clone(&connector).dial());
        options.set_session_store(NothingUnderWay::of(&options));
        let backoff = Backoff::new(mqtt.backoff_min_ms, mqtt.backoff_max_ms);
        Ok(Link { options, dialer, device: config.device.name.clone(), commands, backoff })
    }

    /// The ledger of what it sends and receives.
    #[must_use]
    pub fn airtime(&self) -> Airtime {
        self.dialer.airtime.clone()
    }

    /// Runs until the other end of `messages` is dropped; then says good-bye.
    pub async fn run(mut self, mut messages: Receiver<Message>, events: Sender<LinkEvent>) {
        loop {
            let began = Instant::now();
            let ended = self.connection(&mut messages, &events).await;
            if events.send(LinkEvent::Down).await.is_err() {
                return;
            }
            let Err(failure) = ended else { return };
            if began.elapsed() >= GOOD {
                self.backoff.reset();
            }
            // A connection costs airtime, too.
            let pause = match failure.is_refusal() || self.dialer.airtime.is_used_up() {
                true => self.backoff.long(),
                false => self.backoff.next(),
            };
            let Dialer { host, port, .. } = &*self.dialer;
            warn!("no link to {host}:{port}: {failure}; next attempt in {:.1} s", pause.as_secs_f32());
            // While there is no link nothing is sent: what arrives is left over, or it is the end.
            let end = async { while messages.recv().await.is_some() {} };
            if timeout(pause, end).await.is_ok() {
                return;
            }
        }
    }
}

/// All but the will and the way to the broker.
fn options(client_id: &str, mqtt: &Mqtt) -> Result<MqttOptions, LinkError> {
    let mut options = MqttOptions::new(client_id, (mqtt.host.as_str(), mqtt.port));
    options.set_keep_alive(mqtt.keep_alive_s);
    options.set_connect_timeout(CONNECT);
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(mqtt.session_expiry_s));
    // One message is under way at a time, beside a subscription; the default would cost 14 MB.
    options.set_outgoing_inflight_upper_limit(2);
    options.set_receive_maximum(Some(COMMANDS_UNDER_WAY));
    options.set_max_packet_size(Some(INCOMING_MAX));
    options.set_topic_alias_policy(TopicAliasPolicy::Monotonic);
    options.set_ack_mode(AckMode::Manual);
    if let Some(user) = &mqtt.username {
        let password = match &mqtt.password_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|error| LinkError::Password(file.into(), error))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None => String::new(),
        };
        options.set_credentials(user.clone(), password);
    }
    Ok(options)
}
