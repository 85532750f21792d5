//! The page for operators. It asks its reader for the token, so its files need none. The host holds the files, and an
//! answer names one of them.

use super::{AdminError, AdminRequest};
use crate::headers::Header;
use crate::response::Response;

const HEADERS: [(&str, &str); 7] = [
    // The page loads its own files alone, runs no inline code, and turns no text into markup. Images may be `data:` URLs,
    // since the page's icon is one.
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    // Shared caches must not store the page, and a browser must revalidate it each time.
    ("Cache-Control", "private, no-cache"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
];

/// The answer to a request for a file of the page. `None` for other paths. The query is ignored.
pub(super) fn answer(request: &AdminRequest) -> Option<Response> {
    let (media_type, file) = match request.path.as_str() {
        // Platforms redirect one spelling to the other before they ask the limiter. Next.js redirects to the first.
        "" | "/" => ("text/html; charset=utf-8", "page.html"),
        "/page.js" => ("text/javascript; charset=utf-8", "page.js"),
        "/page.css" => ("text/css; charset=utf-8", "page.css"),
        _ => return None,
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Some(AdminError::MethodNotAllowed("GET, HEAD").response());
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
