//! A request, as a host hands it over.

use crate::admin::Body;
use crate::events::Details;
use crate::gate;

/// Where a request came from, as far as the platform knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The country, as ISO 3166-1 has it.
    pub country: Option<String>,
    /// The autonomous system's number.
    pub asn: Option<u32>,
}

/// A request's fields. A host reads what it is asked for, when it is asked.
#[allow(async_fn_in_trait)]
pub trait Request {
    /// The method as sent.
    fn method(&self) -> &str;

    /// The whole URL, exactly as the platform gives it.
    fn url(&self) -> &str;

    /// A header's value; several of one name are joined by commas. `name` is lower case.
    fn header(&self, name: &str) -> Option<String>;

    /// Where it came from.
    fn location(&self) -> Location;

    /// The body, read no further than `most` bytes. Asked for once at most.
    async fn body(&self, most: usize) -> Body;
}

/// A request with its URL in parts.
pub(super) struct Incoming<'a, R> {
    request: &'a R,
    path_from: usize,
    query_from: usize,
}

/// Bytes of a ray that are kept.
const MAX_RAY_CHARS: usize = 64;

impl<'a, R: Request> Incoming<'a, R> {
    pub(super) fn new(request: &'a R) -> Self {
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
            request,
            path_from,
            query_from,
        }
    }

    pub(super) fn method(&self) -> &'a str {
        self.request.method()
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.request.header(name)
    }

    pub(super) async fn body(&self, most: usize) -> Body {
        self.request.body(most).await
    }

    pub(super) fn url(&self) -> &'a str {
        self.request.url()
    }

    pub(super) fn path(&self) -> &'a str {
        let path = self.url().get(self.path_from..self.query_from);
        path.unwrap_or("/")
    }

    /// Without its question mark; what follows a `#` is not sent.
    pub(super) fn query(&self) -> &'a str {
        let rest = self.url().get(self.query_from..).unwrap_or_default();
        rest.strip_prefix('?').unwrap_or_default()
    }

    pub(super) fn path_and_query(&self) -> &'a str {
        self.url().get(self.path_from..).unwrap_or("/")
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'a str {
        self.url().split("://").next().unwrap_or_default()
    }

    /// Host and port.
    pub(super) fn host(&self) -> &'a str {
        let host_and_port = self.url().get(..self.path_from).unwrap_or_default();
        host_and_port.split("://").nth(1).unwrap_or_default()
    }

    /// Whether the request came to this machine's loopback, as under `wrangler dev`.
    pub(super) fn is_local(&self) -> bool {
        let host = self.host();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    }

    /// What is recorded of the first of like events.
    pub(super) fn details(&self) -> Details {
        let Location { country, asn } = self.request.location();
        let ray = self.header("cf-ray");
        Details {
            address: None,
            method: self.method().to_owned(),
            path: self.path().to_owned(),
            ray: ray.map(|ray| ray.chars().take(MAX_RAY_CHARS).collect()),
            country,
            asn,
        }
    }
}

impl<R: Request> gate::Request for Incoming<'_, R> {
    fn method(&self) -> &str {
        Incoming::method(self)
    }

    fn path(&self) -> &str {
        Incoming::path(self)
    }

    fn header(&self, name: &str) -> Option<String> {
        Incoming::header(self, name)
    }
}
