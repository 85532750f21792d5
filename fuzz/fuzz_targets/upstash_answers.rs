//! Any answer of Upstash: the store returns a reply with an answer for every charge, or an error that
//! shows nothing of the answer's text.
//!
//! Text that starts with a digit is the number of charges and, after lines of `--`, the replies: a
//! status, a line feed and a body. Any other input is structured, and similar to Upstash's answers.

#![no_main]

use std::cell::{Cell as Counter, RefCell};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use edge_limiter::effects::{Effects, LogLevel, RedisResponse, VerificationKey};
use edge_limiter::error::KeySetError;
use edge_limiter::quota::{Algorithm, Quota, QuotaOutcome, QuotaState};
use edge_limiter::redis::keys::Keys;
use edge_limiter::redis::rest::RestClient;
use edge_limiter::store::redis::RedisStore;
use edge_limiter::store::shared::{self, Backlog, ChargeExtra, Question, SharedStore};
use edge_limiter::store::{Charge, Check, StoreError};
use edge_limiter::time::{Millis, Timestamp};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const YEAR_10000: u64 = 253_402_300_800_000;
const TIMEOUT_MS: u64 = 1000;
const MAX_CHARGES: usize = 6;
/// A secret in bodies, which no error may show.
const PLANTED: &str = "pLaNtEd~secret";

fuzz_target!(|data: &[u8]| {
    let exchange = if data.first().is_some_and(u8::is_ascii_digit) {
        Exchange::written(&String::from_utf8_lossy(data))
    } else {
        let Ok(given) = Given::arbitrary_take_rest(Unstructured::new(data)) else {
            return;
        };
        Exchange::structured(given)
    };
    exchange.check();
});

/// One decision and all replies to it.
struct Exchange {
    now: Timestamp,
    check: Check,
    /// An entry for each charge.
    extras: Vec<ChargeExtra>,
    replies: Vec<Result<RedisResponse, StoreError>>,
    /// How far the clock moves at each reading, in ms.
    tick: u64,
}

impl Exchange {
    fn written(text: &str) -> Self {
        let mut parts = text.split("\n--\n");
        let charges = parts.next().and_then(|count| count.trim().parse().ok());
        let charges = 0..charges.unwrap_or(1_usize).min(MAX_CHARGES);
        let (charges, extras) = charges.map(|at| charge(at, true, true)).unzip();
        Self {
            now: Timestamp::from_millis(1_764_000_000_000),
            check: Check {
                address: Some("192.0.2.1".to_owned()),
                charges,
                cost: 1,
            },
            extras,
            replies: parts
                .map(|part| {
                    let (status, body) = part.split_once('\n').unwrap_or(("200", part));
                    let status = status.parse().unwrap_or(200);
                    let body = body.to_owned();
                    Ok(RedisResponse { status, body })
                })
                .collect(),
            tick: 1,
        }
    }

    fn structured(given: Given<'_>) -> Self {
        let now = given.now % YEAR_10000;
        let charges = given.charges.iter().take(MAX_CHARGES);
        let (charges, extras): (Vec<Charge>, Vec<ChargeExtra>) = charges
            .enumerate()
            .map(|(at, [blocks, enforced])| charge(at, *blocks, *enforced))
            .unzip();
        Self {
            now: Timestamp::from_millis(now),
            replies: [given.first, given.second]
                .map(|reply| reply.build(now, charges.len()))
                .to_vec(),
            check: Check {
                address: given.address.map(str::to_owned),
                charges,
                cost: given.cost,
            },
            extras,
            tick: u64::from(given.tick),
        }
    }

    fn check(self) {
        let calls = RefCell::new(Vec::new());
        let host = ScriptedHost {
            replies: &self.replies,
            calls: &calls,
            now: Counter::new(self.now.as_millis()),
            tick: self.tick,
        };
        let rest = RestClient::new(host, Millis::new(TIMEOUT_MS));
        let store = RedisStore::new(rest, Keys::new("t:"));
        let question = Question::with(&self.check, &self.extras);
        let read = poll_once(store.ask(&question, self.now));

        let calls = calls.borrow();
        self.is_sent_once(&calls);
        let last = self.replies.get(calls.len() - 1);
        match read {
            Ok(read) => self.agrees_with_reply(&read, last.unwrap().as_ref().unwrap()),
            Err(error) => self.shows_nothing(&error),
        }
    }

