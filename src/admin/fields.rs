//! A request's body: a JSON object.

use serde_json::{Map, Value};

use super::bad_input::BadInput;
use super::{AdminError, AdminRequest, RequestBody};
use crate::json;

/// A JSON object, field by field.
#[derive(Debug)]
pub(super) struct JsonFields(Map<String, Value>);

impl JsonFields {
    /// Reads the object in a request's body. If `may_be_empty`, an empty body is an object without fields.
    pub(super) fn of_body(request: &AdminRequest, may_be_empty: bool) -> Result<Self, AdminError> {
        let text = match &request.body {
            RequestBody::Text(text) => text,
            RequestBody::TooLong => return Err(AdminError::TooLarge),
            RequestBody::NotText => return Err(BadInput::from("The body must be UTF-8.").into()),
        };
        if may_be_empty && text.is_empty() {
            return Ok(Self(Map::new()));
        }
        // The message names only the position: serde's own message can contain a part of the body.
        let parsed = json::parse(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            BadInput(format!(
                "The body must be JSON; the error is at line {line}, column {column}."
            ))
        })?;
        if parsed.has_duplicates {
            return Err(BadInput::from("The body has a field twice; send each field once.").into());
        }
        Ok(Self::of(parsed.value)?)
    }

    /// Reads an object out of `value`.
    pub(super) fn of(value: Value) -> Result<Self, BadInput> {
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(BadInput::from(
                "The body must be a JSON object, and so must each item of a list in it.",
            )),
        }
    }

    /// Checks that the object has no other fields than `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), BadInput> {
        if self.0.keys().all(|name| known.contains(&name.as_str())) {
            return Ok(());
        }
        Err(BadInput(format!(
            "The only fields are {}.",
            known.join(", ")
        )))
    }

    /// Takes a text out of the object. `None` if the field is absent or `null`.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, BadInput> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(BadInput(format!("`{name}` must be a string."))),
        }
    }

    /// Takes a whole number from `min` to `max` out of the object. `None` if the field is absent or `null`.
    pub(super) fn number(
        &mut self,
        name: &str,
        [min, max]: [u32; 2],
    ) -> Result<Option<u32>, BadInput> {
        let number = match self.0.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        let in_range = number.filter(|number| (min..=max).contains(number));
        let rule = || BadInput::out_of_range(name, [min, max]);
        in_range.map(Some).ok_or_else(rule)
    }

    /// Takes a list out of the object. `None` if the field is absent or `null`.
    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, BadInput> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(BadInput(format!("`{name}` must be a list."))),
        }
    }
}
