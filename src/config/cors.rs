//! Reads `RATE_LIMIT_CORS_ORIGINS`.

use super::{Problems, Vars, vars};

const NAME: &str = "RATE_LIMIT_CORS_ORIGINS";

/// Which web origins' pages may read the limiter's own answers to traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CorsOrigins {
    /// No page.
    #[default]
    Nobody,
    /// Pages of every origin, for requests without credentials.
    Anybody,
    /// Pages of the listed origins, written as browsers send them, for requests with credentials too.
    Listed(Vec<String>),
}

pub(super) fn read(vars: &Vars, problems: &mut Problems) -> CorsOrigins {
    let entries = match vars.list(NAME, Some(','), problems) {
        None => return CorsOrigins::Nobody,
        Some(Ok(entries)) => entries.into_iter().enumerate(),
        Some(Err(())) => {
            problems.error(
                NAME,
                "must be a list of origins such as https://app.example, or `*`; until then, no page may read the limiter's \
                 answers",
            );
            return CorsOrigins::Nobody;
        }
    };
    let entries: Vec<(usize, String)> = entries.filter(|(_, entry)| !entry.is_empty()).collect();
    if matches!(&*entries, [(_, only)] if only == "*") {
        return CorsOrigins::Anybody;
    }
    let mut listed = Vec::with_capacity(entries.len());
    for (index, entry) in entries {
        if is_origin(&entry) {
            listed.push(entry);
        } else {
            problems.error(
                format!("{NAME}[{index}]"),
                "must be an origin as browsers send it, such as https://app.example or http://localhost:3000 (lower \
                 case, no path or slash, no default port, no `*`), or `*` alone; until then, the entry is ignored",
            );
        }
    }
    if listed.is_empty() {
        return CorsOrigins::Nobody;
    }
    CorsOrigins::Listed(listed)
}

/// Whether the text is an origin in the form that browsers send (HTML standard, "ASCII serialization of an origin").
/// `null` is refused, since any sandboxed page has that origin.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else {
        return false;
    };
    if text.contains('*') {
        return false;
    }
    if matches!(scheme, "http" | "https") {
        let parsed = vars::http_url(text);
        return parsed.is_some_and(|url| {
            !url.has_credentials && !url.has_query && url.text.strip_suffix('/') == Some(text)
        });
    }
    // The origin of an application or a browser extension.
    let in_scheme =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    let in_host = |byte: u8| in_scheme(byte) || b"_:".contains(&byte);
    [scheme, host].iter().all(|part| !part.is_empty())
        && scheme.bytes().all(in_scheme)
        && host.bytes().all(in_host)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{CorsOrigins, NAME};
    use crate::config::tests::{compile, good};

    fn listed(origins: &[&str]) -> CorsOrigins {
        CorsOrigins::Listed(origins.iter().map(|origin| (*origin).to_owned()).collect())
    }

    #[test]
    fn origins_may_be_text_a_list_or_json_text() {
        let two = listed(&["https://app.example", "http://localhost:3000"]);
        for (value, expected) in [
            (
                json!("https://app.example, http://localhost:3000,"),
                two.clone(),
            ),
            (
                json!(["https://app.example", " http://localhost:3000"]),
                two.clone(),
            ),
            (
                json!(r#"["https://app.example","http://localhost:3000"]"#),
                two,
            ),
            (json!("*"), CorsOrigins::Anybody),
            (json!(["*"]), CorsOrigins::Anybody),
            (json!(""), CorsOrigins::Nobody),
            (json!([]), CorsOrigins::Nobody),
            (json!(null), CorsOrigins::Nobody),
            (
                json!("https://[2001:db8::1]:8443"),
                listed(&["https://[2001:db8::1]:8443"]),
            ),
            (
                json!("https://xn--mller-kva.example"),
                listed(&["https://xn--mller-kva.example"]),
            ),
            (
                json!("capacitor://localhost"),
                listed(&["capacitor://localhost"]),
            ),
            (
                json!("chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
                listed(&["chrome-extension://abcdefghijklmnopabcdefghijklmnop"]),
            ),
        ] {
            assert_eq!(good(&json!({NAME: value})).cors, expected, "{value}");
        }
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_ignored_and_reported_by_its_index() {
        for bad in [
            "null",
            "app.example",
            "*",
            "https://*.app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?",
            "https://app.example#",
            "https://app.example:443",
            "http://app.example:80",
            "HTTPS://app.example",
            "https://App.example",
            "https://user@app.example",
            "https://müller.example",
            "https://app.example.:443",
            "https:app.example",
            "https://app example",
            "https://",
            "://app.example",
            "file://",
            "capacitor://localhost/",
            "capacitor://LOCALHOST",
            "data:text/html",
        ] {
            let compiled = compile(&json!({NAME: ["https://app.example", bad]}));
            let [problem] = &*compiled.problems else {
                panic!("{bad}: {:?}", compiled.problems)
            };
            assert_eq!(problem.variable, format!("{NAME}[1]"), "{bad}");
            assert!(compiled.has_errors());
            assert_eq!(
                compiled.config.cors,
                listed(&["https://app.example"]),
                "{bad}"
            );
        }
        for bad in [json!(7), json!(true), json!({"a": 1}), json!("[1")] {
            let compiled = compile(&json!({NAME: bad}));
            assert_eq!(compiled.problems.len(), 1, "{bad}");
            assert_eq!(compiled.problems[0].variable, NAME);
            assert_eq!(compiled.config.cors, CorsOrigins::Nobody);
        }
        let compiled = compile(&json!({NAME: [5, "sEcReT"]}));
        assert_eq!(compiled.config.cors, CorsOrigins::Nobody);
        assert!(!format!("{:?}", compiled.problems).contains("sEcReT"));
    }
}
