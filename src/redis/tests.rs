//! Tests of the emulator against a real Redis, and of the REST client.

use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::emulator::Emulator;
use super::keys::Keys;
use super::rest::RestClient;
use super::script::{Script, ScriptCall, ScriptForm};
use super::{Command, Database, command, run};
use crate::effects::RedisResponse;
use crate::effects::testing::TestEffects;
use crate::error::StoreError;
use crate::store::conformance::{START, check};
use crate::store::redis::RedisStore;
use crate::store::shared::{Question, SharedStore};
use crate::store::stand_in::StandIn;
use crate::time::Millis;

fn words(line: &str) -> Command {
    line.split(' ').map(str::to_owned).collect()
}

/// Commands of every kind, over two keys of each type, so that commands meet on the same key.
fn commands() -> impl Strategy<Value = String> {
    let key = |kind: char| (0..2_u8).prop_map(move |number| format!("k:{kind}{number}"));
    let member = prop::sample::select(vec!["a", "b", "c", "10.0.0.0/8"]);
    let small = 0..5_u8;
    prop_oneof![
        key('t').prop_map(|key| format!("GET {key}")),
        (key('t'), key('t')).prop_map(|(a, b)| format!("MGET {a} {b} k:none")),
        (key('t'), small.clone()).prop_map(|(key, value)| format!("SET {key} {value}")),
        (key('t'), small.clone())
            .prop_map(|(key, value)| format!("SET {key} {value} PX 100000 NX")),
        (key('t'), small.clone()).prop_map(|(key, by)| format!("INCRBY {key} {by}")),
        (key('t'), key('h')).prop_map(|(a, b)| format!("DEL {a} {b} k:none")),
        key('t').prop_map(|key| format!("PEXPIRE {key} 1000000")),
        key('t').prop_map(|key| format!("PERSIST {key}")),
        (key('t'), key('h')).prop_map(|(a, b)| format!("EXISTS {a} {b} k:none")),
        (key('h'), member.clone()).prop_map(|(key, field)| format!("HEXISTS {key} {field}")),
        (key('h'), member.clone(), member.clone(), small.clone())
            .prop_map(|(key, a, b, value)| format!("HSET {key} {a} {value} {b} 7")),
        (key('z'), member.clone()).prop_map(|(key, member)| format!("ZSCORE {key} {member}")),
        (key('z'), prop::sample::select(vec!["0", "2", "(2"]))
            .prop_map(|(key, min)| format!("ZCOUNT {key} {min} +inf")),
        (key('h'), member.clone(), small.clone())
            .prop_map(|(key, field, value)| format!("HSET {key} {field} {value}")),
        (key('h'), member.clone()).prop_map(|(key, field)| format!("HGET {key} {field}")),
        (key('h'), member.clone()).prop_map(|(key, field)| format!("HDEL {key} {field} none")),
        key('h').prop_map(|key| format!("HLEN {key}")),
        (
            key('z'),
            small.clone(),
            member.clone(),
            small.clone(),
            member.clone()
        )
            .prop_map(|(key, a, b, c, d)| format!("ZADD {key} {a} {b} {c} {d}")),
        (key('z'), small.clone(), member.clone())
            .prop_map(|(key, by, member)| format!("ZINCRBY {key} {by} {member}")),
        (key('z'), member.clone()).prop_map(|(key, member)| format!("ZREM {key} {member} none")),
        key('z').prop_map(|key| format!("ZCARD {key}")),
        (key('z'), small.clone())
            .prop_map(|(key, max)| format!("ZREMRANGEBYSCORE {key} -inf {max}")),
        (key('z'), 1..5_u8).prop_map(|(key, kept)| format!("ZREMRANGEBYRANK {key} 0 -{kept}")),
        (
            key('z'),
            prop::sample::select(vec!["0", "2", "(2"]),
            0..2_u8,
            0..4_u8
        )
            .prop_map(|(key, min, offset, count)| {
                format!("ZRANGEBYSCORE {key} {min} +inf WITHSCORES LIMIT {offset} {count}")
            }),
        (
            key('z'),
            prop::sample::select(vec!["+inf", "2"]),
            0..2_u8,
            0..4_u8
        )
            .prop_map(|(key, max, offset, count)| {
                format!("ZREVRANGEBYSCORE {key} {max} -inf WITHSCORES LIMIT {offset} {count}")
            }),
        (key('l'), member.clone(), member.clone())
            .prop_map(|(key, a, b)| format!("RPUSH {key} {a} {b}")),
        (key('l'), -5..4_i8, -5..4_i8)
            .prop_map(|(key, first, last)| format!("LRANGE {key} {first} {last}")),
        (key('l'), -5..4_i8).prop_map(|(key, first)| format!("LTRIM {key} {first} -1")),
    ]
}

