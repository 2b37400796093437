//! What is known of places in a program's code, in a table of fixed size: goroutines stand at a few hundred different
//! places, however many they are.

use alloc::vec::Vec;

/// Slots looked at before something older is given up.
const PROBES: usize = 4;

/// Something that is remembered.
pub(crate) trait Remember {
    /// What it is known by.
    type Key: Copy + Eq;

    /// What it is known by.
    fn key(&self) -> Self::Key;

    /// A number that differs for different keys.
    fn number(key: Self::Key) -> u64;

    /// Bytes that it holds besides its slot.
    fn bytes(&self) -> usize;
}

/// The table.
pub(crate) struct Remembered<T> {
    slots: Vec<Option<T>>,
    held: usize,
    held_max: usize,
}

impl<T> Remembered<T> {
    /// Slots of a table for so many places at least.
    pub(crate) const fn slots(places: usize) -> usize {
        if places < PROBES { PROBES } else { places.next_power_of_two() }
    }

    /// Bytes that a table takes which was made so.
    pub(crate) const fn bytes(places: usize, held_max: usize) -> usize {
        Self::slots(places) * size_of::<Option<T>>() + held_max
    }
}

impl<T: Remember> Remembered<T> {
    /// An empty table for so many places at least, and so many bytes besides.
    pub(crate) fn new(places: usize, held_max: usize) -> Remembered<T> {
        Remembered { slots: (0..Self::slots(places)).map(|_| None).collect(), held: 0, held_max }
    }

    /// What is in a slot.
    pub(crate) fn get(&self, slot: usize) -> Option<&T> {
        self.slots.get(slot)?.as_ref()
    }

    /// The slot in which something is known, or else the one for it.
    pub(crate) fn find(&self, key: T::Key) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let first = usize::try_from(T::number(key).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33).unwrap_or(0);
        let places = (0..PROBES).map(|i| (first + i) & mask);
        match places.clone().find(|at| self.get(*at).is_some_and(|known| known.key() == key)) {
            Some(at) => Ok(at),
            None => Err(places.clone().find(|at| self.get(*at).is_none()).unwrap_or(first & mask)),
        }
    }

    /// Remembers something in the slot for it. When there is no room for all, what was known before is forgotten.
    pub(crate) fn put(&mut self, at: usize, new: T) {
        if self.held + new.bytes() > self.held_max {
            self.slots.fill_with(|| None);
            self.held = 0;
        }
        self.held += new.bytes();
        let old = self.slots.get_mut(at).and_then(|slot| slot.replace(new));
        self.held -= old.map_or(0, |old| old.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key, and bytes.
    #[derive(Debug, PartialEq)]
    struct One(u64, usize);

    impl Remember for One {
        type Key = u64;

        fn key(&self) -> u64 {
            self.0
        }

        fn number(key: u64) -> u64 {
            key
        }

        fn bytes(&self) -> usize {
            self.1
        }
    }

    #[test]
    fn what_is_put_is_found_until_there_is_no_room() {
        let mut table = Remembered::<One>::new(5, 100);
        assert_eq!(table.slots.len(), 8);
        for key in 0..4 {
            let at = table.find(key).unwrap_err();
            table.put(at, One(key, 20));
            assert_eq!((table.find(key), table.get(at)), (Ok(at), Some(&One(key, 20))));
        }
        let at = table.find(9).unwrap_err();
        table.put(at, One(9, 21));
        assert_eq!((table.find(9), table.held), (Ok(at), 21));
        assert!((0..4).all(|key| table.find(key).is_err()), "all others are forgotten");
    }

    #[test]
    fn where_all_slots_are_taken_the_first_is_given_up() {
        let mut table = Remembered::<One>::new(1, 1000);
        for key in 0..100 {
            let at = table.find(key).unwrap_err();
            table.put(at, One(key, 7));
            assert_eq!(table.find(key), Ok(at));
        }
        assert_eq!(table.held, 7 * table.slots.iter().flatten().count());
    }
}
