//! The few Redis commands that the limiter uses, in memory, with the same replies.
//!
//! The number of keys is bounded. When full, the emulator drops the key that expires soonest. It does not drop
//! keys without an expiry, whose number their writers bound, except with [`Emulator::for_application`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Command, Database};
use crate::error::StoreError;
use crate::time::{Millis, Timestamp};

/// How many keys an isolate keeps by default.
pub const DEFAULT_KEYS: usize = 20_000;

/// How many keys of an application an isolate keeps, and how many bytes of keys and texts.
const APPLICATION_KEYS: usize = 10_000;
const APPLICATION_BYTES: usize = 8 * 1024 * 1024;

/// Where keys without an expiry begin in [`Keyspace::by_expiry`], if they may be dropped: after all times.
const WITHOUT_EXPIRY: u64 = 1 << 62;

/// A small Redis in the isolate's memory.
pub struct Emulator {
    keyspace: RefCell<Keyspace>,
}

/// All keys and their values.
struct Keyspace {
    max_keys: usize,
    max_bytes: usize,
    /// Whether keys without an expiry may be dropped when it is full.
    drops_without_expiry: bool,
    keys: BTreeMap<String, Entry>,
    /// Bytes of keys and texts. Other kinds of content are not counted.
    bytes: usize,
    /// Keys that may be dropped, in the order in which they are. First by expiry, in ms since the epoch. Then,
    /// from [`WITHOUT_EXPIRY`] on, in the order in which they were written.
    by_expiry: BTreeSet<(u64, String)>,
    /// The number of keys written so far.
    written: u64,
}

struct Entry {
    content: Content,
    expires: Option<Timestamp>,
    /// Its place in [`Keyspace::by_expiry`], if it has one.
    place: Option<u64>,
}

impl Entry {
    fn bytes(&self, key: &str) -> usize {
        // `by_expiry` contains the key a second time.
        2 * key.len()
            + match &self.content {
                Content::Text(text) => text.len(),
                Content::Hash(_) | Content::Sorted(_) | Content::List(_) => 0,
            }
    }
}

enum Content {
    Text(String),
    /// Field values are strings.
    Hash(Map<String, Value>),
    Sorted(Sorted),
    List(Vec<String>),
}

/// A sorted set. Its scores are whole numbers from 0.
#[derive(Default)]
struct Sorted {
    scores: BTreeMap<String, u64>,
    by_score: BTreeSet<(u64, String)>,
}

impl Emulator {
    /// An emulator that keeps up to `max_keys` keys (at least one).
    #[must_use]
    pub fn new(max_keys: usize) -> Self {
        Self::bounded(max_keys, usize::MAX, false)
    }

    /// An emulator for an application's keys, whose number nobody bounds. It keeps up to 10,000 keys, and 8 MiB
    /// of keys and texts. When full, it drops the key that expires soonest. If no key expires, it drops the key
    /// that was written longest ago.
    #[must_use]
    pub fn for_application() -> Self {
        Self::bounded(APPLICATION_KEYS, APPLICATION_BYTES, true)
    }

    fn bounded(max_keys: usize, max_bytes: usize, drops_without_expiry: bool) -> Self {
        Self {
            keyspace: RefCell::new(Keyspace {
                max_keys: max_keys.max(1),
                max_bytes,
                drops_without_expiry,
                keys: BTreeMap::new(),
                bytes: 0,
                by_expiry: BTreeSet::new(),
                written: 0,
            }),
        }
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new(DEFAULT_KEYS)
    }
}

