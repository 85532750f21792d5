//! Tests of bounds, pages and clocks. `tests/control/blocks.test.mjs` tests how blocks are set, listed and lifted.

use futures_util::FutureExt;

use super::{BlockError, MAX_RANGES};
use crate::blocklist::pages::BlockCursor;
use crate::blocklist::{Block, BlockTarget, BlockedBy};
use crate::client::Ipv6Prefix;
use crate::events::EventBatch;
use crate::redis::emulator::Emulator;
use crate::redis::keys::{Keys, RedisKey};
use crate::redis::records::Records;
use crate::redis::{command, number_of};
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

fn at(seconds: u32) -> Timestamp {
    START + Millis::from_secs(seconds)
}

fn records() -> Records<Emulator> {
    Records::new(Emulator::default(), Keys::new("t:"))
}

fn target(text: &str) -> BlockTarget {
    BlockTarget::parse(text, Ipv6Prefix::default()).unwrap()
}

/// Blocks `text` at second `from` for `seconds`.
fn block(
    records: &Records<Emulator>,
    text: &str,
    from: u32,
    seconds: u32,
) -> Result<(), BlockError> {
    let block = Block {
        until: Some(at(from + seconds).as_millis()),
        since: at(from).as_millis(),
        by: BlockedBy::Operator,
        reason: None,
    };
    let target = target(text);
    let set = records.block(&target, &block, at(from));
    set.now_or_never().unwrap()
}

#[test]
fn the_number_of_blocks_is_bounded_and_ended_ones_make_room() {
    for kind in ["", "/31"] {
        let records = records();
        let name = |number: u64| format!("10.{}.{}.0{kind}", number >> 8, number & 255);
        for number in 0..MAX_RANGES {
            assert_eq!(block(&records, &name(number), 0, 60), Ok(()));
        }
        assert_eq!(
            block(&records, &name(MAX_RANGES), 0, 60),
            Err(BlockError::Full(MAX_RANGES))
        );
        assert_eq!(
            block(&records, &name(7), 1, 60),
            Ok(()),
            "a block of the same target is replaced"
        );
        assert_eq!(block(&records, &name(MAX_RANGES), 60, 60), Ok(()));
        let page = records
            .blocks(&BlockCursor::FIRST, 1000, at(60))
            .now_or_never();
        let listed: Vec<String> = page
            .unwrap()
            .unwrap()
            .blocks
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let expected = [7, MAX_RANGES].map(|number| target(&name(number)).text());
        assert_eq!(listed, expected);
    }
}

#[test]
fn a_cursor_parses_back_from_its_text() {
    for cursor in [
        BlockCursor::FIRST,
        BlockCursor::Addresses(5, "192.0.2.1".to_owned()),
        BlockCursor::Addresses(5, "2001:db8::/64".to_owned()),
        BlockCursor::Ranges("10.0.0.0/8".to_owned()),
    ] {
        assert_eq!(BlockCursor::parse(&cursor.text()), Some(cursor));
    }
    for text in [
        "",
        "a",
        "a5",
        "a-5",
        "a5-x",
        "r",
        "rx",
        "x5-5",
        "a99999999999999999999-192.0.2.1",
        "a5-192.0.2.0/24",
        "a5-010.0.0.1",
    ] {
        assert_eq!(BlockCursor::parse(text), None, "{text}");
    }
}

fn names(
    records: &Records<Emulator>,
    cursor: &BlockCursor,
    most: usize,
    seconds: u32,
) -> (Vec<String>, Option<BlockCursor>) {
    let page = records.blocks(cursor, most, at(seconds)).now_or_never();
    let page = page.unwrap().unwrap();
    let names = page.blocks.into_iter().map(|(name, _)| name).collect();
    (names, page.next)
}

/// The number of entries of a list or hash, as the command `read` counts them.
fn entries(records: &Records<Emulator>, read: &str, key: RedisKey<'_>) -> u64 {
    let read = command([read, &records.key(key)]);
    let [reply] = records.run([read], START).now_or_never().unwrap().unwrap();
    number_of(&reply)
}

#[test]
fn a_clock_an_hour_ahead_removes_no_block() {
    let records = records();
    for text in ["192.0.2.1", "10.0.0.0/8"] {
        block(&records, text, 0, 600).unwrap();
    }
    let list = |key: &str, seconds: u32| {
        let batch = EventBatch {
            blocks: vec![(key.to_owned(), at(seconds + 600).as_millis())],
            ..EventBatch::default()
        };
        let written = records.record(&batch, at(seconds));
        written.now_or_never().unwrap().unwrap();
    };
    list("auth:192.0.2.2", 0);
    let lists = || {
        [
            entries(&records, "ZCARD", RedisKey::BlockedAddresses),
            entries(&records, "ZCARD", RedisKey::BlockedPolicies),
            // One of the fields is the version.
            entries(&records, "HLEN", RedisKey::BlockedRanges),
        ]
    };
    assert_eq!(lists(), [1, 1, 2]);
    // By that clock all blocks have ended.
    assert_eq!(
        names(&records, &BlockCursor::FIRST, 10, 3600).0,
        Vec::<String>::new()
    );
    let policies = records.policy_blocks(10, at(3600)).now_or_never();
    assert_eq!(policies.unwrap(), Ok(Vec::new()));
    assert_eq!(lists(), [1, 1, 2], "reading removes nothing");
    for text in ["192.0.2.3", "172.16.0.0/12"] {
        block(&records, text, 3600, 600).unwrap();
    }
    list("auth:192.0.2.4", 3600);
    assert_eq!(lists(), [2, 2, 3], "writing removes nothing");
}

#[test]
fn pages_skip_no_block_when_earlier_ones_are_lifted() {
    for most in [1, 2, 5, 11] {
        let records = records();
        let all: Vec<String> = (10..22).map(|last| format!("192.0.2.{last}")).collect();
        for name in &all {
            block(&records, name, 0, 600).unwrap();
        }
        let (mut seen, mut next) = names(&records, &BlockCursor::FIRST, most, 1);
        for lifted in &all[..2] {
            let lifted = records.lift(&target(lifted), at(1)).now_or_never();
            assert_eq!(lifted.unwrap(), Ok(true));
        }
        while let Some(cursor) = next {
            assert_eq!(BlockCursor::parse(&cursor.text()).as_ref(), Some(&cursor));
            let (more, after) = names(&records, &cursor, most, 1);
            seen.extend(more);
            next = after;
        }
        seen.retain(|name| !all[..2].contains(name));
        assert_eq!(seen, all[2..], "pages of {most} blocks");
    }
}

#[test]
fn a_later_block_removes_those_that_ended_a_day_ago_from_the_lists() {
    const DAYS: u32 = 24 * 60 * 60;
    let records = records();
    for (last, seconds) in [(1, 0), (2, 0), (3, 2 * DAYS)] {
        block(&records, &format!("192.0.2.{last}"), seconds, 60).unwrap();
        let batch = EventBatch {
            blocks: vec![(format!("auth:{last}"), at(seconds + 60).as_millis())],
            ..EventBatch::default()
        };
        let written = records.record(&batch, at(seconds));
        written.now_or_never().unwrap().unwrap();
    }
    for key in [RedisKey::BlockedAddresses, RedisKey::BlockedPolicies] {
        assert_eq!(entries(&records, "ZCARD", key), 1);
    }
}
