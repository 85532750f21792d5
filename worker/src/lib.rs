//! edge-limiter's host on Cloudflare Workers: events in, clock, forwarding. Everything that can be
//! decided without the runtime is in the `edge-limiter` crate.
#![cfg(target_arch = "wasm32")]

mod app;
mod clock;
mod forward;
mod incoming;
mod record;
mod reply;
mod stores;
mod transport;
mod users;
mod vars;

use worker::{Context, Env, event};

/// One request. Raw request and response: the `worker` crate's own would turn unknown methods into
/// GET and drop the response's status text.
#[event(fetch)]
async fn fetch(
    request: web_sys::Request,
    env: Env,
    context: Context,
) -> worker::Result<web_sys::Response> {
    let app = app::for_env(&env).map_err(|error| worker::Error::RustError(error.to_string()))?;
    let response = app.answer(request, &env, &context).await;
    if let Some(rest) = app.afterwards() {
        context.wait_until(rest);
    }
    response.map_err(worker::Error::from)
}
