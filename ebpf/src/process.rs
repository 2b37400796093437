//! Tells the agent which processes begin a program and which end.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{map, raw_tracepoint},
    maps::RingBuf,
    programs::RawTracePointContext,
};
use glg_proto::probe::{Counter, ProcessEvent};

use crate::count::count;

/// The agent sets the size at load.
#[map]
static PROCESS_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// After a successful `execve`, in the process itself.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(_ctx: RawTracePointContext) -> i32 {
    emit(ProcessEvent::EXEC, (bpf_get_current_pid_tgid() >> 32) as u32);
    0
}

/// For each thread that ends; only the first thread of a process speaks for the process.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(_ctx: RawTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if tgid == tid {
        emit(ProcessEvent::EXIT, tgid);
    }
    0
}

#[inline(always)]
fn emit(kind: u32, tgid: u32) {
    match PROCESS_EVENTS.reserve::<ProcessEvent>(0) {
        Some(mut slot) => {
            slot.write(ProcessEvent { kind, tgid });
            slot.submit(0);
        }
        None => count(Counter::EventsLost),
    }
}
