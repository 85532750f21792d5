//! The gate: classify, identify, decide. The whole decision about a request, without I/O of its own.

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
pub use terms::{Exempt, Terms};

/// What the gate reads of a request.
pub trait GateRequest {
    /// The method as sent.
    fn method(&self) -> &str;
    /// The path as sent, without the query.
    fn path(&self) -> &str;
    /// A header's value; several of one name are joined by commas. `name` is lower case.
    fn header(&self, name: &str) -> Option<String>;
    /// The names of all its headers, in lower case, by commas; `None`: not known.
    fn header_names(&self) -> Option<String> {
        None
    }
    /// Whether it has a body that is not empty.
    fn has_body(&self) -> bool {
        false
    }
    /// What it is limited by.
    fn classify(&self, routes: &Routes) -> RouteMatch {
        routes.classify(self.method(), self.path())
    }
}

/// The gate's answer.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who asked.
    pub caller: Caller,
    /// The key of the user who is proven to have asked, where a policy wants to know.
    pub user: Option<CallerKey>,
    /// Units that the request takes.
    pub cost: u32,
    /// Why no quota was asked.
    pub exempt: Option<Exempt>,
    /// Whether the request may go ahead.
    pub admitted: bool,
    /// The shared store did not decide, and this isolate's memory did in its place.
    pub degraded: bool,
    /// Who decided.
    pub source: Source,
    /// The place of the route that it met, if one is known.
    pub route: Option<usize>,
    /// The caller's address is blocked everywhere.
    pub address_block: Option<AddressBlock>,
    /// Where the caller stands in each enforced quota that was asked.
    pub enforced: Vec<QuotaStatus>,
    /// The same for quotas in shadow mode.
    pub shadow: Vec<QuotaStatus>,
}

/// Where a caller stands in one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// The policy's name.
    pub policy: String,
    /// The quota that was asked: the policy's, or that of its proven users.
    pub quota: Quota,
    /// Whose quota that is: the caller's own key, or one that it shares with others.
    pub charged: CallerKey,
    /// What the quota answered.
    pub answer: QuotaAnswer,
}

impl Report {
    /// Returns the key under which the request is recorded for one of its quotas: the user's if the quota is the user's
    /// own, otherwise the address's.
    #[must_use]
    pub fn user_or_address(&self, status: &QuotaStatus) -> CallerKey {
        let user = self.user.filter(|user| *user == status.charged);
        user.unwrap_or_else(|| self.caller.key())
    }

    /// The standing that binds: of a denied request the one that denies it longest, otherwise the
    /// one with the least remaining share.
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

/// Of several standings the one that denies longest.
#[must_use]
pub fn longest_denial(enforced: &[QuotaStatus]) -> Option<&QuotaStatus> {
    let denials = enforced.iter();
    let denials = denials.filter(|standing| !standing.answer.allows());
    denials.min_by_key(|standing| {
        let impossible = standing.answer.decision.outcome == QuotaOutcome::Impossible;
        Reverse((impossible, standing.answer.retry_at()))
    })
}

/// What the caller's address and the bypass token alone say of a request.
#[derive(Debug)]
pub enum Arrival {
    /// It is exempt, or known to be denied: this is the report.
    Decided(Box<Report>),
    /// It is a CORS preflight, which [`Preflights`] decide.
    Preflight(Terms),
    /// Only a [decision](decide_for) says.
    Undecided(Terms),
}

/// Why a request can neither be admitted nor denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// The store does not decide.
    Store(StoreError),
    /// It is limited by a header with more values than are charged.
    TooManyValues,
}

