//! The limiter as one environment configures it.

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;

use edge_limiter::admin::door::Doorkeeper;
use edge_limiter::admin::{self, Body, Door, Isolate, LONGEST_BODY, Plane};
use edge_limiter::blocklist::Target as BlockTarget;
use edge_limiter::config::{Compiled, Config};
use edge_limiter::events::Kind;
use edge_limiter::gate::{self, Report};
use edge_limiter::headers::{self, PASSED};
use edge_limiter::passed;
use edge_limiter::response::Response;
use edge_limiter::seed::Seed;
use edge_limiter::store::{AddressBlock, Check, StoreError};
use edge_limiter::time::{Clock, Timestamp};
use edge_limiter::user::{Users, proofs};
use js_sys::{Object, Promise};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::JsFuture;
use worker::{Context, Env, console_error, console_log};

use crate::clock::IsolateClock;
use crate::forward::{self, Target};
use crate::incoming::Incoming;
use crate::record::Log;
use crate::reply;
use crate::stores::Stores;
use crate::users::Runtime;

#[wasm_bindgen(module = "/js/body.js")]
extern "C" {
    fn text(request: &web_sys::Request, most: usize) -> Promise;
}

/// A path that can be read in several ways is matched in each of them; a hostile one of a URL's
/// greatest length would cost milliseconds of CPU. The query does not count.
const LONGEST_PATH: usize = 4096;

/// Everything that outlives a request.
pub(crate) struct App {
    compiled: Compiled,
    stores: Stores,
    log: Log,
    doorkeeper: Doorkeeper,
    users: Users<Runtime>,
    /// What this deployment writes into [`PASSED`].
    mark: String,
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
        let (stores, records) = Stores::new(&compiled.config)?;
        Ok(Self {
            stores,
            log: Log::new(&compiled.config.abuse, records)?,
            doorkeeper: Doorkeeper::new(&compiled.config, Seed::random()?)?,
            users: Users::new(
                compiled.config.users.clone(),
                Runtime,
                proofs::DEFAULT_ENTRIES,
                Seed::random()?,
            ),
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
        if let Some(rest) = path.strip_prefix(admin::ROOT)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            let rest = rest.to_owned();
            // Apart, so that what waits for a decision is not the larger for it.
            let response = Box::pin(self.control_plane(rest, &incoming, &request)).await;
            self.write_later(context);
            return reply::own(&response);
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
        let report = gate::decide(config, &self.stores, &self.users, &incoming, now).await;
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
        let kind = self.log.kind(&report);
        let note = |noted, status| {
            if let Some(kind) = kind.filter(|kind| *kind == noted) {
                self.log.note(kind, status, &report, &incoming, &request);
            }
            self.write_later(context);
        };
        // Whatever comes of it; the sample tells what came of it.
        note(Kind::Bypassed, 0);
        if !report.admitted {
            note(Kind::Denied, 429);
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
                    Ok(response) => {
                        note(Kind::Admitted, response.status());
                        return reply::with_headers(response, &headers);
                    }
                    Err(_) => Response::error(
                        502,
                        "bad_gateway",
                        "The origin cannot be reached. The request has been counted.",
                    ),
                }
            }
        };
        note(Kind::Admitted, own.status);
        own.headers.extend(headers);
        reply::own(&own)
    }

    /// Takes units and keys for requests to come, while this one goes on.
    fn fetch_ahead(self: &Rc<Self>, context: &Context) {
        if let Some(wish) = self.stores.wish() {
            let app = Rc::clone(self);
            context.wait_until(async move { app.stores.fetch_ahead(&wish).await });
        }
        if self.users.should_fetch(IsolateClock.now()) {
            let app = Rc::clone(self);
            context.wait_until(async move { app.users.fetch(IsolateClock.now()).await });
        }
    }

    /// Has the events written, if there are any and nobody is to write them yet.
    fn write_later(self: &Rc<Self>, context: &Context) {
        if self.log.recorder.should_write(IsolateClock.now()) {
            let app = Rc::clone(self);
            context.wait_until(async move { app.log.write_later(&app.stores).await });
        }
    }

    /// What is left to do once the response is on its way, if anything is.
    pub(crate) fn afterwards(self: Rc<Self>) -> Option<impl Future<Output = ()> + 'static> {
        let due = self.stores.should_settle_up();
        due.then_some(async move { self.stores.settle_up().await })
    }

    async fn control_plane(
        &self,
        path: String,
        incoming: &Incoming,
        request: &web_sys::Request,
    ) -> Response {
        let config = &self.compiled.config;
        let mut asked = admin::Request {
            method: incoming.method.clone(),
            path,
            query: incoming.query().to_owned(),
            authorization: incoming.header("authorization"),
            client_ip: incoming.header(&config.client_ip_header),
            body: Body::default(),
        };
        let plane = Plane {
            compiled: &self.compiled,
            health: self.stores.health(),
            store: &self.stores,
            records: &self.log.records,
            door: &self.doorkeeper,
            recorder: &self.log.recorder,
            isolate: self,
        };
        let admitted = match plane.door(&asked, IsolateClock.now()).await {
            Door::Out(answer) => return answer,
            Door::In(admitted) => admitted,
        };
        if asked.takes_body() {
            let read = JsFuture::from(text(request, LONGEST_BODY)).await;
            asked.body = match read {
                Ok(read) if read.is_undefined() => Body::TooLong,
                Ok(read) => read.as_string().map_or(Body::NotText, Body::Text),
                Err(_) => Body::NotText,
            };
        }
        plane.answer(admitted, &asked, IsolateClock.now()).await
    }
}

impl Isolate for App {
    fn forget(&self, key: &str) {
        self.stores.forget(key);
    }

    fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        self.stores.retry_at(check, now)
    }

    fn drop_lease(&self, key: &str) {
        self.stores.drop_lease(key);
    }

    async fn reload_blocks(&self, now: Timestamp) -> Result<(), StoreError> {
        self.stores.reload_blocks(now).await
    }

    fn add_block(&self, target: &BlockTarget, block: AddressBlock) {
        self.stores.add_block(target, block);
    }

    async fn write_events(&self, _: Timestamp) {
        self.log.write(&self.stores).await;
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
