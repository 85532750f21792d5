//! A request, as a host passes it to the limiter.

use std::cell::OnceCell;

use reqwest::Url;

use crate::admin::RequestBody;
use crate::events::Details;
use crate::gate;
use crate::headers::{self, MAX_HEADER_BYTES};
use crate::headers::{MAX_OVERRIDE_BYTES, MAX_OVERRIDES};
use crate::route::{PathReadings, RouteMatch, Routes};
use crate::steps;

/// Where a request came from. A field is `None` if the platform does not know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The country's two-letter code (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
}

/// A request's fields. The limiter calls a method only when it needs the field.
#[allow(async_fn_in_trait)]
pub trait Request {
    /// The method as sent.
    fn method(&self) -> &str;

    /// The whole URL, exactly as the platform gives it.
    fn url(&self) -> &str;

    /// A header's value. Several headers of one name are joined by commas. `name` is lower case. A host may cut a value
    /// to [`MAX_HEADER_BYTES`].
    fn header(&self, name: &str) -> Option<String>;

    /// The values of all [`METHOD_OVERRIDES`](headers::METHOD_OVERRIDES), joined by commas, in every
    /// [spelling](headers::is_forwarded) of their names. The limiter calls it if a route names methods.
    fn method_overrides(&self) -> Option<String> {
        headers::method_overrides(&|name| self.header(name))
    }

    /// The names of all headers, in lower case, joined by commas. `None`: the host does not know them. Then no request
    /// counts as a CORS preflight.
    fn header_names(&self) -> Option<String> {
        None
    }

    /// Where the request came from.
    fn location(&self) -> Location;

    /// Whether the request has a body that is not empty. In HTTP/2, no header has to announce a body: a host of HTTP/2
    /// overrides this method.
    fn has_body(&self) -> bool {
        let length = self.header("content-length");
        length.is_some_and(|length| length != "0") || self.header("transfer-encoding").is_some()
    }

    /// The code of Cloudflare's data centre that took the request. It comes from the platform, never from a header.
    /// `None`: the request did not come through Cloudflare.
    fn data_center(&self) -> Option<String> {
        None
    }

    /// The body, read no further than `most` bytes. The limiter calls it at most once.
    async fn body(&self, most: usize) -> RequestBody;
}

/// The characters between a URL's scheme and its host.
const SCHEME_END: &[u8] = b"://";

/// The most characters of a Cloudflare ray that are kept.
const MAX_RAY_CHARS: usize = 64;

/// A request with its URL in parts.
pub(super) struct Incoming<'a, R> {
    request: &'a R,
    /// Where the host, the path, and the query or fragment begin in the URL as received.
    host_from: usize,
    path_from: usize,
    query_from: usize,
    sent: OnceCell<ForwardedUrl>,
    readings: OnceCell<PathReadings>,
    overrides: OnceCell<Option<Vec<String>>>,
}

/// The path and the query that the origin gets. The runtime's URL parser writes them.
#[derive(Debug)]
enum ForwardedUrl {
    /// The parser leaves them as received.
    Unchanged { query_to: usize },
    /// The parser changes them: it strips or escapes control characters, resolves dots, and turns backslashes into slashes.
    Rewritten {
        /// The whole URL, if its host is valid.
        url: Option<String>,
        path_and_query: String,
        path_to: usize,
    },
}

impl<'a, R: Request> Incoming<'a, R> {
    pub(super) fn new(request: &'a R) -> Self {
        let url = request.url();
        let bytes = url.as_bytes();
        let host_from = bytes
            .windows(SCHEME_END.len())
            .position(|part| part == SCHEME_END);
        let host_from = host_from.map_or(0, |place| place + SCHEME_END.len());
        let first = |from: usize, wanted: &[u8]| {
            let mut rest = bytes.get(from..).unwrap_or_default().iter();
            let place = rest.position(|byte| wanted.contains(byte));
            place.map_or(bytes.len(), |place| place + from)
        };
        let path_from = first(host_from, b"/\\?#");
        let query_from = first(path_from, b"?#");
        steps::count(query_from);
        Self {
            request,
            host_from,
            path_from,
            query_from,
            sent: OnceCell::new(),
            readings: OnceCell::new(),
            overrides: OnceCell::new(),
        }
    }

