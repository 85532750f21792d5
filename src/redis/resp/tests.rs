use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn state_for(replies: usize) -> String {
    format!("0 {replies}")
}

/// Reads `bytes` in pieces that end at `cuts`, as a host does.
fn in_pieces(replies: usize, bytes: &[u8], cuts: &[usize]) -> Parse {
    let (mut state, mut whole) = (state_for(replies), String::new());
    let (mut read_to, mut needed) = (0, 1);
    for cut in cuts.iter().chain([&bytes.len()]) {
        if cut - read_to < needed {
            continue;
        }
        match read(&state, &bytes[read_to..*cut]) {
            Parse::Incomplete {
                read,
                needed: more,
                state: next,
                json,
            } => {
                assert!(
                    more > cut - read_to - read,
                    "the bytes that have arrived were enough to read on"
                );
                (state, needed) = (next, more);
                read_to += read;
                whole.push_str(&json);
            }
            Parse::Result(json) => return Parse::Result(whole + &json),
            other => return other,
        }
    }
    Parse::Incomplete {
        read: read_to,
        needed,
        state,
        json: whole,
    }
}

fn at_once(replies: usize, bytes: &[u8]) -> Parse {
    in_pieces(replies, bytes, &[])
}

fn result(text: &str) -> Parse {
    Parse::Result(text.to_owned())
}

fn encoded(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => b"$-1\r\n".to_vec(),
        Value::Number(number) => format!(":{number}\r\n").into_bytes(),
        Value::String(text) => format!("${}\r\n{text}\r\n", text.len()).into_bytes(),
        Value::Array(list) => {
            let mut bytes = format!("*{}\r\n", list.len()).into_bytes();
            list.iter().for_each(|item| bytes.extend(encoded(item)));
            bytes
        }
        Value::Object(error) => format!("-{}\r\n", error["error"].as_str().unwrap()).into_bytes(),
        Value::Bool(_) => unreachable!(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\\r\\n$*:+-]{0,6}".prop_map(Value::from),
        "[ -~]{0,9}".prop_map(|text| json!({ "error": text })),
    ];
    leaf.prop_recursive(6, 40, 8, |inner| {
        prop::collection::vec(inner, 0..8).prop_map(Value::from)
    })
}

