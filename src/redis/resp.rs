//! Reads replies in Redis's own protocol (RESP 2) as they arrive, and writes them as the JSON that the REST
//! API answers.
//!
//! Between two reads only the caller keeps a [state](Parse::Incomplete), so a client that disconnects leaves
//! nothing behind. Each byte is read about once, however small the pieces are in which it arrives.

use std::fmt::Write;

use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;

use super::json;

/// The longest answer: bytes of all replies together.
pub const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// The longest line, in bytes: an error, a number or a length. Longer texts come as bulk strings.
const MAX_LINE_BYTES: usize = 4096;

/// How deep lists may be nested.
const MAX_DEPTH: usize = 16;

/// The length of the shortest value, in bytes.
const MIN_VALUE_BYTES: usize = 3;

/// The result of a [`read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// More bytes are needed.
    Incomplete {
        /// How many bytes were read. The next call begins after them.
        read: usize,
        /// How many bytes after them the next call needs to make progress. At most [`MAX_REPLY_BYTES`].
        needed: usize,
        /// The state to pass to the next call.
        state: String,
        /// The part of the result that this call has read, as JSON. It continues that of the call before.
        json: String,
    },
    /// All replies are read. This is the rest of the last one, as JSON.
    Result(String),
    /// A reply is an error. This is its text.
    Error(String),
    /// The bytes are no reply, or one that is too long or nested too deep.
    Malformed,
}

/// Reads one or several replies. `state` comes from the call before. For the first call it is `0` and the
/// number of replies, such as `0 3`. The result is the last reply, or the first error: no reply after an error
/// is read.
#[must_use]
pub fn read(state: &str, bytes: &[u8]) -> Parse {
    let reader = RespReader::from_state(state);
    reader
        .and_then(|reader| reader.read(bytes))
        .unwrap_or(Parse::Malformed)
}

struct RespReader {
    /// How many bytes earlier calls have read.
    bytes_before: usize,
    /// How many values are still to come: replies first, then items of each list that is open, from the outermost
    /// to the innermost. None of them is zero.
    open: Vec<usize>,
    json: String,
}

impl RespReader {
    fn from_state(state: &str) -> Option<Self> {
        let mut numbers = state.split(' ').map(|number| number.parse().ok());
        let bytes_before = numbers.next()??;
        let open = numbers.collect::<Option<Vec<usize>>>()?;
        let json = String::new();
        (!open.is_empty() && !open.contains(&0)).then_some(Self {
            bytes_before,
            open,
            json,
        })
    }

    fn state(&self, read: usize) -> String {
        let mut state = (self.bytes_before + read).to_string();
        for count in &self.open {
            // Writing to a String cannot fail.
            let _ = write!(state, " {count}");
        }
        state
    }

    /// Reads as much of `bytes` as is complete. `None` if they are malformed.
    fn read(mut self, bytes: &[u8]) -> Option<Parse> {
        if bytes.len() > MAX_REPLY_BYTES.checked_sub(self.bytes_before)? {
            return None;
        }
        let mut read = 0;
        loop {
            let rest = bytes.get(read..)?;
            let length = match next(rest)? {
                Next::Needed(needed) => {
                    return Some(Parse::Incomplete {
                        read,
                        needed,
                        state: self.state(read),
                        json: self.json,
                    });
                }
                Next::List(values @ 1.., length) => {
                    self.push("[");
                    self.open.push(values);
                    if self.open.len() > MAX_DEPTH {
                        return None;
                    }
                    read += length;
                    continue;
                }
                Next::List(_, length) => {
                    self.push("[]");
                    length
                }
                Next::Value(RangeFrame::Error((start, end)), length) => {
                    let error = String::from_utf8_lossy(rest.get(start..end)?);
                    if self.open.len() == 1 {
                        return Some(Parse::Error(error.into_owned()));
                    }
                    self.push("{\"error\":");
                    self.push_string(&error);
                    self.push("}");
                    length
                }
                Next::Value(value, length) => {
                    match value {
                        RangeFrame::Integer(number) => self.push(&number.to_string()),
                        RangeFrame::SimpleString((start, end))
                        | RangeFrame::BulkString((start, end)) => {
                            self.push_string(&String::from_utf8_lossy(rest.get(start..end)?));
                        }
                        _ => self.push("null"),
                    }
                    length
                }
            };
            read += length;
            if self.end_value() {
                return Some(Parse::Result(self.json));
            }
        }
    }

    /// Whether the value that is being read belongs to the last reply.
    fn is_kept(&self) -> bool {
        self.open.first() == Some(&1)
    }

    fn push(&mut self, json: &str) {
        if self.is_kept() {
            self.json.push_str(json);
        }
    }

    fn push_string(&mut self, text: &str) {
        if self.is_kept() {
            json::push_string(&mut self.json, text);
        }
    }

    /// Counts a value as read, and closes the lists that end with it. Returns whether all replies have been read.
    fn end_value(&mut self) -> bool {
        loop {
            let depth = self.open.len();
            match self.open.last_mut() {
                None => return true,
                Some(1) if depth == 1 => return true,
                Some(1) => {
                    self.open.pop();
                    self.push("]");
                }
                Some(count) => {
                    *count -= 1;
                    if depth > 1 {
                        self.push(",");
                    }
                    return false;
                }
            }
        }
    }
}

/// What comes next in the bytes.
enum Next {
    /// It is incomplete. It takes at least this many bytes.
    Needed(usize),
    /// A list: the number of its items, and the length of its head in bytes.
    List(usize, usize),
    /// A value, and its length in bytes.
    Value(RangeFrame, usize),
}

/// Finds what comes next. `None` if it is malformed. Lists are not passed to the decoder, because that would
/// start again with each piece that arrives, and recurses for nested lists.
fn next(rest: &[u8]) -> Option<Next> {
    let Some(kind) = rest.first() else {
        return Some(Next::Needed(1));
    };
    let head = rest.get(..MAX_LINE_BYTES).unwrap_or(rest);
    let is_kind = b"+-:$*".contains(kind);
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return (is_kind && rest.len() < MAX_LINE_BYTES).then_some(Next::Needed(rest.len() + 1));
    };
    if matches!(kind, b'*' | b'$') {
        let number: i64 = str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
        let body = end + 2;
        match (kind, usize::try_from(number)) {
            (b'*', Ok(values)) => {
                let is_possible = values <= MAX_REPLY_BYTES / MIN_VALUE_BYTES;
                return is_possible.then_some(Next::List(values, body));
            }
            (_, Ok(length)) if length > MAX_REPLY_BYTES => return None,
            (_, Ok(length)) => {
                let whole = body + length + 2;
                match rest.get(whole - 2..whole) {
                    None => return Some(Next::Needed(whole)),
                    Some(ending) if ending != b"\r\n" => return None,
                    Some(_) => {}
                }
            }
            // -1 stands for null, in place of a list or a string.
            _ if number == -1 => {}
            _ => return None,
        }
    }
    let (value, length) = decode_range(rest).ok()??;
    Some(Next::Value(value, length))
}

#[cfg(test)]
mod tests;
