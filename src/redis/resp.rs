//! Replies in Redis's own protocol (RESP 2), read as they arrive into JSON as the REST API answers it.
//!
//! Nothing is kept between two reads but a [state](Parse::Incomplete) that the caller holds: a client that disconnects
//! leaves nothing behind. Each byte is read once, however small the pieces are in which they come.

use std::fmt::Write;

use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;

use super::json;

/// The longest answer, in bytes, all replies together.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The longest line, in bytes: an error, a number, a length. Longer texts come as bulk strings.
const MAX_LINE_BYTES: usize = 4096;

/// How deep lists may be in lists.
const MAX_DEPTH: usize = 16;

/// The fewest bytes of a value.
const MIN_VALUE_BYTES: usize = 3;

/// What has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// More is to come.
    Incomplete {
        /// How many bytes were read. The next call begins after them.
        read: usize,
        /// How many bytes, from there on, are needed to read on. At most [`MAX_BYTES`].
        needed: usize,
        /// What the next call is to be passed.
        state: String,
        /// What was read of the result, as JSON. It goes on where that of the call before ended.
        json: String,
    },
    /// The rest of the last reply, as JSON.
    Result(String),
    /// The first reply that is an error.
    Error(String),
    /// No reply, or one that is too long or too deep.
    Malformed,
}

/// Reads one reply or several. `state` is that of the call before, at first `0` and how many replies are to
/// come, such as `0 3`. The result is that of the last reply, and the first that is an error ends them all.
#[must_use]
pub fn read(state: &str, bytes: &[u8]) -> Parse {
    let reader = RespReader::from_state(state);
    reader
        .and_then(|reader| reader.read(bytes))
        .unwrap_or(Parse::Malformed)
}

struct RespReader {
    /// Bytes read in calls before.
    taken: usize,
    /// How many values are to come: replies, then those of the list that is open, of one in it, and so on. None is zero.
    open: Vec<usize>,
    json: String,
}

impl RespReader {
    fn from_state(state: &str) -> Option<Self> {
        let mut numbers = state.split(' ').map(|number| number.parse().ok());
        let taken = numbers.next()??;
        let open = numbers.collect::<Option<Vec<usize>>>()?;
        let json = String::new();
        (!open.is_empty() && !open.contains(&0)).then_some(Self { taken, open, json })
    }

    fn state(&self, read: usize) -> String {
        let mut state = (self.taken + read).to_string();
        for count in &self.open {
            // A string takes everything.
            let _ = write!(state, " {count}");
        }
        state
    }

    /// `None`: malformed.
    fn read(mut self, bytes: &[u8]) -> Option<Parse> {
        if bytes.len() > MAX_BYTES.checked_sub(self.taken)? {
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

    /// Whether what is read belongs to the last reply.
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

    /// Counts a value, and the lists that end with it. Returns whether all replies have been read.
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

/// What comes next.
enum Next {
    /// It takes at least so many bytes.
    Needed(usize),
    /// A list of so many values, which begins after so many bytes.
    List(usize, usize),
    /// A value, and how many bytes it takes.
    Value(RangeFrame, usize),
}

/// `None`: malformed. Lists are counted here, not given to the decoder: it begins again with each piece, and calls itself for
/// a list in a list.
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
                let is_possible = values <= MAX_BYTES / MIN_VALUE_BYTES;
                return is_possible.then_some(Next::List(values, body));
            }
            (_, Ok(length)) if length > MAX_BYTES => return None,
            (_, Ok(length)) => {
                let whole = body + length + 2;
                match rest.get(whole - 2..whole) {
                    None => return Some(Next::Needed(whole)),
                    Some(ending) if ending != b"\r\n" => return None,
                    Some(_) => {}
                }
            }
            // Nothing, in place of either.
            _ if number == -1 => {}
            _ => return None,
        }
    }
    let (value, length) = decode_range(rest).ok()??;
    Some(Next::Value(value, length))
}

#[cfg(test)]
mod tests;
