//! From a configuration and a caller to what the caller is charged: requests and `/_limiter/check` both ask
//! here, so that a check is decided as a request of the same caller is.

use crate::client::{Caller, CallerKey};
use crate::config::Config;
use crate::policy::{Policy, TooManyValues};
use crate::store::Charge;

/// Why no quota counts a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// Its address is on the allow-list: no block stops it either.
    Allowed,
    /// The request has the bypass token: no block stops it either.
    Bypassed,
    /// `RATE_LIMIT_ENABLED` is `false`. Blocks of addresses are in force.
    Disabled,
}

impl Exempt {
    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowlist",
            Self::Bypassed => "bypass",
            Self::Disabled => "disabled",
        }
    }
}

/// The terms on which a configuration limits a caller.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    caller: Caller,
    exempt: Option<Exempt>,
}

impl Terms {
    /// The terms of `caller` under `config`. A bypass token is a request's, and left to its gate.
    #[must_use]
    pub fn of(config: &Config, caller: Caller) -> Self {
        let exempt = if caller.is_in(&config.abuse.allowlist) {
            Some(Exempt::Allowed)
        } else {
            (!config.enabled).then_some(Exempt::Disabled)
        };
        Self { caller, exempt }
    }

    /// Whom they are of.
    #[must_use]
    pub const fn caller(&self) -> Caller {
        self.caller
    }

    /// Why no quota counts the caller, if none does.
    #[must_use]
    pub const fn exempt(&self) -> Option<Exempt> {
        self.exempt
    }

    /// The address under which the caller may be blocked everywhere; `None`: no such block stops it.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        match self.exempt {
            None | Some(Exempt::Disabled) => self.caller.block_address(),
            Some(Exempt::Allowed | Exempt::Bypassed) => None,
        }
    }

    /// Adds the quotas that the caller is charged to under `policy`, each with the key that it is of; none
    /// for an exempt caller. `user` and `header` are those of [`Policy::charges`].
    ///
    /// # Errors
    ///
    /// Those of [`Policy::charges`].
    pub fn charges(
        &self,
        policy: &Policy,
        user: Option<&CallerKey>,
        header: &dyn Fn(&str) -> Option<String>,
        add: &mut dyn FnMut(CallerKey, Charge),
    ) -> Result<(), TooManyValues> {
        match self.exempt {
            None => policy.charges(&self.caller, user, header, add),
            Some(_) => Ok(()),
        }
    }
}
