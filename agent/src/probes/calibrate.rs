//! What one probe hit costs on this machine, measured on two tiny functions of the agent itself.
//!
//! The kernel's own run-time statistics leave out the trap, which is most of it.

use std::{
    arch::naked_asm,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{CALIBRATE, ProbeError, Probes, attach_uprobe, detach_uprobe};

/// The cost of a hit, in nanoseconds, by how the kernel gets past the instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// On an instruction that the kernel emulates.
    pub emulated_ns: f32,
    /// On an instruction that it lets the processor step over.
    pub stepped_ns: f32,
}

/// Rounds per class. The quickest one counts: whatever else the processor did in a round can only add to it.
const ROUNDS: u16 = 32;
/// Calls in a round: few, so that most rounds end before the scheduler takes the processor away.
const CALLS: u16 = 16;
/// Rounds there are at least: in one alone the scheduler may have taken the processor away.
const ROUNDS_MIN: u16 = 4;
/// No further round of a class begins after this time.
const CLASS_TIME: Duration = Duration::from_millis(8);

impl Probes {
    /// Measures what hits cost, in up to 20 ms of processor time. The caller waits longer: taking a probe out
    /// waits for the kernel's grace periods, about 0.1 s each.
    ///
    /// # Errors
    /// When the agent cannot be probed, or the kernel does not count every hit.
    pub fn calibrate(&mut self) -> Result<Calibration, ProbeError> {
        Ok(Calibration { emulated_ns: self.cost_of(emulated)?, stepped_ns: self.cost_of(stepped)? })
    }

    fn cost_of(&mut self, function: extern "C" fn()) -> Result<f32, ProbeError> {
        let offset = own_file_offset(address_of(function)).map_err(ProbeError::OwnCode)?;
        let (bare, _) = time_of(function);
        let counted_before = self.counters()?.calibration_hits;
        let exe = Path::new("/proc/self/exe");
        let link = attach_uprobe(&mut self.programs, CALIBRATE, std::process::id(), exe, offset)?;
        let (probed, passed) = time_of(function);
        detach_uprobe(&mut self.programs, CALIBRATE, link);
        let counted = self.counters()?.calibration_hits - counted_before;
        if counted != passed {
            return Err(ProbeError::NotCounted { passed, counted });
        }
        Ok((probed - bare).max(0.0))
    }
}

/// Nanoseconds per call, and the number of calls it took to say so.
fn time_of(function: extern "C" fn()) -> (f32, u64) {
    let (mut best, mut calls) = (Duration::MAX, 0);
    let start = Instant::now();
    for round in 1..=ROUNDS {
        let start_of_round = Instant::now();
        for _ in 0..CALLS {
            function();
        }
        best = best.min(start_of_round.elapsed());
        calls += u64::from(CALLS);
        if round >= ROUNDS_MIN && start.elapsed() > CLASS_TIME {
            break;
        }
    }
    (best.as_secs_f32() * 1e9 / f32::from(CALLS), calls)
}

fn address_of(function: extern "C" fn()) -> u64 {
    function as usize as u64
}

/// Where an address of the agent's code lies in its executable's file: right for every way of linking.
fn own_file_offset(address: u64) -> io::Result<u64> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    maps.lines()
        .find_map(|line| file_offset(line, address))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no mapping holds {address:#x}")))
}

/// From a line like `55e0c1a00000-55e0c1b00000 r-xp 00002000 fd:00 1234 /usr/bin/x` (`man 5 proc`).
fn file_offset(line: &str, address: u64) -> Option<u64> {
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let offset = hex(fields.nth(1)?)?;
    (start..end).contains(&address).then(|| address - start + offset)
}

/// Begins with the instruction that Go's prologues offer for a cheap probe.
#[cfg(target_arch = "x86_64")]
// SAFETY: it leaves the stack as it found it and touches no register that the ABI wants kept.
#[unsafe(naked)]
extern "C" fn emulated() {
    naked_asm!("push rbp", "pop rbp", "ret")
}

/// Begins with an instruction that no kernel emulates: the comparison of Go's stack check.
#[cfg(target_arch = "x86_64")]
// SAFETY: it reads its return address and sets flags, which the ABI does not want kept.
#[unsafe(naked)]
extern "C" fn stepped() {
    naked_asm!("cmp rsp, [rsp]", "ret")
}

/// Begins with an instruction that the kernel simulates, as in `runtime.newproc1`.
#[cfg(target_arch = "aarch64")]
// SAFETY: both ways of the branch lead to the return; no register changes.
#[unsafe(naked)]
extern "C" fn emulated() {
    naked_asm!("cbnz x0, 1f", "1: ret")
}

/// Begins with an instruction that the kernel steps over: the comparison of Go's stack check.
#[cfg(target_arch = "aarch64")]
// SAFETY: it sets flags, which the ABI does not want kept.
#[unsafe(naked)]
extern "C" fn stepped() {
    naked_asm!("cmp sp, x16", "ret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_gives_the_offset_in_its_file() {
        let line = "00401000-00404000 r-xp 00002000 fd:00 1234 /usr/bin/x";
        assert_eq!(file_offset(line, 0x40_1010), Some(0x2010));
        assert_eq!(file_offset(line, 0x40_4000), None);
        assert_eq!(file_offset("not a mapping", 0), None);
    }

    #[test]
    fn the_agents_own_code_is_found_in_its_file() {
        let offset = own_file_offset(address_of(stepped)).unwrap();
        let file = fs::read("/proc/self/exe").unwrap();
        let code = &file[usize::try_from(offset).unwrap()..][..4];
        #[cfg(target_arch = "x86_64")]
        assert_eq!(code, [0x48, 0x3b, 0x24, 0x24]);
        #[cfg(target_arch = "aarch64")]
        assert_eq!(code, 0xeb30_63ff_u32.to_le_bytes());
    }
}
