//! The emulator against a real Redis: the same commands, the same replies.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::emulator::Emulator;
use super::keys::Keys;
use super::rest::Rest;
use super::{Command, Database, command};
use crate::effects::testing::Manual;
use crate::effects::{Endpoint, Reply};
use crate::error::StoreError;
use crate::store::conformance::{START, check};
use crate::store::redis::RedisStore;
use crate::store::shared::{Question, SharedStore};
use crate::store::stand_in::StandIn;
use crate::time::Millis;

fn words(line: &str) -> Command {
    line.split(' ').map(str::to_owned).collect()
}

/// Commands of every kind, over few keys of each, so that they meet.
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
            .prop_map(|(key, least)| format!("ZCOUNT {key} {least} +inf")),
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
            .prop_map(|(key, most)| format!("ZREMRANGEBYSCORE {key} -inf {most}")),
        (key('z'), 1..5_u8).prop_map(|(key, kept)| format!("ZREMRANGEBYRANK {key} 0 -{kept}")),
        (
            key('z'),
            prop::sample::select(vec!["0", "2", "(2"]),
            0..2_u8,
            0..4_u8
        )
            .prop_map(|(key, least, skipped, most)| {
                format!("ZRANGEBYSCORE {key} {least} +inf WITHSCORES LIMIT {skipped} {most}")
            }),
        (
            key('z'),
            prop::sample::select(vec!["+inf", "2"]),
            0..2_u8,
            0..4_u8
        )
            .prop_map(|(key, most_score, skipped, most)| {
                format!(
                    "ZREVRANGEBYSCORE {key} {most_score} -inf WITHSCORES LIMIT {skipped} {most}"
                )
            }),
        (key('l'), member.clone(), member.clone())
            .prop_map(|(key, a, b)| format!("RPUSH {key} {a} {b}")),
        (key('l'), -5..4_i8, -5..4_i8)
            .prop_map(|(key, first, last)| format!("LRANGE {key} {first} {last}")),
        (key('l'), -5..4_i8).prop_map(|(key, first)| format!("LTRIM {key} {first} -1")),
    ]
}

/// One Redis for all the cases, each of which begins with nothing.
#[test]
fn runs_commands_as_redis_does() {
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
        let asked: Vec<Command> = [clear].into_iter().chain(lines.clone()).collect();
        let theirs = runtime.block_on(redis.run(asked, START)).unwrap().split_off(1);
        let ours = runtime.block_on(Emulator::default().run(lines.clone(), START)).unwrap();
        prop_assert_eq!(ours, theirs, "{:?}", lines);
    });
}

async fn one(database: &Emulator, line: &str, after: u32) -> Result<Value, StoreError> {
    let now = START + Millis::from_secs(after);
    Ok(database.run(vec![words(line)], now).await?.remove(0))
}

#[tokio::test]
async fn a_hash_as_redis_tells_it() {
    let database = Emulator::default();
    for line in ["HSET h b 1", "HSET h a 2"] {
        one(&database, line, 0).await.unwrap();
    }
    assert_eq!(
        one(&database, "HGETALL h", 0).await,
        Ok(json!(["a", "2", "b", "1"]))
    );
}

#[tokio::test]
async fn what_expires_is_gone() {
    let database = Emulator::default();
    one(&database, "SET a 1 PX 5000", 0).await.unwrap();
    one(&database, "ZADD z 1 m", 0).await.unwrap();
    one(&database, "PEXPIRE z 7000", 0).await.unwrap();
    assert_eq!(one(&database, "GET a", 4).await, Ok(json!("1")));
    assert_eq!(
        one(&database, "INCRBY a 2", 4).await,
        Ok(json!(3)),
        "and keeps its end"
    );
    assert_eq!(one(&database, "GET a", 5).await, Ok(Value::Null));
    assert_eq!(one(&database, "ZCARD z", 6).await, Ok(json!(1)));
    assert_eq!(one(&database, "ZCARD z", 7).await, Ok(json!(0)));
}

