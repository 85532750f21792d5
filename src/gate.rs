//! The gate makes the whole decision about a request: it classifies the request, identifies the caller, and asks the
//! store. It does no I/O itself.

use std::cmp::Reverse;

use crate::blocklist::AddressBlock;
use crate::client::{CF_CONNECTING_IP, CF_WORKER, Caller, CallerKey};
use crate::config::Config;
use crate::credentials;
use crate::headers::BYPASS;
use crate::policy::{Policy, TooManyValues};
use crate::quota::{Quota, QuotaOutcome};
use crate::route::{RouteMatch, Routes};
use crate::store::{Charge, Check, QuotaAnswer, Source, Store, StoreError, Verdict};
use crate::time::Timestamp;
use crate::user::Authenticate;

mod preflight;
mod terms;

pub use preflight::Preflights;
pub use terms::{CallerTerms, Exempt};

/// What the gate reads of a request.
pub trait GateRequest {
    /// The method as sent.
    fn method(&self) -> &str;
    /// The path as sent, without the query.
    fn path(&self) -> &str;
    /// A header's value; several of one name are joined by commas. `name` is lower case.
    fn header(&self, name: &str) -> Option<String>;
    /// The names of all headers, in lower case, joined by commas. `None`: they are not known.
    fn header_names(&self) -> Option<String> {
        None
    }
    /// Whether the request has a body that is not empty.
    fn has_body(&self) -> bool {
        false
    }
    /// The route that the request matches, with its policies.
    fn classify(&self, routes: &Routes) -> RouteMatch {
        routes.classify(self.method(), self.path())
    }
}

/// What the gate decided about a request, and why.
#[derive(Clone, Debug)]
pub struct RequestVerdict {
    /// The caller, by its address.
    pub caller: Caller,
    /// The key of the proven user. `None`: no policy asks for a user, or none was proven.
    pub user: Option<CallerKey>,
    /// The cost of the request, in units.
    pub cost: u32,
    /// Why no quota was asked. `None`: quotas were asked.
    pub exempt: Option<Exempt>,
    /// Whether the request may go ahead.
    pub admitted: bool,
    /// Whether this isolate's memory decided in place of the shared store.
    pub degraded: bool,
    /// Where the decision was made.
    pub source: Source,
    /// The index of the matched route. `None`: no route matched, or the request was decided before its route was known.
    pub route: Option<usize>,
    /// The block of the caller's address. `None`: it is not blocked.
    pub address_block: Option<AddressBlock>,
    /// The caller's status in each enforced quota that was asked.
    pub enforced: Vec<QuotaStatus>,
    /// The caller's status in each quota in shadow mode that was asked.
    pub shadow: Vec<QuotaStatus>,
}

/// The status of a caller in one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// The policy's name.
    pub policy: String,
    /// The quota that was asked: the policy's own, or the policy's quota for proven users.
    pub quota: Quota,
    /// The key whose quota it is: the caller's own, or one that the caller shares with others.
    pub charged: CallerKey,
    /// What the quota answered.
    pub answer: QuotaAnswer,
}

impl RequestVerdict {
    /// Returns the key under which the request is recorded for one of its quotas: the user's if the quota is the user's
    /// own, otherwise the address's.
    #[must_use]
    pub fn user_or_address(&self, status: &QuotaStatus) -> CallerKey {
        let user = self.user.filter(|user| *user == status.charged);
        user.unwrap_or_else(|| self.caller.key())
    }

    /// Returns the quota status that binds: of a denied request the one that denies it longest, otherwise the one with
    /// the smallest remaining share. `None`: no quota was asked, or no quota denies (a block does).
    #[must_use]
    pub fn binding(&self) -> Option<&QuotaStatus> {
        if self.admitted {
            return self.enforced.iter().min_by(|a, b| {
                // a.remaining / a.capacity < b.remaining / b.capacity, without division.
                let share = |this: &QuotaStatus, other: &QuotaStatus| {
                    u64::from(this.answer.decision.remaining) * u64::from(other.quota.capacity())
                };
                share(a, b).cmp(&share(b, a))
            });
        }
        longest_denial(&self.enforced)
    }
}

/// Returns the status that denies longest. `None`: none denies.
#[must_use]
pub fn longest_denial(enforced: &[QuotaStatus]) -> Option<&QuotaStatus> {
    let statuses = enforced.iter();
    let denials = statuses.filter(|status| !status.answer.allows());
    denials.min_by_key(|status| {
        let impossible = status.answer.decision.outcome == QuotaOutcome::Impossible;
        Reverse((impossible, status.answer.retry_at()))
    })
}

