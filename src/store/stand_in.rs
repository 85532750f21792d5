//! Runs the stand-in for Upstash (`tests/upstash`), with a real Redis behind it, as a child process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use super::redis::RedisStore;
use crate::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use crate::error::{KeySetError, StoreError};
use crate::redis::http::Http;
use crate::redis::keys::Keys;
use crate::redis::rest::RestClient;
use crate::time::{Millis, Timestamp};

/// A running stand-in with its own Redis. It ends when this is dropped, or with the test process.
pub(crate) struct StandIn {
    child: Child,
    pub(crate) url: String,
    pub(crate) token: String,
    redis_port: u64,
}

/// A timeout that is long enough on a busy machine.
const TIMEOUT: Millis = Millis::new(20_000);

/// Ends the test process with one line, since every further test that needs the stand-in would fail with the same cause.
fn end_the_run(cause: &str) -> ! {
    static ENDING: Mutex<()> = Mutex::new(());
    // The lock is never released, so that other tests' threads cannot write the same line.
    let _ending = ENDING.lock();
    // Not by a macro: the test harness keeps its output until the test ends, and this one never ends.
    let _ = writeln!(
        io::stderr(),
        "\nerror: the stand-in for Upstash does not start ({cause}). Run `npm test`, which installs what these tests need"
    );
    std::process::exit(1)
}

impl StandIn {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one that sends scripts to Redis unchanged, which refuses their flag.
    pub(crate) fn refusing() -> Self {
        Self::with(&["--unchanged"])
    }

    /// Starts one that answers `error` to every script that begins with `#!`.
    pub(crate) fn answering(error: &str) -> Self {
        Self::with(&["--refusal", error])
    }

    /// Starts one that behaves as serverless-redis-http does, and connects it to Redis.
    pub(crate) async fn bridge() -> Self {
        let bridge = Self::with(&["--bridge"]);
        let ping = json!(["PING"]).to_string();
        let effects = bridge.effects();
        let first = effects.call_redis(ping, TIMEOUT).await;
        assert_eq!(
            first.unwrap().status,
            500,
            "the bridge connects by its first call, which fails"
        );
        bridge
    }

    /// Starts another one like [`refusing`](Self::refusing), over the same Redis.
    pub(crate) fn refusing_too(&self) -> Self {
        Self::with(&["--unchanged", "--redis-port", &self.redis_port.to_string()])
    }

    fn with(options: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstash/cli.mjs");
        // The process ends when its standard input ends, so the pipe is kept open.
        let mut child = Command::new("node")
            .arg(script)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| end_the_run(&format!("node: {error}")));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mut errors = child.stderr.take().unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            drop(child.stdin.take());
            let mut trace = String::new();
            let _ = errors.read_to_string(&mut trace);
            let cause = trace.lines().find(|line| line.contains("Error"));
            end_the_run(cause.unwrap_or("it reported no error"));
        };
        std::thread::spawn(move || io::copy(&mut errors, &mut io::stderr()));
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        Self {
            url: text("url"),
            token: text("token"),
            redis_port: ready["redisPort"].as_u64().unwrap(),
            child,
        }
    }

    /// The effects of a host that is connected to it.
    pub(crate) fn effects(&self) -> RealEffects {
        RealEffects(Http::new(&self.url, &self.token).unwrap())
    }

    /// A client of the Redis behind it, for decisions and for other commands.
    pub(crate) fn redis(&self) -> RestClient<RealEffects> {
        self.redis_within(TIMEOUT)
    }

    fn redis_within(&self, timeout: Millis) -> RestClient<RealEffects> {
        RestClient::new(self.effects(), timeout)
    }

    pub(crate) fn store(&self, prefix: &str) -> RedisStore<RestClient<RealEffects>> {
        RedisStore::new(self.redis(), Keys::new(prefix))
    }

    pub(crate) fn store_within(&self, timeout: Millis) -> RedisStore<RestClient<RealEffects>> {
        RedisStore::new(self.redis_within(timeout), Keys::new("t:"))
    }

    /// Runs one Redis command, and returns its result.
    pub(crate) async fn run(&self, words: &[&str]) -> Value {
        let body = json!(words).to_string();
        let reply = self.effects().call_redis(body, TIMEOUT).await;
        let reply: Value = serde_json::from_str(&reply.unwrap().body).unwrap();
        reply["result"].clone()
    }

    pub(crate) async fn fault(&self, fault: Value) {
        let status = reqwest::Client::new()
            .post(format!("{}/__stand-in/faults", self.url))
            .bearer_auth(&self.token)
            .body(fault.to_string())
            .send()
            .await
            .unwrap()
            .status();
        assert!(status.is_success(), "{status}");
    }

    /// The HTTP requests that it has received so far.
    pub(crate) async fn requests(&self) -> u64 {
        self.stat("requests").await
    }

    /// The commands that Upstash would have billed so far.
    pub(crate) async fn billed(&self) -> u64 {
        self.stat("billed").await
    }

    async fn stat(&self, name: &str) -> u64 {
        let stats = reqwest::Client::new()
            .get(format!("{}/__stand-in/stats", self.url))
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let stats: Value = serde_json::from_str(&stats).unwrap();
        stats[name].as_u64().unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Effects with a real clock and a real connection. Random numbers are 0, and the log is dropped.
#[derive(Clone, Debug)]
pub(crate) struct RealEffects(Http);

impl Effects for RealEffects {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
    }

    fn random(&self) -> u32 {
        0
    }

    fn log(&self, _: LogLevel, _: &str) {}

    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        self.0.post(body, timeout).await
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
