//! The real link, driven by a test in the place of the service; and what it logs.
#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glg_proto::topics::Topic;
use glg_proto::wire::Class;
use goleakguard::config::Config;
use goleakguard::link::{Airtime, Link, LinkEvent, Message};
use tokio::sync::mpsc::{self, Sender};

use super::common::{Folder, PATIENCE};

/// The device of all these tests.
pub(crate) const DEVICE: &str = "van-7";

/// A config for a broker on this machine, with `more` in its section `[mqtt]`; it tries again every 100 ms.
pub(crate) fn config(folder: &Folder, port: u16, more: &str) -> Config {
    let board = folder.path().join(format!("board-{port}.toml"));
    let text = format!("[device]\nname = \"{DEVICE}\"\n[mqtt]\nport = {port}\nkeep_alive_s = 5\n{more}\n");
    std::fs::write(&board, text).unwrap();
    let mut config = Config::load(&board).unwrap_or_else(|e| panic!("{e}"));
    (config.mqtt.backoff_min_ms, config.mqtt.backoff_max_ms) = (100, 100);
    config
}

/// A message of the least important class.
pub(crate) fn message(seq: u32, payload: &[u8]) -> Message {
    let payload = payload.to_vec();
    Message { topic: Topic::Alert, payload, seq, class: Class::Routine, expiry_s: None }
}

/// A running link.
pub(crate) struct Driven {
    to_link: Option<Sender<Message>>,
    events: Receiver<LinkEvent>,
    thread: Option<JoinHandle<()>>,
    pub(crate) airtime: Airtime,
}

impl Driven {
    pub(crate) fn start(config: &Config, commands: bool) -> Driven {
        collect_log();
        // The port may have been another test's.
        let place = place(config.mqtt.port);
        LINES.lock().unwrap().retain(|line| !line.contains(&place));
        let link = Link::new(config, b"the last will".to_vec(), commands).unwrap_or_else(|e| panic!("{e}"));
        let airtime = link.airtime();
        let (to_link, messages) = mpsc::channel(1);
        let (said, events) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (events, mut from_link) = mpsc::channel(4);
                let link = tokio::spawn(link.run(messages, events));
                while let Some(event) = from_link.recv().await {
                    let _ = said.send(event);
                }
                link.await.unwrap();
            });
        });
        Driven { to_link: Some(to_link), events, thread: Some(thread), airtime }
    }

    pub(crate) fn send(&self, message: Message) {
        self.to_link.as_ref().unwrap().blocking_send(message).unwrap();
    }

    /// What it says next; `None` when it says nothing for so long.
    pub(crate) fn next_within(&self, time: Duration) -> Option<LinkEvent> {
        self.events.recv_timeout(time).ok()
    }

    /// What it says next.
    pub(crate) fn next(&self) -> LinkEvent {
        self.next_within(PATIENCE).expect("the link says nothing")
    }

    /// Waits until it says this.
    pub(crate) fn says(&self, wanted: &LinkEvent) {
        let deadline = Instant::now() + PATIENCE;
        while self.next() != *wanted {
            assert!(Instant::now() < deadline, "the link does not say {wanted:?}");
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.to_link = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        if record.target().starts_with("goleakguard") {
            LINES.lock().unwrap().push(line);
        }
    }

    fn flush(&self) {}
}

fn collect_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// Waits for a line about the broker at this port that contains `what`, and returns it.
pub(crate) fn logged(port: u16, what: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = all_logged(port);
        if let Some(line) = lines.iter().find(|line| line.contains(what)) {
            return line.clone();
        }
        assert!(Instant::now() < deadline, "no line with {what:?}, but: {lines:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How lines name the broker at this port.
fn place(port: u16) -> String {
    format!(":{port}")
}

/// Everything logged about the broker at this port.
pub(crate) fn all_logged(port: u16) -> Vec<String> {
    let place = place(port);
    LINES.lock().unwrap().iter().filter(|line| line.contains(&place)).cloned().collect()
}