/// All cases use one Redis. Each starts with an empty database.
#[test]
fn the_emulator_runs_commands_as_redis_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stand_in = StandIn::start();
    let redis = stand_in.redis();
    let cases = ProptestConfig::with_cases(150);
    proptest!(cases, |(lines in prop::collection::vec(commands(), 1..30))| {
        let all = ["t0", "t1", "h0", "h1", "z0", "z1", "l0", "l1"].map(|name| format!("k:{name}"));
        let clear: Command = ["DEL".to_owned()].into_iter().chain(all).collect();
        let lines: Vec<Command> = lines.iter().map(|line| words(line)).collect();
        let sent: Vec<Command> = [clear].into_iter().chain(lines.clone()).collect();
        let by_redis = runtime.block_on(redis.run(sent, START)).unwrap().split_off(1);
        let emulated = runtime.block_on(Emulator::default().run(lines.clone(), START)).unwrap();
        prop_assert_eq!(emulated, by_redis, "{:?}", lines);
    });
}

async fn run_one(database: &Emulator, line: &str, after: u32) -> Result<Value, StoreError> {
    let now = START + Millis::from_secs(after);
    Ok(database.run(vec![words(line)], now).await?.remove(0))
}

#[tokio::test]
async fn hgetall_lists_each_field_with_its_value() {
    let database = Emulator::default();
    for line in ["HSET h b 1", "HSET h a 2"] {
        run_one(&database, line, 0).await.unwrap();
    }
    assert_eq!(
        run_one(&database, "HGETALL h", 0).await,
        Ok(json!(["a", "2", "b", "1"]))
    );
}

#[tokio::test]
async fn an_expired_key_does_not_exist() {
    let database = Emulator::default();
    run_one(&database, "SET a 1 PX 5000", 0).await.unwrap();
    run_one(&database, "ZADD z 1 m", 0).await.unwrap();
    run_one(&database, "PEXPIRE z 7000", 0).await.unwrap();
    assert_eq!(run_one(&database, "GET a", 4).await, Ok(json!("1")));
    assert_eq!(
        run_one(&database, "INCRBY a 2", 4).await,
        Ok(json!(3)),
        "the key keeps its expiry"
    );
    assert_eq!(run_one(&database, "GET a", 5).await, Ok(Value::Null));
    assert_eq!(run_one(&database, "ZCARD z", 6).await, Ok(json!(1)));
    assert_eq!(run_one(&database, "ZCARD z", 7).await, Ok(json!(0)));
}

#[tokio::test]
async fn a_full_emulator_drops_the_key_that_expires_soonest() {
    let database = Emulator::new(3);
    for line in [
        "SET endless 1",
        "SET late 1 PX 9000",
        "SET soon 1 PX 3000",
        "SET new 1 PX 5000",
    ] {
        run_one(&database, line, 0).await.unwrap();
    }
    let kept = run_one(&database, "MGET endless late soon new", 0).await;
    assert_eq!(kept, Ok(json!(["1", "1", null, "1"])));
}

#[tokio::test]
async fn the_emulator_refuses_unknown_commands_and_wrong_types() {
    let database = Emulator::default();
    for line in [
        "FLUSHALL",
        "GET",
        "SET a",
        "ZADD z 1",
        "ZADD z -1 m",
        "HGETALL",
    ] {
        assert!(run_one(&database, line, 0).await.is_err(), "{line}");
    }
    run_one(&database, "SET text 1", 0).await.unwrap();
    assert!(run_one(&database, "HGETALL text", 0).await.is_err());
    run_one(&database, "HSET hash a 1", 0).await.unwrap();
    let added = run_one(&database, "INCRBY hash 1", 0).await;
    assert_eq!(added, Err(StoreError::NotANumber), "the hash is unchanged");
    assert_eq!(run_one(&database, "HLEN hash", 0).await, Ok(json!(1)));
    assert_eq!(command(["GET", "a b"]), ["GET", "a b"]);
}