    /// The store sends `EVALSHA` once. It sends more only if Redis did not know the script or refused its text, because then
    /// the script has not run.
    fn is_sent_once(&self, calls: &[(String, Millis)]) {
        let mut verbs = Vec::new();
        for (command, timeout) in calls {
            assert!(*timeout > Millis::ZERO && timeout.get() <= TIMEOUT_MS);
            let words: Vec<String> = serde_json::from_str(command).unwrap();
            let keys: usize = words[2].parse().unwrap();
            assert!(keys > 0 && words.len() >= 3 + keys + 3);
            assert!(words[3..3 + keys].iter().all(|key| key.starts_with("t:")));
            verbs.push(words[0].clone());
        }
        assert!(verbs[0] == "EVALSHA" && verbs.len() <= 4);
        for reply in &self.replies[..verbs.len() - 1] {
            let reply = reply.as_ref().unwrap();
            let error = error_in(&reply.body);
            let refusals = [
                "script shebang",
                "compiling script",
                "near '#'",
                "Invalid flag",
            ];
            let refused = refusals.iter().any(|text| error.contains(text));
            assert!(matches!(reply.status, 200 | 400));
            assert!(refused || error.starts_with("NOSCRIPT"));
        }
    }

    fn agrees_with_reply(&self, read: &shared::StoreReply, reply: &RedisResponse) {
        assert_eq!(reply.status, 200);
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        let result = body["result"].as_array().unwrap();
        let version = result[0].as_str().map(str::to_owned);
        assert_eq!(read.ranges_version, shared::RangesVersion::Stored(version));
        let verdict = &read.verdict;
        assert_eq!(verdict.answers.len(), self.check.charges.len());
        assert_eq!(read.stored_charges.len(), verdict.answers.len());
        assert!(!verdict.degraded);
        for ((answer, stored_charge), said) in verdict
            .answers
            .iter()
            .zip(&read.stored_charges)
            .zip(&result[2..])
        {
            assert_eq!(
                stored_charge.state,
                QuotaState::parse(said[7].as_str().unwrap())
            );
            let answer = answer.unwrap();
            let decision = answer.decision;
            assert_eq!(said[1], json!(decision.remaining));
            assert_eq!(said[3], json!(decision.reset_at.as_millis()));
            assert_eq!(said[4], json!(decision.at.as_millis()));
            assert_eq!(said[6], json!(stored_charge.leased));
            assert!(stored_charge.leased == 0 || decision.allowed());
            let outcome = match decision.outcome {
                QuotaOutcome::Denied { retry_at } => {
                    assert!(retry_at > self.now);
                    assert_eq!(said[2], json!(retry_at.as_millis()));
                    0
                }
                QuotaOutcome::Allowed => 1,
                QuotaOutcome::Impossible => 2,
            };
            assert_eq!(said[0], json!(outcome));
            assert!(answer.blocked_until.is_none_or(|until| until > self.now));
            assert!(answer.retry_at().is_none_or(|at| at > self.now));
        }
        assert_eq!(verdict.address_block.is_some(), !result[1].is_null());
        let blocked = verdict.address_block.is_some()
            || verdict
                .enforced(&self.check)
                .any(|(_, answer)| !answer.unwrap().allows());
        assert_eq!(verdict.allows(&self.check), !blocked);
    }

    fn shows_nothing(&self, error: &StoreError) {
        let replies = || self.replies.iter().filter_map(|reply| reply.as_ref().ok());
        let shown = error.to_string();
        match error {
            StoreError::Refused(word) => {
                assert_eq!(shown, format!("Redis refused the command: {word}"));
                assert!((1..=20).contains(&word.len()));
                assert!(word.bytes().all(|byte| byte.is_ascii_uppercase()));
                let first_word = |reply: &RedisResponse| {
                    let text = error_in(&reply.body);
                    text.split([' ', ':']).next() == Some(word)
                };
                assert!(word == "ERR" || replies().any(first_word));
            }
            StoreError::Status(status) => {
                assert_eq!(shown, format!("Redis answered with HTTP status {status}"));
                assert!(replies().any(|reply| reply.status == *status));
            }
            _ => assert!(shown.len() < 80),
        }
        assert!(!format!("{shown}{error:?}").contains(PLANTED));
    }
}

