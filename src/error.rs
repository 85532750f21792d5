//! Errors of what the limiter calls: of Redis, of a store over Redis, and of an identity provider.

use std::fmt;

use crate::time::Timestamp;

/// Why a store did not answer. It never contains a command, a key or a token, since it appears in logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// No answer came within `REDIS_TIMEOUT`. The call was aborted, and may have run.
    Timeout,
    /// There is no connection, or it broke.
    Unreachable,
    /// The token (HTTP 401 or 403) or the password was refused.
    Unauthorized,
    /// The plan's quota of commands is used up.
    OverQuota,
    /// HTTP 429: too many requests a second.
    Throttled,
    /// Any other unexpected HTTP status.
    Status(u16),
    /// Redis refused the command, with the first word of its error (such as `OOM`, `READONLY`).
    Refused(String),
    /// The Redis user may not run the command, or not access the key (`NOPERM`).
    NotPermitted,
    /// Redis, or a proxy in front of it, does not know the command.
    UnknownCommand,
    /// Redis refused the text of a script, which did not run.
    NotCompiled,
    /// Redis refused to increment a value, which is no whole number or the highest possible one.
    NotANumber,
    /// The answer does not fit the command.
    Malformed,
    /// The store was not asked, because the breaker is open.
    Open {
        /// When the next call may be made, on this isolate's clock.
        until: Timestamp,
    },
    /// The store was not asked, because the isolate has spent its commands of this second.
    OverCap,
}

impl StoreError {
    /// Whether the store may have decided, and counted the request, despite the error.
    #[must_use]
    pub const fn may_have_run(&self) -> bool {
        matches!(
            self,
            Self::Timeout | Self::Unreachable | Self::Status(_) | Self::Malformed
        )
    }

    /// Whether the failure is transient, so that another attempt may succeed.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::Unauthorized
                | Self::NotPermitted
                | Self::OverQuota
                | Self::NotANumber
                | Self::Open { .. }
                | Self::OverCap
        )
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer within REDIS_TIMEOUT"),
            Self::Unreachable => f.write_str("Redis cannot be reached"),
            Self::Unauthorized => f.write_str(
                "the token or password was refused; check UPSTASH_REDIS_REST_TOKEN or REDIS_PASSWORD",
            ),
            Self::NotPermitted => {
                f.write_str("the Redis user lacks a permission; grant what docs/redis.md lists")
            }
            Self::UnknownCommand => {
                f.write_str("Redis lacks a command; enable those that docs/redis.md lists")
            }
            Self::NotCompiled => f.write_str("Redis refused the script in both of its forms"),
            Self::OverQuota => {
                f.write_str("the plan's command quota is used up; raise it or wait for the reset")
            }
            Self::Throttled => f.write_str("HTTP 429: too many requests a second"),
            Self::Status(status) => write!(f, "Redis answered with HTTP status {status}"),
            Self::Refused(word) => write!(f, "Redis refused the command: {word}"),
            Self::NotANumber => {
                f.write_str("the value is not a whole number, or is the highest possible one")
            }
            Self::Malformed => f.write_str("the answer has an unexpected form"),
            Self::Open { .. } => f.write_str("not asked: the breaker is open after failed calls"),
            Self::OverCap => f.write_str("not asked: REDIS_MAX_COMMANDS_PER_SECOND is reached"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why an identity provider's key set is not in use. It never contains the set's URL or text, since it appears in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySetError {
    /// There is no connection, or it broke.
    Unreachable,
    /// The key set did not arrive within two seconds.
    Timeout,
    /// The provider answered with an HTTP status other than 200.
    Status(u16),
    /// The key set is longer than 64 KiB.
    TooLong,
    /// The key set is not UTF-8.
    NotText,
    /// The key set is not JSON.
    NotJson,
    /// The key set is JSON, but not a JWK Set.
    NotASet,
    /// The key set has no key that can verify a token. The keys of the set before are withdrawn.
    NoUsableKey,
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the provider cannot be reached",
            Self::Timeout => "the key set did not arrive within 2 s",
            Self::Status(status @ 300..=399) => {
                return write!(f, "the provider answered with HTTP status {status}, and redirects are not followed");
            }
            Self::Status(status) => return write!(f, "the provider answered with HTTP status {status}"),
            Self::TooLong => "the key set is longer than 64 KiB",
            Self::NotText => "the key set is not UTF-8",
            Self::NotJson => "the key set is not JSON",
            Self::NotASet => "the key set is not a JWK Set, which has an array `keys`",
            Self::NoUsableKey => "the key set has no public key for signatures by RS256 or ES256",
        })
    }
}

impl std::error::Error for KeySetError {}
