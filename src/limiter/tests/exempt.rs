//! Exempt requests: those of allowed addresses, and those with the bypass token.

use serde_json::{Value, json};

use super::{Isolate, TOKEN, by, json_of, upstash};
use crate::headers::is_forwarded;

const CALLER: &str = "192.0.2.1";
const BYPASS_TOKEN: &str = "a-bypass-token-of-this-test";

/// Two limiters that admit two requests of each caller: one in memory, and one whose Redis cannot be reached, so that
/// memory decides.
fn both(name: &str, value: &Value) -> [Isolate; 2] {
    let mut memory = json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off"});
    let mut redis = upstash(&json!({}));
    [&mut memory, &mut redis].map(|vars| {
        vars["RATE_LIMIT_GENERAL"] = json!("2,86400");
        vars[name] = value.clone();
        Isolate::new(vars)
    })
}

#[test]
fn an_allowed_address_is_neither_limited_nor_counted() {
    for list in [
        json!("192.0.2.1, 10.0.0.0/8,2001:db8:aaaa::/48 , 2001:db8:bbbb::1"),
        json!([
            "192.0.2.1",
            "10.0.0.0/8",
            "2001:db8:aaaa::/48",
            "2001:db8:bbbb::1"
        ]),
    ] {
        let isolates = both("RATE_LIMIT_ALLOWLIST", &list);
        for address in [
            CALLER,
            "::ffff:192.0.2.1",
            "10.0.0.0",
            "10.255.255.255",
            "2001:db8:aaaa:ffff::1",
            "2001:db8:bbbb::1",
        ] {
            for isolate in &isolates {
                assert_eq!(isolate.statuses(&by(address, "/"), 5), [200; 5]);
                assert!(isolate.effects.calls().is_empty(), "Redis is not called");
            }
            let [memory, _] = &isolates;
            let usage = memory.admin_json(&format!("usage/general/{address}"));
            assert_eq!(usage["used"], 0, "{address}");
        }
        for isolate in &isolates {
            for address in [
                "192.0.2.2",
                "9.255.255.255",
                "11.0.0.0",
                "2001:db8:aaab::1",
                "2001:db8:bbbc::1",
            ] {
                let statuses = isolate.statuses(&by(address, "/"), 3);
                assert_eq!(statuses, [200, 200, 429], "{address}");
            }
        }
        let [_, redis] = &isolates;
        assert!(
            !redis.effects.calls().is_empty(),
            "Redis is called for the other addresses"
        );
    }
}

/// The limiter counts and blocks a /64 as one caller, so a block of a neighbour names the allowed address's /64.
#[test]
fn an_allowed_address_is_admitted_even_if_its_network_is_blocked() {
    const ALLOWED: &str = "2001:db8:88::1";
    const NEIGHBOUR: &str = "2001:db8:88::2";
    let isolate = |general: &str| {
        Isolate::new(&json!({
            "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_GENERAL": general, "RATE_LIMIT_ESCALATION": "3,60,600",
            "RATE_LIMIT_ALLOWLIST": ALLOWED,
        }))
    };
    let put = |isolate: &Isolate, target: &str| {
        let request = by("198.51.100.1", &format!("/_limiter/blocked/{target}"));
        isolate
            .answer(&request.sending("PUT", "").authorized())
            .status
    };
    let stays_admitted = |isolate: &Isolate| {
        assert_eq!(isolate.statuses(&by(ALLOWED, "/"), 4), [200; 4]);
        assert_eq!(isolate.answer(&by(NEIGHBOUR, "/")).status, 429);
        let body = r#"{"policy":"general","identifier":"2001:db8:88::1"}"#;
        let check = by("198.51.100.1", "/_limiter/check").sending("POST", body);
        let checked = json_of(&isolate.answer(&check.authorized()));
        assert_eq!(
            (&checked["allowed"], &checked["exempt"]),
            (&json!(true), &json!("allowlist"))
        );
    };

    let by_operator = isolate("2,60");
    for target in [
        ALLOWED,
        NEIGHBOUR,
        "2001:db8:88::%2F64",
        "2001:db8:88::1%2F128",
    ] {
        assert_eq!(put(&by_operator, target), 409, "{target}");
    }
    assert_eq!(by_operator.admin_json("blocked")["blocked"], json!([]));
    assert_eq!(by_operator.answer(&by(NEIGHBOUR, "/")).status, 200);
    assert_eq!(
        put(&by_operator, "2001:db8:88::%2F48"),
        200,
        "a range of many callers can be blocked"
    );
    stays_admitted(&by_operator);

    let by_policy = isolate("2,60,600");
    assert_eq!(by_policy.statuses(&by(NEIGHBOUR, "/"), 3), [200, 200, 429]);
    stays_admitted(&by_policy);

    let by_escalation = isolate("2,60");
    assert_eq!(
        by_escalation.statuses(&by(NEIGHBOUR, "/"), 9)[2..],
        [429; 7]
    );
    let blocked = by_escalation.admin_json("blocked");
    assert_eq!(
        blocked["blocked"][0]["target"], "2001:db8:88::/64",
        "{blocked}"
    );
    stays_admitted(&by_escalation);
}

