//! Headers by which an origin takes a request for one of another method: the policies of both apply.

use serde_json::{Value, json};

use super::{Asked, Isolate, TOKEN, by, get, header, json_of};

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

fn post(path: &str) -> Asked {
    by("192.0.2.1", path).sending("POST", "")
}

/// The policies that a request is charged under.
fn met(routes: &Value, asked: &Asked) -> Vec<String> {
    let answer = isolate(routes).answer(asked);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(json_of(&answer)["policies"].take()).unwrap()
}

#[test]
fn the_policies_of_both_methods_apply_to_a_request_that_asks_for_another() {
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
            let asked = post("/items/1").with(name, value);
            assert_eq!(met(&by_method(), &asked), both, "{name}: {value}");
        }
    }
    for value in ["", "POST", "PUT", "post", " , "] {
        let asked = post("/items/1").with("x-http-method-override", value);
        assert_eq!(met(&by_method(), &asked), ["writes"], "{value}");
    }
    // A method that no route names meets what a request of it would.
    let asked = post("/items/1").with("x-http-method-override", "PROPFIND");
    assert_eq!(met(&by_method(), &asked), ["writes", "general"]);
}

#[test]
fn headers_that_disagree_are_all_believed() {
    let asked = post("/items/1")
        .with("x-http-method-override", "GET")
        .with("x_method_override", "DELETE")
        .with("x-http-method", "PATCH");
    let all = ["writes", "reads", "deletions", "general"];
    assert_eq!(met(&by_method(), &asked), all);
}

/// WordPress reads the header on every method.
#[test]
fn a_get_may_be_taken_for_a_post_as_well() {
    let asked = by("192.0.2.1", "/items/1").with("x-http-method-override", "POST");
    assert_eq!(met(&by_method(), &asked), ["reads", "writes"]);
}

#[test]
fn the_largest_cost_of_both_methods_is_charged() {
    let isolate = isolate(&by_method());
    let asked = post("/items/1").with("x-http-method-override", "DELETE");
    isolate.answer(&asked);
    for (policy, used) in [("writes", 5), ("deletions", 5), ("general", 0)] {
        let usage = isolate.control(&format!("usage/{policy}/192.0.2.1"));
        assert_eq!(usage["used"], used, "{policy}");
    }
}

#[test]
fn a_path_and_a_method_that_are_ambiguous_meet_every_pair() {
    let asked = post("/items%2F1").with("x-http-method-override", "DELETE");
    assert_eq!(
        met(&by_method(), &asked),
        ["general", "writes", "deletions"]
    );
}

/// A server that limits inside its own routes names the policies itself.
#[test]
fn a_check_of_both_policies_is_charged_alike() {
    let [requests, checks] = [isolate(&by_method()), isolate(&by_method())];
    let asked = post("/items/1").with("x-http-method-override", "DELETE");
    let body = r#"{"checks":[{"policy":"writes","identifier":"192.0.2.1"},{"policy":"deletions","identifier":"192.0.2.1"}],"cost":5}"#;
    let check = get("http://localhost/_limiter/check")
        .sending("POST", body)
        .authorized();
    for _ in 0..10 {
        let admitted = requests.answer(&asked).status == 200;
        let answer = checks.plane(&check);
        assert_eq!(json_of(&answer)["allowed"], admitted);
    }
    for policy in ["writes", "deletions"] {
        let path = format!("usage/{policy}/192.0.2.1");
        assert_eq!(
            requests.control(&path)["used"],
            checks.control(&path)["used"]
        );
    }
}

#[test]
fn a_request_that_names_many_methods_is_refused_and_nothing_is_hidden_behind_them() {
    let isolate = isolate(&by_method());
    let padded = format!("{}, DELETE", "x".repeat(300));
    for value in ["A,B,C,D,E", "A,B,C,D,DELETE", &padded] {
        let answer = isolate.answer(&post("/items/1").with("x-http-method", value));
        assert_eq!(answer.status, 400, "{value}");
        assert_eq!(json_of(&answer)["error"], "bad_request");
    }
    let four = post("/items/1").with("x-http-method", "A,B,C,DELETE");
    assert_eq!(met(&by_method(), &four), ["writes", "general", "deletions"]);
    let nothing = isolate.control("usage/writes/192.0.2.1");
    assert_eq!(nothing["used"], 0);
}

#[test]
fn where_no_route_names_a_method_none_is_looked_at() {
    let routes = json!([{"path": "/items/*", "policies": ["writes"]}]);
    let asked = post("/items/1").with("x-http-method-override", "A,B,C,D,E");
    assert_eq!(met(&routes, &asked), ["writes"]);
}

#[test]
fn the_header_goes_on_to_the_origin() {
    let isolate = Isolate::new(
        &json!({"ORIGIN_URL": "https://app.example", "RATE_LIMIT_ROUTES": by_method()}),
    );
    let asked = post("/items/1").with("x-http-method-override", "DELETE");
    let forward = isolate.forward(&asked);
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
