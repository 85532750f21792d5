//! What policies in shadow mode would have denied, as it is logged: a line for each policy and some
//! seconds, however many requests there are, and without an address.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;

use crate::client::CallerKey;
use crate::seed::Seed;
use crate::time::Timestamp;

/// Callers of a policy that are told apart.
const MAX_CALLERS: usize = 1000;

/// Gathers an isolate's shadow denials. There are no more policies than are configured.
pub(super) struct ShadowDenials {
    policies: BTreeMap<String, Denied>,
    seed: Seed,
}

struct Denied {
    since: Timestamp,
    requests: u64,
    /// Hashes.
    callers: HashSet<u64, Seed>,
}

impl ShadowDenials {
    pub(super) const fn new(seed: Seed) -> Self {
        Self {
            policies: BTreeMap::new(),
            seed,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    pub(super) fn note(&mut self, policy: &str, caller: CallerKey, now: Timestamp) {
        if !self.policies.contains_key(policy) {
            let denied = Denied {
                since: now,
                requests: 0,
                callers: HashSet::with_hasher(self.seed.clone()),
            };
            self.policies.insert(policy.to_owned(), denied);
        }
        if let Some(denied) = self.policies.get_mut(policy) {
            denied.requests += 1;
            if denied.callers.len() < MAX_CALLERS {
                denied.callers.insert(self.seed.hash_one(caller));
            }
        }
    }

    /// The lines to log.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<String> {
        let policies = std::mem::take(&mut self.policies).into_iter();
        policies
            .map(|(policy, denied)| denied.line(&policy, now))
            .collect()
    }
}

impl Denied {
    fn line(&self, policy: &str, now: Timestamp) -> String {
        let seconds = now.since(self.since).secs_ceil().max(1);
        let requests = number(self.requests, "request");
        let callers = number(self.callers.len() as u64, "caller");
        let or_more = match self.callers.len() {
            MAX_CALLERS.. => " or more",
            _ => "",
        };
        format!(
            "shadow: policy {policy} would have denied {requests} of {callers}{or_more} in {seconds} s"
        )
    }
}

fn number(number: u64, of: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {of}{plural}")
}

#[cfg(test)]
mod tests {
    use super::{MAX_CALLERS, ShadowDenials};
    use crate::client::CallerKey;
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::Millis;

    #[test]
    fn a_flood_is_a_line_for_each_policy() {
        let mut shadow = ShadowDenials::new(Seed::fixed());
        for request in 0..5000_u32 {
            for (policy, callers) in [("a", 1), ("b", 7), ("c", 3000)] {
                let caller = CallerKey::id(&(request % callers).to_string());
                shadow.note(policy, caller, START + Millis::new(u64::from(request)));
            }
        }
        assert!(!shadow.is_empty());
        let lines = shadow.take(START + Millis::new(5001));
        assert_eq!(
            lines,
            [
                "shadow: policy a would have denied 5000 requests of 1 caller in 6 s",
                "shadow: policy b would have denied 5000 requests of 7 callers in 6 s",
                "shadow: policy c would have denied 5000 requests of 1000 callers or more in 6 s",
            ]
        );
        assert!(shadow.is_empty() && MAX_CALLERS == 1000);
    }
}
