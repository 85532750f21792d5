//! The names of the limiter's own headers, and the rules for headers that are forwarded.

/// The longest path that is decided, in bytes, without the query. A path that servers read in several ways is matched
/// in each of them: without this limit, the longest URL would cost milliseconds of CPU.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// The most methods that a request may name in override headers. Clients send one.
pub(crate) const MAX_OVERRIDES: usize = 4;
/// The most bytes of these methods together.
pub(crate) const MAX_OVERRIDE_BYTES: usize = 256;

/// The part of a header's value that is read, in bytes from its start. It is enough for all cookies that
/// a browser sends, and twice the length of the longest token.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The request header with the caller's address, for the origin.
pub const CALLER_ADDRESS: &str = "x-edge-limiter-ip";
/// The request header with `ORIGIN_SECRET`, for the origin.
pub const ORIGIN_SECRET: &str = "x-edge-limiter-secret";
/// The request header of the loop guard, which names the limiters that a request has passed.
pub const LOOP_GUARD: &str = "x-edge-limiter-passed";
/// The request header with a client's bypass token.
pub const BYPASS: &str = "x-ratelimit-bypass";
/// The response header with the verdicts of policies in shadow mode.
pub const SHADOW: &str = "X-RateLimit-Shadow";

/// The response header that is `memory` while this isolate's memory decides in place of the shared store.
pub const STORE: &str = "X-RateLimit-Store";

/// Request headers of a client that never reach the origin. [Every other spelling](is_forwarded) that an origin may read as
/// one of these names is removed as well.
pub const NOT_FORWARDED: [&str; 16] = [
    // The limiter itself sets or removes these.
    CALLER_ADDRESS,
    ORIGIN_SECRET,
    LOOP_GUARD,
    BYPASS,
    "x-forwarded-host",
    "x-forwarded-proto",
    // Some frameworks and gateways route by these in place of the path and the method. So they would escape the
    // policies of the route.
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-forwarded-uri",
    "x-script-name",
    "x-original-method",
    "x-forwarded-method",
    // These concern the client's connection. The limiter cannot relay a 100 (RFC 9110, 10.1.1).
    "expect",
    "proxy-connection",
    "http2-settings",
];

/// Request headers whose value an origin may use as the method of the request.
pub const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-method-override",
    "x-http-method",
];

/// The request header to which the platform appends the caller's address.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Names that are forwarded in their own spelling only: `client_ip_header` and `X-Forwarded-For`. The platform writes the
/// caller's address into the first and at the end of the second. Other spellings of them come from the client.
pub fn other_spellings_not_forwarded(client_ip_header: &str) -> impl Iterator<Item = &str> {
    let own = [client_ip_header, FORWARDED_FOR].into_iter();
    own.filter(|name| is_plain(name))
}

/// Whether a client's header is forwarded to the origin. A host removes the other headers before it sets any. Origins that
/// turn headers into variables (CGI, WSGI, Rack) read `X_Forwarded_Host` as `X-Forwarded-Host`. Some read every character
/// other than a letter or digit as `-`.
#[must_use]
pub fn is_forwarded(name: &str, client_ip_header: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let read: String = name
        .chars()
        .map(|letter| if is_plain_letter(letter) { letter } else { '-' })
        .collect();
    let mut others = other_spellings_not_forwarded(client_ip_header);
    !NOT_FORWARDED.contains(&read.as_str()) && (is_plain(&name) || others.all(|own| own != read))
}

/// Whether every origin reads the name in the same way, because it has only letters, digits and `-`.
pub(crate) fn is_plain(name: &str) -> bool {
    name.chars().all(is_plain_letter)
}

const fn is_plain_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-'
}

/// The values of all [`METHOD_OVERRIDES`] of a request, joined by commas. Every spelling of a name with `_` in place of some `-`
/// is included. `header` returns the value of the header with exactly the given name. `None` if there is no such header.
pub fn method_overrides(header: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut values: Vec<String> = Vec::new();
    for name in METHOD_OVERRIDES {
        let dashes = name.matches('-').count();
        for spelling in 0_u32..1 << dashes {
            let mut rest = spelling;
            let spelled = name.chars().map(|letter| {
                if letter != '-' {
                    return letter;
                }
                let is_dash = rest & 1 == 0;
                rest >>= 1;
                if is_dash { '-' } else { '_' }
            });
            values.extend(header(&spelled.collect::<String>()));
        }
    }
    (!values.is_empty()).then(|| values.join(","))
}

/// Response headers that are removed from the origin's answer to a counted request, because a client would take the origin's
/// numbers for the limiter's. They include the fields of every IETF draft.
pub const REMOVED_FROM_RESPONSES: [&str; 11] = [
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-type",
    SHADOW,
    STORE,
    "ratelimit",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
];

/// A response header: its name and value.
pub type Header = (&'static str, String);

#[cfg(test)]
mod tests {
    use super::{METHOD_OVERRIDES, NOT_FORWARDED, is_forwarded, method_overrides};

    #[test]
    fn no_spelling_of_a_removed_name_is_forwarded() {
        for name in NOT_FORWARDED {
            let dashes = name.matches('-').count();
            for other in ["-", "_", ".", "!", "~"] {
                for places in 0..=dashes {
                    let spelled = name.replacen('-', other, places).to_ascii_uppercase();
                    assert!(!is_forwarded(&spelled, "cf-connecting-ip"), "{spelled}");
                }
            }
        }
    }

    #[test]
    fn other_headers_are_forwarded() {
        for name in [
            "X-Forwarded-For",
            "CF-Connecting-IP",
            "Forwarded",
            "X-Real-IP",
            "X-Forwarded-Port",
            "Authorization",
            "X-HTTP-Method-Override",
            "X_Custom",
            "X-Edge-Limiter-IP-2",
            "XEdge-Limiter-IP",
            "X-Original-Urls",
            "Host",
        ] {
            assert!(is_forwarded(name, "cf-connecting-ip"), "{name}");
        }
    }

    #[test]
    fn the_header_with_the_callers_address_is_forwarded_in_one_spelling_only() {
        for name in ["CF_Connecting-IP", "cf-connecting_ip", "X_Forwarded_For"] {
            assert!(!is_forwarded(name, "cf-connecting-ip"), "{name}");
        }
        assert!(is_forwarded("X_Real_IP", "cf-connecting-ip"));
        assert!(!is_forwarded("X_Real_IP", "x-real-ip"));
        // The operator has configured this very spelling.
        assert!(is_forwarded("X_Real_IP", "x_real_ip"));
    }

    #[test]
    fn every_spelling_of_a_method_override_is_read() {
        for (name, spellings) in METHOD_OVERRIDES.into_iter().zip([8, 4, 4]) {
            let asked = std::cell::RefCell::new(Vec::new());
            let header = |spelled: &str| {
                let is_one = spelled.replace('_', "-") == name;
                is_one.then(|| asked.borrow_mut().push(spelled.to_owned()))?;
                Some("PUT".to_owned())
            };
            let values = method_overrides(&header).unwrap();
            assert_eq!(values.split(',').count(), spellings, "{name}");
            let mut asked = asked.take();
            asked.dedup();
            assert_eq!(asked.len(), spellings);
        }
        assert_eq!(method_overrides(&|_| None), None);
    }
}
