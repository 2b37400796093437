//! The ledger of what goes through the air: bytes a day, and whether there is budget left for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use glg_proto::wire::Class;

use crate::clock;

/// Milliseconds of a budget's day. Its days begin with the agent, by the clock that runs on while the device
/// sleeps: the wall clock may jump.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Headers of one packet: IPv4 20 bytes, TCP 20, its timestamps 12.
const HEADERS: u64 = 52;
/// Bytes of a packet beside its headers at most, with the usual MTU.
const SEGMENT: u64 = 1448;
/// Packets without content that begin and end a TCP connection: three and four.
const OPEN_AND_CLOSE: u64 = 7 * HEADERS;

/// Counts what connections send and receive, TLS included: bytes as they pass the socket, and the headers of the
/// packets that carry them. Those are reckoned, not measured: one packet for each piece written, and for each piece
/// read one more, our acknowledgement. Packets that the network lost are not seen.
#[derive(Clone, Debug)]
pub struct Airtime(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    /// Bytes a day; 0 for no limit.
    budget: u64,
    began_ms: AtomicU64,
    bytes: AtomicU64,
}

impl Airtime {
    /// A first day that begins now, with a budget in KiB a day; 0 for none.
    #[must_use]
    pub fn new(budget_kib: u32) -> Airtime {
        let began_ms = AtomicU64::new(clock::since_boot_ms());
        Airtime(Arc::new(Ledger { budget: u64::from(budget_kib) * 1024, began_ms, bytes: AtomicU64::new(0) }))
    }

    /// Bytes sent and received since the day began.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.at(clock::since_boot_ms())
    }

    /// Whether a message of this class may be sent now: past the budget only the critical ones.
    #[must_use]
    pub fn allows(&self, class: Class) -> bool {
        class == Class::Critical || !self.is_used_up()
    }

    /// Whether the day's budget is spent.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.0.budget > 0 && self.bytes() >= self.0.budget
    }

    pub(super) fn connected(&self) {
        self.add(OPEN_AND_CLOSE);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.add(bytes + bytes.div_ceil(SEGMENT) * HEADERS);
    }

    pub(super) fn read(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.add(bytes + bytes.div_ceil(SEGMENT) * 2 * HEADERS);
    }

    fn add(&self, bytes: u64) {
        self.at(clock::since_boot_ms());
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The day's bytes at this time; begins a new day when one is over.
    fn at(&self, now_ms: u64) -> u64 {
        let began = self.0.began_ms.load(Ordering::Relaxed);
        let days = now_ms.saturating_sub(began) / DAY_MS;
        if days > 0 {
            self.0.began_ms.store(began + days * DAY_MS, Ordering::Relaxed);
            self.0.bytes.store(0, Ordering::Relaxed);
        }
        self.0.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_budget_only_what_is_critical_goes_until_the_day_is_over() {
        let airtime = Airtime::new(1);
        airtime.wrote(400);
        assert!(airtime.allows(Class::Routine) && !airtime.is_used_up());
        assert_eq!(airtime.bytes(), 452);
        airtime.read(500);
        assert_eq!(airtime.bytes(), 452 + 604);
        let allowed = [Class::Routine, Class::Warning, Class::Critical].map(|class| airtime.allows(class));
        assert_eq!(allowed, [false, false, true]);
        let tomorrow = clock::since_boot_ms() + DAY_MS;
        assert_eq!(airtime.at(tomorrow), 0);
    }

    #[test]
    fn without_a_budget_everything_is_counted_and_nothing_held_back() {
        let airtime = Airtime::new(0);
        airtime.connected();
        for _ in 0..1000 {
            airtime.wrote(100_000);
        }
        assert!(airtime.bytes() > 100_000_000 && airtime.allows(Class::Routine));
    }

    /// A keep-alive cycle over TLS 1.3 takes 204 bytes: two packets of two bytes, 22 bytes of TLS around each, and an
    /// acknowledgement.
    #[test]
    fn what_is_reckoned_is_what_goes_over_the_wire() {
        let airtime = Airtime::new(0);
        airtime.wrote(2 + 22);
        airtime.read(2 + 22);
        assert_eq!(airtime.bytes(), 204);
    }
}
