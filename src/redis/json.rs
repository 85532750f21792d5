//! A fast writer and reader for the JSON of a decision's command and answer. JSON in another form than the
//! usual one is left to serde.

/// Appends `text` as a JSON string.
pub fn push_string(json: &mut String, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        // Serializing a string does not fail.
        json.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// Appends `number` in digits.
pub fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Reads a JSON text without white space from the front. Each method reads one thing and moves behind it, or
/// returns `None` if something else comes next.
#[derive(Clone, Copy, Debug)]
pub struct TextReader<'a> {
    rest: &'a str,
}

impl<'a> TextReader<'a> {
    /// A reader at the start of `text`.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Reads exactly this text.
    pub fn literal(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Reads a whole number from 0 to 2^53, written without sign, fraction, exponent or leading zero.
    pub fn number(&mut self) -> Option<u64> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (text, rest) = self.rest.split_at_checked(digits)?;
        let canonical = (1..=16).contains(&digits) && (digits == 1 || !text.starts_with('0'));
        if !canonical || rest.starts_with(['.', 'e', 'E']) {
            return None;
        }
        self.rest = rest;
        text.parse().ok().filter(|number| *number <= 1 << 53)
    }

    /// Reads a string without escapes.
    pub fn string(&mut self) -> Option<&'a str> {
        let inside = self.rest.strip_prefix('"')?;
        let end = inside.find(['"', '\\'])?;
        let (text, rest) = inside.split_at_checked(end)?;
        if text.bytes().any(|byte| byte < 0x20) {
            return None;
        }
        self.rest = rest.strip_prefix('"')?;
        Some(text)
    }

    /// Reads a string without escapes, or `null`.
    pub fn string_or_null(&mut self) -> Option<Option<&'a str>> {
        match self.literal("null") {
            Some(()) => Some(None),
            None => self.string().map(Some),
        }
    }

    /// Whether the whole text has been read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::{TextReader, push_number, push_string};

    proptest! {
        #[test]
        fn a_string_is_written_as_serde_writes_it(text in any::<String>()) {
            let mut json = String::new();
            push_string(&mut json, &text);
            prop_assert_eq!(json, Value::from(text).to_string());
        }

        #[test]
        fn a_number_is_written_as_serde_writes_it(number in any::<u64>()) {
            let mut json = String::new();
            push_number(&mut json, number);
            prop_assert_eq!(json, Value::from(number).to_string());
        }

        #[test]
        fn the_reader_returns_what_serde_returns(text in "[0-9]{1,18}|\"[ -~]{0,8}\"|[0-9.eE+-]{1,6}|\"\\PC{0,8}\"") {
            let mut reader = TextReader::new(&text);
            let number = reader.number().filter(|_| reader.is_at_end());
            let parsed: Option<Value> = serde_json::from_str(&text).ok();
            if let Some(number) = number {
                prop_assert_eq!(parsed.clone(), Some(Value::from(number)));
            }
            let mut reader = TextReader::new(&text);
            let string = reader.string().filter(|_| reader.is_at_end());
            if let Some(string) = string {
                prop_assert_eq!(parsed, Some(Value::from(string)));
            }
        }
    }

    #[test]
    fn unusual_json_is_left_to_serde() {
        for text in [
            "",
            "-1",
            "01",
            "1.5",
            "1e3",
            "18014398509481985",
            "\"a",
            "\"a\\n\"",
            "\"\u{1}\"",
            "null",
        ] {
            let mut reader = TextReader::new(text);
            assert_eq!((reader.number(), reader.string()), (None, None), "{text}");
        }
    }
}
