//! Debian's daemons, each with a folder of its own, on the loopback of a network in which there is nobody else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http::{connect, get, metric, request};
use crate::child::{Child, Source};
use crate::go::Arch;
use crate::setup;

/// No daemon takes longer to come up.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// What syncthing is asked with.
pub(super) const SYNCTHING_KEY: &str = "X-API-Key: silence";

/// A daemon: what it is called, its program, and the port on which it answers.
struct Spec {
    name: &'static str,
    program: &'static str,
    port: u16,
    /// `DIR` stands for its folder.
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Files in its folder.
    files: &'static [(&'static str, &'static str)],
    /// What it says of its own work.
    word: fn() -> Result<String>,
}

/// Where they are, by [`Spec::name`].
pub(super) mod port {
    pub(crate) const NATS: u16 = 4222;
    pub(crate) const NATS_MONITOR: u16 = 8222;
    pub(crate) const ETCD: u16 = 2379;
    pub(crate) const PROMETHEUS: u16 = 9090;
    pub(crate) const NODE_EXPORTER: u16 = 9100;
    pub(crate) const SYNCTHING: u16 = 8384;
    pub(crate) const CADDY: u16 = 8080;
    pub(crate) const CADDY_ADMIN: u16 = 2019;
}

const SPECS: [Spec; 6] = [
    Spec {
        name: "nats-server",
        program: "usr/sbin/nats-server",
        port: port::NATS,
        arguments: &["--addr", "127.0.0.1", "--http_port", "8222", "--jetstream", "--store_dir", "DIR/store"],
        environment: &[],
        files: &[],
        word: || {
            let said: serde_json::Value = serde_json::from_str(&get(port::NATS_MONITOR, "/varz")?)?;
            let of = |key: &str| said[key].as_u64().unwrap_or(0);
            let (read, sent, connections) = (of("in_msgs"), of("out_msgs"), of("total_connections"));
            Ok(format!("{read} messages in, {sent} out, {connections} connections"))
        },
    },
    Spec {
        name: "etcd",
        program: "usr/bin/etcd",
        port: port::ETCD,
        arguments: &["--data-dir", "DIR/data", "--log-level", "error"],
        environment: &[("ETCD_UNSUPPORTED_ARCH", "arm64")],
        files: &[],
        word: || {
            let said = get(port::ETCD, "/metrics")?;
            let puts = metric(&said, "etcd_debugging_mvcc_put_total");
            let sent = metric(&said, "etcd_debugging_mvcc_events_total");
            Ok(format!("{puts} puts, {sent} events watched"))
        },
    },
    Spec {
        name: "prometheus",
        program: "usr/bin/prometheus",
        port: port::PROMETHEUS,
        arguments: &[
            "--config.file=DIR/prometheus.yml",
            "--storage.tsdb.path=DIR/data",
            "--web.listen-address=127.0.0.1:9090",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ],
        environment: &[],
        files: &[("prometheus.yml", "global: {scrape_interval: 15s}\n")],
        word: || {
            let said = get(port::PROMETHEUS, "/metrics")?;
            let samples = metric(&said, "prometheus_tsdb_head_samples_appended_total");
            let requests = metric(&said, "prometheus_http_requests_total");
            Ok(format!("{samples} samples scraped, {requests} requests"))
        },
    },
    Spec {
        name: "node-exporter",
        program: "usr/bin/prometheus-node-exporter",
        port: port::NODE_EXPORTER,
        arguments: &["--web.listen-address=127.0.0.1:9100", "--log.level=error"],
        environment: &[],
        files: &[],
        word: || {
            let said = get(port::NODE_EXPORTER, "/metrics")?;
            Ok(format!("{} requests", metric(&said, "promhttp_metric_handler_requests_total")))
        },
    },
    Spec {
        name: "syncthing",
        program: "usr/bin/syncthing",
        port: port::SYNCTHING,
        arguments: &[
            "serve",
            "--no-browser",
            "--home=DIR",
            "--gui-address=127.0.0.1:8384",
            "--gui-apikey=silence",
        ],
        // As if its monitor had started it: otherwise that one is what we start.
        environment: &[("STMONITORED", "yes"), ("STNOUPGRADE", "1"), ("HOME", "DIR")],
        files: &[],
        word: || {
            let events =
                request(port::SYNCTHING, "GET", "/rest/events?limit=1&timeout=0", &[SYNCTHING_KEY], "")?;
            let said: serde_json::Value = serde_json::from_str(&events)?;
            Ok(format!("{} events", said[0]["id"].as_u64().unwrap_or(0)))
        },
    },
    Spec {
        name: "caddy",
        program: "usr/bin/caddy",
        port: port::CADDY,
        arguments: &["run", "--config", "DIR/Caddyfile", "--adapter", "caddyfile"],
        environment: &[("HOME", "DIR"), ("XDG_DATA_HOME", "DIR"), ("XDG_CONFIG_HOME", "DIR")],
        files: &[
            (
                "Caddyfile",
                "{\n\tadmin 127.0.0.1:2019\n\tauto_https off\n\tservers {\n\t\tmetrics\n\t}\n}\n\
                 http://127.0.0.1:8080 {\n\troot * DIR\n\tfile_server browse\n}\n",
            ),
            ("hello.txt", "hello\n"),
        ],
        word: || {
            let said = get(port::CADDY_ADMIN, "/metrics")?;
            Ok(format!("{} requests", metric(&said, "caddy_http_request_duration_seconds_count")))
        },
    },
];

