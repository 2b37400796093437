//! The wire decoder: what the cloud's side reads from a network.

use glg_proto::wire::{
    Attributed, Body, ClockQuality, Envelope, Grade, Leak, Left, Losses, MESSAGE_MAX, MemoryLimit, Observed,
    Online, Site, Target, Timestamp, Trend, Wait, decode, encode, head,
};

/// Any bytes decode to an error or to an envelope; an envelope can be encoded and comes back the same.
///
/// # Panics
/// When that does not hold.
#[allow(clippy::panic, reason = "a fuzz target reports by panicking")]
pub fn check(data: &[u8]) {
    let Ok(envelope) = decode(data) else { return };
    let mut buffer = [0; MESSAGE_MAX];
    let Ok(bytes) = encode(&envelope, &mut buffer) else {
        panic!("MESSAGE_MAX is too small for {envelope:?}")
    };
    // Not compared with `data`: postcard reads numbers with needless zero bytes too.
    assert_eq!(decode(bytes), Ok(envelope), "it changes on its way");
}

/// One message of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let online = Online { agent: head("0.1.0"), kernel: head("6.1.0-56-arm64"), targets: 3 };
    let site = |wait, attributed| Site {
        function: head("main.(*Gateway).forward.func1"),
        file: head("vehicle/gateway/forward.go"),
        line: 128,
        wait,
        count: 4180,
        grew: 212,
        attributed,
        oldest_s: 1750,
        orphans: Some(4178),
        marked: 3,
        missing: head("(*grpc.ClientConn).Close"),
    };
    let counted = Some(Attributed { created: 171, exited: 2, millis: 8000 });
    let leak = Leak {
        target: Target { name: head("ota-gateway"), pid: 1412, go: (24, 11) },
        grade: Grade::Stuck,
        goroutines: 4412,
        baseline: 230,
        window_s: 1800,
        trend: Some(Trend { low: -8, per_hour: 8364, high: 8600 }),
        left: Some(Left { minutes: 3120, limit: MemoryLimit::Cgroup }),
        observed: Some(Observed { passes: 4, seconds: 10 }),
        sites: [site(Wait::ChanSend, counted), site(Wait::Select, None), site(Wait::IoWait, counted)]
            .into_iter()
            .collect(),
    };
    [Body::Online(online), Body::Offline, Body::Leak(leak)].map(message).to_vec()
}

fn message(body: Body) -> Vec<u8> {
    let envelope = Envelope {
        device: head("van-7"),
        boot: [1, 2, 3, 4, 5, 6, 7, 8],
        epoch: 20,
        seq: 300,
        at: Timestamp { mono_ms: 90_000, wall_ms: 1_795_308_315_000, clock: ClockQuality::Synced },
        losses: Losses { alerts: 1, samples: 2, records: 0 },
        body,
    };
    let mut buffer = [0; MESSAGE_MAX];
    encode(&envelope, &mut buffer).map(|bytes| bytes.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::Mutator;

    #[test]
    fn damage_is_neither_hopeless_nor_harmless() {
        let seeds = seeds();
        let mut mutator = Mutator::new(&seeds, 1, MESSAGE_MAX);
        let accepted = (0..10_000).filter(|_| decode(&mutator.next_input()).is_ok()).count();
        assert!((300..9_000).contains(&accepted), "{accepted} of 10000 inputs decode");
    }
}
