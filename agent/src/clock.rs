//! The clocks a message carries, and how far the wall clock can be believed.

use std::fs;
use std::time::Duration;

use glg_proto::wire::{ClockQuality, Timestamp};
use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// A wall clock before this moment has never been set: 2026-01-01, when this program did not exist yet.
const EARLIEST_S: u64 = 1_767_225_600;

/// Both clocks now.
#[must_use]
pub fn now() -> Timestamp {
    let wall_ms = read(ClockId::CLOCK_REALTIME);
    let clock = match wall_ms {
        ms if ms < EARLIEST_S * 1000 => ClockQuality::Wrong,
        _ if is_disciplined() => ClockQuality::Synced,
        _ => ClockQuality::Free,
    };
    Timestamp { mono_ms: since_boot_ms(), wall_ms, clock }
}

/// `CLOCK_BOOTTIME` in milliseconds: it runs on while the device sleeps.
#[must_use]
pub fn since_boot_ms() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    // Neither clock can fail on Linux ≥ 2.6.39; a negative wall clock is a wrong one.
    let since = clock_gettime(clock).map(Duration::from).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// Whether someone keeps the clock in step: `STA_UNSYNC` is clear (adjtimex(2)).
fn is_disciplined() -> bool {
    // SAFETY: `timex` is plain data for which all zeroes is a valid value; `modes == 0` only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed `timex`, as adjtimex(2) wants.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    result >= 0 && state.status & libc::STA_UNSYNC == 0
}

/// First eight bytes of the boot id; zeroes when the kernel does not tell.
#[must_use]
pub fn boot_id() -> [u8; 8] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut id = [0; 8];
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).unwrap_or(0);
    }
    id
}
