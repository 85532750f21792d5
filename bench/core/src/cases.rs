//! The cases that are measured.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use edge_limiter::client::range::{Range, RangeMap};
use edge_limiter::config::{Config, Vars};
use edge_limiter::effects::OfflineEffects;
use edge_limiter::gate::{self, GateRequest};
use edge_limiter::policy::PolicyId;
use edge_limiter::quota::{Algorithm, Quota, QuotaState};
use edge_limiter::route::{PathPattern, Route, Routes};
use edge_limiter::seed::Seed;
use edge_limiter::store::denials::Denials;
use edge_limiter::store::memory::Memory;
use edge_limiter::store::{Charge, Check, Store};
use edge_limiter::time::{Millis, Timestamp};
use edge_limiter::user::Unauthenticated;
use serde_json::{Value, json};

use crate::Loop;

/// An arbitrary time, at the start of a window of a minute.
const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_000);
const MINUTE: Millis = Millis::from_secs(60);
/// A limit so high that nobody is denied.
const AMPLE: u32 = 1_000_000_000;

/// A case that is measured. Its comment says what its size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// One pure decision that admits, on a sliding window. Size: the occupied sub-windows.
    SlidingAllowed,
    /// The same, but denied.
    SlidingDenied,
    /// One pure decision that admits, on a token bucket. The size has no effect.
    BucketAllowed,
    /// The same, but denied.
    BucketDenied,
    /// One pure decision that admits, on a fixed window. The size has no effect.
    FixedAllowed,
    /// The same, but denied.
    FixedDenied,
    /// A sliding window's state is read from its text and written again. Size: the occupied sub-windows.
    StateText,
    /// The memory store decides for a caller that it holds. Size: the callers that it holds.
    MemoryHeld,
    /// The memory store is full and decides for a new caller. Size: the callers that it holds.
    MemoryEvicting,
    /// The memory store decides for a new caller while another one expires. Size: the callers that it holds.
    MemoryExpiring,
    /// The memory store decides for one of 1,000 callers. Size: the quotas of one decision.
    MemoryQuotas,
    /// A remembered denial is repeated. Size: the callers with one.
    Denial,
    /// The gate classifies, identifies and decides in memory. Size: the callers.
    Gate,
    /// Routes of the form `/api/r{i}`, and a path that matches the last. Size: the routes, here and below.
    RoutesLiteralLast,
    /// The same, and a path that matches none.
    RoutesLiteralNone,
    /// Routes of the form `/api/*/r{i}`, and a path that matches the last.
    RoutesStarLast,
    /// The same, and a path that matches none.
    RoutesStarNone,
    /// Routes of the form `/api/r{i}/**`, and a path that matches the last.
    RoutesBelowLast,
    /// The same, and a path that matches none.
    RoutesBelowNone,
    /// Routes of the form `/**/r{i}`, and a path that matches the last.
    RoutesAboveLast,
    /// The same, and a path that matches none.
    RoutesAboveNone,
    /// All these forms in turn, and a path that matches the last route.
    RoutesMixedLast,
    /// The same, and a path that matches none.
    RoutesMixedNone,
    /// Routes of the form `/files/*-r{i}.txt`, which differ only in the end, and a path that matches the last.
    RoutesEndsLast,
    /// Routes of the form `/**/r{i}/**`, which differ only in the middle, and a path that matches the last.
    RoutesMiddleLast,
    /// The ranges that contain an address are found: separate ranges, and an address in one of them. Size: the ranges, here and
    /// below.
    RangesIn,
    /// The same, and an address in none.
    RangesOut,
    /// Ranges within three wide ones, and an address in one of them.
    RangesNested,
    /// Separate IPv6 ranges, and an address in one of them.
    RangesSix,
    /// Ranges are sorted, as after a change of the list.
    RangesBuilt,
    /// A configuration is read. Size: its routes.
    Config,
}

impl Case {
    /// All cases, in the order of their numbers.
    pub const ALL: [Self; 31] = [
        Self::SlidingAllowed,
        Self::SlidingDenied,
        Self::BucketAllowed,
        Self::BucketDenied,
        Self::FixedAllowed,
        Self::FixedDenied,
        Self::StateText,
        Self::MemoryHeld,
        Self::MemoryEvicting,
        Self::MemoryExpiring,
        Self::MemoryQuotas,
        Self::Denial,
        Self::Gate,
        Self::RoutesLiteralLast,
        Self::RoutesLiteralNone,
        Self::RoutesStarLast,
        Self::RoutesStarNone,
        Self::RoutesBelowLast,
        Self::RoutesBelowNone,
        Self::RoutesAboveLast,
        Self::RoutesAboveNone,
        Self::RoutesMixedLast,
        Self::RoutesMixedNone,
        Self::RoutesEndsLast,
        Self::RoutesMiddleLast,
        Self::RangesIn,
        Self::RangesOut,
        Self::RangesNested,
        Self::RangesSix,
        Self::RangesBuilt,
        Self::Config,
    ];