#[tokio::test]
async fn full_it_drops_what_ends_soonest() {
    let database = Emulator::new(3);
    for line in [
        "SET endless 1",
        "SET late 1 PX 9000",
        "SET soon 1 PX 3000",
        "SET new 1 PX 5000",
    ] {
        one(&database, line, 0).await.unwrap();
    }
    let kept = one(&database, "MGET endless late soon new", 0).await;
    assert_eq!(kept, Ok(json!(["1", "1", null, "1"])));
}

#[tokio::test]
async fn what_it_does_not_know_it_refuses() {
    let database = Emulator::default();
    for line in [
        "FLUSHALL",
        "GET",
        "SET a",
        "ZADD z 1",
        "ZADD z -1 m",
        "HGETALL",
    ] {
        assert!(one(&database, line, 0).await.is_err(), "{line}");
    }
    one(&database, "SET text 1", 0).await.unwrap();
    assert!(one(&database, "HGETALL text", 0).await.is_err());
    one(&database, "HSET hash a 1", 0).await.unwrap();
    let added = one(&database, "INCRBY hash 1", 0).await;
    assert_eq!(added, Err(StoreError::NotANumber), "and leaves it alone");
    assert_eq!(one(&database, "HLEN hash", 0).await, Ok(json!(1)));
    assert_eq!(command(["GET", "a b"]), ["GET", "a b"]);
}

#[tokio::test]
async fn a_command_that_fails_is_told_by_its_first_word() {
    let stand_in = StandIn::start();
    let redis = stand_in.redis();
    let wrong = vec![words("SET k:s 1"), words("HGETALL k:s")];
    let told = redis.run(wrong, START).await;
    assert_eq!(told, Err(StoreError::Refused("WRONGTYPE".to_owned())));
}

#[tokio::test]
async fn each_call_goes_to_its_own_path_and_waits_its_time() {
    let effects = Manual::default();
    let timeout = Millis::new(800);
    let rest = || Rest::new(effects.clone(), timeout);
    let reply = |body: &str| {
        let body = body.to_owned();
        effects.reply(Ok(Reply { status: 200, body }));
    };
    reply(r#"[{"result":"OK"},{"result":null}]"#);
    let lines = vec![words("SET k:s 1"), words("GET k:t")];
    let replies = rest().run(lines, START).await;
    assert_eq!(replies, Ok(vec![json!("OK"), Value::Null]));
    let body = r#"[["SET","k:s","1"],["GET","k:t"]]"#.to_owned();
    assert_eq!(effects.calls(), [(Endpoint::Transaction, body, timeout)]);

    reply(r#"{"error":"NOSCRIPT No matching script."}"#);
    reply(r#"{"result":[null,null]}"#);
    let store = RedisStore::new(rest(), Keys::new("k:"));
    let nothing = check(&[], 1);
    store.ask(&Question::new(&nothing), START).await.unwrap();
    let calls = effects.calls();
    let sent = |body: &str| serde_json::from_str::<Command>(body).unwrap()[0].clone();
    let calls: Vec<_> = (calls.iter())
        .map(|(endpoint, body, timeout)| (*endpoint, sent(body), *timeout))
        .collect();
    let expected = ["EVALSHA", "EVAL"].map(|verb| (Endpoint::Command, verb.to_owned(), timeout));
    assert_eq!(calls, expected);
}

/// Each says what to grant, and where a command's arguments are quoted, nothing of them.
#[test]
fn a_refusal_of_a_command_says_what_redis_lacks() {
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
        let effects = Manual::default();
        let body = json!({"error": error}).to_string();
        effects.reply(Ok(Reply { status: 400, body }));
        let rest = Rest::new(effects, Millis::new(800));
        let store = RedisStore::new(rest, Keys::new("k:"));
        let nothing = check(&[], 1);
        let question = Question::new(&nothing);
        let failed = futures_util::FutureExt::now_or_never(store.ask(&question, START));
        assert_eq!(failed, Some(Err(expected.clone())), "{error}");
        assert!(expected.to_string().contains("docs/redis.md"));
    }
}
