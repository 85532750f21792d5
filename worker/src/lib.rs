//! The WebAssembly module that every JavaScript host runs. It exposes the library's driver to
//! `npm/src/engine.js` through integers and two buffers. The engine performs the effects that the driver asks for.
#![cfg(target_arch = "wasm32")]

mod host;
mod platform;
mod vars;

use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::Env;

/// WebAssembly's memory, which contains the buffers. JavaScript has to make new views of it after it grows.
#[wasm_bindgen]
pub fn linear_memory() -> JsValue {
    wasm_bindgen::memory()
}

/// Configures the limiter from an environment, once for each environment object. `reach` and `client` describe the host, as
/// `wire::host` reads them. Returns JSON with what the host needs: the `header` with the caller's address, the `number` by
/// which steps name this configuration, how to reach `redis`, and the names of headers that are not forwarded.
#[wasm_bindgen]
pub fn configure(env: Env, reach: u32, client: u32) -> Result<String, JsValue> {
    host::configure(&env, reach, client).map_err(|error| JsValue::from_str(&error))
}

/// Allocates the input buffer for a text of `bytes` bytes, and returns its address.
#[wasm_bindgen]
pub fn room(bytes: usize) -> usize {
    host::room(bytes)
}

/// The address of the last step's numbers: the address and the length in bytes of its text, then three more numbers.
#[wasm_bindgen]
pub fn numbers() -> usize {
    host::numbers()
}

/// Begins a request with the fields in the buffer, and returns the kind of its first step.
#[wasm_bindgen]
pub fn begin(length: usize) -> u32 {
    host::begin(length)
}

/// Switches to an environment that was configured before, by its `number`. `false` if its configuration is no longer kept,
/// so that it must be configured again.
#[wasm_bindgen]
pub fn select(number: u32) -> bool {
    host::select(number)
}

/// Begins a request that the application serves, with the fields in the buffer as for `begin`, and returns the kind of its
/// first step.
#[wasm_bindgen]
pub fn limit(length: usize) -> u32 {
    host::limit(length)
}

/// Begins a request to the control plane, with the fields in the buffer as for `begin`, and returns the kind of its first
/// step.
#[wasm_bindgen]
pub fn control_plane(length: usize) -> u32 {
    host::control_plane(length)
}

/// Begins a call of the control plane by the application itself, which needs no token. The call is in the buffer, as
/// `wire::operation` reads it. Returns the kind of its first step.
#[wasm_bindgen]
pub fn operate(length: usize) -> u32 {
    host::operate(length)
}

/// Begins a call of the application for its own keys, or records an event that it reports. The call is JSON in the buffer,
/// as the library's `Limiter::run_application_command` reads it. Returns the kind of its first step.
#[wasm_bindgen]
pub fn application(length: usize) -> u32 {
    host::application(length)
}

/// Resumes a task with the result of its last step, which was of `kind`. The result's text is in the buffer, with a length
/// of `length` bytes. Returns the kind of the next step.
#[wasm_bindgen]
pub fn resume(task: u32, kind: u32, status: u32, length: usize) -> u32 {
    host::resume(task, kind, status, length)
}

/// Reads replies in Redis's own protocol. The buffer contains a state and the bytes received, as `EncodedStep::replies`
/// reads them. Returns 0 if the reply is incomplete, 200 for a result, 400 for an error, and 502 for bytes that are not a
/// reply.
#[wasm_bindgen]
pub fn replies(length: usize) -> u32 {
    host::replies(length)
}

/// Begins the next background duty that is due, and returns the kind of its first step. 0 if no duty is due.
#[wasm_bindgen]
pub fn duty() -> u32 {
    host::duty()
}

/// Begins the scheduled run, which folds counts and tidies records, and returns the kind of its first step. 0 if it has
/// ended already.
#[wasm_bindgen]
pub fn tend() -> u32 {
    host::tend()
}

/// Records the HTTP status with which the origin answered a sampled request.
#[wasm_bindgen]
pub fn forwarded(sample: u32, status: u16) {
    host::forwarded(sample, status);
}

/// Writes the answer to the current request if its origin does not answer, and returns the step's kind. `status` is 0 if
/// the origin cannot be reached, otherwise the status of the interim response that came in place of an answer.
#[wasm_bindgen]
pub fn bad_gateway(status: u16) -> u32 {
    host::bad_gateway(status)
}

/// Whether a header of the origin's answer redirects to the origin itself. The header is in the buffer, as
/// `wire::redirected` reads it. If `true`, the text of the last step is the rewritten value.
#[wasm_bindgen]
pub fn redirected(length: usize) -> bool {
    host::redirected(length)
}