impl Database for Emulator {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        let mut keyspace = self.keyspace.borrow_mut();
        keyspace.expire(now);
        let replies = commands.iter().map(|command| {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let reply = keyspace
                .apply(&words, now)
                .ok_or_else(|| match words.first() {
                    Some(&"INCRBY") => StoreError::NotANumber,
                    _ => StoreError::Refused("ERR".to_owned()),
                });
            keyspace.drop_empty(words.get(1).copied().unwrap_or_default());
            reply
        });
        replies.collect()
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[cfg(test)]
impl Database for std::rc::Rc<Emulator> {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        self.as_ref().run(commands, now).await
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl Keyspace {
    /// Runs a command. `None` if the command is unknown, or the key has a value of another type.
    fn apply(&mut self, words: &[&str], now: Timestamp) -> Option<Value> {
        Some(match *words {
            ["GET", key] => self.text(key).into(),
            ["MGET", ref keys @ ..] => keys.iter().map(|key| self.text(key)).collect(),
            ["SET", key, value] => self.set(key, value, None),
            ["SET", key, _, "PX", _, "NX"] if self.keys.contains_key(key) => Value::Null,
            ["SET", key, value, "PX", ms] | ["SET", key, value, "PX", ms, "NX"] => {
                self.set(key, value, Some(now + millis(ms)?))
            }
            ["DEL", ref keys @ ..] => {
                let removed = keys.iter().filter(|key| self.remove(key).is_some());
                removed.count().into()
            }
            ["EXISTS", ref keys @ ..] => {
                let found = keys.iter().filter(|key| self.keys.contains_key(**key));
                found.count().into()
            }
            ["TIME"] => [
                (now.as_millis() / 1000).to_string(),
                (now.as_millis() % 1000 * 1000).to_string(),
            ]
            .into_iter()
            .collect(),
            ["PERSIST", key] => self.clear_expiry(key).into(),
            ["PEXPIRE", key, ms] => self.set_expiry(key, now + millis(ms)?).into(),
            ["INCRBY", key, by] => {
                let (value, expires) = match self.keys.get(key) {
                    None => (0, None),
                    Some(entry) => match &entry.content {
                        Content::Text(text) => (integer(text)?, entry.expires),
                        Content::Hash(_) | Content::Sorted(_) | Content::List(_) => return None,
                    },
                };
                let sum = value.checked_add(integer(by)?)?;
                self.set(key, &sum.to_string(), expires);
                sum.into()
            }
            ["HSET", key, ref pairs @ ..] if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let hash = self.hash(key)?;
                let new = pairs.chunks_exact(2).filter(|pair| {
                    let old = hash.insert(pair[0].to_owned(), pair[1].into());
                    old.is_none()
                });
                new.count().into()
            }
            ["HEXISTS", key, field] => u8::from(self.hash(key)?.contains_key(field)).into(),
            ["HGET", key, field] => self.hash(key)?.get(field).cloned().into(),
            ["HLEN", key] => self.hash(key)?.len().into(),
            ["HGETALL", key] => {
                let fields = self.hash(key)?.iter();
                fields
                    .flat_map(|(field, value)| [field.as_str().into(), value.clone()])
                    .collect()
            }
            ["HDEL", key, ref fields @ ..] => {
                let hash = self.hash(key)?;
                let removed = fields.iter().filter(|field| hash.remove(**field).is_some());
                removed.count().into()
            }
            ["ZADD", key, ref pairs @ ..] if pairs.len() % 2 == 0 => {
                let sorted = self.sorted(key)?;
                let mut new = 0_u64;
                for pair in pairs.chunks_exact(2) {
                    new += u64::from(sorted.put(pair[1], pair[0].parse().ok()?));
                }
                new.into()
            }
            ["ZINCRBY", key, by, member] => {
                let sorted = self.sorted(key)?;
                let sum = sorted.scores.get(member).unwrap_or(&0) + by.parse::<u64>().ok()?;
                sorted.put(member, sum);
                sum.to_string().into()
            }
            ["ZREM", key, ref members @ ..] => {
                let sorted = self.sorted(key)?;
                let removed = members.iter().filter(|member| sorted.remove(member));
                removed.count().into()
            }
            ["ZSCORE", key, member] => {
                let score = self.sorted(key)?.scores.get(member);
                score.map(u64::to_string).into()
            }
            ["ZCOUNT", key, min, "+inf"] => {
                let from = (score_from(min)?, String::new());
                self.sorted(key)?.by_score.range(from..).count().into()
            }
            ["ZCARD", key] => self.sorted(key)?.scores.len().into(),
            ["ZREMRANGEBYSCORE", key, "-inf", max] => {
                let max = max.parse().ok()?;
                self.sorted(key)?
                    .remove_first(|_, score| score <= max)
                    .into()
            }
            ["ZREMRANGEBYRANK", key, "0", last] => {
                let kept: usize = last.strip_prefix('-')?.parse().ok()?;
                let sorted = self.sorted(key)?;
                let surplus = (sorted.scores.len() + 1).saturating_sub(kept);
                sorted.remove_first(|place, _| place < surplus).into()
            }
            [
                "ZRANGEBYSCORE",
                key,
                min,
                "+inf",
                "WITHSCORES",
                "LIMIT",
                offset,
                count,
            ] => {
                let from = (score_from(min)?, String::new());
                let found = self.sorted(key)?.by_score.range(from..);
                page(found, offset, count)?
            }
            [
                "ZREVRANGEBYSCORE",
                key,
                max,
                "-inf",
                "WITHSCORES",
                "LIMIT",
                offset,
                count,
            ] => {
                let end = match max {
                    "+inf" => u64::MAX,
                    score => score.parse::<u64>().ok()?.saturating_add(1),
                };
                let found = self.sorted(key)?.by_score.range(..(end, String::new()));
                page(found.rev(), offset, count)?
            }
            ["RPUSH", key, ref texts @ ..] if !texts.is_empty() => {
                let list = self.list(key)?;
                list.extend(texts.iter().map(|text| (*text).to_owned()));
                list.len().into()
            }
            ["LRANGE", key, first, last] => {
                let list = self.list(key)?;
                let range = indexes([first, last], list.len())?;
                list.get(range)?.iter().cloned().collect()
            }
            ["LTRIM", key, first, "-1"] => {
                let list = self.list(key)?;
                let range = indexes([first, "-1"], list.len())?;
                list.drain(..range.start);
                "OK".into()
            }
            _ => return None,
        })
    }

