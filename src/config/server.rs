//! Which Redis is used, and how it is reached: over REST, over TCP or TLS, or by the application's own client.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use super::host::{HostCapabilities, Reach};
use super::vars::{self, Vars};
use super::{Problems, Secret};

/// Where Redis is, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A server with Upstash's REST API: Upstash, or a bridge in front of any Redis.
    Rest {
        /// The REST URL.
        url: String,
        /// The REST token.
        token: Secret,
    },
    /// Servers that are reached by Redis's own protocol, over TCP or TLS.
    Tcp(Box<Tcp>),
    /// The server to which the application's own client is connected.
    Client {
        /// Whether the client is connected to a cluster.
        is_cluster: bool,
    },
}

impl Server {
    /// Whether this is a cluster, where one command or script may only touch keys of one slot.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        match self {
            Self::Rest { .. } => false,
            Self::Tcp(tcp) => matches!(tcp.topology, Topology::Cluster),
            Self::Client { is_cluster } => *is_cluster,
        }
    }

    /// The name of this kind of server in the answer of health.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rest { .. } => "upstash",
            Self::Tcp(_) | Self::Client { .. } => "redis",
        }
    }

    /// The token or password of the server. `None` if it has none, or if the application's client holds it.
    #[must_use]
    pub const fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Rest { token, .. } => Some(token),
            Self::Tcp(tcp) => tcp.password.as_ref(),
            Self::Client { .. } => None,
        }
    }
}

/// Redis servers that are reached over TCP or TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Whether this is one server, servers behind Sentinels, or a cluster.
    pub topology: Topology,
    /// At least one address: of the server, of the Sentinels, or of nodes of the cluster, which name the other nodes.
    pub nodes: Vec<Node>,
    /// The user. `None` means Redis's user `default`.
    pub username: Option<String>,
    /// The password. `None` if the server asks for none.
    pub password: Option<Secret>,
    /// The number of the database, 0 to 65535. A cluster has only database 0.
    pub database: u32,
    /// Whether connections use TLS.
    pub tls: bool,
    /// The certificates, in PEM, against which the servers' certificates are verified. `None` means the platform's.
    pub ca: Option<String>,
}

/// How Redis servers work together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// There is one server.
    Single,
    /// Sentinels know which server is the master.
    Sentinel {
        /// The name under which the Sentinels know the master.
        name: String,
        /// The user of the Sentinels themselves. `None` means the user `default`.
        username: Option<String>,
        /// The password of the Sentinels themselves. `None` if they ask for none.
        password: Option<Secret>,
    },
    /// Each node has a part of the keys.
    Cluster,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// A host name, or an IP address without brackets.
    pub host: String,
    /// The TCP port, from 1.
    pub port: u16,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The most nodes that a variable may name.
const MAX_NODES: usize = 100;

/// The server that the variables name. `None` if limits are kept in memory.
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
                problems.warn(
                    *name,
                    format!("has no effect: {switch} is not `true`. Set that to `true`, or remove this variable"),
                );
            }
        }
    }
    let has_url = vars.text(URL).is_some();
    let topology = match (is_sentinel, is_cluster) {
        (false, false) => None,
        (true, false) => Some(sentinel(vars, host, problems)),
        (false, true) => Some(cluster(vars, host, problems)),
        (true, true) => {
            let rule = "must not be `true` together with REDIS_SENTINEL: remove one of the two";
            tcp_error("REDIS_CLUSTER", rule, problems);
            Some(None)
        }
    };
    let rest = || has_rest(vars);
    match topology {
        Some(Some(tcp)) => {
            if rest() {
                let rule = "has no effect, since REDIS_SENTINEL or REDIS_CLUSTER is in use. Remove the REST variables, or that one";
                problems.warn(REST_URL[0], rule);
            }
            Some(of_tcp(tcp))
        }
        // If the topology cannot be used, isolates still share limits over REST.
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
                    problems.warn(
                        name,
                        "has no effect: REDIS_URL is not set. Set it, or remove this variable",
                    );
                }
            }
            None
        }
    }
}

fn of_tcp(tcp: Tcp) -> Server {
    Server::Tcp(Box::new(tcp))
}

