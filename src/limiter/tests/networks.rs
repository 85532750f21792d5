//! `key = "network"`: one quota for a whole network.

use serde_json::{Value, json};

use super::{Isolate, TOKEN, by, get, json_of};

fn isolate(vars: &Value) -> Isolate {
    let mut all = json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "100,60",
        "RATE_LIMIT_NET": "3,60,600", "RATE_LIMIT_ESCALATION": "5,60,600",
        "RATE_LIMIT_POLICIES": {"net": {"key": "network"}},
        "RATE_LIMIT_ROUTES": [{"path": "/in", "policies": ["net"]}],
    });
    let vars = vars.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(vars);
    let isolate = Isolate::new(&all);
    assert!(
        !isolate.limiter.compiled.has_errors(),
        "{:?}",
        isolate.limiter.compiled.problems
    );
    isolate
}

/// Sends one request from each address in turn, and returns whether each is admitted.
fn admitted(isolate: &Isolate, addresses: &[&str]) -> Vec<bool> {
    let admitted = |address: &&str| isolate.answer(&by(address, "/in")).status == 200;
    addresses.iter().map(admitted).collect()
}

#[test]
fn the_addresses_of_a_network_share_its_quota() {
    let options = |option: Value| json!({"RATE_LIMIT_POLICIES": {"net": option}});
    for (vars, inside, outside) in [
        (
            json!({}),
            ["192.0.2.1", "192.0.2.99", "192.0.2.255", "192.0.2.0"],
            "192.0.3.1",
        ),
        (
            json!({}),
            [
                "2001:db8:1::1",
                "2001:db8:1:ffff::1",
                "2001:db8:1:1::",
                "2001:db8:1:2:3:4:5:6",
            ],
            "2001:db8:2::1",
        ),
        (
            options(json!({"key": "network", "ipv4_prefix": 16, "ipv6_prefix": 32})),
            ["192.0.2.1", "192.0.3.1", "192.0.255.1", "192.0.0.1"],
            "192.1.0.1",
        ),
        (
            options(json!({"key": "network", "ipv4_prefix": 16, "ipv6_prefix": "32"})),
            [
                "2001:db8:1::",
                "2001:db8:2::",
                "2001:db8:3::",
                "2001:db8:4::",
            ],
            "2001:db9::",
        ),
        // `IPV6_PREFIX` makes a caller wider than the network. Then the network is that caller.
        (
            json!({"IPV6_PREFIX": 32}),
            [
                "2001:db8:1::",
                "2001:db8:2::",
                "2001:db8:3::",
                "2001:db8:4::",
            ],
            "2001:db9::",
        ),
    ] {
        let isolate = isolate(&vars);
        assert_eq!(
            admitted(&isolate, &inside),
            [true, true, true, false],
            "{vars}"
        );
        assert!(admitted(&isolate, &[outside])[0], "{vars}");
    }
}

#[test]
fn a_block_of_a_network_denies_its_addresses_only_under_its_policy() {
    let isolate = isolate(&json!({}));
    let attacking = ["192.0.2.1"; 30];
    assert_eq!(
        admitted(&isolate, &attacking)[..4],
        [true, true, true, false]
    );
    let denied = json_of(&isolate.answer(&by("192.0.2.7", "/in")));
    assert_eq!(
        (&denied["blocked"], &denied["type"]),
        (&json!(true), &json!("net"))
    );
    isolate.run_duties();
    let blocked = isolate.admin_json("blocked");
    assert_eq!(
        blocked["blocked"],
        json!([]),
        "the escalation blocks no address of the network"
    );
    assert_eq!(blocked["policies"][0]["caller"], "network-192.0.2.0/24");
    assert_eq!(isolate.admin_json("suspicious")["callers"], json!([]));
    assert_eq!(isolate.answer(&by("192.0.2.1", "/")).status, 200);
    // Lifting the blocks of an address does not lift the block of its network.
    let delete = |path: &str| {
        let request = get(&format!("http://localhost/_limiter/{path}")).sending("DELETE", "");
        json_of(&isolate.admin_answer(&request.authorized()))
    };
    assert_eq!(delete("blocked/192.0.2.1")["policies_lifted"], 0);
    assert!(!admitted(&isolate, &["192.0.2.1"])[0]);
    assert_eq!(delete("usage/net/192.0.2.200")["reset"], true);
    assert!(admitted(&isolate, &["192.0.2.1"])[0]);
}

#[test]
fn the_control_plane_finds_a_networks_quota_by_any_of_its_addresses() {
    let isolate = isolate(&json!({}));
    admitted(&isolate, &["2001:db8:1:2::3", "2001:db8:1:3::3"]);
    for caller in [
        "2001:db8:1::",
        "2001:db8:1:ffff::/64",
        "network-2001:db8:1::/48",
    ] {
        let usage = isolate.admin_json(&format!("usage/net/{}", caller.replace('/', "%2F")));
        assert_eq!(usage["caller"], "network-2001:db8:1::/48");
        assert_eq!(usage["used"], 2, "{caller}");
    }
    // No request is charged to these keys.
    for path in [
        "usage/net/network-2001:db8:1::%2F47",
        "usage/net/network-192.0.2.0%2F25",
        "usage/general/network-192.0.2.0%2F24",
    ] {
        let request = get(&format!("http://localhost/_limiter/{path}")).authorized();
        assert_eq!(isolate.admin_answer(&request).status, 400, "{path}");
    }
    let body = r#"{"policy":"net","identifier":"2001:db8:1:4::1","cost":2}"#;
    let request = get("http://localhost/_limiter/check").sending("POST", body);
    assert_eq!(
        json_of(&isolate.admin_answer(&request.authorized()))["allowed"],
        false
    );
    let policies = isolate.admin_json("policies");
    let net = policies["policies"].as_array().unwrap();
    let net = net.iter().find(|policy| policy["name"] == "net").unwrap();
    assert_eq!(
        (&net["key"], &net["ipv4_prefix"], &net["ipv6_prefix"]),
        (&json!("network"), &json!(24), &json!(48))
    );
}

#[test]
fn callers_without_an_address_of_their_own_are_never_blocked_as_a_network() {
    let isolate = isolate(&json!({}));
    for address in ["", "2a06:98c0:3600::103"] {
        assert_eq!(
            admitted(&isolate, &[address; 5]),
            [true, true, true, false, false]
        );
        let denied = json_of(&isolate.answer(&by(address, "/in")));
        assert_eq!(denied["blocked"], false, "{address}");
    }
}
