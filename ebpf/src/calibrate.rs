//! Counts the hits on the agent's own calibration functions.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use glg_proto::probe::Counter;

use crate::{count::count, goroutine};

/// On the agent's own functions of one emulated and one stepped instruction, which nobody else calls.
#[uprobe]
pub fn calibrate(ctx: ProbeContext) -> u32 {
    count(Counter::CalibrationHits);
    goroutine::rehearse(&ctx);
    0
}
