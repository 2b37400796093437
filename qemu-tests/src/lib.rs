//! The small arm64 system in which the agent is tested as a service: what is in it, and the QEMU machine
//! that boots it. `cargo xtask qemu` supplies the parts and judges what comes out.
//!
//! The files of `guest/` are the system's own: its init table and scripts.

pub mod cpio;
pub mod guest;
pub mod machine;
