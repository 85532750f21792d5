//! Any path against any patterns: the spellings that docs/policies-and-routes.md names do not change which policies a request meets. The
//! policies include those of every path that some origin may read.
//!
//! The lines of the input are the method, the path, bytes that choose another spelling, and then the patterns. A pattern for one
//! method only has the method and a space in front.

#![no_main]

use edge_limiter::config::{Config, Vars};
use edge_limiter::policy::PolicyId;
use edge_limiter::route::{PathPattern, RouteMatch, normalise};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const MAX_ROUTES: usize = 12;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let method = lines.next().unwrap_or_default();
    let path = lines.next().unwrap_or_default();
    let tricks = lines.next().unwrap_or_default();
    let routes: Vec<RouteText<'_>> = lines.take(MAX_ROUTES).map(RouteText::read).collect();

    has_normal_form(path);
    let limiter = Limiter::new(&routes);
    let class = limiter.classify(method, path);
    limiter.spelling_does_not_matter(method, path, tricks.as_bytes(), &class);
    for read in origin::readings(path) {
        let expected = limiter.first_match(method, &read);
        assert!(
            class.policies.contains(&expected),
            "some origin reads {path:?} as {read:?}, but {expected:?} is not in {class:?}"
        );
    }
});

struct RouteText<'a> {
    method: Option<&'a str>,
    path: &'a str,
}

impl<'a> RouteText<'a> {
    fn read(line: &'a str) -> Self {
        match line.split_once(' ') {
            Some((method @ ("GET" | "HEAD" | "POST" | "PURGE"), path)) => Self {
                method: Some(method),
                path,
            },
            _ => Self {
                method: None,
                path: line,
            },
        }
    }

    fn covers(&self, method: &str) -> bool {
        self.method.is_none_or(|own| {
            own.eq_ignore_ascii_case(method)
                || (own == "GET" && method.eq_ignore_ascii_case("HEAD"))
        })
    }
}

/// A configuration in which each route has its own policy.
struct Limiter<'a> {
    config: Config,
    routes: Vec<(&'a RouteText<'a>, PathPattern, PolicyId)>,
    general: PolicyId,
}

impl<'a> Limiter<'a> {
    fn new(texts: &'a [RouteText<'a>]) -> Self {
        let mut vars: Vec<(String, Value)> = (0..texts.len())
            .map(|at| (format!("RATE_LIMIT_P{at}"), json!("100,60")))
            .collect();
        let routes: Vec<Value> = texts
            .iter()
            .enumerate()
            .map(|(at, route)| {
                let methods = route.method.map(|method| vec![method]);
                let policies = [format!("p{at}")];
                json!({"path": route.path, "methods": methods, "policies": policies, "cost": at + 2})
            })
            .collect();
        vars.push(("RATE_LIMIT_ROUTES".to_owned(), Value::from(routes)));
        let compiled = Config::compile(&Vars::from_iter(vars));
        let config = compiled.config;
        let id = |name: &str| {
            let at = config
                .policies
                .iter()
                .position(|policy| policy.name == name);
            PolicyId(u16::try_from(at.unwrap()).unwrap())
        };

        let mut routes = Vec::new();
        let mut unreadable = 0;
        for (at, route) in texts.iter().enumerate() {
            let own = id(&format!("p{at}"));
            match PathPattern::parse(route.path) {
                Ok(pattern) => routes.push((route, pattern, own)),
                Err(_) => {
                    unreadable += 1;
                    assert!(
                        config.always.contains(&own),
                        "the policy of an unreadable route applies on every path"
                    );
                }
            }
        }
        assert_eq!(
            compiled.problems.len(),
            unreadable,
            "{:?}",
            compiled.problems
        );
        let general = id("general");
        Self {
            config,
            routes,
            general,
        }
    }

    fn classify(&self, method: &str, path: &str) -> RouteMatch {
        let class = self.config.routes.classify(method, path);
        assert!(!class.policies.is_empty());
        let mut costs = vec![0];
        for (at, id) in class.policies.iter().enumerate() {
            assert!(
                !class.policies[..at].contains(id),
                "a policy is listed once"
            );
            let name = &self.config.policy(*id).unwrap().name;
            costs.push(match name.strip_prefix('p') {
                Some(number) => number.parse::<u32>().unwrap() + 2,
                None => 1,
            });
        }
        assert_eq!(costs.into_iter().max(), Some(class.cost));
        class
    }

    /// The policy of the first route that a path in normal form meets.
    fn first_match(&self, method: &str, normal: &str) -> PolicyId {
        self.routes
            .iter()
            .find(|(route, pattern, _)| route.covers(method) && pattern.matches(normal))
            .map_or(self.general, |(_, _, id)| *id)
    }

    fn spelling_does_not_matter(
        &self,
        method: &str,
        path: &str,
        tricks: &[u8],
        class: &RouteMatch,
    ) {
        let before_query = path.split(['?', '#']).next().unwrap_or_default();
        let same = |other: &str| {
            let met = self.classify(method, other);
            assert_eq!(&met, class, "{other:?} for {path:?}");
        };
        same(&format!("{before_query}?q=/../%2f"));
        same(&format!("{before_query}/"));
        same(&before_query.to_ascii_uppercase());

        // A path with only one reading, and then other spellings of it.
        let segments = before_query.split(['/', '\\', '%']);
        let plain: String = segments
            .filter(|segment| !matches!(*segment, "" | "." | ".."))
            .flat_map(|segment| ["/", segment])
            .collect();
        let class = self.classify(method, &plain);
        assert_eq!(
            class.policies,
            [self.first_match(method, &normalise(&plain))]
        );
        let spelled = respell(&plain, tricks);
        let met = self.classify(method, &spelled);
        assert_eq!(met, class, "{spelled:?} for {plain:?}");
    }
}

