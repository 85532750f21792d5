//! The loop guard: the header by which a limiter sees its own request again.
//!
//! `X-Edge-Limiter-Passed` lists the limiters that a request has passed, by commas. A deployment finds its own name in it
//! when an origin leads back to itself; another deployment in a chain only adds its own. A client that
//! makes names up gains nothing but a refusal. A Worker cannot know its own name, so the name comes from its
//! variables: deployments in one chain must differ in one of them, such as `REDIS_KEY_PREFIX`.

use sha2::{Digest, Sha256};

use crate::config::{Config, StoreConfig};

/// Limiters in one chain; more is a loop through something that alters the header.
const MAX_LIMITERS: usize = 8;

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

/// The header to send on; `None`: the request has been here before.
#[must_use]
pub fn pass(header: Option<&str>, own: &str) -> Option<String> {
    let Some(header) = header else {
        return Some(own.to_owned());
    };
    let mut list: Vec<&str> = header
        .split(',')
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
    fn a_chain_has_an_end() {
        let long = ["x"; 8].join(",");
        assert_eq!(pass(Some(&long), "a"), None);
    }
}