/// The decision that the caller's address and the bypass token allow, before routing.
#[derive(Debug)]
pub enum Arrival {
    /// The request is exempt, or its denial is known. The report says which.
    Decided(Box<RequestVerdict>),
    /// The request is a CORS preflight, which [`Preflights`] decide.
    Preflight(CallerTerms),
    /// The store has to [decide](decide_for).
    Undecided(CallerTerms),
}

/// Why a request can neither be admitted nor denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateError {
    /// The store fails, and a policy has `on_store_failure` = `deny`.
    Store(StoreError),
    /// A policy is keyed by a header of which the request has more values than are charged.
    TooManyValues,
}

impl From<StoreError> for GateError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TooManyValues> for GateError {
    fn from(_: TooManyValues) -> Self {
        Self::TooManyValues
    }
}

/// Decides a request by its sender alone, if possible: it is exempt, or this isolate knows that its address is blocked or
/// denied. Such a request costs neither classification nor the verification of a token.
pub fn arrive(
    config: &Config,
    store: &impl Store,
    request: &impl GateRequest,
    now: Timestamp,
) -> Arrival {
    let caller = caller(config, &|name| request.header(name));
    let terms = CallerTerms::of(config, caller);
    let exempt = match terms.exempt() {
        Some(Exempt::AllowListed) => terms.exempt(),
        _ if bypasses(config, request) => Some(Exempt::Bypassed),
        exempt => exempt,
    };
    if let Some(Exempt::AllowListed | Exempt::Bypassed) = exempt {
        return Arrival::Decided(Box::new(RequestVerdict {
            exempt,
            ..report(caller, None, &Check::default(), &[], &Verdict::default())
        }));
    }
    if request.method() == "OPTIONS" {
        // A preflight asks no store, and only a block denies it: no policy's remembered denial applies.
        if let Some(report) = known_denial(store, &terms, &[], request, 1, now) {
            return Arrival::Decided(Box::new(report));
        }
        if preflight::is_preflight(config, request) {
            return Arrival::Preflight(terms);
        }
    }
    // The route sets the cost. Before the route is known, the cost is known only if every route costs 1 unit.
    let always = if exempt.is_none() && config.routes.max_cost() == 1 {
        config.always.as_slice()
    } else {
        &[]
    };
    let always: Vec<&Policy> = always.iter().filter_map(|id| config.policy(*id)).collect();
    match known_denial(store, &terms, &always, request, 1, now) {
        Some(report) => Arrival::Decided(Box::new(report)),
        None => Arrival::Undecided(terms),
    }
}

/// Returns the denial that is known without asking the store, by those of `policies` that limit by address alone.
fn known_denial(
    store: &impl Store,
    terms: &CallerTerms,
    policies: &[&Policy],
    request: &impl GateRequest,
    cost: u32,
    now: Timestamp,
) -> Option<RequestVerdict> {
    let mut by_address = policies.to_vec();
    by_address.retain(|policy| policy.is_by_address_alone());
    let (check, charged) = check(terms, None, &by_address, request, cost).ok()?;
    let verdict = store.known_denial(&check, now)?;
    Some(RequestVerdict {
        exempt: terms.exempt(),
        ..report(terms.caller(), None, &check, &charged, &verdict)
    })
}

/// Decides `request` at `now`. A preflight is decided like any other request. `prove` authenticates the user if a policy
/// asks for one.
///
/// # Errors
///
/// [`GateError::Store`] if the store does not decide, and [`GateError::TooManyValues`] if a header by which the request is
/// limited has too many values.
pub async fn decide<S: Store>(
    config: &Config,
    store: &S,
    prove: &impl Authenticate,
    request: &impl GateRequest,
    now: Timestamp,
) -> Result<RequestVerdict, GateError> {
    match arrive(config, store, request, now) {
        Arrival::Decided(report) => Ok(*report),
        Arrival::Preflight(terms) | Arrival::Undecided(terms) => {
            decide_for(config, store, prove, request, &terms, now).await
        }
    }
}

