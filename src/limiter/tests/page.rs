//! The page for operators: its paths, its headers, and when it exists.

use serde_json::json;

use super::{Isolate, TOKEN, by, header, json_of};

const FILES: [(&str, &str, &str); 6] = [
    ("/_limiter", "page.html", "text/html; charset=utf-8"),
    ("/_limiter/", "page.html", "text/html; charset=utf-8"),
    ("/_limiter/?", "page.html", "text/html; charset=utf-8"),
    ("/_limiter/?x=1", "page.html", "text/html; charset=utf-8"),
    (
        "/_limiter/page.js",
        "page.js",
        "text/javascript; charset=utf-8",
    ),
    ("/_limiter/page.css", "page.css", "text/css; charset=utf-8"),
];

fn isolate() -> Isolate {
    Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "ORIGIN_URL": "https://app.example", "RATE_LIMIT_CORS_ORIGINS": "*",
        "RATE_LIMIT_ADMIN": "2,60,300",
    }))
}

#[test]
fn the_pages_files_need_no_token_and_count_no_guess() {
    let isolate = isolate();
    for (path, file, media_type) in FILES {
        let request = by("192.0.2.1", path);
        for request in [
            request.clone(),
            request.clone().authorized(),
            request.clone().with("authorization", "Bearer wrong"),
            request.with("origin", "https://evil.example"),
        ] {
            let answer = isolate.answer(&request);
            assert_eq!((answer.status, answer.is_file), (200, true), "{path}");
            assert_eq!(answer.body, file);
            let header = |name| header(&answer.headers, name);
            assert_eq!(header("Content-Type"), Some(media_type));
            assert_eq!(header("Cache-Control"), Some("private, no-cache"));
            assert_eq!(header("X-Content-Type-Options"), Some("nosniff"));
            assert_eq!(header("X-Frame-Options"), Some("DENY"));
            assert_eq!(header("Referrer-Policy"), Some("no-referrer"));
            assert_eq!(header("Access-Control-Allow-Origin"), None);
        }
    }
    let health = by("192.0.2.1", "/_limiter/health").with("authorization", "Bearer wrong");
    assert_eq!(isolate.statuses(&health, 3), [200, 200, 429]);
}

#[test]
fn the_page_may_load_its_own_files_and_run_nothing_inline() {
    let answer = isolate().answer(&by("192.0.2.1", "/_limiter/"));
    let policy = header(&answer.headers, "Content-Security-Policy").unwrap();
    let directives: Vec<&str> = policy.split(';').map(str::trim).collect();
    for needed in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ] {
        assert!(directives.contains(&needed), "{needed}");
    }
    for loose in ["unsafe", "http", "*", "nonce", "sha256", "blob:"] {
        assert!(!policy.contains(loose), "{loose}");
    }
}

/// Next.js redirects `/_limiter/` to `/_limiter` before the limiter sees the request. A redirect back would never end.
#[test]
fn the_page_is_the_same_with_and_without_its_last_slash() {
    let isolate = isolate();
    let [with, without] =
        ["/_limiter/", "/_limiter"].map(|path| isolate.answer(&by("192.0.2.1", path)));
    assert_eq!(with.status, without.status);
    assert_eq!(with.headers, without.headers);
    assert_eq!(with.body, without.body);
    // Without the last slash, a relative URL would lead out of `/_limiter`.
    let page = include_str!("../../../page/page.html");
    for file in ["page.css", "page.js"] {
        assert!(page.contains(&format!("=\"/_limiter/{file}\"")), "{file}");
    }
}

#[test]
fn the_page_accepts_only_get_and_head() {
    let isolate = isolate();
    for (path, ..) in FILES {
        let head = by("192.0.2.1", path).sending("HEAD", "");
        assert!(isolate.answer(&head).status < 400, "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "PROPFIND"] {
            let request = by("192.0.2.1", path).authorized().sending(method, "x");
            let answer = isolate.admin_answer(&request);
            let allowed = header(&answer.headers, "Allow");
            assert_eq!((answer.status, allowed), (405, Some("GET, HEAD")), "{path}");
        }
    }
}

#[test]
fn without_an_admin_token_there_is_no_page() {
    for vars in [json!({}), json!({"CHECK_TOKEN": TOKEN})] {
        let isolate = Isolate::new(&vars);
        for (path, ..) in FILES {
            let answer = isolate.admin_answer(&by("192.0.2.1", path).authorized());
            let error = &json_of(&answer)["error"];
            assert_eq!((answer.status, error), (404, &json!("not_found")), "{path}");
        }
    }
}

#[test]
fn other_spellings_of_its_paths_are_not_the_page() {
    let isolate = isolate();
    for path in [
        "//_limiter/",
        "/_LIMITER/",
        "/%5flimiter/",
        "/_limiter%2f",
        "/_limiter/%2f",
        "/_limiter//",
        "/_limiter//page.js",
        "/x/../_limiter/page.js",
    ] {
        let answer = isolate.admin_answer(&by("192.0.2.1", path).authorized());
        assert_eq!(answer.status, 404, "{path}");
    }
}
