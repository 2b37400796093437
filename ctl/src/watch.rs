//! `glg watch`: subscribes at the broker and shows what comes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, SubAck, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::time::{Instant, sleep, timeout_at};

use crate::message::{Message, filter};
use crate::text::Escaped;
use crate::{json, show};

/// First wait before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait before connecting again.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Largest packet the broker may send: far more than a message with its topic and any properties.
const PACKET_MAX: u32 = 16 * 1024;

/// Arguments of `glg watch`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Host name or address of the broker
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// TCP port of the broker
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Device to listen to, may be given several times; all by default
    #[arg(long, value_name = "NAME", default_value = "+", value_parser = parse_device)]
    device: Vec<String>,
    /// One JSON object per line instead of text
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds; with --count, having seen fewer messages is a failure
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: Option<u64>,
    /// User name at the broker
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
}

/// Parses `--device` into a topic filter.
fn parse_device(name: &str) -> Result<String, String> {
    filter(name).ok_or_else(|| "allowed: + for all, or a device's name".to_owned())
}

/// Why a connection came to its end.
enum End {
    /// As many messages as asked for.
    Counted,
    /// The broker or the link, in words. `true` if we had been subscribed.
    Lost(String, bool),
}

/// Runs until it has seen enough.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let mut seen = 0;
    let connect = connect_options(options)?;
    let watch = watch(options, &connect, &mut seen);
    runtime.block_on(async {
        let Some(seconds) = options.timeout else { return watch.await };
        match timeout_at(Instant::now() + Duration::from_secs(seconds), watch).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    })?;
    match options.count {
        Some(count) if seen < count => bail!("{seen} of {count} messages came within the time"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn connect_options(options: &Options) -> Result<MqttOptions> {
    let id = format!("glg-watch-{:016x}", random());
    let mut connect = MqttOptions::new(id, options.host.clone(), options.port);
    connect.set_keep_alive(Duration::from_secs(30));
    connect.set_clean_start(true);
    // We publish nothing; the default would set aside room for 65,535 publishes.
    connect.set_outgoing_inflight_upper_limit(1);
    connect.set_max_packet_size(Some(PACKET_MAX));
    if let (Some(user), Some(file)) = (&options.username, &options.password_file) {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        connect.set_credentials(user, text.lines().next().unwrap_or_default());
    }
    Ok(connect)
}

/// Connects again and again until as many messages as asked for have been seen.
async fn watch(options: &Options, connect: &MqttOptions, seen: &mut u64) -> Result<()> {
    if options.count == Some(0) {
        return Ok(());
    }
    let mut backoff = BACKOFF_MIN;
    loop {
        match session(options, connect, seen).await? {
            End::Counted => return Ok(()),
            End::Lost(reason, subscribed) => {
                if subscribed {
                    backoff = BACKOFF_MIN;
                }
                let wait = jittered(backoff);
                let (host, reason) = (Escaped(&options.host), reason.replace('\n', " "));
                let port = options.port;
                say(&format!("{host}:{port}: {}; again in {} ms", Escaped(&reason), wait.as_millis()));
                sleep(wait).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// One connection, from start to end. Each starts clean, so nothing is carried over.
async fn session(options: &Options, connect: &MqttOptions, seen: &mut u64) -> Result<End> {
    let (client, mut events) = AsyncClient::new(connect.clone(), 4);
    let mut subscribed = false;
    loop {
        let packet = match events.poll().await {
            Ok(Event::Incoming(packet)) => packet,
            Ok(Event::Outgoing(_)) => continue,
            Err(error) => return Ok(End::Lost(error.to_string(), subscribed)),
        };
        match packet {
            Packet::ConnAck(_) => {
                let filters =
                    options.device.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
                client.try_subscribe_many(filters).context("subscribing")?;
            }
            Packet::SubAck(SubAck { return_codes, .. }) => {
                let refused =
                    return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                if let Some(code) = refused {
                    bail!("the broker refuses the subscription: {code:?}");
                }
                subscribed = true;
                say("SUBSCRIBED");
            }
            Packet::Publish(publish) => {
                match Message::of_publish(&publish.topic, &publish.payload, publish.retain) {
                    Ok(message) => {
                        print(options, &message)?;
                        *seen += 1;
                        if options.count.is_some_and(|count| *seen >= count) {
                            return Ok(End::Counted);
                        }
                    }
                    Err(reason) => {
                        let topic = String::from_utf8_lossy(&publish.topic);
                        say(&format!("{}: skipped: {reason}", Escaped(&topic)));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Writes one message and lets it out at once.
fn print(options: &Options, message: &Message) -> Result<()> {
    let text = if options.json { format!("{}\n", json::object(message)) } else { show::text(message)? };
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// One line on stderr; if that is closed, nobody wants to know.
fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Between half of `wait` and all of it: many watchers must not come back in step.
fn jittered(wait: Duration) -> Duration {
    let half = wait / 2;
    let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    half + Duration::from_millis(random() % spread)
}

/// A random number; the standard library seeds each of its hashers from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_half_and_whole() {
        for _ in 0..1000 {
            let wait = jittered(BACKOFF_MAX);
            assert!(wait >= BACKOFF_MAX / 2 && wait <= BACKOFF_MAX);
        }
    }

    #[test]
    fn devices_become_filters() {
        assert_eq!(parse_device("+").unwrap(), glg_proto::topics::ALL);
        assert_eq!(parse_device("van-7").unwrap(), "glg/v1/van-7/+");
        assert!(parse_device("#").is_err() && parse_device("a/b").is_err());
    }
}
