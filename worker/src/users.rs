//! Signatures by Web Crypto, and the identity provider's keys by `fetch`: each in one call.

use edge_limiter::user::Platform;
use edge_limiter::user::key::Key;
use js_sys::Promise;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(module = "/js/token.js")]
extern "C" {
    fn verify(algorithm: &str, key: &str, signed: &str, signature: &[u8]) -> Promise;
    fn document(url: &str, timeout: u32, most: u32) -> Promise;
}

/// How long the keys' document may take, in ms, and the longest that is read, in bytes.
const TIMEOUT: u32 = 2000;
const LONGEST: u32 = 64 * 1024;

/// The Workers runtime.
pub(crate) struct Runtime;

impl Platform for Runtime {
    async fn verify(&self, key: &Key, signed: &str, signature: &[u8]) -> bool {
        let verified = verify(key.algorithm.name(), key.material(), signed, signature);
        JsFuture::from(verified)
            .await
            .is_ok_and(|yes| yes.is_truthy())
    }

    async fn fetch(&self, url: &str) -> Option<String> {
        let document = JsFuture::from(document(url, TIMEOUT, LONGEST)).await;
        document.ok()?.as_string()
    }
}
