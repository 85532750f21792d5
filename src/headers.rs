//! The names of the limiter's own headers.

/// The caller's address, for the origin.
pub const CALLER_ADDRESS: &str = "x-edge-limiter-ip";
/// `ORIGIN_SECRET`, for the origin.
pub const ORIGIN_SECRET: &str = "x-edge-limiter-secret";
/// The loop guard: which limiters a request has passed.
pub const LOOP_GUARD: &str = "x-edge-limiter-passed";
/// The emergency bypass, from a client.
pub const BYPASS: &str = "x-ratelimit-bypass";
/// What shadow policies would have said.
pub const SHADOW: &str = "X-RateLimit-Shadow";

/// Says `memory` while this isolate's memory decides in place of the shared store.
pub const STORE: &str = "X-RateLimit-Store";

/// What a client may not send on to the origin: the limiter sets these, or removes them.
pub const REMOVED_FROM_REQUESTS: [&str; 4] = [CALLER_ADDRESS, ORIGIN_SECRET, LOOP_GUARD, BYPASS];

/// What an origin may not set where the limiter does, in any dialect but `none`.
pub const REMOVED_FROM_RESPONSES: [&str; 8] = [
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-type",
    SHADOW,
    STORE,
    "ratelimit",
    "ratelimit-policy",
];

/// A response header.
pub type Header = (&'static str, String);
