//! GoLeakGuard's logic, without any I/O: it reads foreign memory through one small trait, takes time as an
//! argument and says what should be done as [`step::Effect`]s. In the order in which the data flows:
//!
//! [`memory`] → [`elf`] → [`buildinfo`] → [`pclntab`] → [`layout`] → [`runtime`] (through [`pclntab_search`],
//! [`moduledata`], [`code`] and [`globals`] where there are no symbols) → [`goroutines`] →
//! [`census`] → [`history`] → [`detector`] → [`investigation`] → [`governor`] → [`outbox`], all of it
//! driven by [`engine`] through the inputs and effects of [`step`]. Whole stacks: [`stack`] → [`arguments`] →
//! [`symbols`] → [`traces`] → [`dump`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ages;
pub mod arguments;
pub mod blocks;
pub mod btf;
pub mod buildinfo;
pub mod census;
pub mod code;
pub mod detector;
pub mod dump;
pub mod elf;
pub mod engine;
mod gather;
pub mod globals;
pub mod goroutines;
pub mod governor;
pub mod heap;
pub mod history;
pub mod investigation;
pub mod layout;
pub mod locks;
pub mod memory;
pub mod moduledata;
pub mod outbox;
mod page;
pub mod pclntab;
pub mod pclntab_search;
pub mod probe_point;
pub mod runtime;
pub mod stack;
pub mod step;
pub mod symbols;
pub mod traces;
mod watch;
