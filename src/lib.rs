//! edge-limiter: a rate limiter that runs at the edge. This crate is the whole limiter, unaware of any
//! runtime and tested natively. A host, such as `worker/` for Cloudflare Workers, turns a platform's
//! request into a [`limiter::Request`], performs the [`effects`] that the limiter asks for, and builds
//! the platform's response.
//!
//! # A request's way through
//!
//! 1. [`config`] has turned the environment into policies and routes, once.
//!    [`Limiter::new`](limiter::Limiter::new) composes everything below from it.
//! 2. [`Limiter::handle`](limiter::Limiter::handle) takes the request. It gives the control plane's own
//!    paths to [`admin`], and lets [`gate::arrive`] answer callers that are known to be denied. It rejects a
//!    request that has passed the [`loop_guard`] too often.
//! 3. [`gate`] decides. [`route`] finds the policies for the method and the path, [`client`] identifies
//!    the caller by its address, and [`user`] verifies a token where a policy asks for a user.
//!    [`policy`] then names the caller's quota in each policy. Together they are one [`store::Check`].
//! 4. [`store::stack`] turns the check into a [`store::Verdict`], in one atomic step: in Redis in one
//!    round trip ([`store::redis`]), or in this isolate's memory ([`store::memory`]). Wrappers answer
//!    without a round trip from remembered denials, leased units and blocked ranges, and fall back to
//!    memory while Redis fails. In a Redis Cluster a request of several callers is a call for each of them
//!    ([`store::cluster`]). [`quota`] decides one quota, [`store::decide`] all of a request.
//! 5. [`response`] and [`headers`] turn the gate's report into an answer or, for an admitted request, into
//!    a [`limiter::Forward`]: where it goes, and which headers change on the way. [`redirect`] keeps the origin's
//!    redirects behind the limiter.
//! 6. [`journal`] notes what happened, as [`events`].
//! 7. After the request, the host runs each [`limiter::Duty`] in the background: writing events, leasing
//!    units, fetching a key set, and reconciling with Redis what the isolate admitted alone.
//!
//! An application that serves its requests itself calls [`Limiter::limit`](limiter::Limiter::limit) in place of `handle`: the
//! same decision, with nothing forwarded. [`Limiter::operate`](limiter::Limiter::operate) makes its calls of the control plane,
//! and [`Limiter::application`](limiter::Limiter::application) those for keys of its own.
//!
//! # Around a request
//!
//! - [`effects`] is the trait that a host implements. Hosts that cannot await a Rust future use
//!   [`driver`] instead: [`tasks`] runs a request until it needs an effect, and [`wire`] writes that step
//!   as numbers and one text.
//! - [`redis`] is how Redis is spoken to: scripts, several commands as one, the emulator in memory, and every key
//!   ([`redis::keys`]).
//! - [`blocklist`] and [`events`] are the records that operators read and change through [`admin`].
//!
//! Time is an argument ([`time`]). Code that needs the time after an await asks
//! [`Effects::now`](effects::Effects::now).
//!
//! `examples/embed.rs` is the smallest host.

// Fixtures that other crates share name this one so.
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
