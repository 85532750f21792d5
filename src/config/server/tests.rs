use serde_json::{Value, json};

use super::{Node, Server, Tcp, Topology};
use crate::config::{
    ApplicationClient, Compiled, Config, HostCapabilities, Severity, StoreConfig, Vars,
};

fn host(name: &str) -> HostCapabilities {
    HostCapabilities::from_name(name).unwrap()
}

fn compile(vars: &Value, host: &HostCapabilities) -> Compiled {
    Config::compile_on(&Vars::from_json(&vars.to_string()).unwrap(), host)
}

fn problems(compiled: &Compiled, severity: Severity) -> Vec<&str> {
    let problems = compiled.problems.iter();
    let problems = problems.filter(|problem| problem.severity == severity);
    problems.map(|problem| problem.variable.as_str()).collect()
}

/// The server on Node.js. Expects no problem.
fn server(vars: &Value) -> Server {
    let compiled = compile(vars, &host("node"));
    assert_eq!(compiled.problems, [], "{vars}");
    compiled.config.store.server().unwrap().clone()
}

fn tcp(vars: &Value) -> Tcp {
    match server(vars) {
        Server::Tcp(tcp) => *tcp,
        other => panic!("{other:?}"),
    }
}

/// Expects memory, one error of `variable`, and no secret in the problems.
fn assert_refused(vars: &Value, host_name: &str, variable: &str) {
    let compiled = compile(vars, &host(host_name));
    assert_eq!(
        compiled.config.store,
        StoreConfig::Memory,
        "{host_name} {vars}"
    );
    let errors = problems(&compiled, Severity::Error);
    assert_eq!(errors, [variable], "{host_name} {vars}");
    let text = format!("{:?}", compiled.problems);
    assert!(!text.contains("sEcReT"), "{text}");
}

fn nodes(tcp: &Tcp) -> Vec<(&str, u16)> {
    let nodes = tcp.nodes.iter();
    nodes.map(|node| (node.host.as_str(), node.port)).collect()
}

#[test]
fn redis_url_names_one_server() {
    let plain = tcp(&json!({"REDIS_URL": "redis://127.0.0.1"}));
    assert_eq!(nodes(&plain), [("127.0.0.1", 6379)]);
    assert_eq!((plain.database, plain.tls), (0, false));
    assert_eq!((plain.username, plain.password), (None, None));

    let whole = tcp(&json!({"REDIS_URL": "rediss://app:p%40ss%2Fword@Redis.example:6380/7"}));
    assert_eq!(whole.username.as_deref(), Some("app"));
    assert_eq!(whole.password.unwrap().reveal(), "p@ss/word");
    assert_eq!((whole.database, whole.tls), (7, true));
    assert_eq!(whole.nodes[0].port, 6380);

    let ipv6 = tcp(&json!({"REDIS_URL": "redis://[::1]:6390/"}));
    assert_eq!(nodes(&ipv6), [("::1", 6390)]);
    let password = tcp(&json!({"REDIS_URL": "redis://:p@localhost"}));
    assert_eq!(
        (password.username, password.password.unwrap().reveal()),
        (None, "p")
    );
}

#[test]
fn an_invalid_redis_url_is_refused() {
    for url in [
        "http://sEcReT",
        "localhost:6379",
        "redis://",
        "redis:///1",
        "redis://:sEcReT@",
        "redis://host/sEcReT",
        "redis://host/70000",
        "redis://host/-1",
        "redis://host/1/2",
        "redis://host?password=sEcReT",
        "redis://host#sEcReT",
        "redis://ho%20st",
        "redis://[::g]",
        "redis://host:99999",
        "redis://host:0",
    ] {
        assert_refused(&json!({"REDIS_URL": url}), "node", "REDIS_URL");
    }
    for value in [json!(7), json!(["redis://host"]), json!({"a": 1})] {
        assert_refused(&json!({"REDIS_URL": value}), "node", "REDIS_URL");
    }
}

