//! Which policies a request meets: the first route that its method and path match.
//!
//! # What a path is before it is matched
//!
//! So that no spelling of a path escapes its route, a path is normalised first, and patterns the
//! same way:
//!
//! 1. It ends before `?` or `#`.
//! 2. `/` separates segments, and so does a backslash.
//! 3. Empty segments count for nothing: `//` is `/`, and a trailing slash is dropped.
//! 4. `.` and `..` are resolved, `%2E` counting as a dot; `..` at the root stays there.
//! 5. Percent-escapes are decoded exactly once: `%61` is `a`, `%2561` is the text `%61`. What is no
//!    escape (`%zz`) stays as it is; bytes that are not UTF-8 become U+FFFD. An encoded separator
//!    (`%2F`, `%5C`) is a character of its segment, and separates nothing.
//! 6. Letters are folded to lower case, all of Unicode's, one by one.
//!
//! Nothing else is: matrix parameters (`/a;v=1`) and Unicode's composed and decomposed forms are
//! left as they are.
//!
//! # Where a path can be read in two ways
//!
//! Servers differ on whether `%2F`, `%5C` and a backslash separate segments, on whether `.` and
//! `..` that appear only once these are decoded are still resolved, and on whether `..` in
//! `/a//../b` removes `a`. A path that holds any of this is classified in *every* such reading. If
//! they meet different routes, the policies of all of them apply, with the largest cost (those of
//! no route included: the default policies, cost 1). The reading can so be stricter than the
//! origin's own, never looser. An honest `/files/a%2Fb` meets the same route either way, and only
//! that one.
//!
//! # Where a method can be read in two ways
//!
//! Many origins take a request for one of the method that a header names (`X-HTTP-Method-Override`). It is
//! classified under both methods, as a path is in all of its readings.

mod index;
mod path;
mod pattern;

use std::borrow::Cow;

use index::Index;

use crate::policy::PolicyId;

pub use path::{ambiguous_separators, normalise};
pub use pattern::{PathPattern, PatternError};

/// The cost of a request that meets no route.
const DEFAULT_COST: u32 = 1;

/// What a request that matches a pattern and a method meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pattern: PathPattern,
    methods: Vec<String>,
    policies: Vec<PolicyId>,
    cost: u32,
    beside: bool,
}

impl Route {
    /// A route for `methods`, or for every method where that is empty. A request that meets it
    /// spends `cost` units of each of `policies`.
    #[must_use]
    pub const fn new(
        pattern: PathPattern,
        methods: Vec<String>,
        policies: Vec<PolicyId>,
        cost: u32,
    ) -> Self {
        Self {
            pattern,
            methods,
            policies,
            cost,
            beside: false,
        }
    }

    /// The same, beside the routes after it instead of before them: what it asks for applies, and so
    /// does what they ask for. For a route that may not say what was meant.
    #[must_use]
    pub fn fall_through(self) -> Self {
        Self {
            beside: true,
            ..self
        }
    }

    fn covers(&self, method: &str) -> bool {
        let named = |wanted: &str| {
            self.methods
                .iter()
                .any(|name| name.eq_ignore_ascii_case(wanted))
        };
        // Origins answer HEAD by running their GET handler: it costs them the same, and tells an
        // attacker as much.
        self.methods.is_empty()
            || named(method)
            || (method.eq_ignore_ascii_case("HEAD") && named("GET"))
    }

    fn matches(&self, method: &str, normal: &str) -> bool {
        self.covers(method) && self.pattern.matches(normal)
    }
}

/// What a request is limited by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The policies that apply, each once, in the order in which the route names them.
    pub policies: Vec<PolicyId>,
    /// How many units of each the request spends.
    pub cost: u32,
    /// The place of the route that it meets; of several the first. `None`: no route.
    pub route: Option<usize>,
}

/// Of no route and no policy.
impl Default for RouteMatch {
    fn default() -> Self {
        Self {
            policies: Vec::new(),
            cost: DEFAULT_COST,
            route: None,
        }
    }
}

impl RouteMatch {
    fn add(&mut self, policies: &[PolicyId], cost: u32) {
        for policy in policies {
            if !self.policies.contains(policy) {
                self.policies.push(*policy);
            }
        }
        self.cost = self.cost.max(cost);
    }
}

/// The ways to read a path, each in normal form, the usual one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReadings {
    /// `None`: the path is in normal form.
    usual: Option<String>,
    others: Vec<String>,
}

