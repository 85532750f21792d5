//! Proven users: whom a JSON Web Token (RFC 7519) names as the sender of a request, if its signature
//! verifies against a configured key. Only what is proven raises a limit; everybody else stays limited
//! by address, whatever was sent.
//!
//! A token is looked at where a policy asks who the user is. What verified is remembered until the
//! token expires ([`proofs`]), so that a repeated token costs no signature. Keys come from the
//! configuration or from an identity provider's document ([`key_set`]), which is fetched when it is first
//! needed. No request waits for another one's fetch: until the keys are there, its sender is
//! unproven.

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

/// Keys that a signature is tried with, at most.
const TRIED: usize = 4;

/// Cookies of the configured name that are tried: one may be of the site and one of a path.
const MAX_COOKIES: usize = 2;

/// How long a token that did not verify is not tried again.
const REFUSED_FOR: Millis = Millis::from_secs(60);

/// How users are proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// Keys of the configuration.
    pub keys: Vec<JwtKey>,
    /// Where an identity provider publishes its keys (RFC 7517).
    pub jwks_url: Option<String>,
    /// What a token has to say.
    pub expected: ExpectedClaims,
    /// The cookie that holds the token where no `Authorization` header does.
    pub cookie: Option<String>,
}

impl UserSettings {
    /// Whether anybody can be proven.
    #[must_use]
    pub const fn prove_anybody(&self) -> bool {
        !self.keys.is_empty() || self.jwks_url.is_some()
    }
}

/// Says who sent a request.
#[allow(async_fn_in_trait)]
pub trait Authenticate {
    /// The key of the user who is proven to have sent a request: [`CallerKey::User`]. `header` reads
    /// one of its headers, by its name in lower case.
    async fn user(
        &self,
        header: impl Fn(&str) -> Option<String>,
        now: Timestamp,
    ) -> Option<CallerKey>;
}

/// Proves nobody.
pub struct Unauthenticated;

impl Authenticate for Unauthenticated {
    async fn user(&self, _: impl Fn(&str) -> Option<String>, _: Timestamp) -> Option<CallerKey> {
        None
    }
}

/// What a signature came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verified {
    Yes,
    No,
    NoKey,
}

/// Proves users by their tokens.
pub struct Users<E> {
    settings: UserSettings,
    effects: E,
    own: Rc<[JwtKey]>,
    fetched: RefCell<Rc<[JwtKey]>>,
    fetching: Cell<FetchSchedule>,
    trouble: FailureMonitor,
    proofs: RefCell<ProofCache>,
}

impl<E: Effects> Users<E> {
    /// Nobody is known yet. Up to `entries` tokens are remembered.
    pub fn new(settings: UserSettings, effects: E, entries: usize, seed: Seed) -> Self {
        Self {
            own: settings.keys.clone().into(),
            settings,
            effects,
            fetched: RefCell::new(Rc::new([])),
            fetching: Cell::default(),
            trouble: FailureMonitor::new(
                "RATE_LIMIT_JWT_JWKS_URL: the key set",
                "tokens are verified with the keys that are known, and the other callers limited by address",
                0,
            ),
            proofs: RefCell::new(ProofCache::new(entries, &seed)),
        }
    }

    /// Since when the provider's keys cannot be fetched, on this isolate's clock, and why.
    #[must_use]
    pub fn trouble(&self) -> Option<(Timestamp, String)> {
        self.trouble.get()
    }

    /// Whether the provider's keys are old or could not be fetched, and the one who asks is to
    /// [fetch](Self::fetch) them once its request is answered.
    pub fn should_fetch(&self, now: Timestamp) -> bool {
        let mut fetching = self.fetching.get();
        let due = self.settings.jwks_url.is_some() && fetching.is_due(now) && fetching.begin(now);
        self.fetching.set(fetching);
        due
    }

    /// Fetches the provider's keys, after [`should_fetch`](Self::should_fetch) said so. If it fails, the old ones
    /// stay; where the document is a key set without usable keys, none does. Each change of how it does is logged.
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
        let mut fetching = self.fetching.get();
        fetching.end(error.is_none(), now);
        self.fetching.set(fetching);
        let why = error.map(|error| error.to_string());
        self.trouble.learn(why, &self.effects, now);
        if let Ok(keys) = keys
            && *keys != **self.fetched.borrow()
        {
            *self.fetched.borrow_mut() = keys.into();
            // A key that is withdrawn proves nobody any longer.
            self.proofs.borrow_mut().clear();
        }
    }

    async fn verify(&self, token: &Jwt<'_>) -> Verified {
        let fetched = Rc::clone(&self.fetched.borrow());
        let mut verified = Verified::NoKey;
        let fitting = self.own.iter().chain(&*fetched);
        for key in fitting.filter(|key| key.fits(token)).take(TRIED) {
            verified = Verified::No;
            let verifying = VerificationKey {
                algorithm: key.algorithm.name(),
                material: key.material(),
            };
            if (self.effects)
                .verify(verifying, token.signed, &token.signature)
                .await
            {
                return Verified::Yes;
            }
        }
        verified
    }

    async fn prove(&self, text: &str, now: Timestamp) -> Option<CallerKey> {
        if text.len() > token::LONGEST {
            return None;
        }
        steps::count(text.len());
        let digest: [u8; 32] = Sha256::digest(text).into();
        if let Some(known) = self.proofs.borrow_mut().get(&digest, now) {
            return known;
        }
        let token = Jwt::parse(text)?;
        let (subject, until) = token.subject(&self.settings.expected, now)?;
        let mut verified = self.verify(&token).await;
        let unknown =
            verified == Verified::NoKey || (verified == Verified::No && token.key_id.is_none());
        if unknown && self.should_look_again(now) {
            // No other request fetches meanwhile.
            self.effects.outlive_client();
            self.fetch(now).await;
            verified = self.verify(&token).await;
        }
        let (user, until) = match verified {
            Verified::Yes => (Some(CallerKey::user(subject)), until),
            Verified::No => (None, now + REFUSED_FOR),
            // Its key may be published yet.
            Verified::NoKey => return None,
        };
        let mut proofs = self.proofs.borrow_mut();
        proofs.put(digest, user, until, now);
        user
    }

    /// Whether the provider may have keys that are not known here, and this request asks for them.
    fn should_look_again(&self, now: Timestamp) -> bool {
        let mut fetching = self.fetching.get();
        let due =
            self.settings.jwks_url.is_some() && fetching.may_have_news(now) && fetching.begin(now);
        self.fetching.set(fetching);
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

/// The values of the cookies of that name, without the quotes that may stand around them (RFC 6265, 4.1.1).
/// Pairs end at a semicolon, and where a platform joins several lines, at a comma: no token holds either.
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