#[test]
fn variables_complete_the_url_and_come_before_it() {
    let variables = tcp(&json!({
        "REDIS_URL": "redis://localhost/3", "REDIS_USERNAME": "app", "REDIS_PASSWORD": "p%40", "REDIS_DATABASE": 5,
    }));
    assert_eq!(variables.username.as_deref(), Some("app"));
    assert_eq!(variables.password.unwrap().reveal(), "p%40");
    assert_eq!(variables.database, 5);
}

#[test]
fn tls_is_in_use_if_the_variable_or_the_url_asks_for_it() {
    for (vars, tls, is_error) in [
        (
            json!({"REDIS_URL": "redis://a", "REDIS_TLS": true}),
            true,
            true,
        ),
        (
            json!({"REDIS_URL": "rediss://a", "REDIS_TLS": false}),
            true,
            true,
        ),
        (
            json!({"REDIS_URL": "rediss://a", "REDIS_TLS": "true"}),
            true,
            false,
        ),
        (
            json!({"REDIS_URL": "redis://a", "REDIS_TLS": "false"}),
            false,
            false,
        ),
        (
            json!({"REDIS_CLUSTER": true, "REDIS_CLUSTER_NODES": "a", "REDIS_TLS": true}),
            true,
            false,
        ),
        (
            json!({"REDIS_CLUSTER": true, "REDIS_CLUSTER_NODES": "a", "REDIS_TLS": "yes"}),
            true,
            true,
        ),
    ] {
        let compiled = compile(&vars, &host("node"));
        let Some(Server::Tcp(tcp)) = compiled.config.store.server() else {
            panic!("memory: {vars}");
        };
        assert_eq!(tcp.tls, tls, "{vars}");
        let errors = problems(&compiled, Severity::Error);
        assert_eq!(errors.contains(&"REDIS_TLS"), is_error, "{vars} {errors:?}");
    }
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let own = tcp(&json!({"REDIS_URL": "rediss://a", "REDIS_TLS_CA": pem}));
    assert_eq!(own.ca.as_deref(), Some(pem.trim()));
    let without_tls = json!({"REDIS_URL": "redis://a", "REDIS_TLS_CA": pem});
    assert_refused(&without_tls, "node", "REDIS_TLS_CA");
    let no_pem = json!({"REDIS_URL": "rediss://a", "REDIS_TLS_CA": "sEcReT"});
    assert_refused(&no_pem, "node", "REDIS_TLS_CA");
    let own = json!({"REDIS_URL": "rediss://a", "REDIS_TLS_CA": pem});
    assert_refused(&own, "workers", "REDIS_TLS_CA");
}

#[test]
fn the_master_is_found_through_the_sentinels() {
    let vars = json!({
        "REDIS_SENTINEL": "true", "REDIS_SENTINEL_NAME": "mymaster", "REDIS_SENTINEL_NODES": "a, b:26380,[::1]:7",
        "REDIS_PASSWORD": "p", "REDIS_SENTINEL_PASSWORD": "s", "REDIS_DATABASE": 2,
    });
    let read = tcp(&vars);
    assert_eq!(nodes(&read), [("a", 26379), ("b", 26380), ("::1", 7)]);
    assert_eq!((read.password.unwrap().reveal(), read.database), ("p", 2));
    let Topology::Sentinel { name, password, .. } = read.topology else {
        panic!("no Sentinel");
    };
    assert_eq!(
        (name.as_str(), password.unwrap().reveal()),
        ("mymaster", "s")
    );

    for name in ["REDIS_SENTINEL_NAME", "REDIS_SENTINEL_NODES"] {
        let mut without = vars.clone();
        without[name] = Value::Null;
        assert_refused(&without, "node", name);
    }
    for list in ["a:0", "a:b", "a b", ",", "a:70000", "sEcReT@a", "a/b"] {
        let mut bad = vars.clone();
        bad["REDIS_SENTINEL_NODES"] = list.into();
        assert_refused(&bad, "node", "REDIS_SENTINEL_NODES");
    }
    let both = json!({"REDIS_SENTINEL": true, "REDIS_CLUSTER": true, "REDIS_URL": "redis://a"});
    assert_refused(&both, "node", "REDIS_CLUSTER");
}

