//! Tokens that have been tried, and who sent them.

use crate::client::CallerKey;
use crate::generations::Generations;
use crate::seed::Seed;
use crate::time::Timestamp;

/// Tokens that an isolate remembers unless told otherwise; one is about 75 bytes.
pub const DEFAULT_ENTRIES: usize = 10_000;

/// What a token proved, and until when that stands.
type Proof = (Option<CallerKey>, Timestamp);

/// What is known of tokens, by their SHA-256.
pub struct ProofCache(Generations<[u8; 32], Proof>);

impl ProofCache {
    /// Remembers up to `entries` tokens (at least two).
    #[must_use]
    pub fn new(entries: usize, seed: &Seed) -> Self {
        Self(Generations::new(entries, None, seed))
    }

    /// What the token is known to prove: `Some(None)` is nobody.
    pub fn get(&mut self, token: &[u8; 32], now: Timestamp) -> Option<Option<CallerKey>> {
        let (user, until) = self.0.get(token, now)?;
        (*until > now).then_some(*user)
    }

    /// Remembers what a token proves.
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

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many tokens are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
