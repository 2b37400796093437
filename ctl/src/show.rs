//! A message as text, for the person in the workshop at night.

mod leak;
mod locks;

use std::fmt::{self, Write};

use glg_proto::wire::{Body, ClockQuality, Envelope, Health, Losses, Target};

use crate::json::class;
use crate::message::Message;
use crate::text::{Escaped, hex, span, utc};

/// A block of lines for a leak, one line for everything else; each line ends with a newline.
pub(crate) fn text(message: &Message) -> Result<String, fmt::Error> {
    let envelope = &message.envelope;
    let device = Escaped(&envelope.device);
    let mut out = String::new();
    match &envelope.body {
        Body::Online(online) => writeln!(
            out,
            "{} {device} is ONLINE: agent {}, Linux {}, {} targets{}{}",
            when(message),
            Escaped(&online.agent),
            Escaped(&online.kernel),
            online.targets,
            retained(message),
            losses(&envelope.losses, "; ")
        )?,
        Body::Offline => writeln!(
            out,
            "{} {device} is OFFLINE{}{}",
            when(message),
            retained(message),
            losses(&envelope.losses, "; ")
        )?,
        // Encoded when the agent started: its time is not when it went.
        Body::Vanished => writeln!(
            out,
            "{device} is OFFLINE without a good-bye; its agent had started {}{}",
            when(message),
            retained(message)
        )?,
        Body::Leak(leak) => leak::write_leak(&mut out, leak, message)?,
        Body::Deadlock(deadlock) => locks::write_deadlock(&mut out, deadlock, envelope)?,
        Body::LockWait(wait) => locks::write_wait(&mut out, wait, envelope)?,
        Body::StuckThreads(threads) => locks::write_threads(&mut out, threads, envelope)?,
        Body::Contention(contention) => locks::write_contention(&mut out, contention, envelope)?,
        Body::Evicted(evicted) => writeln!(
            out,
            "LOST on {device}: {} of class \"{}\" were given up for others, numbers {} to {} of boot {} epoch {}",
            counted(evicted.count, "message"),
            class(evicted.class),
            evicted.first.seq,
            evicted.last_seq,
            hex(&evicted.first.boot, 8),
            evicted.first.epoch
        )?,
        Body::Health(health) => write_health(&mut out, health, message)?,
    }
    if !matches!(envelope.body, Body::Online(_) | Body::Offline | Body::Vanished) {
        write_said(&mut out, message)?;
    }
    Ok(out)
}

/// When and as which message an alert was said, and what was lost before.
fn write_said(out: &mut String, message: &Message) -> fmt::Result {
    let envelope = &message.envelope;
    let boot_s = envelope.at.mono_ms / 1000;
    let size = message.bytes.map_or(String::new(), |bytes| format!(", {bytes} B on the wire"));
    let boot = hex(&envelope.boot, 8);
    writeln!(
        out,
        "  said      {}, {} after boot {boot}, message {}{}{size}{}",
        when(message),
        span(boot_s),
        envelope.seq,
        if message.again { " (again)" } else { "" },
        retained(message)
    )?;
    if !envelope.losses.is_none() {
        writeln!(out, "{}", losses(&envelope.losses, "  "))?;
    }
    Ok(())
}

fn write_health(out: &mut String, health: &Health, message: &Message) -> fmt::Result {
    writeln!(
        out,
        "{} {} fares: {} targets, {} of memory",
        when(message),
        Escaped(&message.envelope.device),
        health.targets,
        kib(u64::from(health.rss_kib) * 1024)
    )?;
    let memory_only =
        if health.memory_only { "; the day's budget is used up, messages are in memory alone" } else { "" };
    writeln!(
        out,
        "  waiting   {}, {} on flash; {} written today{memory_only}",
        counted(health.waiting, "message"),
        kib(health.spool_bytes.into()),
        kib(health.flash_bytes.into())
    )?;
    writeln!(out, "  air       {} sent and received today", kib(health.airtime_bytes.into()))?;
    if health.evicted + health.damaged > 0 {
        writeln!(
            out,
            "  lost      {} given up for others, {} damaged on flash",
            health.evicted, health.damaged
        )?;
    }
    Ok(())
}

/// `1 message`, `3 messages`.
pub(crate) fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `12.3 KiB`.
fn kib(bytes: u64) -> String {
    format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024)
}

/// `LEAK in ota-gateway on van-7 (pid 1412, Go 1.24.11)`.
fn headline(out: &mut String, what: &str, target: &Target, envelope: &Envelope) -> fmt::Result {
    writeln!(
        out,
        "{what} in {} on {} (pid {}, Go 1.{}.{})",
        Escaped(&target.name),
        Escaped(&envelope.device),
        target.pid,
        target.go.0,
        target.go.1
    )
}

/// The device's wall clock, and whether to believe it; where it is known better, that.
fn when(message: &Message) -> String {
    let envelope = &message.envelope;
    if let Some(ms) = message.about_ms {
        return format!("about {}", utc(ms));
    }
    let doubt = match envelope.at.clock {
        ClockQuality::Synced => "",
        ClockQuality::Free => " (clock not synchronised)",
        ClockQuality::Wrong => " (clock WRONG)",
    };
    format!("{}{doubt}", utc(envelope.at.wall_ms))
}

fn retained(message: &Message) -> &'static str {
    if message.retained { ", kept by the broker" } else { "" }
}

/// What was lost since the message before, or nothing.
fn losses(losses: &Losses, lead: &str) -> String {
    let parts = [(losses.alerts, "alerts"), (losses.samples, "samples"), (losses.records, "kernel records")];
    let parts: Vec<String> =
        parts.iter().filter(|(lost, _)| *lost > 0).map(|(lost, what)| format!("{lost} {what}")).collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("{lead}LOST before this message: {}", parts.join(", "))
    }
}
