//! Who may use the control plane: checks tokens, and limits wrong ones.

use std::num::NonZeroU32;

use crate::client::Caller;
use crate::config::{Config, Secret};
use crate::quota::{Algorithm, Quota, QuotaError};
use crate::response::Response;
use crate::seed::Seed;
use crate::store::memory::Memory;
use crate::store::{Charge, Check, Store};
use crate::time::{Millis, Timestamp};

/// How many wrong tokens an address may send in a window, and for how long it is then blocked. They are in force when the
/// policy `admin` is off.
const MAX_WRONG_TOKENS: NonZeroU32 = NonZeroU32::new(300).unwrap();
const WINDOW: Millis = Millis::from_secs(60);
const BLOCK: Millis = Millis::from_secs(300);

/// How many counts of wrong guesses an isolate remembers: one for each address and token.
const MAX_GUESS_COUNTS: usize = 10_000;

/// What a request to the control plane may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything that it asks for: it carries a token that opens the path.
    Granted,
    /// Only what is public: it carries no token. Credentials of other schemes are not meant for the limiter.
    Public,
    /// Only what is public: it carries a wrong token.
    WrongToken,
    /// Nothing until `retry_at`: its address has sent too many wrong tokens.
    TooMany {
        /// When the next guess is compared with every token again.
        retry_at: Timestamp,
    },
}

/// A token that opens the requested path.
pub struct AccessToken<'a> {
    /// The name under which wrong guesses at this token are counted. No two tokens share a name.
    pub name: &'static str,
    /// What its bearer sends.
    pub secret: &'a Secret,
}

/// Checks tokens, and counts wrong guesses per address and token in this isolate. The policy `admin` sets the limit, even
/// while `RATE_LIMIT_ENABLED` is `false`.
///
/// # Design
///
/// A token that is too long to be guessed ([`Secret::is_beyond_guessing`]) is always compared, so that nobody who
/// shares an address with its bearer can lock the bearer out. Wrong guesses at it are counted too, since each costs an
/// event. Past the limit, a shorter token is not compared, so that the answer does not reveal whether a guess was
/// right.
pub struct TokenGuard {
    wrong_guesses: Memory,
    quota: Quota,
    block: Option<Millis>,
}

impl TokenGuard {
    /// A guard that has counted no guess yet.
    ///
    /// # Errors
    ///
    /// None in practice: the quota is a constant, or configuration has already built it.
    pub fn new(config: &Config, seed: Seed) -> Result<Self, QuotaError> {
        let policy = config.policies.iter().find(|policy| policy.name == "admin");
        let (quota, block) = match policy {
            Some(policy) => (policy.quota, policy.block),
            None => (
                Quota::new(Algorithm::SlidingWindow, MAX_WRONG_TOKENS, WINDOW)?,
                Some(BLOCK),
            ),
        };
        Ok(Self {
            wrong_guesses: Memory::new(MAX_GUESS_COUNTS, seed),
            quota,
            block,
        })
    }

