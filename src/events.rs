//! The event log: denials, and other things that an operator may want to look up later.
//!
//! Nothing is written while a request waits. An isolate gathers events, merges like events into one record with a
//! count, and writes all records [some seconds](FLUSH_AFTER) after the first event. So a flood costs the database as much
//! as a trickle. When the table of records is full, the rarest record makes room, and its events are counted as left out.
//!
//! Denials that [count against](DenialCounts) their callers are counted apart from events. So a caller with many denials
//! stays visible, however many different events it causes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::mem;

use serde::Serialize;

use crate::client::{AddressPrefix, CallerKey};
use crate::seed::Seed;
use crate::time::{Deadline, Millis, Timestamp};

use escalation::Costs;
use heavy_hitters::HeavyHitters;
use shadow::ShadowDenials;

pub mod escalation;
mod heavy_hitters;
pub mod records;
mod shadow;

/// The time from the first event of a batch until the batch is written.
pub const FLUSH_AFTER: Millis = Millis::new(3000);

/// How long one duty keeps others from writing a batch. A duty that is cancelled never reports its end.
const WRITE_IN_FLIGHT_FOR: Millis = Millis::new(15_000);

/// The most records in a batch.
const MAX_EVENTS_PER_BATCH: usize = 100;

/// The most callers whose denials are counted at a time.
const MAX_CALLERS: usize = 250;

/// The most pairs of a caller and a policy in a batch. Each pair costs a command or more. The next batch has the others.
const MAX_DENIALS_PER_BATCH: usize = 100;

/// The most bytes of a path that are kept.
const MAX_RECORDED_PATH_BYTES: usize = 256;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A request was denied.
    Denied,
    /// A request was admitted, and is in the recorded sample.
    Admitted,
    /// A request passed the limits with the bypass token.
    Bypassed,
    /// The control plane refused a wrong token.
    #[serde(rename = "refused")]
    WrongToken,
    /// The escalation blocked a caller for its denials.
    Escalated,
    /// The application reported the event.
    Reported,
}

/// A record of one event, or of many like events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The record's identifier.
    pub id: String,
    /// When the first event happened, in ms since the epoch.
    pub time: u64,
    /// When the last event happened, in ms since the epoch.
    pub last: u64,
    /// What happened.
    pub kind: EventKind,
    /// For a denial, the key whose quota denied. For any other kind, the caller's own key.
    pub caller: CallerKey,
    /// The address of the first event, if `caller` is another key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<CallerKey>,
    /// The policy that denied the request or, for an admitted request, the policy that binds.
    pub policy: String,
    /// The method of the first event's request.
    pub method: String,
    /// The path of the first event's request, cut to 256 bytes.
    pub path: String,
    /// The HTTP status of the answer. 0: it was not known yet.
    pub status: u16,
    /// How many like events the record counts.
    pub count: u64,
    /// The Cloudflare ray of the first event's request.
    pub ray: Option<String>,
    /// The country of the first event's request.
    pub country: Option<String>,
    /// The autonomous system of the first event's request.
    pub asn: Option<u32>,
}

/// The key by which events are merged into one record.
#[derive(Clone, Copy, Debug, Hash)]
pub struct EventKey<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The caller's key.
    pub caller: CallerKey,
    /// The policy concerned, or an empty text.
    pub policy: &'a str,
    /// The HTTP status of the answer. 0: it is not known yet.
    pub status: u16,
}

/// The details that are recorded with the first event of a record.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The address that the request came from, if the event's caller is another key.
    pub address: Option<CallerKey>,
    /// The method as sent.
    pub method: String,
    /// The path as sent.
    pub path: String,
    /// The Cloudflare ray.
    pub ray: Option<String>,
    /// The country that the platform reports.
    pub country: Option<String>,
    /// The number of the autonomous system that the platform reports.
    pub asn: Option<u32>,
}

