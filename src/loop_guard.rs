//! The loop guard: the header by which a limiter sees its own request again.
//!
//! `X-Edge-Limiter-Passed` lists the deployments that a request has passed, joined by commas, one name for each pass. Each
//! deployment appends its name, and counts how often its name is listed already. If the origin leads back to the
//! limiter, the request goes in a loop, which is ended at the fifth pass. A few passes are no loop: an application may call
//! its own public URL with the headers of the request that it serves. In a chain of deployments, each counts its own name
//! alone. Names are only ever appended. So a client that makes up names ends its request earlier, and hides no pass.
//!
//! A Worker cannot know its own name, so the name is derived from its variables. Deployments in one chain must differ in
//! one of them, such as `REDIS_KEY_PREFIX`. Another version may derive another name from the same variables. While two
//! versions of a deployment run, a loop through both ends at the fifth pass of one of them.

use sha2::{Digest, Sha256};

use crate::config::{Config, Server};
use crate::steps;

/// The pass of one deployment at which a loop is ended.
const LAST_PASS: usize = 5;

/// The most names in the header, enough for eight deployments in one loop. A longer list is a loop in which something
/// alters the header.
const MAX_NAMES: usize = 8 * LAST_PASS;

/// The most bytes of the header that are read. Each pass adds 18.
const MAX_BYTES: usize = 1024;

/// Returns the name of a deployment. All its isolates have the same name, and another configuration has another.
#[must_use]
pub fn deployment_name(config: &Config) -> String {
    let mut hash = Sha256::new();
    // The debug format leaves out secrets, so they are hashed separately.
    hash.update(format!("{config:?}"));
    if let Some(secret) = config.store.server().and_then(Server::secret) {
        hash.update(secret.reveal());
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

/// Returns the header to forward, with `own` appended. `None`: this is the deployment's fifth pass or a later one. Of a
/// header longer than 1,024 bytes, only the end is read and forwarded, since names are appended there.
#[must_use]
pub fn append_name(header: Option<&str>, own: &str) -> Option<String> {
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
    let passes = list.iter().filter(|name| **name == own).count();
    if list.len() >= MAX_NAMES || passes + 1 >= LAST_PASS {
        return None;
    }
    list.push(own);
    Some(list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::append_name;

    const OWN: &str = "0123456789abcdef";

    /// How many passes go ahead from `header` on, and the header that the last of them forwards.
    fn passes_from(header: Option<String>) -> (usize, Option<String>) {
        let mut last = header;
        for passes in 0..10 {
            match append_name(last.as_deref(), OWN) {
                Some(next) => last = Some(next),
                None => return (passes, last),
            }
        }
        panic!("the loop is never cut: {last:?}");
    }

    #[test]
    fn a_loop_is_cut_at_the_fifth_pass() {
        let (passes, last) = passes_from(None);
        assert_eq!((passes, last), (4, Some([OWN; 4].join(", "))));
    }

    #[test]
    fn each_limiter_in_a_loop_counts_its_own_passes() {
        let mut header = None;
        for round in 1..=4 {
            for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
                header = append_name(header.as_deref(), name);
                assert!(header.is_some(), "{name} in round {round}");
            }
        }
        assert_eq!(append_name(header.as_deref(), "a"), None);
        assert!(append_name(header.as_deref(), "i").is_some());
    }

    #[test]
    fn a_header_that_a_client_sends_hides_no_pass() {
        for junk in [
            ",".repeat(100_000),
            "x".repeat(100_000),
            "\"".to_owned(),
            "é".repeat(300),
            " ,, x;, \t,".to_owned(),
            format!("{OWN}0, 0{OWN}, {OWN}=0, -{OWN}"),
            ["y"; 30].join(","),
        ] {
            let (passes, last) = passes_from(Some(junk.clone()));
            assert_eq!(passes, 4, "{junk:.40}");
            let last = last.unwrap();
            assert!(last.len() < 1200, "{junk:.40}");
            // The client's text arrives as a second header line, joined by a comma, before or after the passes.
            let cut = [format!("{junk},{last}"), format!("{last},{junk:.500}")];
            assert_eq!(cut.map(|both| append_name(Some(&both), OWN)), [None, None]);
        }
    }

    #[test]
    fn a_client_that_makes_up_names_only_shortens_its_own_passes() {
        for (made_up, passes) in [(1, 3), (3, 1), (4, 0), (100, 0)] {
            let forged = [OWN].repeat(made_up).join(",");
            assert_eq!(passes_from(Some(forged)).0, passes, "{made_up}");
        }
        for names in ["é,".repeat(50_000), ["x"; 40].join(",")] {
            assert_eq!(append_name(Some(&names), OWN), None);
        }
    }
}
