//! edge-limiter's host on Cloudflare Workers: the library's driver behind integers and two buffers,
//! for `npm/src/engine.js`, which performs what it asks for.
#![cfg(target_arch = "wasm32")]

mod host;
mod platform;
mod vars;

use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::Env;

/// WebAssembly's memory, in which the buffers are. Views of it are made anew when it grows.
#[wasm_bindgen]
pub fn linear_memory() -> JsValue {
    wasm_bindgen::memory()
}

/// Takes an environment, once for each object, on a host that `wire::host` reads from `reach` and `client`. Returns what the
/// host needs of it as JSON: `header`, the `number` by which steps name it, how `redis` is reached, and the names of headers
/// that are not forwarded.
#[wasm_bindgen]
pub fn configure(env: Env, reach: u32, client: u32) -> Result<String, JsValue> {
    host::configure(&env, reach, client).map_err(|error| JsValue::from_str(&error))
}

/// Makes room for a text of so many bytes, and returns where it goes.
#[wasm_bindgen]
pub fn room(bytes: usize) -> usize {
    host::room(bytes)
}

/// Where the numbers of the last step are: the text's place and length in bytes, then three more.
#[wasm_bindgen]
pub fn numbers() -> usize {
    host::numbers()
}

/// Begins a request with the fields in the buffer; the kind of its first step.
#[wasm_bindgen]
pub fn begin(length: usize) -> u32 {
    host::begin(length)
}

/// Puts an environment that was configured before in force, by its `number`, in place of configuring it again. `false`: it is
/// not kept any more.
#[wasm_bindgen]
pub fn select(number: u32) -> bool {
    host::select(number)
}

/// Begins a request that the application serves, with the fields in the buffer as for `begin`; the kind of its first step.
#[wasm_bindgen]
pub fn limit(length: usize) -> u32 {
    host::limit(length)
}

/// Begins a request for the control plane alone, with the fields in the buffer as for `begin`; the kind of its first step.
#[wasm_bindgen]
pub fn control_plane(length: usize) -> u32 {
    host::control_plane(length)
}

/// Begins a call of the control plane by the application itself, in the buffer as `wire::operation` reads it: it needs no
/// token. The kind of its first step.
#[wasm_bindgen]
pub fn operate(length: usize) -> u32 {
    host::operate(length)
}

/// Begins a call of the application's for its own keys, or an event that it reports: JSON in the buffer, as the library's
/// `Limiter::application` reads it. The kind of its first step.
#[wasm_bindgen]
pub fn application(length: usize) -> u32 {
    host::application(length)
}

/// Resumes a task with the answer to a step of that kind, its text in the buffer; the kind of the
/// next step.
#[wasm_bindgen]
pub fn resume(task: u32, kind: u32, status: u32, length: usize) -> u32 {
    host::resume(task, kind, status, length)
}

/// Reads replies in Redis's own protocol, a state and bytes in the buffer as `wire::replies` reads them. Returns 0 if more is
/// to come, 200 for a result, 400 for an error, 502 for what is no reply.
#[wasm_bindgen]
pub fn replies(length: usize) -> u32 {
    host::replies(length)
}

/// Begins a duty that is due; the kind of its first step, 0 if there is none.
#[wasm_bindgen]
pub fn duty() -> u32 {
    host::duty()
}

/// Begins what the platform's schedule asks for; the kind of its first step, 0 if it has ended already.
#[wasm_bindgen]
pub fn tend() -> u32 {
    host::tend()
}

/// Takes the status with which a sampled request was answered.
#[wasm_bindgen]
pub fn forwarded(sample: u32, status: u16) {
    host::forwarded(sample, status);
}

/// The answer to the current request, where its origin has none: 0, it cannot be reached; otherwise the status of the
/// interim response in its place. Its kind.
#[wasm_bindgen]
pub fn bad_gateway(status: u16) -> u32 {
    host::bad_gateway(status)
}

/// Whether a header of the origin's answer, in the buffer as `wire::redirected` reads it, leads to the origin; what it is to
/// be then is the text of the last step.
#[wasm_bindgen]
pub fn redirected(length: usize) -> bool {
    host::redirected(length)
}
