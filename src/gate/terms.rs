//! The terms of a caller: which quotas a configuration charges it. Requests and `/_limiter/check` both use them, so that
//! a check is decided like a request of the same caller.

use crate::client::{Caller, CallerKey};
use crate::config::Config;
use crate::policy::{Policy, TooManyValues};
use crate::store::Charge;

/// Why no quota counts a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// The caller's address is on the allow-list. No block stops it either.
    AllowListed,
    /// The request has the bypass token. No block stops it either.
    Bypassed,
    /// `RATE_LIMIT_ENABLED` is `false`. Blocks of addresses stay in force.
    Disabled,
}

impl Exempt {
    /// Returns the reason's name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllowListed => "allowlist",
            Self::Bypassed => "bypass",
            Self::Disabled => "disabled",
        }
    }
}

/// The terms on which a configuration limits a caller.
#[derive(Clone, Copy, Debug)]
pub struct CallerTerms {
    caller: Caller,
    exempt: Option<Exempt>,
}

impl CallerTerms {
    /// Returns the terms of `caller` under `config`. They leave out the bypass token, which belongs to a request: the gate
    /// checks it.
    #[must_use]
    pub fn of(config: &Config, caller: Caller) -> Self {
        let exempt = if caller.is_in(&config.protection.allowlist) {
            Some(Exempt::AllowListed)
        } else {
            (!config.enabled).then_some(Exempt::Disabled)
        };
        Self { caller, exempt }
    }

    /// Returns the caller.
    #[must_use]
    pub const fn caller(&self) -> Caller {
        self.caller
    }

    /// Returns why no quota counts the caller. `None`: quotas count it.
    #[must_use]
    pub const fn exempt(&self) -> Option<Exempt> {
        self.exempt
    }

    /// Returns the address under which the caller may be blocked everywhere. `None`: no such block stops the caller.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        match self.exempt {
            None | Some(Exempt::Disabled) => self.caller.block_address(),
            Some(Exempt::AllowListed | Exempt::Bypassed) => None,
        }
    }

    /// Calls `add` for each quota that the caller is charged under `policy`, with the key whose quota it is. An exempt
    /// caller is charged none. [`Policy::charges`] explains `user` and `header`.
    ///
    /// # Errors
    ///
    /// As [`Policy::charges`].
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
