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
    /// Everything that the token opens.
    Admin,
    /// What is public: no token came.
    Public,
    /// What is public: a wrong token came.
    Refused,
    /// Nothing until then: too many wrong tokens came from this address.
    TooMany {
        /// When the next attempt is looked at.
        retry_at: Timestamp,
    },
}

/// Checks tokens and counts the wrong ones, per address, in this isolate: by the policy `admin`,
/// whatever `RATE_LIMIT_ENABLED` says.
pub struct Doorkeeper {
    wrong: Memory,
    quota: Quota,
    shut_out: Option<Millis>,
}

impl Doorkeeper {
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

    /// What the bearer of this `Authorization` header may see, where any of `tokens` opens. Past the
    /// limit a token is not even compared, so that the answer tells nothing.
    pub async fn access(
        &self,
        tokens: &[&Secret],
        authorization: Option<&str>,
        caller: &Caller,
        now: Timestamp,
    ) -> Access {
        let Some(header) = authorization.filter(|_| !tokens.is_empty()) else {
            return Access::Public;
        };
        if let Some(retry_at) = self.count(caller, now).await {
            return Access::TooMany { retry_at };
        }
        let given = header.strip_prefix("Bearer ").unwrap_or_default();
        // All of them, whichever fits.
        let fitting = tokens.iter().filter(|token| token.matches(given)).count();
        if fitting > 0 {
            self.forgive(caller);
            return Access::Admin;
        }
        Access::Refused
    }

    async fn count(&self, caller: &Caller, now: Timestamp) -> Option<Timestamp> {
        let check = Check {
            address: None,
            charges: vec![Charge {
                // The unidentified are many: one of them must not shut out the others for long.
                block: self.shut_out.filter(|_| caller.may_be_blocked()),
                ..Charge::new(caller.key().to_string(), self.quota)
            }],
            cost: 1,
        };
        let verdict = self.wrong.decide(&check, now).await.unwrap_or_default();
        verdict.answers.first().copied().flatten()?.retry_at()
    }

    /// A right token takes back what its own attempt was counted for, and the earlier ones with it.
    fn forgive(&self, caller: &Caller) {
        self.wrong.forget(&caller.key().to_string());
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

    use super::{Access, Doorkeeper};
    use crate::client::Caller;
    use crate::config::{Config, Secret, Vars};
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::Millis;

    const RIGHT: Option<&str> = Some("Bearer correct-horse-battery");
    const WRONG: Option<&str> = Some("Bearer correct-horse-batterie");

    struct Door {
        keeper: Doorkeeper,
        config: Config,
    }

    impl Door {
        fn new(vars: &serde_json::Value) -> Self {
            let config = Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config;
            Self {
                keeper: Doorkeeper::new(&config, Seed::fixed()).unwrap(),
                config,
            }
        }

        fn ask(&self, authorization: Option<&str>, address: &str, seconds: u32) -> Access {
            let now = START + Millis::from_secs(seconds);
            let caller = Caller::identify(Some(address), self.config.ipv6_prefix);
            let tokens: Vec<&Secret> = self.config.admin_token.iter().collect();
            let access = self.keeper.access(&tokens, authorization, &caller, now);
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
        assert_eq!(door.ask(RIGHT, "192.0.2.1", 0), Access::Admin);
        assert_eq!(door.ask(None, "192.0.2.1", 0), Access::Public);
        for wrong in [
            WRONG,
            Some("correct-horse-battery"),
            Some("Bearer "),
            Some(""),
        ] {
            assert_eq!(door.ask(wrong, "192.0.2.1", 0), Access::Refused);
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
            Access::Admin,
            "elsewhere it opens"
        );
        assert_eq!(door.ask(RIGHT, "192.0.2.1", 61), Access::Admin);
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
            assert_eq!(door.ask(RIGHT, "192.0.2.1", 0), Access::Admin);
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
