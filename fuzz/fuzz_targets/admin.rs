//! Anything at all as calls of the control plane by somebody with the token: a documented answer in
//! JSON, and no key that is not in a form of our own.
//!
//! Calls are parted by the byte 0x1e. The first line of a call is its method, a space, its path
//! beneath `/_limiter` and its query; the rest is its body.

#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use edge_limiter::admin::door::Doorkeeper;
use edge_limiter::admin::{Body, Door, Isolate, LONGEST_BODY, Plane, Request};
use edge_limiter::blocklist::Target;
use edge_limiter::config::{Compiled, Config, Vars};
use edge_limiter::database::{Command, Database, Records, isolate};
use edge_limiter::events::Recorder;
use edge_limiter::health::StoreHealth;
use edge_limiter::store::memory::{Memory, Seed};
use edge_limiter::store::{AddressBlock, Check, Store, StoreError, Verdict};
use edge_limiter::time::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const TOKEN: &str = "correct-horse-battery-staple";
const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_000);
const SEED: Seed = Seed::known([7; 16]);

fuzz_target!(|data: &[u8]| {
    let desk = Desk::new();
    for call in data.split(|byte| *byte == b'\x1e') {
        desk.ask(call);
    }
});

/// Sees keys in a form of our own alone.
struct Watched(isolate::Isolate);

fn is_our_own(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.starts_with("t:")
        && key.len() < 120
        && key
            .bytes()
            .all(|byte| plain(byte) || b":./_-".contains(&byte))
}

impl Database for Watched {
    async fn run(&self, commands: Vec<Command>, now: Timestamp) -> Result<Vec<Value>, StoreError> {
        for command in &commands {
            let keys = match command[0].as_str() {
                "MGET" | "DEL" => &command[1..],
                _ => &command[1..2],
            };
            assert!(keys.iter().all(|key| is_our_own(key)), "{command:?}");
        }
        self.0.run(commands, now).await
    }

    fn is_shared(&self) -> bool {
        true
    }
}

struct Asked<'a>(&'a Memory);

impl Store for Asked<'_> {
    async fn decide(&self, check: &Check, now: Timestamp) -> Result<Verdict, StoreError> {
        for charge in &check.charges {
            assert!(is_our_own(&format!("t:{}", charge.key)), "{}", charge.key);
        }
        self.0.decide(check, now).await
    }
}

struct Desk {
    compiled: Compiled,
    memory: Memory,
    records: Records<Watched>,
    door: Doorkeeper,
    recorder: Recorder,
}

impl Isolate for Desk {
    fn forget(&self, key: &str) {
        self.memory.forget(key);
    }

    fn drop_lease(&self, _: &str) {}

    async fn reload_blocks(&self, now: Timestamp) -> Result<(), StoreError> {
        self.records.known_blocks(now).await.map(drop)
    }

    fn retry_at(&self, check: &Check, now: Timestamp) -> Option<Timestamp> {
        self.memory.retry_at(check, now)
    }

    fn add_block(&self, _: &Target, _: AddressBlock) {}

    async fn write_events(&self, now: Timestamp) {
        self.records
            .record(&self.recorder.take(), now)
            .await
            .unwrap();
    }
}

impl Desk {
    fn new() -> Self {
        let vars = json!({"ADMIN_TOKEN": TOKEN, "RATE_LIMIT_ALLOWLIST": "198.51.100.0/24", "RATE_LIMIT_AUTH": "5,60,600"});
        let compiled = Config::compile(&Vars::from_json(&vars.to_string()).unwrap());
        Self {
            door: Doorkeeper::new(&compiled.config, SEED).unwrap(),
            compiled,
            memory: Memory::new(100, SEED),
            records: Records::new(Watched(isolate::Isolate::default()), "t:"),
            recorder: Recorder::new(SEED),
        }
    }

    fn ask(&self, call: &[u8]) {
        let (head, body) = match call.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&call[..end], &call[end + 1..]),
            None => (call, &[][..]),
        };
        let head = String::from_utf8_lossy(head);
        let (method, path) = head.split_once(' ').unwrap_or(("GET", &head));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let body = match String::from_utf8(body.to_vec()) {
            _ if body.len() > LONGEST_BODY => Body::TooLong,
            Ok(text) => Body::Text(text),
            Err(_) => Body::NotText,
        };
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            authorization: Some(format!("Bearer {TOKEN}")),
            client_ip: Some("198.18.0.1".to_owned()),
            body,
        };
        let store = Asked(&self.memory);
        let plane = Plane {
            compiled: &self.compiled,
            health: StoreHealth::Memory,
            store: &store,
            records: &self.records,
            door: &self.door,
            recorder: &self.recorder,
            isolate: self,
        };
        let answer = at_once(async {
            match plane.door(&request, NOW).await {
                Door::Out(answer) => answer,
                Door::In(admitted) => plane.answer(admitted, &request, NOW).await,
            }
        });
        assert!(
            matches!(answer.status, 200 | 400 | 404 | 405 | 409 | 413),
            "{}",
            answer.status
        );
        assert!(!answer.body.contains(TOKEN) || head.contains(TOKEN));
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            answer.status == 200,
            told["error"].is_null() || told["message"].is_null()
        );
        for (_, value) in &answer.headers {
            assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }
}

/// Nothing here waits, so the first poll is the last.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("waits for nothing"),
    }
}