/// Makes a charge and its extra. This is the only place that does.
fn charge(at: usize, blocks: bool, enforced: bool) -> (Charge, ChargeExtra) {
    let limit = 10.try_into().unwrap();
    let quota = Quota::new(Algorithm::SlidingWindow, limit, Millis::new(60_000));
    let charge = Charge {
        block: blocks.then(|| Millis::new(600_000)),
        enforced,
        ..Charge::new(format!("p{at}:192.0.2.1"), quota.unwrap())
    };
    let extra = ChargeExtra {
        lease: u32::from(enforced),
        backlog: blocks.then(|| Backlog {
            name: format!("p{at}"),
            state: QuotaState::parse("sw:1000:1764000000000:1764000000:0=3").unwrap(),
        }),
    };
    (charge, extra)
}

/// The error in a body, or an empty text.
fn error_in(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    body["error"].as_str().unwrap_or_default().to_owned()
}

/// Runs a future with one poll, because nothing here waits.
fn poll_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits, although the host answers at once"),
    }
}

/// A host with prepared replies, whose clock moves at each reading.
struct ScriptedHost<'a> {
    replies: &'a [Result<RedisResponse, StoreError>],
    calls: &'a RefCell<Vec<(String, Millis)>>,
    now: Counter<u64>,
    tick: u64,
}

impl Effects for ScriptedHost<'_> {
    fn now(&self) -> Timestamp {
        let now = self.now.get();
        self.now.set(now + self.tick);
        Timestamp::from_millis(now)
    }

    fn random(&self) -> u32 {
        0
    }

    fn log(&self, _: LogLevel, _: &str) {}

    async fn call_redis(&self, body: String, timeout: Millis) -> Result<RedisResponse, StoreError> {
        let mut calls = self.calls.borrow_mut();
        calls.push((body, timeout));
        let reply = self.replies.get(calls.len() - 1).cloned();
        reply.unwrap_or(Err(StoreError::Unreachable))
    }

    async fn sleep(&self, _: Millis) {}

    async fn verify(&self, _: VerificationKey<'_>, _: &str, _: &[u8]) -> bool {
        false
    }

    async fn fetch_key_set(&self, _: &str) -> Result<String, KeySetError> {
        Err(KeySetError::Unreachable)
    }
}

#[derive(Arbitrary, Debug)]
struct Given<'a> {
    now: u64,
    cost: u32,
    tick: u16,
    address: Option<&'a str>,
    charges: Vec<[bool; 2]>,
    first: GivenReply<'a>,
    second: GivenReply<'a>,
}

