//! The loop guard: the header by which a limiter sees its own request again.
//!
//! `X-Edge-Limiter-Passed` lists the limiters that a request has passed, by commas. A deployment finds its own name in it
//! when an origin leads back to itself; another deployment in a chain only adds its own. A client that
//! makes names up gains nothing but a refusal. A Worker cannot know its own name, so the name comes from its
//! variables: deployments in one chain must differ in one of them, such as `REDIS_KEY_PREFIX`.

use sha2::{Digest, Sha256};

use crate::config::{Config, StoreConfig};
use crate::steps;

/// Limiters in one chain; more is a loop through something that alters the header.
const MAX_LIMITERS: usize = 8;

/// The most of the header that is read, in bytes. Each limiter adds 18.
const MAX_BYTES: usize = 512;

/// The name of a deployment: the same in all its isolates, another for another configuration.
#[must_use]
pub fn name(config: &Config) -> String {
    let mut hash = Sha256::new();
    // Secrets do not show in it, and go in by themselves.
    hash.update(format!("{config:?}"));
    if let StoreConfig::Upstash { token, .. } = &config.store {
        hash.update(token.reveal());
    }
    if let Some(secret) = &config.origin_secret {
        hash.update(secret.reveal());
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The header to send on; `None`: the request has been here before. Of one longer than 512 bytes only the
/// end is read and sent on, where limiters add their names.
#[must_use]
pub fn pass(header: Option<&str>, own: &str) -> Option<String> {
    let Some(header) = header else {
        return Some(own.to_owned());
    };
    let from = header.ceil_char_boundary(header.len().saturating_sub(MAX_BYTES));
    let end = header.get(from..).unwrap_or_default();
    steps::count(end.len());
    let mut list: Vec<&str> = end
        .split(',')
        .skip(usize::from(from > 0))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if list.len() >= MAX_LIMITERS || list.contains(&own) {
        return None;
    }
    list.push(own);
    Some(list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::pass;

    #[test]
    fn a_second_pass_is_seen() {
        let once = pass(None, "a").unwrap();
        let twice = pass(Some(&once), "b").unwrap();
        assert_eq!(twice, "a, b");
        assert_eq!(pass(Some(&twice), "a"), None);
        assert_eq!(pass(Some(&twice), "b"), None);
    }

    #[test]
    fn a_second_pass_is_seen_behind_anything_that_a_client_sends() {
        for junk in [
            ",".repeat(100_000),
            "x".repeat(100_000),
            "é,".repeat(50_000),
            "é".repeat(300),
        ] {
            let Some(once) = pass(Some(&junk), "0123456789abcdef") else {
                assert!(junk.starts_with("é,"), "names are counted");
                continue;
            };
            assert!(once.len() < 600);
            assert_eq!(pass(Some(&once), "0123456789abcdef"), None);
            let longer = format!("{junk},{once}");
            assert_eq!(pass(Some(&longer), "0123456789abcdef"), None);
        }
    }

    #[test]
    fn a_chain_has_an_end() {
        let long = ["x"; 8].join(",");
        assert_eq!(pass(Some(&long), "a"), None);
    }
}