    /// The case with the name of a variant.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|case| format!("{case:?}") == name)
    }

    /// Sets the case up.
    #[must_use]
    pub fn prepare(self, size: u32) -> Loop {
        use Algorithm::{FixedWindow, SlidingWindow, TokenBucket};
        match self {
            Self::SlidingAllowed => decide(SlidingWindow, size, true),
            Self::SlidingDenied => decide(SlidingWindow, size, false),
            Self::BucketAllowed => decide(TokenBucket, size, true),
            Self::BucketDenied => decide(TokenBucket, size, false),
            Self::FixedAllowed => decide(FixedWindow, size, true),
            Self::FixedDenied => decide(FixedWindow, size, false),
            Self::StateText => state_text(size),
            Self::MemoryHeld => memory_held(size, 1),
            Self::MemoryEvicting => memory_new(size, 0),
            Self::MemoryExpiring => memory_new(2 * size, expiring_step(size)),
            Self::MemoryQuotas => memory_held(1000, size),
            Self::Denial => denial(size),
            Self::Gate => the_gate(size),
            Self::RoutesLiteralLast => routes(LITERAL, size, true),
            Self::RoutesLiteralNone => routes(LITERAL, size, false),
            Self::RoutesStarLast => routes(STAR, size, true),
            Self::RoutesStarNone => routes(STAR, size, false),
            Self::RoutesBelowLast => routes(BELOW, size, true),
            Self::RoutesBelowNone => routes(BELOW, size, false),
            Self::RoutesAboveLast => routes(ABOVE, size, true),
            Self::RoutesAboveNone => routes(ABOVE, size, false),
            Self::RoutesMixedLast => routes(MIXED, size, true),
            Self::RoutesMixedNone => routes(MIXED, size, false),
            Self::RoutesEndsLast => routes(ENDS, size, true),
            Self::RoutesMiddleLast => routes(MIDDLE, size, true),
            Self::RangesIn => ranges(IN, size, true),
            Self::RangesOut => ranges(OUT, size, false),
            Self::RangesNested => ranges(NESTED, size, true),
            Self::RangesSix => ranges(SIX, size, true),
            Self::RangesBuilt => ranges_built(size),
            Self::Config => config(size),
        }
    }
}

/// A loop that adds up the outcomes of its rounds. Each round gets its number, which goes on counting from call to call.
fn rounds(mut round: impl FnMut(u32) -> u64 + 'static) -> Loop {
    let mut number = 0_u32;
    Box::new(move |rounds| {
        let mut sum = 0_u64;
        for _ in 0..rounds {
            sum = sum.wrapping_mul(31).wrapping_add(round(number));
            number = number.wrapping_add(1);
        }
        sum
    })
}

/// The caller of a round, in an order that no cache can predict.
fn someone(round: u32, of: u32) -> u32 {
    round
        .wrapping_mul(2_654_435_769)
        .rotate_left(15)
        .wrapping_mul(2_246_822_519)
        % of.max(1)
}

/// Runs a future with one poll, because nothing here waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a store in memory does not wait"),
    }
}

fn quota(algorithm: Algorithm, limit: u32) -> Quota {
    // The limits here are small enough for a bucket, whose limit times window is bounded.
    let limit = NonZeroU32::new(limit).expect("a limit");
    Quota::new(algorithm, limit, MINUTE).expect("a quota")
}

/// A state with one unit in each of a number of sub-windows, and the time of the last one.
fn occupied(quota: &Quota, sub_windows: u32) -> (QuotaState, Timestamp) {
    let mut state = None;
    let mut now = NOW;
    for number in 0..sub_windows.max(1) {
        now = NOW + Millis::from_secs(number);
        state = quota.decide(state.as_ref(), 1, now).admitted;
    }
    (state.expect("was admitted"), now)
}

fn decide(algorithm: Algorithm, sub_windows: u32, admits: bool) -> Loop {
    let limit = if admits {
        1_000_000
    } else {
        sub_windows.max(1)
    };
    let quota = quota(algorithm, limit);
    let (state, now) = match algorithm {
        Algorithm::SlidingWindow => occupied(&quota, sub_windows),
        _ => {
            let full = if admits { 1 } else { limit };
            (
                quota
                    .decide(None, full, NOW)
                    .admitted
                    .expect("was admitted"),
                NOW,
            )
        }
    };
    rounds(move |_| {
        let decided =
            black_box(&quota).decide(Some(black_box(&state)), black_box(1), black_box(now));
        let decision = decided.decision;
        assert_eq!(decision.allowed(), admits);
        black_box(&decided.admitted);
        u64::from(decision.remaining) + decision.reset_at.as_millis()
    })
}

