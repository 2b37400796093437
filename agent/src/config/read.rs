//! Reads each section of the merged tree: the allowed ranges and words, and what must agree with what.

use std::net::IpAddr;

use glg_proto::topics;
use glg_proto::wire::DEVICE_MAX;

use super::commands;
use super::prove;
use super::reader::{Reader, Section};
use super::rules::{Action, Rule};
use super::source::Tree;
use super::{
    Attribute, Census, Config, ConfigError, Device, Dump, Growth, History, Locks, Log, Memory, Mqtt, Outbox,
    Ring, Service, Spool, Trend, Watch,
};

/// Rules at most; each is tried on each new process.
const RULES_MAX: usize = 32;

/// The whole tree; no value is used unless all are right.
pub(super) fn config(tree: &Tree) -> Result<Config, ConfigError> {
    let mut r = Reader::new(&tree.files);
    let mut root = r.root(&tree.root);
    let history = read_history(&mut r, &mut root);
    let device = read_device(&mut r, &mut root);
    let mqtt = read_mqtt(&mut r, &mut root);
    let watch = read_watch(&mut r, &mut root);
    let interval_s = watch.interval_ms.div_ceil(1000);
    let config = Config {
        device,
        mqtt,
        watch,
        growth: read_growth(&mut r, &mut root, &history, interval_s),
        history,
        census: read_census(&mut r, &mut root),
        attribute: read_attribute(&mut r, &mut root),
        commands: commands::read(&mut r, &mut root),
        locks: read_locks(&mut r, &mut root, interval_s),
        outbox: read_outbox(&mut r, &mut root),
        spool: read_spool(&mut r, &mut root),
        dump: read_dump(&mut r, &mut root),
        prove: prove::read(&mut r, &mut root),
        service: read_service(&mut r, &mut root),
        memory: read_memory(&mut r, &mut root),
        log: read_log(&mut r, &mut root),
    };
    r.close(&root);
    r.finish()?;
    Ok(config)
}