#[test]
fn a_cluster_is_found_through_any_of_its_nodes() {
    let named = tcp(
        &json!({"REDIS_CLUSTER": true, "REDIS_CLUSTER_NODES": ["a:7000", "redis://b:7001"], "REDIS_USERNAME": "u"}),
    );
    assert_eq!(nodes(&named), [("a", 7000), ("b", 7001)]);
    assert_eq!(
        (named.topology, named.username.as_deref()),
        (Topology::Cluster, Some("u"))
    );
    let endpoint = tcp(&json!({"REDIS_CLUSTER": true, "REDIS_URL": "rediss://c.example"}));
    assert_eq!(
        (nodes(&endpoint), endpoint.tls),
        (vec![("c.example", 6379)], true)
    );
    assert_refused(
        &json!({"REDIS_CLUSTER": true}),
        "node",
        "REDIS_CLUSTER_NODES",
    );

    let numbered = json!({"REDIS_CLUSTER": true, "REDIS_URL": "redis://a", "REDIS_DATABASE": 1});
    let compiled = compile(&numbered, &host("node"));
    assert_eq!(problems(&compiled, Severity::Error), ["REDIS_DATABASE"]);
    let store = &compiled.config.store;
    assert!(matches!(store.server(), Some(Server::Tcp(tcp)) if tcp.database == 0));
}

/// Braces decide which slot a key is in.
#[test]
fn a_key_prefix_with_braces_is_refused_in_a_cluster() {
    let prefix = |vars: &Value, host: &HostCapabilities| {
        let compiled = compile(vars, host);
        let errors = problems(&compiled, Severity::Error);
        let is_refused = errors == ["REDIS_KEY_PREFIX"];
        let StoreConfig::Redis { prefix, .. } = compiled.config.store else {
            panic!("memory");
        };
        (prefix, is_refused)
    };
    let mut vars = json!({"REDIS_URL": "redis://a", "REDIS_KEY_PREFIX": "{t}:"});
    let node = host("node");
    assert_eq!(prefix(&vars, &node), ("{t}:".to_owned(), false));
    vars["REDIS_CLUSTER"] = true.into();
    assert_eq!(prefix(&vars, &node), ("ratelimit:".to_owned(), true));
    let client = |is_cluster| HostCapabilities {
        client: Some(ApplicationClient {
            number: 1,
            is_cluster,
        }),
        ..HostCapabilities::default()
    };
    let own = json!({"REDIS_KEY_PREFIX": "{t}:"});
    assert_eq!(prefix(&own, &client(true)), ("ratelimit:".to_owned(), true));
    assert_eq!(prefix(&own, &client(false)), ("{t}:".to_owned(), false));
}

/// One decision can cost more in a cluster: it can take several calls, and calls to give their units back.
#[test]
fn the_smallest_cap_on_commands_is_larger_in_a_cluster() {
    let cap = |is_cluster: bool, value: u32| {
        let vars = json!({
            "REDIS_URL": "redis://a",
            "REDIS_CLUSTER": is_cluster,
            "REDIS_MAX_COMMANDS_PER_SECOND": value,
        });
        let compiled = compile(&vars, &host("node"));
        let errors = compiled.problems.iter().map(ToString::to_string);
        let StoreConfig::Redis { rules, .. } = compiled.config.store else {
            panic!("memory");
        };
        (
            rules.max_commands.unwrap().get(),
            errors.collect::<Vec<_>>(),
        )
    };
    for (is_cluster, min) in [(false, 50), (true, 150)] {
        assert_eq!(cap(is_cluster, min), (min, vec![]));
        let (in_force, errors) = cap(is_cluster, min - 1);
        assert_eq!(in_force, min);
        let [error] = &errors[..] else {
            panic!("{errors:?}");
        };
        assert!(error.contains("REDIS_MAX_COMMANDS_PER_SECOND"), "{error}");
        assert!(error.contains(&format!("from {min} ")), "{error}");
        assert_eq!(error.contains("cluster"), is_cluster, "{error}");
    }
}

