//! Tokens that have been tried, and who sent them.

use std::collections::HashMap;

use crate::seed::Seed;
use crate::time::Timestamp;

/// Tokens that an isolate remembers unless told otherwise; one is about 120 bytes.
pub const DEFAULT_ENTRIES: usize = 10_000;

/// What a token proved, and until when that stands.
type Proof = (Option<String>, Timestamp);

/// What is known of tokens, by their SHA-256. In two generations: once half of the entries are
/// taken, what was not asked for since the last time is forgotten.
pub struct Proofs {
    most: usize,
    young: HashMap<[u8; 32], Proof, Seed>,
    old: HashMap<[u8; 32], Proof, Seed>,
}

impl Proofs {
    /// Remembers up to `entries` tokens (at least two).
    #[must_use]
    pub fn new(entries: usize, seed: Seed) -> Self {
        Self {
            most: entries.max(2) / 2,
            young: HashMap::with_hasher(seed.clone()),
            old: HashMap::with_hasher(seed),
        }
    }

    /// What the token is known to prove: `Some(None)` is nobody.
    pub fn get(&mut self, token: &[u8; 32], now: Timestamp) -> Option<Option<String>> {
        if let Some((user, until)) = self.young.get(token) {
            return (*until > now).then(|| user.clone());
        }
        let (user, until) = self.old.remove(token)?;
        if until <= now {
            return None;
        }
        self.put(*token, user.clone(), until, now);
        Some(user)
    }

    /// Remembers what a token proves.
    pub fn put(&mut self, token: [u8; 32], user: Option<String>, until: Timestamp, now: Timestamp) {
        if until <= now {
            return;
        }
        if self.young.len() >= self.most {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(token, (user, until));
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// How many tokens are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
