//! Policies: the named limits, the callers that they charge, and the keys of their quotas.

use std::fmt::Write;

use crate::client::range::Range;
use crate::client::{AddressPrefix, Caller, CallerKey, Ipv6Prefix, NetworkPrefixes};
use crate::credentials::{self, Credentials};
use crate::headers::MAX_HEADER_BYTES;
use crate::quota::Quota;
use crate::steps;
use crate::store::{Charge, OnFailure};
use crate::time::Millis;

/// The policy of CORS preflights. It applies to no other request, no route can name it, and its denials
/// never block a caller.
pub const PREFLIGHT: &str = "preflight";

/// Identifies a policy of a configuration by its index in the list of policies in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u16);

/// A named limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The `<NAME>` of `RATE_LIMIT_<NAME>`, in lower case.
    pub name: String,
    /// The algorithm, the limit and the window.
    pub quota: Quota,
    /// The quota of a proven user. A user is charged to it in place of the quota of its address.
    /// `None`: users are limited by address.
    pub user: Option<Quota>,
    /// How long the policy blocks a caller after a denial. `None`: not at all.
    pub block: Option<Millis>,
    /// Whose quota a request is charged to.
    pub key: KeyBy,
    /// Whether the policy denies requests, or only reports.
    pub mode: Mode,
    /// How its requests are decided while the shared store fails.
    pub on_store_failure: OnFailure,
    /// The most units that an isolate may lease. 0 and 1 both mean that it leases none.
    pub lease: u32,
}

/// Whose quota a request is charged to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyBy {
    /// The caller's address.
    #[default]
    Address,
    /// The network that contains the caller's address: one quota for all callers in it.
    Network(NetworkPrefixes),
    /// One quota for everybody.
    Global,
    /// The value of a request header, in addition to the caller's address. A value that a caller
    /// chooses may narrow its limit. It can never widen it or replace the limit of the address.
    Header(String),
}

/// The part of a header's value that distinguishes callers, in bytes from its start. It is as long as
/// the longest token that can prove a user.
const MAX_KEYED_VALUE_BYTES: usize = 8 * 1024;

/// The most values of a header that are charged.
pub(crate) const MAX_KEY_VALUES: usize = 4;

/// The most bytes of a header that is a list of values. A longer one may have been cut, and so have more values.
pub(crate) const MAX_LIST_BYTES: usize = MAX_HEADER_BYTES - char::MAX.len_utf8();

/// The error of a request that is limited by a header and has too many values in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyValues;

/// Whether a policy denies requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It denies requests over its quota.
    #[default]
    Enforce,
    /// It counts requests and reports what it would have denied, and changes nothing else.
    Shadow,
}

impl Policy {
    /// Whether the policy depends on nothing of a request but the caller's address.
    #[must_use]
    pub fn is_by_address_alone(&self) -> bool {
        self.key == KeyBy::Address && self.user.is_none() && self.mode == Mode::Enforce
    }

    /// Passes to `add` each quota that a request of `caller` is charged to under this policy, with the
    /// quota's key. `user` is the key of the proven user who sent the request ([`crate::user`]), and
    /// `header` reads one of its headers.
    ///
    /// Every value of the header is charged, because origins differ on which one they read. Platforms
    /// join the header's lines by commas, so a comma within a line counts as the end of a value.
    /// Credentials have one form for every case of their scheme, and include their parameters
    /// (`realm="x"`).
    ///
    /// # Errors
    ///
    /// [`TooManyValues`], unless the policy is in shadow mode. The caller then drops the charges that
    /// have been added.
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
            // The text is split, then hashed.
            steps::count(2 * joined.len());
            let is_single = is_free_text(name);
            let are_credentials = matches!(&**name, "authorization" | "proxy-authorization");
            let mut too_many = joined.len() > MAX_LIST_BYTES && !is_single;
            let mut values: Vec<String> = Vec::with_capacity(1);
            for (place, part) in joined.split(if is_single { '\n' } else { ',' }).enumerate() {
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
                let read = value.get(..value.floor_char_boundary(MAX_KEYED_VALUE_BYTES));
                let key = CallerKey::header(name, read.unwrap_or_default());
                if !charged.contains(&key) {
                    charged.push(key);
                    // Never blocked: otherwise anybody who knows the value could block its owner.
                    add(key, self.charge(&key, None));
                }
            }
            if too_many && self.mode == Mode::Enforce {
                return Err(TooManyValues);
            }
        }
        let (key, block) = self.own_key_and_block(caller, user);
        add(key, self.charge(&key, block));
        Ok(())
    }

    /// The quota that every request of `caller` without a proven user is charged to, with its key.
    #[must_use]
    pub fn own_charge(&self, caller: &Caller) -> (CallerKey, Charge) {
        let (key, block) = self.own_key_and_block(caller, None);
        (key, self.charge(&key, block))
    }

    /// Whether the policy has one quota for exactly the network `range`. `prefix` is the prefix of IPv6 callers.
    #[must_use]
    pub fn counts_network(&self, range: Range, prefix: Ipv6Prefix) -> bool {
        match &self.key {
            KeyBy::Network(prefixes) => {
                AddressPrefix::of(range.first(), prefix).around(*prefixes) == range
            }
            KeyBy::Address | KeyBy::Header(_) | KeyBy::Global => false,
        }
    }

    /// The key of the quota that is always charged, and how long its denial blocks the caller.
    fn own_key_and_block(
        &self,
        caller: &Caller,
        user: Option<&CallerKey>,
    ) -> (CallerKey, Option<Millis>) {
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

    /// The charge to the quota of `caller`. A denial by this quota blocks the caller for `block`.
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

/// Whether credentials consist of parameters (`digest realm="x"`), not of one token.
fn has_parameters(credentials: &str) -> bool {
    let rest = credentials.split_once(' ');
    rest.is_some_and(|(_, rest)| is_parameter(rest))
}

/// Whether a header's text may contain commas, and a client may write anything into it. Such a header has
/// one value. Splitting it would protect nothing, because a client can always get a fresh quota with
/// another text.
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

/// Whether `part` is a parameter of the credentials before it (RFC 9110, 11.4): a name, `=` and a value.
fn is_parameter(part: &str) -> bool {
    let (name, value) = part.split_once('=').unwrap_or_default();
    !name.trim_ascii_end().contains([' ', '\t'])
        && !matches!(value.bytes().next(), None | Some(b'='))
}

/// The key of a caller's quota in a policy: `{policy}:{caller}`.
#[must_use]
pub fn quota_key(policy: &str, caller: &CallerKey) -> String {
    let mut key = String::with_capacity(policy.len() + 1 + CallerKey::MAX_BYTES);
    // Writing to a String cannot fail.
    let _ = write!(key, "{policy}:{caller}");
    key
}