#[tokio::test]
async fn an_error_of_redis_keeps_only_its_first_word() {
    let stand_in = StandIn::start();
    let redis = stand_in.redis();
    let wrong = vec![words("SET k:s 1"), words("HGETALL k:s")];
    let failed = redis.run(wrong, START).await;
    assert_eq!(failed, Err(StoreError::Refused("WRONGTYPE".to_owned())));
}

/// A key with a value of another type must harm no other record of the same step. A Redis that refuses writes must
/// not be written to in part.
#[tokio::test]
async fn a_failing_command_stops_the_later_ones_only_if_redis_refuses_writes() {
    for stand_in in [StandIn::start(), StandIn::refusing()] {
        let redis = stand_in.redis();
        stand_in.run(&["SET", "k:s", "text"]).await;
        for (wrong, expected) in [
            ("HGETALL k:s", StoreError::Refused("WRONGTYPE".to_owned())),
            ("INCRBY k:s 1", StoreError::NotANumber),
        ] {
            let lines = [wrong, "INCRBY k:n 1", "HGETALL k:s"].map(words);
            assert_eq!(redis.run(lines.into(), START).await, Err(expected));
        }
        assert_eq!(stand_in.run(&["GET", "k:n"]).await, json!("2"));
        stand_in.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let lines = ["SET k:n 7", "DEL k:s"].map(words).into();
        let full = redis.run(lines, START).await;
        assert_eq!(full, Err(StoreError::Refused("OOM".to_owned())));
        stand_in.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
        let kept = stand_in.run(&["MGET", "k:s", "k:n"]).await;
        assert_eq!(kept, json!(["text", "2"]));
        let forbid = ["ACL", "SETUSER", "default", "-incrby"];
        stand_in.run(&forbid).await;
        let lines = ["INCRBY k:n 1", "DEL k:s"].map(words).into();
        let refused = redis.run(lines, START).await;
        assert_eq!(refused, Err(StoreError::NotPermitted));
        assert_eq!(stand_in.run(&["GET", "k:s"]).await, json!("text"));
    }
}

/// Numbers, `null` and lists keep their type, and texts that look like numbers stay texts.
#[tokio::test]
async fn commands_of_one_step_are_answered_like_single_ones() {
    let stand_in = StandIn::start();
    let redis = stand_in.redis();
    let lines = [
        "SET k:s 007",
        "GET k:s",
        "GET k:none",
        "MGET k:none k:s k:none",
        "INCRBY k:n 9007199254740991",
        "ZADD k:z 9007199254740991 m",
        "ZRANGEBYSCORE k:z 0 +inf WITHSCORES LIMIT 0 10",
        "HGETALL k:none",
        "SET k:s 1 PX 1000 NX",
    ];
    let replies = redis.run(lines.map(words).into(), START).await;
    let expected = [
        json!("OK"),
        json!("007"),
        json!(null),
        json!([null, "007", null]),
        json!(9_007_199_254_740_991_u64),
        json!(1),
        json!(["m", "9007199254740991"]),
        json!([]),
        json!(null),
    ];
    assert_eq!(replies, Ok(expected.into()));
    let time = redis
        .run(vec![words("TIME"), words("GET k:s")], START)
        .await;
    assert!(time.unwrap()[0][1].is_string());
}

