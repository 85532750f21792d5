//! The limiter as one environment configures it.

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;

use edge_limiter::admin::Doorkeeper;
use edge_limiter::config::{Compiled, Config, StoreConfig};
use edge_limiter::gate::{self, Report};
use edge_limiter::headers::{self, PASSED};
use edge_limiter::health::{self, StoreHealth};
use edge_limiter::passed;
use edge_limiter::response::Response;
use edge_limiter::store::backoff::{self, Retries};
use edge_limiter::store::breaker::circuit::{State, Waits};
use edge_limiter::store::breaker::{Breaker, Status};
use edge_limiter::store::capped::Capped;
use edge_limiter::store::denials::{self, Denials};
use edge_limiter::store::fallback::Fallback;
use edge_limiter::store::lease::{self, Leases};
use edge_limiter::store::memory::{self, Memory, Seed};
use edge_limiter::store::mirror::Mirror;
use edge_limiter::store::upstash::Upstash;
use edge_limiter::store::{Check, Store, StoreError, Verdict};
use edge_limiter::time::{Clock, Millis, Timestamp};
use js_sys::Object;
use wasm_bindgen::JsValue;
use worker::{Context, Env, console_error, console_log, console_warn};

use crate::clock::{IsolateClock, Timer};
use crate::forward::{self, Target};
use crate::incoming::Incoming;
use crate::reply;
use crate::transport::Fetch;

/// A path that can be read in several ways is matched in each of them; a hostile one of a URL's
/// greatest length would cost milliseconds of CPU. The query does not count.
const LONGEST_PATH: usize = 4096;

/// Everything that outlives a request.
pub(crate) struct App {
    compiled: Compiled,
    store: Stores,
    doorkeeper: Doorkeeper,
    /// What this deployment writes into [`PASSED`].
    mark: String,
}

/// The store that the configuration asks for.
enum Stores {
    Memory(Memory),
    Upstash(Box<Shared>),
}

/// Upstash, and what stands around it. From the inside: a cap on what is spent, continuity with
/// memory, the breaker, leases, remembered denials, and memory where all that comes to nothing.
struct Shared {
    store: Fallback<Denials<Leases<Guarded>>>,
    retries: Retries,
}

type Guarded = Breaker<Mirror<Capped<Upstash<Fetch, IsolateClock>>>, IsolateClock>;

impl Store for Stores {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        match self {
            Self::Memory(store) => store.decide(check, now).await,
            Self::Upstash(shared) => shared.store.decide(check, now).await,
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<(JsValue, Rc<App>)>> = const { RefCell::new(None) };
}

/// The app of `env`. Compiled once per environment object, so that a changed variable is seen
/// without a new isolate.
pub(crate) fn for_env(env: &Env) -> Result<Rc<App>, Box<dyn Error>> {
    CURRENT.with_borrow_mut(|current| {
        if let Some((known, app)) = current
            && Object::is(known, env)
        {
            return Ok(Rc::clone(app));
        }
        let app = Rc::new(App::new(env)?);
        *current = Some((JsValue::from(env.clone()), Rc::clone(&app)));
        Ok(app)
    })
}

impl App {
    fn new(env: &Env) -> Result<Self, Box<dyn Error>> {
        let compiled = Config::compile(&crate::vars::read(env));
        for problem in &compiled.problems {
            console_error!("configuration: {problem}");
        }
        Ok(Self {
            store: stores(&compiled.config)?,
            doorkeeper: Doorkeeper::new(Seed::random()?)?,
            mark: passed::mark(&compiled.config),
            compiled,
        })
    }

    pub(crate) async fn answer(
        self: &Rc<Self>,
        request: web_sys::Request,
        env: &Env,
        context: &Context,
    ) -> Result<web_sys::Response, JsValue> {
        let incoming = Incoming::read(&request);
        let path = incoming.path();
        if path.len() > LONGEST_PATH {
            return reply::own(&Response::error(
                414,
                "uri_too_long",
                "The path is too long.",
            ));
        }
        if path == "/_limiter" || path.starts_with("/_limiter/") {
            return reply::own(&self.control_plane(&incoming).await);
        }
        let marks = incoming.header(PASSED);
        let Some(marks) = passed::add(marks.as_deref(), &self.mark) else {
            return reply::own(&Response::error(
                508,
                "loop_detected",
                "This request has already passed this limiter: its origin leads back to it.",
            ));
        };

        let config = &self.compiled.config;
        let now = IsolateClock.now();
        let report = gate::decide(config, &self.store, &incoming, now).await;
        self.fetch_ahead(context);
        let report = match report {
            Ok(report) => report,
            // A policy says `deny`.
            Err(error) => {
                let retry_at = match error {
                    StoreError::Open { until } => Some(until),
                    _ => None,
                };
                return reply::own(&Response::unavailable(retry_at, now));
            }
        };
        log_shadow(&report);
        if !report.admitted {
            let accept = incoming.header("accept");
            let denied = Response::denied(&report, config.dialect, accept.as_deref(), now);
            return reply::own(&denied);
        }
        let headers = headers::of(&report, config.dialect, now);
        let target = Target::of(&incoming, config, env);
        let mut own = match target {
            Target::BuiltIn => built_in(&report),
            Target::Nowhere => Response::error(
                502,
                "bad_gateway",
                "ORIGIN_URL is not usable; see npm run check-config.",
            ),
            Target::Url(_) | Target::Binding(_) | Target::Route => {
                let sent = forward::headers(&incoming, &target, &report.caller, config, &marks)?;
                match forward::send(&target, &request, &sent).await {
                    Ok(response) => return reply::with_headers(response, &headers),
                    Err(_) => Response::error(
                        502,
                        "bad_gateway",
                        "The origin cannot be reached. The request has been counted.",
                    ),
                }
            }
        };
        own.headers.extend(headers);
        reply::own(&own)
    }

