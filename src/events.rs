//! The event log: what was denied, and whatever else an operator wants to know of later.
//!
//! Nothing is written while a request waits. An isolate gathers what happens, like events as one
//! record with a count, and writes all of it [some seconds](FLUSH_AFTER) after the first: a flood
//! costs the database as much as a trickle. What there is no room for is counted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;

use serde::Serialize;

use crate::client::CallerKey;
use crate::seed::Seed;
use crate::time::{Deadline, Millis, Timestamp};

pub mod escalation;
pub mod records;

/// How long after the first event of a batch it is written.
pub const FLUSH_AFTER: Millis = Millis::new(3000);

/// How long nobody else writes a batch while one is to, should that one be cancelled.
const WRITING: Millis = Millis::new(15_000);

/// Distinct events in a batch. Each can cost some commands.
const MAX_EVENTS_PER_BATCH: usize = 100;

/// Bytes of a path that are kept.
const MAX_PATH_BYTES: usize = 256;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A request was denied.
    Denied,
    /// A request was admitted, and the sample took it.
    Admitted,
    /// A request went by the limits with the bypass token.
    Bypassed,
    /// A wrong token came to the control plane.
    Refused,
    /// A caller was blocked for its denials.
    Escalated,
}

/// A record of one event, or of many alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Names it.
    pub id: String,
    /// When the first happened, in ms since the epoch.
    pub time: u64,
    /// When the last happened.
    pub last: u64,
    /// What happened.
    pub kind: Kind,
    /// The caller's key.
    pub caller: CallerKey,
    /// The policy that denied it, or would next.
    pub policy: String,
    /// The first one's method.
    pub method: String,
    /// The first one's path, cut to 256 bytes.
    pub path: String,
    /// The answer's status; 0 where it was not known yet.
    pub status: u16,
    /// How many.
    pub count: u64,
    /// The first one's Cloudflare ray.
    pub ray: Option<String>,
    /// The first one's country.
    pub country: Option<String>,
    /// The first one's autonomous system.
    pub asn: Option<u32>,
}

/// The key by which events are merged into one record.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Note<'a> {
    /// What happened.
    pub kind: Kind,
    /// The caller's key.
    pub caller: CallerKey,
    /// The policy concerned.
    pub policy: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The answer's status; 0 where it is not known yet.
    pub status: u16,
}

/// What is told of the first of like events.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The path as sent.
    pub path: String,
    /// Cloudflare's ray.
    pub ray: Option<String>,
    /// The country that Cloudflare sees.
    pub country: Option<String>,
    /// The autonomous system that Cloudflare sees.
    pub asn: Option<u32>,
}

/// Events to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The records.
    pub events: Vec<Event>,
    /// Events that no record counts.
    pub left_out: u64,
    /// Policies' blocks that stand: `{policy}:{caller}`, and until when.
    pub blocks: Vec<(String, u64)>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.left_out == 0
    }
}

/// Gathers an isolate's events.
pub struct Recorder {
    open: RefCell<Open>,
    seed: Seed,
}

#[derive(Default)]
struct Open {
    events: HashMap<u64, Event>,
    left_out: u64,
    blocks: HashMap<String, u64>,
    /// While somebody is to write it.
    writing: Deadline,
    named: u64,
}

impl Recorder {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self {
            open: RefCell::default(),
            seed,
        }
    }

    /// Notes an event. `details` is asked only for the first of like ones.
    pub fn note(&self, note: &Note, now: Timestamp, details: impl FnOnce() -> Details) {
        let like = self.seed.hash_one(note);
        let mut open = self.open.borrow_mut();
        if let Some(event) = open.events.get_mut(&like) {
            event.count += 1;
            event.last = now.as_millis();
        } else if open.events.len() >= MAX_EVENTS_PER_BATCH {
            open.left_out += 1;
        } else {
            open.named += 1;
            let id = format!("{:016x}", self.seed.hash_one((open.named, now.as_millis())));
            open.events.insert(like, first(id, note, now, details()));
        }
    }

    /// Whether there is something to write and nobody is to write it: then the one who asks is,
    /// [`FLUSH_AFTER`] from now.
    pub fn should_write(&self, now: Timestamp) -> bool {
        let mut open = self.open.borrow_mut();
        if open.events.is_empty() && open.left_out == 0 {
            return false;
        }
        let free = !open.writing.is_pending(now);
        if free {
            open.writing = Deadline::after(WRITING, now);
        }
        free
    }

    /// A policy's block of `key` stands until then.
    pub fn note_block(&self, key: &str, until: Timestamp) {
        let blocks = &mut self.open.borrow_mut().blocks;
        if let Some(known) = blocks.get_mut(key) {
            *known = until.as_millis();
        } else if blocks.len() < MAX_EVENTS_PER_BATCH {
            blocks.insert(key.to_owned(), until.as_millis());
        }
    }

    /// What is to be written; the next event opens another batch.
    pub fn take(&self) -> Batch {
        let open = self.open.take();
        self.open.borrow_mut().named = open.named;
        let mut batch = Batch {
            events: Vec::new(),
            left_out: open.left_out,
            blocks: Vec::new(),
        };
        batch.events.extend(open.events.into_values());
        batch.blocks.extend(open.blocks);
        batch
    }

    /// What could not be written is tried again with the next batch, as far as there is room.
    pub fn put_back(&self, batch: Batch) {
        let mut open = self.open.borrow_mut();
        open.left_out += batch.left_out;
        for event in batch.events {
            let like = self.seed.hash_one(Note {
                kind: event.kind,
                caller: event.caller,
                policy: &event.policy,
                method: &event.method,
                status: event.status,
            });
            if let Some(newer) = open.events.get_mut(&like) {
                newer.count += event.count;
                newer.time = newer.time.min(event.time);
            } else if open.events.len() < MAX_EVENTS_PER_BATCH {
                open.events.insert(like, event);
            } else {
                open.left_out += event.count;
            }
        }
        for (key, until) in batch.blocks {
            if open.blocks.len() < MAX_EVENTS_PER_BATCH {
                open.blocks.entry(key).or_insert(until);
            }
        }
    }
}

