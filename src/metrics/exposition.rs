//! Writes the metrics that Prometheus reads: in its text format 0.0.4, or in OpenMetrics 1.0 if the scraper prefers that.

use super::gauges::FIELDS;
use super::records::Overview;
use super::{CounterSet, RequestOutcome, routes};
use crate::config::Config;
use crate::redis::rest::{BOUNDS_MS, RESULTS};
use crate::store::breaker::STATES;

/// The format of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// Returns the format's `Content-Type`.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What an exposition contains.
pub struct Exposition<'a> {
    /// Counts and gauges. `None`: Redis does not answer, and they are left out.
    pub overview: Option<&'a Overview>,
    /// The configuration in force.
    pub config: &'a Config,
    /// The name of the isolate whose counts these are, which becomes a label of each sample. `None`: the counts are
    /// those of all isolates that share a Redis.
    pub isolate: Option<&'a str>,
}

/// A metric with several counters.
struct Counters {
    /// The first word of the counters' names in [`CounterSet`].
    word: &'static str,
    /// The metric's name.
    name: &'static str,
    /// The labels that the further words are the values of.
    labels: &'static [&'static str],
    help: &'static str,
}

const COUNTERS: [Counters; 6] = [
    Counters {
        word: "requests",
        name: "edge_limiter_requests_total",
        labels: &["outcome", "route"],
        help: "Requests by outcome and route.",
    },
    Counters {
        word: "decisions",
        name: "edge_limiter_decisions_total",
        labels: &["outcome", "source", "policy"],
        help: "Decisions of quotas, by outcome, source and policy.",
    },
    Counters {
        word: "left_out",
        name: "edge_limiter_events_left_out_total",
        labels: &[],
        help: "Events that no record counts.",
    },
    Counters {
        word: "calls",
        name: "edge_limiter_store_requests_total",
        labels: &["result"],
        help: "Calls of Redis by result.",
    },
    Counters {
        word: "commands",
        name: "edge_limiter_store_commands_total",
        labels: &[],
        help: "Redis commands sent, including those of scripts (an upper bound).",
    },
    Counters {
        word: "breaker",
        name: "edge_limiter_breaker_transitions_total",
        labels: &["to"],
        help: "Changes of a circuit breaker to each state.",
    },
];

/// Adds counters that alerts watch with the value 0, even if nothing was counted. If a series is first seen above 0, a rate
/// misses its first increase.
fn add_watched(counts: &mut CounterSet, config: &Config) {
    for result in RESULTS {
        counts.show(&["calls", result]);
    }
    for state in STATES {
        counts.show(&["breaker", state]);
    }
    for policy in &config.policies {
        counts.show(&["decisions", "admitted", "memory", &policy.name]);
    }
    for route in routes(config) {
        for outcome in [
            RequestOutcome::Denied,
            RequestOutcome::Blocked,
            RequestOutcome::Unavailable,
        ] {
            counts.show(&["requests", outcome.name(), route]);
        }
    }
}

/// Writes an exposition in a format.
#[must_use]
pub fn write(exposition: &Exposition<'_>, format: Format) -> String {
    let mut writer = TextWriter {
        text: String::with_capacity(8192),
        format,
        isolate: exposition.isolate,
    };
    if let Some(overview) = exposition.overview {
        let mut counts = overview.counts.clone();
        add_watched(&mut counts, exposition.config);
        writer.counts(&counts);
        writer.overview(overview);
    }
    writer.limits(exposition.config);
    writer.gauge(
        "edge_limiter_build_info",
        "The version that answers, always 1.",
    );
    writer.sample(
        "edge_limiter_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        "1",
    );
    if exposition.isolate.is_none() {
        writer.gauge("redis_up", "Whether Redis answers.");
        writer.number("redis_up", &[], exposition.overview.is_some().into());
    }
    if format == Format::OpenMetrics {
        writer.text.push_str("# EOF\n");
    }
    writer.text
}

struct TextWriter<'a> {
    text: String,
    format: Format,
    isolate: Option<&'a str>,
}

type Labels<'a> = [(&'a str, &'a str)];