impl From<StoreError> for Undecided {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TooManyValues> for Undecided {
    fn from(_: TooManyValues) -> Self {
        Self::TooManyValues
    }
}

/// Looks at who sends `request`, and at nothing else of it: callers that this isolate knows to be
/// blocked or denied by address cost neither classification nor proof.
pub fn arrive(
    config: &Config,
    store: &impl Store,
    request: &impl GateRequest,
    now: Timestamp,
) -> Arrival {
    let caller = caller(config, &|name| request.header(name));
    let terms = Terms::of(config, caller);
    let exempt = match terms.exempt() {
        Some(Exempt::Allowed) => terms.exempt(),
        _ if bypasses(config, request) => Some(Exempt::Bypassed),
        exempt => exempt,
    };
    if let Some(Exempt::Allowed | Exempt::Bypassed) = exempt {
        return Arrival::Decided(Box::new(Report {
            exempt,
            ..report(caller, None, &Check::default(), &[], &Verdict::default())
        }));
    }
    if request.method() == "OPTIONS" {
        // A preflight needs nothing of a store, and no quota of another kind denies it.
        if let Some(report) = known_denial(store, &terms, &[], request, 1, now) {
            return Arrival::Decided(Box::new(report));
        }
        if preflight::is_one(config, request) {
            return Arrival::Preflight(terms);
        }
    }
    // Which cost a request has is known before its route is only where all have the same.
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

/// The denial by `policies` that is known without asking, of those that do not depend on who the user is.
fn known_denial(
    store: &impl Store,
    terms: &Terms,
    policies: &[&Policy],
    request: &impl GateRequest,
    cost: u32,
    now: Timestamp,
) -> Option<Report> {
    let mut by_address = policies.to_vec();
    by_address.retain(|policy| policy.is_by_address_alone());
    let (check, charged) = check(terms, None, &by_address, request, cost).ok()?;
    let verdict = store.known_denial(&check, now)?;
    Some(Report {
        exempt: terms.exempt(),
        ..report(terms.caller(), None, &check, &charged, &verdict)
    })
}

/// Decides `request` at `now`, a preflight as any other. `prove` says who the user is, where a policy asks.
///
/// # Errors
///
/// [`Undecided`].
pub async fn decide<S: Store>(
    config: &Config,
    store: &S,
    prove: &impl Authenticate,
    request: &impl GateRequest,
    now: Timestamp,
) -> Result<Report, Undecided> {
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
/// Those of [`decide`].
pub async fn decide_for<S: Store>(
    config: &Config,
    store: &S,
    prove: &impl Authenticate,
    request: &impl GateRequest,
    terms: &Terms,
    now: Timestamp,
) -> Result<Report, Undecided> {
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
        return Ok(Report { route, ..report });
    }
    // Before the proof: a request that is refused for its values costs none.
    let (mut checked, mut charged) = check(terms, None, &policies, request, cost)?;
    let user = if asks_for_user {
        // Apart, so that a decision that asks for nobody is not the larger for it.
        Box::pin(prove.user(|name| request.header(name), now)).await
    } else {
        None
    };
    if user.is_some() {
        (checked, charged) = check(terms, user.as_ref(), &policies, request, cost)?;
    }
    let verdict = store.decide(&checked, now).await?;
    Ok(Report {
        exempt: terms.exempt(),
        route,
        ..report(terms.caller(), user, &checked, &charged, &verdict)
    })
}

type Charged<'a> = (Check, Vec<(&'a Policy, CallerKey)>);

/// What a request is charged under `policies`, and of each charge its policy and key.
fn check<'a>(
    terms: &Terms,
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

/// Who sent a request, by the headers that the platform sets.
#[must_use]
pub fn caller(config: &Config, header: &dyn Fn(&str) -> Option<String>) -> Caller {
    let address = header(&config.client_ip_header);
    let caller = Caller::identify(address.as_deref(), config.ipv6_prefix);
    // Where Cloudflare does not set the address, it does not set the zone either.
    if config.client_ip_header == CF_CONNECTING_IP && caller.address() == Some(Caller::SHARED) {
        return caller.in_zone(header(CF_WORKER).as_deref());
    }
    caller
}

/// Whether the request has the bypass token.
fn bypasses(config: &Config, request: &impl GateRequest) -> bool {
    let token = config.abuse.bypass_token.as_ref();
    token.is_some_and(|token| {
        let given = request.header(BYPASS);
        given.is_some_and(|given| token.matches(credentials::trim(&given)))
    })
}

/// What a request is limited by, the policies that all meet among them.
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
) -> Report {
    let mut report = Report {
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
        let standing = QuotaStatus {
            policy: policy.name.clone(),
            quota: charge.quota,
            charged: *key,
            answer,
        };
        if charge.enforced {
            report.enforced.push(standing);
        } else {
            report.shadow.push(standing);
        }
    }
    report
}

#[cfg(test)]
mod tests;