fn has_normal_form(path: &str) {
    let normal = normalise(path);
    assert!(normal.starts_with('/') && !normal.contains("//") && !normal.contains('\\'));
    assert!(normal == "/" || !normal.ends_with('/'));
    if !path.contains('%') {
        assert_eq!(normalise(&normal), normal);
    }
}

fn respell(plain: &str, tricks: &[u8]) -> String {
    let mut spelled = String::new();
    let mut utf8 = [0; 4];
    for (letter, trick) in plain.chars().zip(tricks.iter().chain([&0]).cycle()) {
        match (letter, trick % 6) {
            ('/', 1) => spelled.push_str("//"),
            ('/', 2) => spelled.push_str("/./"),
            ('/', 3) => spelled.push_str("/%2E/"),
            ('/', 4) => spelled.push_str("/x/%2e./"),
            ('/', 5) => spelled.push_str("/%79/../"),
            (_, 1) => spelled.push(letter.to_ascii_uppercase()),
            (_, 2) => spelled.extend(letter.to_lowercase()),
            (_, 3) => {
                for byte in letter.encode_utf8(&mut utf8).bytes() {
                    spelled.push_str(&format!("%{byte:02x}"));
                }
            }
            (_, 4) => {
                for byte in letter.encode_utf8(&mut utf8).bytes() {
                    spelled.push_str(&format!("%{byte:02X}"));
                }
            }
            _ => spelled.push(letter),
        }
    }
    spelled
}

/// How several servers read a path. This is written independently of the code under test.
mod origin {
    fn decode(text: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let escape = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
            let byte = escape
                .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            decoded.push(byte.unwrap_or(text[at]));
            at += if byte.is_some() { 3 } else { 1 };
        }
        decoded
    }

    fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        path.split(|byte| *byte == b'/').skip(1)
    }

    fn joined<'a>(segments: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let segments: Vec<&[u8]> = segments.into_iter().collect();
        [b"/", segments.join(&b'/').as_slice()].concat()
    }

    fn remove(path: &[u8], dots: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut kept = Vec::new();
        for segment in segments(path) {
            match dots(segment).as_slice() {
                b"." => {}
                b".." => drop(kept.pop()),
                _ => kept.push(segment),
            }
        }
        joined(kept)
    }

    /// Resolves `.` and `..` that are not escaped.
    fn remove_dots(path: &[u8]) -> Vec<u8> {
        remove(path, <[u8]>::to_vec)
    }

    /// Resolves `.` and `..`, escaped or not.
    fn remove_escaped_dots(path: &[u8]) -> Vec<u8> {
        remove(path, |segment| {
            let text = String::from_utf8_lossy(segment).replace("%2E", "%2e");
            text.replace("%2e", ".").into_bytes()
        })
    }

    fn merge_slashes(path: &[u8]) -> Vec<u8> {
        joined(segments(path).filter(|segment| !segment.is_empty()))
    }

    fn slashed(path: &[u8]) -> Vec<u8> {
        path.iter()
            .map(|byte| if *byte == b'\\' { b'/' } else { *byte })
            .collect()
    }

    /// Decodes each segment alone, as a router does that splits the path before decoding.
    fn decode_segments(path: &[u8]) -> Vec<u8> {
        let decoded: Vec<Vec<u8>> = segments(path)
            .map(|segment| {
                let mut decoded = Vec::new();
                for byte in decode(segment) {
                    match byte {
                        b'/' => decoded.extend(b"%2f"),
                        _ => decoded.push(byte),
                    }
                }
                decoded
            })
            .collect();
        joined(decoded.iter().map(Vec::as_slice))
    }

    /// A handler's path in the form of the limiter. A backslash is no separator there.
    fn normal(path: &[u8]) -> String {
        let path = merge_slashes(path);
        let text = String::from_utf8_lossy(&path).replace('\\', "%5c");
        text.chars().flat_map(char::to_lowercase).collect()
    }

    /// The path that the handler of a request sees, in each of several servers.
    pub(super) fn readings(path: &str) -> Vec<String> {
        let sent = path.split(['?', '#']).next().unwrap_or_default().as_bytes();
        if !sent.starts_with(b"/") {
            return Vec::new();
        }
        // A URL parser by WHATWG's standard.
        let parsed = remove_escaped_dots(&slashed(sent));
        [
            decode_segments(&parsed),
            // nginx, alone and behind a URL parser.
            remove_dots(&merge_slashes(&decode(sent))),
            remove_dots(&merge_slashes(&decode(&parsed))),
            // WSGI decodes, and does not resolve dots after that.
            decode(&parsed),
            // Go's ServeMux resolves dots after decoding, and leaves backslashes.
            remove_dots(&merge_slashes(&decode(&remove_escaped_dots(sent)))),
            // File names on Windows.
            remove_dots(&merge_slashes(&slashed(&decode(&parsed)))),
        ]
        .map(|path| normal(&path))
        .to_vec()
    }
}
