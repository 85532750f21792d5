//! Rewrites redirects of an origin to itself, which would lead a browser around the limiter.
//!
//! An origin behind `ORIGIN_URL` may make absolute URLs with the host name by which the limiter calls it. These are
//! rewritten to the public origin, which is that of the request, as nginx's `proxy_redirect default` does. Hosts pass
//! the headers that browsers follow: `Location` of a 201 or 3xx, and `Refresh`. No client follows `Content-Location`.

use reqwest::Url;

/// Rewrites `location` to the public origin if it leads to `base` or beneath it. `base` is `ORIGIN_URL`, and `request_url` is
/// the URL of the client's request. `None` if `location` leads elsewhere or names no host, so that it stays unchanged.
#[must_use]
pub fn to_public(base: &str, request_url: &str, location: &str) -> Option<String> {
    let location = location.trim();
    let scheme = ["https:", "http:"].into_iter().find(|scheme| {
        let start = location.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let after_scheme = location.get(scheme.map_or(0, str::len)..)?;
    // A location without two slashes is relative and names no host.
    if !(after_scheme.len() > 1
        && after_scheme
            .bytes()
            .take(2)
            .all(|byte| b"/\\".contains(&byte)))
    {
        return None;
    }
    let target = match scheme {
        Some(_) => parts(location),
        None => parts(&[base.split("//").next()?, location].concat()),
    };
    let [target_origin, target] = target?;
    let [own_origin, own_path] = parts(base)?;
    let path = target.strip_prefix(own_path.trim_end_matches('/'))?;
    let is_beneath = path.is_empty() || path.starts_with(['/', '?', '#']);
    if target_origin != own_origin || !is_beneath {
        return None;
    }
    let [public, _] = parts(request_url)?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some([&public, slash, path].concat())
}

/// The origin of an absolute `http` or `https` URL, and the rest of the URL, in normal form.
fn parts(url: &str) -> Option<[String; 2]> {
    let url = String::from(Url::parse(url).ok()?);
    let (scheme, rest) = url.split_once("://")?;
    let (authority, _) = rest.split_once('/')?;
    let path = rest.get(authority.len()..)?;
    let host = authority.rsplit('@').next()?;
    let is_http = matches!(scheme, "http" | "https");
    is_http.then(|| [[scheme, "://", host].concat(), path.to_owned()])
}

/// The same as [`to_public`], for the value of a `Refresh` header: `seconds; url=location`.
#[must_use]
pub fn refresh_to_public(base: &str, request_url: &str, refresh: &str) -> Option<String> {
    let (seconds, rest) = refresh.split_once([';', ','])?;
    let rest = rest.trim_start();
    let (word, after) = rest.split_at_checked(3).unwrap_or_default();
    let is_named = word.eq_ignore_ascii_case("url");
    let named = after.trim_start().strip_prefix('=').filter(|_| is_named);
    let location = named.unwrap_or(rest).trim().trim_matches(['"', '\'']);
    let url = to_public(base, request_url, location)?;
    Some([seconds, "; url=", &url].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::Url;

    use super::{refresh_to_public, to_public};

    const REQUEST: &str = "https://shop.example/a?b";

    fn rewritten(base: &str, location: &str) -> Option<String> {
        to_public(base, REQUEST, location)
    }

    #[test]
    fn a_redirect_to_the_origin_is_rewritten_to_the_public_origin() {
        for (base, location, path) in [
            (
                "https://app.example",
                "https://app.example/login?next=%2F#top",
                "/login?next=%2F#top",
            ),
            ("https://app.example", "HTTPS://APP.Example:443", "/"),
            ("https://app.example", "https://app.example?x", "/?x"),
            ("https://app.example", " https:\\\\app.example\\x", "/x"),
            ("https://app.example", "//app.example/x", "/x"),
            ("https://app.example", "/\\app.example/x", "/x"),
            (
                "https://app.example",
                "https://user:password@app.example/x",
                "/x",
            ),
            (
                "https://app.example",
                "https://app.example//evil.example",
                "//evil.example",
            ),
            ("http://127.0.0.1:3000", "http://127.1:3000/x", "/x"),
            ("http://[::1]:3000", "//[0:0::1]:3000/x", "/x"),
            (
                "https://app.example/base",
                "https://app.example/base/x",
                "/x",
            ),
            ("https://app.example/base", "https://app.example/base", "/"),
            (
                "https://app.example/base",
                "https://app.example/base?x",
                "/?x",
            ),
            (
                "https://app.example/base",
                "https://app.example/y/../base/x",
                "/x",
            ),
        ] {
            let expected = Some(format!("https://shop.example{path}"));
            assert_eq!(rewritten(base, location), expected, "{base} {location}");
        }
        let own_port = to_public("http://app", "http://localhost:8787/", "http://app/x");
        assert_eq!(own_port.as_deref(), Some("http://localhost:8787/x"));
    }

    #[test]
    fn a_redirect_elsewhere_is_left_unchanged() {
        for (base, location) in [
            ("https://app.example", ""),
            ("https://app.example", "/x"),
            ("https://app.example", "x?https://app.example/"),
            ("https://app.example", "?x"),
            ("https://app.example", "https:x"),
            ("https://app.example", "/"),
            ("https://app.example", "é"),
            ("https://app.example", "foo://app.example/x"),
            ("https://app.example", "https://[app.example"),
            ("https://app.example", "mailto:app.example"),
            (
                "https://app.example",
                "https://other.example/https://app.example/",
            ),
            ("https://app.example", "https://app.example.evil.example/"),
            ("https://app.example", "https://app.example@evil.example/"),
            ("https://app.example", "https://app.example:8443/"),
            // If these were rewritten, an origin that redirects to HTTPS would redirect in a circle.
            ("http://app.example", "https://app.example/"),
            ("https://app.example", "http://app.example/"),
            // No public URL leads to these paths.
            ("https://app.example/base", "https://app.example/other"),
            ("https://app.example/base", "https://app.example/based"),
            ("https://app.example/base", "https://app.example/base/../x"),
            ("https://app.example/base", "/base/x"),
        ] {
            assert_eq!(rewritten(base, location), None, "{base} {location}");
        }
        for request in ["", "shop.example", "https://a b/", "data:x", "data:x://y/"] {
            assert_eq!(
                to_public("https://app.example", request, "https://app.example/"),
                None
            );
        }
    }

    #[test]
    fn a_refresh_is_rewritten_as_a_redirect_is() {
        let rewritten = |refresh| refresh_to_public("https://app.example", REQUEST, refresh);
        for refresh in [
            "5; url=https://app.example/x",
            "5;URL = \"https://app.example/x\"",
            "5, url='https://app.example/x'",
            "5;https://app.example/x",
        ] {
            let expected = "5; url=https://shop.example/x";
            assert_eq!(rewritten(refresh).as_deref(), Some(expected), "{refresh}");
        }
        for refresh in [
            "",
            "5",
            "5;",
            "5; url=/x",
            "5; url",
            "5; é=x",
            "5; url=https://other.example/",
        ] {
            assert_eq!(rewritten(refresh), None, "{refresh}");
        }
    }

    proptest! {
        /// A rewritten redirect leads to the public origin, and its path and query are those that the origin meant.
        #[test]
        fn a_rewritten_redirect_stays_at_the_public_origin(
            location in "(https?:)?[/\\\\]{0,3}(app\\.example|evil\\.example|[a-z@:\\[\\] %é]{0,6})(:443|:80)?([/?#\\\\a-c.@%é \t]|%2[eEfF]){0,12}",
            base in prop::sample::select(&["https://app.example", "https://app.example/a", "http://app.example"]),
        ) {
            if let Some(rewritten) = to_public(base, REQUEST, &location) {
                let [rewritten, base] = [rewritten.as_str(), base].map(|url| Url::parse(url).unwrap());
                prop_assert_eq!(rewritten.origin(), Url::parse(REQUEST).unwrap().origin());
                // Browsers treat three slashes as two.
                let Ok(meant) = base.join(&location) else { return Ok(()) };
                prop_assert_eq!(meant.origin(), base.origin());
                let within = base.path().trim_end_matches('/');
                prop_assert_eq!(rewritten.query(), meant.query());
                let whole = format!("{within}{}", rewritten.path());
                prop_assert!([whole.as_str(), within].contains(&meant.path()), "{}", meant);
            }
        }
    }
}
