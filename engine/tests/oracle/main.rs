//! The proof against an oracle that knows what the program means, and looks at no memory: random heaps of every
//! supported release, at rest and while the program changes them under our eyes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod changing;
mod exact;
#[allow(unreachable_pub, dead_code, reason = "the fuzz targets include it, too")]
mod made;
mod moving;
mod oracle;
#[path = "../synthetic/program.rs"]
#[allow(unreachable_pub, dead_code, reason = "the other tests and the fuzz targets need more of it")]
mod program;