    fn text(&self, key: &str) -> Option<String> {
        match &self.keys.get(key)?.content {
            Content::Text(text) => Some(text.clone()),
            Content::Hash(_) | Content::Sorted(_) | Content::List(_) => None,
        }
    }

    fn set(&mut self, key: &str, value: &str, expires: Option<Timestamp>) -> Value {
        self.remove(key);
        self.put(key, Content::Text(value.to_owned()), expires);
        "OK".into()
    }

    fn hash(&mut self, key: &str) -> Option<&mut Map<String, Value>> {
        match self.entry(key, || Content::Hash(Map::new()))? {
            Content::Hash(hash) => Some(hash),
            Content::Text(_) | Content::Sorted(_) | Content::List(_) => None,
        }
    }

    fn list(&mut self, key: &str) -> Option<&mut Vec<String>> {
        match self.entry(key, || Content::List(Vec::new()))? {
            Content::List(list) => Some(list),
            Content::Text(_) | Content::Hash(_) | Content::Sorted(_) => None,
        }
    }

    fn sorted(&mut self, key: &str) -> Option<&mut Sorted> {
        match self.entry(key, || Content::Sorted(Sorted::default()))? {
            Content::Sorted(sorted) => Some(sorted),
            Content::Text(_) | Content::Hash(_) | Content::List(_) => None,
        }
    }

    fn entry(&mut self, key: &str, new: impl FnOnce() -> Content) -> Option<&mut Content> {
        if !self.keys.contains_key(key) {
            self.put(key, new(), None);
        }
        self.keys.get_mut(key).map(|entry| &mut entry.content)
    }

