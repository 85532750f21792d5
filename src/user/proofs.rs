//! Remembers verified tokens, and the users whom they prove.

use crate::client::CallerKey;
use crate::generations::Generations;
use crate::seed::Seed;
use crate::time::Timestamp;

/// How many tokens an isolate remembers by default. One takes about 75 bytes of memory.
pub const DEFAULT_ENTRIES: usize = 10_000;

/// The user whom a token proves, if any, and until when this is remembered.
type Proof = (Option<CallerKey>, Timestamp);

/// A cache of the results of verifying tokens, by the SHA-256 of the token.
pub struct ProofCache(Generations<[u8; 32], Proof>);

impl ProofCache {
    /// Remembers up to `entries` tokens (at least two).
    #[must_use]
    pub fn new(entries: usize, seed: &Seed) -> Self {
        Self(Generations::new(entries, None, seed))
    }

    /// The remembered result for a token: `Some(None)` if it proves nobody, `None` if nothing is remembered.
    pub fn get(&mut self, token: &[u8; 32], now: Timestamp) -> Option<Option<CallerKey>> {
        let (user, until) = self.0.get(token, now)?;
        (*until > now).then_some(*user)
    }

    /// Remembers until `until` whom a token proves. `user` is `None` if it proves nobody.
    pub fn put(
        &mut self,
        token: [u8; 32],
        user: Option<CallerKey>,
        until: Timestamp,
        now: Timestamp,
    ) {
        if until > now {
            self.0.insert(token, (user, until), now);
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The number of remembered tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no token is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