    /// Takes units for requests to come, while this one goes on.
    fn fetch_ahead(self: &Rc<Self>, context: &Context) {
        let Stores::Upstash(shared) = &self.store else {
            return;
        };
        let Some(wish) = shared.leases().wish() else {
            return;
        };
        let app = Rc::clone(self);
        context.wait_until(async move {
            if let Stores::Upstash(shared) = &app.store {
                // A failure is the breaker's to tell, and requests ask for themselves.
                let _ = shared.leases().fetch_ahead(&wish, IsolateClock.now()).await;
            }
        });
    }

    /// What is left to do once the response is on its way, if anything is.
    pub(crate) fn afterwards(self: Rc<Self>) -> Option<impl Future<Output = ()> + 'static> {
        let due = match &self.store {
            Stores::Memory(_) => false,
            Stores::Upstash(shared) => {
                let closed = shared.breaker().status().state == State::Closed;
                closed && shared.store.should_settle_up(IsolateClock.now())
            }
        };
        due.then_some(async move {
            if let Stores::Upstash(shared) = &self.store {
                // A failure is the breaker's to tell, and another request tries again.
                let _ = shared
                    .store
                    .settle_up(shared.retries, &Timer, backoff::dice, &IsolateClock)
                    .await;
            }
        })
    }

    async fn control_plane(&self, incoming: &Incoming) -> Response {
        if incoming.path() != "/_limiter/health" {
            return Response::error(404, "not_found", "There is nothing here.");
        }
        let store = match &self.store {
            Stores::Memory(_) => StoreHealth::Memory,
            Stores::Upstash(shared) => StoreHealth::Upstash(shared.breaker().status()),
        };
        let config = &self.compiled.config;
        let now = IsolateClock.now();
        let authorization = incoming.header("authorization");
        let client_ip = incoming.header(&config.client_ip_header);
        let access = self
            .doorkeeper
            .access(config, authorization.as_deref(), client_ip.as_deref(), now)
            .await;
        health::answer(&incoming.method, &self.compiled, &store, access, now)
    }
}

impl Shared {
    const fn leases(&self) -> &Leases<Guarded> {
        self.store.shared().inner()
    }

    const fn breaker(&self) -> &Guarded {
        self.leases().inner()
    }
}

fn stores(config: &Config) -> Result<Stores, Box<dyn Error>> {
    let memory = Memory::new(memory::DEFAULT_ENTRIES, Seed::random()?);
    let StoreConfig::Upstash {
        url,
        token,
        prefix,
        timeout,
        retries,
        doublings,
        max_commands,
        fallback_factor,
    } = &config.store
    else {
        return Ok(Stores::Memory(memory));
    };
    let Ok(fetch) = Fetch::new(url, token.reveal()) else {
        console_error!("UPSTASH_REDIS_REST_URL or its token cannot be used; memory is in use");
        return Ok(Stores::Memory(memory));
    };
    let memory = Rc::new(memory);
    let waits = Waits {
        doublings: *doublings,
        probe: *timeout + GRACE,
    };
    let upstash = Upstash::new(fetch, IsolateClock, prefix.clone(), *timeout);
    let capped = Capped::new(upstash, *max_commands, || {
        console_warn!(
            "REDIS_MAX_COMMANDS_PER_SECOND is reached; memory decides what is beyond it (told once a minute)"
        );
    });
    let mirror = Mirror::new(capped, Rc::clone(&memory));
    let breaker = Breaker::new(mirror, IsolateClock, waits, backoff::dice, log_change);
    let leases = Leases::new(breaker, lease::DEFAULT_ENTRIES, Seed::random()?);
    let denials = Denials::new(leases, denials::DEFAULT_ENTRIES, Seed::random()?);
    Ok(Stores::Upstash(Box::new(Shared {
        store: Fallback::new(denials, memory, *fallback_factor),
        retries: *retries,
    })))
}

/// What a call that is given up at its timeout may take longer, on a busy machine.
const GRACE: Millis = Millis::from_secs(1);

fn log_change(status: &Status) {
    let why = status.trouble.as_ref().map(|(_, why)| why.to_string());
    let why = why.unwrap_or_default();
    match status.state {
        State::Closed => console_log!("Upstash answers again; limits are shared again"),
        State::HalfOpen { .. } => {
            console_log!("Upstash: one request asks whether it answers again")
        }
        State::Open { until } => {
            let wait = until.since(IsolateClock.now()).get();
            console_warn!(
                "Upstash: {why}; not asked for {wait} ms, on_store_failure rules meanwhile"
            );
        }
    }
}

fn log_shadow(report: &Report) {
    for standing in &report.shadow {
        if !standing.answer.decision.allowed() {
            console_log!(
                "shadow: policy {} would have denied {}",
                standing.policy,
                report.caller.key()
            );
        }
    }
}

fn built_in(report: &Report) -> Response {
    #[derive(serde::Serialize)]
    struct Admitted<'a> {
        admitted: bool,
        message: &'a str,
        caller: &'a str,
        policies: Vec<&'a str>,
    }
    let standings = report.enforced.iter();
    Response::json(
        200,
        &Admitted {
            admitted: true,
            message: "Admitted. Set ORIGIN_URL to forward requests to your application.",
            caller: report.caller.key(),
            policies: standings.map(|standing| standing.policy.as_str()).collect(),
        },
    )
}
