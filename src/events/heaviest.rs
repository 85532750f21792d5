//! The heaviest of many keys, in a table of bounded size.
//!
//! A key that finds the table full takes the place of the lightest, and takes over its weight. So of keys
//! whose weights sum up to `N`, each that is heavier than `N / most` is in the table, whoever came first
//! and however many others there are.
//!
//! Source: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements
//! in Data Streams", ICDT 2005 (the algorithm "Space-Saving").

use std::collections::HashMap;
use std::hash::Hash;

use crate::seed::Seed;

/// Up to a number of keys, each with a value. A key's weight here, which may include the weights of those
/// whose place it took, only says who has to go: what counts for a key alone belongs into its value.
pub(super) struct Heaviest<K, V> {
    most: usize,
    entries: HashMap<K, Entry<V>, Seed>,
}

struct Entry<V> {
    weight: u64,
    value: V,
}

impl<K: Copy + Eq + Hash, V> Heaviest<K, V> {
    /// Keeps `most` keys (at least one).
    pub(super) fn new(most: usize, seed: &Seed) -> Self {
        Self {
            most: most.max(1),
            entries: HashMap::with_hasher(seed.clone()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds `weight` to a key and changes its value, which is `new` where the key is new to the table.
    /// What lost its place for it, if anything did.
    pub(super) fn add(
        &mut self,
        key: K,
        weight: u64,
        new: impl FnOnce() -> V,
        change: impl FnOnce(&mut V),
    ) -> Option<V> {
        let lost = match self.entries.contains_key(&key) {
            false if self.entries.len() >= self.most => self.remove_lightest(),
            _ => None,
        };
        let (taken_over, lost) = lost.map_or((0, None), |lost| (lost.weight, Some(lost.value)));
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            weight: taken_over,
            value: new(),
        });
        entry.weight = entry.weight.saturating_add(weight);
        change(&mut entry.value);
        lost
    }

    fn remove_lightest(&mut self) -> Option<Entry<V>> {
        let lightest = self.entries.iter().min_by_key(|(_, entry)| entry.weight);
        let key = *lightest?.0;
        self.entries.remove(&key)
    }

    /// Removes a key; its value.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// The values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// Removes all; the values, in no order.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = V> {
        self.entries.drain().map(|(_, entry)| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::{prop_assert, proptest};

    use super::Heaviest;
    use crate::seed::Seed;

    proptest! {
        /// Against exact counts: whatever is heavier than its share is there, in whichever order they come,
        /// and what it counts for itself is never more than it is, and too little by a share at most.
        #[test]
        fn who_is_heavier_than_a_share_is_never_lost(
            stream in proptest::collection::vec((0..40_u32, 1..20_u64), 1..400),
            most in 1..12_usize,
        ) {
            let mut heaviest = Heaviest::new(most, &Seed::fixed());
            let mut exact: HashMap<u32, u64> = HashMap::new();
            for (key, weight) in &stream {
                *exact.entry(*key).or_default() += weight;
                heaviest.add(*key, *weight, || (*key, 0), |(_, count)| *count += weight);
                prop_assert!(heaviest.entries.len() <= most);
            }
            let share = exact.values().sum::<u64>() / most as u64;
            let kept: HashMap<u32, u64> = heaviest.values().copied().collect();
            for (key, count) in &exact {
                prop_assert!(*count <= share || kept.contains_key(key));
            }
            for (key, count) in kept {
                prop_assert!(count <= exact[&key] && exact[&key] - count <= share);
            }
        }
    }
}
