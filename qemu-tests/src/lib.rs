//! The small arm64 systems in which the agent is tested, as a service and by its real-process tests: what is in
//! them, and the QEMU machine that boots them. `cargo xtask qemu` supplies the parts and judges what comes out.
//!
//! The files of `guest/` are the system's own: its init table and scripts.

pub mod cpio;
pub mod guest;
pub mod machine;
