//! A request, as a host hands it over.

use std::cell::OnceCell;

use reqwest::Url;

use crate::admin::Body;
use crate::events::Details;
use crate::gate;
use crate::headers::{self, MAX_HEADER_BYTES};
use crate::route::{PathReadings, RouteMatch, Routes};
use crate::steps;

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

    /// A header's value; several of one name are joined by commas. `name` is lower case. A host may cut
    /// what is longer than [`MAX_HEADER_BYTES`].
    fn header(&self, name: &str) -> Option<String>;

    /// The values of all [`METHOD_OVERRIDES`](headers::METHOD_OVERRIDES), by commas, in every
    /// [spelling](headers::is_forwarded) of their names. Asked for where a route is for some methods alone.
    fn method_overrides(&self) -> Option<String> {
        headers::method_overrides(&|name| self.header(name))
    }

    /// The names of all headers, in lower case, by commas. `None`: the host does not know them, and takes no request for a
    /// CORS preflight.
    fn header_names(&self) -> Option<String> {
        None
    }

    /// Where it came from.
    fn location(&self) -> Location;

    /// Whether it has a body that is not empty. A host whose protocol can send one without saying so in a header (HTTP/2)
    /// has to know.
    fn has_body(&self) -> bool {
        let length = self.header("content-length");
        length.is_some_and(|length| length != "0") || self.header("transfer-encoding").is_some()
    }

    /// The code of Cloudflare's data centre that took the request, by the platform's word and not by a
    /// header's. `None` elsewhere.
    fn data_center(&self) -> Option<String> {
        None
    }

    /// The body, read no further than `most` bytes. Asked for once at most.
    async fn body(&self, most: usize) -> Body;
}

/// A request may name this many methods in place of its own, in this many bytes. Clients send one.
const MAX_OVERRIDES: usize = 4;
const MAX_OVERRIDE_BYTES: usize = 256;

/// What is between a URL's scheme and its host.
const SCHEME_END: &[u8] = b"://";

/// Bytes of a ray that are kept.
const MAX_RAY_CHARS: usize = 64;

/// A request with its URL in parts.
pub(super) struct Incoming<'a, R> {
    request: &'a R,
    /// Where the host, the path, the query and the fragment begin in the URL as it came.
    host_from: usize,
    path_from: usize,
    query_from: usize,
    sent: OnceCell<Sent>,
    readings: OnceCell<PathReadings>,
    overrides: OnceCell<Option<Vec<String>>>,
}

/// What goes to the origin: the path and the query as a URL parser, the runtime's own, writes them.
#[derive(Debug)]
enum Sent {
    /// As they came.
    Unchanged { query_to: usize },
    /// Otherwise: with control characters stripped or escaped, dots resolved, backslashes as slashes.
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

    /// A header's value, no further than [`MAX_HEADER_BYTES`].
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let mut value = self.request.header(name)?;
        value.truncate(value.floor_char_boundary(MAX_HEADER_BYTES));
        Some(value)
    }

    pub(super) async fn body(&self, most: usize) -> Body {
        self.request.body(most).await
    }

    /// The path before a URL parser has read it.
    pub(super) fn raw_path(&self) -> &'a str {
        let path = self.request.url().get(self.path_from..self.query_from);
        path.unwrap_or("/")
    }

    /// The query before a URL parser has read it, without its question mark.
    pub(super) fn raw_query(&self) -> &'a str {
        let rest = self.request.url().get(self.query_from..);
        let query = rest.unwrap_or_default().strip_prefix('?');
        query.unwrap_or_default()
    }

    /// The path that the origin gets, which is the one that is classified.
    pub(super) fn path(&self) -> &str {
        let (text, path_to) = match self.sent() {
            Sent::Unchanged { .. } => return self.raw_path(),
            Sent::Rewritten {
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

    /// The methods that an origin may run in place of the request's own. `None`: the request names more than the limiter reads.
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
            Sent::Unchanged { query_to } => {
                let sent = self.request.url().get(self.path_from..*query_to);
                sent.unwrap_or("/")
            }
            Sent::Rewritten { path_and_query, .. } => path_and_query,
        }
    }

    /// The URL to send on where the request keeps its host; `None`: the one that it came with.
    pub(super) fn rewritten_url(&self) -> Option<&str> {
        match self.sent() {
            Sent::Unchanged { .. } => None,
            Sent::Rewritten { url, .. } => url.as_deref(),
        }
    }

    fn sent(&self) -> &Sent {
        self.sent.get_or_init(|| {
            let url = self.request.url();
            steps::count(2 * url.len());
            let (before, rest) = url.split_at_checked(self.path_from).unwrap_or((url, ""));
            let (path, query) = (self.raw_path(), self.raw_query());
            if is_plain(before.as_bytes(), path.as_bytes(), query.as_bytes()) {
                let fragment = url.get(self.query_from..).and_then(|rest| rest.find('#'));
                let query_to = fragment.map_or(url.len(), |place| place + self.query_from);
                return Sent::Unchanged { query_to };
            }
            let without_fragment = |text: &str| Url::parse(text.split('#').next()?).ok();
            let parsed = without_fragment(url);
            // No host matters where an origin has its own: an invalid one changes no path.
            let nowhere = || without_fragment(&format!("http://invalid.invalid{rest}"));
            let is_valid = parsed.is_some();
            let Some(parsed) = parsed.or_else(nowhere) else {
                return Sent::Rewritten {
                    url: None,
                    path_and_query: "/".to_owned(),
                    path_to: 1,
                };
            };
            let query = parsed.query().map(|query| format!("?{query}"));
            Sent::Rewritten {
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

    /// Host and port.
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

    /// Whether the request came to this machine's loopback, as under `wrangler dev`.
    pub(super) fn is_local(&self) -> bool {
        let host = self.host();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    }

    /// Whether it came through Cloudflare's network, whose routes alone have an origin of their own. The
    /// data centre is the platform's word, which no client of a self-hosted runtime can give; the ray
    /// tells a deployed Worker from `wrangler dev`, which makes up the former.
    pub(super) fn is_at_edge(&self) -> bool {
        self.request.data_center().is_some() && self.request.header("cf-ray").is_some()
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

/// Whether a URL parser surely leaves path and query as they are. `before` is what comes before the path.
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
