//! What the service's child that looks for leaks in a program has found: it crosses a border between two processes of
//! one program, in postcard, and never leaves the vehicle so.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::wire::{Grade, Observed, SITES_MAX, Site, TooLarge};

/// Bytes that it takes at most.
pub const PROOF_MAX: usize = 1536;
/// Longest reason for proving nothing, in bytes.
pub const REASON_MAX: usize = 96;

/// An observation of one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// How it was observed.
    pub observed: Observed,
    /// Goroutines in all.
    pub goroutines: u32,
    /// Goroutines that are proven to be leaked.
    pub proven: u32,
    /// Goroutines that are stuck.
    pub stuck: u32,
    /// Why nothing is proven; empty when it could be.
    pub abstained: String<REASON_MAX>,
    /// Sites of both grades, the largest of each first.
    pub sites: Vec<(Grade, Site), { 2 * SITES_MAX }>,
}

impl Proof {
    /// Encodes it.
    ///
    /// # Errors
    /// [`TooLarge`] when `buf` is too small; [`PROOF_MAX`] bytes are always enough.
    pub fn encode<'b>(&self, buf: &'b mut [u8]) -> Result<&'b [u8], TooLarge> {
        postcard::to_slice(self, buf).map(|used| &*used).map_err(|_| TooLarge)
    }

    /// Total: `None` for whatever is no proof.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Proof> {
        postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(proof, _)| proof)
    }
}
