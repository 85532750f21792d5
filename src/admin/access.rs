//! Who may come in: tokens, and what becomes of wrong ones.

use std::num::NonZeroU32;

use crate::client::Caller;
use crate::config::{Config, Secret};
use crate::quota::{Algorithm, Quota, QuotaError};
use crate::response::Response;
use crate::seed::Seed;
use crate::store::memory::Memory;
use crate::store::{Charge, Check, Store};
use crate::time::{Millis, Timestamp};

/// Wrong tokens that an address may try, over how long, and how long it is shut out after them,
/// where there is no policy `admin` to say it.
const ATTEMPTS: NonZeroU32 = NonZeroU32::new(300).unwrap();
const WINDOW: Millis = Millis::from_secs(60);
const SHUT_OUT: Millis = Millis::from_secs(300);

/// Addresses whose wrong attempts an isolate remembers.
const ENTRIES: usize = 10_000;

/// What a request to the control plane may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// What was asked for: a token came that opens it.
    Granted,
    /// What is public: no token came. Other credentials are for somebody else.
    Public,
    /// What is public: a wrong token came.
    Refused,
    /// Nothing until then: too many wrong tokens came from this address.
    TooMany {
        /// When the next guess is compared with every token.
        retry_at: Timestamp,
    },
}

/// A token that opens what is asked for.
pub struct AccessToken<'a> {
    /// Tells its wrong guesses from those at others: no two tokens share it.
    pub name: &'static str,
    /// What its bearer sends.
    pub secret: &'a Secret,
}

/// Checks tokens and counts wrong guesses, per address and token, in this isolate: by the policy `admin`,
/// whatever `RATE_LIMIT_ENABLED` says.
///
/// # Design
///
/// A token that is too long to be guessed ([`Secret::is_beyond_guessing`]) is always compared, so that
/// nobody who shares an address with its bearer can shut it out. Its wrong guesses are counted too, since
/// each costs an event. A shorter one is not compared past the limit, so that the answer reveals nothing.
pub struct TokenGuard {
    wrong: Memory,
    quota: Quota,
    shut_out: Option<Millis>,
}

impl TokenGuard {
    /// Nobody has tried anything yet.
    ///
    /// # Errors
    ///
    /// None in practice: the quota is a constant or has been made before.
    pub fn new(config: &Config, seed: Seed) -> Result<Self, QuotaError> {
        let policy = config.policies.iter().find(|policy| policy.name == "admin");
        let (quota, shut_out) = match policy {
            Some(policy) => (policy.quota, policy.block),
            None => (
                Quota::new(Algorithm::SlidingWindow, ATTEMPTS, WINDOW)?,
                Some(SHUT_OUT),
            ),
        };
        Ok(Self {
            wrong: Memory::new(ENTRIES, seed),
            quota,
            shut_out,
        })
    }

