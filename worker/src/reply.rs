//! Answers, as the platform takes them.

use edge_limiter::headers::{Header, REMOVED_FROM_RESPONSES};
use edge_limiter::response::Response;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::ResponseInit;

#[wasm_bindgen(module = "/js/reply.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    fn reply(status: u16, body: &str, headers: &str) -> Result<web_sys::Response, JsValue>;
}

/// An answer of the limiter's own.
pub(crate) fn own(response: &Response) -> Result<web_sys::Response, JsValue> {
    let mut headers = String::with_capacity(256);
    for (name, value) in &response.headers {
        for part in [*name, value] {
            headers.push_str(part);
            headers.push('\n');
        }
    }
    reply(response.status, &response.body, &headers)
}

/// The origin's answer with the limiter's headers: status, status text, headers and body as they
/// are, the body still streaming.
pub(crate) fn with_headers(
    response: web_sys::Response,
    headers: &[Header],
) -> Result<web_sys::Response, JsValue> {
    if headers.is_empty() {
        return Ok(response);
    }
    // No response can be made with a status outside these (101 would need its socket as well): such
    // a one goes on as it is.
    if !(200..600).contains(&response.status()) {
        return Ok(response);
    }
    // A fetched response's headers cannot be changed, a copy's can.
    let copy = web_sys::Response::new_with_opt_readable_stream_and_init(
        response.body().as_ref(),
        response.unchecked_ref::<ResponseInit>(),
    )?;
    let own = copy.headers();
    for name in REMOVED_FROM_RESPONSES {
        own.delete(name)?;
    }
    for (name, value) in headers {
        own.set(name, value)?;
    }
    Ok(copy)
}