fn read_device<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Device {
    let mut s = r.section(root, "device");
    let allowed = "\"auto\" or 1 to 32 printable ASCII characters without space, /, +, # and $";
    let name = r.text(&mut s, "name", allowed, topics::is_device_name);
    r.close(&s);
    if name != "auto" {
        return Device { name };
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Device { name: device_name(host.trim()) }
}

/// A host name made fit for a topic.
pub(super) fn device_name(host: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = host.chars().map(fit).take(DEVICE_MAX).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

fn read_mqtt<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Mqtt {
    let mut s = r.section(root, "mqtt");
    let host_fits =
        // Neither a URL nor with its port: those have a place of their own.
        |host: &str| {
            let name = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
            (1..=253).contains(&host.len()) && (name || host.parse::<IpAddr>().is_ok())
        };
    let mut mqtt = Mqtt {
        host: r.text(&mut s, "host", "a host name or IP address, without scheme and port", host_fits),
        port: narrow(r.integer(&mut s, "port", 1..=65535, "TCP port")),
        keep_alive_s: narrow(r.integer(&mut s, "keep_alive_s", 5..=1200, "seconds")),
        session_expiry_s: r.integer(&mut s, "session_expiry_s", 0..=604_800, "seconds"),
        username: filled(r.text(&mut s, "username", "0 to 128 characters", |t| t.len() <= 128)),
        password_file: filled(r.text(&mut s, "password_file", "0 to 256 characters", |t| t.len() <= 256)),
        backoff_min_ms: r.integer(&mut s, "backoff_min_ms", 100..=60_000, "milliseconds"),
        backoff_max_ms: r.integer(&mut s, "backoff_max_ms", 1000..=3_600_000, "milliseconds"),
        airtime_kib: r.integer(&mut s, "airtime_kib", 0..=1_048_576, "KiB a day, 0 for no limit"),
        tls: None,
    };
    mqtt.tls = read_tls(r, &mut s, &mqtt.host);
    if mqtt.backoff_max_ms < mqtt.backoff_min_ms {
        let allowed = format!("at least mqtt.backoff_min_ms, {} (milliseconds)", mqtt.backoff_min_ms);
        r.refuse_beside(&s, "backoff_max_ms", &allowed);
    }
    if mqtt.password_file.is_some() && mqtt.username.is_none() {
        r.refuse_beside(&s, "password_file", "only together with mqtt.username");
    }
    r.close(&s);
    mqtt
}

/// The keys of TLS, which must be right also when it is off.
fn read_tls<'t>(r: &mut Reader<'t>, s: &mut Section<'t>, host: &str) -> Option<glg_tls::Settings> {
    let wanted = r.boolean(s, "tls");
    let [ca, cert, key] = ["ca_file", "cert_file", "key_file"]
        .map(|name| filled(r.text(s, name, "0 to 256 characters", |text| text.len() <= 256)));
    let alpn_fits = |text: &str| (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
    let alpn = r.texts(s, "alpn", 8, "up to 8 names of 1 to 64 printable ASCII characters", alpn_fits);
    let name_fits = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        name.len() <= 253 && (name.chars().all(fits) || name.parse::<IpAddr>().is_ok())
    };
    let server_name = filled(r.text(s, "server_name", "a host name or IP address, \"\" for host", name_fits));
    if wanted && ca.is_none() {
        r.refuse_beside(s, "ca_file", "a file, since mqtt.tls is true");
    }
    if cert.is_some() != key.is_some() {
        let missing = if cert.is_none() { "cert_file" } else { "key_file" };
        r.refuse_beside(s, missing, "mqtt.cert_file and mqtt.key_file only together");
    }
    let own = cert.zip(key).map(|(cert, key)| (cert.into(), key.into()));
    let server_name = server_name.unwrap_or_else(|| host.to_owned());
    wanted.then(|| glg_tls::Settings { ca: ca.unwrap_or_default().into(), own, alpn, server_name })
}

/// The empty text stands for none.
fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// For numbers whose range has been checked.
pub(super) fn narrow(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn read_watch<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Watch {
    let mut s = r.section(root, "watch");
    let interval_ms = r.integer(&mut s, "interval_ms", 100..=60_000, "milliseconds");
    let rescan_s = r.integer(&mut s, "rescan_s", 5..=3600, "seconds");
    let max_targets = r.integer(&mut s, "max_targets", 1..=64, "processes");
    let mut rules = Vec::new();
    for mut rule in r.sections(&mut s, "match", RULES_MAX) {
        let pattern = "a pattern of 1 to 256 characters";
        let fits = |text: &str| (1..=256).contains(&text.len());
        let name = r.optional_text(&mut rule, "name", pattern, fits);
        let path = r.optional_text(&mut rule, "path", pattern, fits);
        let action = r.choice(&mut rule, "action", &[("watch", Action::Watch), ("ignore", Action::Ignore)]);
        r.close(&rule);
        rules.extend(action.map(|action| Rule { name, path, action }));
    }
    r.close(&s);
    Watch { interval_ms, rescan_s, max_targets, rules }
}

fn read_history<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> History {
    let mut s = r.section(root, "history");
    let fine = read_ring(r, &mut s, "fine", 1, 60, None);
    let middle = read_ring(r, &mut s, "middle", 2, 3600, Some(("history.fine.step_s", fine)));
    let coarse = read_ring(r, &mut s, "coarse", 4, 86_400, Some(("history.middle.step_s", middle)));
    r.close(&s);
    History { fine, middle, coarse }
}

fn read_ring<'t>(
    r: &mut Reader<'t>,
    history: &mut Section<'t>,
    key: &'static str,
    step_min: u32,
    step_max: u32,
    finer: Option<(&str, Ring)>,
) -> Ring {
    let mut s = r.section(history, key);
    let step_s = r.integer(&mut s, "step_s", step_min..=step_max, "seconds");
    let keep = r.integer(&mut s, "keep", 10..=3600, "entries");
    if let Some((name, finer)) = finer
        && (step_s <= finer.step_s || !step_s.is_multiple_of(finer.step_s))
    {
        r.refuse_beside(&s, "step_s", &format!("a multiple of {name}, {} (seconds)", finer.step_s));
    }
    r.close(&s);
    Ring { step_s, keep }
}

fn read_growth<'t>(r: &mut Reader<'t>, root: &mut Section<'t>, history: &History, interval_s: u32) -> Growth {
    let mut s = r.section(root, "growth");
    let growth = Growth {
        fast: read_trend(r, &mut s, "fast", "history.fine", history.fine, interval_s),
        medium: read_trend(r, &mut s, "medium", "history.middle", history.middle, interval_s),
        slow: read_trend(r, &mut s, "slow", "history.coarse", history.coarse, interval_s),
        confirm_s: r.integer(&mut s, "confirm_s", 1..=3600, "seconds"),
        remind_s: r.integer(&mut s, "remind_s", 60..=604_800, "seconds"),
    };
    r.close(&s);
    growth
}

