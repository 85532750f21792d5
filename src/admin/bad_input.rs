//! A request that breaks a rule.

/// The rule that a request breaks, as a sentence for its sender. It never contains the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadInput(pub String);

impl From<&str> for BadInput {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

impl BadInput {
    /// The rule that `name` must be a whole number from `min` to `max`.
    pub(super) fn out_of_range(name: &str, [min, max]: [u32; 2]) -> Self {
        Self(format!(
            "`{name}` must be a whole number from {min} to {max}."
        ))
    }
}
