//! The real agent against a real broker: both as processes, with what they say as it comes.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glg_proto::topics::ALL;
use glg_proto::wire::{Body, Envelope, decode};
use goleakguard::link::NothingUnderWay;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rumqttc::{Client, ConnectionError, Event, MqttOptions, Packet, QoS};

use super::{Folder, PATIENCE, agent, eventually};

/// A port of this process's own: below those that the system hands out by itself, and no port twice.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + nth % 20_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn answers(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A running agent; ended with the test.
pub(crate) struct Agent {
    child: Child,
    lines: Receiver<String>,
    log: Vec<(Instant, String)>,
    next: usize,
}

impl Agent {
    /// Starts it to watch what lies in `folder`, with verdicts within seconds, and `more` in its config.
    pub(crate) fn start(folder: &Folder, device: &str, port: u16, more: &str) -> Agent {
        Agent::start_confirming(folder, device, port, 2, more)
    }

    /// One that confirms growth for so many seconds.
    pub(crate) fn start_confirming(
        folder: &Folder,
        device: &str,
        port: u16,
        confirm_s: u32,
        more: &str,
    ) -> Agent {
        let config = folder.path().join("board.toml");
        let programs = folder.path().display();
        let spool = format!("[spool]\ndir = \"{programs}/spool\"\n");
        let spool = if more.contains("[spool]") { String::new() } else { spool };
        let text = format!(
            "[device]\nname = \"{device}\"\n\
             [mqtt]\nport = {port}\nkeep_alive_s = 5\nbackoff_min_ms = 100\nbackoff_max_ms = 1000\n\
             [watch]\ninterval_ms = 200\nrescan_s = 3600\n\
             [[watch.match]]\npath = \"{programs}/*\"\naction = \"watch\"\n\
             [[watch.match]]\naction = \"ignore\"\n\
             [service]\nstate = \"{programs}/run/state\"\n\
             {spool}[growth]\nconfirm_s = {confirm_s}\n\
             [growth.fast]\nwindow_s = 8\nmin_rise = 50\n{more}"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(agent());
        command.arg("run").arg("--config").arg(&config).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let mut agent = Agent { child, lines, log: Vec::new(), next: 0 };
        agent.says("ready: ");
        agent
    }

    /// Waits for the next line that contains `what`, and returns when it came, and the line.
    pub(crate) fn says(&mut self, what: &str) -> (Instant, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some((at, line)) = self.log.get(self.next) {
                self.next += 1;
                if line.contains(what) {
                    return (*at, line.clone());
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.push((Instant::now(), line)),
                Err(RecvTimeoutError::Timeout) => panic!("not said: {what:?}; but:\n{}", self.said()),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before {what:?}:\n{}", self.said()),
            }
        }
    }

    /// Looks for lines from the beginning again.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Everything said so far.
    pub(crate) fn said(&mut self) -> String {
        self.log.extend(self.lines.try_iter().map(|line| (Instant::now(), line)));
        self.log.iter().fold(String::new(), |all, (_, line)| all + line + "\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Sends a signal and returns how it ended, and after how long.
    pub(crate) fn end(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal(signal);
        let status = eventually("the agent's end", || self.child.try_wait().unwrap());
        (status, began.elapsed())
    }

    /// Ends it by SIGTERM, which has to be a clean end.
    pub(crate) fn stop(&mut self) {
        let (status, took) = self.end(Signal::SIGTERM);
        assert!(status.success(), "{status} (signal {:?}):\n{}", status.signal(), self.said());
        assert!(took < Duration::from_secs(60), "the end took {took:?}:\n{}", self.said());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// mosquitto, which may be there or not; what it has to remember is in `folder`. Ended with the test.
pub(crate) struct Broker {
    config: PathBuf,
    child: Option<Child>,
    pub(crate) port: u16,
}

impl Broker {
    /// One that is not running yet. It already has the subscription of a [`Watcher`], so that nothing is
    /// missed between its start and the watcher's.
    pub(crate) fn prepare(folder: &Folder) -> Broker {
        let (port, home) = (free_port(), folder.path().join("broker/"));
        std::fs::create_dir_all(&home).unwrap();
        let config = home.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
             user root\nlog_dest none\n",
            home.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut broker = Broker { config, child: None, port };
        broker.start();
        drop(Watcher::start(&broker));
        broker.end(Signal::SIGTERM); // it writes down the session
        broker
    }

    /// From its next start on nobody may publish an alert.
    pub(crate) fn forbid_alerts(&self) {
        let rights = self.config.with_file_name("rights");
        std::fs::write(&rights, "topic readwrite glg/v1/+/state\ntopic read glg/v1/+/alert\n").unwrap();
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, format!("{text}acl_file {}\n", rights.display())).unwrap();
    }

    /// Returns once it takes connections.
    pub(crate) fn start(&mut self) {
        let programs = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
        let program = programs.into_iter().find(|path| Path::new(path).exists()).unwrap_or("mosquitto");
        let child = Command::new(program).arg("-c").arg(&self.config).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("mosquitto is missing (run `cargo xtask setup`): {e}"));
        self.child = Some(child);
        eventually("mosquitto takes connections", || answers(self.port).then_some(()));
    }

    pub(crate) fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}

/// A subscriber to everything, with a session that outlives connections; it comes back by itself.
pub(crate) struct Watcher {
    client: Client,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    messages: Receiver<Message>,
}

/// What a device has published.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) envelope: Envelope,
    /// Whether it was there before the subscription.
    pub(crate) retained: bool,
}

impl Watcher {
    /// Returns once the broker has confirmed the subscription.
    pub(crate) fn start(broker: &Broker) -> Watcher {
        let mut options = MqttOptions::new("watcher", ("127.0.0.1", broker.port));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600));
        options.set_outgoing_inflight_upper_limit(16);
        options.set_session_store(NothingUnderWay::of(&options));
        let (client, mut connection) = Client::builder(options).capacity(16).build();
        client.subscribe(ALL, QoS::AtLeastOnce).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (said, messages) = channel();
        let (subscribed, confirmed) = channel();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => _ = subscribed.send(()),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let envelope = decode(&publish.payload).unwrap();
                        _ = said.send(Message { envelope, retained: publish.retain });
                    }
                    Err(ConnectionError::RequestsDone) => return,
                    Err(_) if stopped.load(Ordering::Relaxed) => return,
                    // The broker is away: not more than fifty attempts a second.
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                    Ok(_) => {}
                }
            }
        });
        confirmed.recv_timeout(PATIENCE).expect("the broker confirms a subscription");
        Watcher { client, stop, thread: Some(thread), messages }
    }

    /// The next message that `wanted` says yes to.
    pub(crate) fn next(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) if wanted(&message) => return message,
                Ok(_) => {}
                Err(error) => panic!("no {what} came: {error}"),
            }
        }
    }

    pub(crate) fn online(&self) -> Message {
        self.next("birth message", |m| matches!(m.envelope.body, Body::Online(_)))
    }

    pub(crate) fn offline(&self) -> Message {
        self.next("offline message", |m| matches!(m.envelope.body, Body::Offline | Body::Vanished))
    }

    pub(crate) fn leak(&self) -> Message {
        self.next("leak alert", |m| matches!(m.envelope.body, Body::Leak(_)))
    }

    /// Everything that has come and was not asked for.
    pub(crate) fn rest(&self) -> Vec<Message> {
        self.messages.try_iter().collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
