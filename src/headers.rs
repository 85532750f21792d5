//! The names of the limiter's own headers, and how much of any header is read.

/// The most of a header's value that is read, in bytes. It holds any cookies that a browser sends, and
/// twice the longest token that is looked at.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The caller's address, for the origin.
pub const CALLER_ADDRESS: &str = "x-edge-limiter-ip";
/// `ORIGIN_SECRET`, for the origin.
pub const ORIGIN_SECRET: &str = "x-edge-limiter-secret";
/// The loop guard: which limiters a request has passed.
pub const LOOP_GUARD: &str = "x-edge-limiter-passed";
/// The emergency bypass, from a client.
pub const BYPASS: &str = "x-ratelimit-bypass";
/// What shadow policies would have said.
pub const SHADOW: &str = "X-RateLimit-Shadow";

/// Says `memory` while this isolate's memory decides in place of the shared store.
pub const STORE: &str = "X-RateLimit-Store";

/// What a client may not send on to the origin, under these names and [every other](is_forwarded) that an origin may read
/// as one of them.
pub const NOT_FORWARDED: [&str; 16] = [
    // The limiter sets these, or removes them.
    CALLER_ADDRESS,
    ORIGIN_SECRET,
    LOOP_GUARD,
    BYPASS,
    "x-forwarded-host",
    "x-forwarded-proto",
    // Some frameworks and gateways route by these in place of the path and the method, past the route's policies.
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-forwarded-uri",
    "x-script-name",
    "x-original-method",
    "x-forwarded-method",
    // These are about the client's connection. No 100 can be relayed (RFC 9110, 10.1.1).
    "expect",
    "proxy-connection",
    "http2-settings",
];

/// Headers by which an origin may take a request for one of another method.
pub const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-method-override",
    "x-http-method",
];

/// The platform appends the caller's address to it.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Names of which only other spellings may not be sent on: the platform's own word for the address, which is in
/// `client_ip_header` and at the end of `X-Forwarded-For`.
pub fn other_spellings_not_forwarded(client_ip_header: &str) -> impl Iterator<Item = &str> {
    let own = [client_ip_header, FORWARDED_FOR].into_iter();
    own.filter(|name| is_plain(name))
}

/// Whether a client's header goes on to the origin. A host removes the others before it sets any. Origins that keep headers
/// as variables (CGI, WSGI, Rack) read `X_Forwarded_Host` as `X-Forwarded-Host`, and some read every character but letters
/// and digits so.
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

/// Whether every origin reads the name alike: it has only letters, digits and `-`.
pub(crate) fn is_plain(name: &str) -> bool {
    name.chars().all(is_plain_letter)
}

const fn is_plain_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-'
}

/// The values of all [`METHOD_OVERRIDES`], by commas, their names with `_` for any `-`. `header` returns the value of the header
/// of exactly that name.
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

/// What an origin may not set on answers to requests that the limiter has counted, unless the limiter sets it: a client would take
/// the origin's numbers for the limiter's. Fields of every draft of the IETF's are among them.
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

/// A response header.
pub type Header = (&'static str, String);

#[cfg(test)]
mod tests {
    use super::{METHOD_OVERRIDES, NOT_FORWARDED, is_forwarded, method_overrides};

    #[test]
    fn no_spelling_of_a_name_that_is_removed_is_forwarded() {
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
    fn the_platforms_word_for_the_address_has_one_spelling() {
        for name in ["CF_Connecting-IP", "cf-connecting_ip", "X_Forwarded_For"] {
            assert!(!is_forwarded(name, "cf-connecting-ip"), "{name}");
        }
        assert!(is_forwarded("X_Real_IP", "cf-connecting-ip"));
        assert!(!is_forwarded("X_Real_IP", "x-real-ip"));
        // Where the operator has named it so.
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