/// Reports a problem for which servers over TCP are not used.
fn tcp_error(name: &str, rule: &str, problems: &mut Problems) {
    problems.error(
        name,
        format!(
            "{rule}; until then, limits are kept over REST if its variables are set, else in each isolate's memory"
        ),
    );
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
    let first_set = |names: [&str; 2]| {
        let mut texts = names.into_iter().map(|name| vars.text(name)).enumerate();
        texts.find_map(|(place, text)| text.map(|text| (place, text)))
    };
    let (url_place, url, token_place, token) = match (first_set(REST_URL), first_set(REST_TOKEN)) {
        (Some((url_place, url)), Some((token_place, token))) => {
            (url_place, url, token_place, token)
        }
        // The missing variable is named as the pair of the one that is set.
        (None, token) => {
            problems.error(
                REST_URL[token.map_or(0, |(place, _)| place)],
                "is missing, but the REST token is set; set both. Until then, limits are kept in each isolate's memory",
            );
            return None;
        }
        (Some((place, _)), None) => {
            problems.error(
                REST_TOKEN[place],
                "is missing, but the REST URL is set; set both. Until then, limits are kept in each isolate's memory",
            );
            return None;
        }
    };
    match vars::http_url(&url) {
        Some(url) if url.is_plaintext && !url.is_loopback && !url.has_credentials => problems.warn(
            REST_URL[url_place],
            "is http, not https, so that the token is sent unencrypted; write https",
        ),
        Some(url) if !url.has_credentials => {}
        _ => {
            problems.error(
                REST_URL[url_place],
                "must be a URL such as https://NAME.upstash.io, without user and password; until then, limits are kept in each \
                 isolate's memory",
            );
            return None;
        }
    }
    if !vars::fits_header(&token) {
        problems.error(
            REST_TOKEN[token_place],
            "must be text of visible ASCII characters, without spaces; until then, limits are kept in each isolate's memory",
        );
        return None;
    }
    let token = Secret(token);
    Some(Server::Rest { url, token })
}

/// Warns if `REDIS_URL` names another server than the REST URL. Platforms set both for one database, so that both for
/// the same server are no problem.
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
            "has no effect: it names another server than the REST URL, which is in use. Remove REDIS_URL, or the REST URL and token",
        );
    }
}

/// The parts of `REDIS_URL`. A part that the URL does not have is `None`.
#[derive(Default)]
struct UrlParts {
    node: Option<Node>,
    username: Option<String>,
    password: Option<String>,
    database: Option<u32>,
    /// Whether the scheme is `rediss`.
    tls: Option<bool>,
}

/// Parses a `redis://` or `rediss://` URL. `None` if it is not one.
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

/// Reads a host name or an IP address, and removes the brackets of an IPv6 address.
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