/// The denials that count against a caller: those by the caller's own quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialCounts {
    /// The caller's key.
    pub caller: CallerKey,
    /// When the first of these denials happened.
    pub since: Timestamp,
    /// The number of denials by each policy. It may be too small, but never too large.
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

    /// Returns the number of denials by all policies.
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
    /// The most commands. `None`: any number.
    pub commands: Option<u32>,
    /// What it costs to count denials for the escalation as well. `None`: there is no escalation.
    pub escalation: Option<Costs>,
}

impl BatchLimits {
    /// Takes `commands` from the limit. Returns `false` and takes nothing if fewer are left.
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

    /// The commands that a caller's denials cost, in addition to one for each policy.
    const fn of_denials(self, caller: CallerKey) -> usize {
        match (caller, self.escalation) {
            (CallerKey::Address(_), Some(costs)) => costs.per_address,
            _ => 0,
        }
    }

    /// The number of policies for which commands are left, after `before` commands.
    fn policies(self, before: usize) -> usize {
        let left = self.commands.map_or(usize::MAX, |left| left as usize);
        left.saturating_sub(before)
    }

    /// The commands that denials cost in addition, once for all callers.
    const fn of_all_denials(self) -> usize {
        let of_escalation = match self.escalation {
            Some(costs) => costs.once,
            None => 0,
        };
        records::COMMANDS_OF_DENIALS + of_escalation
    }
}

/// What an isolate writes to the records at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// The records of events.
    pub events: Vec<Event>,
    /// The number of events that no record counts.
    pub left_out: u64,
    /// The denials that count against callers. The callers with the most denials come first.
    pub denials: Vec<DenialCounts>,
    /// Addresses that the escalation has still to block.
    pub due: Vec<AddressPrefix>,
    /// Blocks by policies: `{policy}:{caller}`, and the end of the block in ms since the epoch.
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

    /// Returns how many commands the batch costs, without the blocks of the escalation.
    #[must_use]
    pub fn commands(&self, escalation: Option<Costs>) -> usize {
        let limits = BatchLimits {
            commands: None,
            escalation,
        };
        let of_caller =
            |denials: &DenialCounts| limits.of_denials(denials.caller) + denials.policies.len();
        let mut commands: usize = self.denials.iter().map(of_caller).sum();
        for (is_present, cost) in [
            (!self.denials.is_empty(), limits.of_all_denials()),
            (!self.events.is_empty(), records::COMMANDS_OF_EVENTS),
            (self.left_out > 0, records::COMMANDS_OF_LEFT_OUT),
            (!self.blocks.is_empty(), records::COMMANDS_OF_BLOCKS),
        ] {
            commands += if is_present { cost } else { 0 };
        }
        commands + usize::from(commands > 0) * records::COMMANDS_OF_SCRIPT
    }
}

/// Gathers an isolate's events.
pub struct Recorder {
    open: RefCell<OpenBatch>,
    shadow: RefCell<ShadowDenials>,
    seed: Seed,
}

struct OpenBatch {
    events: HeavyHitters<Event>,
    left_out: u64,
    denials: HeavyHitters<DenialCounts>,
    due: Vec<AddressPrefix>,
    blocks: HashMap<String, u64>,
    /// Until when one duty keeps others from writing the batch.
    writing: Deadline,
    /// How many events have got an identifier.
    named: u64,
}

impl Recorder {
    /// Creates an empty recorder.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        let open = OpenBatch {
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

    /// Records an event. `details` is called only for the first event of a record.
    pub fn record(&self, key: &EventKey, now: Timestamp, details: &mut dyn FnMut() -> Details) {
        let hash = self.seed.hash_one(key);
        let mut open = self.open.borrow_mut();
        open.named += 1;
        let named = (open.named, now.as_millis());
        let new = || {
            let id = format!("{:016x}", self.seed.hash_one(named));
            first(id, key, now, details())
        };
        let (event, lost) = open.events.add(hash, 1, new);
        event.count += 1;
        event.last = now.as_millis();
        open.left_out += lost.map_or(0, |lost| lost.count);
    }

