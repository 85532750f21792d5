//! An answer as an HTML page for people. It runs no scripts and loads no files.

use super::Response;

const STYLE: &str = "body{font:1.1em/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em}:root{color-scheme:light dark}";

/// The `Content-Security-Policy`. It allows only [`STYLE`], by its hash.
const POLICY: &str = "default-src 'none'; style-src 'sha256-NDvtoSt7nkaQLskAPvOe/XezBtYKXb4IdQqccKTIdJ8='; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

impl Response {
    /// A page that shows `message`.
    pub(super) fn page(status: u16, message: &str) -> Self {
        let title = match status {
            414 => "Address too long",
            429 => "Too many requests",
            503 => "Try again later",
            _ => "This page cannot be reached",
        };
        let message = escaped(message);
        let body = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{message}</p></html>\n"
        );
        let mut page = Self::of_type(status, "text/html; charset=utf-8", body);
        page.headers
            .push(("Content-Security-Policy", POLICY.to_owned()));
        page
    }
}

/// Escapes text for HTML, so that it is never markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest, Sha256};

    use super::{POLICY, Response, STYLE};

    #[test]
    fn the_security_policy_allows_the_style() {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
        let page = Response::page(429, "Wait.");
        assert!(page.body.contains(&format!("<style>{STYLE}</style>")));
    }

    #[test]
    fn markup_in_a_message_is_escaped() {
        let page = Response::page(502, "<script>alert(\"a\" & 'b')</script>");
        let text = "<p>&lt;script&gt;alert(&quot;a&quot; &amp; &#39;b&#39;)&lt;/script&gt;</p>";
        assert!(page.body.contains(text), "{}", page.body);
    }
}
