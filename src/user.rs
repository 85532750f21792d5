//! Proves users: verifies the JSON Web Token (RFC 7519) of a request, whose subject is the user. Only a
//! proven user gets its own quota. A request without a valid token is limited by address.
//!
//! A token is read only if a policy of the request has a quota for users. A verified token is remembered
//! until it expires ([`proofs`]), so that no signature is verified twice. Keys come from the
//! configuration or from an identity provider's document ([`key_set`]), which is fetched when it is first
//! needed. No request waits for the fetch of another: until the keys are known, its user is unproven.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use self::fetching::FetchSchedule;
use self::key::JwtKey;
use self::proofs::ProofCache;
use self::token::{ExpectedClaims, Jwt};
use crate::client::CallerKey;
use crate::credentials::{bearer, trim};
use crate::effects::{Effects, VerificationKey};
use crate::error::KeySetError;
use crate::failure_monitor::FailureMonitor;
use crate::seed::Seed;
use crate::steps;
use crate::time::{Millis, Timestamp};

pub mod algorithm;
mod base64url;
mod fetching;
pub mod key;
pub mod key_set;
pub mod proofs;
pub mod token;

/// The most keys that a signature is tried with.
const MAX_KEYS_TRIED: usize = 4;

/// The most cookies of the configured name that are tried. There may be one for the site and one for a path.
const MAX_COOKIES: usize = 2;

/// How long a token with an invalid signature is remembered, and not verified again.
const REMEMBER_INVALID_FOR: Millis = Millis::from_secs(60);

/// How users are proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// The keys in the configuration.
    pub keys: Vec<JwtKey>,
    /// The URL at which an identity provider publishes its keys (RFC 7517). `None`: no provider.
    pub jwks_url: Option<String>,
    /// The claims that a token must have.
    pub expected: ExpectedClaims,
    /// The name of the cookie that contains the token if the `Authorization` header has none. `None`:
    /// no cookie is read.
    pub cookie: Option<String>,
}

impl UserSettings {
    /// Whether users can be proven at all: there is a key, or a provider of keys.
    #[must_use]
    pub const fn prove_anybody(&self) -> bool {
        !self.keys.is_empty() || self.jwks_url.is_some()
    }
}

/// Finds out which user sent a request.
#[allow(async_fn_in_trait)]
pub trait Authenticate {
    /// The key of the user who is proven to have sent a request: [`CallerKey::User`]. `None` if no user
    /// is proven. `header` reads one of the request's headers, by its name in lower case.
    async fn user(
        &self,
        header: impl Fn(&str) -> Option<String>,
        now: Timestamp,
    ) -> Option<CallerKey>;
}

/// Proves no user: the implementation for a configuration without keys.
pub struct Unauthenticated;

impl Authenticate for Unauthenticated {
    async fn user(&self, _: impl Fn(&str) -> Option<String>, _: Timestamp) -> Option<CallerKey> {
        None
    }
}

/// The result of verifying a token's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignatureCheck {
    Valid,
    Invalid,
    /// No known key may have signed the token.
    NoKey,
}

/// Proves users by their tokens.
pub struct Users<E> {
    settings: UserSettings,
    effects: E,
    configured: Rc<[JwtKey]>,
    fetched: RefCell<Rc<[JwtKey]>>,
    schedule: Cell<FetchSchedule>,
    monitor: FailureMonitor,
    proofs: RefCell<ProofCache>,
}

impl<E: Effects> Users<E> {
    /// Starts without any fetched key or remembered token. Up to `entries` tokens are remembered.
    pub fn new(settings: UserSettings, effects: E, entries: usize, seed: Seed) -> Self {
        Self {
            configured: settings.keys.clone().into(),
            settings,
            effects,
            fetched: RefCell::new(Rc::new([])),
            schedule: Cell::default(),
            monitor: FailureMonitor::new(
                "Fetching the key set of RATE_LIMIT_JWT_JWKS_URL",
                "tokens that the known keys verify still prove users, and all other callers are limited by address",
                0,
            ),
            proofs: RefCell::new(ProofCache::new(entries, &seed)),
        }
    }

    /// Since when the provider's keys cannot be fetched, on this isolate's clock, and why. `None` while
    /// fetching works.
    #[must_use]
    pub fn key_set_failure(&self) -> Option<(Timestamp, String)> {
        self.monitor.get()
    }

    /// Whether this request must [fetch](Self::fetch) the provider's keys after its answer, because the
    /// keys are old or the last fetch failed. If so, other requests do not fetch meanwhile.
    pub fn should_fetch(&self, now: Timestamp) -> bool {
        let mut schedule = self.schedule.get();
        let due = self.settings.jwks_url.is_some() && schedule.is_due(now) && schedule.begin(now);
        self.schedule.set(schedule);
        due
    }

