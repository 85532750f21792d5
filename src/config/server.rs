//! Which Redis, and how it is reached: over REST, over TCP, or by the application's own client.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use super::host::{HostCapabilities, Reach};
use super::vars::{self, Vars};
use super::{Problems, Secret};

/// Where Redis is, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// Upstash's REST API, or a bridge that speaks it.
    Rest {
        /// The REST URL.
        url: String,
        /// The REST token.
        token: Secret,
    },
    /// Redis's own protocol, over TCP or TLS.
    Tcp(Box<Tcp>),
    /// The application's own client.
    Client {
        /// Whether it is connected to a cluster.
        is_cluster: bool,
    },
}

impl Server {
    /// Whether it is a cluster, in which one command or script touches keys of one slot.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        match self {
            Self::Rest { .. } => false,
            Self::Tcp(tcp) => matches!(tcp.topology, Topology::Cluster),
            Self::Client { is_cluster } => *is_cluster,
        }
    }

    /// Its name in health.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rest { .. } => "upstash",
            Self::Tcp(_) | Self::Client { .. } => "redis",
        }
    }

    /// The secret that opens it, if it has one.
    #[must_use]
    pub const fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Rest { token, .. } => Some(token),
            Self::Tcp(tcp) => tcp.password.as_ref(),
            Self::Client { .. } => None,
        }
    }
}

/// Servers that are spoken to over TCP or TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// How they belong together.
    pub topology: Topology,
    /// The server; the Sentinels; or nodes of the cluster, which name the others. At least one.
    pub nodes: Vec<Node>,
    /// The user, if it is not `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The number of the database, 0 to 65535. A cluster has 0 alone.
    pub database: u32,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// The certificates, in PEM, that the servers' are checked with, in place of the platform's.
    pub ca: Option<String>,
}

/// How servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// There is one.
    Single,
    /// Sentinels name the one that is the master.
    Sentinel {
        /// The master's name.
        name: String,
        /// The Sentinels' own user.
        username: Option<String>,
        /// The Sentinels' own password.
        password: Option<Secret>,
    },
    /// Each has a part of the keys.
    Cluster,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Nodes that a variable may name.
const MAX_NODES: usize = 100;

/// The server that the variables name; `None`: memory.
pub(super) fn read(
    vars: &Vars,
    host: &HostCapabilities,
    problems: &mut Problems,
) -> Option<Server> {
    let is_sentinel = vars.flag("REDIS_SENTINEL", false, problems);
    let is_cluster = vars.flag("REDIS_CLUSTER", false, problems);
    if !vars.flag("REDIS_ENABLED", true, problems) {
        return None;
    }
    if let Some(client) = host.client {
        let is_cluster = client.is_cluster;
        return Some(Server::Client { is_cluster });
    }
    for (is_on, switch, names) in [
        (is_sentinel, "REDIS_SENTINEL", &SENTINEL_NAMES[..]),
        (is_cluster, "REDIS_CLUSTER", &["REDIS_CLUSTER_NODES"][..]),
    ] {
        for name in names.iter().filter(|_| !is_on) {
            if vars.get(name).is_some() {
                problems.warn(*name, format!("has no effect: {switch} is not `true`"));
            }
        }
    }
    let has_url = vars.text(URL).is_some();
    let topology = match (is_sentinel, is_cluster) {
        (false, false) => None,
        (true, false) => Some(sentinel(vars, host, problems)),
        (false, true) => Some(cluster(vars, host, problems)),
        (true, true) => {
            let rule = "must not be `true` together with REDIS_SENTINEL; neither is in use";
            problems.error("REDIS_CLUSTER", rule);
            Some(None)
        }
    };
    let rest = || has_rest(vars);
    match topology {
        Some(Some(tcp)) => {
            if rest() {
                let rule = "has no effect: REDIS_SENTINEL or REDIS_CLUSTER is in use instead";
                problems.warn(REST_URL[0], rule);
            }
            Some(of_tcp(tcp))
        }
        // Shared limits, where they can be, rather than each isolate's own.
        _ if rest() => {
            let rest = self::rest(vars, problems);
            if has_url && topology.is_none() {
                warn_of_another_server(vars, rest.as_ref(), problems);
            }
            rest
        }
        Some(None) => None,
        None if has_url => single(vars, host, problems).map(of_tcp),
        None => {
            for name in ["REDIS_PASSWORD", "REDIS_USERNAME", "REDIS_DATABASE"] {
                if vars.get(name).is_some() {
                    problems.warn(name, "has no effect: REDIS_URL is not set");
                }
            }
            None
        }
    }
}

