//! Scripts and calls of scripts.

use serde_json::Value;

use super::json::{push_number, push_string};

/// A script in both [forms](ScriptForm): its text for `EVAL`, and its SHA-1 in hexadecimal digits for
/// `EVALSHA`.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// The text as [`ScriptForm::Flagged`].
    pub text: &'static str,
    /// The SHA-1 of `text`.
    pub sha1: &'static str,
    /// The SHA-1 of the text as [`ScriptForm::Plain`].
    pub plain_sha1: &'static str,
}

/// How a script is sent. Both forms do the same. A Redis that cannot write (`OOM`, `READONLY`) refuses the
/// flagged form before it runs, and the plain form at its first write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptForm {
    /// With `#!lua flags=allow-key-locking` as its first line. Without it Upstash locks the whole
    /// database for every script.
    Flagged,
    /// Without that line, for a server that refuses it.
    Plain,
}

impl ScriptForm {
    /// The form's name in health.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flagged => "flagged",
            Self::Plain => "plain",
        }
    }
}

impl Script {
    /// The text in a form.
    #[must_use]
    pub fn text(&self, form: ScriptForm) -> &'static str {
        match form {
            ScriptForm::Flagged => self.text,
            ScriptForm::Plain => self.text.split_once('\n').map_or("", |(_, rest)| rest),
        }
    }

    /// The SHA-1 of the text in a form.
    #[must_use]
    pub const fn sha1(&self, form: ScriptForm) -> &'static str {
        match form {
            ScriptForm::Flagged => self.sha1,
            ScriptForm::Plain => self.plain_sha1,
        }
    }
}

/// The words of a command, one after the other in one string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedWords {
    text: String,
    ends: Vec<usize>,
}

impl PackedWords {
    /// No words yet, with capacity for `words` words of `bytes` bytes together.
    #[must_use]
    pub fn with_capacity(words: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(words),
        }
    }

    /// Adds a word.
    pub fn push(&mut self, word: &str) {
        self.push_with(|text| text.push_str(word));
    }

    /// Adds a number in digits.
    pub fn push_number(&mut self, number: u64) {
        self.push_with(|text| push_number(text, number));
    }

    /// Adds the word that `write` appends to the text.
    pub fn push_with(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
    }

    /// The number of words.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no words.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The words in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut from = 0;
        self.ends.iter().map(move |end| {
            let word = self.text.get(from..*end).unwrap_or_default();
            from = *end;
            word
        })
    }
}

/// A call of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptCall {
    /// Every key that the script reads or writes: `KEYS`.
    pub keys: PackedWords,
    /// The other arguments: `ARGV`.
    pub arguments: PackedWords,
}

impl ScriptCall {
    /// The command as a JSON array of strings. `verb` is `EVAL` with the script's text as `script`, or `EVALSHA`
    /// with its SHA-1.
    #[must_use]
    pub fn to_json(&self, verb: &str, script: &str) -> String {
        let words = self.keys.len() + self.arguments.len();
        let bytes = self.keys.text.len() + self.arguments.text.len() + script.len();
        let mut json = String::with_capacity(bytes + 3 * words + 32);
        json.push('[');
        push_string(&mut json, verb);
        json.push(',');
        push_string(&mut json, script);
        json.push_str(",\"");
        push_number(&mut json, self.keys.len() as u64);
        json.push('"');
        for word in self.keys.iter().chain(self.arguments.iter()) {
            json.push(',');
            push_string(&mut json, word);
        }
        json.push(']');
        json
    }
}

/// The answer of a script.
pub trait FromScriptReply: Sized {
    /// Reads the answer's JSON text without serde. `None` if it does not have the usual form.
    #[must_use]
    fn from_json(text: &str) -> Option<Self> {
        let _ = text;
        None
    }

    /// Reads the answer's JSON value. `None` if the script never answers that.
    fn from_value(value: &Value) -> Option<Self>;
}

/// Takes any answer unread.
impl FromScriptReply for Value {
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

#[cfg(test)]
impl Script {
    /// Asserts that the SHA-1s match the texts, and that the text has the flag as its first line.
    pub(crate) fn assert_sha1s(&self, file: &str) {
        for form in [ScriptForm::Flagged, ScriptForm::Plain] {
            let hash = sha1_smol::Sha1::from(self.text(form)).digest().to_string();
            assert_eq!(
                self.sha1(form),
                hash,
                "{file} has changed: write its new SHA-1s next to where it is included"
            );
        }
        let flag = "#!lua flags=allow-key-locking\n";
        assert_eq!(self.text, format!("{flag}{}", self.text(ScriptForm::Plain)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::{PackedWords, ScriptCall};

    fn words(list: &[String]) -> PackedWords {
        let mut words = PackedWords::default();
        list.iter().for_each(|word| words.push(word));
        words
    }

    proptest! {
        #[test]
        fn a_call_is_written_as_serde_writes_it(
            keys in proptest::collection::vec(any::<String>(), 0..5),
            arguments in proptest::collection::vec("[ -~]{0,12}", 0..5),
        ) {
            let call = ScriptCall { keys: words(&keys), arguments: words(&arguments) };
            prop_assert_eq!(call.keys.iter().collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
            let head = ["EVAL".to_owned(), "return \"\\1\"".to_owned(), keys.len().to_string()];
            let all: Vec<String> = head.into_iter().chain(keys).chain(arguments).collect();
            prop_assert_eq!(call.to_json("EVAL", "return \"\\1\""), Value::from(all).to_string());
        }
    }
}
