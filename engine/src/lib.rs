//! GoLeakGuard's logic, without any I/O: it reads foreign memory through one small trait, takes time as an
//! argument and says what should be done as [`step::Effect`]s. In the order in which the data flows:
//!
//! [`memory`] → [`elf`] → [`buildinfo`] → [`pclntab`] → [`layout`] → [`runtime`] (through [`pclntab_search`],
//! [`moduledata`], [`code`] and [`globals`] where there are no symbols) → [`goroutines`] →
//! [`census`] → [`history`] → [`detector`] → [`investigation`] → [`governor`] → [`outbox`], all of it
//! driven by [`engine`] through the inputs and effects of [`step`]; `watch` is what it keeps of each target.
//! What probes need: [`probe_point`] says where in the program's code they go, [`btf`] where the kernel keeps
//! what they read. Whole stacks: [`stack`] → [`arguments`] → [`symbols`] → [`traces`] → [`dump`], by way of
//! [`cached_image`] and, written in pieces, `text_out`. Since when goroutines wait: [`ages`]. Threads that
//! wait in C, and deadlocks: [`locks`], with [`heap`] for who refers to what; what their locks cost:
//! [`contention`]. Proof that goroutines can never go on: [`reach`]. What outlives the agent: [`outbox`] and [`history`] keep it in a [`spool`] on
//! [`mod@flash`]. `gather` reads many short stretches of memory as few. What the cloud asks for: [`command`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ages;
pub mod arguments;
pub mod btf;
pub mod buildinfo;
pub mod cached_image;
pub mod census;
pub mod code;
pub mod command;
pub mod contention;
pub mod crc;
pub mod detector;
pub mod dump;
pub mod elf;
pub mod engine;
pub mod flash;
pub mod footprint;
mod gather;
pub mod globals;
pub mod goroutines;
pub mod governor;
pub mod heap;
pub mod history;
pub mod investigation;
pub mod known;
pub mod layout;
pub mod locks;
pub mod memory;
pub mod moduledata;
pub mod outbox;
pub mod pclntab;
pub mod pclntab_search;
pub mod probe_point;
pub mod reach;
mod remembered;
pub mod runtime;
pub mod spool;
pub mod stack;
pub mod step;
pub mod symbols;
mod text_out;
pub mod traces;
pub mod trend;
mod watch;