#[derive(Arbitrary, Debug)]
enum GivenReply<'a> {
    Timeout,
    Unreachable,
    Http(Status, Body<'a>),
    Decided(Body<'a>),
    NoScript,
}

#[derive(Arbitrary, Debug)]
enum Status {
    Ok,
    Bad,
    Unauthorized,
    Throttled,
    Other(u16),
}

#[derive(Arbitrary, Debug)]
enum Body<'a> {
    Text(&'a str),
    Error(FirstWord<'a>, &'a str),
    Both(FirstWord<'a>, Cell<'a>),
    Bare(Cell<'a>),
    Result {
        version: Cell<'a>,
        block: Block<'a>,
        answers: Vec<GivenAnswer<'a>>,
        /// Whether the answers are repeated or cut to the number of charges.
        fits: bool,
    },
}

#[derive(Arbitrary, Debug)]
enum FirstWord<'a> {
    NoScript,
    WrongPass,
    OverQuota,
    Planted,
    Word(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Block<'a> {
    None,
    Until(u64, &'a str),
    Other(Cell<'a>),
}

#[derive(Arbitrary, Debug)]
enum Cell<'a> {
    Null,
    Text(&'a str),
    Number(u64),
    Signed(i64),
    Fraction(f64),
    Flag(bool),
    Planted,
}

#[derive(Arbitrary, Debug)]
enum GivenAnswer<'a> {
    Near {
        outcome: u8,
        remaining: u32,
        /// In ms from now.
        times: [i32; 4],
        leased: u8,
        state: GivenState<'a>,
    },
    Far(Vec<Cell<'a>>),
    Other(Cell<'a>),
}

/// A state's text, or something else in its place.
#[derive(Arbitrary, Debug)]
enum GivenState<'a> {
    Empty,
    Text(&'a str),
    Counted(u32),
    Other(Option<Cell<'a>>),
}

impl GivenReply<'_> {
    fn build(self, now: u64, charges: usize) -> Result<RedisResponse, StoreError> {
        let reply = |status, body: String| Ok(RedisResponse { status, body });
        match self {
            Self::Timeout => Err(StoreError::Timeout),
            Self::Unreachable => Err(StoreError::Unreachable),
            Self::NoScript => reply(
                400,
                json!({"error": "NOSCRIPT No matching script."}).to_string(),
            ),
            Self::Decided(body) => reply(200, body.build(now, charges)),
            Self::Http(status, body) => {
                let status = match status {
                    Status::Ok => 200,
                    Status::Bad => 400,
                    Status::Unauthorized => 401,
                    Status::Throttled => 429,
                    Status::Other(status) => status,
                };
                reply(status, body.build(now, charges))
            }
        }
    }
}

impl Body<'_> {
    fn build(self, now: u64, charges: usize) -> String {
        let body = match self {
            Self::Text(text) => return format!("{text}{PLANTED}"),
            Self::Error(word, rest) => json!({"error": format!("{}{rest} {PLANTED}", word.text())}),
            Self::Both(word, cell) => json!({"error": word.text(), "result": cell.build()}),
            Self::Bare(cell) => json!({"result": cell.build()}),
            Self::Result {
                version,
                block,
                answers,
                fits,
            } => {
                let mut answers: Vec<Value> = answers
                    .into_iter()
                    .map(|answer| answer.build(now))
                    .collect();
                if fits && !answers.is_empty() {
                    answers = answers.into_iter().cycle().take(charges).collect();
                }
                let head = [version.build(), block.build(now)];
                json!({"result": head.into_iter().chain(answers).collect::<Vec<Value>>()})
            }
        };
        body.to_string()
    }
}

impl FirstWord<'_> {
    fn text(&self) -> &str {
        match self {
            Self::NoScript => "NOSCRIPT",
            Self::WrongPass => "WRONGPASS",
            Self::OverQuota => "ERR max requests limit exceeded.",
            Self::Planted => PLANTED,
            Self::Word(word) => word,
        }
    }
}

impl Block<'_> {
    fn build(self, now: u64) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Until(after, rest) => {
                let until = now.saturating_add(after);
                json!(format!("{{\"until\":{until}{rest}"))
            }
            Self::Other(cell) => cell.build(),
        }
    }
}

impl Cell<'_> {
    fn build(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
            Self::Signed(number) => json!(number),
            Self::Fraction(number) => json!(number),
            Self::Flag(flag) => json!(flag),
            Self::Planted => json!(PLANTED),
        }
    }
}

impl GivenAnswer<'_> {
    fn build(self, now: u64) -> Value {
        match self {
            Self::Near {
                outcome,
                remaining,
                times,
                leased,
                state,
            } => {
                let times = times.map(|shift| json!(now.saturating_add_signed(i64::from(shift))));
                let mut answer = vec![json!(outcome % 4), json!(remaining)];
                answer.extend(times);
                answer.push(json!(leased % 4));
                answer.extend(match state {
                    GivenState::Empty => Some(json!("")),
                    GivenState::Text(text) => Some(json!(text)),
                    GivenState::Counted(count) => Some(json!(format!("fw:60000:{now}:{count}"))),
                    GivenState::Other(cell) => cell.map(Cell::build),
                });
                Value::from(answer)
            }
            Self::Far(cells) => cells.into_iter().map(Cell::build).collect(),
            Self::Other(cell) => cell.build(),
        }
    }
}
