//! Answers, as the platform takes them.

use edge_limiter::headers::{Header, REMOVED_FROM_RESPONSES};
use edge_limiter::response::Response;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Headers, ResponseInit};

/// An answer of the limiter's own.
pub(crate) fn own(response: &Response) -> Result<web_sys::Response, JsValue> {
    let headers = Headers::new()?;
    for (name, value) in &response.headers {
        headers.set(name, value)?;
    }
    let init = ResponseInit::new();
    init.set_status(response.status);
    init.set_headers(&headers);
    web_sys::Response::new_with_opt_str_and_init(Some(&response.body), &init)
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
