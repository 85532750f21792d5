//! The event log: what was denied, and whatever else an operator wants to know of later.
//!
//! Nothing is written while a request waits. An isolate gathers what happens, like events as one
//! record with a count, and writes all of it [some seconds](FLUSH_AFTER) after the first: a flood
//! costs the database as much as a trickle. Where there is no room, what came least often makes room, and
//! is counted.
//!
//! The denials that are [held against](DenialCounts) their callers are counted apart from events, so that none
//! of what tells events apart hides a caller that is denied a lot.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::mem;

use serde::Serialize;

use crate::client::{CallerKey, Network};
use crate::seed::Seed;
use crate::time::{Deadline, Millis, Timestamp};

use escalation::Costs;
use heavy_hitters::HeavyHitters;
use shadow::ShadowDenials;

pub mod escalation;
mod heavy_hitters;
pub mod records;
mod shadow;

/// How long after the first event of a batch it is written.
pub const FLUSH_AFTER: Millis = Millis::new(3000);

/// How long nobody else writes a batch while one is to, should that one be cancelled.
const WRITING: Millis = Millis::new(15_000);

/// Distinct events in a batch.
const MAX_EVENTS_PER_BATCH: usize = 100;

/// Callers whose denials are counted at a time.
const MAX_CALLERS: usize = 250;

/// Callers, times policies, whose denials are in a batch. Each costs some commands; the others are in
/// the next batch.
const MAX_DENIALS_PER_BATCH: usize = 100;

/// Bytes of a path that are kept.
const MAX_PATH_BYTES: usize = 256;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
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
    /// The application reported it.
    Reported,
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
    pub kind: EventKind,
    /// The key whose quota denied; of any other event the caller's own.
    pub caller: CallerKey,
    /// The address that the first one came from, where the key is not that address's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<CallerKey>,
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
pub struct EventKey<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The caller's key.
    pub caller: CallerKey,
    /// The policy concerned.
    pub policy: &'a str,
    /// The answer's status; 0 where it is not known yet.
    pub status: u16,
}

/// What is told of the first of like events.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The address that it came from, where the event's caller is another.
    pub address: Option<CallerKey>,
    /// The method as sent.
    pub method: String,
    /// The path as sent.
    pub path: String,
    /// Cloudflare's ray.
    pub ray: Option<String>,
    /// The country that Cloudflare sees.
    pub country: Option<String>,
    /// The autonomous system that Cloudflare sees.
    pub asn: Option<u32>,
}

/// The denials that are held against a caller: those by a quota that is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialCounts {
    /// The caller's key.
    pub caller: CallerKey,
    /// When the first of them was.
    pub since: Timestamp,
    /// How many there were by each policy. Never more than there were.
    pub policies: Vec<(String, u64)>,
}

impl DenialCounts {
    const fn new(caller: CallerKey, since: Timestamp) -> Self {
        Self {
            caller,
            since,
            policies: Vec::new(),
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.policies.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, policy: &str, count: u64) {
        let mut policies = self.policies.iter_mut();
        match policies.find(|(known, _)| known == policy) {
            Some((_, known)) => *known += count,
            None => self.policies.push((policy.to_owned(), count)),
        }
    }
}

/// How much a batch may cost.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Commands; `None`: as many as it takes.
    pub commands: Option<u32>,
    /// What it costs to count denials for the escalation as well; `None`: they are not.
    pub escalation: Option<Costs>,
}

impl BatchLimits {
    /// Takes what so many commands cost, if there is room for them.
    fn take(&mut self, commands: usize) -> bool {
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        match &mut self.commands {
            None => true,
            Some(left) if *left >= commands => {
                *left -= commands;
                true
            }
            Some(_) => false,
        }
    }

    /// What a caller's denials cost, in addition to one for each policy.
    const fn of_denials(self, caller: CallerKey) -> usize {
        match (caller, self.escalation) {
            (CallerKey::Address(_), Some(costs)) => costs.per_address,
            _ => 0,
        }
    }

    /// For how many policies there is room, so much spent before.
    fn policies(self, before: usize) -> usize {
        let left = self.commands.map_or(usize::MAX, |left| left as usize);
        left.saturating_sub(before)
    }