    /// Fetches the provider's keys, after [`should_fetch`](Self::should_fetch) has returned `true`. If this fails,
    /// the old keys stay in use. If the document is a key set without a usable key, none stays. Each change between
    /// success and failure is logged.
    pub async fn fetch(&self, now: Timestamp) {
        let Some(url) = &self.settings.jwks_url else {
            return;
        };
        let document = self.effects.fetch_key_set(url).await;
        let keys = document.and_then(|document| key_set::published(&document));
        let error = match &keys {
            Ok(keys) if keys.is_empty() => Some(KeySetError::NoUsableKey),
            Ok(_) => None,
            Err(error) => Some(*error),
        };
        let mut schedule = self.schedule.get();
        schedule.end(error.is_none(), now);
        self.schedule.set(schedule);
        let why = error.map(|error| error.to_string());
        self.monitor.learn(why, &self.effects, now);
        if let Ok(keys) = keys
            && *keys != **self.fetched.borrow()
        {
            *self.fetched.borrow_mut() = keys.into();
            // Tokens of a withdrawn key must not prove users any longer.
            self.proofs.borrow_mut().clear();
        }
    }

    async fn verify(&self, token: &Jwt<'_>) -> SignatureCheck {
        let fetched = Rc::clone(&self.fetched.borrow());
        let mut check = SignatureCheck::NoKey;
        let keys = self.configured.iter().chain(&*fetched);
        let keys = keys.filter(|key| key.may_have_signed(token));
        for key in keys.take(MAX_KEYS_TRIED) {
            check = SignatureCheck::Invalid;
            let verification_key = VerificationKey {
                algorithm: key.algorithm.name(),
                material: key.material(),
            };
            if (self.effects)
                .verify(verification_key, token.signed, &token.signature)
                .await
            {
                return SignatureCheck::Valid;
            }
        }
        check
    }

    async fn prove(&self, text: &str, now: Timestamp) -> Option<CallerKey> {
        if text.len() > token::MAX_TOKEN_BYTES {
            return None;
        }
        steps::count(text.len());
        let digest: [u8; 32] = Sha256::digest(text).into();
        if let Some(known) = self.proofs.borrow_mut().get(&digest, now) {
            return known;
        }
        let token = Jwt::parse(text)?;
        let (subject, expires) = token.subject(&self.settings.expected, now)?;
        let mut check = self.verify(&token).await;
        let may_have_new_key = check == SignatureCheck::NoKey
            || (check == SignatureCheck::Invalid && token.key_id.is_none());
        if may_have_new_key && self.should_fetch_again(now) {
            // No other request fetches meanwhile, so the fetch must not end with this request's client.
            self.effects.outlive_client();
            self.fetch(now).await;
            check = self.verify(&token).await;
        }
        let (user, until) = match check {
            SignatureCheck::Valid => (Some(CallerKey::user(subject)), expires),
            SignatureCheck::Invalid => (None, now + REMEMBER_INVALID_FOR),
            // Not remembered, because the provider may still publish the token's key.
            SignatureCheck::NoKey => return None,
        };
        let mut proofs = self.proofs.borrow_mut();
        proofs.put(digest, user, until, now);
        user
    }

    /// Whether this request must fetch the provider's keys at once, because there may be a new key.
    fn should_fetch_again(&self, now: Timestamp) -> bool {
        let mut schedule = self.schedule.get();
        let due = self.settings.jwks_url.is_some()
            && schedule.may_have_new_keys(now)
            && schedule.begin(now);
        self.schedule.set(schedule);
        due
    }
}

impl<E: Effects> Authenticate for Users<E> {
    async fn user(
        &self,
        header: impl Fn(&str) -> Option<String>,
        now: Timestamp,
    ) -> Option<CallerKey> {
        let authorization = header("authorization");
        let bearer = authorization.as_deref().and_then(bearer);
        let name = self.settings.cookie.as_deref();
        let name = name.filter(|_| bearer.is_none());
        let cookies = name.and_then(|_| header("cookie")).unwrap_or_default();
        let cookies = cookies_named(&cookies, name.unwrap_or_default());
        for token in bearer.into_iter().chain(cookies.take(MAX_COOKIES)) {
            let user = self.prove(token, now).await;
            if user.is_some() {
                return user;
            }
        }
        None
    }
}

/// The values of all cookies with this name, without the quotes that may surround them (RFC 6265, 4.1.1).
/// Pairs end at a semicolon, or at a comma if a platform joins several lines. No token contains either.
fn cookies_named<'a>(cookies: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    steps::count(cookies.len());
    let pairs = cookies.split([';', ',']);
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs.filter_map(move |(known, value)| {
        let value = trim(value);
        let quoted = value.strip_prefix('"');
        let inner = quoted.and_then(|quoted| quoted.strip_suffix('"'));
        (trim(known) == name).then_some(inner.unwrap_or(value))
    })
}

#[cfg(test)]
mod tests;
