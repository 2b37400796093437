//! A message as one JSON object. The keys are relied upon by scripts: they are only ever added to.

use glg_proto::locks::{Contention, Deadlock, LockOwner, LockWait, Stuck, StuckThreads};
use glg_proto::wire::{Body, Class, ClockQuality, Evicted, Grade, Health, Leak, MemoryLimit, Site, Target};
use serde_json::{Map, Value, json};

use crate::message::Message;
use crate::text::hex;

/// The object of one message.
pub(crate) fn object(message: &Message) -> Value {
    let envelope = &message.envelope;
    let kind = match envelope.body {
        Body::Online(_) => "online",
        Body::Offline | Body::Vanished => "offline",
        Body::Leak(_) => "leak",
        Body::Deadlock(_) => "deadlock",
        Body::LockWait(_) => "lock_wait",
        Body::StuckThreads(_) => "stuck_threads",
        Body::Contention(_) => "contention",
        Body::Evicted(_) => "evicted",
        Body::Health(_) => "health",
    };
    let losses = &envelope.losses;
    let mut object = fields(json!({
        "kind": kind,
        "device": envelope.device.as_str(),
        "boot": hex(&envelope.boot, 8),
        "epoch": envelope.epoch,
        "seq": envelope.seq,
        "duplicate": message.again,
        "mono_ms": envelope.at.mono_ms,
        "wall_ms": envelope.at.wall_ms,
        "clock": clock(envelope.at.clock),
        "about_ms": message.about_ms,
        "losses": {"alerts": losses.alerts, "samples": losses.samples, "records": losses.records},
    }));
    object.extend(match &envelope.body {
        Body::Online(online) => fields(json!({
            "agent": online.agent.as_str(),
            "kernel": online.kernel.as_str(),
            "targets": online.targets,
        })),
        Body::Offline => fields(json!({"goodbye": true})),
        Body::Vanished => fields(json!({"goodbye": false})),
        Body::Leak(leak) => fields(leak_fields(leak)),
        Body::Deadlock(deadlock) => fields(deadlock_fields(deadlock)),
        Body::LockWait(wait) => fields(wait_fields(wait)),
        Body::StuckThreads(threads) => fields(threads_fields(threads)),
        Body::Contention(contention) => fields(contention_fields(contention)),
        Body::Evicted(evicted) => fields(evicted_fields(evicted)),
        Body::Health(health) => fields(health_fields(health)),
    });
    object.extend(fields(json!({
        "payload_bytes": message.payload_bytes,
        "bytes": message.bytes,
        "retained": message.retained,
    })));
    Value::Object(object)
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn leak_fields(leak: &Leak) -> Value {
    json!({
        "target": target(&leak.target),
        "grade": grade(leak.grade),
        "goroutines": leak.goroutines,
        "baseline": leak.baseline,
        "window_s": leak.window_s,
        "trend_per_hour": leak.trend.map(|trend| json!({
            "low": trend.low,
            "likely": trend.per_hour,
            "high": trend.high,
        })),
        "memory_left": leak.left.map(|left| json!({
            "minutes": left.minutes,
            "limit": match left.limit {
                MemoryLimit::Machine => "machine",
                MemoryLimit::Cgroup => "cgroup",
            },
        })),
        "observed": leak.observed.map(|observed| json!({
            "passes": observed.passes,
            "seconds": observed.seconds,
        })),
        "sites": leak.sites.iter().map(site).collect::<Vec<Value>>(),
    })
}

fn target(target: &Target) -> Value {
    let (minor, patch) = target.go;
    json!({"name": target.name.as_str(), "pid": target.pid, "go": format!("1.{minor}.{patch}")})
}

fn deadlock_fields(deadlock: &Deadlock) -> Value {
    json!({
        "target": target(&deadlock.target),
        "age_s": deadlock.age_s,
        "inferred": deadlock.inferred,
        "total": deadlock.total,
        "members": deadlock.members.iter().map(stuck).collect::<Vec<Value>>(),
    })
}

fn wait_fields(wait: &LockWait) -> Value {
    let (owner, exited) = match wait.owner {
        LockOwner::Unknown => (None, false),
        LockOwner::Thread(tid) => (Some(tid), false),
        LockOwner::Exited(tid) => (Some(tid), true),
    };
    json!({
        "target": target(&wait.target),
        "waited_s": wait.waited_s,
        "waiters": wait.waiters,
        "owner_tid": owner,
        "owner_exited": exited,
        "waiter": stuck(&wait.waiter),
    })
}

fn threads_fields(threads: &StuckThreads) -> Value {
    json!({
        "target": target(&threads.target),
        "threads": threads.threads,
        "away": threads.away,
        "baseline": threads.baseline,
        "window_s": threads.window_s,
        "pinned": threads.pinned,
        "foreign": threads.foreign,
    })
}

fn evicted_fields(evicted: &Evicted) -> Value {
    json!({
        "class": class(evicted.class),
        "count": evicted.count,
        "first": {
            "boot": hex(&evicted.first.boot, 8),
            "epoch": evicted.first.epoch,
            "seq": evicted.first.seq,
        },
        "last_seq": evicted.last_seq,
    })
}

pub(crate) fn class(class: Class) -> &'static str {
    match class {
        Class::Routine => "routine",
        Class::Warning => "warning",
        Class::Critical => "critical",
    }
}

fn health_fields(health: &Health) -> Value {
    json!({
        "targets": health.targets,
        "waiting": health.waiting,
        "spool_bytes": health.spool_bytes,
        "flash_bytes": health.flash_bytes,
        "memory_only": health.memory_only,
        "evicted": health.evicted,
        "damaged": health.damaged,
        "airtime_bytes": health.airtime_bytes,
        "rss_kib": health.rss_kib,
    })
}

fn contention_fields(contention: &Contention) -> Value {
    json!({
        "target": target(&contention.target),
        "observed_ms": contention.observed_ms,
        "waits": contention.waits,
        "total_ms": contention.total_ms,
        "longest_us": contention.longest_us,
        "median_us": contention.median_us,
        "p99_us": contention.p99_us,
        "waiter": stuck(&contention.waiter),
    })
}

fn stuck(stuck: &Stuck) -> Value {
    json!({
        "tid": (stuck.tid != 0).then_some(stuck.tid),
        "goid": (stuck.goid != 0).then_some(stuck.goid),
        "kind": stuck.kind.as_str(),
        "lock": (stuck.lock != 0).then(|| format!("{:#x}", stuck.lock)),
        "c_function": stuck.c_function.as_str(),
        "go_function": stuck.go_function.as_str(),
        "line": stuck.line,
    })
}

fn site(site: &Site) -> Value {
    json!({
        "function": site.function.as_str(),
        "file": site.file.as_str(),
        "line": site.line,
        "wait": site.wait.as_str(),
        "count": site.count,
        "grew": site.grew,
        "attributed": site.attributed.map(|counted| json!({
            "created": counted.created,
            "exited": counted.exited,
            "seconds": f64::from(counted.millis) / 1000.0,
        })),
        "oldest_s": (site.oldest_s > 0).then_some(site.oldest_s),
        "orphans": site.orphans,
        "marked_by_runtime": site.marked,
        "likely_missing": (!site.missing.is_empty()).then_some(site.missing.as_str()),
    })
}

pub(crate) fn clock(clock: ClockQuality) -> &'static str {
    match clock {
        ClockQuality::Wrong => "wrong",
        ClockQuality::Free => "free",
        ClockQuality::Synced => "synced",
    }
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Suspected => "suspected",
        Grade::Stuck => "stuck",
        Grade::Proven => "proven",
    }
}