fn read_trend<'t>(
    r: &mut Reader<'t>,
    growth: &mut Section<'t>,
    key: &'static str,
    ring_name: &str,
    ring: Ring,
    interval_s: u32,
) -> Trend {
    let mut s = r.section(growth, key);
    let trend = read_rule(r, &mut s, "goroutines");
    if trend.window_s > ring.span_s() {
        let allowed = format!("at most {} (seconds; step_s x keep of {ring_name})", ring.span_s());
        r.refuse_beside(&s, "window_s", &allowed);
    }
    // The detector needs a count in each eighth of the window.
    let least = 8 * ring.step_s.max(interval_s);
    if trend.window_s < least {
        let allowed =
            format!("at least {least} (seconds; 8 x the longer of {ring_name}.step_s and watch.interval_ms)");
        r.refuse_beside(&s, "window_s", &allowed);
    }
    r.close(&s);
    trend
}

fn read_census<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Census {
    let mut s = r.section(root, "census");
    let census = Census {
        max_goroutines: r.integer(&mut s, "max_goroutines", 100..=5_000_000, "goroutines"),
        max_sites: r.integer(&mut s, "max_sites", 16..=8192, "sites"),
        max_ages: r.integer(&mut s, "max_ages", 16..=65_536, "goroutines"),
        chunk_bytes: r.integer(&mut s, "chunk_bytes", 4096..=1_048_576, "bytes"),
    };
    r.close(&s);
    census
}

fn read_attribute<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Attribute {
    let mut s = r.section(root, "attribute");
    let attribute = Attribute {
        enabled: r.boolean(&mut s, "enabled"),
        seconds: r.integer(&mut s, "seconds", 1..=600, "seconds"),
        budget_percent: r.number(&mut s, "budget_percent", 0.01..=100.0, "per cent of one core"),
        max_sites: r.integer(&mut s, "max_sites", 16..=8192, "sites"),
    };
    r.close(&s);
    attribute
}

fn read_outbox<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Outbox {
    let mut s = r.section(root, "outbox");
    let outbox = Outbox { alerts: r.integer(&mut s, "alerts", 1..=4096, "alerts") };
    r.close(&s);
    outbox
}

