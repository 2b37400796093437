//! The real link at a real broker, without the rest of the agent: certificates, packets, commands, and the
//! ledger of bytes. Needs mosquitto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

#[path = "link/broker.rs"]
mod broker;
#[path = "link/certificates.rs"]
mod certificates;
#[path = "link/driven.rs"]
mod driven;
#[path = "link/ear.rs"]
mod ear;
#[path = "link/net.rs"]
mod net;
#[path = "link/packets.rs"]
mod packets;
#[path = "link/tls.rs"]
mod tls;
