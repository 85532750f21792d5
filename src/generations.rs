//! A bounded map of two generations, which drops the entries that were not used lately.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use crate::seed::Seed;
use crate::time::{Deadline, Millis, Timestamp};

/// A bounded map that prefers entries in use. A used entry is in the young generation. When that is full or over, it
/// becomes the old generation, and the entries that stayed in the previous old one are dropped. So a call costs one entry,
/// except for the one call in a generation that drops the old one.
pub struct Generations<K, V> {
    /// The most entries of one generation.
    max_entries: usize,
    /// How long a generation lasts; `None`: until it is full.
    lifetime: Option<Millis>,
    young: HashMap<K, V, Seed>,
    old: HashMap<K, V, Seed>,
    /// When the young generation is over.
    ends: Deadline,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// Makes a map that keeps up to `entries` entries (at least two). With a `lifetime`, an entry that is not used for that
    /// long is dropped by the end of the next generation, even if the map is not full.
    #[must_use]
    pub fn new(entries: usize, lifetime: Option<Millis>, seed: &Seed) -> Self {
        Self {
            max_entries: entries.max(2) / 2,
            lifetime,
            young: HashMap::with_hasher(seed.clone()),
            old: HashMap::with_hasher(seed.clone()),
            ends: Deadline::OVER,
        }
    }

    /// The entry of `key`, which counts as used.
    pub fn get<Q>(&mut self, key: &Q, now: Timestamp) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.rotate(now);
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.young.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// The entry of `key`, which counts as used; a new one if there is none.
    pub fn get_or_default<Q>(&mut self, key: &Q, now: Timestamp) -> &mut V
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        V: Default,
    {
        self.get(key, now);
        self.young.entry(key.to_owned()).or_default()
    }

    /// Adds an entry, or replaces the one of the same key.
    pub fn insert(&mut self, key: K, value: V, now: Timestamp) {
        self.rotate(now);
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Removes an entry.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    /// Begins a new generation if the young one is over or full.
    fn rotate(&mut self, now: Timestamp) {
        let is_over = self.lifetime.is_some() && !self.ends.is_pending(now);
        if is_over || self.young.len() >= self.max_entries {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.ends = Deadline::after(self.lifetime.unwrap_or_default(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Generations;
    use crate::seed::Seed;
    use crate::time::{Millis, Timestamp};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_764_000_000_000 + ms)
    }

    #[test]
    fn the_map_is_bounded_and_keeps_entries_in_use() {
        let mut map = Generations::new(100, None, &Seed::fixed());
        for number in 0..10_000 {
            map.insert(number, number, at(number));
            assert!(map.len() <= 100);
            assert_eq!(map.get(&0, at(number)).copied(), Some(0), "{number}");
        }
        assert_eq!(map.get(&1, at(10_000)), None);
        map.clear();
        assert!(map.is_empty());
    }

    #[test]
    fn an_entry_that_is_not_used_for_two_generations_is_dropped() {
        let mut map = Generations::new(100, Some(Millis::new(1000)), &Seed::fixed());
        map.insert("used", 1, at(0));
        map.insert("unused", 2, at(0));
        for ms in (0..3000).step_by(100) {
            assert!(map.get("used", at(ms)).is_some(), "{ms}");
        }
        assert_eq!(map.get("unused", at(3000)), None);
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn a_clock_set_back_does_not_keep_a_generation_alive() {
        let mut map = Generations::new(100, Some(Millis::new(1000)), &Seed::fixed());
        map.insert("a", 1, at(3_600_000));
        for ms in (0..4000).step_by(500) {
            map.insert("b", 2, at(ms));
        }
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn an_entry_is_in_one_generation_only() {
        let mut map = Generations::new(4, None, &Seed::fixed());
        for value in 0..3 {
            map.insert("a", value, at(0));
            map.insert("b", value, at(0));
        }
        assert_eq!(
            (map.len(), map.remove("a"), map.remove("a")),
            (2, Some(2), None)
        );
    }
}
