//! Go processes that exist only as bytes: a random heap with goroutines that wait for each other, written into
//! memory as the runtime of any supported release would have it, and beside it what it means.
//!
//! `space` is the memory, `heap` the runtime's own records in it, `world` what the program means by it: who refers
//! to whom, who waits for what. `generate` makes one from a number.

pub mod generate;
pub mod heap;
pub mod machines;
pub mod random;
pub mod roots;
pub mod space;
pub mod waits;
pub mod world;
