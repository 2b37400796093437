//! Flash with its budget: nothing is written past it.

use alloc::boxed::Box;

use super::budget::{Budget, PAGE, Share, Stamp, pages};
use crate::flash::{File, Flash, FlashError};

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The budget of the day is used up.
    Budget,
    /// Flash did not take it.
    Flash(FlashError),
}

impl From<FlashError> for StoreError {
    fn from(error: FlashError) -> StoreError {
        StoreError::Flash(error)
    }
}

/// Flash, and what may still be written to it today.
pub struct Store {
    flash: Box<dyn Flash>,
    budget: Budget,
    now_ms: u64,
    /// What the last write said.
    last: Result<(), StoreError>,
}

#[expect(clippy::missing_errors_doc, reason = "each fails as its StoreError says")]
impl Store {
    /// With so many bytes a day.
    #[must_use]
    pub fn new(flash: Box<dyn Flash>, bytes_per_day: u32, now_ms: u64) -> Store {
        Store { flash, budget: Budget::new(bytes_per_day), now_ms, last: Ok(()) }
    }

    /// Takes note of the time.
    pub fn at(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.budget.at(self.now_ms);
    }

    /// Goes on with the budget of an earlier agent.
    pub fn resume(&mut self, stamp: Stamp) {
        self.budget.resume(stamp, self.now_ms);
        self.budget.at(self.now_ms);
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How the budget will stand once so many bytes more are written.
    #[must_use]
    pub fn stamp_after(&self, cost: u32) -> Stamp {
        let stamp = self.budget.stamp(self.now_ms);
        Stamp { spent: stamp.spent.saturating_add(cost), ..stamp }
    }

    /// What the last write said.
    pub fn last(&self) -> Result<(), StoreError> {
        self.last
    }

    /// What [`Store::add`] to a file of that length costs.
    #[must_use]
    pub fn append_cost(from: u32, len: usize) -> u32 {
        let to = from.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        // The file's own entry, and with a new one the directory.
        pages(from, to).saturating_add(PAGE * (1 + u32::from(from == 0)))
    }

    /// What [`Store::put`] costs: the new file's pages and entry, the directory with either name.
    #[must_use]
    pub fn replace_cost(len: usize) -> u32 {
        pages(0, u32::try_from(len).unwrap_or(u32::MAX)).saturating_add(2 * PAGE)
    }

    /// Whether so much may be written.
    #[must_use]
    pub fn allows(&self, cost: u32, share: Share) -> bool {
        self.budget.allows(cost, share)
    }

    /// Adds bytes to a file that is `from` bytes long, durably.
    pub fn add(&mut self, file: File, from: u32, bytes: &[u8], share: Share) -> Result<(), StoreError> {
        self.spend(Store::append_cost(from, bytes.len()), share, |flash| {
            flash.append(file, bytes)?;
            flash.sync(file)
        })
    }

    /// Gives a file this content, durably.
    pub fn put(&mut self, file: File, bytes: &[u8], share: Share) -> Result<(), StoreError> {
        self.spend(Store::replace_cost(bytes.len()), share, |flash| flash.replace(file, bytes))
    }

    /// Makes `len` bytes durable that were appended to a new file ([`Flash::append`]).
    pub fn finish(&mut self, file: File, len: u32, share: Share) -> Result<(), StoreError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.spend(Store::append_cost(0, len), share, |flash| flash.sync(file))
    }

    fn spend(
        &mut self,
        cost: u32,
        share: Share,
        write: impl FnOnce(&mut dyn Flash) -> Result<(), FlashError>,
    ) -> Result<(), StoreError> {
        if !self.budget.allows(cost, share) {
            self.last = Err(StoreError::Budget);
            return self.last;
        }
        self.last = write(self.flash.as_mut()).map_err(StoreError::Flash);
        // What failed half-way was written in part.
        if self.last != Err(StoreError::Flash(FlashError::Unavailable)) {
            self.budget.charge(cost, self.now_ms);
        }
        self.last
    }

    fn always(
        &mut self,
        cost: u32,
        write: impl FnOnce(&mut dyn Flash) -> Result<(), FlashError>,
    ) -> Result<(), FlashError> {
        self.spend(cost, Share::Beyond, write).map_err(|error| match error {
            StoreError::Flash(error) => error,
            StoreError::Budget => FlashError::Unavailable,
        })
    }
}

/// For what must be written whatever the budget says; it is counted all the same.
impl Flash for Store {
    fn list(&mut self, each: &mut dyn FnMut(File, u64)) -> Result<(), FlashError> {
        self.flash.list(each)
    }

    fn read(&mut self, file: File, at: u64, into: &mut [u8]) -> Result<usize, FlashError> {
        self.flash.read(file, at, into)
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.flash.append(file, bytes)
    }

    fn sync(&mut self, file: File) -> Result<(), FlashError> {
        // How much was added is not known here: as a rule less than a page, and the file's entry.
        self.always(2 * PAGE, |flash| flash.sync(file))
    }

    fn replace(&mut self, file: File, bytes: &[u8]) -> Result<(), FlashError> {
        self.always(Store::replace_cost(bytes.len()), |flash| flash.replace(file, bytes))
    }

    fn remove(&mut self, file: File) -> Result<(), FlashError> {
        self.always(PAGE, |flash| flash.remove(file))
    }
}