fn read_spool<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Spool {
    let mut s = r.section(root, "spool");
    let fits =
        |path: &str| path.is_empty() || path.len() <= 256 && path.starts_with('/') && !path.ends_with('/');
    let allowed = "the absolute path of a directory, at most 256 characters, or \"\"";
    let spool = Spool {
        dir: r.text(&mut s, "dir", allowed, fits),
        max_kib: r.integer(&mut s, "max_kib", 64..=65_536, "KiB"),
        messages: r.integer(&mut s, "messages", 16..=8192, "messages"),
        max_age_s: r.integer(&mut s, "max_age_s", 3600..=31_536_000, "seconds"),
        write_kib_per_day: r.integer(&mut s, "write_kib_per_day", 64..=1_048_576, "KiB"),
        checkpoint_min: r.integer(&mut s, "checkpoint_min", 0..=1440, "minutes, 0 for only at the end"),
        health_s: r.integer(&mut s, "health_s", 0..=604_800, "seconds, 0 for never"),
    };
    r.close(&s);
    spool
}

fn read_rule<'t>(r: &mut Reader<'t>, s: &mut Section<'t>, of: &str) -> Trend {
    Trend {
        window_s: r.integer(s, "window_s", 5..=604_800, "seconds"),
        min_rise: r.integer(s, "min_rise", 1..=1_000_000, of),
        min_ratio_percent: r.integer(s, "min_ratio_percent", 1..=100_000, "per cent"),
    }
}

fn read_locks<'t>(r: &mut Reader<'t>, root: &mut Section<'t>, interval_s: u32) -> Locks {
    let mut s = r.section(root, "locks");
    let locks = Locks {
        enabled: r.boolean(&mut s, "enabled"),
        max_threads: r.integer(&mut s, "max_threads", 16..=8192, "threads"),
        deadlock_s: r.integer(&mut s, "deadlock_s", 2..=600, "seconds"),
        wait_s: r.integer(&mut s, "wait_s", 10..=86_400, "seconds"),
        max_goroutines: r.integer(&mut s, "max_goroutines", 100..=1_000_000, "goroutines"),
        contention_s: r.integer(&mut s, "contention_s", 0..=600, "seconds"),
        contended_percent: r.integer(&mut s, "contended_percent", 1..=10_000, "per cent"),
        threads: {
            let mut threads = r.section(&mut s, "threads");
            let rule = read_rule(r, &mut threads, "threads");
            let least = 8 * interval_s;
            if rule.window_s < least {
                let allowed = format!("at least {least} (seconds; 8 x watch.interval_ms)");
                r.refuse_beside(&threads, "window_s", &allowed);
            }
            r.close(&threads);
            rule
        },
    };
    r.close(&s);
    locks
}

fn read_dump<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Dump {
    let mut s = r.section(root, "dump");
    let dump = Dump {
        max_goroutines: r.integer(&mut s, "max_goroutines", 100..=10_000_000, "goroutines"),
        max_stack_kib: r.integer(&mut s, "max_stack_kib", 16..=1024, "KiB"),
        max_frames: r.integer(&mut s, "max_frames", 128..=16_384, "frames"),
        max_stacks: r.integer(&mut s, "max_stacks", 16..=16_384, "stacks"),
        max_places: r.integer(&mut s, "max_places", 64..=65_536, "places"),
        text_kib: r.integer(&mut s, "text_kib", 16..=16_384, "KiB"),
    };
    r.close(&s);
    dump
}

fn read_service<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Service {
    let mut s = r.section(root, "service");
    let fits =
        |path: &str| path.is_empty() || path.len() <= 256 && path.starts_with('/') && !path.ends_with('/');
    let allowed = "the absolute path of a file, at most 256 characters, or \"\"";
    let service = Service { state: r.text(&mut s, "state", allowed, fits) };
    r.close(&s);
    service
}

fn read_memory<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Memory {
    let mut s = r.section(root, "memory");
    let memory = Memory { budget_kib: r.integer(&mut s, "budget_kib", 64..=65_536, "KiB") };
    r.close(&s);
    memory
}

fn read_log<'t>(r: &mut Reader<'t>, root: &mut Section<'t>) -> Log {
    use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
    let words = [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
    let mut s = r.section(root, "log");
    let level = r.choice(&mut s, "level", &words).unwrap_or(Info);
    r.close(&s);
    Log { level }
}
