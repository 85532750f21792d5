//! One POST over HTTP, behind a seam: what is below it is the only part of the store that differs
//! between platforms.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use crate::store::StoreError;
use crate::time::Millis;

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

/// Sends a command to the store's URL.
#[allow(async_fn_in_trait)]
pub trait Transport {
    /// Posts `body` once. An answer, body included, that takes longer than `timeout` is abandoned
    /// and its connection aborted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] or [`StoreError::Unreachable`].
    async fn post(&self, body: String, timeout: Millis) -> Result<Reply, StoreError>;
}

/// Why an HTTP transport cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The URL is not an absolute `http` or `https` URL.
    Url,
    /// The token has characters that no HTTP header can carry.
    Token,
    /// The platform's HTTP client failed to start.
    Client,
}

/// The transport over `reqwest`, for hosts that bring none of their own. Natively it follows no
/// redirect; on wasm `reqwest` cannot be told so, and the Workers host has one that does not.
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
}

/// The longest timeout of a browser's or Worker's `setTimeout`; reqwest panics above it.
const LONGEST_MS: u64 = i32::MAX as u64;

impl Transport for Http {
    async fn post(&self, body: String, timeout: Millis) -> Result<Reply, StoreError> {
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
        Ok(Reply { status, body })
    }
}

fn failure(error: &reqwest::Error) -> StoreError {
    // While the body is read, reqwest's fetch does not recognise the reason it aborted with.
    if error.is_timeout() || format!("{error:?}").contains("TimedOut") {
        StoreError::Timeout
    } else {
        StoreError::Unreachable
    }
}
