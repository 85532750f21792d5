//! Gauges: the number of keys, the number of callers that were denied lately, and what Redis reports about itself. The
//! schedule gathers them, and they stay until its next run.
//!
//! Two runs at once do no harm: both count from the same cursor, and the result of the later one is kept.

use serde_json::{Value, json};

use super::CounterSet;
use crate::error::StoreError;
use crate::json;
use crate::redis::keys::RedisKey;
use crate::redis::records::Records;
use crate::redis::{Command, Database, command, number_of, texts};
use crate::time::Timestamp;

/// The most `SCAN` commands in a run. If there are more keys, they are counted over several runs.
const MAX_SCANS_PER_RUN: usize = 10;
/// The approximate number of keys that Redis examines in one `SCAN`.
const KEYS_PER_SCAN: &str = "5000";

/// How long gauges are kept, in ms: an hour, which is twelve runs.
const GAUGES_TTL_MS: u64 = 60 * 60 * 1000;

const HOUR_MS: u64 = 60 * 60 * 1000;

/// A field of Redis's `INFO`, and its names elsewhere.
pub struct Field {
    /// The name in `INFO`.
    pub info: &'static str,
    /// The name as a metric, which is that of `redis_exporter`. A metric that ends in `_total` grows until Redis restarts.
    pub metric: &'static str,
    /// The name in the control plane's JSON.
    pub json: &'static str,
    /// The help text of the metric.
    pub help: &'static str,
}

const fn field(
    info: &'static str,
    metric: &'static str,
    json: &'static str,
    help: &'static str,
) -> Field {
    Field {
        info,
        metric,
        json,
        help,
    }
}

/// The fields of `INFO` that are exposed.
#[rustfmt::skip]
pub const FIELDS: [Field; 10] = [
    field("used_memory", "redis_memory_used_bytes", "memory_used_bytes", "Memory that Redis uses."),
    field("maxmemory", "redis_memory_max_bytes", "memory_max_bytes", "Memory that Redis may use; 0: no limit."),
    field("connected_clients", "redis_connected_clients", "connected_clients", "Connections to Redis."),
    field("total_commands_processed", "redis_commands_processed_total", "commands_processed", "Commands that Redis has run."),
    field("keyspace_hits", "redis_keyspace_hits_total", "keyspace_hits", "Keys that were looked up and found."),
    field("keyspace_misses", "redis_keyspace_misses_total", "keyspace_misses", "Keys that were looked up and not found."),
    field("evicted_keys", "redis_evicted_keys_total", "evicted_keys", "Keys evicted for lack of memory."),
    field("expired_keys", "redis_expired_keys_total", "expired_keys", "Keys that expired."),
    field("uptime_in_seconds", "redis_uptime_in_seconds", "uptime_seconds", "How long Redis has been running."),
    field("connected_slaves", "redis_connected_slaves", "connected_replicas", "Replicas that are connected."),
];

/// A count, and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaugeReading {
    /// The count.
    pub count: u64,
    /// When it was made, in ms since the epoch.
    pub at: u64,
}

/// The gauges that one run of the schedule gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// When they were gathered, in ms since the epoch.
    pub at: u64,
    /// The number of the limiter's keys. `None`: not all keys have been counted yet.
    pub keys: Option<GaugeReading>,
    /// The number of pairs of a caller and a policy that denied it in the last 60 minutes. It is an estimate: all pairs of
    /// the current clock hour, and a share of those of the hour before.
    pub limited: u64,
    /// [`FIELDS`] by their name in `INFO`. Empty: Redis does not report them.
    pub redis: CounterSet,
    /// The cursor at which the next `SCAN` continues, and the number of keys found so far.
    pub(super) scan: (String, u64),
}

impl Gauges {
    /// Reads gauges in the form in which they are stored. `None`: the text is something else.
    pub(super) fn read(text: &Value) -> Option<Self> {
        let mut stored = json::value(text.as_str()?)?;
        let number = |value: &Value| value.as_u64();
        Some(Self {
            at: number(&stored["at"])?,
            keys: number(&stored["keys"]["count"])
                .zip(number(&stored["keys"]["at"]))
                .map(|(count, at)| GaugeReading { count, at }),
            limited: number_of(&stored["limited"]),
            scan: (
                stored["scan"][0].as_str().unwrap_or_default().to_owned(),
                number_of(&stored["scan"][1]),
            ),
            redis: CounterSet::of_value(
                stored.get_mut("redis").map(Value::take).unwrap_or_default(),
            ),
        })
    }