    fn put(&mut self, key: &str, content: Content, expires: Option<Timestamp>) {
        self.written += 1;
        let place = match expires {
            Some(expires) => Some(expires.as_millis()),
            None => self
                .drops_without_expiry
                .then_some(WITHOUT_EXPIRY + self.written),
        };
        let entry = Entry {
            content,
            expires,
            place,
        };
        let bytes = entry.bytes(key);
        while (self.keys.len() >= self.max_keys || self.bytes + bytes > self.max_bytes)
            && let Some((_, first)) = self.by_expiry.first().cloned()
        {
            self.remove(&first);
        }
        self.bytes += bytes;
        if let Some(place) = place {
            self.by_expiry.insert((place, key.to_owned()));
        }
        self.keys.insert(key.to_owned(), entry);
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.keys.remove(key)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes(key));
        if let Some(place) = entry.place {
            self.by_expiry.remove(&(place, key.to_owned()));
        }
        Some(entry)
    }

    /// Removes the key if its hash, sorted set or list is empty, as Redis does.
    fn drop_empty(&mut self, key: &str) {
        let empty = self
            .keys
            .get(key)
            .is_some_and(|entry| match &entry.content {
                Content::Text(_) => false,
                Content::Hash(hash) => hash.is_empty(),
                Content::Sorted(sorted) => sorted.scores.is_empty(),
                Content::List(list) => list.is_empty(),
            });
        if empty {
            self.remove(key);
        }
    }

    fn set_expiry(&mut self, key: &str, expires: Timestamp) -> u8 {
        match self.remove(key) {
            Some(entry) => {
                self.put(key, entry.content, Some(expires));
                1
            }
            None => 0,
        }
    }

    fn clear_expiry(&mut self, key: &str) -> u8 {
        match self.remove(key) {
            Some(entry) => {
                let had_expiry = entry.expires.is_some();
                self.put(key, entry.content, None);
                u8::from(had_expiry)
            }
            None => 0,
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((expires, key)) = self.by_expiry.first().cloned()
            && expires <= now.as_millis()
        {
            self.remove(&key);
        }
    }
}

impl Sorted {
    /// Adds a member or changes its score. Returns whether it is new.
    fn put(&mut self, member: &str, score: u64) -> bool {
        let old = self.scores.insert(member.to_owned(), score);
        if let Some(old) = old {
            self.by_score.remove(&(old, member.to_owned()));
        }
        self.by_score.insert((score, member.to_owned()));
        old.is_none()
    }

    fn remove(&mut self, member: &str) -> bool {
        let score = self.scores.remove(member);
        score.is_some_and(|score| self.by_score.remove(&(score, member.to_owned())))
    }

    /// Removes members from the lowest score on while `remove`, called with the rank and the score, returns
    /// `true`. Returns how many.
    fn remove_first(&mut self, remove: impl Fn(usize, u64) -> bool) -> u64 {
        let mut removed = 0;
        while let Some((score, member)) = self.by_score.first().cloned()
            && remove(removed, score)
        {
            self.remove(&member);
            removed += 1;
        }
        removed as u64
    }
}

/// The indexes of a list from a first to a last. A negative index counts from the end.
fn indexes(ends: [&str; 2], length: usize) -> Option<Range<usize>> {
    let index = |text: &str| {
        let index: i64 = text.parse().ok()?;
        Some(match usize::try_from(index) {
            Ok(index) => Some(index),
            Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
        })
    };
    let [first, last] = ends;
    let begin = index(first)?.unwrap_or_default().min(length);
    let end = index(last)?.map_or(0, |last| last.saturating_add(1).min(length));
    Some(begin..end.max(begin))
}

/// Parses an integer as strictly as Redis: only in the form in which Redis writes it.
fn integer(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn millis(text: &str) -> Option<Millis> {
    text.parse().ok().map(Millis::new)
}

fn score_from(text: &str) -> Option<u64> {
    // A score that starts with a bracket is exclusive.
    match text.strip_prefix('(') {
        None => text.parse().ok(),
        Some(above) => above.parse::<u64>().ok()?.checked_add(1),
    }
}

fn page<'a>(
    found: impl Iterator<Item = &'a (u64, String)>,
    offset: &str,
    count: &str,
) -> Option<Value> {
    let found = found.skip(offset.parse().ok()?).take(count.parse().ok()?);
    Some(
        found
            .flat_map(|(score, member)| [Value::from(&**member), score.to_string().into()])
            .collect(),
    )
}
