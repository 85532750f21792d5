//! Any variables: they compile to a configuration that is within every bound. Its problems show no value, and
//! it is the same whether a table came as an object or as text.
//!
//! Input that starts with `{` is the variables as JSON. Any other input is structured, and similar to real
//! variables.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use edge_limiter::config::{Compiled, Config, Node, Origin, Server, StoreConfig, Vars};
use edge_limiter::policy::PolicyId;
use edge_limiter::quota::{MAX_WINDOW, Quota};
use edge_limiter::redis::http::Http;
use edge_limiter::store::stack::StoreSettings;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use url::Url;

/// Planted in the values of all variables. No problem may show it.
const PLANTED: &str = "pLaNtEd~value";
/// Planted in secrets only. Nothing may show it.
const SECRET: &str = "sEcReT~planted";

const BUILT_IN: [&str; 8] = [
    "general",
    "auth",
    "sensitive",
    "admin",
    "mfa",
    "financial",
    "ip",
    "preflight",
];

type Variables = BTreeMap<String, Value>;

fuzz_target!(|data: &[u8]| {
    let variables = if data.first() == Some(&b'{') {
        let json = String::from_utf8_lossy(data);
        let parsed = serde_json::from_str::<Variables>(&json);
        assert_eq!(Vars::from_json(&json).is_ok(), parsed.is_ok());
        let Ok(mut variables) = parsed else { return };
        for name in ["ADMIN_TOKEN", "UPSTASH_REDIS_REST_TOKEN"] {
            variables.insert(name.to_owned(), json!(SECRET));
        }
        variables
    } else {
        let Ok(given) = Given::arbitrary_take_rest(Unstructured::new(data)) else {
            return;
        };
        given.build()
    };
    let compiled = compile(&variables);
    shows_no_value(&compiled, &variables);
    is_within_bounds(&compiled.config);
    refers_to_existing_policies(&compiled.config);
    built_in_policies_exist_unless_off(&compiled.config, &variables);
    keeps_secrets_whole(&compiled.config, &variables);
    reads_tables_as_text_alike(&compiled, variables);
});

fn compile(variables: &Variables) -> Compiled {
    Config::compile(&Vars::from_iter(variables.clone()))
}

fn shows_no_value(compiled: &Compiled, variables: &Variables) {
    for problem in &compiled.problems {
        let shown = format!("{problem} {problem:?}").to_lowercase();
        for planted in [PLANTED, SECRET] {
            assert!(!shown.contains(&planted.to_lowercase()), "{shown}");
        }
    }
    let secrets = |name: &String| name.ends_with("TOKEN") || name == "ORIGIN_SECRET";
    let elsewhere = variables.iter().any(|(name, value)| {
        !secrets(name)
            && value
                .to_string()
                .to_lowercase()
                .contains(&SECRET.to_lowercase())
    });
    assert!(elsewhere || !format!("{compiled:?}").contains(SECRET));
}

