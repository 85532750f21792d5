//! Parses JSON from outside. An object may contain a name twice, and parsers differ on which of the two values
//! counts. In an operator's configuration a duplicate is an error. In all other JSON the last value counts.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// The text that replaces an ambiguous value or one of a wrong type. No setting accepts this text. So the reader of
/// each setting reports its own rule, and the stricter reading takes effect.
pub const UNUSABLE: &str = "\0";

/// The result of [`parse`].
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value. If an object contains a name twice, the value of that name is [`UNUSABLE`].
    pub value: Value,
    /// Whether an object at any depth contains a name twice.
    pub has_duplicates: bool,
}

/// Parses JSON in which duplicate names are an error. Names that differ only in case are different names.
///
/// # Errors
///
/// `text` is not JSON.
pub fn parse(text: &str) -> Result<Parsed, serde_json::Error> {
    let has_duplicates = Cell::new(false);
    let value = read(text, Reader(Some(&has_duplicates)))?;
    Ok(Parsed {
        value,
        has_duplicates: has_duplicates.get(),
    })
}

/// Parses JSON in which the last of equal names counts, as in a JSON Web Token (RFC 7519, 4). `None` if `text` is
/// not JSON.
#[must_use]
pub fn value(text: &str) -> Option<Value> {
    read(text, Reader(None)).ok()
}

fn read(text: &str, reader: Reader<'_>) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = reader.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads any value. With a cell, it sets the cell to `true` if an object contains a name twice. Without one, the
/// last of equal names counts.
#[derive(Clone, Copy)]
struct Reader<'a>(Option<&'a Cell<bool>>);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value_seed(self)?;
            match values.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(mut taken) => {
                    taken.insert(match self.0 {
                        None => value,
                        Some(has_duplicates) => {
                            has_duplicates.set(true);
                            UNUSABLE.into()
                        }
                    });
                }
            }
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{UNUSABLE, parse};

    #[test]
    fn a_duplicate_name_is_found_at_any_depth() {
        for (text, value) in [
            (r#"{"a":1,"a":1}"#, json!({"a": UNUSABLE})),
            (r#"{"a":1,"\u0061":2,"a":3}"#, json!({"a": UNUSABLE})),
            (
                r#"[0,{"b":[{"a":null,"c":true,"a":{}}]}]"#,
                json!([0, {"b": [{"a": UNUSABLE, "c": true}]}]),
            ),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(
                (parsed.value, parsed.has_duplicates),
                (value, true),
                "{text}"
            );
            // For `value` the last one counts.
            assert_eq!(super::value(text), serde_json::from_str(text).ok());
        }
        for text in [
            r#"{"a":1,"A":2,"":3}"#,
            r#"[{"a":1},{"a":1},{"a":{"a":1}},["a","a"]]"#,
        ] {
            assert!(!parse(text).unwrap().has_duplicates, "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_text_is_parsed_as_serde_parses_it(value in values(), text in "[\\[\\]{}:,\"a0-9.e \\\\-]{0,20}") {
            let written = value.to_string();
            let parsed = parse(&written).unwrap();
            prop_assert_eq!(Some(parsed.value), serde_json::from_str(&written).ok());
            prop_assert!(!parsed.has_duplicates);
            let expected: Option<Value> = serde_json::from_str(&text).ok();
            let parsed = parse(&text).ok();
            prop_assert_eq!(parsed.is_some(), expected.is_some());
            if let Some(parsed) = parsed.filter(|parsed| !parsed.has_duplicates) {
                prop_assert_eq!(Some(parsed.value), expected);
            }
        }
    }

    #[test]
    fn a_text_that_is_nested_too_deeply_is_rejected() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&deep(100)).is_ok());
        assert!(parse(&deep(100_000)).is_err());
    }
}