/// A running daemon; ended when it is dropped.
pub(super) struct Daemon {
    pub(super) name: &'static str,
    pub(super) child: Child,
    pub(super) word: fn() -> Result<String>,
}

/// The programs, for a rule of the agent's.
pub(super) fn programs() -> PathBuf {
    setup::daemons::dir().join(Arch::host().as_str())
}

/// Starts all of them, with everything that they write below `dir`, and returns once each takes connections.
pub(super) fn start_all(dir: &Path) -> Result<Vec<Daemon>> {
    let mut daemons = SPECS.iter().map(|spec| start(spec, dir)).collect::<Result<Vec<_>>>()?;
    for (daemon, spec) in daemons.iter_mut().zip(&SPECS) {
        let began = Instant::now();
        while connect(spec.port).is_err() {
            if daemon.child.ended()?.is_some() || began.elapsed() > UP_WITHIN {
                bail!("{} does not come up\n{}", spec.name, daemon.child.log_tail());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(daemons)
}

fn start(spec: &Spec, dir: &Path) -> Result<Daemon> {
    let home = dir.join(spec.name);
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    let here = |text: &str| text.replace("DIR", &home.display().to_string());
    for (name, content) in spec.files {
        fs::write(home.join(name), here(content)).with_context(|| format!("writing {name}"))?;
    }
    let mut command = Command::new(programs().join(spec.program));
    command.args(spec.arguments.iter().map(|argument| here(argument))).current_dir(&home);
    command.envs(spec.environment.iter().map(|(key, value)| (key, here(value))));
    let child = Child::start(spec.name, Source::Healthy, &command, dir, None)?;
    Ok(Daemon { name: spec.name, child, word: spec.word })
}

/// Has prometheus scrape all that can be scraped, every second.
pub(super) fn scrape(dir: &Path) -> Result<()> {
    let jobs = [port::PROMETHEUS, port::NODE_EXPORTER, port::ETCD, port::CADDY_ADMIN].map(|port| {
        format!("- job_name: \"{port}\"\n  static_configs: [{{targets: [\"127.0.0.1:{port}\"]}}]\n")
    });
    let text = format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n{}", jobs.concat());
    fs::write(dir.join("prometheus/prometheus.yml"), text).context("prometheus.yml")?;
    request(port::PROMETHEUS, "POST", "/-/reload", &[], "").map(|_| ())
}