    /// What the denials of all callers cost in addition.
    const fn of_all_denials(self) -> usize {
        let of_escalation = match self.escalation {
            Some(costs) => costs.together,
            None => 0,
        };
        records::COMMANDS_OF_DENIALS + of_escalation
    }
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// The records.
    pub events: Vec<Event>,
    /// Events that no record counts.
    pub left_out: u64,
    /// What is held against callers, those with the most denials first.
    pub denials: Vec<DenialCounts>,
    /// Addresses that the escalation has still to block.
    pub due: Vec<Network>,
    /// Policies' blocks that stand: `{policy}:{caller}`, and until when.
    pub blocks: Vec<(String, u64)>,
}

impl EventBatch {
    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.left_out == 0
            && self.denials.is_empty()
            && self.due.is_empty()
    }

    /// How many commands it costs, but for the escalation's blocks.
    #[must_use]
    pub fn commands(&self, escalation: Option<Costs>) -> usize {
        let room = BatchLimits {
            commands: None,
            escalation,
        };
        let of = |tally: &DenialCounts| room.of_denials(tally.caller) + tally.policies.len();
        let mut commands: usize = self.denials.iter().map(of).sum();
        for (is_there, cost) in [
            (!self.denials.is_empty(), room.of_all_denials()),
            (!self.events.is_empty(), records::COMMANDS_OF_EVENTS),
            (self.left_out > 0, records::COMMANDS_OF_LEFT_OUT),
            (!self.blocks.is_empty(), records::COMMANDS_OF_BLOCKS),
        ] {
            commands += if is_there { cost } else { 0 };
        }
        commands + usize::from(commands > 0) * records::COMMANDS_OF_SCRIPT
    }
}

/// Gathers an isolate's events.
pub struct Recorder {
    open: RefCell<Open>,
    shadow: RefCell<ShadowDenials>,
    seed: Seed,
}

struct Open {
    events: HeavyHitters<Event>,
    left_out: u64,
    denials: HeavyHitters<DenialCounts>,
    due: Vec<Network>,
    blocks: HashMap<String, u64>,
    /// While somebody is to write it.
    writing: Deadline,
    named: u64,
}

