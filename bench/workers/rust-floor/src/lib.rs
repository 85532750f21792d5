//! A minimal rate limiter in Rust on the `worker` crate: a fixed window, one quota and one REST call, in the style of
//! that crate's examples. `js-floor.mjs` does the same in JavaScript.

use serde::Deserialize;
use serde_json::json;
use worker::wasm_bindgen::JsValue;
use worker::{
    Context, Date, Env, Error, Fetch, Headers, Method, Request, RequestInit, Response, Result,
    event,
};

const SCRIPT: &str = include_str!("../../floor.lua");
/// The SHA-1 of `floor.lua`. With a wrong one, every decision would take two round trips, which the bench refuses.
const SCRIPT_SHA1: &str = "b3688e1b5045a550a8afae22c924c7aa8bc31032";

#[derive(Deserialize)]
struct Reply {
    result: Option<u64>,
    error: Option<String>,
}

#[event(fetch)]
async fn main(request: Request, env: Env, _context: Context) -> Result<Response> {
    let limit: u64 = number(&env, "LIMIT")?;
    let window: u64 = number(&env, "WINDOW_MS")?;
    let caller = request.headers().get("CF-Connecting-IP")?;
    let caller = caller.unwrap_or_else(|| "unknown".to_owned());
    let started = Date::now().as_millis() / window;
    let key = format!("rust-floor:{caller}:{started}");

    let mut reply = ask(&env, "EVALSHA", SCRIPT_SHA1, &key, window).await?;
    if matches!(&reply.error, Some(error) if error.starts_with("NOSCRIPT")) {
        reply = ask(&env, "EVAL", SCRIPT, &key, window).await?;
    }
    let count = reply
        .result
        .ok_or_else(|| Error::RustError(reply.error.unwrap_or_default()))?;

    let admitted = count <= limit;
    let body = json!({
        "admitted": admitted,
        "message": "Admitted. This is a contestant of a benchmark, without an origin.",
        "caller": caller,
        "policies": ["general"],
    });
    let mut response = Response::from_json(&body)?;
    let remaining = limit.saturating_sub(count);
    let reset = ((started + 1) * window).div_ceil(1000);
    let headers = response.headers_mut();
    headers.set("Cache-Control", "no-store")?;
    headers.set("X-RateLimit-Limit", &limit.to_string())?;
    headers.set("X-RateLimit-Remaining", &remaining.to_string())?;
    headers.set("X-RateLimit-Reset", &reset.to_string())?;
    Ok(response.with_status(if admitted { 200 } else { 429 }))
}

fn number(env: &Env, name: &str) -> Result<u64> {
    let text = env.var(name)?.to_string();
    text.parse()
        .map_err(|_| Error::RustError(format!("{name} is not a number")))
}

async fn ask(env: &Env, verb: &str, script: &str, key: &str, window: u64) -> Result<Reply> {
    let headers = Headers::new();
    let token = env.var("UPSTASH_REDIS_REST_TOKEN")?;
    headers.set("Authorization", &format!("Bearer {token}"))?;
    headers.set("Content-Type", "application/json")?;
    let body = json!([verb, script, "1", key, window.to_string()]).to_string();
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_body(Some(JsValue::from_str(&body)));
    let url = env.var("UPSTASH_REDIS_REST_URL")?.to_string();
    let request = Request::new_with_init(&url, &init)?;
    Fetch::Request(request).send().await?.json().await
}