/// Reads `HOST`, `HOST:PORT` or `[IPV6]:PORT`, or a URL of one of these. Also returns whether the URL's scheme asks for
/// TLS, `None` without a scheme.
fn node(text: &str, default_port: u16) -> Option<(Node, Option<bool>)> {
    let (tls, text) = match text.split_once("://") {
        None => (None, text),
        Some(("redis", rest)) => (Some(false), rest),
        Some(("rediss", rest)) => (Some(true), rest),
        Some(_) => return None,
    };
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.rsplit_once(':') {
        // The colon is part of an address in brackets that has no port.
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

/// Reads a list of nodes, and whether any of them asks for TLS. `None` if the variable is unset; no nodes if it is not
/// valid.
fn nodes(
    vars: &Vars,
    name: &'static str,
    default_port: u16,
    problems: &mut Problems,
) -> Option<(Vec<Node>, Option<bool>)> {
    let rule = "must be a list of at most 100 servers, such as `a.example:6379,b.example:6379`";
    let list = vars.list(name, Some(','), problems)?;
    let list = list.unwrap_or_default();
    let texts = list.iter().filter(|text| !text.is_empty());
    let read: Option<Vec<_>> = texts.map(|text| node(text, default_port)).collect();
    match read {
        Some(nodes) if (1..=MAX_NODES).contains(&nodes.len()) => {
            // If one node asks for TLS, all nodes use it.
            let tls = nodes.iter().filter_map(|(_, tls)| *tls).max();
            Some((nodes.into_iter().map(|(node, _)| node).collect(), tls))
        }
        _ => {
            tcp_error(name, rule, problems);
            // An invalid list does not count as unset, so that `REDIS_URL` does not take its place.
            Some((Vec::new(), None))
        }
    }
}

/// Reads what all topologies have in common. A variable comes before the same part of `REDIS_URL`.
fn common(
    vars: &Vars,
    topology: Topology,
    nodes: Vec<Node>,
    url: UrlParts,
    host: &HostCapabilities,
    problems: &mut Problems,
) -> Option<Tcp> {
    if host.reach == Reach::Rest {
        tcp_error(
            match &topology {
                Topology::Single => URL,
                Topology::Sentinel { .. } => "REDIS_SENTINEL",
                Topology::Cluster => "REDIS_CLUSTER",
            },
            "cannot be used here, since this runtime has no TCP: remove it, and set UPSTASH_REDIS_REST_URL and \
             UPSTASH_REDIS_REST_TOKEN, of Upstash or of a bridge to your Redis",
            problems,
        );
        return None;
    }
    let database = vars.get("REDIS_DATABASE").map(|_| {
        let range = 0..=MAX_DATABASE;
        let unit = "the database's number";
        vars.number("REDIS_DATABASE", range, [0, 0], unit, problems)
    });
    let mut database = database.or(url.database).unwrap_or_default();
    if topology == Topology::Cluster && database > 0 {
        problems.error(
            "REDIS_DATABASE",
            "must be 0 or unset with REDIS_CLUSTER, in REDIS_URL as well, since a cluster has no other database; until then, 0 is in \
             force",
        );
        database = 0;
    }
    let tls = tls(vars, url.tls, problems);
    let ca = ca(vars, tls, host, problems)?;
    let username = text(vars, "REDIS_USERNAME", problems)?;
    let password = text(vars, "REDIS_PASSWORD", problems)?;
    let differs = |variable: &Option<String>, of_url: &Option<String>| {
        variable.is_some() && of_url.is_some() && variable != of_url
    };
    if differs(&username, &url.username) || differs(&password, &url.password) {
        problems.warn(
            URL,
            "has another user or password than REDIS_USERNAME and REDIS_PASSWORD, which are in use; set each in one place",
        );
    }
    let password = password.or(url.password).map(Secret);
    if !tls && password.is_some() && nodes.iter().any(is_public) {
        let name = match &topology {
            Topology::Single => URL,
            _ => "REDIS_TLS",
        };
        let rule = "TLS is off, so that the password and all keys are sent unencrypted; write rediss:// in REDIS_URL, or set REDIS_TLS \
                    to `true`";
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

/// Reads a name or a secret that is sent to Redis. `None` if it is not valid: then no other value takes its place.
fn text(vars: &Vars, name: &'static str, problems: &mut Problems) -> Option<Option<String>> {
    let text = vars.text(name);
    if text
        .as_ref()
        .is_some_and(|text| text.chars().any(char::is_control))
    {
        tcp_error(
            name,
            "must be text, in quotes, without control characters",
            problems,
        );
        return None;
    }
    Some(text)
}

/// Whether connections use TLS. They do if either the variable or the URL's scheme asks for it.
fn tls(vars: &Vars, of_url: Option<bool>, problems: &mut Problems) -> bool {
    const NAME: &str = "REDIS_TLS";
    if vars.get(NAME).is_none() {
        return of_url.unwrap_or_default();
    }
    // An invalid value is an error, and means TLS.
    let of_variable = vars.flag(NAME, true, problems);
    match (of_variable, of_url) {
        (true, Some(false)) => problems.error(
            NAME,
            "asks for TLS, but an address begins with redis://; write rediss:// there. Until then, TLS is in force",
        ),
        (false, Some(true)) => problems.error(
            NAME,
            "is `false`, but REDIS_URL begins with rediss://; write redis:// in REDIS_URL if you want no TLS. Until then, TLS is in \
             force",
        ),
        _ => {}
    }
    of_variable || of_url.unwrap_or_default()
}

/// Reads the certificates that the server's certificate is verified against. `None` if it cannot be verified as
/// configured: then the server is not used.
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
        tcp_error(
            NAME,
            "needs TLS: write rediss:// in REDIS_URL, or set REDIS_TLS to `true`",
            problems,
        );
        return None;
    }
    if host.reach != Reach::Everything {
        tcp_error(
            NAME,
            "cannot be used on Workers, which trust public certificates only: remove it, and use a server with a public certificate",
            problems,
        );
        return None;
    }
    let begins = pem.starts_with("-----BEGIN CERTIFICATE-----");
    if !begins || !pem.contains("-----END CERTIFICATE-----") {
        tcp_error(
            NAME,
            "must be certificates in PEM, and begin with -----BEGIN CERTIFICATE-----",
            problems,
        );
        return None;
    }
    Some(Some(pem))
}

/// The parts of `REDIS_URL`, without any if it is unset. `None` if it is not a valid URL of Redis.
fn url(vars: &Vars, problems: &mut Problems) -> Option<UrlParts> {
    let Some(text) = vars.text(URL) else {
        return Some(UrlParts::default());
    };
    let parts = parts_of(&text);
    if parts.is_none() {
        tcp_error(
            URL,
            "must be a URL such as redis://HOST:6379 or rediss://USER:PASSWORD@HOST:6379/0, with user and password \
             percent-encoded, and without a query",
            problems,
        );
    }
    parts
}

fn single(vars: &Vars, host: &HostCapabilities, problems: &mut Problems) -> Option<Tcp> {
    let mut parts = url(vars, problems)?;
    let nodes = vec![parts.node.take()?];
    common(vars, Topology::Single, nodes, parts, host, problems)
}

/// Whether the connection to a server probably crosses the Internet.
fn is_public(node: &Node) -> bool {
    match node.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            !address.is_private() && !address.is_loopback() && !address.is_link_local()
        }
        Ok(IpAddr::V6(address)) => !address.is_loopback() && !address.is_unique_local(),
        Err(_) => {
            let private_suffixes = [".internal", ".local", ".localhost"];
            let is_private = |suffix: &&str| node.host.ends_with(*suffix);
            node.host.contains('.') && !private_suffixes.iter().any(is_private)
        }
    }
}