    fn text(self) -> String {
        json!({
            "at": self.at, "keys": self.keys.map(GaugeReading::to_value), "limited": self.limited,
            "scan": [self.scan.0, self.scan.1], "redis": self.redis.into_value(),
        })
        .to_string()
    }
}

impl GaugeReading {
    /// Returns the reading as JSON.
    #[must_use]
    pub fn to_value(self) -> Value {
        json!({"count": self.count, "at": self.at})
    }
}

impl<D: Database> Records<D> {
    /// Returns the gauges that were gathered last. `None`: none were gathered in the last hour.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn gauges(&self, now: Timestamp) -> Result<Option<Gauges>, StoreError> {
        let [stored] = self
            .run([command(["GET", &self.key(RedisKey::Gauges)])], now)
            .await?;
        Ok(Gauges::read(&stored))
    }

    /// Removes expired entries from the lists, and gathers gauges. It costs at most 20 commands.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database. The gauges that were gathered before stay.
    pub async fn gather_gauges(&self, now: Timestamp) -> Result<(), StoreError> {
        let hour = now.as_millis() / HOUR_MS;
        let denied = |hour| command(["ZCARD", &self.key(RedisKey::Suspicious(hour))]);
        let mut commands: Vec<Command> = vec![
            command(["GET", &self.key(RedisKey::Gauges)]),
            denied(hour),
            denied(hour.saturating_sub(1)),
        ];
        commands.extend(self.tidying(now));
        let replies = self.run_all(commands, now).await?;
        let [stored, current, before, ..] = replies.as_slice() else {
            return Err(StoreError::Malformed);
        };
        let Gauges { keys, scan, .. } = Gauges::read(stored).unwrap_or_default();
        let left = HOUR_MS - now.as_millis() % HOUR_MS;
        let limited = number_of(current) + number_of(before).saturating_mul(left) / HOUR_MS;
        let mut gathered = Gauges {
            at: now.as_millis(),
            keys,
            limited,
            redis: CounterSet::default(),
            scan,
        };
        if self.is_shared() {
            gathered.redis = self.info(now).await;
            // If counting fails, the next run continues from the same cursor.
            let _ = self.count_keys(&mut gathered, now).await;
        }
        let text = gathered.text();
        let expiry = GAUGES_TTL_MS.to_string();
        let set = command(["SET", &self.key(RedisKey::Gauges), &text, "PX", &expiry]);
        self.run([set], now).await.map(drop)
    }

    /// The commands that remove expired entries from the lists.
    fn tidying(&self, now: Timestamp) -> Vec<Command> {
        let mut commands = self.block_tidy_commands(now);
        commands.push(self.tidying_of_events(now));
        commands
    }

    /// Removes expired entries from the lists.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the database.
    pub async fn tidy(&self, now: Timestamp) -> Result<(), StoreError> {
        self.run_all(self.tidying(now), now).await.map(drop)
    }

    /// Continues counting the keys.
    async fn count_keys(&self, gauges: &mut Gauges, now: Timestamp) -> Result<(), StoreError> {
        let pattern = self.pattern();
        for _ in 0..MAX_SCANS_PER_RUN {
            let (cursor, counted) = &mut gauges.scan;
            let from = if cursor.is_empty() {
                "0"
            } else {
                cursor.as_str()
            };
            let step = command(["SCAN", from, "MATCH", &pattern, "COUNT", KEYS_PER_SCAN]);
            let [reply] = self.run([step], now).await?;
            let next = match &reply[0] {
                Value::String(next) => next.clone(),
                Value::Number(next) => next.to_string(),
                _ => return Err(StoreError::Malformed),
            };
            *counted += texts(&reply[1]).len() as u64;
            if next == "0" {
                gauges.keys = Some(GaugeReading {
                    count: *counted,
                    at: now.as_millis(),
                });
                gauges.scan = (String::new(), 0);
                break;
            }
            *cursor = next;
        }
        Ok(())
    }

    /// Reads [`FIELDS`] from `INFO`. The result is empty if Redis refuses the command.
    async fn info(&self, now: Timestamp) -> CounterSet {
        let mut fields = CounterSet::default();
        let reply = self.run([command(["INFO"])], now).await;
        let Ok([Value::String(text)]) = reply else {
            return fields;
        };
        for line in text.lines() {
            let Some((name, value)) = line.trim_end().split_once(':') else {
                continue;
            };
            if let Ok(value) = value.parse()
                && FIELDS.iter().any(|field| field.info == name)
            {
                fields.set(name, value);
            }
        }
        fields
    }
}
