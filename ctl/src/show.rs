//! A message as text, for the person in the workshop at night.

mod locks;

use std::fmt::{self, Write};

use glg_proto::wire::{Attributed, Body, ClockQuality, Envelope, Grade, Health, Leak, Losses, Site, Target};

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
        Body::Leak(leak) => write_leak(&mut out, leak, message)?,
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

fn write_leak(out: &mut String, leak: &Leak, message: &Message) -> fmt::Result {
    headline(out, "LEAK", &leak.target, &message.envelope)?;
    let rise = i64::from(leak.goroutines) - i64::from(leak.baseline);
    writeln!(
        out,
        "  growth    {} goroutines, {} {} ago: {rise:+}{}",
        leak.goroutines,
        leak.baseline,
        span(u64::from(leak.window_s)),
        rate(rise, leak.window_s)
    )?;
    if let Some(said) = message.said_ms() {
        let since = said.saturating_sub(u64::from(leak.window_s) * 1000);
        writeln!(out, "  since     {} or before", utc(since))?;
    }
    writeln!(out, "  grade     {}", grade(leak.grade))?;
    if leak.sites.is_empty() {
        writeln!(out, "  created   unknown: no site could be named")?;
    }
    for site in &leak.sites {
        write_site(out, site)?;
    }
    Ok(())
}

fn write_site(out: &mut String, site: &Site) -> fmt::Result {
    writeln!(out, "  created   in {} at {}:{}", Escaped(&site.function), Escaped(&site.file), site.line)?;
    writeln!(
        out,
        "            {} goroutines in \"{}\", {} more than at the first look",
        site.count, site.wait, site.grew
    )?;
    if let Some(Attributed { created, exited, millis }) = site.attributed {
        let seconds = f64::from(millis) / 1000.0;
        writeln!(out, "            created {created}, exited {exited} while watched for {seconds:.1} s")?;
    }
    Ok(())
}

/// `, about 139 a minute`, in the unit that gives a number of some size.
fn rate(rise: i64, window_s: u32) -> String {
    if rise <= 0 || window_s == 0 {
        return String::new();
    }
    let window = i64::from(window_s);
    let units = [(1, "second"), (60, "minute"), (3600, "hour"), (86_400, "day")];
    let fits =
        units.iter().map(|(seconds, unit)| (rise * seconds / window, unit)).find(|(count, _)| *count >= 2);
    fits.map_or(String::new(), |(count, unit)| format!(", about {count} a {unit}"))
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Suspected => "suspected: the number grows",
        Grade::Stuck => "stuck: they never ran while they were observed",
        Grade::Proven => "proven: nothing that can still run reaches what they wait for",
    }
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
