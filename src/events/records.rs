//! The records of events: isolates write them in batches, and operators read them in pages. Counts of denials are kept
//! next to them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Event, EventBatch};
use crate::error::StoreError;
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, number_of, pairs};
use crate::time::{Millis, Timestamp};

/// The policy of an event in which an address's block denies.
pub const BLOCKED: &str = "blocked";

/// The most records that are kept.
const MAX_EVENTS: usize = 5000;
/// How long records are kept: a week.
const EVENTS_TTL: Millis = Millis::from_secs(7 * 24 * 60 * 60);

/// The most pairs of a caller and a policy whose denials are counted in an hour.
const MAX_SUSPICIOUS_PER_HOUR: usize = 10_000;
/// The number of hours for which denials are counted, the current one included.
pub const HOURS: u32 = 24;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// The most pairs of an hour that are read.
const READ_PER_HOUR: usize = 1000;

/// The cost of a batch, in commands: the script that writes it, and its parts. Denials cost one more for each pair of a
/// caller and a policy.
pub(super) const COMMANDS_OF_SCRIPT: usize = 1;
pub(super) const COMMANDS_OF_EVENTS: usize = 4;
pub(super) const COMMANDS_OF_LEFT_OUT: usize = 2;
pub(super) const COMMANDS_OF_BLOCKS: usize = 4;
pub(super) const COMMANDS_OF_DENIALS: usize = 2;

/// A page of events, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The records, in the JSON in which [`Event`]s were written.
    pub events: Vec<Value>,
    /// The number of events of the last week that no record counts.
    pub left_out: u64,
    /// Where the next page begins. `None`: this is the last page.
    pub next: Option<EventCursor>,
}

/// Where a page begins: after `skipped` records of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCursor {
    /// In ms since the epoch.
    moment: u64,
    skipped: usize,
}

impl EventCursor {
    /// Writes the cursor as it appears in a URL.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}-{}", self.moment, self.skipped)
    }

    /// Reads what [`text`](Self::text) wrote. `None`: it is no cursor.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (moment, skipped) = text.split_once('-')?;
        let cursor = Self {
            moment: moment.parse().ok()?,
            skipped: skipped.parse().ok()?,
        };
        (cursor.moment < 1 << 53 && cursor.skipped <= MAX_EVENTS).then_some(cursor)
    }
}

/// A caller that its own quotas denied often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicious {
    /// The caller's key.
    pub caller: String,
    /// The number of denials.
    pub denied: u64,
    /// The number of denials by each policy.
    pub policies: BTreeMap<String, u64>,
}

impl<D: Database> Records<D> {
    /// Writes a batch.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database. The batch may have been written nevertheless.
    pub async fn record(&self, batch: &EventBatch, now: Timestamp) -> Result<(), StoreError> {
        let mut commands = self.append(&batch.events, now);
        if batch.left_out > 0 {
            let key = self.key(RedisKey::EventsLeftOut);
            commands.push(command(["INCRBY", &key, &batch.left_out.to_string()]));
            commands.push(command(["PEXPIRE", &key, &EVENTS_TTL.get().to_string()]));
        }
        if !batch.denials.is_empty() {
            let key = self.key(RedisKey::Suspicious(now.as_millis() / HOUR_MS));
            for denials in &batch.denials {
                for (policy, count) in &denials.policies {
                    let member = format!("{policy} {}", denials.caller);
                    commands.push(command(["ZINCRBY", &key, &count.to_string(), &member]));
                }
            }
            commands.push(bound(&key, MAX_SUSPICIOUS_PER_HOUR));
            let expiry = (u64::from(HOURS) + 1) * HOUR_MS;
            commands.push(command(["PEXPIRE", &key, &expiry.to_string()]));
        }
        if !batch.blocks.is_empty() {
            commands.extend(self.policy_list_commands(&batch.blocks, now));
        }
        self.run_all(commands, now).await.map(drop)
    }

    /// The commands that add events, and remove what exceeds the bounds of the log.
    pub(super) fn append(&self, events: &[Event], now: Timestamp) -> Vec<Command> {
        if events.is_empty() {
            return Vec::new();
        }
        let key = self.key(RedisKey::Events);
        let mut add = command(["ZADD", &key]);
        for event in events {
            add.push(event.last.to_string());
            add.push(serde_json::to_string(event).unwrap_or_default());
        }
        vec![
            add,
            self.tidying_of_events(now),
            bound(&key, MAX_EVENTS),
            command(["PEXPIRE", &key, &EVENTS_TTL.get().to_string()]),
        ]
    }