    /// Counts a denial by `policy` against `caller`. The quota that denied must be the caller's own.
    pub fn count_denial(&self, caller: CallerKey, policy: &str, now: Timestamp) {
        let key = self.seed.hash_one(caller);
        let new = || DenialCounts::new(caller, now);
        let denials = &mut self.open.borrow_mut().denials;
        denials.add(key, 1, new).0.add(policy, 1);
    }

    /// Records that `policy`, which is in shadow mode, would have denied a request of `caller`.
    pub fn record_shadow(&self, policy: &str, caller: CallerKey, now: Timestamp) {
        let caller = self.seed.hash_one(caller);
        self.shadow.borrow_mut().record(policy, caller, now);
    }

    /// Removes the gathered shadow denials, and returns one log line for each policy.
    pub(crate) fn take_shadow(&self, now: Timestamp) -> Vec<String> {
        self.shadow.borrow_mut().take(now)
    }

    /// Whether there is something to write or to log that no other duty writes. If so, the caller of this has to write it,
    /// [`FLUSH_AFTER`] from now.
    pub fn should_write(&self, now: Timestamp) -> bool {
        let mut open = self.open.borrow_mut();
        let is_due = !open.is_empty() || !self.shadow.borrow().is_empty();
        let free = is_due && !open.writing.is_pending(now);
        if free {
            open.writing = Deadline::after(WRITE_IN_FLIGHT_FOR, now);
        }
        free
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Keeps other duties from writing, because the current one continues.
    pub(crate) fn keep_writing(&self, now: Timestamp) {
        self.open.borrow_mut().writing = Deadline::after(WRITE_IN_FLIGHT_FOR, now);
    }

    /// Lets another duty write, because the current one has ended.
    pub(crate) fn stop_writing(&self) {
        self.open.borrow_mut().writing = Deadline::OVER;
    }

    /// Records that a policy blocks `key` (`{policy}:{caller}`) until `until`.
    pub fn record_block(&self, key: &str, until: Timestamp) {
        let blocks = &mut self.open.borrow_mut().blocks;
        if let Some(known) = blocks.get_mut(key) {
            *known = until.as_millis();
        } else if blocks.len() < MAX_EVENTS_PER_BATCH {
            blocks.insert(key.to_owned(), until.as_millis());
        }
    }

    /// Removes what is to be written, as far as `limits` pay for it. The next event opens another batch.
    pub fn take(&self, mut limits: BatchLimits) -> EventBatch {
        let mut open = self.open.borrow_mut();
        open.writing = Deadline::OVER;
        let mut batch = EventBatch::default();
        if let Some(costs) = limits.escalation {
            while !open.due.is_empty() && limits.take(costs.per_block) {
                batch.due.push(open.due.remove(0));
            }
        }
        // The result does not matter: if no command is left for the script, none is left for its parts either.
        limits.take(records::COMMANDS_OF_SCRIPT);
        if !open.events.is_empty() && limits.take(records::COMMANDS_OF_EVENTS) {
            batch.events.extend(open.events.take_all());
        }
        if open.left_out > 0 && limits.take(records::COMMANDS_OF_LEFT_OUT) {
            batch.left_out = mem::take(&mut open.left_out);
        }
        if !open.blocks.is_empty() && limits.take(records::COMMANDS_OF_BLOCKS) {
            batch.blocks.extend(open.blocks.drain());
        }
        if !open.denials.is_empty() && limits.take(limits.of_all_denials()) {
            batch.denials = open.take_denials(limits);
        }
        batch
    }

    /// Keeps addresses that are still to be blocked. The next batch blocks them before it writes anything else.
    pub(crate) fn put_back_due(&self, due: Vec<AddressPrefix>) {
        let mut open = self.open.borrow_mut();
        for network in due {
            if open.due.len() < MAX_CALLERS && !open.due.contains(&network) {
                open.due.push(network);
            }
        }
    }

    /// Puts a batch back that could not be written. The next batch has it again, as far as memory has room.
    pub fn put_back(&self, batch: EventBatch) {
        self.put_back_due(batch.due);
        let mut open = self.open.borrow_mut();
        open.left_out += batch.left_out;
        for denials in batch.denials {
            let key = self.seed.hash_one(denials.caller);
            let new = || DenialCounts::new(denials.caller, denials.since);
            let newer = open.denials.add(key, denials.count(), new).0;
            newer.since = newer.since.min(denials.since);
            for (policy, count) in &denials.policies {
                newer.add(policy, *count);
            }
        }
        for event in batch.events {
            let hash = self.seed.hash_one(EventKey {
                kind: event.kind,
                caller: event.caller,
                policy: &event.policy,
                status: event.status,
            });
            let (count, time) = (event.count, event.time);
            let known = || Event { count: 0, ..event };
            let (newer, lost) = open.events.add(hash, count, known);
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

impl OpenBatch {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.left_out == 0
            && self.denials.is_empty()
            && self.due.is_empty()
    }

    /// Removes the denials of the callers with the most denials, as far as a batch has room for them.
    fn take_denials(&mut self, mut limits: BatchLimits) -> Vec<DenialCounts> {
        let mut taken = Vec::new();
        let mut room = MAX_DENIALS_PER_BATCH;
        while let Some(place) = self.denials.greatest(DenialCounts::count) {
            let denials = self.denials.at(place);
            let of_caller = limits.of_denials(denials.caller);
            let fitting = limits.policies(of_caller).min(room);
            if fitting == 0 {
                break;
            }
            let rest = denials
                .policies
                .split_off(fitting.min(denials.policies.len()));
            limits.take(of_caller + denials.policies.len());
            room -= denials.policies.len();
            if rest.is_empty() {
                taken.push(self.denials.remove(place));
            } else {
                // The next batch has the other policies.
                let policies = mem::replace(&mut denials.policies, rest);
                taken.push(DenialCounts {
                    policies,
                    ..*denials
                });
            }
        }
        taken
    }
}

/// A record for the first event of its kind, with a count of 0.
fn first(id: String, key: &EventKey, now: Timestamp, details: Details) -> Event {
    let mut path = details.path;
    if path.len() > MAX_RECORDED_PATH_BYTES {
        path.truncate(path.floor_char_boundary(MAX_RECORDED_PATH_BYTES));
    }
    Event {
        id,
        time: now.as_millis(),
        last: now.as_millis(),
        kind: key.kind,
        caller: key.caller,
        address: details.address,
        policy: key.policy.to_owned(),
        method: details.method.chars().take(32).collect(),
        path,
        status: key.status,
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

    /// A denial of an address, or of an identifier.
    pub(crate) fn denied<'a>(caller: &str, policy: &'a str) -> EventKey<'a> {
        EventKey {
            kind: EventKind::Denied,
            caller: CallerKey::parse(caller).unwrap_or_else(|| CallerKey::id(caller)),
            policy,
            status: 429,
        }
    }

    /// Limits that leave room for everything.
    pub(crate) const ALL: BatchLimits = BatchLimits {
        commands: None,
        escalation: Some(Costs::SINGLE_SERVER),
    };

    fn recorder() -> Recorder {
        Recorder::new(Seed::fixed())
    }

    fn counts(batch: &EventBatch) -> u64 {
        batch.events.iter().map(|event| event.count).sum()
    }

    #[test]
    fn the_text_of_a_kind_does_not_follow_its_name_in_the_code() {
        for (kind, text) in [
            (EventKind::Denied, "denied"),
            (EventKind::Admitted, "admitted"),
            (EventKind::Bypassed, "bypassed"),
            (EventKind::WrongToken, "refused"),
            (EventKind::Escalated, "escalated"),
            (EventKind::Reported, "reported"),
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), text);
        }
    }

