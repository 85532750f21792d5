//! Why what the limiter asked did not answer: Redis, or a store over it, or an identity provider.

use std::fmt;

use crate::time::Timestamp;

/// Why a store did not answer. Never carries a command, a key or a token: these go to logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// No answer within the time allowed; the call was aborted and may have run.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
    /// The token was refused (HTTP 401 or 403), or the password.
    Unauthorized,
    /// The plan's quota of commands is used up.
    OverQuota,
    /// HTTP 429: too many requests a second.
    Throttled,
    /// Any other unexpected HTTP status.
    Status(u16),
    /// Redis refused the command, with the first word of its error (such as `OOM`, `READONLY`).
    Refused(String),
    /// The credential's user may not run a command, or touch a key (`NOPERM`).
    NotPermitted,
    /// Redis, or what stands before it, has no such command.
    UnknownCommand,
    /// Redis refused a script's text. It did not run.
    NotCompiled,
    /// Redis refused to add to a value that is no whole number, or beyond the highest.
    NotANumber,
    /// An answer that is not what the command answers.
    Malformed,
    /// Not asked: the breaker keeps calls back.
    Open {
        /// When the next may go through, on this isolate's clock.
        until: Timestamp,
    },
    /// Not asked: the isolate has spent its commands of this second.
    OverCap,
}

impl StoreError {
    /// Whether the store may have decided, and counted the request, all the same.
    #[must_use]
    pub const fn may_have_run(&self) -> bool {
        matches!(
            self,
            Self::Timeout | Self::Unreachable | Self::Status(_) | Self::Malformed
        )
    }

    /// Whether the store failed in a way that may pass, so that asking again may help.
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
            Self::Unreachable => f.write_str("cannot be reached"),
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
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::Refused(word) => write!(f, "Redis refused the command: {word}"),
            Self::NotANumber => f.write_str("the value is no whole number, or the highest"),
            Self::Malformed => f.write_str("an answer that is not what the command answers"),
            Self::Open { .. } => f.write_str("not asked: it has failed too often"),
            Self::OverCap => f.write_str("not asked: REDIS_MAX_COMMANDS_PER_SECOND is reached"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why an identity provider's key set is not in use. Never carries its URL or anything of its text: these go
/// to logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySetError {
    /// No connection, or one that broke.
    Unreachable,
    /// It did not come in time.
    Timeout,
    /// An HTTP status other than 200.
    Status(u16),
    /// It is longer than what is read.
    TooLong,
    /// It is not UTF-8.
    NotText,
    /// It is not JSON.
    NotJson,
    /// It is JSON, and not a JWK Set.
    NotASet,
    /// It has no key that can verify a token. The keys before it are withdrawn.
    NoUsableKey,
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "cannot be reached",
            Self::Timeout => "does not come in time",
            Self::Status(status @ 300..=399) => {
                return write!(f, "HTTP status {status}, and redirects are not followed");
            }
            Self::Status(status) => return write!(f, "HTTP status {status}"),
            Self::TooLong => "is longer than 64 KiB",
            Self::NotText => "is not UTF-8",
            Self::NotJson => "is not JSON",
            Self::NotASet => "is not a JWK Set, which has an array `keys`",
            Self::NoUsableKey => "has no public key for signatures by RS256 or ES256",
        })
    }
}

impl std::error::Error for KeySetError {}
