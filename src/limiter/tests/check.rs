//! `POST /_limiter/check`: a check is decided like a request of the same caller.

use serde_json::{Value, json};

use super::{Isolate, TOKEN, by, get, json_of};

const SHARED: &str = "2a06:98c0:3600::103";

fn isolate(vars: &Value) -> Isolate {
    let mut all = json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "3,60,600",
        "RATE_LIMIT_ALLOWLIST": "192.0.2.99, 2001:db8:a::1, 2001:db8:b::/48",
    });
    let vars = vars.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(vars);
    Isolate::new(&all)
}

fn check(isolate: &Isolate, body: &Value) -> Value {
    let body: &'static str = Box::leak(body.to_string().into_boxed_str());
    let request = get("http://localhost/_limiter/check").sending("POST", body);
    let response = isolate.admin_answer(&request.authorized());
    assert_eq!(response.status, 200, "{response:?}");
    json_of(&response)
}

fn check_one(isolate: &Isolate, identifier: &str) -> Value {
    check(
        isolate,
        &json!({"policy": "general", "identifier": identifier}),
    )
}

#[test]
fn a_check_of_an_address_is_decided_like_its_requests() {
    let options = |option: Value| json!({"RATE_LIMIT_POLICIES": {"general": option}});
    for vars in [
        json!({}),
        json!({"RATE_LIMIT_ENABLED": false}),
        json!({"IPV6_PREFIX": 48}),
        options(json!({"key": "global"})),
        options(json!({"key": "network"})),
        options(json!({"key": "header:x-api-key"})),
        options(json!({"mode": "shadow"})),
        options(json!({"algorithm": "token-bucket", "burst": 2})),
    ] {
        for address in [
            "192.0.2.1",
            "192.0.2.1:8080",
            "[2001:db8:c::1]:443",
            "::ffff:192.0.2.2",
            "192.0.2.99",
            "2001:db8:a::1",
            "2001:db8:a::2",
            "2001:db8:b:1::7",
            SHARED,
        ] {
            let [requests, checks] = [isolate(&vars), isolate(&vars)];
            let request = by(address, "/");
            for number in 0..5 {
                let admitted = requests.answer(&request).status == 200;
                let answer = check_one(&checks, address);
                let context = format!("{vars} {address} {number} {answer}");
                assert_eq!(answer["allowed"], admitted, "{context}");
            }
            // Checks and requests charge one quota, which the control plane reads.
            let plain = check_one(&requests, address);
            assert_eq!(plain["allowed"], checks.answer(&request).status == 200);
            let [read, also] = [&requests, &checks].map(|isolate| {
                let mut usage = isolate.admin_json(&format!("usage/general/{address}"));
                // The reset is left out: with a block it depends on the moment alone.
                usage["reset"].take();
                usage
            });
            assert_eq!(read, also, "{vars} {address}");
            let blocks = [&requests, &checks].map(|isolate| {
                isolate.run_duties();
                isolate.admin_json("blocked")
            });
            assert_eq!(blocks[0], blocks[1], "{vars} {address}");
        }
    }
}

#[test]
fn a_check_of_an_exempt_caller_counts_nothing_and_says_why() {
    let listed = isolate(&json!({}));
    let disabled = isolate(&json!({"RATE_LIMIT_ENABLED": false}));
    for (isolate, identifier, reason) in [
        (&listed, "192.0.2.99", "allowlist"),
        (&listed, "2001:db8:b::/64", "allowlist"),
        (&disabled, "192.0.2.1", "disabled"),
        (&disabled, "user:alice", "disabled"),
        (&disabled, "card:4242", "disabled"),
    ] {
        for _ in 0..5 {
            let mut answer = check_one(isolate, identifier);
            assert!(answer["reset"].is_u64());
            answer.as_object_mut().unwrap().remove("reset");
            answer["results"].take();
            assert_eq!(
                answer,
                json!({
                    "allowed": true, "policy": "general", "limit": 3, "remaining": 3, "retry_after": null,
                    "blocked": false, "exempt": reason, "results": null,
                }),
                "{identifier}"
            );
        }
    }
    for usage in ["usage/general/192.0.2.1", "usage/general/id:card:4242"] {
        assert_eq!(disabled.admin_json(usage)["used"], 0);
    }
    // The list has one address of this network, which does not make the network exempt.
    let partly = check_one(&listed, "2001:db8:a::/64");
    assert_eq!(
        (&partly["remaining"], &partly["exempt"]),
        (&json!(2), &json!(null))
    );
}

#[test]
fn in_a_batch_an_exempt_caller_does_not_exempt_the_others() {
    let isolate = isolate(
        &json!({"RATE_LIMIT_CARD": "2,60", "RATE_LIMIT_ROUTES": [{"path": "/pay", "policies": ["card"]}]}),
    );
    let batch = json!({"checks": [
        {"policy": "general", "identifier": "192.0.2.99"},
        {"policy": "card", "identifier": "4242"},
    ]});
    for left in [1, 0] {
        let answer = check(&isolate, &batch);
        assert_eq!(
            (&answer["allowed"], &answer["policy"]),
            (&json!(true), &json!("card"))
        );
        assert_eq!(answer["results"][0]["exempt"], "allowlist");
        assert_eq!(answer["results"][0]["remaining"], 3);
        assert_eq!(answer["results"][1]["remaining"], left);
    }
    let denied = check(&isolate, &batch);
    assert_eq!(denied["allowed"], false);
    assert_eq!(denied["results"][0]["allowed"], true);
    assert_eq!(denied["results"][1]["allowed"], false);
}

#[test]
fn while_the_limiter_is_disabled_a_block_denies_checks_but_not_those_of_allowed_addresses() {
    let isolate = isolate(&json!({"RATE_LIMIT_ENABLED": false}));
    for target in ["192.0.2.1", "192.0.2.0%2F24"] {
        let url = format!("http://localhost/_limiter/blocked/{target}");
        let put = get(&url).sending("PUT", "{\"seconds\":60}").authorized();
        assert_eq!(isolate.answer(&put).status, 200);
        assert_eq!(isolate.answer(&by("192.0.2.1", "/")).status, 429);
        let answer = check_one(&isolate, "192.0.2.1");
        assert_eq!(
            (&answer["allowed"], &answer["blocked"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(answer["retry_after"], 60);
        assert_eq!(check_one(&isolate, "192.0.2.99")["allowed"], true);
    }
}

#[test]
fn a_policy_in_shadow_mode_denies_no_check_and_reports_what_it_would_deny() {
    let isolate = isolate(&json!({"RATE_LIMIT_POLICIES": {"general": {"mode": "shadow"}}}));
    for left in [2, 1, 0] {
        let answer = check_one(&isolate, "card:4242");
        assert_eq!(
            (&answer["remaining"], &answer["shadow"]),
            (&json!(left), &json!(null))
        );
    }
    let beyond = check_one(&isolate, "card:4242");
    assert_eq!(
        (&beyond["allowed"], &beyond["blocked"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        (&beyond["retry_after"], &beyond["shadow"]),
        (&json!(null), &json!(true))
    );
    let usage = isolate.admin_json("usage/general/id:card:4242");
    assert_eq!(usage["blocked_until"], json!(null));
}

#[test]
fn a_check_records_no_denial_if_events_are_off() {
    for (events, count) in [(true, 1), (false, 0)] {
        let isolate = isolate(&json!({"RATE_LIMIT_EVENTS": events}));
        for _ in 0..5 {
            check_one(&isolate, "192.0.2.1");
        }
        let list = isolate.admin_json("events");
        assert_eq!(list["events"].as_array().unwrap().len(), count);
    }
}
