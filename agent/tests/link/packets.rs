//! What is in the packets, what becomes of those that cannot be sent, commands, and the ledger of bytes.

use std::time::Duration;

use glg_proto::topics::Topic;
use glg_proto::wire::Class;
use goleakguard::link::{COMMAND_MAX, Link, LinkEvent, Message, PACKET_MAX, Refusal};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::channel;

use super::broker::Mosquitto;
use super::common::{Folder, PATIENCE};
use super::driven::{DEVICE, Driven, config, logged, message};
use super::ear::Ear;
use super::net::Net;

const PERSISTENT: &str = "persistence true\npersistence_location ";

fn count(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).filter(|window| *window == part).count()
}

#[test]
fn the_topic_is_sent_once_a_connection_and_then_its_alias() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "");
    let ear = Ear::start(mosquitto.port);
    let net = Net::start(mosquitto.port);
    net.listen();
    let link = Driven::start(&config(&folder, net.port, ""), false);
    let topic = Topic::Alert.of(DEVICE).unwrap();
    for connection in 1..=2 {
        link.says(&LinkEvent::Up);
        for seq in 0..3 {
            link.send(message(seq, b"an alert"));
            link.says(&LinkEvent::Acknowledged(seq));
            assert_eq!(ear.hears(Topic::Alert).payload, &b"an alert"[..]);
        }
        assert_eq!(count(&net.heard(), topic.as_bytes()), connection);
        net.cut();
    }
    assert_eq!(count(&net.heard(), b"an alert"), 6);
}

#[test]
fn a_message_too_large_for_the_broker_is_refused_and_the_next_one_sent() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "max_packet_size 2000\n");
    let net = Net::start(mosquitto.port);
    let link = Driven::start(&config(&folder, net.port, ""), false);
    link.says(&LinkEvent::Up);
    link.send(message(1, &[0; 1990]));
    let topic = Topic::Alert.of(DEVICE).unwrap().len();
    link.says(&LinkEvent::Refused(1, Refusal::TooLarge(1990 + topic + 18, 2000)));
    link.send(message(2, &[0; 1900]));
    link.says(&LinkEvent::Acknowledged(2));
    assert_eq!(net.made(), 1, "the connection has not suffered");
}

#[test]
fn no_packet_is_larger_than_our_own_limit() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "");
    let link = Driven::start(&config(&folder, mosquitto.port, ""), false);
    link.says(&LinkEvent::Up);
    let fits = PACKET_MAX - 18 - Topic::Alert.of(DEVICE).unwrap().len();
    link.send(message(1, &vec![0; fits + 1]));
    link.says(&LinkEvent::Refused(1, Refusal::TooLarge(PACKET_MAX + 1, PACKET_MAX)));
    link.send(message(2, &vec![0; fits]));
    link.says(&LinkEvent::Acknowledged(2));
}

#[test]
fn what_nobody_wants_to_know_later_expires() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "");
    let ear = Ear::start(mosquitto.port);
    let link = Driven::start(&config(&folder, mosquitto.port, ""), false);
    link.says(&LinkEvent::Up);
    let expiry = |ear: &Ear| {
        ear.hears(Topic::Alert).properties.and_then(|properties| properties.message_expiry_interval)
    };
    link.send(Message { expiry_s: Some(600), ..message(1, b"routine") });
    assert!((1..=600).contains(&expiry(&ear).unwrap()));
    link.says(&LinkEvent::Acknowledged(1));
    link.send(message(2, b"for ever"));
    assert_eq!(expiry(&ear), None);
}

#[test]
fn commands_arrive_after_the_link_or_the_broker_was_away() {
    let folder = Folder::new();
    let lines = format!("{PERSISTENT}{}/\n", folder.path().display());
    let mut mosquitto = Mosquitto::start(&folder, &lines);
    let ear = Ear::start(mosquitto.port);
    let net = Net::start(mosquitto.port);
    let link = Driven::start(&config(&folder, net.port, ""), true);
    link.says(&LinkEvent::Up);
    ear.command(b"one");
    link.says(&LinkEvent::Command(b"one".to_vec()));
    ear.command(&[7; COMMAND_MAX]);
    link.says(&LinkEvent::Command(vec![7; COMMAND_MAX]));
    ear.command(&[7; COMMAND_MAX + 1]);
    link.says(&LinkEvent::Oversized(COMMAND_MAX + 1));

    // The broker keeps what comes while there is no link.
    net.close();
    link.says(&LinkEvent::Down);
    ear.command(b"two");
    net.open();
    link.says(&LinkEvent::Command(b"two".to_vec()));

    // A broker that has forgotten everything is told again.
    let before = ear.subscribed();
    mosquitto.end(Signal::SIGKILL);
    link.says(&LinkEvent::Down);
    mosquitto.begin();
    ear.until_subscribed(before);
    link.says(&LinkEvent::Up);
    ear.command(b"three");
    link.says(&LinkEvent::Command(b"three".to_vec()));
}

