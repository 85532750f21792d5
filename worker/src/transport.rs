//! The store's transport in a Worker: the platform's own `fetch`, in one call (`js/transport.js`).
//!
//! `reqwest` would do but for two things: on wasm it cannot be told not to follow redirects, and a
//! redirect would carry a decision, and so callers' addresses, to wherever it points, and might run
//! it twice; and each of its steps is a crossing between WebAssembly and JavaScript.

use edge_limiter::store::StoreError;
use edge_limiter::store::upstash::{Reply, Transport};
use edge_limiter::time::Millis;
use js_sys::{Array, Promise};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::Headers;

#[wasm_bindgen(module = "/js/transport.js")]
extern "C" {
    fn post(url: &JsValue, headers: &Headers, body: &str, timeout: u32) -> Promise;
}

/// Posts to one URL with one bearer token.
pub(crate) struct Fetch {
    url: JsValue,
    headers: Headers,
}

impl Fetch {
    /// `url` and `token` as the configuration has checked them.
    pub(crate) fn new(url: &str, token: &str) -> Result<Self, JsValue> {
        let headers = Headers::new()?;
        headers.set("Authorization", &format!("Bearer {token}"))?;
        headers.set("Content-Type", "application/json")?;
        Ok(Self {
            url: JsValue::from_str(url),
            headers,
        })
    }
}

impl Transport for Fetch {
    async fn post(&self, body: String, timeout: Millis) -> Result<Reply, StoreError> {
        let timeout = u32::try_from(timeout.get()).unwrap_or(u32::MAX);
        let answered = JsFuture::from(post(&self.url, &self.headers, &body, timeout)).await;
        let answered = answered.map_err(|_| StoreError::Unreachable)?;
        let Some(answered) = answered.dyn_ref::<Array>() else {
            return Err(StoreError::Timeout);
        };
        // A status is a whole number below 1000.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let status = answered.get(0).as_f64().unwrap_or_default() as u16;
        Ok(Reply {
            status,
            body: answered.get(1).as_string().unwrap_or_default(),
        })
    }
}
