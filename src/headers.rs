//! The names of the limiter's own headers, and how much of any header is read.

/// The most of a header's value that is read, in bytes. It holds any cookies that a browser sends, and
/// twice the longest token that is looked at.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

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
