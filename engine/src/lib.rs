//! GoLeakGuard's logic, without any I/O: it reads foreign memory through one small trait, takes time as an
//! argument and says what should be done as [`step::Effect`]s. In the order in which the data flows:
//!
//! [`memory`] → [`elf`] → [`buildinfo`] → [`pclntab`] → [`layout`] → [`runtime`] → [`goroutines`] →
//! [`census`] → [`history`] → [`detector`] → [`investigation`] → [`governor`] → [`outbox`], all of it
//! driven by [`engine`] through the inputs and effects of [`step`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod buildinfo;
pub mod census;
pub mod detector;
pub mod elf;
pub mod engine;
pub mod goroutines;
pub mod governor;
pub mod history;
pub mod investigation;
pub mod layout;
pub mod memory;
pub mod outbox;
pub mod pclntab;
pub mod probe_point;
pub mod runtime;
pub mod step;
mod watch;