fn of_tcp(tcp: Tcp) -> Server {
    Server::Tcp(Box::new(tcp))
}

const URL: &str = "REDIS_URL";
const REST_URL: [&str; 2] = ["UPSTASH_REDIS_REST_URL", "KV_REST_API_URL"];
const REST_TOKEN: [&str; 2] = ["UPSTASH_REDIS_REST_TOKEN", "KV_REST_API_TOKEN"];
const SENTINEL_NAMES: [&str; 4] = [
    "REDIS_SENTINEL_NAME",
    "REDIS_SENTINEL_NODES",
    "REDIS_SENTINEL_USERNAME",
    "REDIS_SENTINEL_PASSWORD",
];

fn has_rest(vars: &Vars) -> bool {
    let mut names = REST_URL.iter().chain(&REST_TOKEN);
    names.any(|name| vars.text(name).is_some())
}

fn rest(vars: &Vars, problems: &mut Problems) -> Option<Server> {
    let mut urls = REST_URL.iter();
    let url = urls.find_map(|name| vars.text(name).map(|text| (*name, text)));
    let token = REST_TOKEN.iter().find_map(|name| vars.text(name));
    let (url_name, url, token) = match (url, token) {
        (Some((name, url)), Some(token)) => (name, url, token),
        (None, _) => {
            problems.error(
                REST_URL[0],
                "is missing beside the token; memory is in use instead",
            );
            return None;
        }
        (_, None) => {
            problems.error(
                REST_TOKEN[0],
                "is missing beside the URL; memory is in use instead",
            );
            return None;
        }
    };
    match vars::http_url(&url) {
        Some(parts) if parts.plain && !parts.loopback && !parts.has_credentials => problems.warn(
            url_name,
            "is http, not https: the token travels in the clear",
        ),
        Some(parts) if !parts.has_credentials => {}
        _ => {
            problems.error(
                url_name,
                "must be a URL such as https://NAME.upstash.io, without user and password; memory is \
                 in use instead",
            );
            return None;
        }
    }
    if !vars::fits_header(&token) {
        problems.error(
            REST_TOKEN[0],
            "must be text, in visible ASCII characters; memory is in use instead",
        );
        return None;
    }
    let token = Secret(token);
    Some(Server::Rest { url, token })
}

/// Platforms set both for one database; where they name two, the reader has to know which is in use.
fn warn_of_another_server(vars: &Vars, rest: Option<&Server>, problems: &mut Problems) {
    let host_of = |url: &str| {
        let url = reqwest::Url::parse(url).ok()?;
        url.host_str().map(str::to_ascii_lowercase)
    };
    if let (Some(Server::Rest { url, .. }), Some(other)) = (rest, vars.text(URL))
        && host_of(url) != host_of(&other)
    {
        problems.warn(
            URL,
            "has no effect: it names another server than the REST URL, which is in use",
        );
    }
}

/// What `REDIS_URL` says.
#[derive(Default)]
struct UrlParts {
    node: Option<Node>,
    username: Option<String>,
    password: Option<String>,
    database: Option<u32>,
    tls: Option<bool>,
}