#[test]
fn a_server_that_the_host_cannot_reach_is_refused() {
    let single = json!({"REDIS_URL": "redis://a"});
    let sentinel =
        json!({"REDIS_SENTINEL": true, "REDIS_SENTINEL_NAME": "m", "REDIS_SENTINEL_NODES": "a"});
    let cluster = json!({"REDIS_CLUSTER": true, "REDIS_CLUSTER_NODES": "a"});
    for (vars, variable, hosts) in [
        (&single, "REDIS_URL", &["workers", "node"][..]),
        (&sentinel, "REDIS_SENTINEL", &["node"]),
        (&cluster, "REDIS_CLUSTER", &["node"]),
    ] {
        for name in ["workers", "edge", "node"] {
            if hosts.contains(&name) {
                let compiled = compile(vars, &host(name));
                assert_eq!(compiled.problems, [], "{name} {vars}");
                assert_ne!(compiled.config.store, StoreConfig::Memory);
            } else {
                assert_refused(vars, name, variable);
            }
        }
    }
}

#[test]
fn rest_comes_before_redis_url_and_after_sentinel_and_cluster() {
    let rest =
        json!({"UPSTASH_REDIS_REST_URL": "https://x.upstash.io", "UPSTASH_REDIS_REST_TOKEN": "t"});
    let mut same = rest.clone();
    same["REDIS_URL"] = "rediss://default:p@x.upstash.io:6379".into();
    assert!(matches!(server(&same), Server::Rest { .. }));

    let mut other = rest.clone();
    other["REDIS_URL"] = "redis://localhost".into();
    let compiled = compile(&other, &host("node"));
    assert_eq!(problems(&compiled, Severity::Warning), ["REDIS_URL"]);
    assert!(matches!(
        compiled.config.store.server(),
        Some(Server::Rest { .. })
    ));

    let mut cluster = rest;
    cluster["REDIS_CLUSTER"] = true.into();
    cluster["REDIS_CLUSTER_NODES"] = "a".into();
    let compiled = compile(&cluster, &host("node"));
    assert!(compiled.config.store.server().unwrap().is_cluster());
    assert_eq!(
        problems(&compiled, Severity::Warning),
        ["UPSTASH_REDIS_REST_URL"]
    );
    cluster["REDIS_ENABLED"] = false.into();
    let compiled = compile(&cluster, &host("node"));
    assert_eq!(compiled.config.store, StoreConfig::Memory);
}

/// Isolates keep sharing limits while Sentinel or a cluster is misconfigured.
#[test]
fn rest_is_in_use_if_sentinel_or_the_cluster_cannot_be_used() {
    let rest =
        json!({"UPSTASH_REDIS_REST_URL": "https://x.upstash.io", "UPSTASH_REDIS_REST_TOKEN": "t"});
    let sentinel =
        json!({"REDIS_SENTINEL": true, "REDIS_SENTINEL_NAME": "m", "REDIS_SENTINEL_NODES": "a"});
    for (host_name, vars, variable) in [
        ("workers", sentinel, "REDIS_SENTINEL"),
        ("workers", json!({"REDIS_CLUSTER": true}), "REDIS_CLUSTER"),
        (
            "node",
            json!({"REDIS_CLUSTER": true}),
            "REDIS_CLUSTER_NODES",
        ),
        (
            "node",
            json!({"REDIS_CLUSTER": true, "REDIS_SENTINEL": true}),
            "REDIS_CLUSTER",
        ),
    ] {
        let mut both = rest.clone();
        both.as_object_mut()
            .unwrap()
            .extend(vars.as_object().unwrap().clone());
        let compiled = compile(&both, &host(host_name));
        let server = compiled.config.store.server();
        assert!(matches!(server, Some(Server::Rest { .. })), "{both}");
        assert_eq!(problems(&compiled, Severity::Error), [variable], "{both}");
    }
}

