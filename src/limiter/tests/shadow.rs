//! Policies in shadow mode.

use serde_json::json;

use super::{Isolate, get};

#[test]
fn shadow_denials_are_logged_and_admitted() {
    let vars = json!({
        "RATE_LIMIT_GENERAL": "1,60", "RATE_LIMIT_IP": "off", "RATE_LIMIT_POLICIES": {"general": {"mode": "shadow"}},
    });
    let isolate = Isolate::new(&vars);
    for _ in 0..2 {
        assert_eq!(isolate.answer(&get("http://localhost/")).status, 200);
    }
    assert_eq!(
        isolate.effects.lines(),
        ["shadow: policy general would have denied 192.0.2.1"]
    );
}