    #[test]
    fn a_flood_of_like_events_is_one_record_with_a_count() {
        let recorder = recorder();
        for ms in 0..2000 {
            let details = &mut || {
                assert_eq!(ms, 0, "details are read for the first event alone");
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
        assert!(
            recorder.should_write(START),
            "the next event opens another batch"
        );
    }

    #[test]
    fn events_beyond_the_most_records_are_counted_as_left_out() {
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

    /// The decoys differ from each other in every field of the key. Some come before, some after.
    #[test]
    fn a_frequent_event_keeps_its_record_among_many_rare_ones() {
        let recorder = recorder();
        let decoys = |from: u32| {
            for number in from..from + 200 {
                let name = number.to_string();
                let decoy = denied(&name, "auth");
                let key = match number % 4 {
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
                        kind: EventKind::WrongToken,
                        policy: &name,
                        ..decoy
                    },
                };
                recorder.record(&key, START, &mut Details::default);
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
    fn callers_with_the_most_denials_are_written_first_and_the_others_with_the_next_batch() {
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
                .map(|denials| of(denials.policies).collect());
            policies.collect::<Vec<Vec<u64>>>()
        };
        assert!(recorder.should_write(START));
        let first = sizes();
        assert_eq!(first[..3], [vec![1, 200], vec![150], vec![149]]);
        assert_eq!(first.len() + 1, MAX_DENIALS_PER_BATCH);
        assert!(
            recorder.should_write(START),
            "the other callers are still to be written"
        );
        let next: Vec<u64> = sizes().into_iter().flatten().collect();
        let rest: Vec<u64> = (1..=52).rev().collect();
        assert_eq!(next, rest);
        assert!(!recorder.should_write(START));
    }

    /// A caller that many policies deny needs several batches if few commands may be spent.
    #[test]
    fn denials_beyond_the_limits_of_a_batch_are_written_with_the_next_ones() {
        let recorder = recorder();
        let caller = denied("192.0.2.1", "auth").caller;
        for policy in 0..20 {
            for _ in 0..=policy {
                recorder.count_denial(caller, &format!("p{policy}"), START);
            }
        }
        // One for the script, four for all denials, two for the address, and one for each of eight policies.
        let limits = BatchLimits {
            commands: Some(15),
            escalation: Some(Costs::SINGLE_SERVER),
        };
        let mut all = Vec::new();
        for policies in [8, 8, 4] {
            let batch = recorder.take(limits);
            assert!(batch.commands(limits.escalation) <= 15);
            let [denials] = batch.denials.as_slice() else {
                panic!("{batch:?}")
            };
            assert_eq!(denials.policies.len(), policies);
            all.extend(denials.policies.clone());
        }
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 210);
        assert!(recorder.is_empty());
    }

    #[test]
    fn a_duty_that_is_cancelled_keeps_others_from_writing_for_15_seconds() {
        let recorder = recorder();
        let record = |seconds| {
            let now = START + Millis::from_secs(seconds);
            recorder.record(&denied("a", "auth"), now, &mut Details::default);
            recorder.should_write(now)
        };
        assert_eq!([0, 14, 15, 16].map(record), [true, false, true, false]);
    }

    #[test]
    fn a_clock_set_back_does_not_postpone_the_next_write() {
        let recorder = recorder();
        let record = |seconds| {
            let now = START + Millis::from_secs(seconds);
            recorder.record(&denied("a", "auth"), now, &mut Details::default);
            recorder.should_write(now)
        };
        assert_eq!([3600, 3601, 0, 1].map(record), [true, false, true, false]);
    }

    #[test]
    fn a_batch_that_was_not_written_is_merged_into_the_next() {
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
        let [denials] = batch.denials.as_slice() else {
            panic!("{batch:?}")
        };
        let policies = [("mfa".to_owned(), 1), ("auth".to_owned(), 2)];
        assert_eq!((denials.since, &*denials.policies), (START, &policies[..]));
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
