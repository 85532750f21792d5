//! Numbers, each under a name.

use serde_json::{Map, Value};

use crate::json;
use crate::redis::number_of;

/// The most names in one set. A configuration has some hundred, and names of older configurations stay.
const MAX_NAMES: usize = 4000;

/// Counters, each under a name. A name is several words, the last of which may be any text. Redis stores a set as a JSON
/// object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterSet(Map<String, Value>);

impl CounterSet {
    /// Takes the numbers of a JSON object. A value that is no number counts as 0. Any other JSON is an empty set.
    #[must_use]
    pub fn of_value(value: Value) -> Self {
        match value {
            Value::Object(numbers) => Self(numbers),
            _ => Self::default(),
        }
    }

    /// Reads the JSON text that Redis stores. Anything else is an empty set.
    #[must_use]
    pub fn read(text: &Value) -> Self {
        Self::of_value(text.as_str().and_then(json::value).unwrap_or_default())
    }

    /// Returns the set as a JSON object.
    #[must_use]
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Sets a number.
    pub fn set(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Adds to a counter.
    pub fn add(&mut self, words: &[&str], count: u64) {
        if count > 0 {
            self.add_named(&words.join(" "), count);
        }
    }

    /// Adds a counter with the value 0 if it does not exist.
    pub fn show(&mut self, words: &[&str]) {
        let name = words.join(" ");
        if self.find(&name).is_none() {
            self.set(&name, 0);
        }
    }

    fn add_named(&mut self, name: &str, count: u64) {
        if let Some(stored) = self.0.get_mut(name) {
            *stored = number_of(stored).saturating_add(count).into();
        } else if self.0.len() < MAX_NAMES {
            self.set(name, count);
        }
    }

    /// Adds the counters of another set.
    pub fn add_all(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            self.add_named(name, number_of(count));
        }
    }

    /// Returns how much each counter has grown since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut new = Self::default();
        for (name, count) in &self.0 {
            new.add(&[name], number_of(count).saturating_sub(before.get(name)));
        }
        new
    }

    /// Removes the counters whose first word is `first`.
    pub fn remove_of(&mut self, first: &str) {
        self.0.retain(|name, _| rest_of(name, first).is_none());
    }

    /// Whether there is no counter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a counter. `None`: it does not exist.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u64> {
        self.0.get(name).map(number_of)
    }

    /// Returns a counter, or 0 if it does not exist.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.find(name).unwrap_or_default()
    }

    /// Returns the counters whose first word is `first`, each with the rest of its name, sorted by name.
    pub fn of<'a>(&'a self, first: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let all = self.0.iter();
        all.filter_map(move |(name, count)| Some((rest_of(name, first)?, number_of(count))))
    }

    /// Returns all counters as nested JSON objects, one level for each word.
    #[must_use]
    pub fn nested(&self) -> Value {
        let mut nested = Value::Object(Map::new());
        for (name, count) in &self.0 {
            let mut place = &mut nested;
            for word in name.split(' ') {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                place = &mut place[word];
            }
            *place = count.clone();
        }
        nested
    }
}

fn rest_of<'a>(name: &'a str, first: &str) -> Option<&'a str> {
    name.strip_prefix(first)?.strip_prefix(' ')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::CounterSet;

    #[test]
    fn each_counter_is_nested_under_its_words() {
        let mut series = CounterSet::default();
        series.add(&["policies", "auth", "denied"], 2);
        series.add(&["policies", "auth", "admitted"], 1);
        series.add(&["commands"], 3);
        assert_eq!(
            series.nested(),
            json!({"commands": 3, "policies": {"auth": {"admitted": 1, "denied": 2}}})
        );
        // Any JSON may be in Redis.
        for odd in [
            json!({"a": 1, "a b": 2}),
            json!({"": 1, " ": 2}),
            json!({"a b": {}, "a b c": 1}),
        ] {
            let _ = CounterSet::of_value(odd).nested();
        }
        assert!(CounterSet::of_value(json!([1])).is_empty());
        assert_eq!(CounterSet::of_value(json!({"a": "x", "b": -1})).get("b"), 0);
    }
}