    /// The command that removes events from the log that are too old.
    pub(crate) fn tidying_of_events(&self, now: Timestamp) -> Command {
        let oldest = (now - EVENTS_TTL).as_millis().to_string();
        command([
            "ZREMRANGEBYSCORE",
            &self.key(RedisKey::Events),
            "-inf",
            &oldest,
        ])
    }

    /// The commands that add one event. They leave the bounds of the log to the next batch.
    pub(super) fn append_one(&self, event: &Event) -> [Command; 2] {
        let key = self.key(RedisKey::Events);
        let record = serde_json::to_string(event).unwrap_or_default();
        [
            command(["ZADD", &key, &event.last.to_string(), &record]),
            command(["PEXPIRE", &key, &EVENTS_TTL.get().to_string()]),
        ]
    }

    /// Reads at most `most` events, the newest first, from `cursor` on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn events(
        &self,
        cursor: Option<EventCursor>,
        most: usize,
        now: Timestamp,
    ) -> Result<EventPage, StoreError> {
        let (from, skipped) = match cursor {
            Some(cursor) => (cursor.moment.to_string(), cursor.skipped),
            None => ("+inf".to_owned(), 0),
        };
        let [listed, left_out] = self
            .run(
                [
                    page_of(&self.key(RedisKey::Events), &from, skipped, most + 1),
                    command(["GET", &self.key(RedisKey::EventsLeftOut)]),
                ],
                now,
            )
            .await?;
        let listed = pairs(&listed);
        let mut page = EventPage {
            left_out: number_of(&left_out),
            ..EventPage::default()
        };
        let mut at = cursor.unwrap_or(EventCursor {
            moment: u64::MAX,
            skipped: 0,
        });
        for (record, moment) in listed.iter().take(most) {
            let moment = moment.parse().unwrap_or_default();
            let skipped = if moment == at.moment {
                at.skipped + 1
            } else {
                1
            };
            at = EventCursor { moment, skipped };
            let event = json::value(record);
            page.events.extend(event.filter(Value::is_object));
        }
        page.next = (listed.len() > most).then_some(at);
        Ok(page)
    }

    /// Removes the events before `before`, and returns how many records that were.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn forget_events(
        &self,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let before = before.as_millis().to_string();
        let forget = command([
            "ZREMRANGEBYSCORE",
            &self.key(RedisKey::Events),
            "-inf",
            &before,
        ]);
        let [removed] = self.run([forget], now).await?;
        Ok(number_of(&removed))
    }

    /// Returns the callers with the most denials in the last `hours` hours, the current one included. Of each hour, only
    /// the 1,000 pairs of a caller and a policy with the most denials count.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn suspicious(
        &self,
        hours: u32,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<Suspicious>, StoreError> {
        let latest = now.as_millis() / HOUR_MS;
        let reads = (0..u64::from(hours.min(HOURS)))
            .map(|back| self.key(RedisKey::Suspicious(latest.saturating_sub(back))))
            .map(|key| page_of(&key, "+inf", 0, READ_PER_HOUR));
        let replies = self.run_all(reads.collect(), now).await?;
        // Sorted by caller and policy, so that the counts of one caller follow each other.
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (member, count) in replies.iter().flat_map(pairs) {
            let Some((policy, caller)) = member.split_once(' ') else {
                continue;
            };
            let count: u64 = count.parse().unwrap_or_default();
            *counts.entry(format!("{caller} {policy}")).or_default() += count;
        }
        let mut list: Vec<Suspicious> = Vec::new();
        for (member, count) in counts {
            let Some((caller, policy)) = member.split_once(' ') else {
                continue;
            };
            if list.last().is_none_or(|last| last.caller != caller) {
                list.push(Suspicious {
                    caller: caller.to_owned(),
                    ..Suspicious::default()
                });
            }
            if let Some(last) = list.last_mut() {
                last.denied += count;
                last.policies.insert(policy.to_owned(), count);
            }
        }
        list.sort_unstable_by(|a, b| (b.denied, &a.caller).cmp(&(a.denied, &b.caller)));
        list.truncate(most);
        Ok(list)
    }
}

fn bound(key: &str, most: usize) -> Command {
    command(["ZREMRANGEBYRANK", key, "0", &format!("-{}", most + 1)])
}

