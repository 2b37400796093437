//! The engine against a process that exists only as bytes: exact counts, walks, censuses, and whole
//! investigations, for every supported Go release, without Go and without root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers are cut to size")]

mod commanding;
mod contending;
mod counting;
mod fake;
mod judging;
mod locking;
#[allow(unreachable_pub, reason = "the fuzz targets include it, too")]
mod program;
mod proving;
mod reading;
mod remembering;
mod scenarios;
mod stand;
mod troubles;
mod walking;
