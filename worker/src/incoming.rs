//! The request as it came in.

use edge_limiter::gate;
use web_sys::Headers;

/// What is read of a request once, with its URL in parts exactly as the platform gave them.
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) headers: Headers,
    url: String,
    path_from: usize,
    query_from: usize,
}

impl Incoming {
    pub(crate) fn read(request: &web_sys::Request) -> Self {
        let url = request.url();
        let host_from = url.find("://").map_or(0, |place| place + 3);
        let after_host = |text: &str| text.find(['/', '?', '#']);
        let path_from = url
            .get(host_from..)
            .and_then(after_host)
            .map_or(url.len(), |place| place + host_from);
        let query_from = url
            .get(path_from..)
            .and_then(|rest| rest.find(['?', '#']))
            .map_or(url.len(), |place| place + path_from);
        Self {
            method: request.method(),
            headers: request.headers(),
            url,
            path_from,
            query_from,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn path(&self) -> &str {
        self.url.get(self.path_from..self.query_from).unwrap_or("/")
    }

    /// Without its question mark; what follows a `#` is not sent.
    pub(crate) fn query(&self) -> &str {
        let rest = self.url.get(self.query_from..).unwrap_or_default();
        rest.strip_prefix('?').unwrap_or_default()
    }

    pub(crate) fn path_and_query(&self) -> &str {
        self.url.get(self.path_from..).unwrap_or("/")
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &str {
        self.url.split("://").next().unwrap_or_default()
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        let host_and_port = self.url.get(..self.path_from).unwrap_or_default();
        host_and_port.split("://").nth(1).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).ok().flatten()
    }

    /// Whether the request came to this machine's loopback, as under `wrangler dev`.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.host();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    }
}

impl gate::Request for Incoming {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        Incoming::path(self)
    }

    fn header(&self, name: &str) -> Option<String> {
        Incoming::header(self, name)
    }
}