/// Decides a `request` that its [arrival](arrive) left undecided, on the `terms` of its caller.
///
/// # Errors
///
/// As [`decide`].
pub async fn decide_for<S: Store>(
    config: &Config,
    store: &S,
    prove: &impl Authenticate,
    request: &impl GateRequest,
    terms: &CallerTerms,
    now: Timestamp,
) -> Result<RequestVerdict, GateError> {
    let class = match terms.exempt() {
        None => classify(config, request),
        Some(_) => RouteMatch::default(),
    };
    let (route, cost) = (class.route, class.cost);

    let policies: Vec<&Policy> = class
        .policies
        .into_iter()
        .filter_map(|id| config.policy(id))
        .collect();
    let asks_for_user = policies.iter().any(|policy| policy.user.is_some());
    if asks_for_user && let Some(report) = known_denial(store, terms, &policies, request, cost, now)
    {
        return Ok(RequestVerdict { route, ..report });
    }
    // This comes before the proof: a request that is refused for too many values costs no verification.
    let (mut checked, mut charged) = check(terms, None, &policies, request, cost)?;
    let user = if asks_for_user {
        // Boxed, so that the future of a decision without a user stays small.
        Box::pin(prove.user(|name| request.header(name), now)).await
    } else {
        None
    };
    if user.is_some() {
        (checked, charged) = check(terms, user.as_ref(), &policies, request, cost)?;
    }
    let verdict = store.decide(&checked, now).await?;
    Ok(RequestVerdict {
        exempt: terms.exempt(),
        route,
        ..report(terms.caller(), user, &checked, &charged, &verdict)
    })
}

type Charged<'a> = (Check, Vec<(&'a Policy, CallerKey)>);

/// Returns what a request is charged under `policies`, and the policy and key of each charge.
fn check<'a>(
    terms: &CallerTerms,
    user: Option<&CallerKey>,
    policies: &[&'a Policy],
    request: &impl GateRequest,
    cost: u32,
) -> Result<Charged<'a>, TooManyValues> {
    let mut charges: Vec<Charge> = Vec::with_capacity(policies.len());
    let mut charged: Vec<(&Policy, CallerKey)> = Vec::with_capacity(policies.len());
    for policy in policies.iter().copied() {
        let header = |name: &str| request.header(name);
        terms.charges(policy, user, &header, &mut |key, charge| {
            charges.push(charge);
            charged.push((policy, key));
        })?;
    }
    let check = Check {
        address: terms.address(),
        charges,
        cost,
    };
    Ok((check, charged))
}

/// Identifies the caller by the headers that the platform sets.
#[must_use]
pub fn caller(config: &Config, header: &dyn Fn(&str) -> Option<String>) -> Caller {
    let address = header(&config.client_ip_header);
    let caller = Caller::identify(address.as_deref(), config.ipv6_prefix);
    // `CF-Worker` is trusted only if Cloudflare sets the address header too: elsewhere a client could write it.
    if config.client_ip_header == CF_CONNECTING_IP && caller.address() == Some(Caller::SHARED) {
        return caller.in_zone(header(CF_WORKER).as_deref());
    }
    caller
}

/// Whether the request has the bypass token.
fn bypasses(config: &Config, request: &impl GateRequest) -> bool {
    let token = config.protection.bypass_token.as_ref();
    token.is_some_and(|token| {
        let given = request.header(BYPASS);
        given.is_some_and(|given| token.matches(credentials::trim(&given)))
    })
}

/// Matches the request's route, and adds the policies that every request meets.
fn classify(config: &Config, request: &impl GateRequest) -> RouteMatch {
    let mut class = request.classify(&config.routes);
    for always in &config.always {
        if !class.policies.contains(always) {
            class.policies.push(*always);
        }
    }
    class
}

fn report(
    caller: Caller,
    user: Option<CallerKey>,
    check: &Check,
    charged: &[(&Policy, CallerKey)],
    verdict: &Verdict,
) -> RequestVerdict {
    let mut report = RequestVerdict {
        caller,
        user,
        cost: check.cost,
        exempt: None,
        admitted: verdict.allows(check),
        degraded: verdict.degraded,
        source: verdict.source,
        route: None,
        address_block: verdict.address_block,
        enforced: Vec::with_capacity(charged.len()),
        shadow: Vec::new(),
    };
    for ((charge, (policy, key)), answer) in check.charges.iter().zip(charged).zip(&verdict.answers)
    {
        let Some(answer) = *answer else { continue };
        let status = QuotaStatus {
            policy: policy.name.clone(),
            quota: charge.quota,
            charged: *key,
            answer,
        };
        if charge.enforced {
            report.enforced.push(status);
        } else {
            report.shadow.push(status);
        }
    }
    report
}

#[cfg(test)]
mod tests;
