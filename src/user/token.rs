//! A JSON Web Token, read: nothing of it is proven yet.

use serde_json::{Map, Value};

use super::algorithm::SignatureAlgorithm;
use super::base64url;
use crate::json;
use crate::steps;
use crate::time::{Millis, Timestamp};

/// The longest token that is looked at, in bytes.
pub const LONGEST: usize = 8 * 1024;

/// The longest subject, in bytes.
const LONGEST_SUBJECT: usize = 1024;

/// How far ahead the issuer's clock may be. An expiry is taken at its word.
const LEEWAY: Millis = Millis::from_secs(10);

/// The last second of the year 9999.
const LATEST: f64 = 253_402_300_799.0;

/// What a token has to say: one of these; `None`: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedClaims {
    /// Its `iss`.
    pub issuer: Option<Vec<String>>,
    /// Its `aud`, or one of them.
    pub audience: Option<Vec<String>>,
}

/// A token of a form that can be proven.
#[derive(Clone, Debug, PartialEq)]
pub struct Jwt<'a> {
    /// What it says it is signed with.
    pub algorithm: SignatureAlgorithm,
    /// Which key, if it says so.
    pub key_id: Option<String>,
    /// What the signature is over.
    pub signed: &'a str,
    /// The signature.
    pub signature: Vec<u8>,
    claims: Map<String, Value>,
}

impl<'a> Jwt<'a> {
    /// Reads a token in compact form (RFC 7515). `None`: it is none, or of a kind that is not
    /// supported: `none` and other algorithms, critical extensions, encrypted ones.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        // Decoded, and read as JSON.
        steps::count(2 * text.len());
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = object(header)?;
        let algorithm = SignatureAlgorithm::from_name(header.get("alg")?.as_str()?)?;
        let is_taken = |kind: &Value| kind.as_str().is_some_and(is_media_type);
        if header.contains_key("crit") || !header.get("typ").is_none_or(is_taken) {
            return None;
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(key_id) => Some(key_id.as_str()?.to_owned()),
        };
        let signature = base64url::decode(signature)?;
        algorithm.may_sign(signature.len()).then_some(())?;
        Some(Self {
            algorithm,
            key_id,
            signed,
            signature,
            claims: object(claims)?,
        })
    }

    /// Who sent it, and when it expires, should its signature verify. `None` where it is not in force
    /// at `now`, says something else than what is expected, or names nobody.
    #[must_use]
    pub fn subject(&self, expected: &ExpectedClaims, now: Timestamp) -> Option<(&str, Timestamp)> {
        let expires = time(self.claims.get("exp")?)?;
        let begins = match self.claims.get("nbf") {
            None => Timestamp::default(),
            Some(begins) => time(begins)?,
        };
        if expires <= now || begins > now + LEEWAY {
            return None;
        }
        let issued = expected.issuer.as_deref();
        let is = |claim: Option<&Value>, texts: &[String]| {
            let claim = claim.and_then(Value::as_str);
            texts.iter().any(|text| claim == Some(text))
        };
        if issued.is_some_and(|issuers| !is(self.claims.get("iss"), issuers)) {
            return None;
        }
        if let Some(audience) = expected.audience.as_deref() {
            let claim = self.claims.get("aud");
            let several = claim.and_then(Value::as_array).map(Vec::as_slice);
            let mut several = several.unwrap_or_default().iter();
            if !is(claim, audience) && !several.any(|one| is(Some(one), audience)) {
                return None;
            }
        }
        let subject = self.claims.get("sub")?.as_str()?;
        let fits = (1..=LONGEST_SUBJECT).contains(&subject.len());
        fits.then_some((subject, expires))
    }
}

/// Whether `kind` is the media type of a JSON Web Token or of an access token (RFC 9068, 4), in any case, with
/// `application/` or without (RFC 7515, 4.1.9). Tokens of other kinds, such as logout tokens, prove nobody.
fn is_media_type(kind: &str) -> bool {
    const PREFIX: &str = "application/";
    let prefix = kind.get(..PREFIX.len());
    let has_prefix = prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    let name = kind.get(if has_prefix { PREFIX.len() } else { 0 }..);
    let is = |known: &&str| name.is_some_and(|name| name.eq_ignore_ascii_case(known));
    ["jwt", "at+jwt"].iter().any(is)
}

fn object(text: &str) -> Option<Map<String, Value>> {
    let text = String::from_utf8(base64url::decode(text)?).ok()?;
    match json::value(&text)? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// A `NumericDate`: seconds since the epoch, maybe with a fraction.
fn time(claim: &Value) -> Option<Timestamp> {
    let seconds = claim.as_f64()?;
    // Within 2^53 as milliseconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..=LATEST)
        .contains(&seconds)
        .then(|| Timestamp::from_millis((seconds * 1000.0) as u64))
}
