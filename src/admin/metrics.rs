//! `GET /_limiter/metrics`, `/_limiter/series` and `/_limiter/store`: counts for scrapers and for the page.

use serde_json::{Map, Value, json};

use super::bad_input::BadInput;
use super::input::Input;
use super::{AdminError, AdminRequest, AdminResult, ControlPlane, ok};
use crate::effects::Effects;
use crate::metrics::exposition::{self, Exposition, Format};
use crate::metrics::gauges::{FIELDS, GaugeReading};
use crate::metrics::records::window;
use crate::metrics::{CounterSet, StoreCounts, TENTHS};
use crate::redis::{Database, number_of};
use crate::response::Response;
use crate::response::body_format;
use crate::store::shared::Partitioned;
use crate::time::Timestamp;

/// A bucket of a chart as JSON. Its `usage` has a list for each policy: how many windows of callers used any of the limit,
/// more than a tenth of it, more than two tenths, and so on.
fn bucket(at: u64, counts: &CounterSet) -> Value {
    let mut bucket = counts.nested();
    bucket["at"] = at.into();
    let by_policy = bucket["usage"].as_object_mut();
    for tenths in by_policy.into_iter().flat_map(Map::values_mut) {
        let mut more_than = Vec::new();
        let mut sum = 0;
        for tenth in (0..TENTHS).rev() {
            sum += number_of(&tenths[tenth.to_string()]);
            more_than.insert(0, Value::from(sum));
        }
        *tenths = Value::Array(more_than);
    }
    bucket
}

impl<S: Partitioned, D: Database, E: Effects + Clone> ControlPlane<'_, S, D, E> {
    pub(super) async fn metrics(
        &self,
        input: &Input,
        request: &AdminRequest,
        now: Timestamp,
    ) -> AdminResult {
        input.only(&[])?;
        self.counts(now).await?;
        let overview = self.records().overview(now).await.ok();
        let exposition = Exposition {
            overview: overview.as_ref(),
            config: self.config(),
            isolate: self.isolate(),
        };
        let open = ["application", "openmetrics-text"];
        let format = match body_format::prefers(request.accept.as_deref(), open, ["text", "plain"])
        {
            true => Format::OpenMetrics,
            false => Format::Text,
        };
        let text = exposition::write(&exposition, format);
        Ok(Response::text(200, format.media_type(), text))
    }

    pub(super) async fn series(&self, input: &Input, now: Timestamp) -> AdminResult {
        input.only(&["window"])?;
        self.counts(now).await?;
        let name = input.parameter("window").unwrap_or("hour");
        let unknown = BadInput::from("`window` must be hour, day or month.");
        let (width, steps) = window(name).ok_or(unknown)?;
        // Twice the steps: the window that the chart shows, and the window before it.
        let buckets = self.records().chart(width, 2 * steps, now).await?;
        let step = width.ms();
        let end = now.as_millis() / step + 1;
        let buckets = buckets.iter();
        let buckets = buckets.map(|(number, counts)| bucket(number * step, counts));
        ok(&json!({
            "window": name, "shared": self.records().is_shared(), "isolate": self.isolate(), "step_ms": step,
            "from": end.saturating_sub(2 * steps) * step, "to": end * step,
            "buckets": buckets.collect::<Vec<_>>(),
        }))
    }

    pub(super) async fn store(&self, input: &Input, now: Timestamp) -> AdminResult {
        input.only(&[])?;
        let gauges = self.records().gauges(now).await?.unwrap_or_default();
        let mut redis = Value::Null;
        for field in &FIELDS {
            if let Some(value) = gauges.redis.find(field.info) {
                redis[field.json] = value.into();
                redis["at"] = gauges.at.into();
            }
        }
        let keys = gauges.keys.map(GaugeReading::to_value);
        ok(&json!({"shared": self.records().is_shared(), "keys": keys, "redis": redis}))
    }

    /// Checks that metrics are on, else the answer is 404. Without a shared Redis, adds this isolate's counts to the
    /// records, so that an answer contains them at once.
    async fn counts(&self, now: Timestamp) -> Result<(), AdminError> {
        if !self.metrics.is_on() {
            return Err(AdminError::NotFound);
        }
        if !self.records().is_shared() {
            let store = StoreCounts {
                left_out: self.journal.left_out(),
                ..StoreCounts::default()
            };
            self.metrics.send(self.records(), &store, now).await;
        }
        Ok(())
    }

    /// The isolate whose counts these are, unless a Redis is shared.
    fn isolate(&self) -> Option<&str> {
        let is_shared = self.records().is_shared();
        (!is_shared).then(|| self.metrics.isolate())
    }
}
