//! Headers by which an origin may run another method than the request's own: the policies of both methods apply.

use serde_json::{Value, json};

use super::{Isolate, TOKEN, TestRequest, by, get, header, json_of};

fn isolate(routes: &Value) -> Isolate {
    Isolate::new(&json!({
        "ADMIN_TOKEN": TOKEN, "RATE_LIMIT_IP": "off", "RATE_LIMIT_GENERAL": "100,60",
        "RATE_LIMIT_DELETIONS": "50,60", "RATE_LIMIT_WRITES": "40,60", "RATE_LIMIT_READS": "30,60",
        "RATE_LIMIT_ROUTES": routes,
    }))
}

fn by_method() -> Value {
    json!([
        {"path": "/items/*", "methods": ["DELETE"], "policies": ["deletions"], "cost": 5},
        {"path": "/items/*", "methods": ["POST", "PUT"], "policies": ["writes"]},
        {"path": "/items/*", "methods": ["GET"], "policies": ["reads"]},
    ])
}

fn post(path: &str) -> TestRequest {
    by("192.0.2.1", path).sending("POST", "")
}

/// The policies to which a request is charged.
fn met(routes: &Value, request: &TestRequest) -> Vec<String> {
    let answer = isolate(routes).answer(request);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(json_of(&answer)["policies"].take()).unwrap()
}

#[test]
fn a_request_with_a_method_override_meets_the_policies_of_both_methods() {
    let both = ["writes", "deletions"];
    for name in [
        "x-http-method-override",
        "x-method-override",
        "x-http-method",
        "x_http_method_override",
        "x-http_method-override",
        "x_method-override",
        "x-http_method",
    ] {
        for value in [
            "DELETE",
            "delete",
            " Delete ",
            "DELETE, DELETE",
            "post,DELETE",
            ",DELETE,",
        ] {
            let request = post("/items/1").with(name, value);
            assert_eq!(met(&by_method(), &request), both, "{name}: {value}");
        }
    }
    for value in ["", "POST", "PUT", "post", " , "] {
        let request = post("/items/1").with("x-http-method-override", value);
        assert_eq!(met(&by_method(), &request), ["writes"], "{value}");
    }
    // An override that no route names meets the policies that a request of that method would meet.
    let request = post("/items/1").with("x-http-method-override", "PROPFIND");
    assert_eq!(met(&by_method(), &request), ["writes", "general"]);
}

#[test]
fn the_methods_of_all_override_headers_apply() {
    let request = post("/items/1")
        .with("x-http-method-override", "GET")
        .with("x_method_override", "DELETE")
        .with("x-http-method", "PATCH");
    let all = ["writes", "reads", "deletions", "general"];
    assert_eq!(met(&by_method(), &request), all);
}

/// WordPress reads the header on every method.
#[test]
fn a_get_with_an_override_meets_the_policies_of_both_methods() {
    let request = by("192.0.2.1", "/items/1").with("x-http-method-override", "POST");
    assert_eq!(met(&by_method(), &request), ["reads", "writes"]);
}

#[test]
fn the_larger_cost_of_both_methods_is_charged() {
    let isolate = isolate(&by_method());
    let request = post("/items/1").with("x-http-method-override", "DELETE");
    isolate.answer(&request);
    for (policy, used) in [("writes", 5), ("deletions", 5), ("general", 0)] {
        let usage = isolate.admin_json(&format!("usage/{policy}/192.0.2.1"));
        assert_eq!(usage["used"], used, "{policy}");
    }
}

#[test]
fn every_reading_of_the_path_is_matched_with_every_method() {
    let request = post("/items%2F1").with("x-http-method-override", "DELETE");
    assert_eq!(
        met(&by_method(), &request),
        ["general", "writes", "deletions"]
    );
}

/// A server that limits inside its own routes names the policies in its check.
#[test]
fn a_check_of_both_policies_is_charged_like_the_request() {
    let [requests, checks] = [isolate(&by_method()), isolate(&by_method())];
    let request = post("/items/1").with("x-http-method-override", "DELETE");
    let body = r#"{"checks":[{"policy":"writes","identifier":"192.0.2.1"},{"policy":"deletions","identifier":"192.0.2.1"}],"cost":5}"#;
    let check = get("http://localhost/_limiter/check")
        .sending("POST", body)
        .authorized();
    for _ in 0..10 {
        let admitted = requests.answer(&request).status == 200;
        let answer = checks.admin_answer(&check);
        assert_eq!(json_of(&answer)["allowed"], admitted);
    }
    for policy in ["writes", "deletions"] {
        let path = format!("usage/{policy}/192.0.2.1");
        assert_eq!(
            requests.admin_json(&path)["used"],
            checks.admin_json(&path)["used"]
        );
    }
}

#[test]
fn a_request_with_too_many_method_overrides_is_answered_400_and_not_charged() {
    let isolate = isolate(&by_method());
    let padded = format!("{}, DELETE", "x".repeat(300));
    for value in ["A,B,C,D,E", "A,B,C,D,DELETE", &padded] {
        let answer = isolate.answer(&post("/items/1").with("x-http-method", value));
        assert_eq!(answer.status, 400, "{value}");
        assert_eq!(json_of(&answer)["error"], "bad_request");
    }
    let four = post("/items/1").with("x-http-method", "A,B,C,DELETE");
    assert_eq!(met(&by_method(), &four), ["writes", "general", "deletions"]);
    let nothing = isolate.admin_json("usage/writes/192.0.2.1");
    assert_eq!(nothing["used"], 0);
}

#[test]
fn method_overrides_are_not_read_if_no_route_names_a_method() {
    let routes = json!([{"path": "/items/*", "policies": ["writes"]}]);
    let request = post("/items/1").with("x-http-method-override", "A,B,C,D,E");
    assert_eq!(met(&routes, &request), ["writes"]);
}

#[test]
fn the_origin_gets_the_override_header() {
    let isolate = Isolate::new(
        &json!({"ORIGIN_URL": "https://app.example", "RATE_LIMIT_ROUTES": by_method()}),
    );
    let request = post("/items/1").with("x-http-method-override", "DELETE");
    let forward = isolate.forward(&request);
    assert!(
        forward
            .removed_from_request
            .iter()
            .all(|name| *name == "host")
    );
    assert_eq!(
        header(&forward.set_on_request, "x-http-method-override"),
        None
    );
    assert!(crate::headers::is_forwarded(
        "X-HTTP-Method-Override",
        "cf-connecting-ip"
    ));
}