fn state_text(sub_windows: u32) -> Loop {
    let (state, _) = occupied(&quota(Algorithm::SlidingWindow, AMPLE), sub_windows);
    let text = state.to_string();
    rounds(move |_| {
        let state = QuotaState::parse(black_box(&text)).expect("a state's text");
        state.to_string().len() as u64
    })
}

fn seed() -> Seed {
    Seed::known(*b"the same anytime")
}

fn check(caller: u32, quotas: u32, limit: u32) -> Check {
    let charge = |policy| Charge::new(key(policy, caller), quota(Algorithm::SlidingWindow, limit));
    Check {
        address: None,
        charges: (0..quotas.max(1)).map(charge).collect(),
        cost: 1,
    }
}

fn key(policy: u32, caller: u32) -> String {
    let [a, b, c, d] = caller.to_be_bytes();
    format!("policy{policy}:{a}.{b}.{c}.{d}")
}

fn decided(store: &impl Store, check: &Check, now: Timestamp) -> u64 {
    let verdict = ready(store.decide(check, now)).expect("decides");
    let answers = verdict.answers.iter().flatten();
    answers
        .map(|answer| u64::from(answer.decision.remaining))
        .sum()
}

fn memory_held(callers: u32, quotas: u32) -> Loop {
    let memory = Memory::new(callers as usize * quotas as usize, seed());
    for caller in 0..callers {
        decided(&memory, &check(caller, quotas, AMPLE), NOW);
    }
    assert_eq!(memory.len(), callers as usize * quotas as usize);
    rounds(move |round| {
        let check = check(someone(round, callers), quotas, AMPLE);
        decided(&memory, &check, black_box(NOW))
    })
}

/// How many microseconds each caller comes after the one before, so that `size` of them are held at a time. A state is
/// kept for its window, its last sub-window and the clocks' tolerance.
fn expiring_step(size: u32) -> u64 {
    63_000_000 / u64::from(size.max(1))
}

/// Every caller is new, and comes `micros` microseconds after the one before.
fn memory_new(entries: u32, micros: u64) -> Loop {
    let memory = Memory::new(entries as usize, seed());
    let one = move |caller: u32| {
        let now = NOW + Millis::new(u64::from(caller) * micros / 1000);
        decided(&memory, &check(caller, 1, AMPLE), now)
    };
    for caller in 0..entries {
        one(caller);
    }
    rounds(move |round| one(entries + round))
}

fn denial(callers: u32) -> Loop {
    let memory = Memory::new(callers as usize, seed());
    let denials = Denials::new(memory, callers as usize, seed(), OfflineEffects(NOW));
    for caller in 0..callers {
        for _ in 0..2 {
            decided(&denials, &check(caller, 1, 1), NOW);
        }
    }
    rounds(move |round| {
        let check = check(someone(round, callers), 1, 1);
        let verdict = ready(denials.decide(&check, black_box(NOW))).expect("decides");
        assert!(!verdict.allows(&check));
        let answer = verdict.answers.first().copied().flatten();
        answer
            .and_then(|answer| answer.retry_at())
            .map_or(0, Timestamp::as_millis)
    })
}

struct Get(String);

impl GateRequest for Get {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn path(&self) -> &'static str {
        "/api/articles/42"
    }

    fn header(&self, name: &str) -> Option<String> {
        (name == "cf-connecting-ip").then(|| self.0.clone())
    }
}

/// The default configuration with other limits.
fn the_gate(callers: u32) -> Loop {
    let limit = || json!(format!("{AMPLE},60"));
    let vars = [("RATE_LIMIT_GENERAL", limit()), ("RATE_LIMIT_IP", limit())];
    let vars = Vars::from_iter(vars.map(|(name, value)| (name.to_owned(), value)));
    let config = Config::compile(&vars).config;
    let memory = Memory::new(2 * callers as usize, seed());
    let ask = move |caller: u32| {
        let [_, b, c, d] = caller.to_be_bytes();
        let request = Get(format!("100.{b}.{c}.{d}"));
        let report = ready(gate::decide(
            &config,
            &memory,
            &Unauthenticated,
            &request,
            black_box(NOW),
        ));
        let report = report.expect("decides");
        assert!(report.admitted && report.enforced.len() == 2);
        report
            .enforced
            .iter()
            .map(|standing| u64::from(standing.answer.decision.remaining))
            .sum()
    };
    for caller in 0..callers {
        let _: u64 = ask(caller);
    }
    rounds(move |round| ask(someone(round, callers)))
}