proptest! {
    #[test]
    fn a_reply_is_read_in_whatever_pieces_it_arrives(
        value in any_value(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ignored in 0_usize..3,
    ) {
        let mut bytes = b"+OK\r\n".repeat(ignored);
        bytes.extend(encoded(&value));
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let expected = match &value {
            Value::Object(error) => Parse::Error(error["error"].as_str().unwrap().to_owned()),
            value => result(&value.to_string()),
        };
        prop_assert_eq!(in_pieces(ignored + 1, &bytes, &cuts), expected);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_within_bounds(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "([+:$*-]{0,2}[0-9-]{0,20}(\r\n)?){0,9}".prop_map(String::into_bytes),
        ],
        state in prop_oneof!["[0-9 ]{0,30}", Just(state_for(2))],
    ) {
        if let Parse::Incomplete { read, needed, .. } = read(&state, &bytes) {
            prop_assert!(read <= bytes.len() && needed <= MAX_REPLY_BYTES + 100);
        }
    }
}

#[test]
fn values_are_written_as_the_rest_api_writes_them() {
    for (bytes, expected) in [
        (&b"+OK\r\n"[..], "\"OK\""),
        (b"+\r\n", "\"\""),
        (b":0\r\n", "0"),
        (b":-9223372036854775808\r\n", "-9223372036854775808"),
        (b"$0\r\n\r\n", "\"\""),
        (b"$2\r\n\r\n\r\n", "\"\\r\\n\""),
        (b"$-1\r\n", "null"),
        (b"*-1\r\n", "null"),
        (b"*0\r\n", "[]"),
        (b"*2\r\n*0\r\n*1\r\n*-1\r\n", "[[],[null]]"),
        (
            b"*3\r\n$-1\r\n$1\r\n7\r\n*2\r\n:1\r\n:2\r\n",
            "[null,\"7\",[1,2]]",
        ),
        (
            b"*2\r\n:1\r\n-ERR no \"number\"\r\n",
            "[1,{\"error\":\"ERR no \\\"number\\\"\"}]",
        ),
        // This bulk string is not UTF-8.
        (b"$3\r\na\xffb\r\n", "\"a\u{fffd}b\""),
    ] {
        assert_eq!(at_once(1, bytes), result(expected));
    }
}

#[test]
fn several_replies_return_the_last_one_or_the_first_error() {
    let error = |text: &str| Parse::Error(text.to_owned());
    assert_eq!(at_once(3, b"+OK\r\n*1\r\n:5\r\n:7\r\n"), result("7"));
    assert_eq!(
        at_once(2, b"-WRONGPASS invalid\r\n-NOAUTH required\r\n"),
        error("WRONGPASS invalid")
    );
    assert_eq!(at_once(2, b"+OK\r\n-NOPERM no\r\n"), error("NOPERM no"));
    // Further replies are not awaited.
    assert_eq!(
        at_once(3, b"-WRONGPASS invalid\r\n"),
        error("WRONGPASS invalid")
    );
}

#[test]
fn bytes_that_are_no_reply_are_malformed() {
    let long_line = [b"+".to_vec(), vec![b'a'; MAX_LINE_BYTES]].concat();
    let deep = b"*1\r\n".repeat(MAX_DEPTH);
    let too_long = format!("${}\r\n", MAX_REPLY_BYTES + 1);
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"\r\n",
        b"\0",
        b"_\r\n",
        b":\r\n",
        b":1x\r\n",
        b":9223372036854775808\r\n",
        b"$-5\r\n",
        b"*-5\r\n",
        b"$ 1\r\na\r\n",
        b"$\r\n",
        b"*\r\n",
        b"*1000000000\r\n",
        b"*99999999999999999999\r\n",
        b"$99999999999999999999\r\n",
        too_long.as_bytes(),
        // This string is longer than its length says.
        b"$1\r\nabc\r\n",
        &long_line,
        &deep,
    ] {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(at_once(1, bytes), Parse::Malformed, "{text:.80}");
    }
    for state in ["", "0", "0 0", "x 1", "0 1 ", "-1 1"] {
        assert_eq!(read(state, b":1\r\n"), Parse::Malformed, "{state}");
    }
}

#[test]
fn an_answer_without_end_is_malformed() {
    let value = [
        b"$1000000\r\n".to_vec(),
        vec![b'a'; 1_000_000],
        b"\r\n".to_vec(),
    ]
    .concat();
    let mut state = state_for(1);
    let mut bytes = [b"*1000\r\n", &value[..]].concat();
    let mut calls = 0;
    while let Parse::Incomplete { state: next, .. } = read(&state, &bytes) {
        state = next;
        bytes.clone_from(&value);
        calls += 1;
    }
    assert_eq!(read(&state, &bytes), Parse::Malformed);
    assert_eq!(calls, MAX_REPLY_BYTES / value.len());
}

/// How many bytes are passed again depends on the size of the pieces, not on that of the answer.
#[test]
fn a_large_answer_in_small_pieces_is_passed_less_than_twice() {
    let ranges: Vec<Value> = (0..20_000).map(|i| json!(format!("range {i}"))).collect();
    for value in [Value::from(ranges), json!("x".repeat(1_000_000))] {
        let bytes = encoded(&value);
        let (mut state, mut passed) = (state_for(1), 0);
        let (mut read_to, mut needed, mut arrived) = (0, 1, 0);
        loop {
            arrived = (arrived + 100).min(bytes.len());
            if arrived - read_to < needed {
                continue;
            }
            passed += arrived - read_to;
            match read(&state, &bytes[read_to..arrived]) {
                Parse::Incomplete {
                    read,
                    needed: more,
                    state: next,
                    ..
                } => {
                    (state, needed) = (next, more);
                    read_to += read;
                }
                other => {
                    assert!(matches!(other, Parse::Result(_)));
                    break;
                }
            }
        }
        assert!(passed < 2 * bytes.len(), "{passed} of {}", bytes.len());
    }
}
