//! Who may see what is behind the admin token.

use std::num::NonZeroU32;

use crate::client::Caller;
use crate::config::Config;
use crate::quota::{Algorithm, Outcome, Quota, QuotaError};
use crate::store::memory::{Memory, Seed};
use crate::store::{Charge, Check, Store};
use crate::time::{Millis, Timestamp};

/// Wrong tokens that an address may try in [`WINDOW`], whatever `RATE_LIMIT_ENABLED` says.
const ATTEMPTS: NonZeroU32 = NonZeroU32::new(10).unwrap();
const WINDOW: Millis = Millis::from_secs(60);

/// Addresses whose wrong attempts an isolate remembers.
const ENTRIES: usize = 10_000;

/// What a request to the control plane may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Admin,
    /// What is public: no token, or a wrong one.
    Public,
    /// Nothing until then: too many wrong tokens came from this address.
    TooMany {
        /// When the next attempt is looked at.
        retry_at: Timestamp,
    },
}

/// Checks admin tokens and counts the wrong ones, per address, in this isolate.
pub struct Doorkeeper {
    wrong: Memory,
    quota: Quota,
}

impl Doorkeeper {
    /// Nobody has tried anything yet.
    ///
    /// # Errors
    ///
    /// None in practice: the quota is a constant.
    pub fn new(seed: Seed) -> Result<Self, QuotaError> {
        Ok(Self {
            wrong: Memory::new(ENTRIES, seed),
            quota: Quota::new(Algorithm::SlidingWindow, ATTEMPTS, WINDOW)?,
        })
    }

    /// What the bearer of this `Authorization` header may see. Past the limit a token is not even
    /// compared, so that the answer tells nothing.
    pub async fn access(
        &self,
        config: &Config,
        authorization: Option<&str>,
        client_ip: Option<&str>,
        now: Timestamp,
    ) -> Access {
        let (Some(token), Some(header)) = (&config.admin_token, authorization) else {
            return Access::Public;
        };
        let caller = Caller::identify(client_ip, config.ipv6_prefix);
        if let Outcome::Denied { retry_at } = self.count(&caller, now).await {
            return Access::TooMany { retry_at };
        }
        let given = header.strip_prefix("Bearer ").unwrap_or_default();
        if token.matches(given) {
            self.forgive(&caller);
            return Access::Admin;
        }
        Access::Public
    }

    async fn count(&self, caller: &Caller, now: Timestamp) -> Outcome {
        let check = Check {
            address: None,
            charges: vec![Charge::new(caller.key(), self.quota)],
            cost: 1,
        };
        let verdict = self.wrong.decide(&check, now).await.unwrap_or_default();
        let answer = verdict.answers.first().copied().flatten();
        answer.map_or(Outcome::Allowed, |answer| answer.decision.outcome)
    }

    /// A right token takes back what its own attempt was counted for, and the earlier ones with it.
    fn forgive(&self, caller: &Caller) {
        self.wrong.forget(caller.key());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::json;

    use super::{Access, Doorkeeper};
    use crate::config::{Config, Vars};
    use crate::store::conformance::START;
    use crate::store::memory::Seed;
    use crate::time::Millis;

    const RIGHT: Option<&str> = Some("Bearer correct-horse-battery");
    const WRONG: Option<&str> = Some("Bearer correct-horse-batterie");

    struct Door {
        keeper: Doorkeeper,
        config: Config,
    }

    impl Door {
        fn new(vars: &serde_json::Value) -> Self {
            Self {
                keeper: Doorkeeper::new(Seed::fixed()).unwrap(),
                config: Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config,
            }
        }

        fn ask(&self, authorization: Option<&str>, address: &str, seconds: u32) -> Access {
            let now = START + Millis::from_secs(seconds);
            let access = self
                .keeper
                .access(&self.config, authorization, Some(address), now);
            access.now_or_never().unwrap()
        }
    }

    fn door() -> Door {
        Door::new(&json!({"ADMIN_TOKEN": "correct-horse-battery", "RATE_LIMIT_ENABLED": false}))
    }

    #[test]
    fn the_token_opens_and_nothing_else_does() {
        let door = door();
        assert_eq!(door.ask(RIGHT, "192.0.2.1", 0), Access::Admin);
        for wrong in [
            None,
            WRONG,
            Some("correct-horse-battery"),
            Some("Bearer "),
            Some(""),
        ] {
            assert_eq!(door.ask(wrong, "192.0.2.1", 0), Access::Public);
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
            assert_eq!(door.ask(WRONG, "192.0.2.1", 0), Access::Public);
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
}
