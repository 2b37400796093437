//! The patterns. Beside each stand the library, the releases whose source has all or the named of these functions
//! with a `go` statement in them, and the file. The first row that fits counts: what is told by the stack stands
//! before what is told by the creator alone, and Go's own packages, which all others are made of, stand last.

mod brokers;
mod go;
mod others;
mod stores;

use super::Known;

/// All patterns, in groups.
pub const KNOWN: &[&[Known]] = &[brokers::ROWS, stores::ROWS, others::ROWS, go::ROWS];
