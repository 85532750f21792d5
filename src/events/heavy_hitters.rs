//! The heaviest of many keys, in a table of bounded size.
//!
//! A key that finds the table full replaces the lightest key, and takes over its weight. If all weights sum up to `N`,
//! every key that is heavier than `N / most` is in the table. The order and the number of the other keys do not matter.
//!
//! Source: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements
//! in Data Streams", ICDT 2005 (the algorithm "Space-Saving").

use std::mem;

/// A table of up to `most` keys, each with a value. A key is a hash that was made with a secret.
///
/// The weight of a key may include the weights of keys that it replaced, so it only decides which key is replaced next.
/// Counts of one key belong in its value. The table is small enough to be searched in full.
pub(super) struct HeavyHitters<V> {
    most: usize,
    keys: Vec<u64>,
    weights: Vec<u64>,
    values: Vec<V>,
}

impl<V> HeavyHitters<V> {
    /// Creates a table of `most` keys, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            keys: Vec::new(),
            weights: Vec::new(),
            values: Vec::new(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds `weight` to a key. Returns its value, which is made by `new` if the table does not have the key, and the value
    /// that was replaced, if any.
    pub(super) fn add(
        &mut self,
        key: u64,
        weight: u64,
        new: impl FnOnce() -> V,
    ) -> (&mut V, Option<V>) {
        let known = self.keys.iter().position(|known| *known == key);
        let (place, lost) = match known {
            Some(place) => (place, None),
            None if self.keys.len() < self.most => {
                self.keys.push(key);
                self.weights.push(0);
                self.values.push(new());
                (self.values.len() - 1, None)
            }
            None => {
                let place = self.lightest();
                self.keys[place] = key;
                let lost = mem::replace(&mut self.values[place], new());
                (place, Some(lost))
            }
        };
        self.weights[place] = self.weights[place].saturating_add(weight);
        (&mut self.values[place], lost)
    }

    fn lightest(&self) -> usize {
        let lightest = self.weights.iter().enumerate();
        let lightest = lightest.min_by_key(|(_, weight)| **weight);
        lightest.map_or(0, |(place, _)| place)
    }

    /// Returns the place of the greatest value, measured by `size`.
    pub(super) fn greatest(&self, size: impl Fn(&V) -> u64) -> Option<usize> {
        let greatest = self.values.iter().enumerate();
        let greatest = greatest.max_by_key(|(_, value)| size(value));
        greatest.map(|(place, _)| place)
    }

    /// Returns the value at a place.
    pub(super) fn at(&mut self, place: usize) -> &mut V {
        &mut self.values[place]
    }

    /// Removes the key at a place, and returns its value.
    pub(super) fn remove(&mut self, place: usize) -> V {
        self.keys.swap_remove(place);
        self.weights.swap_remove(place);
        self.values.swap_remove(place)
    }

    /// Removes all keys, and returns their values in no particular order.
    pub(super) fn take_all(&mut self) -> Vec<V> {
        self.keys.clear();
        self.weights.clear();
        mem::take(&mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::{prop_assert, proptest};

    use super::HeavyHitters;

    proptest! {
        /// Checked against exact counts, in any order of keys. A key's own count is never too large, and too small by at
        /// most `N / most`.
        #[test]
        fn a_key_heavier_than_its_share_is_always_in_the_table(
            stream in proptest::collection::vec((0..40_u64, 1..20_u64), 1..400),
            most in 1..12_usize,
        ) {
            let mut heaviest = HeavyHitters::new(most);
            let mut exact: HashMap<u64, u64> = HashMap::new();
            for (key, weight) in &stream {
                *exact.entry(*key).or_default() += weight;
                heaviest.add(*key, *weight, || (*key, 0)).0.1 += weight;
                prop_assert!(heaviest.values.len() <= most);
            }
            let share = exact.values().sum::<u64>() / most as u64;
            let kept: HashMap<u64, u64> = heaviest.take_all().into_iter().collect();
            for (key, count) in &exact {
                prop_assert!(*count <= share || kept.contains_key(key));
            }
            for (key, count) in kept {
                prop_assert!(count <= exact[&key] && exact[&key] - count <= share);
            }
        }
    }
}