    /// What the sender of a token may see, where any of `tokens` opens; `given`: what was sent as one.
    pub async fn access(
        &self,
        tokens: &[AccessToken<'_>],
        given: Option<&str>,
        caller: &Caller,
        now: Timestamp,
    ) -> Access {
        let Some(given) = given.filter(|_| !tokens.is_empty()) else {
            return Access::Public;
        };
        let mut opened = false;
        // All of them, whichever fits.
        for token in tokens {
            let guess = self.guess(token, caller);
            let is_compared =
                token.secret.is_beyond_guessing() || self.wrong.retry_at(&guess, now).is_none();
            if token.secret.matches(given) && is_compared {
                // Not those at a shorter one: who shares the address could guess on as often as its bearer comes.
                if token.secret.is_beyond_guessing() {
                    self.forgive(&guess);
                }
                opened = true;
            }
        }
        if opened {
            return Access::Granted;
        }
        let mut shut_out = None;
        for token in tokens {
            shut_out = shut_out.max(self.count(&self.guess(token, caller), now).await);
        }
        shut_out.map_or(Access::Refused, |retry_at| Access::TooMany { retry_at })
    }

    /// A caller's guess at a token.
    fn guess(&self, token: &AccessToken<'_>, caller: &Caller) -> Check {
        let key = format!("{}:{}", token.name, caller.key());
        Check {
            address: None,
            charges: vec![Charge {
                // The unidentified are many: one of them must not shut out the others for long.
                block: self.shut_out.filter(|_| caller.may_be_blocked()),
                ..Charge::new(key, self.quota)
            }],
            cost: 1,
        }
    }

    /// Counts a wrong guess; until when there are too many, if so.
    async fn count(&self, guess: &Check, now: Timestamp) -> Option<Timestamp> {
        let verdict = self.wrong.decide(guess, now).await.unwrap_or_default();
        verdict.answers.first().copied().flatten()?.retry_at()
    }

    /// A right token takes back the wrong guesses at it, and none at another.
    fn forgive(&self, guess: &Check) {
        for charge in &guess.charges {
            self.wrong.forget(&charge.key);
        }
    }
}

/// The answer to an address that has sent too many wrong tokens.
pub(super) fn too_many(retry_at: Timestamp, now: Timestamp) -> Response {
    let mut response = Response::error(429, "too_many_attempts", "Too many wrong tokens.");
    let seconds = retry_at.since(now).secs_ceil().max(1).to_string();
    response.headers.push(("Retry-After", seconds));
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

    struct Door {
        keeper: TokenGuard,
        config: Config,
    }

    impl Door {
        fn new(vars: &serde_json::Value) -> Self {
            let config = Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config;
            Self {
                keeper: TokenGuard::new(&config, Seed::fixed()).unwrap(),
                config,
            }
        }

        fn ask(&self, authorization: Option<&str>, address: &str, seconds: u32) -> Access {
            let now = START + Millis::from_secs(seconds);
            let caller = Caller::identify(Some(address), self.config.ipv6_prefix);
            let secret = self.config.admin_token.iter();
            let name = "admin";
            let tokens: Vec<AccessToken> =
                secret.map(|secret| AccessToken { name, secret }).collect();
            let given = authorization.and_then(bearer);
            let access = self.keeper.access(&tokens, given, &caller, now);
            access.now_or_never().unwrap()
        }
    }

    fn door() -> Door {
        Door::new(&json!({
            "ADMIN_TOKEN": "correct-horse-battery",
            "RATE_LIMIT_ENABLED": false,
            "RATE_LIMIT_ADMIN": "10,60",
        }))
    }

    #[test]
    fn the_token_opens_and_nothing_else_does() {
        let door = door();
        assert_eq!(door.ask(RIGHT, "192.0.2.1", 0), Access::Granted);
        assert_eq!(door.ask(None, "192.0.2.1", 0), Access::Public);
        assert_eq!(door.ask(WRONG, "192.0.2.1", 0), Access::Refused);
        for no_guess in ["correct-horse-battery", "Bearer ", "Basic YTpi", ""] {
            assert_eq!(door.ask(Some(no_guess), "192.0.2.1", 0), Access::Public);
        }
        let closed = Door::new(&json!({}));
        for any in [Some("Bearer "), RIGHT] {
            assert_eq!(closed.ask(any, "192.0.2.1", 0), Access::Public);
        }
    }

    #[test]
    fn wrong_tokens_are_limited_per_address() {
        let door = door();
        for _ in 0..10 {
            assert_eq!(door.ask(WRONG, "192.0.2.1", 0), Access::Refused);
        }
        let Access::TooMany { retry_at } = door.ask(WRONG, "192.0.2.1", 0) else {
            panic!("let through");
        };
        assert_eq!(retry_at, START + Millis::from_secs(61));
        assert!(
            matches!(door.ask(RIGHT, "192.0.2.1", 60), Access::TooMany { .. }),
            "not even the right one"
        );
        assert_eq!(
            door.ask(RIGHT, "192.0.2.2", 0),
            Access::Granted,
            "elsewhere it opens"
        );
        assert_eq!(door.ask(RIGHT, "192.0.2.1", 61), Access::Granted);
        assert_eq!(
            door.ask(None, "192.0.2.1", 0),
            Access::Public,
            "what is public stays so"
        );
    }

    #[test]
    fn the_right_token_is_not_limited() {
        let door = door();
        for _ in 0..50 {
            assert_eq!(door.ask(RIGHT, "192.0.2.1", 0), Access::Granted);
        }
    }

    #[test]
    fn the_admin_policy_says_how_many_and_how_long() {
        let vars = |limit: &str| json!({"ADMIN_TOKEN": "correct-horse-battery", "RATE_LIMIT_ADMIN": limit});
        for (limit, attempts, shut_out) in [("3,60,900", 3, 900), ("off", 300, 300)] {
            let door = Door::new(&vars(limit));
            for _ in 0..attempts {
                assert_eq!(door.ask(WRONG, "192.0.2.1", 0), Access::Refused);
            }
            let retry_at = START + Millis::from_secs(shut_out);
            assert_eq!(
                door.ask(RIGHT, "192.0.2.1", 0),
                Access::TooMany { retry_at }
            );
        }
    }
}
