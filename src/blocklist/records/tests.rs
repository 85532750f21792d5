//! Bounds; what is set, listed and lifted is tested where it is served, `tests/control/blocks.test.mjs`.

use futures_util::FutureExt;

use super::{MAX_RANGES, NotSet};
use crate::blocklist::pages::Cursor;
use crate::blocklist::{Block, By, Target};
use crate::client::Ipv6Prefix;
use crate::redis::emulator::Emulator;
use crate::redis::keys::Keys;
use crate::redis::records::Records;
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

fn at(seconds: u32) -> Timestamp {
    START + Millis::from_secs(seconds)
}

fn records() -> Records<Emulator> {
    Records::new(Emulator::default(), Keys::new("t:"))
}

fn target(text: &str) -> Target {
    Target::parse(text, Ipv6Prefix::default()).unwrap()
}

/// Blocks `text` from `from` for so many seconds.
fn block(records: &Records<Emulator>, text: &str, from: u32, seconds: u32) -> Result<(), NotSet> {
    let block = Block {
        until: Some(at(from + seconds).as_millis()),
        since: at(from).as_millis(),
        by: By::Operator,
        reason: None,
    };
    let target = target(text);
    let set = records.block(&target, &block, at(from));
    set.now_or_never().unwrap()
}

#[test]
fn there_is_an_end_to_blocks_and_those_that_have_ended_make_room() {
    for kind in ["", "/31"] {
        let records = records();
        let name = |number: u64| format!("10.{}.{}.0{kind}", number >> 8, number & 255);
        for number in 0..MAX_RANGES {
            assert_eq!(block(&records, &name(number), 0, 60), Ok(()));
        }
        assert_eq!(
            block(&records, &name(MAX_RANGES), 0, 60),
            Err(NotSet::Full(MAX_RANGES))
        );
        assert_eq!(
            block(&records, &name(7), 1, 60),
            Ok(()),
            "one that is there is replaced"
        );
        assert_eq!(block(&records, &name(MAX_RANGES), 60, 60), Ok(()));
        let page = records.blocks(&Cursor::FIRST, 1000, at(60)).now_or_never();
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
fn a_cursor_is_read_as_it_was_written() {
    for cursor in [
        Cursor::FIRST,
        Cursor::Addresses(5, 7),
        Cursor::Ranges("10.0.0.0/8".to_owned()),
    ] {
        assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
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
        "a99999999999999999999-0",
        "a5-100001",
    ] {
        assert_eq!(Cursor::parse(text), None, "{text}");
    }
}
