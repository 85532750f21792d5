//! The store's transport in a Worker: the platform's own `fetch`.
//!
//! `reqwest` would do but for one thing: on wasm it cannot be told not to follow redirects, and a
//! redirect would carry a decision, and so callers' addresses, to wherever it points, and might run
//! it twice.

use edge_limiter::store::StoreError;
use edge_limiter::store::upstash::{Reply, Transport};
use edge_limiter::time::Millis;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestInit, RequestRedirect, Response, WorkerGlobalScope};

/// Posts to one URL with one bearer token.
pub(crate) struct Fetch {
    url: String,
    headers: Headers,
}

impl Fetch {
    /// `url` and `token` as the configuration has checked them.
    pub(crate) fn new(url: &str, token: &str) -> Result<Self, JsValue> {
        let headers = Headers::new()?;
        headers.set("Authorization", &format!("Bearer {token}"))?;
        headers.set("Content-Type", "application/json")?;
        Ok(Self {
            url: url.to_owned(),
            headers,
        })
    }

    async fn send(&self, body: &str, timeout: Millis) -> Result<Reply, JsValue> {
        let init = RequestInit::new();
        init.set_method("POST");
        init.set_headers(&self.headers);
        init.set_body(&JsValue::from_str(body));
        init.set_redirect(RequestRedirect::Manual);
        // It ends the reading of the body as well.
        let timeout = u32::try_from(timeout.get()).unwrap_or(u32::MAX);
        init.set_signal(Some(&AbortSignal::timeout_with_u32(timeout)));
        let answered = js_sys::global()
            .unchecked_into::<WorkerGlobalScope>()
            .fetch_with_str_and_init(&self.url, &init);
        let response: Response = JsFuture::from(answered).await?.unchecked_into();
        let body = JsFuture::from(response.text()?).await?;
        Ok(Reply {
            status: response.status(),
            body: body.as_string().unwrap_or_default(),
        })
    }
}

impl Transport for Fetch {
    async fn post(&self, body: String, timeout: Millis) -> Result<Reply, StoreError> {
        self.send(&body, timeout).await.map_err(|error| {
            let timed_out = error
                .dyn_ref::<js_sys::Error>()
                .is_some_and(|error| error.name() == "TimeoutError");
            if timed_out {
                StoreError::Timeout
            } else {
                StoreError::Unreachable
            }
        })
    }
}
