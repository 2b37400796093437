//! `glg watch`: subscribes at the broker and shows what comes.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::{AsyncClient, Event, Packet, Publish, QoS, SubAck, SubscribeFilter, SubscribeReasonCode};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connect::{self, Connect};
use crate::console::{now_ms, say};
use crate::message::{Message, filters};
use crate::past::Past;
use crate::since::parse_since;
use crate::text::Escaped;
use crate::{json, show};

/// First wait before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait before connecting again.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Arguments of `glg watch`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    broker: connect::Options,
    /// Device to listen to, may be given several times; all by default
    #[arg(long, value_name = "NAME", default_value = "+", value_parser = parse_device)]
    device: Vec<Filters>,
    /// Leave out what was said before: a span such as 2h, or a time such as "2026-11-22 00:45", in UTC
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_since(text, now_ms()))]
    since: Option<u64>,
    /// One JSON object per line instead of text
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds; with --count, having seen fewer messages is a failure
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: Option<u64>,
}

/// The topic filters of a device.
type Filters = [String; 3];

/// Subscriptions in one packet: what AWS IoT Core allows.
const FILTERS_MAX: usize = 8;

/// Parses `--device` into topic filters.
fn parse_device(name: &str) -> Result<Filters, String> {
    filters(name).ok_or_else(|| "allowed: + for all, or a device's name".to_owned())
}

/// What has been seen, over all connections.
struct Seen {
    /// Messages shown.
    count: u64,
    past: Past,
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
    let mut seen = Seen { count: 0, past: Past::new() };
    let connect = options.broker.prepare("watch")?;
    let watch = watch(options, &connect, &mut seen);
    runtime.block_on(async {
        let Some(seconds) = options.timeout else { return watch.await };
        match timeout_at(Instant::now() + Duration::from_secs(seconds), watch).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    })?;
    match options.count {
        Some(count) if seen.count < count => {
            bail!("{} of {count} messages came within the time", seen.count)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Connects again and again until as many messages as asked for have been seen.
async fn watch(options: &Options, connect: &Connect, seen: &mut Seen) -> Result<()> {
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
                let wait = connect::jittered(backoff);
                let (host, port) = (Escaped(&options.broker.host), options.broker.port);
                let reason = reason.replace('\n', " ");
                say(&format!("{host}:{port}: {}; again in {} ms", Escaped(&reason), wait.as_millis()));
                sleep(wait).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// One connection, from start to end. Each starts clean, so nothing is carried over.
async fn session(options: &Options, connect: &Connect, seen: &mut Seen) -> Result<End> {
    let (client, mut events) =
        AsyncClient::builder(connect.options()).capacity(4 + options.device.len()).build();
    let (mut subscribed, mut unanswered) = (false, 0);
    loop {
        let packet = match events.poll().await {
            Ok(Event::Incoming(packet)) => packet,
            Ok(Event::Outgoing(_) | Event::Auth(_)) => continue,
            Err(error) => return Ok(End::Lost(connect::reason(&error), subscribed)),
        };
        match packet {
            Packet::ConnAck(_) => unanswered = subscribe(options, &client)?,
            Packet::SubAck(SubAck { return_codes, .. }) => {
                let refused =
                    return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                if let Some(code) = refused {
                    bail!("the broker refuses the subscription: {code:?}");
                }
                unanswered = unanswered.saturating_sub(1);
                if unanswered == 0 {
                    subscribed = true;
                    say("SUBSCRIBED");
                }
            }
            Packet::Publish(publish) => {
                show_one(options, seen, &publish)?;
                if options.count.is_some_and(|count| seen.count >= count) {
                    return Ok(End::Counted);
                }
            }
            _ => {}
        }
    }
}

/// Asks for everything; in how many packets.
fn subscribe(options: &Options, client: &AsyncClient) -> Result<usize> {
    let filters = options.device.iter().flatten();
    let filters: Vec<SubscribeFilter> =
        filters.map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce)).collect();
    let packets = filters.chunks(FILTERS_MAX);
    let count = packets.len();
    for some in packets {
        client.try_subscribe_many(some.to_vec()).context("subscribing")?;
    }
    Ok(count)
}

/// Shows a message, or says why not.
fn show_one(options: &Options, seen: &mut Seen, publish: &Publish) -> Result<()> {
    match Message::of_publish(&publish.topic, &publish.payload, publish.retain) {
        Ok(mut message) => {
            seen.past.look(&mut message);
            if !is_old(options, &message) {
                print(options, &message)?;
                seen.count += 1;
            }
        }
        Err(reason) => {
            let topic = String::from_utf8_lossy(&publish.topic);
            say(&format!("{}: skipped: {reason}", Escaped(&topic)));
        }
    }
    Ok(())
}

/// Whether a message was said before what `--since` names. Of one that does not know when it was said nothing is held back.
fn is_old(options: &Options, message: &Message) -> bool {
    options.since.zip(message.said_ms()).is_some_and(|(since, said)| said < since)
}

/// Writes one message and lets it out at once.
fn print(options: &Options, message: &Message) -> Result<()> {
    let text = if options.json { format!("{}\n", json::object(message)) } else { show::text(message)? };
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_become_filters() {
        assert_eq!(parse_device("+").unwrap(), ["glg/v1/+/alert", "glg/v1/+/state", "glg/v1/+/health"]);
        assert_eq!(parse_device("van-7").unwrap()[1], "glg/v1/van-7/state");
        assert!(parse_device("#").is_err() && parse_device("a/b").is_err());
    }
}
