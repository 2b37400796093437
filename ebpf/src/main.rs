//! The programs that run in the kernel. They count; what the counts mean is decided outside.
//!
//! - `process`: which processes begin and end.
//! - `goroutine`: goroutines created and ended, per creation site.
//! - `futex`: how long threads of a process wait for locks in C.
//! - `calibrate`: what one probe hit costs on this machine.
//! - `count`: the exact counters that all of them use.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod calibrate;
mod count;
mod futex;
mod goroutine;
mod process;

/// The helpers that read user memory are for GPL-compatible programs; this one is offered under the GPL too.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