#[test]
fn a_command_that_nobody_took_comes_again() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "");
    let ear = Ear::start(mosquitto.port);
    let config = config(&folder, mosquitto.port, "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (to_link, messages) = channel(1);
        let (events, mut from_link) = channel(1);
        let link = tokio::spawn(Link::new(&config, Vec::new(), true).unwrap().run(messages, events));
        assert_eq!(from_link.recv().await, Some(LinkEvent::Up));
        // The service ends without taking it: nobody takes the events any more.
        drop(from_link);
        let said = tokio::task::spawn_blocking(move || {
            ear.command(b"again");
            assert_eq!(ear.hears(Topic::Command).payload, &b"again"[..]);
        });
        said.await.unwrap();
        to_link.send(message(1, b"proves that the command came before")).await.unwrap();
        tokio::time::timeout(PATIENCE, to_link.send(message(2, b"x"))).await.unwrap().unwrap();
        drop(to_link);
        link.await.unwrap();
    });
    drop(runtime);
    let link = Driven::start(&config, true);
    link.says(&LinkEvent::Command(b"again".to_vec()));
}

#[test]
fn without_the_wish_there_are_no_commands() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "");
    let ear = Ear::start(mosquitto.port);
    let net = Net::start(mosquitto.port);
    net.listen();
    // A session from when they were wanted.
    let before = Driven::start(&config(&folder, net.port, ""), true);
    before.says(&LinkEvent::Up);
    ear.command(b"then");
    before.says(&LinkEvent::Command(b"then".to_vec()));
    drop(before);
    let link = Driven::start(&config(&folder, net.port, ""), false);
    link.says(&LinkEvent::Up);
    ear.command(b"now");
    assert_eq!(ear.hears(Topic::Command).payload, &b"then"[..]);
    assert_eq!(ear.hears(Topic::Command).payload, &b"now"[..]);
    link.send(message(1, b"x"));
    assert_eq!(link.next(), LinkEvent::Acknowledged(1));
    assert_eq!(link.next_within(Duration::from_millis(200)), None);
    let subscriptions = count(&net.heard(), Topic::Command.of(DEVICE).unwrap().as_bytes());
    assert_eq!(subscriptions, 1, "only the first link has subscribed");
}

#[test]
fn who_is_not_let_in_waits_long() {
    let folder = Folder::new();
    let mut config = config(&folder, 1, "");
    (config.mqtt.backoff_min_ms, config.mqtt.backoff_max_ms) = (100, 60_000);
    let nobody = Mosquitto::start(&folder, "allow_anonymous false\n");
    config.mqtt.port = nobody.port;
    let link = Driven::start(&config, false);
    let line = logged(nobody.port, "the broker does not let this device in: see its access rules");
    assert!(pause(&line) >= 30.0, "{line}");
    drop(link);

    let mut gone = Mosquitto::start(&folder, "");
    gone.end(Signal::SIGKILL);
    config.mqtt.port = gone.port;
    let link = Driven::start(&config, false);
    let line = logged(gone.port, "Connection refused");
    assert!(pause(&line) < 1.0, "{line}");
    drop(link);
}

fn pause(line: &str) -> f64 {
    line.rsplit_once("next attempt in ").unwrap().1.strip_suffix(" s").unwrap().parse().unwrap()
}

#[test]
fn past_the_days_airtime_only_what_is_critical_goes() {
    let folder = Folder::new();
    let mosquitto = Mosquitto::start(&folder, "");
    let net = Net::start(mosquitto.port);
    let mut config = config(&folder, net.port, "airtime_kib = 8");
    config.mqtt.keep_alive_s = 600;
    let link = Driven::start(&config, false);
    link.says(&LinkEvent::Up);
    let mut sent = 0;
    let postponed = loop {
        link.send(message(sent, &[0; 200]));
        match link.next() {
            LinkEvent::Acknowledged(seq) => assert_eq!(seq, sent),
            event => break event,
        }
        sent += 1;
    };
    assert_eq!(postponed, LinkEvent::Postponed(sent));
    // Headers included, an exchange is this much: 200 bytes, the packets around them, three headers of TCP.
    assert!((18..28).contains(&sent), "{sent} messages in 8 KiB");
    assert!((8192..8192 + 600).contains(&link.airtime.bytes()), "{}", link.airtime.bytes());
    let class = Class::Critical;
    link.send(Message { class, ..message(1000, &[0; 200]) });
    link.says(&LinkEvent::Acknowledged(1000));
    link.send(Message { topic: Topic::State, ..message(1001, &[0; 200]) });
    link.says(&LinkEvent::Acknowledged(1001));
    link.send(Message { class: Class::Warning, ..message(1002, &[0; 200]) });
    link.says(&LinkEvent::Postponed(1002));
    assert_eq!(net.made(), 1);

    // Every byte that passed is in the ledger, and three headers for each exchange.
    let (passed, exchanges) = (net.bytes(), u64::from(sent) + 3);
    let headers = link.airtime.bytes() - passed;
    assert_eq!(headers, (7 + 3 * exchanges) * 52, "{passed} bytes");
}
