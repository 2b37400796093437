//! Deadlocks and long waits as text.

use std::fmt::{self, Write};

use glg_proto::locks::{Contention, Deadlock, LockKind, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::Envelope;

use super::headline;
use crate::text::{Escaped, span};

pub(super) fn write_deadlock(out: &mut String, deadlock: &Deadlock, envelope: &Envelope) -> fmt::Result {
    headline(out, "DEADLOCK", &deadlock.target, envelope)?;
    let how =
        if deadlock.inferred { ", as far as can be concluded from what goroutines refer to" } else { "" };
    let who = match deadlock.total {
        1 => "one waits for itself".to_owned(),
        total => format!("{total} wait for each other"),
    };
    writeln!(out, "  verdict   {who} and will never go on{how}")?;
    writeln!(out, "  since     {} at least", span(u64::from(deadlock.age_s)))?;
    for member in &deadlock.members {
        write_stuck(out, member)?;
    }
    let unnamed = usize::from(deadlock.total).saturating_sub(deadlock.members.len());
    if unnamed > 0 {
        writeln!(out, "            and {unnamed} more: see goleakguard locks --pid {}", deadlock.target.pid)?;
    }
    Ok(())
}

pub(super) fn write_wait(out: &mut String, wait: &LockWait, envelope: &Envelope) -> fmt::Result {
    headline(out, "LOCK WAIT", &wait.target, envelope)?;
    writeln!(
        out,
        "  since     {} at least, {} threads in all",
        span(u64::from(wait.waited_s)),
        wait.waiters
    )?;
    write_stuck(out, &wait.waiter)?;
    match wait.owner {
        LockOwner::Unknown => writeln!(out, "  held by   unknown: the lock does not say"),
        LockOwner::Thread(tid) => {
            writeln!(out, "  held by   thread {tid}, which is in no deadlock we know of")
        }
        LockOwner::Exited(tid) => {
            writeln!(out, "  held by   thread {tid}, which has ENDED: nobody will ever release it")
        }
    }
}

pub(super) fn write_threads(out: &mut String, threads: &StuckThreads, envelope: &Envelope) -> fmt::Result {
    headline(out, "THREADS STUCK", &threads.target, envelope)?;
    writeln!(
        out,
        "  growth    {} threads in C or in system calls, {} {} ago; {} threads in all",
        threads.away,
        threads.baseline,
        span(u64::from(threads.window_s)),
        threads.threads
    )?;
    writeln!(
        out,
        "            {} goroutines locked to a thread, {} threads that Go does not know",
        threads.pinned, threads.foreign
    )
}

pub(super) fn write_contention(
    out: &mut String,
    contention: &Contention,
    envelope: &Envelope,
) -> fmt::Result {
    headline(out, "CONTENTION", &contention.target, envelope)?;
    let (observed_us, total_us) =
        (u64::from(contention.observed_ms) * 1000, u64::from(contention.total_ms) * 1000);
    let percent = total_us * 100 / observed_us.max(1);
    let kind = contention.waiter.kind.as_str();
    writeln!(
        out,
        "  waited    {} times for a {kind} within {}, {} in all: {percent} % of the time",
        contention.waits,
        time(observed_us),
        time(total_us)
    )?;
    writeln!(
        out,
        "            {} the longest, half up to {}, 99 % up to {}",
        time(contention.longest_us.into()),
        time(contention.median_us.into()),
        time(contention.p99_us.into())
    )?;
    if contention.waiter.tid == 0 {
        return writeln!(out, "  lock      at {:#x}; nobody was met waiting", contention.waiter.lock);
    }
    write_stuck(out, &contention.waiter)
}

/// `128 µs`, `4.1 ms`, `8.3 s`.
fn time(us: u64) -> String {
    let tenths = |of: u64, unit: &str| match us / of {
        whole @ 0..10 => format!("{whole}.{} {unit}", us % of * 10 / of),
        whole => format!("{whole} {unit}"),
    };
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => tenths(1000, "ms"),
        _ => tenths(1_000_000, "s"),
    }
}

fn write_stuck(out: &mut String, stuck: &Stuck) -> fmt::Result {
    match stuck.tid {
        0 => write!(out, "  waits     goroutine {}", stuck.goid)?,
        tid => write!(out, "  waits     thread {tid}")?,
    }
    match stuck.kind {
        LockKind::Go => write!(out, " for Go: a channel or a lock")?,
        kind => write!(out, " for a {}", kind.as_str())?,
    }
    if stuck.lock != 0 {
        write!(out, " at {:#x}", stuck.lock)?;
    }
    writeln!(out)?;
    if !stuck.c_function.is_empty() {
        writeln!(out, "            in C in {}", Escaped(&stuck.c_function))?;
    }
    if !stuck.go_function.is_empty() {
        let goroutine = if stuck.goid != 0 { format!("goroutine {}, ", stuck.goid) } else { String::new() };
        writeln!(out, "            {goroutine}in Go in {} line {}", Escaped(&stuck.go_function), stuck.line)?;
    }
    Ok(())
}
