//! edge-limiter: a rate limiter that runs at the edge. This crate is all of it that can be decided
//! without a runtime: pure, and tested natively. A host, such as `worker/` for Cloudflare Workers,
//! brings the events, the clock and the forwarding.
//!
//! # A request's way through
//!
//! 1. [`config`] has turned the environment into policies and routes, once.
//! 2. [`route`] finds the policies that the request's method and path meet.
//! 3. [`client`] says who the caller is, in one canonical form; where a policy asks, [`user`] says which
//!    user is proven to have sent the request.
//! 4. [`policy`] names the caller's quota in each of them; together they are one [`store::Check`].
//! 5. A [`store::Store`] settles the check in one atomic step: in this isolate's memory
//!    ([`store::memory`]), or in Upstash Redis in one round trip ([`store::upstash`]), with known
//!    denials answered without one ([`store::denials`]), and memory where Upstash fails
//!    ([`store::fallback`]). What it settles is pure: [`quota`] decides for one quota,
//!    [`store::settle`] for all of a request.
//!    Around all of that, blocked ranges deny from the isolate's copy ([`store::blocked`]).
//! 6. [`gate`] does 2 to 5, and [`headers`] and [`response`] put its report on the wire.
//! 7. [`events`] gathers what was denied, to be written once the response is on its way.
//!
//! Beside it are the records that operators see and act on ([`blocklist`], [`events`]), in the same
//! Redis by a plain transaction or in the isolate ([`database`]), and the calls they do it with
//! ([`admin`]).
//!
//! Time is a value everywhere ([`time`]): nothing here reads a clock except through [`time::Clock`].

// Fixtures that other crates share name this one so.
#[cfg(test)]
extern crate self as edge_limiter;

pub mod admin;
pub mod blocklist;
pub mod client;
pub mod config;
pub mod driver;
pub mod effects;
pub mod error;
pub mod events;
pub mod gate;
pub mod generations;
pub mod headers;
pub mod journal;
pub mod limiter;
pub mod loop_guard;
pub mod policy;
pub mod quota;
pub mod redis;
pub mod response;
pub mod route;
pub mod seed;
pub mod store;
pub mod tasks;
pub mod time;
pub mod user;
pub mod wire;