impl PathReadings {
    /// The readings of a path as sent.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let usual = normalise(path);
        Self {
            others: path::other_readings(path, &usual),
            usual: match usual {
                Cow::Borrowed(_) => None,
                Cow::Owned(usual) => Some(usual),
            },
        }
    }

    /// The readings, which are those of `path`.
    fn of_path<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let usual = self.usual.as_deref();
        let usual = usual.unwrap_or_else(|| path::without_query(path));
        let others = self.others.iter().map(String::as_str);
        std::iter::once(usual).chain(others)
    }

    /// Whether `path`, whose readings these are, is `root` or beneath it to some server: a segment in lower
    /// case that begins the path. Here, matrix parameters (`/;a/root;b`) count for nothing.
    #[must_use]
    pub fn lead_to(&self, root: &str, path: &str) -> bool {
        let mut readings = self.of_path(path);
        readings.any(|normal| normal.contains(root) && path::first_segment(normal) == Some(root))
    }
}

/// All routes, in the order in which they are tried, and what applies where none matches.
///
/// # Example
///
/// ```
/// # use edge_limiter::{policy::PolicyId, route::{PathPattern, Route, Routes}};
/// let (general, auth) = (PolicyId(0), PolicyId(1));
/// let login = Route::new(PathPattern::parse("/api/auth/**")?, vec!["POST".to_owned()], vec![auth], 2);
/// let routes = Routes::new(vec![login], vec![general]);
/// assert_eq!(routes.classify("POST", "/API/auth//%6Cogin/").policies, [auth]);
/// assert_eq!(routes.classify("GET", "/api/auth/login").policies, [general]);
/// # Ok::<(), edge_limiter::route::PatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    routes: Vec<Route>,
    index: Index,
    default: Vec<PolicyId>,
    max_cost: u32,
    name_methods: bool,
}

impl Routes {
    /// Routes, the first that matches winning; `default` applies where none does, at a cost of 1.
    #[must_use]
    pub fn new(routes: Vec<Route>, default: Vec<PolicyId>) -> Self {
        let costs = routes.iter().map(|route| route.cost);
        Self {
            index: Index::new(&routes),
            max_cost: costs.max().unwrap_or_default().max(DEFAULT_COST),
            name_methods: routes.iter().any(|route| !route.methods.is_empty()),
            routes,
            default,
        }
    }

    /// The patterns, by place.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.pattern.as_str())
    }

    /// The most that any request costs, in units.
    #[must_use]
    pub const fn max_cost(&self) -> u32 {
        self.max_cost
    }

    /// Whether any route is for some methods alone.
    #[must_use]
    pub const fn name_methods(&self) -> bool {
        self.name_methods
    }

    /// What a request with this method and path, both as sent, is limited by.
    #[must_use]
    pub fn classify(&self, method: &str, path: &str) -> RouteMatch {
        self.classify_in(method, &[], path, &PathReadings::of(path))
    }

    /// [`classify`](Self::classify) of a path with its readings, and of a method with `others` that an origin may take
    /// it for: the policies of all of them apply.
    #[must_use]
    pub fn classify_in(
        &self,
        method: &str,
        others: &[String],
        path: &str,
        readings: &PathReadings,
    ) -> RouteMatch {
        let mut met = Vec::new();
        for normal in readings.of_path(path) {
            self.meet(method, normal, &mut met);
            for other in others {
                self.meet(other, normal, &mut met);
            }
        }
        let mut class = RouteMatch {
            policies: Vec::new(),
            cost: 0,
            route: met.iter().copied().flatten().next(),
        };
        for route in met {
            match route.and_then(|at| self.routes.get(at)) {
                Some(route) => class.add(&route.policies, route.cost),
                None => class.add(&self.default, DEFAULT_COST),
            }
        }
        class
    }

    /// Adds the routes that one reading of a path meets, each once: the first that matches, and those
    /// beside it that come before. `None`: no route but such.
    fn meet(&self, method: &str, normal: &str, met: &mut Vec<Option<usize>>) {
        let candidates = self.index.candidates(&self.routes, normal);
        let routes = candidates
            .iter()
            .filter_map(|at| Some((*at, self.routes.get(*at)?)));
        let mut matching = routes.filter(|(_, route)| route.matches(method, normal));
        loop {
            let next = matching.next();
            let at = next.map(|(at, _)| at);
            if !met.contains(&at) {
                met.push(at);
            }
            if next.is_none_or(|(_, route)| !route.beside) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
