//! Shadow denials, as they are logged: one line for each policy every few seconds, however many requests there are. A line
//! contains no address.

use crate::time::Timestamp;

/// The most distinct callers that are counted for a policy.
const MAX_CALLERS: usize = 250;

/// Gathers an isolate's shadow denials, by policy. It needs no bound, since the configuration bounds the policies.
#[derive(Default)]
pub(super) struct ShadowDenials(Vec<PolicyShadowDenials>);

struct PolicyShadowDenials {
    policy: String,
    since: Timestamp,
    requests: u64,
    /// Hashes of callers' keys.
    callers: Vec<u64>,
}

impl ShadowDenials {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts a shadow denial. `caller` is a hash of the caller's key.
    pub(super) fn record(&mut self, policy: &str, caller: u64, now: Timestamp) {
        let known = self.0.iter().position(|known| known.policy == policy);
        let place = known.unwrap_or_else(|| {
            self.0.push(PolicyShadowDenials {
                policy: policy.to_owned(),
                since: now,
                requests: 0,
                callers: Vec::new(),
            });
            self.0.len() - 1
        });
        let denied = &mut self.0[place];
        denied.requests += 1;
        if denied.callers.len() < MAX_CALLERS && !denied.callers.contains(&caller) {
            denied.callers.push(caller);
        }
    }

    /// Removes the counts, and returns the lines to log.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<String> {
        let denied = std::mem::take(&mut self.0);
        denied.iter().map(|denied| denied.line(now)).collect()
    }
}

impl PolicyShadowDenials {
    fn line(&self, now: Timestamp) -> String {
        let policy = &self.policy;
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
    use super::ShadowDenials;
    use crate::store::conformance::START;
    use crate::time::Millis;

    #[test]
    fn a_flood_of_shadow_denials_is_one_line_for_each_policy() {
        let mut shadow = ShadowDenials::default();
        for request in 0..5000_u32 {
            for (policy, callers) in [("a", 1), ("b", 7), ("c", 3000)] {
                let caller = u64::from(request % callers);
                shadow.record(policy, caller, START + Millis::new(u64::from(request)));
            }
        }
        assert!(!shadow.is_empty());
        let lines = shadow.take(START + Millis::new(5001));
        assert_eq!(
            lines,
            [
                "shadow: policy a would have denied 5000 requests of 1 caller in 6 s",
                "shadow: policy b would have denied 5000 requests of 7 callers in 6 s",
                "shadow: policy c would have denied 5000 requests of 250 callers or more in 6 s",
            ]
        );
        assert!(shadow.is_empty());
    }
}
