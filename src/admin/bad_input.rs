//! A request that breaks a rule.

/// What the sender must correct: the rule that the request breaks. Never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadInput(pub String);

impl From<&str> for BadInput {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

impl BadInput {
    /// `name` is not a whole number from `least` to `most`.
    pub(super) fn out_of_range(name: &str, [least, most]: [u32; 2]) -> Self {
        Self(format!(
            "`{name}` must be a whole number from {least} to {most}."
        ))
    }
}
