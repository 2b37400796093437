//! The agent's I/O edges: config in, foreign processes and the kernel's records in, MQTT out. It holds no
//! threshold and gives no verdict: that is the engine's.

pub mod clock;
pub mod config;
pub mod doctor;
pub mod dump;
pub mod link;
pub mod logger;
pub mod probes;
pub mod remote;
pub mod service;
