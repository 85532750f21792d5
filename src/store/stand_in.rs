//! The stand-in for Upstash (`tests/upstash`), a real Redis behind it, as a child process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::upstash::{Http, Transport, Upstash};
use crate::time::{Clock, Millis, Timestamp};

/// A stand-in of its own; it ends when this is dropped, or with the test process.
pub(crate) struct StandIn {
    child: Child,
    pub(crate) url: String,
    pub(crate) token: String,
}

/// Long enough for a busy machine.
const TIMEOUT: Millis = Millis::new(20_000);

impl StandIn {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstash/cli.mjs");
        // It ends when its standard input does, which is held open here.
        let mut child = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: Value = serde_json::from_str(&line).expect("run `npm test`, which sets this up");
        let text = |field: &str| said[field].as_str().unwrap().to_owned();
        Self {
            url: text("url"),
            token: text("token"),
            child,
        }
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(&self.url, &self.token).unwrap()
    }

    pub(crate) fn transport(&self, path: &str) -> Http {
        Http::new(&format!("{}{path}", self.url), &self.token).unwrap()
    }

    pub(crate) fn store(&self, prefix: &str) -> Upstash<Http, RealClock> {
        Upstash::new(self.http(), RealClock, prefix, TIMEOUT)
    }

    pub(crate) fn store_within(&self, timeout: Millis) -> Upstash<Http, RealClock> {
        Upstash::new(self.http(), RealClock, "t:", timeout)
    }

    /// One Redis command.
    pub(crate) async fn run(&self, words: &[&str]) -> Value {
        let reply = self.http().post(json!(words).to_string(), TIMEOUT).await;
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

    /// HTTP requests received so far.
    pub(crate) async fn requests(&self) -> u64 {
        self.stat("requests").await
    }

    /// Commands that Upstash would have billed so far.
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

pub(crate) struct RealClock;

impl Clock for RealClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
    }
}