fn parts_of(text: &str) -> Option<UrlParts> {
    let url = reqwest::Url::parse(text).ok()?;
    let tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return None,
    };
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok()?;
        Some(Some(text.into_owned()).filter(|text| !text.is_empty()))
    };
    let database = match url.path().trim_start_matches('/') {
        "" => None,
        number => Some(vars::whole(number).filter(|number| *number <= MAX_DATABASE)?),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    Some(UrlParts {
        node: Some(Node {
            host: host_name(url.host_str()?)?,
            port: Some(url.port().unwrap_or(REDIS_PORT)).filter(|port| *port > 0)?,
        }),
        username: decoded(url.username())?,
        password: decoded(url.password().unwrap_or_default())?,
        database,
        tls: Some(tls),
    })
}

const MAX_DATABASE: u32 = 65_535;

/// A name or an address, brackets removed.
fn host_name(text: &str) -> Option<String> {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = inside.unwrap_or(text);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let fits = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(is_name),
    };
    (fits && (1..=253).contains(&host.len())).then(|| host.to_owned())
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`, or a URL of these, and whether that asks for TLS.
fn node(text: &str, default_port: u16) -> Option<(Node, Option<bool>)> {
    let (tls, text) = match text.split_once("://") {
        None => (None, text),
        Some(("redis", rest)) => (Some(false), rest),
        Some(("rediss", rest)) => (Some(true), rest),
        Some(_) => return None,
    };
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.rsplit_once(':') {
        // Of an address in brackets, without a port.
        Some((_, end)) if end.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let port = match port {
        None => default_port,
        Some(port) => u16::try_from(vars::whole(port)?).ok()?,
    };
    let host = host_name(host)?;
    (port > 0).then_some((Node { host, port }, tls))
}

fn nodes(
    vars: &Vars,
    name: &'static str,
    default_port: u16,
    problems: &mut Problems,
) -> Option<(Vec<Node>, Option<bool>)> {
    let wrong = "must be a list of servers such as `a.example:6379,b.example:6379`, at most 100; memory is in use instead";
    let list = vars.list(name, Some(','), problems)?;
    let list = list.unwrap_or_default();
    let texts = list.iter().filter(|text| !text.is_empty());
    let read: Option<Vec<_>> = texts.map(|text| node(text, default_port)).collect();
    match read {
        Some(nodes) if (1..=MAX_NODES).contains(&nodes.len()) => {
            // One that asks for TLS asks for all.
            let tls = nodes.iter().filter_map(|(_, tls)| *tls).max();
            Some((nodes.into_iter().map(|(node, _)| node).collect(), tls))
        }
        _ => {
            problems.error(name, wrong);
            // Not as if it were unset.
            Some((Vec::new(), None))
        }
    }
}

/// What all topologies have in common: the variables, and what `REDIS_URL` says where they do not.
fn common(
    vars: &Vars,
    topology: Topology,
    nodes: Vec<Node>,
    url: UrlParts,
    host: &HostCapabilities,
    problems: &mut Problems,
) -> Option<Tcp> {
    if host.reach == Reach::Rest {
        problems.error(
            match &topology {
                Topology::Single => URL,
                Topology::Sentinel { .. } => "REDIS_SENTINEL",
                Topology::Cluster => "REDIS_CLUSTER",
            },
            "cannot be used here: this runtime has no TCP. Set UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN, of Upstash or of a \
             bridge to your Redis; memory is in use instead",
        );
        return None;
    }
    let database = vars.get("REDIS_DATABASE").map(|_| {
        let range = 0..=MAX_DATABASE;
        vars.number("REDIS_DATABASE", range, [0, 0], "databases", problems)
    });
    let mut database = database.or(url.database).unwrap_or_default();
    if topology == Topology::Cluster && database > 0 {
        problems.error(
            "REDIS_DATABASE",
            "must be 0 or unset with REDIS_CLUSTER, in REDIS_URL as well: a cluster has no other database; 0 is in use",
        );
        database = 0;
    }
    let tls = tls(vars, url.tls, problems);
    let ca = ca(vars, tls, host, problems)?;
    let username = text(vars, "REDIS_USERNAME", problems)?;
    let password = text(vars, "REDIS_PASSWORD", problems)?;
    let differs = |given: &Option<String>, by_url: &Option<String>| {
        given.is_some() && by_url.is_some() && given != by_url
    };
    if differs(&username, &url.username) || differs(&password, &url.password) {
        problems.warn(
            URL,
            "has another user or password than REDIS_USERNAME and REDIS_PASSWORD, which are in use",
        );
    }
    let password = password.or(url.password).map(Secret);
    if !tls && password.is_some() && nodes.iter().any(is_public) {
        let name = match &topology {
            Topology::Single => URL,
            _ => "REDIS_TLS",
        };
        let rule = "TLS is off: the password and all keys travel in the clear. Write rediss:// in REDIS_URL, or set REDIS_TLS to `true`";
        problems.warn(name, rule);
    }
    Some(Tcp {
        topology,
        nodes,
        username: username.or(url.username),
        password,
        database,
        tls,
        ca,
    })
}

/// A name or a secret that Redis is sent. `None`: it is none, and no other is used in its place.
fn text(vars: &Vars, name: &'static str, problems: &mut Problems) -> Option<Option<String>> {
    let text = vars.text(name);
    if text
        .as_ref()
        .is_some_and(|text| text.chars().any(char::is_control))
    {
        problems.error(
            name,
            "must be text without control characters, in quotes; memory is in use instead",
        );
        return None;
    }
    Some(text)
}

/// The stricter of what the variable and the URL's scheme say.
fn tls(vars: &Vars, by_url: Option<bool>, problems: &mut Problems) -> bool {
    const NAME: &str = "REDIS_TLS";
    if vars.get(NAME).is_none() {
        return by_url.unwrap_or_default();
    }
    // What is neither is an error, and means TLS.
    let by_variable = vars.flag(NAME, true, problems);
    match (by_variable, by_url) {
        (true, Some(false)) => problems.error(
            NAME,
            "is `true`, but REDIS_URL begins with redis://; TLS is in use. Write rediss:// in REDIS_URL",
        ),
        (false, Some(true)) => problems.error(
            NAME,
            "is `false`, but REDIS_URL begins with rediss://; TLS is in use. Write redis:// in REDIS_URL to do without",
        ),
        _ => {}
    }
    by_variable || by_url.unwrap_or_default()
}

/// `None`: the server cannot be checked as it is wanted, and is not used.
fn ca(
    vars: &Vars,
    tls: bool,
    host: &HostCapabilities,
    problems: &mut Problems,
) -> Option<Option<String>> {
    const NAME: &str = "REDIS_TLS_CA";
    let Some(pem) = vars.text(NAME) else {
        return Some(None);
    };
    if !tls {
        problems.error(
            NAME,
            "needs TLS: write rediss:// in REDIS_URL, or set REDIS_TLS to `true`; memory is in use instead",
        );
        return None;
    }
    if host.reach != Reach::Everything {
        problems.error(
            NAME,
            "cannot be used on Workers, which trust public certificates alone; memory is in use instead",
        );
        return None;
    }
    let begins = pem.starts_with("-----BEGIN CERTIFICATE-----");
    if !begins || !pem.contains("-----END CERTIFICATE-----") {
        problems.error(
            NAME,
            "must be certificates in PEM, from -----BEGIN CERTIFICATE----- on; memory is in use instead",
        );
        return None;
    }
    Some(Some(pem))
}

/// `REDIS_URL`. `None`: it is no such URL.
fn url(vars: &Vars, problems: &mut Problems) -> Option<UrlParts> {
    let Some(text) = vars.text(URL) else {
        return Some(UrlParts::default());
    };
    let parts = parts_of(&text);
    if parts.is_none() {
        problems.error(
            URL,
            "must be a URL such as redis://HOST:6379 or rediss://USER:PASSWORD@HOST:6379/0, without a query, its user and password \
             percent-encoded; memory is in use instead",
        );
    }
    parts
}

fn single(vars: &Vars, host: &HostCapabilities, problems: &mut Problems) -> Option<Tcp> {
    let mut parts = url(vars, problems)?;
    let nodes = vec![parts.node.take()?];
    common(vars, Topology::Single, nodes, parts, host, problems)
}

/// Whether a server is likely to be reached over the Internet.
fn is_public(node: &Node) -> bool {
    match node.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            !address.is_private() && !address.is_loopback() && !address.is_link_local()
        }
        Ok(IpAddr::V6(address)) => !address.is_loopback() && !address.is_unique_local(),
        Err(_) => {
            let inside = [".internal", ".local", ".localhost"];
            node.host.contains('.') && !inside.iter().any(|end| node.host.ends_with(end))
        }
    }
}

/// Whether the host reaches servers that name others.
fn reaches_many(name: &'static str, host: &HostCapabilities, problems: &mut Problems) -> bool {
    let reaches = host.reach != Reach::Sockets;
    if !reaches {
        problems.error(
            name,
            "cannot be used on Workers, which reach one server by REDIS_URL. Remove it, and set UPSTASH_REDIS_REST_URL and \
             UPSTASH_REDIS_REST_TOKEN of a bridge to your Redis; these are in use where they are set, else memory",
        );
    }
    reaches
}

fn sentinel(vars: &Vars, host: &HostCapabilities, problems: &mut Problems) -> Option<Tcp> {
    if !reaches_many("REDIS_SENTINEL", host, problems) {
        return None;
    }
    let mut parts = url(vars, problems)?;
    let name = text(vars, "REDIS_SENTINEL_NAME", problems)?;
    if name.is_none() {
        problems.error(
            "REDIS_SENTINEL_NAME",
            "is missing: set it to the master's name in the Sentinels' configuration; memory is in use instead",
        );
    }
    let nodes = nodes(vars, "REDIS_SENTINEL_NODES", SENTINEL_PORT, problems);
    if nodes.is_none() {
        problems.error(
            "REDIS_SENTINEL_NODES",
            "is missing: set it to the Sentinels, such as `a.example:26379,b.example:26379`; memory is in use instead",
        );
    }
    if parts.node.is_some() {
        problems.warn(
            URL,
            "names a server, which has no effect: the Sentinels name the master",
        );
    }
    let topology = Topology::Sentinel {
        name: name?,
        username: text(vars, "REDIS_SENTINEL_USERNAME", problems)?,
        password: text(vars, "REDIS_SENTINEL_PASSWORD", problems)?.map(Secret),
    };
    let (nodes, tls) = nodes.filter(|(nodes, _)| !nodes.is_empty())?;
    parts.tls = parts.tls.max(tls);
    common(vars, topology, nodes, parts, host, problems)
}

fn cluster(vars: &Vars, host: &HostCapabilities, problems: &mut Problems) -> Option<Tcp> {
    if !reaches_many("REDIS_CLUSTER", host, problems) {
        return None;
    }
    let mut parts = url(vars, problems)?;
    let named = nodes(vars, "REDIS_CLUSTER_NODES", REDIS_PORT, problems);
    let nodes = named.or_else(|| Some((vec![parts.node.take()?], None)));
    if nodes.is_none() {
        problems.error(
            "REDIS_CLUSTER_NODES",
            "is missing: set it, or REDIS_URL, to one or more nodes of the cluster; memory is in use instead",
        );
    }
    let (nodes, tls) = nodes.filter(|(nodes, _)| !nodes.is_empty())?;
    parts.tls = parts.tls.max(tls);
    common(vars, Topology::Cluster, nodes, parts, host, problems)
}

#[cfg(test)]
mod tests;
