//! The environment object's plain variables.

use edge_limiter::config::Vars;
use edge_limiter::json;
use js_sys::{Array, JSON, Object, Reflect};
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};
use worker::Env;

/// The text, numbers, booleans and plain objects of `env`, and whether it has a binding `ORIGIN`. Bindings
/// are not accessed, because a service binding makes a remote call of every property, even of `toJSON`.
pub(crate) fn read(env: &Env) -> (Vars, bool) {
    let entries = Object::entries(env.unchecked_ref::<Object>());
    let vars = entries
        .iter()
        .filter_map(|entry| {
            let entry: Array = entry.dyn_into().ok()?;
            Some((entry.get(0).as_string()?, value(&entry.get(1))?))
        })
        .collect();
    let origin = Reflect::get(env, &JsValue::from_str("ORIGIN"));
    (vars, origin.is_ok_and(|origin| origin.is_object()))
}

fn value(given: &JsValue) -> Option<Value> {
    if let Some(text) = given.as_string() {
        return Some(Value::String(text));
    }
    let plain = given.as_f64().is_some() || given.as_bool().is_some() || is_data(given);
    let json = if plain {
        JSON::stringify(given).ok()?
    } else {
        return None;
    };
    json::value(&String::from(json))
}

fn is_data(given: &JsValue) -> bool {
    let plain = Object::get_prototype_of(&Object::new());
    Array::is_array(given) || (given.is_object() && Object::get_prototype_of(given) == plain)
}