impl Recorder {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        let open = Open {
            events: HeavyHitters::new(MAX_EVENTS_PER_BATCH),
            left_out: 0,
            denials: HeavyHitters::new(MAX_CALLERS),
            due: Vec::new(),
            blocks: HashMap::new(),
            writing: Deadline::OVER,
            named: 0,
        };
        Self {
            open: RefCell::new(open),
            shadow: RefCell::default(),
            seed,
        }
    }

    /// Notes an event. `details` is asked only for the first of like ones, once.
    pub fn record(&self, note: &EventKey, now: Timestamp, details: &mut dyn FnMut() -> Details) {
        let like = self.seed.hash_one(note);
        let mut open = self.open.borrow_mut();
        open.named += 1;
        let named = (open.named, now.as_millis());
        let new = || {
            let id = format!("{:016x}", self.seed.hash_one(named));
            first(id, note, now, details())
        };
        let (event, lost) = open.events.add(like, 1, new);
        event.count += 1;
        event.last = now.as_millis();
        open.left_out += lost.map_or(0, |lost| lost.count);
    }

    /// Holds a denial by `policy` against `caller`, by whose own quota it was.
    pub fn count_denial(&self, caller: CallerKey, policy: &str, now: Timestamp) {
        let key = self.seed.hash_one(caller);
        let new = || DenialCounts::new(caller, now);
        let denials = &mut self.open.borrow_mut().denials;
        denials.add(key, 1, new).0.add(policy, 1);
    }

    /// Notes that `policy`, which is in shadow mode, would have denied a request of `caller`.
    pub fn record_shadow(&self, policy: &str, caller: CallerKey, now: Timestamp) {
        let caller = self.seed.hash_one(caller);
        self.shadow.borrow_mut().record(policy, caller, now);
    }

    /// What is to be logged of policies in shadow mode, a line for each.
    pub(crate) fn take_shadow(&self, now: Timestamp) -> Vec<String> {
        self.shadow.borrow_mut().take(now)
    }

    /// Whether there is something to write or to log and nobody is to do it: then the one who asks is,
    /// [`FLUSH_AFTER`] from now.
    pub fn should_write(&self, now: Timestamp) -> bool {
        let mut open = self.open.borrow_mut();
        let is_due = !open.is_empty() || !self.shadow.borrow().is_empty();
        let free = is_due && !open.writing.is_pending(now);
        if free {
            open.writing = Deadline::after(WRITING, now);
        }
        free
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Who writes goes on with it: nobody else is to.
    pub(crate) fn keep_writing(&self, now: Timestamp) {
        self.open.borrow_mut().writing = Deadline::after(WRITING, now);
    }

    /// Whoever asks next is to write.
    pub(crate) fn stop_writing(&self) {
        self.open.borrow_mut().writing = Deadline::OVER;
    }

    /// A policy's block of `key` stands until then.
    pub fn record_block(&self, key: &str, until: Timestamp) {
        let blocks = &mut self.open.borrow_mut().blocks;
        if let Some(known) = blocks.get_mut(key) {
            *known = until.as_millis();
        } else if blocks.len() < MAX_EVENTS_PER_BATCH {
            blocks.insert(key.to_owned(), until.as_millis());
        }
    }

    /// What is to be written, as far as there is room for it; the next event opens another batch.
    pub fn take(&self, mut room: BatchLimits) -> EventBatch {
        let mut open = self.open.borrow_mut();
        open.writing = Deadline::OVER;
        let mut batch = EventBatch::default();
        if let Some(costs) = room.escalation {
            while !open.due.is_empty() && room.take(costs.per_block) {
                batch.due.push(open.due.remove(0));
            }
        }
        // Where there is no room for this, there is none for what follows.
        room.take(records::COMMANDS_OF_SCRIPT);
        if !open.events.is_empty() && room.take(records::COMMANDS_OF_EVENTS) {
            batch.events.extend(open.events.take_all());
        }
        if open.left_out > 0 && room.take(records::COMMANDS_OF_LEFT_OUT) {
            batch.left_out = mem::take(&mut open.left_out);
        }
        if !open.blocks.is_empty() && room.take(records::COMMANDS_OF_BLOCKS) {
            batch.blocks.extend(open.blocks.drain());
        }
        if !open.denials.is_empty() && room.take(room.of_all_denials()) {
            batch.denials = open.take_denials(room);
        }
        batch
    }

    /// Blocks that are to be set before anything else is written.
    pub(crate) fn put_back_due(&self, due: Vec<Network>) {
        let mut open = self.open.borrow_mut();
        for network in due {
            if open.due.len() < MAX_CALLERS && !open.due.contains(&network) {
                open.due.push(network);
            }
        }
    }

    /// What could not be written is tried again with the next batch, as far as there is room.
    pub fn put_back(&self, batch: EventBatch) {
        self.put_back_due(batch.due);
        let mut open = self.open.borrow_mut();
        open.left_out += batch.left_out;
        for tally in batch.denials {
            let key = self.seed.hash_one(tally.caller);
            let new = || DenialCounts::new(tally.caller, tally.since);
            let newer = open.denials.add(key, tally.count(), new).0;
            newer.since = newer.since.min(tally.since);
            for (policy, count) in &tally.policies {
                newer.add(policy, *count);
            }
        }
        for event in batch.events {
            let like = self.seed.hash_one(EventKey {
                kind: event.kind,
                caller: event.caller,
                policy: &event.policy,
                status: event.status,
            });
            let (count, time) = (event.count, event.time);
            let known = || Event { count: 0, ..event };
            let (newer, lost) = open.events.add(like, count, known);
            newer.count += count;
            newer.time = newer.time.min(time);
            open.left_out += lost.map_or(0, |lost| lost.count);
        }
        for (key, until) in batch.blocks {
            if open.blocks.len() < MAX_EVENTS_PER_BATCH {
                open.blocks.entry(key).or_insert(until);
            }
        }
    }
}

impl Open {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.left_out == 0
            && self.denials.is_empty()
            && self.due.is_empty()
    }

    /// Those with the most denials, as far as a batch has room for them.
    fn take_denials(&mut self, mut in_all: BatchLimits) -> Vec<DenialCounts> {
        let mut taken = Vec::new();
        let mut room = MAX_DENIALS_PER_BATCH;
        while let Some(place) = self.denials.greatest(DenialCounts::count) {
            let tally = self.denials.at(place);
            let of_caller = in_all.of_denials(tally.caller);
            let fitting = in_all.policies(of_caller).min(room);
            if fitting == 0 {
                break;
            }
            let rest = tally.policies.split_off(fitting.min(tally.policies.len()));
            in_all.take(of_caller + tally.policies.len());
            room -= tally.policies.len();
            if rest.is_empty() {
                taken.push(self.denials.remove(place));
            } else {
                // The next batch's.
                let policies = mem::replace(&mut tally.policies, rest);
                taken.push(DenialCounts { policies, ..*tally });
            }
        }
        taken
    }
}

