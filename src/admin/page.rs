//! The page for operators. It asks for the token itself, so its files need none. The host has the files next to the
//! module: an answer names one.

use super::{AdminError, AdminRequest};
use crate::headers::Header;
use crate::response::Response;

const HEADERS: [(&str, &str); 7] = [
    // Nothing but the page's own files, no inline code, and no text that becomes markup. An image may be in the page's own
    // text: its icon is.
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    // For its reader alone, who asks each time whether it is still the same.
    ("Cache-Control", "private, no-cache"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
];

/// The answer to a request for the page, if it is one. A query says nothing.
pub(super) fn answer(request: &AdminRequest) -> Option<Response> {
    let (media_type, file) = match request.path.as_str() {
        // Platforms move one to the other before the limiter is asked, Next.js to the first.
        "" | "/" => ("text/html; charset=utf-8", "page.html"),
        "/page.js" => ("text/javascript; charset=utf-8", "page.js"),
        "/page.css" => ("text/css; charset=utf-8", "page.css"),
        _ => return None,
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Some(AdminError::Method("GET, HEAD").response());
    }
    let to_header =
        |(name, value): &(&'static str, &str)| -> Header { (name, (*value).to_owned()) };
    Some(Response {
        status: 200,
        headers: [("Content-Type", media_type)]
            .iter()
            .chain(&HEADERS)
            .map(to_header)
            .collect(),
        body: file.to_owned(),
        is_file: true,
    })
}