impl TextWriter<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        for part in [
            "# HELP ",
            name,
            " ",
            help,
            "\n# TYPE ",
            name,
            " ",
            kind,
            "\n",
        ] {
            self.text.push_str(part);
        }
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    /// Begins a family of counters. OpenMetrics names the family without the `_total` of its samples.
    fn counter(&mut self, name: &str, help: &str) {
        let name = match self.format {
            Format::OpenMetrics => name.trim_end_matches("_total"),
            Format::Text => name,
        };
        self.family(name, "counter", help);
    }

    fn number(&mut self, name: &str, labels: &Labels<'_>, value: u64) {
        self.sample(name, labels, &value.to_string());
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: &str) {
        self.text.push_str(name);
        let isolate = self.isolate.map(|isolate| ("isolate", isolate));
        let mut separator = '{';
        for (label, value) in labels.iter().copied().chain(isolate) {
            self.text.push(separator);
            self.text.push_str(label);
            self.text.push_str("=\"");
            for char in value.chars() {
                match char {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        self.text.push(' ');
        self.text.push_str(value);
        self.text.push('\n');
    }

    fn counts(&mut self, counts: &CounterSet) {
        for family in &COUNTERS {
            self.counter(family.name, family.help);
            let labelled = !family.labels.is_empty();
            if !labelled {
                self.number(family.name, &[], counts.get(family.word));
            }
            for (rest, count) in counts.of(family.word).filter(|_| labelled) {
                let values = rest.splitn(family.labels.len(), ' ');
                let labels: Vec<_> = family.labels.iter().copied().zip(values).collect();
                if labels.len() == family.labels.len() {
                    self.number(family.name, &labels, count);
                }
            }
        }
        self.durations(counts);
    }

    fn overview(&mut self, overview: &Overview) {
        let blocked = overview.blocked;
        self.gauge("edge_limiter_blocked", "What is blocked now.");
        for (kind, count) in [
            ("address", blocked.addresses),
            ("range", blocked.ranges),
            ("policy", blocked.policies),
        ] {
            self.number("edge_limiter_blocked", &[("kind", kind)], count);
        }
        let Some(gauges) = &overview.gauges else {
            return;
        };
        let name = "edge_limiter_limited_callers";
        self.gauge(
            name,
            "Callers that a policy denied in the last hour, each policy's counted apart.",
        );
        self.number(name, &[], gauges.limited);
        if let Some(keys) = gauges.keys {
            self.gauge("edge_limiter_keys", "Keys of the limiter in Redis.");
            self.number("edge_limiter_keys", &[], keys.count);
        }
        for field in &FIELDS {
            let Some(value) = gauges.redis.find(field.info) else {
                continue;
            };
            if field.metric.ends_with("_total") {
                self.counter(field.metric, field.help);
            } else {
                self.gauge(field.metric, field.help);
            }
            self.number(field.metric, &[], value);
        }
    }

    fn limits(&mut self, config: &Config) {
        let name = "edge_limiter_limit";
        self.gauge(name, "Requests that a policy admits in its window.");
        for policy in &config.policies {
            let limit = policy.quota.limit().into();
            self.number(name, &[("policy", &policy.name)], limit);
        }
        let name = "edge_limiter_window_seconds";
        self.gauge(name, "The window of a policy.");
        for policy in &config.policies {
            let seconds = policy.quota.window().secs_ceil();
            self.number(name, &[("policy", &policy.name)], seconds);
        }
    }

    fn durations(&mut self, counts: &CounterSet) {
        const NAME: &str = "edge_limiter_store_duration_seconds";
        self.family(NAME, "histogram", "How long calls of Redis took.");
        let mut within = 0;
        for place in 0..=BOUNDS_MS.len() {
            let bound = match BOUNDS_MS.get(place) {
                Some(ms) => seconds(*ms),
                None => "+Inf".to_owned(),
            };
            within += counts.get(&format!("took {place}"));
            self.number(BUCKETS, &[("le", &bound)], within);
        }
        self.sample(SUM, &[], &seconds(counts.get("took_ms")));
        self.number(COUNT, &[], within);
    }
}

const BUCKETS: &str = "edge_limiter_store_duration_seconds_bucket";
const SUM: &str = "edge_limiter_store_duration_seconds_sum";
const COUNT: &str = "edge_limiter_store_duration_seconds_count";

/// Writes milliseconds as seconds, exactly and always with a decimal point, which OpenMetrics requires in a bound.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    let short = text.trim_end_matches('0');
    if short.ends_with('.') {
        format!("{short}0")
    } else {
        short.to_owned()
    }
}
