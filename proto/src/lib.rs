//! Every byte that crosses a border.
//!
//! - [`probe`]: what the kernel programs hand to the agent (plain structs, native endian, one machine).
//! - [`wire`]: what the vehicle sends to the cloud (postcard in a versioned envelope).
//! - [`proof`]: what the service's child that looks for leaks hands to it (postcard, one program).
//! - [`locks`]: the part of that about locks in C.
//! - [`audit`]: what a vehicle remembers of commands.
//! - [`command`]: what the cloud asks a vehicle for, and its answers, both signed.
//! - [`topics`]: where on the broker it goes.
//!
//! Nothing here knows how Go works inside.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "wire")]
pub mod audit;
#[cfg(feature = "wire")]
pub mod command;
#[cfg(feature = "wire")]
pub mod locks;
pub mod probe;
#[cfg(feature = "wire")]
pub mod proof;
#[cfg(feature = "wire")]
pub mod topics;
#[cfg(feature = "wire")]
pub mod wire;
