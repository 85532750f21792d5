//! Requests from Workers of other zones. They all come from one address, and each zone has its own quota.

use crate::headers::CALLER_ADDRESS;
use serde_json::{Value, json};

use super::{Isolate, TOKEN, TestRequest, by, get, json_of};

const SHARED: &str = "2a06:98c0:3600::103";

fn isolate(vars: &Value) -> Isolate {
    let mut all = json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "3,60,600",
        "RATE_LIMIT_ESCALATION": "5,60,600",
    });
    let vars = vars.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(vars);
    Isolate::new(&all)
}

fn of_zone(zone: &str) -> TestRequest {
    by(SHARED, "/").with("cf-worker", zone)
}

/// Sends six requests, and returns how many are admitted.
fn admitted(isolate: &Isolate, request: &TestRequest) -> usize {
    let statuses = isolate.statuses(request, 6);
    statuses.iter().filter(|status| **status == 200).count()
}

#[test]
fn each_zone_has_its_own_quota() {
    let isolate = isolate(&json!({}));
    assert_eq!(admitted(&isolate, &of_zone("evil.example")), 3);
    for same in ["Evil.EXAMPLE", "evil.example"] {
        assert_eq!(admitted(&isolate, &of_zone(same)), 0, "{same}");
    }
    for other in ["good.example", "xn--bcher-kva.example", "a.workers.dev"] {
        assert_eq!(admitted(&isolate, &of_zone(other)), 3, "{other}");
    }
    // Requests that name no zone share the address's quota.
    assert_eq!(admitted(&isolate, &by(SHARED, "/")), 3);
}

#[test]
fn a_request_with_an_invalid_zone_is_charged_to_the_addresss_quota() {
    let isolate = isolate(&json!({}));
    let long = format!("{}.example", "a".repeat(300));
    let label = format!("{}.example", "a".repeat(64));
    assert_eq!(admitted(&isolate, &by(SHARED, "/")), 3);
    for zone in [
        "",
        " ",
        "evil.example, good.example",
        "evil.example,",
        "evil example",
        "evil.example:80",
        "http://evil.example",
        "evil..example",
        ".example",
        "-a.example",
        "b\u{fc}cher.example",
        "evil.example\n",
        "192.0.2.1",
        "2001:db8::1",
        "localhost",
        &long,
        &label,
    ] {
        assert_eq!(admitted(&isolate, &of_zone(zone)), 0, "{zone:?}");
    }
}

#[test]
fn the_zone_header_is_ignored_unless_the_request_has_cloudflares_shared_address() {
    let direct = isolate(&json!({}));
    let named = isolate(&json!({"CLIENT_IP_HEADER": "x-real-ip"}));
    for (isolate, address, header) in [
        (&direct, "192.0.2.1", "cf-connecting-ip"),
        (&direct, "2a06:98c0:3600::104", "cf-connecting-ip"),
        (&direct, "nonsense", "cf-connecting-ip"),
        (&named, SHARED, "x-real-ip"),
    ] {
        let of = |zone: &str| {
            by("192.0.2.9", "/")
                .with(header, address)
                .with("cf-worker", zone)
        };
        let all = ["a.example", "b.example", "c.example"].map(|zone| admitted(isolate, &of(zone)));
        assert_eq!(all, [3, 0, 0], "{header} {address}");
    }
}

#[test]
fn a_zone_is_listed_and_read_by_its_name_and_is_never_blocked() {
    let isolate = isolate(&json!({}));
    let evil = of_zone("evil.example");
    assert_eq!(isolate.statuses(&evil, 20)[3..], [429; 17]);
    assert_eq!(json_of(&isolate.answer(&evil))["blocked"], false);
    isolate.run_duties();
    let blocked = isolate.admin_json("blocked");
    assert_eq!(
        (&blocked["blocked"], &blocked["policies"]),
        (&json!([]), &json!([]))
    );

    let usage = isolate.admin_json("usage/general/zone:Evil.example");
    let key = usage["caller"].as_str().unwrap().to_owned();
    assert!(key.starts_with("zone-") && !key.contains("evil"), "{key}");
    assert_eq!(
        (&usage["used"], &usage["blocked_until"]),
        (&json!(3), &json!(null))
    );
    assert_eq!(isolate.admin_json(&format!("usage/general/{key}")), usage);
    let listed = isolate.admin_json("suspicious");
    assert_eq!(listed["callers"][0]["caller"], key);
    for identifier in ["zone:evil.example", "zone:EVIL.example"] {
        let body = json!({"policy": "general", "identifier": identifier}).to_string();
        let request = get("http://localhost/_limiter/check").sending("POST", body.leak());
        let answer = json_of(&isolate.admin_answer(&request.authorized()));
        assert_eq!(
            (&answer["allowed"], &answer["blocked"]),
            (&json!(false), &json!(false))
        );
    }
    let refused = get("http://localhost/_limiter/usage/general/zone:not%20one").authorized();
    assert_eq!(isolate.admin_answer(&refused).status, 400);
}

#[test]
fn the_allow_list_and_the_forwarded_address_name_the_address_not_the_zone() {
    let listed = isolate(&json!({"RATE_LIMIT_ALLOWLIST": SHARED}));
    assert_eq!(admitted(&listed, &of_zone("evil.example")), 6);
    let forwarding = isolate(&json!({"ORIGIN_URL": "https://app.example"}));
    let forward = forwarding.forward(&of_zone("evil.example"));
    let address = (CALLER_ADDRESS, SHARED.to_owned());
    assert!(forward.set_on_request.contains(&address));
}

#[test]
fn a_policy_keyed_by_network_counts_each_zone_apart() {
    let isolate = isolate(&json!({"RATE_LIMIT_POLICIES": {"general": {"key": "network"}}}));
    assert_eq!(admitted(&isolate, &of_zone("evil.example")), 3);
    assert_eq!(admitted(&isolate, &of_zone("good.example")), 3);
    assert_eq!(admitted(&isolate, &by(SHARED, "/")), 3);
    assert_eq!(json_of(&isolate.answer(&by(SHARED, "/")))["blocked"], false);
}

#[test]
fn wrong_tokens_from_one_zone_do_not_limit_another_zone() {
    let short = "a-short-admin-token-1";
    let isolate = isolate(&json!({"ADMIN_TOKEN": short, "RATE_LIMIT_ADMIN": "5,60,300"}));
    let ask = |zone: &str, token: &str| {
        let request = by(SHARED, "/_limiter/policies").with("cf-worker", zone);
        let request = request.with("authorization", &format!("Bearer {token}"));
        isolate.admin_answer(&request).status
    };
    let wrong: Vec<u16> = (0..7).map(|_| ask("evil.example", "wrong")).collect();
    assert_eq!(wrong, [401, 401, 401, 401, 401, 429, 429]);
    assert_eq!(ask("evil.example", short), 429);
    assert_eq!(ask("good.example", short), 200);
}