#[test]
fn one_node_that_asks_for_tls_turns_it_on_for_all() {
    for nodes in ["rediss://a.example:7000", "redis://a,rediss://b"] {
        let vars = json!({"REDIS_CLUSTER": true, "REDIS_CLUSTER_NODES": nodes});
        assert!(tcp(&vars).tls, "{nodes}");
        let vars = json!({"REDIS_SENTINEL": true, "REDIS_SENTINEL_NAME": "m", "REDIS_SENTINEL_NODES": nodes});
        assert!(tcp(&vars).tls, "{nodes}");
    }
}

/// In TOML, digits without quotes are a number, not a password.
#[test]
fn names_and_passwords_that_are_not_text_are_refused() {
    let single = json!({"REDIS_URL": "redis://a"});
    let sentinel =
        json!({"REDIS_SENTINEL": true, "REDIS_SENTINEL_NAME": "m", "REDIS_SENTINEL_NODES": "a"});
    for (vars, name) in [
        (&single, "REDIS_USERNAME"),
        (&single, "REDIS_PASSWORD"),
        (&sentinel, "REDIS_SENTINEL_NAME"),
        (&sentinel, "REDIS_SENTINEL_USERNAME"),
        (&sentinel, "REDIS_SENTINEL_PASSWORD"),
    ] {
        for value in [
            json!(12345),
            json!(true),
            json!(["sEcReT"]),
            json!("sEcReT\nb"),
        ] {
            let mut vars = vars.clone();
            vars[name] = value;
            assert_refused(&vars, "node", name);
        }
    }
}

#[test]
fn the_applications_client_comes_before_all_variables() {
    for is_cluster in [false, true] {
        let number = 3;
        let client = Some(ApplicationClient { number, is_cluster });
        for name in ["workers", "edge", "node"] {
            let host = HostCapabilities {
                client,
                ..host(name)
            };
            let compiled = compile(&json!({"REDIS_URL": "redis://a"}), &host);
            let server = compiled.config.store.server();
            assert_eq!(server, Some(&Server::Client { is_cluster }));
        }
    }
}

#[test]
fn a_variable_without_effect_is_a_warning() {
    for (vars, variable) in [
        (
            json!({"REDIS_URL": "redis://a", "REDIS_CLUSTER_NODES": "b"}),
            "REDIS_CLUSTER_NODES",
        ),
        (
            json!({"REDIS_URL": "redis://a", "REDIS_SENTINEL_NAME": "b"}),
            "REDIS_SENTINEL_NAME",
        ),
        (json!({"REDIS_PASSWORD": "sEcReT"}), "REDIS_PASSWORD"),
        (
            json!({"REDIS_SENTINEL": true, "REDIS_SENTINEL_NAME": "m", "REDIS_SENTINEL_NODES": "a", "REDIS_URL": "redis://b"}),
            "REDIS_URL",
        ),
        (
            json!({"REDIS_URL": "redis://:sEcReT@redis.example"}),
            "REDIS_URL",
        ),
    ] {
        let compiled = compile(&vars, &host("node"));
        assert_eq!(problems(&compiled, Severity::Warning), [variable], "{vars}");
        assert_eq!(problems(&compiled, Severity::Error), [""; 0], "{vars}");
        assert!(!format!("{:?}", compiled.problems).contains("sEcReT"));
    }
}

#[test]
fn a_node_is_a_host_a_host_with_a_port_or_a_url_of_these() {
    for (text, expected) in [
        ("a", Some(("a", 1))),
        ("a:2", Some(("a", 2))),
        ("::1", None),
        ("[::1]", Some(("::1", 1))),
        ("[::1]:2", Some(("::1", 2))),
        ("redis://a:2/", Some(("a", 2))),
        ("http://a:2/", None),
        ("a:", None),
        (":2", None),
        ("a:+2", None),
        ("u:p@a:2", None),
    ] {
        let expected = expected.map(|(host, port)| Node {
            host: host.to_owned(),
            port,
        });
        let read = super::node(text, 1).map(|(node, _)| node);
        assert_eq!(read, expected, "{text}");
    }
}
