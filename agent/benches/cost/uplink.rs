//! What the uplink costs in bytes: on the wire of alerts and of doing nothing, and on flash; and how a fleet comes back
//! after its broker was away. Counts, not times: another machine gives the same.

#[path = "../../src/link/backoff.rs"]
#[allow(dead_code, unused_imports, reason = "the rest, and its tests, are the link's")]
mod backoff;
mod stand;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use glg_engine::flash::InMemory;
use glg_engine::history::checkpoint::Checkpoint;
use glg_engine::history::{History, Waits};
use glg_engine::outbox::{Origin, Outbox};
use glg_engine::spool::budget::Share;
use glg_engine::step::TargetId;
use glg_proto::topics::Topic;
use glg_proto::wire::{
    ALERT_MAX, Attributed, Body, Class, ClockQuality, Envelope, Grade, Health, Leak, Left, Losses,
    MemoryLimit, Site, Target, Timestamp, Trend, Wait, encode_alert, head,
};
use goleakguard::config::Config;
use goleakguard::link::Message;

use crate::Effort;
use crate::row::{self, Goal, Spread, grouped};
use backoff::Backoff;
use stand::{DEVICE, KEEP_ALIVE_S, Stand};

/// Bytes that an alert may take on the wire.
const ALERT_GOAL: f64 = 300.0;
const DAY_S: u64 = 24 * 3600;
const MONTH_S: u64 = 30 * DAY_S;
/// Alerts of the simulated day.
const ALERTS_A_DAY: u64 = 24;
/// Programs whose history is kept.
const TARGETS: u32 = 10;
/// Vehicles whose broker was away, and how often each has tried then.
const FLEET: usize = 1000;
const ATTEMPTS: usize = 5;
const BOOT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// One after the other.
pub(crate) fn measure(effort: Effort) -> Result<()> {
    let board = std::env::temp_dir().join(format!("glg-bench-uplink-{}.toml", std::process::id()));
    std::fs::write(&board, format!("[device]\nname = \"{DEVICE}\"\n")).context("writing a board")?;
    let config = Config::load(&board);
    std::fs::remove_file(&board)?;
    let config = config?;
    let stand = Stand::start();
    alerts(&stand)?;
    idle(&stand, effort, config.mqtt.keep_alive_s.into())?;
    drop(stand);
    flash(&config)?;
    storm(config.mqtt.backoff_min_ms, config.mqtt.backoff_max_ms);
    Ok(())
}

/// A ratio that is the same whenever it is measured, or nearly.
fn count(name: &str, ratios: &[f64], goal: Goal, figures: &str) {
    row::print(name, Spread::of(ratios), goal, figures);
}

#[allow(clippy::cast_precision_loss, reason = "no count here has 52 bits")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Each by itself, one after the other over one connection.
fn alerts(stand: &Stand) -> Result<()> {
    let payload = encode_alert(&mut leak(0), &mut [0; ALERT_MAX]).map_err(|_| too_large())?.to_vec();
    let mut taken = Vec::new();
    for seq in 0..9 {
        let before = stand.bytes();
        let payload = payload.clone();
        stand.send(Message { topic: Topic::Alert, payload, seq, class: Class::Warning, expiry_s: None });
        taken.push(stand.bytes() - before);
    }
    let [first, rest @ ..] = &taken[..] else { bail!("no alerts") };
    // One packet there, one back, and its acknowledgement by TCP.
    let headers = 3 * 52;
    let median = Spread::of(&rest.iter().map(|bytes| float(*bytes)).collect::<Vec<_>>()).median;
    let figures = format!(
        "{median:.0} B for {} B of payload, {headers} B of it headers of TCP and IP; the first of a connection {first} B",
        payload.len()
    );
    let shares = |bytes: f64| [bytes / ALERT_GOAL];
    count("an alert with TLS and acknowledgement : 300 B", &shares(median), Goal::AtMost(1.0), &figures);
    let inside = median - f64::from(headers);
    let figures = format!("{inside:.0} B");
    count("the same without headers of TCP and IP : 300 B", &shares(inside), Goal::AtMost(1.0), &figures);
    Ok(())
}

