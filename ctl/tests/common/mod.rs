//! A real broker, real `glg` processes, and messages as a device sends them.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use glg_proto::topics::Topic;
use glg_proto::wire::{
    Attributed, Body, ClockQuality, Envelope, Grade, Leak, Left, Losses, MESSAGE_MAX, MemoryLimit, Online,
    Site, Target, Timestamp, Trend, Wait, encode, head,
};
use rumqttc::{Client, Event, MqttOptions, Packet, PublishOptions, QoS};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// mosquitto on a loopback port; ended with the test.
pub(crate) struct Broker {
    child: Child,
    config: PathBuf,
    pub(crate) port: u16,
}

impl Broker {
    pub(crate) fn start() -> Broker {
        Broker::start_at(free_port())
    }

    /// Returns once the broker takes connections.
    pub(crate) fn start_at(port: u16) -> Broker {
        Broker::start_with(port, "")
    }

    /// With more lines in its config.
    pub(crate) fn start_with(port: u16, lines: &str) -> Broker {
        let config = std::env::temp_dir().join(format!("glg-broker-{port}.conf"));
        std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n{lines}")).unwrap();
        // Debian keeps it out of the path of ordinary users.
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
        let program =
            program.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap_or("mosquitto");
        let child = Command::new(program).arg("-c").arg(&config).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("mosquitto is missing (apt-get install mosquitto): {e}"));
        let mut broker = Broker { child, config, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(broker.child.try_wait().unwrap().is_none(), "mosquitto ended at once");
            assert!(Instant::now() < deadline, "mosquitto takes no connections");
            std::thread::sleep(Duration::from_millis(10));
        }
        broker
    }

    /// Publishes in order and returns when all are acknowledged.
    pub(crate) fn publish(&self, messages: &[(&str, &[u8], bool)]) {
        let id = format!("device-{}-{:?}", std::process::id(), std::thread::current().id());
        let (client, mut connection) =
            Client::builder(MqttOptions::new(id, ("127.0.0.1", self.port))).capacity(16).build();
        for (topic, payload, retain) in messages {
            let options = PublishOptions::new(QoS::AtLeastOnce).retain(*retain);
            client.publish(*topic, payload.to_vec(), options).unwrap();
        }
        let mut left = messages.len();
        while left > 0 {
            if let Event::Incoming(Packet::PubAck(_)) = connection.recv().unwrap().unwrap() {
                left -= 1;
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

/// A running `glg watch`; ended with the test.
pub(crate) struct Glg {
    child: Child,
    out: Option<Lines<BufReader<ChildStdout>>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Glg {
    /// Starts `glg watch`; it ends by itself in any case, so that a failing test does not hang.
    pub(crate) fn watch(port: u16, arguments: &[&str]) -> Glg {
        let port = port.to_string();
        let patience = PATIENCE.as_secs().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_glg"))
            .args(["watch", "--port", &port, "--timeout", &patience])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = Some(BufReader::new(child.stdout.take().unwrap()).lines());
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Glg { child, out, err }
    }

    pub(crate) fn line(&mut self) -> String {
        self.out.as_mut().unwrap().next().expect("glg ended its output").unwrap()
    }

    pub(crate) fn complaint(&mut self) -> String {
        self.err.next().expect("glg ended its complaints").unwrap()
    }

    pub(crate) fn until_subscribed(&mut self) {
        while self.complaint() != "SUBSCRIBED" {}
    }

    pub(crate) fn close_output(&mut self) {
        self.out = None;
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Glg {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `glg` with `input` and returns its success, output and complaints.
pub(crate) fn run(arguments: &[&str], input: &[u8]) -> (bool, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_glg"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

pub(crate) fn envelope(body: Body) -> Envelope {
    Envelope {
        device: head("van-7"),
        boot: [1, 2, 3, 4, 5, 6, 7, 8],
        epoch: 20,
        seq: 300,
        at: Timestamp { mono_ms: 90_000, wall_ms: 1_795_308_315_000, clock: ClockQuality::Synced },
        losses: Losses { alerts: 0, samples: 2, records: 0 },
        body,
    }
}

pub(crate) fn online() -> Envelope {
    envelope(Body::Online(Online { agent: head("0.1.0"), kernel: head("6.1.0-56"), targets: 3 }))
}

pub(crate) fn leak() -> Envelope {
    let site = |line, attributed| Site {
        function: head("main.(*Gateway).forward"),
        file: head("gateway/forward.go"),
        line,
        wait: Wait::ChanSend,
        count: 4180,
        grew: 212,
        attributed,
        oldest_s: 1750,
        orphans: None,
        marked: 0,
        missing: head(""),
    };
    envelope(Body::Leak(Leak {
        target: Target { name: head("ota-gateway"), pid: 1412, go: (24, 11) },
        grade: Grade::Suspected,
        goroutines: 4412,
        baseline: 230,
        window_s: 1800,
        trend: Some(Trend { low: 8100, per_hour: 8364, high: 8600 }),
        left: Some(Left { minutes: 3120, limit: MemoryLimit::Cgroup }),
        observed: None,
        sites: [site(128, Some(Attributed { created: 171, exited: 3, millis: 8000 })), site(140, None)]
            .into_iter()
            .collect(),
    }))
}

pub(crate) fn payload(envelope: &Envelope) -> Vec<u8> {
    encode(envelope, &mut [0; MESSAGE_MAX]).unwrap().to_vec()
}

pub(crate) fn topic(kind: Topic) -> String {
    kind.of("van-7").unwrap().to_string()
}
