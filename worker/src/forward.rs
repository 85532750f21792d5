//! An admitted request, on its way to the origin.

use std::borrow::Cow;

use edge_limiter::client::Caller;
use edge_limiter::config::{Config, Origin};
use edge_limiter::headers::{CALLER_ADDRESS, ORIGIN_SECRET, PASSED, REMOVED_FROM_REQUESTS};
use js_sys::{Promise, Reflect};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, RequestInit, RequestRedirect, WorkerGlobalScope};
use worker::Env;
use worker::url::{Position, Url};

use crate::incoming::Incoming;

#[wasm_bindgen]
extern "C" {
    /// A service binding.
    pub(crate) type Fetcher;

    #[wasm_bindgen(method)]
    fn fetch(this: &Fetcher, request: &web_sys::Request) -> Promise;
}

/// Where a request goes.
pub(crate) enum Target {
    /// `ORIGIN_URL`, with the request's path and query.
    Url(String),
    /// The service binding `ORIGIN`.
    Binding(Fetcher),
    /// What the Worker's route points at.
    Route,
    /// To the limiter's own answer: run locally, with no origin.
    BuiltIn,
    /// To nowhere.
    Nowhere,
}

impl Target {
    pub(crate) fn of(incoming: &Incoming, config: &Config, env: &Env) -> Self {
        match &config.origin {
            Origin::Nowhere => Self::Nowhere,
            Origin::Url(base) => Self::Url(format!("{base}{}", beneath(base, incoming))),
            Origin::Route => match binding(env) {
                Some(fetcher) => Self::Binding(fetcher),
                None if incoming.is_local() => Self::BuiltIn,
                None => Self::Route,
            },
        }
    }
}

/// The path and query that follow `base`. The runtime's URL parser resolves what is left of dots
/// (`%2e%2e`, `\..`) in the whole URL; behind a path in `base` that could lead out of it, so there they
/// are resolved before.
fn beneath<'a>(base: &str, incoming: &'a Incoming) -> Cow<'a, str> {
    let asked = incoming.path_and_query();
    let has_path = base.splitn(4, '/').nth(3).is_some();
    if !has_path {
        return Cow::Borrowed(asked);
    }
    match Url::parse(incoming.url()) {
        Ok(url) => Cow::Owned(url[Position::BeforePath..].to_owned()),
        // The runtime has taken the URL already: not reached. The origin's front page is no way out.
        Err(_) => Cow::Borrowed("/"),
    }
}

fn binding(env: &Env) -> Option<Fetcher> {
    let found = Reflect::get(env, &JsValue::from_str("ORIGIN")).ok()?;
    found.is_object().then(|| found.unchecked_into())
}

/// Sends `request` on and hands back the origin's response, its body not yet read.
///
/// # Errors
///
/// What `fetch` rejects with: the origin cannot be reached.
pub(crate) async fn send(
    target: &Target,
    request: &web_sys::Request,
    headers: &Headers,
) -> Result<web_sys::Response, JsValue> {
    let init = RequestInit::new();
    init.set_headers(headers);
    // Redirects are the client's to follow.
    init.set_redirect(RequestRedirect::Manual);
    let outgoing = match target {
        // A request as init keeps its method and body, and whatever else the platform knows of it.
        Target::Url(url) => {
            let moved = web_sys::Request::new_with_str_and_init(
                url,
                request.unchecked_ref::<RequestInit>(),
            )?;
            web_sys::Request::new_with_request_and_init(&moved, &init)?
        }
        _ => web_sys::Request::new_with_request_and_init(request, &init)?,
    };
    let promise = match target {
        Target::Binding(fetcher) => fetcher.fetch(&outgoing),
        _ => js_sys::global()
            .unchecked_into::<WorkerGlobalScope>()
            .fetch_with_request(&outgoing),
    };
    JsFuture::from(promise).await?.dyn_into()
}

/// The headers that the origin sees.
pub(crate) fn headers(
    incoming: &Incoming,
    target: &Target,
    caller: &Caller,
    config: &Config,
    passed: &str,
) -> Result<Headers, JsValue> {
    let headers = Headers::new_with_headers(&incoming.headers)?;
    for name in REMOVED_FROM_REQUESTS {
        headers.delete(name)?;
    }
    headers.set(PASSED, passed)?;
    if let Some(address) = caller.address() {
        headers.set(CALLER_ADDRESS, &address.to_string())?;
    }
    if let Some(secret) = &config.origin_secret {
        headers.set(ORIGIN_SECRET, secret.reveal())?;
    }
    headers.set("x-forwarded-host", incoming.host())?;
    headers.set("x-forwarded-proto", incoming.scheme())?;
    if matches!(target, Target::Url(_)) {
        // It follows the URL.
        headers.delete("host")?;
    }
    Ok(headers)
}