/// Some keep-alives, of which a month is reckoned.
fn idle(stand: &Stand, effort: Effort, keep_alive_s: u64) -> Result<()> {
    let cycles = effort.pick(2, 5);
    let mut at = next_keep_alive(stand)?;
    let mut bytes = Vec::new();
    for _ in 0..cycles {
        let before = stand.bytes();
        let (next, after) = (next_keep_alive(stand)?, stand.bytes());
        bytes.push(float(after - before));
        let pause = (next - at).as_secs_f64();
        if (pause / float(KEEP_ALIVE_S) - 1.0).abs() > 0.2 {
            bail!("{pause:.1} s between two keep-alives");
        }
        at = next;
    }
    let a_month = float(MONTH_S / keep_alive_s) / 1e6;
    let months: Vec<f64> = bytes.iter().map(|bytes| bytes * a_month).collect();
    let figures = format!(
        "{:.0} B each, headers included; extrapolated from {cycles} of them {KEEP_ALIVE_S} s apart to a month of one \
         every {keep_alive_s} s",
        Spread::of(&bytes).median
    );
    count("MB in a month without a message", &months, Goal::None, &figures);
    Ok(())
}

/// When the next one was over: nothing has passed for some time after it.
fn next_keep_alive(stand: &Stand) -> Result<Instant> {
    let (before, deadline) = (stand.bytes(), Instant::now() + Duration::from_secs(3 * KEEP_ALIVE_S));
    while stand.bytes() == before {
        if Instant::now() > deadline {
            bail!("no keep-alive within {} s", 3 * KEEP_ALIVE_S);
        }
        sleep(Duration::from_millis(10));
    }
    let at = Instant::now();
    sleep(Duration::from_millis(500));
    Ok(at)
}

/// A day at the defaults, and what a checkpoint of the history takes of it.
fn flash(config: &Config) -> Result<()> {
    let budget = f64::from(config.outbox_limits().write_bytes_per_day);
    let (messages, checkpoint) = (day(config)?, checkpoint(config)?);
    let each = DAY_S / u64::from(config.spool.health_s.max(1));
    let kib = |bytes: u32| grouped(u64::from(bytes) / 1024);
    let figures = format!(
        "{} KiB for {ALERTS_A_DAY} alerts and {each} of health, acknowledgements included",
        kib(messages)
    );
    let share = [f64::from(messages) / budget];
    count("flash in a day of alerts and health : its budget", &share, Goal::AtMost(1.0), &figures);
    let figures = format!("{} KiB for {TARGETS} programs; half of the budget is for these", kib(checkpoint));
    let share = [f64::from(checkpoint) / budget];
    count("flash of one checkpoint of the history : a day's budget", &share, Goal::None, &figures);
    Ok(())
}

/// Bytes of flash in a day, minute by minute, with a link that takes everything: what the outbox's own ledger says at
/// the end of it.
fn day(config: &Config) -> Result<u32> {
    let mut outbox = outbox(config);
    let every = |second: u64, period: u64| period > 0 && second.is_multiple_of(period);
    // The budget's day begins with the first write and is not over yet.
    for second in (60..DAY_S).step_by(60) {
        outbox.tick(now(second));
        if every(second, DAY_S / ALERTS_A_DAY) {
            outbox.push(leak(second)).map_err(|_| too_large())?;
        }
        if every(second + 1800, config.spool.health_s.into()) {
            outbox.push(health(second)).map_err(|_| too_large())?;
        }
        while let Some((ticket, _)) = outbox.send_next() {
            outbox.acknowledged(ticket);
        }
    }
    let figures = outbox.figures();
    if figures.memory_only.is_some() || figures.waiting > 0 {
        bail!("the day did not go well: {figures:?}");
    }
    Ok(figures.flash_bytes)
}

/// Bytes of flash of one, of programs whose rings are full.
fn checkpoint(config: &Config) -> Result<u32> {
    let mut outbox = outbox(config);
    let rings = config.history.to_engine();
    let mut history = History::new(&rings);
    for second in 0..rings.coarse.step_s * rings.coarse.keep {
        history.add(second, 300 + second / 60 % 7, Waits::default(), 60_000 + second % 512);
    }
    let targets = (0..TARGETS).map(|pid| (TargetId { pid, start: 1 }, None, &history));
    let written = Checkpoint::default().replace(outbox.store(), BOOT, targets, Share::Half);
    written.map_err(|error| anyhow::anyhow!("no checkpoint: {error:?}"))?;
    Ok(outbox.figures().flash_bytes)
}