    /// Decides what a request from `caller` with the token `sent` may see. Any of `tokens` opens the requested path.
    pub async fn access(
        &self,
        tokens: &[AccessToken<'_>],
        sent: Option<&str>,
        caller: &Caller,
        now: Timestamp,
    ) -> Access {
        let Some(sent) = sent.filter(|_| !tokens.is_empty()) else {
            return Access::Public;
        };
        let mut is_granted = false;
        // Every token is compared, even after one matches.
        for token in tokens {
            let guess = self.guess(token, caller);
            let is_compared = token.secret.is_beyond_guessing()
                || self.wrong_guesses.retry_at(&guess, now).is_none();
            if token.secret.matches(sent) && is_compared {
                // Wrong guesses at a shorter token stay counted. Else somebody who shares the bearer's address could guess
                // anew each time the bearer sends the token.
                if token.secret.is_beyond_guessing() {
                    self.reset_guesses(&guess);
                }
                is_granted = true;
            }
        }
        if is_granted {
            return Access::Granted;
        }
        let mut retry_at = None;
        for token in tokens {
            retry_at = retry_at.max(self.count_guess(&self.guess(token, caller), now).await);
        }
        retry_at.map_or(Access::WrongToken, |retry_at| Access::TooMany { retry_at })
    }

    /// The check that counts a caller's guess at a token.
    fn guess(&self, token: &AccessToken<'_>, caller: &Caller) -> Check {
        let key = format!("{}:{}", token.name, caller.key());
        Check {
            address: None,
            charges: vec![Charge {
                // Unidentified callers share one key: one of them must not block the others for long.
                block: self.block.filter(|_| caller.may_be_blocked()),
                ..Charge::new(key, self.quota)
            }],
            cost: 1,
        }
    }

    /// Counts a wrong guess. Returns when the caller may guess again, if there were too many.
    async fn count_guess(&self, guess: &Check, now: Timestamp) -> Option<Timestamp> {
        let verdict = self.wrong_guesses.decide(guess, now).await;
        let answers = verdict.unwrap_or_default().answers;
        answers.first().copied().flatten()?.retry_at()
    }

    /// Forgets the caller's wrong guesses at this token. Guesses at other tokens stay counted.
    fn reset_guesses(&self, guess: &Check) {
        for charge in &guess.charges {
            self.wrong_guesses.forget(&charge.key);
        }
    }
}

/// The answer to an address that has sent too many wrong tokens.
pub(super) fn too_many(retry_at: Timestamp, now: Timestamp) -> Response {
    let seconds = retry_at.since(now).secs_ceil().max(1);
    let message = format!(
        "Too many wrong tokens came from this address. Try again in {seconds} s with the right one."
    );
    let mut response = Response::error(429, "too_many_attempts", &message);
    let headers = &mut response.headers;
    headers.push(("Retry-After", seconds.to_string()));
    response
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::json;

    use super::{Access, AccessToken, TokenGuard};
    use crate::client::Caller;
    use crate::config::{Config, Vars};
    use crate::credentials::bearer;
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::Millis;

    const RIGHT: Option<&str> = Some("Bearer correct-horse-battery");
    const WRONG: Option<&str> = Some("Bearer correct-horse-batterie");

    struct TestGuard {
        guard: TokenGuard,
        config: Config,
    }

    impl TestGuard {
        fn new(vars: &serde_json::Value) -> Self {
            let config = Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config;
            Self {
                guard: TokenGuard::new(&config, Seed::fixed()).unwrap(),
                config,
            }
        }

        /// What a request from `address` may see, `seconds` after the start.
        fn access(&self, authorization: Option<&str>, address: &str, seconds: u32) -> Access {
            let now = START + Millis::from_secs(seconds);
            let caller = Caller::identify(Some(address), self.config.ipv6_prefix);
            let secret = self.config.admin_token.iter();
            let name = "admin";
            let tokens: Vec<AccessToken> =
                secret.map(|secret| AccessToken { name, secret }).collect();
            let sent = authorization.and_then(bearer);
            let access = self.guard.access(&tokens, sent, &caller, now);
            access.now_or_never().unwrap()
        }
    }

    fn guard() -> TestGuard {
        TestGuard::new(&json!({
            "ADMIN_TOKEN": "correct-horse-battery",
            "RATE_LIMIT_ENABLED": false,
            "RATE_LIMIT_ADMIN": "10,60",
        }))
    }

    #[test]
    fn only_the_right_token_grants_access() {
        let guard = guard();
        assert_eq!(guard.access(RIGHT, "192.0.2.1", 0), Access::Granted);
        assert_eq!(guard.access(None, "192.0.2.1", 0), Access::Public);
        assert_eq!(guard.access(WRONG, "192.0.2.1", 0), Access::WrongToken);
        for no_guess in ["correct-horse-battery", "Bearer ", "Basic YTpi", ""] {
            assert_eq!(guard.access(Some(no_guess), "192.0.2.1", 0), Access::Public);
        }
        let without_token = TestGuard::new(&json!({}));
        for any in [Some("Bearer "), RIGHT] {
            assert_eq!(without_token.access(any, "192.0.2.1", 0), Access::Public);
        }
    }

    #[test]
    fn wrong_tokens_are_limited_per_address() {
        let guard = guard();
        for _ in 0..10 {
            assert_eq!(guard.access(WRONG, "192.0.2.1", 0), Access::WrongToken);
        }
        let Access::TooMany { retry_at } = guard.access(WRONG, "192.0.2.1", 0) else {
            panic!("the eleventh wrong token is not limited");
        };
        assert_eq!(retry_at, START + Millis::from_secs(61));
        assert!(
            matches!(guard.access(RIGHT, "192.0.2.1", 60), Access::TooMany { .. }),
            "a short right token is limited as well"
        );
        assert_eq!(
            guard.access(RIGHT, "192.0.2.2", 0),
            Access::Granted,
            "other addresses are not limited"
        );
        assert_eq!(guard.access(RIGHT, "192.0.2.1", 61), Access::Granted);
        assert_eq!(
            guard.access(None, "192.0.2.1", 0),
            Access::Public,
            "a request without a token still sees public parts"
        );
    }

    #[test]
    fn the_right_token_is_not_limited() {
        let guard = guard();
        for _ in 0..50 {
            assert_eq!(guard.access(RIGHT, "192.0.2.1", 0), Access::Granted);
        }
    }

    #[test]
    fn the_admin_policy_sets_the_limit_and_the_block_of_wrong_tokens() {
        let vars = |limit: &str| json!({"ADMIN_TOKEN": "correct-horse-battery", "RATE_LIMIT_ADMIN": limit});
        for (limit, attempts, block_seconds) in [("3,60,900", 3, 900), ("off", 300, 300)] {
            let guard = TestGuard::new(&vars(limit));
            for _ in 0..attempts {
                assert_eq!(guard.access(WRONG, "192.0.2.1", 0), Access::WrongToken);
            }
            let retry_at = START + Millis::from_secs(block_seconds);
            assert_eq!(
                guard.access(RIGHT, "192.0.2.1", 0),
                Access::TooMany { retry_at }
            );
        }
    }
}
