//! Upstash's REST API over `reqwest`, for native hosts. On wasm, `reqwest` cannot be configured to follow
//! no redirects, so hosts there use the platform's own `fetch`.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use crate::effects::RedisResponse;
use crate::error::StoreError;
use crate::time::Millis;

/// Why a client cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The URL is not an absolute `http` or `https` URL.
    Url,
    /// The token has characters that no HTTP header can carry.
    Token,
    /// The platform's HTTP client failed to start.
    Client,
}

/// An HTTP client that posts to one REST URL with one token. A host without an HTTP client of its own can
/// implement [`Effects::call_redis`](crate::effects::Effects::call_redis) with it. On native targets it
/// follows no redirects.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    url: reqwest::Url,
    authorization: HeaderValue,
}

impl Http {
    /// A client that posts to `url` with `token` as the bearer token.
    ///
    /// # Errors
    ///
    /// [`HttpError`]. It contains neither the URL nor the token.
    pub fn new(url: &str, token: &str) -> Result<Self, HttpError> {
        let url = reqwest::Url::parse(url).map_err(|_| HttpError::Url)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(HttpError::Url);
        }
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| HttpError::Token)?;
        authorization.set_sensitive(true);
        let builder = reqwest::Client::builder();
        #[cfg(not(target_arch = "wasm32"))]
        let builder = builder.redirect(reqwest::redirect::Policy::none());
        Ok(Self {
            client: builder.build().map_err(|_| HttpError::Client)?,
            url,
            authorization,
        })
    }

    /// Posts `body` once, and waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] if the answer is not complete in time. [`StoreError::Unreachable`] if the
    /// request fails otherwise.
    pub async fn post(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        let response = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .timeout(Duration::from_millis(timeout.get().min(MAX_TIMEOUT_MS)))
            .body(body)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| failure(&error))?;
        Ok(RedisResponse { status, body })
    }
}

/// The longest timeout of `setTimeout` in browsers and Workers. `reqwest` panics above it.
const MAX_TIMEOUT_MS: u64 = i32::MAX as u64;

fn failure(error: &reqwest::Error) -> StoreError {
    // On wasm, `reqwest` aborts the fetch itself, but does not recognise that as a timeout while it reads the
    // body.
    if error.is_timeout() || format!("{error:?}").contains("TimedOut") {
        StoreError::Timeout
    } else {
        StoreError::Unreachable
    }
}
