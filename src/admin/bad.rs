//! A request that breaks a rule.

/// What the sender must correct: the rule that the request breaks. Never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad(pub String);

impl From<&str> for Bad {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

impl Bad {
    /// `name` is not a whole number from `least` to `most`.
    pub(super) fn out_of_range(name: &str, [least, most]: [u32; 2]) -> Self {
        Self(format!(
            "`{name}` must be a whole number from {least} to {most}."
        ))
    }
}