#[tokio::test]
async fn each_call_sends_one_command_with_its_timeout() {
    let effects = TestEffects::default();
    let timeout = Millis::new(800);
    let rest = || RestClient::new(effects.clone(), timeout);
    let reply = |body: &str| {
        let body = body.to_owned();
        effects.reply(Ok(RedisResponse { status: 200, body }));
    };
    for (body, expected) in [
        (r#"{"result":null}"#, Ok(vec![Value::Null])),
        (r#"{"result":["a",1]}"#, Ok(vec![json!(["a", 1])])),
        (
            r#"{"error":"WRONGTYPE x"}"#,
            Err(StoreError::Refused("WRONGTYPE".to_owned())),
        ),
        ("{}", Err(StoreError::Malformed)),
        ("1", Err(StoreError::Malformed)),
    ] {
        reply(body);
        let one = rest().run(vec![words("GET k:t")], START).await;
        assert_eq!(one, expected, "{body}");
        let sent = r#"["GET","k:t"]"#.to_owned();
        assert_eq!(effects.calls(), [(sent, timeout)]);
    }

    for (body, expected) in [
        (
            r#"{"result":["OK",null]}"#,
            Ok(vec![json!("OK"), Value::Null]),
        ),
        // A reply is missing.
        (r#"{"result":["OK"]}"#, Err(StoreError::Malformed)),
        (r#"{"result":"QUEUED"}"#, Err(StoreError::Malformed)),
        (r#"{"result":null}"#, Err(StoreError::Malformed)),
        (
            r#"{"error":"WRONGTYPE x"}"#,
            Err(StoreError::Refused("WRONGTYPE".to_owned())),
        ),
    ] {
        reply(body);
        let lines = vec![words("SET k:s 1"), words("MGET k:s k:t")];
        assert_eq!(rest().run(lines, START).await, expected, "{body}");
        let sent = format!(
            r#"["EVALSHA","{}","2","k:s","k:t","3","SET","k:s","1","3","MGET","k:s","k:t"]"#,
            run::SCRIPT.sha1
        );
        assert_eq!(effects.calls(), [(sent, timeout)]);
    }

    reply(r#"{"error":"NOSCRIPT No matching script."}"#);
    reply(r#"{"result":[null,null]}"#);
    let store = RedisStore::new(rest(), Keys::new("k:"));
    let without_quotas = check(&[], 1);
    store
        .ask(&Question::new(&without_quotas), START)
        .await
        .unwrap();
    let calls = effects.calls();
    let sent = |body: &str| serde_json::from_str::<Command>(body).unwrap()[0].clone();
    let calls: Vec<_> = (calls.iter())
        .map(|(body, timeout)| (sent(body), *timeout))
        .collect();
    let expected = ["EVALSHA", "EVAL"].map(|verb| (verb.to_owned(), timeout));
    assert_eq!(calls, expected);
}

/// The errors differ in what Redis lacks. Arguments that Redis quotes do not change the result.
#[test]
fn a_refused_command_is_reported_with_a_link_to_the_docs() {
    let quoting = "ERR unknown command 'EVALSHA', with args beginning with: '0' 'k:192.0.2.1' ";
    for (error, expected) in [
        (
            "NOPERM this user has no permissions to run the 'eval' command",
            StoreError::NotPermitted,
        ),
        (
            "ERR The user executing the script can't run this command or subcommand",
            StoreError::NotPermitted,
        ),
        (quoting, StoreError::UnknownCommand),
        (
            "ERR Command is not available: 'EVAL'",
            StoreError::UnknownCommand,
        ),
        (
            "ERR Unknown Redis command called from script script: 0",
            StoreError::UnknownCommand,
        ),
    ] {
        let effects = TestEffects::default();
        let body = json!({"error": error}).to_string();
        effects.reply(Ok(RedisResponse { status: 400, body }));
        let rest = RestClient::new(effects, Millis::new(800));
        let store = RedisStore::new(rest, Keys::new("k:"));
        let without_quotas = check(&[], 1);
        let question = Question::new(&without_quotas);
        let failed = store.ask(&question, START).now_or_never();
        assert_eq!(failed, Some(Err(expected.clone())), "{error}");
        assert!(expected.to_string().contains("docs/redis.md"));
    }
}

/// Over TCP, Redis reports these as `ERR`.
#[test]
fn a_missing_or_unexpected_password_is_unauthorized() {
    for error in [
        "ERR Protocol error: unauthenticated multibulk length",
        "ERR AUTH <password> called without any password configured for the default user. Are you sure?",
        "ERR Client sent AUTH, but no password is set",
    ] {
        let effects = TestEffects::default();
        let body = json!({"error": error}).to_string();
        effects.reply(Ok(RedisResponse { status: 400, body }));
        let store = RedisStore::new(RestClient::new(effects, Millis::new(800)), Keys::new("k:"));
        let without_quotas = check(&[], 1);
        let failed = store
            .ask(&Question::new(&without_quotas), START)
            .now_or_never();
        assert_eq!(failed, Some(Err(StoreError::Unauthorized)), "{error}");
    }
}

const REFUSED: &str = "ERR Unexpected flag in script shebang: allow-key-locking";
const NOSCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

/// A REST client whose server's answers the test chooses.
struct Transport {
    effects: TestEffects,
    rest: RestClient<TestEffects>,
}

const SCRIPT: Script = Script {
    text: "#!lua flags=allow-key-locking\nreturn 1",
    sha1: "flagged",
    plain_sha1: "plain",
};
const FLAGGED: [&str; 2] = [
    "EVALSHA flagged",
    "EVAL #!lua flags=allow-key-locking\nreturn 1",
];
const PLAIN: [&str; 2] = ["EVALSHA plain", "EVAL return 1"];

impl Transport {
    fn new() -> Self {
        let effects = TestEffects::default();
        let rest = RestClient::new(effects.clone(), Millis::new(1000));
        Self { effects, rest }
    }

    /// Runs the script while the server answers `errors` one after the other, and then 1. Returns the result and
    /// what the server was sent.
    fn run(&self, errors: &[&str]) -> (Result<Value, StoreError>, Vec<String>) {
        for error in errors {
            let body = json!({"error": error}).to_string();
            self.effects.reply(Ok(RedisResponse { status: 400, body }));
        }
        let body = r#"{"result":1}"#.to_owned();
        self.effects.reply(Ok(RedisResponse { status: 200, body }));
        let call = ScriptCall::default();
        let ran = self.rest.run_script_for_value(&SCRIPT, &call);
        let ran = ran.now_or_never().unwrap();
        // Drop the answers that were not needed.
        self.effects.take_replies();
        let sent = |(body, _): &(String, Millis)| {
            serde_json::from_str::<Command>(body).unwrap()[..2].join(" ")
        };
        (ran, self.effects.calls().iter().map(sent).collect())
    }

    fn form(&self) -> ScriptForm {
        self.rest.script_form().unwrap()
    }
}

fn both(flagged: &[&str], plain: &[&str]) -> Vec<String> {
    let all = flagged.iter().chain(plain);
    all.map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_refused_flag_is_remembered_by_all_clones_and_logged_once() {
    let server = Transport::new();
    assert_eq!(server.form(), ScriptForm::Flagged);
    let (ran, sent) = server.run(&[NOSCRIPT, REFUSED, NOSCRIPT]);
    assert_eq!((ran, sent), (Ok(json!(1)), both(&FLAGGED, &PLAIN)));
    assert_eq!(server.rest.clone().script_form(), Some(ScriptForm::Plain));
    for _ in 0..3 {
        assert_eq!(server.run(&[]).1, PLAIN[..1]);
    }
    assert_eq!(
        server.run(&[NOSCRIPT]).1,
        PLAIN,
        "the text is sent to a server that was restarted"
    );
    let log = server.effects.lines();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("allow-key-locking"));
}

/// A call that fails for another reason returns that reason.
#[test]
fn only_a_refused_flag_changes_the_form() {
    let refused = |word: &str| StoreError::Refused(word.to_owned());
    let quoting = "ERR unknown command 'EVAL', with args beginning with: '#!lua flags=allow-key-locking\n-- Invalid flag: script shebang' '0' ";
    for (error, expected) in [
        (
            "NOPERM this user has no permissions to run the 'eval' command",
            StoreError::NotPermitted,
        ),
        (
            "ERR The user executing the script can't run this command or subcommand",
            StoreError::NotPermitted,
        ),
        (quoting, StoreError::UnknownCommand),
        (
            "ERR Command is not available: 'EVAL'",
            StoreError::UnknownCommand,
        ),
        (
            "ERR Unknown Redis command called from script script: flagged",
            StoreError::UnknownCommand,
        ),
        (
            "WRONGPASS invalid or missing auth token",
            StoreError::Unauthorized,
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            refused("OOM"),
        ),
        (
            "READONLY You can't write against a read only replica.",
            refused("READONLY"),
        ),
        (
            "LOADING Redis is loading the dataset in memory",
            refused("LOADING"),
        ),
        ("BUSY Redis is busy running a script.", refused("BUSY")),
        ("MOVED 1 127.0.0.1:1 shebang", refused("MOVED")),
        (
            "ERR Error running script (call to f_0): @user_script:1: x",
            refused("ERR"),
        ),
        (
            "ERR user_script:9: attempt to index a nil value",
            refused("ERR"),
        ),
        (
            "ERR max requests limit exceeded. Limit: 1",
            StoreError::OverQuota,
        ),
    ] {
        for before in [&[][..], &[NOSCRIPT]] {
            let server = Transport::new();
            let (ran, sent) = server.run(&[before, &[error]].concat());
            assert_eq!(ran, Err(expected.clone()), "{error}");
            assert_eq!(sent, FLAGGED[..=before.len()], "{error}");
            assert_eq!(server.form(), ScriptForm::Flagged, "{error}");
            assert_eq!(server.run(&[]).1, FLAGGED[..1], "{error}");
        }
    }
}

/// Without this, a server that answers slowly would never be sent the form that it accepts.
#[test]
fn after_a_timeout_the_next_call_starts_with_the_plain_form() {
    let server = Transport::new();
    server.effects.set_latency(600);
    let slow = server.run(&[NOSCRIPT, REFUSED]);
    assert_eq!(slow, (Err(StoreError::Timeout), both(&FLAGGED, &[])));
    assert_eq!(server.run(&[NOSCRIPT]), (Ok(json!(1)), both(&[], &PLAIN)));
    assert_eq!(server.run(&[]).1, PLAIN[..1]);
}

#[test]
fn all_attempts_together_wait_no_longer_than_one_timeout() {
    let server = Transport::new();
    server.effects.set_latency(200);
    for error in [NOSCRIPT, REFUSED, NOSCRIPT] {
        let body = json!({"error": error}).to_string();
        server
            .effects
            .reply(Ok(RedisResponse { status: 400, body }));
    }
    let call = ScriptCall::default();
    let ran = server
        .rest
        .run_script_for_value(&SCRIPT, &call)
        .now_or_never();
    assert_eq!(
        ran,
        Some(Err(StoreError::Unreachable)),
        "the last attempt has no answer"
    );
    let waits: Vec<u64> = server
        .effects
        .calls()
        .iter()
        .map(|call| call.1.get())
        .collect();
    assert_eq!(waits, [1000, 800, 600, 400]);
    assert_eq!(
        server.form(),
        ScriptForm::Plain,
        "the refusal is remembered"
    );
}

/// The refusal may have been a mistake, or another server may answer. If the flag is still refused, trying costs
/// one call, and does not send the script's text.
#[test]
fn a_refused_flag_is_tried_again_after_an_hour() {
    const HOUR: u64 = 3_600_000;
    let server = Transport::new();
    let _ = server.run(&[NOSCRIPT, REFUSED, NOSCRIPT]);
    server.effects.set(HOUR - 1);
    assert_eq!(server.run(&[]).1, PLAIN[..1]);
    server.effects.set(HOUR);
    let again = server.run(&[NOSCRIPT]);
    assert_eq!(again, (Ok(json!(1)), both(&FLAGGED[..1], &PLAIN[..1])));
    assert_eq!(server.run(&[]).1, PLAIN[..1]);
    server.effects.set(2 * HOUR);
    assert_eq!(server.run(&[]), (Ok(json!(1)), both(&FLAGGED[..1], &[])));
    assert_eq!(server.form(), ScriptForm::Flagged);
    assert_eq!(
        server.run(&[NOSCRIPT]).1,
        FLAGGED,
        "a server without the script is sent its text, as by a new isolate"
    );
    // Setting the clock back does not prolong the refusal.
    server.effects.set(3 * HOUR);
    let _ = server.run(&[REFUSED]);
    server.effects.set(2 * HOUR);
    assert_eq!(server.form(), ScriptForm::Flagged);
}

/// A mistaken refusal costs what a right one costs: the decision is made, and later decisions take one call.
#[test]
fn a_mistaken_refusal_fails_no_call() {
    let server = Transport::new();
    assert_eq!(server.run(&[]).1, FLAGGED[..1]);
    let once = server.run(&[REFUSED, NOSCRIPT]);
    let sent = both(&FLAGGED[..1], &PLAIN);
    assert_eq!(once, (Ok(json!(1)), sent));
    assert_eq!(server.run(&[]).1, PLAIN[..1]);
}

/// The call fails after at most four attempts, without a loop.
#[test]
fn a_script_fails_if_the_server_refuses_both_forms() {
    let server = Transport::new();
    let refused = server.run(&[NOSCRIPT, REFUSED, NOSCRIPT, REFUSED]);
    let failed = Err(StoreError::NotCompiled);
    assert_eq!(refused, (failed.clone(), both(&FLAGGED, &PLAIN)));
    let refused = server.run(&[NOSCRIPT, REFUSED]);
    assert_eq!(refused, (failed, both(&[], &PLAIN)));
    let lost = server.run(&[NOSCRIPT, NOSCRIPT]);
    let noscript = StoreError::Refused("NOSCRIPT".to_owned());
    assert_eq!(lost, (Err(noscript), both(&[], &PLAIN)));
}