/// Checks that the host can reach several servers. A host without any TCP gets its problem from [`common`].
fn reaches_many(name: &'static str, host: &HostCapabilities, problems: &mut Problems) -> bool {
    let reaches_many = host.reach != Reach::Sockets;
    if !reaches_many {
        tcp_error(
            name,
            "cannot be used on Workers, which reach one server by REDIS_URL: remove it, and set UPSTASH_REDIS_REST_URL and \
             UPSTASH_REDIS_REST_TOKEN of a bridge to your Redis",
            problems,
        );
    }
    reaches_many
}

fn sentinel(vars: &Vars, host: &HostCapabilities, problems: &mut Problems) -> Option<Tcp> {
    if !reaches_many("REDIS_SENTINEL", host, problems) {
        return None;
    }
    let mut parts = url(vars, problems)?;
    let name = text(vars, "REDIS_SENTINEL_NAME", problems)?;
    if name.is_none() {
        tcp_error(
            "REDIS_SENTINEL_NAME",
            "is missing: set it to the master's name in the Sentinels' configuration",
            problems,
        );
    }
    let nodes = nodes(vars, "REDIS_SENTINEL_NODES", SENTINEL_PORT, problems);
    if nodes.is_none() {
        tcp_error(
            "REDIS_SENTINEL_NODES",
            "is missing: set it to the Sentinels, such as `a.example:26379,b.example:26379`",
            problems,
        );
    }
    if parts.node.is_some() {
        problems.warn(
            URL,
            "names a server, which has no effect, since the Sentinels name the master",
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
        tcp_error(
            "REDIS_CLUSTER_NODES",
            "is missing: set it, or REDIS_URL, to one or more nodes of the cluster",
            problems,
        );
    }
    let (nodes, tls) = nodes.filter(|(nodes, _)| !nodes.is_empty())?;
    parts.tls = parts.tls.max(tls);
    common(vars, Topology::Cluster, nodes, parts, host, problems)
}

#[cfg(test)]
mod tests;
