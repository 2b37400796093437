//! Threads that wait in C, and for whom: where they stand ([`standing`]), what they wait for and who has it
//! ([`mutex`]), and who waits for ever ([`graph`]).

pub mod graph;
pub mod in_go;
pub mod mutex;
pub mod refers;
pub mod scan;
pub mod standing;
pub mod threads;
pub mod watching;
