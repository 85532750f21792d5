//! The smallest host: it limits three requests natively, in memory. Run it with `cargo run --example embed`.
//!
//! A host implements [`Effects`], which is everything that the limiter cannot do itself, and [`Request`], by which the
//! limiter reads a request. A server also runs the duties that [`Limiter::next_duty`] returns, in the background.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use edge_limiter::admin::RequestBody;
use edge_limiter::config::{HostCapabilities, Vars};
use edge_limiter::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use edge_limiter::error::KeySetError;
use edge_limiter::limiter::{Handled, Limiter, Location, Request};
use edge_limiter::store::StoreError;
use edge_limiter::time::{Millis, Timestamp};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let vars = Vars::from_json(
        r#"{
            "RATE_LIMIT_LOGIN": "2,60,600",
            "RATE_LIMIT_ROUTES": [{ "path": "/login", "policies": ["login"] }],
            "CLIENT_IP_HEADER": "X-Real-IP"
        }"#,
    )?;
    let limiter = Limiter::new(&vars, &HostCapabilities::default(), Native)?;
    for _ in 0..3 {
        match limiter.handle(&Login).await {
            // With an `ORIGIN_URL`, an admitted request is forwarded. Here the limiter answers it.
            Handled::Forward(forward) => println!("forward to {:?}", forward.target),
            Handled::Answer(response) => {
                let mut headers = response.headers.iter();
                let remaining = headers.find(|(name, _)| *name == "X-RateLimit-Remaining");
                let remaining = remaining.map_or("-", |(_, value)| value);
                println!("{}, {remaining} remaining", response.status);
            }
        }
    }
    Ok(())
}

/// A request to log in. A server would read it from a socket.
struct Login;

impl Request for Login {
    fn method(&self) -> &str {
        "POST"
    }

    fn url(&self) -> &str {
        "http://localhost/login"
    }

    fn header(&self, name: &str) -> Option<String> {
        (name == "x-real-ip").then(|| "192.0.2.1".to_owned())
    }

    fn location(&self) -> Location {
        Location::default()
    }

    async fn body(&self, _: usize) -> RequestBody {
        RequestBody::default()
    }
}

/// A native host without Redis and without an identity provider.
#[derive(Clone)]
struct Native;

impl Effects for Native {
    #[allow(clippy::disallowed_methods)] // A native host may read the system's clock.
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ms = since.map_or(0, |since| since.as_millis());
        Timestamp::from_millis(u64::try_from(ms).unwrap_or_default())
    }

    fn random(&self) -> u32 {
        getrandom::u32().unwrap_or_default()
    }

    fn log(&self, level: LogLevel, line: &str) {
        println!("{level:?}: {line}");
    }

    async fn call_redis(&self, _: String, _: Millis) -> Result<RedisResponse, StoreError> {
        Err(StoreError::Unreachable)
    }

    async fn sleep(&self, length: Millis) {
        tokio::time::sleep(std::time::Duration::from_millis(length.get())).await;
    }

    async fn verify(&self, _: VerificationKey<'_>, _: &str, _: &[u8]) -> bool {
        false
    }

    async fn fetch_key_set(&self, _: &str) -> Result<String, KeySetError> {
        Err(KeySetError::Unreachable)
    }
}