fn page_of(key: &str, from: &str, skipped: usize, most: usize) -> Command {
    let [skipped, most] = [skipped.to_string(), most.to_string()];
    command([
        "ZREVRANGEBYSCORE",
        key,
        from,
        "-inf",
        "WITHSCORES",
        "LIMIT",
        &skipped,
        &most,
    ])
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::Value;

    use super::{EventCursor, EventPage};
    use crate::events::tests::{ALL, denied};
    use crate::events::{Details, Recorder};
    use crate::redis::emulator::Emulator;
    use crate::redis::keys::Keys;
    use crate::redis::records::Records;
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::{Millis, Timestamp};

    fn at(seconds: u32) -> Timestamp {
        START + Millis::from_secs(seconds)
    }

    struct Log {
        recorder: Recorder,
        records: Records<Emulator>,
    }

    impl Log {
        fn new() -> Self {
            Self {
                recorder: Recorder::new(Seed::fixed()),
                records: Records::new(Emulator::default(), Keys::new("t:")),
            }
        }

        fn deny(&self, caller: &str, policy: &str, times: u32, seconds: u32) {
            for _ in 0..times {
                let key = denied(caller, policy);
                self.recorder
                    .record(&key, at(seconds), &mut Details::default);
                self.recorder.count_denial(key.caller, policy, at(seconds));
            }
        }

        fn write(&self, seconds: u32) {
            let batch = self.recorder.take(ALL);
            let written = self.records.record(&batch, at(seconds));
            written.now_or_never().unwrap().unwrap();
        }

        fn page(&self, cursor: Option<EventCursor>, most: usize, seconds: u32) -> EventPage {
            let page = self.records.events(cursor, most, at(seconds));
            page.now_or_never().unwrap().unwrap()
        }
    }

    #[test]
    fn pages_contain_every_event_once_the_newest_first() {
        let log = Log::new();
        for second in 0..10 {
            for caller in 0..25 {
                log.deny(&format!("c{caller}"), "auth", 1, second);
            }
            log.write(second);
        }
        let (mut cursor, mut seen) = (None, Vec::new());
        loop {
            let page = log.page(cursor, 7, 10);
            assert!(page.events.len() <= 7);
            seen.extend(page.events);
            let Some(next) = page.next else { break };
            assert_eq!(EventCursor::parse(&next.text()), Some(next));
            cursor = Some(next);
        }
        assert_eq!(seen.len(), 250);
        let last = |event: &Value| event["last"].as_u64().unwrap();
        assert!(seen.windows(2).all(|two| last(&two[0]) >= last(&two[1])));
        let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
        seen.sort_by_key(id);
        seen.dedup_by_key(|event| id(event));
        assert_eq!(seen.len(), 250, "no event is on two pages");
    }

    #[test]
    fn the_log_is_bounded_by_number_and_age() {
        let log = Log::new();
        for second in 0..60 {
            for caller in 0..150 {
                log.deny(&format!("c{caller}"), "auth", 1, second);
            }
            log.write(second);
        }
        let page = log.page(None, 10_000, 60);
        assert_eq!((page.events.len(), page.left_out), (5000, 60 * 50));
        log.deny("late", "auth", 1, 8 * 86_400);
        log.write(8 * 86_400);
        assert_eq!(log.page(None, 10_000, 8 * 86_400).events.len(), 1);
    }

    #[test]
    fn forget_events_removes_the_events_before_a_moment() {
        let log = Log::new();
        for second in [0, 100, 200] {
            log.deny("a", "auth", 1, second);
            log.write(second);
        }
        let forget = |before| {
            let forgotten = log.records.forget_events(at(before), at(200));
            forgotten.now_or_never().unwrap().unwrap()
        };
        assert_eq!([forget(99), forget(100), forget(100)], [1, 1, 0]);
        assert_eq!(log.page(None, 10, 200).events.len(), 1);
    }

    #[test]
    fn callers_with_the_most_denials_come_first_with_their_policies() {
        let log = Log::new();
        log.deny("2001:db8::/64", "auth", 5, 0);
        log.deny("2001:db8::/64", "mfa", 2, 0);
        log.deny("192.0.2.1", "auth", 6, 0);
        log.write(0);
        log.deny("192.0.2.2", "auth", 9, 3600);
        log.write(3600);
        let asked = |hours, most| {
            let found = log.records.suspicious(hours, most, at(3600));
            let found = found.now_or_never().unwrap().unwrap();
            found
                .into_iter()
                .map(|known| (known.caller, known.denied))
                .collect::<Vec<_>>()
        };
        let expected = [("192.0.2.2", 9), ("2001:db8::/64", 7), ("192.0.2.1", 6)]
            .map(|(a, b)| (a.to_owned(), b));
        assert_eq!(asked(24, 10), expected);
        assert_eq!(asked(2, 1), expected[..1]);
        assert_eq!(asked(1, 10), expected[..1]);
        let found = log
            .records
            .suspicious(24, 10, at(3600))
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(
            format!("{:?}", found[1].policies),
            r#"{"auth": 5, "mfa": 2}"#
        );
    }
}