fn first(id: String, note: &Note, now: Timestamp, details: Details) -> Event {
    let mut path = details.path;
    if path.len() > MAX_PATH_BYTES {
        path.truncate(path.floor_char_boundary(MAX_PATH_BYTES));
    }
    Event {
        id,
        time: now.as_millis(),
        last: now.as_millis(),
        kind: note.kind,
        caller: note.caller,
        policy: note.policy.to_owned(),
        method: note.method.chars().take(32).collect(),
        path,
        status: note.status,
        count: 1,
        ray: details.ray,
        country: details.country,
        asn: details.asn,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Batch, Details, Kind, MAX_EVENTS_PER_BATCH, Note, Recorder};
    use crate::client::CallerKey;
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::Millis;

    /// Of an address, or of an identifier.
    pub(crate) fn denied<'a>(caller: &str, policy: &'a str) -> Note<'a> {
        Note {
            kind: Kind::Denied,
            caller: CallerKey::parse(caller).unwrap_or_else(|| CallerKey::id(caller)),
            policy,
            method: "GET",
            status: 429,
        }
    }

    fn recorder() -> Recorder {
        Recorder::new(Seed::fixed())
    }

    fn counts(batch: &Batch) -> u64 {
        batch.events.iter().map(|event| event.count).sum()
    }

    #[test]
    fn a_flood_is_one_record_with_a_count() {
        let recorder = recorder();
        for ms in 0..2000 {
            let details = || {
                assert_eq!(ms, 0, "asked for the first alone");
                Details {
                    path: "/a".to_owned(),
                    ..Details::default()
                }
            };
            let now = START + Millis::new(ms);
            recorder.note(&denied("a", "auth"), now, details);
            assert_eq!(recorder.should_write(now), ms == 0);
        }
        let batch = recorder.take();
        let [event] = batch.events.as_slice() else {
            panic!("{batch:?}")
        };
        assert_eq!(
            (event.count, event.last - event.time, event.path.as_str()),
            (2000, 1999, "/a")
        );
        assert!(recorder.take().is_empty());
        assert!(!recorder.should_write(START));
        recorder.note(&denied("a", "auth"), START, Details::default);
        assert!(recorder.should_write(START), "another batch");
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let recorder = recorder();
        for caller in 0..1000 {
            recorder.note(
                &denied(&caller.to_string(), "auth"),
                START,
                Details::default,
            );
        }
        let batch = recorder.take();
        assert_eq!(
            (batch.events.len(), counts(&batch) + batch.left_out),
            (MAX_EVENTS_PER_BATCH, 1000)
        );
    }

    #[test]
    fn one_who_is_cancelled_is_waited_for_so_long() {
        let recorder = recorder();
        let note = |seconds| {
            let now = START + Millis::from_secs(seconds);
            recorder.note(&denied("a", "auth"), now, Details::default);
            recorder.should_write(now)
        };
        assert_eq!([0, 14, 15, 16].map(note), [true, false, true, false]);
    }

    #[test]
    fn a_clock_set_back_does_not_postpone_the_next_writing() {
        let recorder = recorder();
        let note = |seconds| {
            let now = START + Millis::from_secs(seconds);
            recorder.note(&denied("a", "auth"), now, Details::default);
            recorder.should_write(now)
        };
        assert_eq!([3600, 3601, 0, 1].map(note), [true, false, true, false]);
    }

    #[test]
    fn what_was_not_written_is_kept() {
        let recorder = recorder();
        for caller in ["a", "b"] {
            recorder.note(&denied(caller, "auth"), START, Details::default);
        }
        recorder.note_block("auth:a", START + Millis::from_secs(60));
        let failed = recorder.take();
        let later = START + Millis::from_secs(1);
        recorder.note(&denied("a", "auth"), later, Details::default);
        recorder.put_back(failed.clone());
        let batch = recorder.take();
        assert_eq!((batch.events.len(), counts(&batch)), (2, 3));
        assert!(
            batch
                .events
                .iter()
                .all(|event| event.time == START.as_millis())
        );
        assert_eq!(batch.blocks, failed.blocks);
        for _ in 0..2 {
            for caller in 0..MAX_EVENTS_PER_BATCH {
                recorder.note(
                    &denied(&caller.to_string(), "auth"),
                    START,
                    Details::default,
                );
            }
            recorder.put_back(batch.clone());
        }
        let batch = recorder.take();
        assert_eq!(
            counts(&batch) + batch.left_out,
            2 * (MAX_EVENTS_PER_BATCH as u64) + 6
        );
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let recorder = recorder();
        let path = "/".to_owned() + &"é".repeat(300);
        recorder.note(&denied("a", "auth"), START, || Details {
            path,
            ..Details::default()
        });
        let path = &recorder.take().events[0].path;
        assert_eq!((path.len(), path.chars().count()), (255, 128));
    }
}
