//! A rate limiter that runs at the edge, as a library.
//!
//! This crate is the whole limiter. It takes a request's fields, decides whether the request may go ahead, and
//! returns either an answer (such as a 429) or the way to forward it. It opens no connection, reads no clock and
//! knows no runtime, so `cargo test` runs all of it natively.
//!
//! A *host* connects it to a platform. The host turns the platform's request into a [`limiter::Request`], implements
//! [`effects::Effects`] (time, randomness, log, calls of Redis), and builds the platform's response. `worker/` is the
//! host for WebAssembly, which the Cloudflare Worker and the npm package share. `examples/embed.rs` is the smallest host.
//!
//! # The way of a request
//!
//! 1. **Configure.** [`config`] compiles the environment into policies and routes, once.
//!    [`Limiter::new`](limiter::Limiter::new) composes everything below from it.
//! 2. **Arrive.** [`Limiter::handle`](limiter::Limiter::handle) takes the request. It passes paths beneath `/_limiter` to
//!    the control plane ([`admin`]). For every other request, [`gate::arrive`] looks at the caller's address and the
//!    bypass token alone, so that a caller whose denial is known costs nothing more.
//! 3. **Identify.** [`gate`] finds the policies for the method and the path ([`route`]), the caller's address
//!    ([`client`]), and the user where a policy asks for one ([`user`] verifies a JWT). [`policy`] then names the caller's
//!    quota in each policy. Together they are one [`store::Check`].
//! 4. **Decide.** [`store::stack`] turns the check into one [`store::Verdict`], in one atomic step: in Redis, with one
//!    round trip ([`store::redis`]), or in this isolate's memory ([`store::memory`]). Wrappers around the store answer
//!    without a round trip from remembered denials, leased units and blocked ranges. They fall back to memory while Redis
//!    fails. In a Redis Cluster, a request of several callers takes one call for each of them ([`store::cluster`]).
//! 5. **Answer or forward.** [`response`] and [`headers`] turn the gate's [`RequestVerdict`](gate::RequestVerdict) into an answer or, for an
//!    admitted request, into a [`limiter::Forward`]: the target, and the headers that change. The [`loop_guard`] stops a
//!    request that has passed this deployment too often. [`redirect`] rewrites the origin's redirects, so that a browser
//!    stays behind the limiter.
//! 6. **Record.** [`journal`] records [`events`], and [`metrics`] counts requests.
//! 7. **Run duties.** After the request, the host runs each [`limiter::Duty`] in the background: it writes events, leases
//!    units, fetches a key set, and reconciles with Redis what the isolate admitted alone.
//!
//! An application that serves its requests itself calls [`Limiter::limit`](limiter::Limiter::limit) in place of `handle`. It gets
//! the same decision, and nothing is forwarded. [`Limiter::call_control_plane`](limiter::Limiter::call_control_plane) calls the control plane for it,
//! and [`Limiter::run_application_command`](limiter::Limiter::run_application_command) stores keys of the application in Redis.
//!
//! # Modules by task
//!
//! | to | see |
//! | --- | --- |
//! | limit a request | [`limiter`], [`gate`] |
//! | write a host | [`effects`], [`limiter::Request`]; [`driver`], [`tasks`] and [`wire`] if the host cannot await a Rust future |
//! | read the configuration | [`config`], [`policy`], [`route`] |
//! | know who sends a request | [`client`] (addresses), [`user`] (JWTs), [`credentials`] (the `Authorization` header) |
//! | decide one quota, or all of a request | [`quota`] (the algorithms), [`store::decide`] |
//! | keep state, and survive a store that fails | [`store`], [`store::stack`], [`failure_monitor`], [`error`] |
//! | call Redis | [`redis`], [`redis::keys`] (every key), [`budget`] (a cap on commands a second) |
//! | answer and forward | [`response`], [`headers`], [`redirect`], [`loop_guard`] |
//! | see and change what happens, as an operator | [`admin`], [`blocklist`], [`events`], [`journal`], [`metrics`] |
//! | bound memory and time | [`time`], [`generations`], [`seed`], [`json`] |
//!
//! # Conventions
//!
//! - Time is an argument ([`time`]). Code that needs the time after an await asks [`Effects::now`](effects::Effects::now).
//! - Nothing of an isolate's state is borrowed across an `.await`.
//! - No secret, and no value that could not be read, appears in a log line, an error or a response.

// Test fixtures that other crates share refer to this crate by its name.
#[cfg(test)]
extern crate self as edge_limiter;

pub mod admin;
pub mod blocklist;
pub mod budget;
pub mod client;
pub mod config;
pub mod credentials;
pub mod driver;
pub mod effects;
pub mod error;
pub mod events;
pub mod failure_monitor;
pub mod gate;
pub mod generations;
pub mod headers;
pub mod journal;
pub mod json;
pub mod limiter;
pub mod loop_guard;
pub mod metrics;
pub mod policy;
pub mod quota;
pub mod redirect;
pub mod redis;
pub mod response;
pub mod route;
pub mod seed;
mod steps;
pub mod store;
pub mod tasks;
pub mod time;
pub mod user;
pub mod wire;