    pub(super) fn method(&self) -> &'a str {
        self.request.method()
    }

    /// A header's value, cut to [`MAX_HEADER_BYTES`].
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let mut value = self.request.header(name)?;
        value.truncate(value.floor_char_boundary(MAX_HEADER_BYTES));
        Some(value)
    }

    pub(super) async fn body(&self, most: usize) -> RequestBody {
        self.request.body(most).await
    }

    /// The path as received, before a URL parser reads it.
    pub(super) fn raw_path(&self) -> &'a str {
        let path = self.request.url().get(self.path_from..self.query_from);
        path.unwrap_or("/")
    }

    /// The query as received, before a URL parser reads it, without its question mark.
    pub(super) fn raw_query(&self) -> &'a str {
        let rest = self.request.url().get(self.query_from..);
        let query = rest.unwrap_or_default().strip_prefix('?');
        query.unwrap_or_default()
    }

    /// The path that the origin gets. It is the path that is classified.
    pub(super) fn path(&self) -> &str {
        let (text, path_to) = match self.sent() {
            ForwardedUrl::Unchanged { .. } => return self.raw_path(),
            ForwardedUrl::Rewritten {
                path_and_query,
                path_to,
                ..
            } => (path_and_query, *path_to),
        };
        text.get(..path_to).unwrap_or("/")
    }

    /// The ways to read [`path`](Self::path).
    pub(super) fn readings(&self) -> &PathReadings {
        self.readings.get_or_init(|| PathReadings::of(self.path()))
    }

    /// The methods that an origin may run in place of the request's own. `None`: the request names more than
    /// [`MAX_OVERRIDES`], or in more than [`MAX_OVERRIDE_BYTES`].
    pub(super) fn overrides(&self) -> Option<&[String]> {
        let read = || {
            let values = self.request.method_overrides().unwrap_or_default();
            if values.len() > MAX_OVERRIDE_BYTES {
                return None;
            }
            steps::count(values.len());
            let mut methods: Vec<String> = Vec::new();
            for method in values.split(',').map(str::trim) {
                let is_known = |known: &str| known.eq_ignore_ascii_case(method);
                let is_other =
                    !is_known(self.method()) && !methods.iter().any(|known| is_known(known));
                if is_other && !method.is_empty() {
                    methods.push(method.to_owned());
                }
            }
            (methods.len() <= MAX_OVERRIDES).then_some(methods)
        };
        self.overrides.get_or_init(read).as_deref()
    }

    /// The path and the query that the origin gets.
    pub(super) fn path_and_query(&self) -> &str {
        match self.sent() {
            ForwardedUrl::Unchanged { query_to } => {
                let sent = self.request.url().get(self.path_from..*query_to);
                sent.unwrap_or("/")
            }
            ForwardedUrl::Rewritten { path_and_query, .. } => path_and_query,
        }
    }

    /// The URL to forward if the request keeps its host. `None`: the URL as received.
    pub(super) fn rewritten_url(&self) -> Option<&str> {
        match self.sent() {
            ForwardedUrl::Unchanged { .. } => None,
            ForwardedUrl::Rewritten { url, .. } => url.as_deref(),
        }
    }

    fn sent(&self) -> &ForwardedUrl {
        self.sent.get_or_init(|| {
            let url = self.request.url();
            steps::count(2 * url.len());
            let (before, rest) = url.split_at_checked(self.path_from).unwrap_or((url, ""));
            let (path, query) = (self.raw_path(), self.raw_query());
            if is_plain(before.as_bytes(), path.as_bytes(), query.as_bytes()) {
                let fragment = url.get(self.query_from..).and_then(|rest| rest.find('#'));
                let query_to = fragment.map_or(url.len(), |place| place + self.query_from);
                return ForwardedUrl::Unchanged { query_to };
            }
            let without_fragment = |text: &str| Url::parse(text.split('#').next()?).ok();
            let parsed = without_fragment(url);
            // A URL whose host is invalid is parsed with another host: the host changes no path.
            let with_valid_host = || without_fragment(&format!("http://invalid.invalid{rest}"));
            let is_valid = parsed.is_some();
            let Some(parsed) = parsed.or_else(with_valid_host) else {
                return ForwardedUrl::Rewritten {
                    url: None,
                    path_and_query: "/".to_owned(),
                    path_to: 1,
                };
            };
            let query = parsed.query().map(|query| format!("?{query}"));
            ForwardedUrl::Rewritten {
                path_and_query: parsed.path().to_owned() + &query.unwrap_or_default(),
                path_to: parsed.path().len(),
                url: is_valid.then(|| parsed.into()),
            }
        })
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'a str {
        let scheme_to = self.host_from.saturating_sub(SCHEME_END.len());
        self.request.url().get(..scheme_to).unwrap_or_default()
    }

    /// The host and the port.
    pub(super) fn host(&self) -> &'a str {
        match self.host_from {
            0 => "",
            from => self
                .request
                .url()
                .get(from..self.path_from)
                .unwrap_or_default(),
        }
    }

    /// Whether the request's host is this machine's loopback, as under `wrangler dev`.
    pub(super) fn is_local(&self) -> bool {
        let host = self.host();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    }

    /// Whether the request came through Cloudflare's network. Only there does a route have its own origin. The data
    /// centre comes from the platform, so no client of a self-hosted runtime can forge it. The ray distinguishes a
    /// deployed Worker from `wrangler dev`, which makes up a data centre.
    pub(super) fn is_at_edge(&self) -> bool {
        self.request.data_center().is_some() && self.request.header("cf-ray").is_some()
    }

    /// The details that are recorded with the first event of a record.
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

/// Whether a URL parser certainly leaves path and query unchanged. `before` is the URL up to the path.
fn is_plain(before: &[u8], path: &[u8], query: &[u8]) -> bool {
    let in_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:/[]".contains(byte);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&()*+,;=:@/%[]".contains(&byte);
    let dots = |pair: &[u8]| matches!(pair, [b'/', b'.' | b'%']);
    path.first() == Some(&b'/')
        && before.iter().all(in_host)
        && path.iter().all(|byte| plain(*byte) || *byte == b'\'')
        && query.iter().all(|byte| plain(*byte) || *byte == b'?')
        && !path.windows(2).any(dots)
}

impl<R: Request> gate::GateRequest for Incoming<'_, R> {
    fn method(&self) -> &str {
        Incoming::method(self)
    }

    fn path(&self) -> &str {
        Incoming::path(self)
    }

    fn header(&self, name: &str) -> Option<String> {
        Incoming::header(self, name)
    }

    fn has_body(&self) -> bool {
        self.request.has_body()
    }

    fn header_names(&self) -> Option<String> {
        self.request.header_names()
    }

    fn classify(&self, routes: &Routes) -> RouteMatch {
        let others = if routes.name_methods() {
            self.overrides().unwrap_or_default()
        } else {
            &[]
        };
        routes.classify_in(self.method(), others, self.path(), self.readings())
    }
}