fn is_within_bounds(config: &Config) {
    let mut names = BTreeSet::new();
    for policy in config.policies.iter().chain(&config.preflight) {
        let name = &policy.name;
        assert!(names.insert(name), "{name} twice");
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!((1..=32).contains(&name.len()) && name.bytes().all(plain));
        assert!(name.starts_with(|first: char| first.is_ascii_lowercase()));
        let quota = policy.quota;
        assert!(quota.limit() >= 1 && quota.capacity() >= 1);
        assert!(quota.window().get() >= 1000 && quota.window() <= MAX_WINDOW);
        let limit = quota.limit().try_into().unwrap();
        assert!(Quota::new(quota.algorithm(), limit, quota.window()).is_ok());
        assert!(
            policy
                .block
                .is_none_or(|block| block.get() >= 1000 && block <= MAX_WINDOW)
        );
    }
    assert!((1..=128).contains(&config.ipv6_prefix.bits()));
    let header = &config.client_ip_header;
    assert!(
        (1..=64).contains(&header.len())
            && !header.contains(|letter: char| letter.is_ascii_uppercase())
    );
    assert!(
        header
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte))
    );
    if let StoreConfig::Redis {
        server,
        prefix,
        rules,
    } = &config.store
    {
        let StoreSettings {
            timeout,
            retries,
            doublings,
            max_commands,
            fallback_factor,
        } = rules;
        assert!((1..=60_000).contains(&timeout.get()));
        assert!(retries.count <= 10 && (1..=60_000).contains(&retries.delay.get()));
        assert!(*doublings <= 20);
        assert!(max_commands.is_none_or(|most| (50..=1_000_000).contains(&most.get())));
        assert!((10..=10_000).contains(fallback_factor));
        assert!(prefix.len() <= 128 && prefix.bytes().all(|byte| byte.is_ascii_graphic()));
        match server {
            Server::Rest { url, token } => assert!(
                Http::new(url, token.reveal()).is_ok(),
                "an accepted URL and token can be used"
            ),
            Server::Tcp(tcp) => {
                assert!((1..=100).contains(&tcp.nodes.len()) && tcp.database <= 65_535);
                let has_name = |node: &Node| !node.host.is_empty() && node.port > 0;
                assert!(tcp.nodes.iter().all(has_name));
            }
            Server::Client { .. } => panic!("this host has no client of the application"),
        }
    }
    if let Origin::Url(base) = &config.origin {
        leads_to_one_origin(base);
    }
}

/// A request is forwarded to `base` followed by the request's path. A fourth part of `base`, split at `/`, is its own path.
fn leads_to_one_origin(base: &str) {
    let alone = Url::parse(base).unwrap();
    assert!(matches!(alone.scheme(), "http" | "https"));
    let followed = Url::parse(&format!("{base}/probe?q")).unwrap();
    assert_eq!(followed.origin(), alone.origin());
    assert!(followed.username().is_empty() && followed.password().is_none());
    assert_eq!(followed.query(), Some("q"));
    let prefix = alone.path().trim_end_matches('/');
    assert_eq!(followed.path(), format!("{prefix}/probe"), "{base:?}");
    let has_path = base.splitn(4, '/').nth(3).is_some();
    assert_eq!(has_path, alone.path() != "/", "{base:?}");
}

fn refers_to_existing_policies(config: &Config) {
    let exists = |id: &PolicyId| config.policy(*id).is_some();
    assert!(config.always.iter().all(exists));
    for path in ["/", "/x", "/api/auth/login", "/a//../b%2fc"] {
        for method in ["GET", "POST"] {
            let class = config.routes.classify(method, path);
            assert!(class.policies.iter().all(exists));
            assert!(class.cost >= 1);
        }
    }
}

/// The built-in policies exist unless they are `off`, and every request meets `ip`. If a table cannot be
/// read, every request also meets `misconfigured`.
fn built_in_policies_exist_unless_off(config: &Config, variables: &Variables) {
    let find = |name: &str| {
        config
            .policies
            .iter()
            .position(|policy| policy.name == name)
    };
    let always = |name: &str| {
        find(name).is_some_and(|at| {
            config
                .always
                .contains(&PolicyId(u16::try_from(at).unwrap()))
        })
    };
    for name in BUILT_IN {
        let variable = format!("RATE_LIMIT_{}", name.to_ascii_uppercase());
        let value = variables.get(&variable).and_then(Value::as_str);
        let off = value.is_some_and(|text| text.trim().eq_ignore_ascii_case("off"));
        let exists = match name {
            "preflight" => config.preflight.is_some(),
            _ => find(name).is_some(),
        };
        assert_eq!(exists, !off, "{name}");
    }
    assert!(config.preflight.iter().all(|policy| policy.block.is_none()));
    assert_eq!(always("ip"), find("ip").is_some());
    let routes = table(variables, "RATE_LIMIT_ROUTES");
    let policies = table(variables, "RATE_LIMIT_POLICIES");
    let unreadable = routes.is_some_and(|value| !value.is_array())
        || policies.is_some_and(|value| !value.is_object());
    assert!(!unreadable || always("misconfigured"));
}

/// The table that a variable holds. A text that is not JSON gives `false`.
fn table(variables: &Variables, name: &str) -> Option<Value> {
    match variables.get(name)? {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(serde_json::from_str(text).unwrap_or(json!(false))),
        value => Some(value.clone()),
    }
}

