//! What is limited: policies, and how a caller's quota in one is named.

use std::fmt::Write;

use crate::client::range::Range;
use crate::client::{Caller, CallerKey, Ipv6Prefix, Network, NetworkPrefixes};
use crate::credentials::{self, Credentials};
use crate::headers::MAX_HEADER_BYTES;
use crate::quota::Quota;
use crate::steps;
use crate::store::{Charge, OnFailure};
use crate::time::Millis;

/// The policy of CORS preflights. No other request meets it, no route names it, and its denials block nobody.
pub const PREFLIGHT: &str = "preflight";

/// Which policy of a configuration: its place in the list of policies in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u16);

/// A named limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Lower case, as in `RATE_LIMIT_<NAME>`.
    pub name: String,
    /// How much, over how long, counted how.
    pub quota: Quota,
    /// The same for a proven user, who is charged to a quota of its own in place of its address's.
    pub user: Option<Quota>,
    /// How long a caller stays blocked from the policy after a denial; `None`: not at all.
    pub block: Option<Millis>,
    /// Whose quota a request is charged to.
    pub key: KeyBy,
    /// Whether it denies.
    pub mode: Mode,
    /// What becomes of its requests when the shared store does not decide.
    pub on_store_failure: OnFailure,
    /// The most units that an isolate may take beforehand; 0 and 1 stand for none.
    pub lease: u32,
}

/// Whose quota a request is charged to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyBy {
    /// The caller's address.
    #[default]
    Address,
    /// The network that holds the caller's address: one quota for all callers in it.
    Network(NetworkPrefixes),
    /// One quota for everybody.
    Global,
    /// The value of a request header, beside the caller's address: what a caller says of itself may
    /// narrow a limit, never widen it or escape the address's.
    Header(String),
}

/// The most of a header's value that tells callers apart, in bytes: the longest token that can prove a user.
const MAX_KEY_BYTES: usize = 8 * 1024;

/// The most values of a header that are charged.
const MAX_KEY_VALUES: usize = 4;

/// A request has more values than are charged in a header that it is limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyValues;

/// Whether a policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It counts and reports what it would have denied, and touches nothing else.
    Shadow,
}

impl Policy {
    /// Whether all that it asks of a request is the caller's address.
    #[must_use]
    pub fn is_by_address_alone(&self) -> bool {
        self.key == KeyBy::Address && self.user.is_none() && self.mode == Mode::Enforce
    }

    /// Adds the quotas that a request of `caller` is charged to under this policy, each with the key that
    /// it is of. `user` is the key of the one who is proven to have sent it ([`crate::user`]); `header` reads
    /// one of its headers, whose every value is charged, since origins differ on which one they read. Platforms
    /// join its lines by commas, so that a comma within a line counts as the end of one. Credentials are in one
    /// form whatever the case of their scheme, and their parameters (`realm="x"`) belong to them.
    ///
    /// # Errors
    ///
    /// [`TooManyValues`], unless the policy is in shadow mode. What has been added is to be dropped.
    pub fn charges(
        &self,
        caller: &Caller,
        user: Option<&CallerKey>,
        header: &dyn Fn(&str) -> Option<String>,
        add: &mut dyn FnMut(CallerKey, Charge),
    ) -> Result<(), TooManyValues> {
        if let KeyBy::Header(name) = &self.key
            && let Some(joined) = header(name)
        {
            // Split, and hashed.
            steps::count(2 * joined.len());
            let is_one = is_free_text(name);
            let are_credentials = matches!(&**name, "authorization" | "proxy-authorization");
            // What was cut off may hold more.
            let is_cut = joined.len() + char::MAX.len_utf8() > MAX_HEADER_BYTES;
            let mut too_many = is_cut && !is_one;
            let mut values: Vec<String> = Vec::with_capacity(1);
            for (place, part) in joined.split(if is_one { '\n' } else { ',' }).enumerate() {
                let part = credentials::trim(part);
                if part.is_empty() {
                    continue;
                }
                if are_credentials
                    && place > 0
                    && is_parameter(part)
                    && let Some(credentials) = values.last_mut()
                    && has_parameters(credentials)
                {
                    credentials.push(',');
                    credentials.push_str(part);
                    continue;
                }
                if values.len() == MAX_KEY_VALUES {
                    too_many = true;
                    break;
                }
                let credentials = Credentials::read(part).filter(|_| are_credentials);
                let credentials = credentials.map(|given| given.to_string());
                values.push(credentials.unwrap_or_else(|| part.to_owned()));
            }
            let mut charged: Vec<CallerKey> = Vec::with_capacity(1);
            for value in &values {
                let read = value.get(..value.floor_char_boundary(MAX_KEY_BYTES));
                let key = CallerKey::header(name, read.unwrap_or_default());
                if !charged.contains(&key) {
                    charged.push(key);
                    // Never blocked: whoever knows the value could block its owner.
                    add(key, self.charge(&key, None));
                }
            }
            if too_many && self.mode == Mode::Enforce {
                return Err(TooManyValues);
            }
        }
        let (key, block) = self.own(caller, user);
        add(key, self.charge(&key, block));
        Ok(())
    }

