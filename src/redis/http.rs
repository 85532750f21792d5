//! Upstash's REST API over `reqwest`, for native hosts. On wasm `reqwest` cannot be told to follow no
//! redirect, so hosts there bring the platform's own `fetch`.

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

/// Posts to one REST URL with one token: what [`Effects::call_redis`](crate::effects::Effects::call_redis)
/// does, for a host that has no HTTP client of its own. Natively it follows no redirect.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    url: reqwest::Url,
    authorization: HeaderValue,
}

impl Http {
    /// Posts to `url` with `token` as the bearer token.
    ///
    /// # Errors
    ///
    /// [`HttpError`], which carries neither of them.
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

    /// Posts `body` once.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] or [`StoreError::Unreachable`].
    pub async fn post(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        let response = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .timeout(Duration::from_millis(timeout.get().min(LONGEST_MS)))
            .body(body)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| failure(&error))?;
        Ok(RedisResponse { status, body })
    }
}

/// The longest timeout of a browser's or Worker's `setTimeout`; reqwest panics above it.
const LONGEST_MS: u64 = i32::MAX as u64;

fn failure(error: &reqwest::Error) -> StoreError {
    // While the body is read, reqwest's fetch does not recognise the reason it aborted with.
    if error.is_timeout() || format!("{error:?}").contains("TimedOut") {
        StoreError::Timeout
    } else {
        StoreError::Unreachable
    }
}