/// From a route's number, its pattern and a path that the pattern matches.
type Shape = fn(u32) -> [String; 2];

const LITERAL: Shape = |at| [format!("/api/r{at}"), format!("/api/r{at}")];
const STAR: Shape = |at| [format!("/api/*/r{at}"), format!("/api/42/r{at}")];
const BELOW: Shape = |at| [format!("/api/r{at}/**"), format!("/api/r{at}/x/y")];
const ABOVE: Shape = |at| [format!("/**/r{at}"), format!("/api/x/r{at}")];
const ENDS: Shape = |at| [format!("/files/*-r{at}.txt"), format!("/files/x-r{at}.txt")];
const MIDDLE: Shape = |at| [format!("/**/r{at}/**"), format!("/x/r{at}/y")];
const MIXED: Shape = |at| [LITERAL, STAR, BELOW, ABOVE][(at % 4) as usize](at);

fn routes(shape: Shape, number: u32, meets_last: bool) -> Loop {
    let route = |at| {
        let [pattern, _] = shape(at);
        let pattern = PathPattern::parse(&pattern).expect("a pattern");
        Route::new(pattern, Vec::new(), vec![PolicyId(1)], 7)
    };
    let routes = Routes::new((0..number).map(route).collect(), vec![PolicyId(0)]);
    // No route has the number after the last one.
    let [_, path] = shape(if meets_last { number - 1 } else { number });
    let cost = if meets_last { 7 } else { 1 };
    rounds(move |_| {
        let class = routes.classify(black_box("GET"), black_box(&path));
        assert_eq!(class.cost, cost);
        class
            .policies
            .iter()
            .map(|policy| u64::from(policy.0))
            .sum()
    })
}

/// From a number, a range and an address to look for.
type Net = fn(u32) -> (String, IpAddr);

const IN: Net = |at| {
    let [a, b, c] = net(at);
    (
        format!("{a}.{b}.{c}.0/24"),
        Ipv4Addr::new(a, b, c, 77).into(),
    )
};
const OUT: Net = |at| {
    let [a, b, c] = net(at);
    (
        format!("{a}.{b}.{c}.0/25"),
        Ipv4Addr::new(a, b, c, 200).into(),
    )
};
const NESTED: Net = |at| {
    let (range, address) = IN(at);
    let wide = |at| format!("0.0.0.0/{at}");
    (if at < 3 { wide(at) } else { range }, address)
};
const SIX: Net = |at| {
    let [high, low] = [(at >> 16) as u16, at as u16];
    let address = Ipv6Addr::new(0x2001, 0xdb8, high, low, 0, 0, 0, 7);
    (format!("2001:db8:{high:x}:{low:x}::/64"), address.into())
};

fn net(at: u32) -> [u8; 3] {
    let [_, a, b, c] = at.to_be_bytes();
    [a + 1, b, c]
}

fn ranges(shape: Net, number: u32, holds: bool) -> Loop {
    let all = (0..number).map(|at| Range::parse(&shape(at).0).expect("a range"));
    let map: RangeMap<u32> = all.zip(0..).collect();
    assert_eq!(map.len(), number as usize);
    let addresses: Vec<IpAddr> = (0..number).map(|at| shape(at).1).collect();
    rounds(move |round| {
        let address = addresses[someone(round, number) as usize];
        let held = map.holding(black_box(address)).map(|(_, value)| value);
        let (held, sum) = held.fold((0, 0), |(held, sum), value| (held + 1, sum + value));
        assert_eq!(held > 0, holds);
        u64::from(held + sum)
    })
}

fn ranges_built(number: u32) -> Loop {
    let all: Vec<Range> = (0..number)
        .map(|at| Range::parse(&IN(someone(at, 1 << 24)).0).expect("a range"))
        .collect();
    rounds(move |_| {
        let map: RangeMap<()> = black_box(&all).iter().map(|range| (*range, ())).collect();
        map.len() as u64
    })
}

fn config(routes: u32) -> Loop {
    let route = |at| json!({ "path": MIXED(at)[0], "policies": ["auth"] });
    let routes: Vec<Value> = (0..routes).map(route).collect();
    let vars = Vars::from_iter([("RATE_LIMIT_ROUTES".to_owned(), Value::from(routes))]);
    rounds(move |_| {
        let compiled = Config::compile(black_box(&vars));
        assert!(compiled.problems.is_empty());
        compiled.config.routes.classify("GET", "/").cost.into()
    })
}