    /// The quota that requests of `caller` are always charged to, with the key that it is of.
    #[must_use]
    pub fn own_charge(&self, caller: &Caller) -> (CallerKey, Charge) {
        let (key, block) = self.own(caller, None);
        (key, self.charge(&key, block))
    }

    /// Whether the policy has a quota for that network as a whole, where an IPv6 caller has that prefix.
    #[must_use]
    pub fn counts_network(&self, range: Range, prefix: Ipv6Prefix) -> bool {
        match &self.key {
            KeyBy::Network(prefixes) => {
                Network::of(range.first(), prefix).around(*prefixes) == range
            }
            KeyBy::Address | KeyBy::Header(_) | KeyBy::Global => false,
        }
    }

    /// The key of the quota that is always charged, and the block that its denial sets.
    fn own(&self, caller: &Caller, user: Option<&CallerKey>) -> (CallerKey, Option<Millis>) {
        match (&self.key, user.filter(|_| self.user.is_some())) {
            (KeyBy::Global, _) => (CallerKey::Global, None),
            (KeyBy::Network(prefixes), _) => {
                let key = caller.network_key(*prefixes);
                let may_be_blocked =
                    caller.may_be_blocked() && Caller::of_key(key).may_be_blocked();
                (key, self.block.filter(|_| may_be_blocked))
            }
            (_, Some(user)) => (*user, self.block),
            (KeyBy::Address | KeyBy::Header(_), None) => {
                let block = self.block.filter(|_| caller.may_be_blocked());
                (caller.key(), block)
            }
        }
    }

    /// The quota of one caller's key, whose denial sets `block`.
    fn charge(&self, caller: &CallerKey, block: Option<Millis>) -> Charge {
        let quota = (self.user)
            .filter(|_| matches!(caller, CallerKey::User(_)))
            .unwrap_or(self.quota);
        Charge {
            block,
            enforced: self.mode == Mode::Enforce,
            on_failure: self.on_store_failure,
            lease: self.lease.min(quota.capacity()),
            ..Charge::new(quota_key(&self.name, caller), quota)
        }
    }
}

/// Whether credentials are parameters (`digest realm="x"`), not one token.
fn has_parameters(credentials: &str) -> bool {
    let rest = credentials.split_once(' ');
    rest.is_some_and(|(_, rest)| is_parameter(rest))
}

/// Whether a header's text may hold commas, and a client may write into it what it likes. It is one value:
/// who wants a fresh quota has it anyway.
fn is_free_text(name: &str) -> bool {
    const FREE: [&str; 6] = [
        "cookie",
        "forwarded",
        "referer",
        "user-agent",
        "via",
        "x-forwarded-for",
    ];
    FREE.contains(&name) || name.starts_with("accept")
}

/// Whether it is a parameter of the credentials before it (RFC 9110, 11.4): a name, `=` and a value.
fn is_parameter(part: &str) -> bool {
    let (name, value) = part.split_once('=').unwrap_or_default();
    !name.trim_ascii_end().contains([' ', '\t'])
        && !matches!(value.bytes().next(), None | Some(b'='))
}

/// Names a caller's quota in a policy: `{policy}:{caller}`.
#[must_use]
pub fn quota_key(policy: &str, caller: &CallerKey) -> String {
    let mut key = String::with_capacity(policy.len() + 1 + CallerKey::MAX_BYTES);
    // Writing to a String cannot fail.
    let _ = write!(key, "{policy}:{caller}");
    key
}