fn outbox(config: &Config) -> Outbox {
    let origin = Origin { device: head(DEVICE), boot: BOOT, epoch: 1 };
    Outbox::open(Box::new(InMemory::default()), config.outbox_limits(), origin, now(0))
}

/// The busiest second of a fleet whose broker is away, against agents that wait without chance.
fn storm(min_ms: u32, max_ms: u32) {
    let (mut times, mut without) = (vec![Vec::new(); ATTEMPTS], Vec::new());
    for _ in 0..FLEET {
        let (mut backoff, mut at) = (Backoff::new(min_ms, max_ms), Duration::ZERO);
        let mut even = Duration::ZERO;
        for (number, attempt) in (0..).zip(&mut times) {
            at += backoff.next();
            attempt.push(at);
            even += Duration::from_millis(u64::from(min_ms.saturating_mul(1 << number).min(max_ms)));
            without.push(even);
        }
    }
    let busiest_of = |times: &Vec<Duration>| busiest(times.clone());
    let each: Vec<String> = times.iter().map(|times| busiest_of(times).to_string()).collect();
    let share = |attempts: usize, of: usize| [float(attempts as u64) / float(of as u64)];
    let last = times.last().map_or(0, busiest_of);
    let figures =
        format!("of {FLEET} agents, by attempt: {}; without chance all of them each time", each.join(", "));
    let name = "agents that try for the 5th time in the busiest second : all";
    count(name, &share(last, FLEET), Goal::AtMost(0.2), &figures);
    let (all, without) = (busiest(times.concat()), busiest(without));
    let figures = format!("{all} : {without}, of {} attempts", FLEET * ATTEMPTS);
    let name = "attempts in the busiest second of the first five each : without chance";
    count(name, &share(all, without), Goal::None, &figures);
}

/// The most that come within one second, wherever it begins.
fn busiest(mut times: Vec<Duration>) -> usize {
    times.sort_unstable();
    let within = |(first, from): (usize, &Duration)| {
        times.partition_point(|time| *time < *from + Duration::from_secs(1)) - first
    };
    times.iter().enumerate().map(within).max().unwrap_or(0)
}

fn now(second: u64) -> Timestamp {
    let wall_ms = 1_795_308_315_000 + second * 1000;
    Timestamp { mono_ms: 90_000 + second * 1000, wall_ms, clock: ClockQuality::Synced }
}

fn envelope(second: u64, body: Body) -> Envelope {
    Envelope {
        device: head(DEVICE),
        boot: BOOT,
        epoch: 20,
        seq: 300,
        at: now(second),
        losses: Losses::default(),
        body,
    }
}

/// As typical as that in the tests of the wire format.
fn leak(second: u64) -> Envelope {
    let site = Site {
        function: head("main.(*Gateway).forward"),
        file: head("/build/vehicle/gateway/forward.go"),
        line: 128,
        wait: Wait::ChanSend,
        count: 4180,
        grew: 212,
        attributed: Some(Attributed { created: 171, exited: 0, millis: 8000 }),
        oldest_s: 1750,
        orphans: None,
        marked: 0,
        missing: head(""),
    };
    let leak = Leak {
        target: Target { name: head("ota-gateway"), pid: 1412, go: (24, 11) },
        grade: Grade::Suspected,
        goroutines: 4412,
        baseline: 230,
        window_s: 1800,
        trend: Some(Trend { low: 8100, per_hour: 8364, high: 8600 }),
        left: Some(Left { minutes: 3120, limit: MemoryLimit::Cgroup }),
        observed: None,
        sites: [site].into_iter().collect(),
    };
    envelope(second, Body::Leak(leak))
}

fn too_large() -> anyhow::Error {
    anyhow::anyhow!("a message that is too large")
}

fn health(second: u64) -> Envelope {
    let health = Health {
        targets: 10,
        waiting: 0,
        spool_bytes: 16_384,
        flash_bytes: 300_000,
        memory_only: false,
        evicted: 0,
        damaged: 0,
        airtime_bytes: 200_000,
        rss_kib: 6000,
    };
    envelope(second, Body::Health(health))
}