fn first(id: String, note: &EventKey, now: Timestamp, details: Details) -> Event {
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
        address: details.address,
        policy: note.policy.to_owned(),
        method: details.method.chars().take(32).collect(),
        path,
        status: note.status,
        count: 0,
        ray: details.ray,
        country: details.country,
        asn: details.asn,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        BatchLimits, Costs, Details, EventBatch, EventKey, EventKind, MAX_DENIALS_PER_BATCH,
        MAX_EVENTS_PER_BATCH, Recorder,
    };
    use crate::client::CallerKey;
    use crate::seed::Seed;
    use crate::store::conformance::START;
    use crate::time::Millis;

    /// Of an address, or of an identifier.
    pub(crate) fn denied<'a>(caller: &str, policy: &'a str) -> EventKey<'a> {
        EventKey {
            kind: EventKind::Denied,
            caller: CallerKey::parse(caller).unwrap_or_else(|| CallerKey::id(caller)),
            policy,
            status: 429,
        }
    }

    /// Room for everything.
    pub(crate) const ALL: BatchLimits = BatchLimits {
        commands: None,
        escalation: Some(Costs::TOGETHER),
    };

    fn recorder() -> Recorder {
        Recorder::new(Seed::fixed())
    }

    fn counts(batch: &EventBatch) -> u64 {
        batch.events.iter().map(|event| event.count).sum()
    }

    #[test]
    fn a_flood_is_one_record_with_a_count() {
        let recorder = recorder();
        for ms in 0..2000 {
            let details = &mut || {
                assert_eq!(ms, 0, "asked for the first alone");
                Details {
                    path: "/a".to_owned(),
                    ..Details::default()
                }
            };
            let now = START + Millis::new(ms);
            recorder.record(&denied("a", "auth"), now, details);
            assert_eq!(recorder.should_write(now), ms == 0);
        }
        let batch = recorder.take(ALL);
        let [event] = batch.events.as_slice() else {
            panic!("{batch:?}")
        };
        assert_eq!(
            (event.count, event.last - event.time, event.path.as_str()),
            (2000, 1999, "/a")
        );
        assert!(recorder.take(ALL).is_empty());
        assert!(!recorder.should_write(START));
        recorder.record(&denied("a", "auth"), START, &mut Details::default);
        assert!(recorder.should_write(START), "another batch");
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let recorder = recorder();
        for caller in 0..1000 {
            recorder.record(
                &denied(&caller.to_string(), "auth"),
                START,
                &mut Details::default,
            );
        }
        let batch = recorder.take(ALL);
        assert_eq!(
            (batch.events.len(), counts(&batch) + batch.left_out),
            (MAX_EVENTS_PER_BATCH, 1000)
        );
    }

    /// Decoys of every sort that tells events apart, before and after.
    #[test]
    fn what_happens_often_keeps_its_place_among_what_happens_once() {
        let recorder = recorder();
        let decoys = |from: u32| {
            for number in from..from + 200 {
                let name = number.to_string();
                let decoy = denied(&name, "auth");
                let note = match number % 4 {
                    0 => decoy,
                    1 => EventKey {
                        caller: CallerKey::user(&name),
                        ..decoy
                    },
                    2 => EventKey {
                        kind: EventKind::Admitted,
                        status: u16::try_from(number).unwrap(),
                        ..decoy
                    },
                    _ => EventKey {
                        kind: EventKind::Refused,
                        policy: &name,
                        ..decoy
                    },
                };
                recorder.record(&note, START, &mut Details::default);
            }
        };
        decoys(0);
        for _ in 0..239 {
            recorder.record(&denied("attacker", "auth"), START, &mut Details::default);
        }
        decoys(200);
        let batch = recorder.take(ALL);
        let attacker = denied("attacker", "auth").caller;
        let event = batch.events.iter().find(|event| event.caller == attacker);
        assert_eq!(event.map(|event| event.count), Some(239));
        assert_eq!(batch.events.len(), MAX_EVENTS_PER_BATCH);
        assert_eq!(counts(&batch) + batch.left_out, 400 + 239);
    }

    #[test]
    fn those_with_the_most_denials_are_written_first_and_the_others_next() {
        let recorder = recorder();
        let deny = |caller: u32, policy: &str, times: u32| {
            for _ in 0..times {
                let caller = CallerKey::id(&caller.to_string());
                recorder.count_denial(caller, policy, START);
            }
        };
        for caller in 0..150 {
            deny(caller, "auth", 1 + caller);
        }
        deny(200, "auth", 1);
        deny(200, "mfa", 200);
        let sizes = || {
            let batch = recorder.take(ALL);
            let of = |policies: Vec<(String, u64)>| policies.into_iter().map(|(_, count)| count);
            let policies = batch
                .denials
                .into_iter()
                .map(|tally| of(tally.policies).collect());
            policies.collect::<Vec<Vec<u64>>>()
        };
        assert!(recorder.should_write(START));
        let first = sizes();
        assert_eq!(first[..3], [vec![1, 200], vec![150], vec![149]]);
        assert_eq!(first.len() + 1, MAX_DENIALS_PER_BATCH);
        assert!(recorder.should_write(START), "there is more");
        let next: Vec<u64> = sizes().into_iter().flatten().collect();
        let rest: Vec<u64> = (1..=52).rev().collect();
        assert_eq!(next, rest);
        assert!(!recorder.should_write(START));
    }

    /// However little may be spent, and under however many policies they are denied.
    #[test]
    fn denials_are_written_in_as_many_batches_as_it_takes() {
        let recorder = recorder();
        let caller = denied("192.0.2.1", "auth").caller;
        for policy in 0..20 {
            for _ in 0..=policy {
                recorder.count_denial(caller, &format!("p{policy}"), START);
            }
        }
        // The script, four for all denials, two for the address, and for eight policies.
        let room = BatchLimits {
            commands: Some(15),
            escalation: Some(Costs::TOGETHER),
        };
        let mut all = Vec::new();
        for policies in [8, 8, 4] {
            let batch = recorder.take(room);
            assert!(batch.commands(room.escalation) <= 15);
            let [tally] = batch.denials.as_slice() else {
                panic!("{batch:?}")
            };
            assert_eq!(tally.policies.len(), policies);
            all.extend(tally.policies.clone());
        }
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 210);
        assert!(recorder.is_empty());
    }

    #[test]
    fn one_who_is_cancelled_is_waited_for_so_long() {
        let recorder = recorder();
        let note = |seconds| {
            let now = START + Millis::from_secs(seconds);
            recorder.record(&denied("a", "auth"), now, &mut Details::default);
            recorder.should_write(now)
        };
        assert_eq!([0, 14, 15, 16].map(note), [true, false, true, false]);
    }

    #[test]
    fn a_clock_set_back_does_not_postpone_the_next_writing() {
        let recorder = recorder();
        let note = |seconds| {
            let now = START + Millis::from_secs(seconds);
            recorder.record(&denied("a", "auth"), now, &mut Details::default);
            recorder.should_write(now)
        };
        assert_eq!([3600, 3601, 0, 1].map(note), [true, false, true, false]);
    }

    #[test]
    fn what_was_not_written_is_kept() {
        let recorder = recorder();
        for caller in ["a", "b"] {
            recorder.record(&denied(caller, "auth"), START, &mut Details::default);
        }
        recorder.record_block("auth:a", START + Millis::from_secs(60));
        let caller = denied("a", "auth").caller;
        recorder.count_denial(caller, "auth", START);
        let failed = recorder.take(ALL);
        let later = START + Millis::from_secs(1);
        recorder.record(&denied("a", "auth"), later, &mut Details::default);
        recorder.count_denial(caller, "mfa", later);
        recorder.count_denial(caller, "auth", later);
        recorder.put_back(failed.clone());
        let batch = recorder.take(ALL);
        let [tally] = batch.denials.as_slice() else {
            panic!("{batch:?}")
        };
        let policies = [("mfa".to_owned(), 1), ("auth".to_owned(), 2)];
        assert_eq!((tally.since, &*tally.policies), (START, &policies[..]));
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
                recorder.record(
                    &denied(&caller.to_string(), "auth"),
                    START,
                    &mut Details::default,
                );
            }
            recorder.put_back(batch.clone());
        }
        let batch = recorder.take(ALL);
        assert_eq!(
            counts(&batch) + batch.left_out,
            2 * (MAX_EVENTS_PER_BATCH as u64) + 6
        );
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let recorder = recorder();
        let path = "/".to_owned() + &"é".repeat(300);
        recorder.record(&denied("a", "auth"), START, &mut || Details {
            path: path.clone(),
            ..Details::default()
        });
        let path = &recorder.take(ALL).events[0].path;
        assert_eq!((path.len(), path.chars().count()), (255, 128));
    }
}
