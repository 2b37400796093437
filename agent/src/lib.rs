//! The agent's I/O edges: config in, foreign processes and the kernel's records in, MQTT out. It holds no
//! threshold and gives no verdict: that is the engine's.

pub mod age;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod document;
pub mod dump;
pub mod flash;
#[cfg(test)]
mod folder;
mod footprint;
mod groups;
mod hex;
pub mod json;
pub mod keys;
pub mod leaks;
pub mod link;
pub mod locks;
pub mod logger;
pub mod native;
pub mod probes;
pub mod prove;
pub mod ps;
pub mod remote;
mod run_clock;
pub mod service;
pub mod state;
pub mod threads;
