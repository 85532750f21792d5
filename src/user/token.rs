//! Parses JSON Web Tokens. Nothing in a parsed token is proven until its signature is verified.

use serde_json::{Map, Value};

use super::algorithm::SignatureAlgorithm;
use super::base64url;
use crate::json;
use crate::steps;
use crate::time::{Millis, Timestamp};

/// The longest token that is parsed, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The longest subject, in bytes.
const MAX_SUBJECT_BYTES: usize = 1024;

/// How far the issuer's clock may be ahead. This applies to `nbf` only, because a token is invalid as soon as it expires.
const LEEWAY: Millis = Millis::from_secs(10);

/// The latest date that is accepted, in seconds since the epoch: the last second of the year 9999.
const MAX_DATE_SECONDS: f64 = 253_402_300_799.0;

/// The claims that a token must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedClaims {
    /// The accepted values of `iss`. `None`: every issuer, or none.
    pub issuer: Option<Vec<String>>,
    /// The accepted values of `aud`. A token with several audiences needs one of them. `None`: every audience,
    /// or none.
    pub audience: Option<Vec<String>>,
}

/// A token of a supported form, whose signature has not been verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Jwt<'a> {
    /// The algorithm that its header names.
    pub algorithm: SignatureAlgorithm,
    /// The id of the key that signed it, if its header names one.
    pub key_id: Option<String>,
    /// The text that is signed.
    pub signed: &'a str,
    /// The signature, decoded.
    pub signature: Vec<u8>,
    claims: Map<String, Value>,
}

impl<'a> Jwt<'a> {
    /// Parses a token in compact form (RFC 7515). `None` if the text is not a token, or one that is not
    /// supported: with `none` or another unsupported algorithm, with critical extensions, or encrypted.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_TOKEN_BYTES {
            return None;
        }
        // The text is decoded, then parsed as JSON.
        steps::count(2 * text.len());
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = object(header)?;
        let algorithm = SignatureAlgorithm::from_name(header.get("alg")?.as_str()?)?;
        let is_accepted = |kind: &Value| kind.as_str().is_some_and(is_token_type);
        if header.contains_key("crit") || !header.get("typ").is_none_or(is_accepted) {
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

    /// The user whom the token proves if its signature is valid, and when the token expires. `None` if the
    /// token is not valid at `now`, lacks an expected claim, or has no subject.
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
        let has_valid_length = (1..=MAX_SUBJECT_BYTES).contains(&subject.len());
        has_valid_length.then_some((subject, expires))
    }
}

/// Whether `kind` is the media type of a JSON Web Token or of an access token (RFC 9068, 4), in any case, with
/// `application/` or without (RFC 7515, 4.1.9). Tokens of other kinds, such as logout tokens, prove nobody.
fn is_token_type(kind: &str) -> bool {
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

/// Reads a `NumericDate`: seconds since the epoch, possibly with a fraction.
fn time(claim: &Value) -> Option<Timestamp> {
    let seconds = claim.as_f64()?;
    // In milliseconds the date is below 2^53, so no whole millisecond is lost.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..=MAX_DATE_SECONDS)
        .contains(&seconds)
        .then(|| Timestamp::from_millis((seconds * 1000.0) as u64))
}
