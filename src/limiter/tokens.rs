//! Finds the limiter's own tokens in a request, so that the origin does not get them.

use std::iter::once;

use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::credentials::{Credentials, decode_basic, trim};
use crate::steps;

/// The most credentials of one `Authorization` header that are compared. A legal header has one.
const MAX_CREDENTIALS: usize = 4;

/// The longest value that is compared, in bytes, unless a token is longer. Most tokens of an application's users are
/// longer, so they cost no comparison.
const MAX_GIVEN_BYTES: usize = 256;

/// The SHA-256 digests of the tokens in a configuration.
pub(super) struct OwnTokens {
    digests: Vec<[u8; 32]>,
    longest: usize,
}

impl OwnTokens {
    pub(super) fn new(config: &Config) -> Self {
        let bypass = &config.protection.bypass_token;
        let tokens = [
            &config.admin_token,
            &config.check_token,
            &config.metrics_token,
            bypass,
            &config.origin_secret,
        ];
        let texts = tokens.into_iter().flatten().map(|token| token.reveal());
        Self {
            digests: texts.clone().map(|text| digest(text.as_bytes())).collect(),
            longest: texts.map(str::len).fold(MAX_GIVEN_BYTES, usize::max),
        }
    }

    /// Whether the configuration has no token.
    pub(super) const fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whether an `Authorization` header holds one of the tokens: alone, after a scheme (`Bearer`), or as the name or the
    /// password of Basic credentials. The time that the comparison takes does not depend on how much of a token matches.
    pub(super) fn are_in(&self, authorization: &str) -> bool {
        steps::count(authorization.len());
        let several = authorization.contains(',').then_some(authorization);
        let several = several.into_iter().flat_map(|all| all.split(','));
        let parts = several.take(MAX_CREDENTIALS);
        let mut all = once(authorization).chain(parts);
        all.any(|one| {
            self.is_one(trim(one).as_bytes())
                || Credentials::read(one).is_some_and(|given| {
                    self.is_one(given.value.as_bytes())
                        || given.have_scheme("basic") && self.are_in_basic(given.value)
                })
        })
    }

    fn are_in_basic(&self, encoded: &str) -> bool {
        if encoded.len() > 2 * self.longest {
            return false;
        }
        let credentials = decode_basic(encoded).unwrap_or_default();
        let mut parts = credentials.splitn(2, |byte| *byte == b':');
        parts.any(|part| self.is_one(part))
    }

    fn is_one(&self, given: &[u8]) -> bool {
        // No token contains a space.
        let is_token = !given.is_empty() && !given.contains(&b' ');
        if !is_token || given.len() > self.longest {
            return false;
        }
        steps::count(given.len());
        let given = digest(given);
        let differ = |own: &[u8; 32]| {
            let pairs = own.iter().zip(&given);
            pairs.fold(0, |differs, (own, given)| differs | (own ^ given)) != 0
        };
        // Compares with all tokens, so that the time does not depend on which one matches.
        self.digests.iter().filter(|own| !differ(own)).count() > 0
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use serde_json::json;

    use super::OwnTokens;
    use crate::config::{Config, Vars};

    const ADMIN: &str = "an-admin-token,of-this:test";

    fn tokens() -> OwnTokens {
        let vars = json!({
            "ADMIN_TOKEN": ADMIN, "CHECK_TOKEN": "a-check-token-of-this-test", "METRICS_TOKEN": "a-metrics-token-of-this-test",
            "RATE_LIMIT_BYPASS_TOKEN": "a-bypass-token-of-this-test", "ORIGIN_SECRET": "a-secret-of-this-test",
        });
        OwnTokens::new(&Config::compile(&Vars::from_json(&vars.to_string()).unwrap()).config)
    }

    #[test]
    fn a_token_is_found_in_any_scheme_or_form() {
        let tokens = tokens();
        for token in [
            "an-admin-token,of-this:test",
            "a-check-token-of-this-test",
            "a-metrics-token-of-this-test",
            "a-bypass-token-of-this-test",
            "a-secret-of-this-test",
        ] {
            for header in [
                token.to_owned(),
                format!("Bearer {token}"),
                format!("bEARER \t {token} "),
                format!("Token {token}"),
                format!("Basic {}", STANDARD.encode(format!("prometheus:{token}"))),
                format!("basic  {}", STANDARD_NO_PAD.encode(format!(":{token}"))),
            ] {
                assert!(tokens.are_in(&header), "{header}");
            }
        }
        let name = STANDARD.encode("a-check-token-of-this-test:");
        assert!(tokens.are_in(&format!("Basic {name}")));
        assert!(tokens.are_in("Bearer of.the.application, Bearer a-check-token-of-this-test"));
    }

    #[test]
    fn an_authorization_header_without_a_token_stays_for_the_origin() {
        let tokens = tokens();
        let long = format!("Bearer {}", "x".repeat(16_000));
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Basic",
            "Basic !!!",
            "Bearer an-admin-token,of-this:tesT",
            "Bearer an-admin-token,of-this:test2",
            "Bearer a.b.c",
            "Basic dXNlcjpwYXNzd29yZA==",
            &long,
        ] {
            assert!(!tokens.are_in(header), "{header}");
        }
        let none = OwnTokens::new(&Config::compile(&Vars::default()).config);
        assert!(none.is_empty() && !none.are_in("Bearer "));
    }
}