fn keeps_secrets_whole(config: &Config, variables: &Variables) {
    for (name, found) in [
        ("ADMIN_TOKEN", &config.admin_token),
        ("ORIGIN_SECRET", &config.origin_secret),
    ] {
        let Some(given) = variables.get(name).and_then(Value::as_str) else {
            continue;
        };
        let given = given.trim();
        let usable = !given.is_empty() && given.bytes().all(|byte| byte.is_ascii_graphic());
        assert_eq!(found.is_some(), usable);
        if let Some(secret) = found {
            assert!(secret.matches(given) && !secret.matches(&given[1..]));
        }
    }
}

fn reads_tables_as_text_alike(compiled: &Compiled, mut variables: Variables) {
    let mut changed = false;
    for name in ["RATE_LIMIT_ROUTES", "RATE_LIMIT_POLICIES"] {
        if let Some(value @ (Value::Object(_) | Value::Array(_))) = variables.get_mut(name) {
            *value = Value::String(value.to_string());
            changed = true;
        }
    }
    if changed {
        let again = compile(&variables);
        assert_eq!(format!("{again:?}"), format!("{compiled:?}"));
    }
}

#[derive(Arbitrary, Debug)]
struct Given<'a> {
    secrets: [Option<&'a str>; 4],
    settings: Vec<(u8, Scalar<'a>)>,
    policies: Vec<(Name<'a>, Scalar<'a>)>,
    options: Option<Table<(Name<'a>, Fields<'a>), Scalar<'a>>>,
    routes: Option<Table<Fields<'a>, Scalar<'a>>>,
}

/// A variable that holds a table of `T`, or something else.
#[derive(Arbitrary, Debug)]
enum Table<T, E> {
    Of(Vec<T>),
    Text(Vec<T>),
    Other(E),
}

/// The fields of a route or a policy's options, or something else.
#[derive(Arbitrary, Debug)]
enum Fields<'a> {
    Of(Vec<(u8, Tree<'a>)>),
    Unknown(&'a str, Tree<'a>),
    Other(Tree<'a>),
}

#[derive(Arbitrary, Debug)]
enum Tree<'a> {
    Leaf(Scalar<'a>),
    List(Vec<Scalar<'a>>),
    Names(Vec<Name<'a>>),
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Known(u8),
    Written(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Scalar<'a> {
    Limits(u32, u32, Option<u32>),
    Word(u8),
    Number(i64),
    Text(&'a str),
    Planted(&'a str),
    Path(&'a str),
    Fraction(f64),
    Flag(bool),
    Null,
}

const SETTINGS: [&str; 21] = [
    "UPSTASH_REDIS_REST_URL",
    "KV_REST_API_URL",
    "REDIS_ENABLED",
    "REDIS_KEY_PREFIX",
    "REDIS_TIMEOUT",
    "REDIS_RETRY_COUNT",
    "REDIS_MAX_COMMANDS_PER_SECOND",
    "RATE_LIMIT_ENABLED",
    "RATE_LIMIT_HEADERS",
    "RATE_LIMIT_POLICIES",
    "RATE_LIMIT_ROUTES",
    "RATE_LIMIT_ALLOWLIST",
    "RATE_LIMIT_BYPASS_TOKEN",
    "RATE_LIMIT_CORS_ORIGINS",
    "RATE_LIMIT_FALLBACK_FACTOR",
    "DEFAULT_RATE_LIMIT_MAX",
    "DEFAULT_RATE_LIMIT_WINDOW",
    "CLIENT_IP_HEADER",
    "IPV6_PREFIX",
    "ORIGIN_URL",
    "OF_SOMEBODY_ELSE",
];

const NAMES: [&str; 15] = [
    "GENERAL",
    "AUTH",
    "SENSITIVE",
    "ADMIN",
    "MFA",
    "FINANCIAL",
    "IP",
    "PREFLIGHT",
    "API",
    "A_1",
    "MISCONFIGURED",
    "BLOCKED",
    "auth",
    "Ip",
    "",
];

const FIELDS: [&str; 11] = [
    "path",
    "methods",
    "policies",
    "cost",
    "algorithm",
    "burst",
    "key",
    "mode",
    "on_store_failure",
    "lease",
    "authenticated",
];

const WORDS: [&str; 32] = [
    "off",
    "true",
    "FALSE",
    "x-ratelimit",
    "ietf",
    "none",
    "sliding-window",
    "token-bucket",
    "fixed-window",
    "ip",
    "global",
    "user",
    "header:X-Api-Key",
    "enforce",
    "shadow",
    "memory",
    "allow",
    "deny",
    "GET",
    "/api/auth/**",
    "/x",
    "/a/**b",
    "5,60,900",
    "5, 60",
    "4294967295,31622400",
    "https://a.io/base/",
    "http://[::1]:8079",
    "https:a.io",
    "X-Real-IP",
    "x-forwarded-for",
    " ",
    "{}",
];

fn one_of<'a>(list: &[&'a str], at: u8) -> &'a str {
    list[usize::from(at) % list.len()]
}

impl Given<'_> {
    fn build(self) -> Variables {
        let mut variables = Variables::new();
        for (at, value) in self.settings {
            variables.insert(one_of(&SETTINGS, at).to_owned(), value.build());
        }
        for (name, value) in self.policies {
            variables.insert(format!("RATE_LIMIT_{}", name.text()), value.build());
        }
        if let Some(options) = self.options {
            let table = options.build(|list| {
                list.into_iter()
                    .map(|(name, fields)| (name.text().to_owned(), fields.build()))
                    .collect::<Map<String, Value>>()
                    .into()
            });
            variables.insert("RATE_LIMIT_POLICIES".to_owned(), table);
        }
        if let Some(routes) = self.routes {
            let table = routes.build(|list| list.into_iter().map(Fields::build).collect());
            variables.insert("RATE_LIMIT_ROUTES".to_owned(), table);
        }
        let names = [
            "ADMIN_TOKEN",
            "ORIGIN_SECRET",
            "UPSTASH_REDIS_REST_TOKEN",
            "KV_REST_API_TOKEN",
        ];
        for (name, tail) in names.into_iter().zip(self.secrets) {
            if let Some(tail) = tail {
                variables.insert(name.to_owned(), json!(format!("{SECRET}{tail}")));
            }
        }
        variables
    }
}

impl<T> Table<T, Scalar<'_>> {
    fn build(self, value: impl Fn(Vec<T>) -> Value) -> Value {
        match self {
            Self::Of(list) => value(list),
            Self::Text(list) => Value::String(value(list).to_string()),
            Self::Other(other) => other.build(),
        }
    }
}

impl Fields<'_> {
    fn build(self) -> Value {
        match self {
            Self::Of(fields) => fields
                .into_iter()
                .map(|(at, value)| (one_of(&FIELDS, at).to_owned(), value.build()))
                .collect::<Map<String, Value>>()
                .into(),
            Self::Unknown(name, value) => json!({name: value.build()}),
            Self::Other(value) => value.build(),
        }
    }
}

impl Tree<'_> {
    fn build(self) -> Value {
        match self {
            Self::Leaf(leaf) => leaf.build(),
            Self::List(list) => list.into_iter().map(Scalar::build).collect(),
            Self::Names(names) => names.iter().map(Name::text).collect(),
        }
    }
}

impl Name<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Known(at) => one_of(&NAMES, *at),
            Self::Written(name) => name,
        }
    }
}

impl Scalar<'_> {
    fn build(self) -> Value {
        match self {
            Self::Limits(requests, seconds, None) => json!(format!("{requests},{seconds}")),
            Self::Limits(requests, seconds, Some(block)) => {
                json!(format!("{requests},{seconds},{block}"))
            }
            Self::Word(at) => json!(one_of(&WORDS, at)),
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::Planted(text) => json!(format!("{PLANTED}{text}")),
            Self::Path(text) => json!(format!("/{text}")),
            Self::Fraction(number) => json!(number),
            Self::Flag(flag) => json!(flag),
            Self::Null => Value::Null,
        }
    }
}