#[test]
fn a_request_with_the_bypass_token_is_admitted_beyond_the_limit() {
    for (isolate, in_memory) in both("RATE_LIMIT_BYPASS_TOKEN", &json!(BYPASS_TOKEN))
        .iter()
        .zip([true, false])
    {
        let plain = by(CALLER, "/in");
        assert_eq!(isolate.statuses(&plain, 3), [200, 200, 429]);
        isolate.effects.calls();
        let bypassing = plain.clone().with("x-ratelimit-bypass", BYPASS_TOKEN);
        assert_eq!(isolate.statuses(&bypassing, 5), [200; 5]);
        assert!(isolate.effects.calls().is_empty(), "Redis is not called");
        assert_eq!(isolate.answer(&plain).status, 429);
        if in_memory {
            assert_eq!(isolate.admin_json("usage/general/192.0.2.1")["used"], 2);
        }
    }
}

#[test]
fn the_bypass_token_does_not_reach_the_origin() {
    let vars = json!({
        "ORIGIN_URL": "https://app.example", "RATE_LIMIT_BYPASS_TOKEN": BYPASS_TOKEN,
    });
    let bypassing = by(CALLER, "/in").with("x-ratelimit-bypass", BYPASS_TOKEN);
    let forward = Isolate::new(&vars).forward(&bypassing);
    assert!(!is_forwarded("X-RateLimit-Bypass", "cf-connecting-ip"));
    assert!(!format!("{forward:?}").contains(BYPASS_TOKEN));
}

#[test]
fn blanks_around_the_bypass_token_are_ignored() {
    for isolate in both("RATE_LIMIT_BYPASS_TOKEN", &json!(BYPASS_TOKEN)) {
        for given in ["TOKEN ", " TOKEN", "\tTOKEN \t"] {
            let given = given.replace("TOKEN", BYPASS_TOKEN);
            let bypassing = by(CALLER, "/").with("x-ratelimit-bypass", &given);
            assert_eq!(isolate.statuses(&bypassing, 5), [200; 5], "{given:?}");
        }
    }
}

#[test]
fn a_wrong_bypass_token_changes_nothing() {
    let upper = BYPASS_TOKEN.to_uppercase();
    let [longer, bearer, twice] = [
        format!("{BYPASS_TOKEN}x"),
        format!("Bearer {BYPASS_TOKEN}"),
        format!("{BYPASS_TOKEN},{BYPASS_TOKEN}"),
    ];
    let assert_ignored = |isolate: &Isolate, wrong: &[&str]| {
        for (number, token) in wrong.iter().enumerate() {
            let request = by(&format!("192.0.2.{number}"), "/").with("x-ratelimit-bypass", token);
            assert_eq!(isolate.statuses(&request, 3), [200, 200, 429], "{token:?}");
        }
    };
    for isolate in both("RATE_LIMIT_BYPASS_TOKEN", &json!(BYPASS_TOKEN)) {
        let wrong = [
            "",
            "wrong",
            &BYPASS_TOKEN[1..],
            &longer,
            &upper,
            &bearer,
            &twice,
            "true",
            TOKEN,
        ];
        assert_ignored(&isolate, &wrong);
    }
    // If no bypass token is configured, no token bypasses.
    for isolate in both("RATE_LIMIT_ENABLED", &json!(true)) {
        assert_ignored(&isolate, &["", "undefined", BYPASS_TOKEN]);
    }
}

#[test]
fn the_bypass_token_does_not_authorize_calls_of_the_control_plane() {
    for isolate in both("RATE_LIMIT_BYPASS_TOKEN", &json!(BYPASS_TOKEN)) {
        let bearer = format!("Bearer {BYPASS_TOKEN}");
        for (name, value) in [
            ("x-ratelimit-bypass", BYPASS_TOKEN),
            ("authorization", &bearer),
        ] {
            let request = by("192.0.2.3", "/_limiter/blocked").with(name, value);
            let answer = isolate.admin_answer(&request);
            assert_eq!(answer.status, 401, "{name}");
            assert_eq!(json_of(&answer)["error"], "unauthorized");
        }
    }
}
