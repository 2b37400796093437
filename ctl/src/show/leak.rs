//! A leak as text.

use std::fmt::{self, Write};

use glg_proto::wire::{Attributed, Grade, Leak, Left, MemoryLimit, Site, Trend};

use super::{counted, headline};
use crate::message::Message;
use crate::text::{Escaped, span, utc};

pub(super) fn write_leak(out: &mut String, leak: &Leak, message: &Message) -> fmt::Result {
    headline(out, "LEAK", &leak.target, &message.envelope)?;
    writeln!(out, "  grade     {}", grade(leak))?;
    write_growth(out, leak, message)?;
    if let Some(Left { minutes, limit }) = leak.left {
        let of = match limit {
            MemoryLimit::Machine => "all that the machine has",
            MemoryLimit::Cgroup => "the limit of its control group",
        };
        writeln!(out, "  memory    used up in about {} at this rate: {of}", span(u64::from(minutes) * 60))?;
    }
    if leak.sites.is_empty() {
        writeln!(out, "  created   unknown: no site could be named")?;
    }
    for site in &leak.sites {
        write_site(out, site)?;
    }
    Ok(())
}

fn write_growth(out: &mut String, leak: &Leak, message: &Message) -> fmt::Result {
    if leak.window_s == 0 {
        return writeln!(out, "  growth    {} goroutines, not seen to grow by this agent", leak.goroutines);
    }
    let rise = i64::from(leak.goroutines) - i64::from(leak.baseline);
    writeln!(
        out,
        "  growth    {} goroutines, {} {} ago: {rise:+}{}",
        leak.goroutines,
        leak.baseline,
        span(u64::from(leak.window_s)),
        rate(rise, leak.window_s)
    )?;
    if let Some(Trend { low, per_hour, high }) = leak.trend {
        writeln!(out, "  trend     {per_hour:+} an hour, {low:+} to {high:+} in 95 of 100 cases")?;
    }
    if let Some(said) = message.said_ms() {
        let since = said.saturating_sub(u64::from(leak.window_s) * 1000);
        writeln!(out, "  since     {} or before", utc(since))?;
    }
    Ok(())
}

fn write_site(out: &mut String, site: &Site) -> fmt::Result {
    writeln!(out, "  created   in {} at {}:{}", Escaped(&site.function), Escaped(&site.file), site.line)?;
    let mut told = format!("{} in \"{}\"", counted(site.count, "goroutine"), site.wait);
    if site.grew > 0 {
        told += &format!(", {} more than at the first look", site.grew);
    }
    if site.oldest_s > 0 {
        told += &format!(", the oldest for {} or longer", span(site.oldest_s.into()));
    }
    writeln!(out, "            {told}")?;
    if let Some(Attributed { created, exited, millis }) = site.attributed {
        let seconds = f64::from(millis) / 1000.0;
        writeln!(out, "            created {created}, exited {exited} while watched for {seconds:.1} s")?;
    }
    if let Some(orphans) = site.orphans.filter(|orphans| *orphans > 0) {
        writeln!(out, "            of {orphans} the goroutine that created them has ended")?;
    }
    if site.marked > 0 {
        writeln!(out, "            of {} the program's own runtime says that they are leaked", site.marked)?;
    }
    if !site.missing.is_empty() {
        writeln!(out, "            likely missing: {}", Escaped(&site.missing))?;
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

fn grade(leak: &Leak) -> String {
    let over = leak.observed.map_or(String::new(), |observed| {
        let (passes, time) = (observed.passes, span(observed.seconds.into()));
        match leak.grade {
            Grade::Proven => format!(", in {passes} of {passes} passes over {time}"),
            Grade::Suspected | Grade::Stuck => format!(", for {time}"),
        }
    });
    let grade = match leak.grade {
        Grade::Suspected => "suspected: the number grows",
        Grade::Stuck => "stuck: they never ran while they were observed",
        Grade::Proven => "proven: nothing that can still run reaches what they wait for",
    };
    format!("{grade}{over}")
}
