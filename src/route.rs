//! Finds the policies of a request: those of the first route that matches its method and path.
//!
//! # How a path is normalised
//!
//! Paths and patterns are normalised in the same way before they are compared, so that no spelling of
//! a path escapes its route:
//!
//! 1. The path ends before `?` or `#`.
//! 2. `/` separates segments, and so does a backslash.
//! 3. Empty segments are dropped: `//` is `/`, and a trailing slash is removed.
//! 4. `.` and `..` are resolved, and `%2E` counts as a dot. `..` at the root is ignored.
//! 5. Percent-escapes are decoded exactly once: `%61` is `a`, `%2561` is the text `%61`. An invalid
//!    escape (`%zz`) stays unchanged, and bytes that are not UTF-8 become U+FFFD. An encoded separator
//!    (`%2F`, `%5C`) is a character of its segment and separates nothing.
//! 6. Each letter of Unicode is folded to lower case on its own.
//!
//! Everything else stays unchanged, such as matrix parameters (`/a;v=1`) and Unicode's composed and
//! decomposed forms.
//!
//! # Paths with several readings
//!
//! Servers differ on three questions:
//!
//! - whether `%2F`, `%5C` and a backslash separate segments;
//! - whether `.` and `..` are still resolved if they appear only once these are decoded;
//! - whether `..` in `/a//../b` removes `a`.
//!
//! A path that raises such a question is classified in *every* such reading. If the readings match
//! different routes, the policies of all of them apply, with the largest cost. A reading that matches
//! no route adds the default policies at a cost of 1. So the limiter can be stricter than the origin's
//! own reading, but never looser. A harmless `/files/a%2Fb` matches the same single route in all
//! readings.
//!
//! # Requests with several methods
//!
//! Many origins replace the method of a request by the one that a header names
//! (`X-HTTP-Method-Override`). Such a request is classified under both methods, as a path is in all of
//! its readings.

mod index;
mod path;
mod pattern;

use std::borrow::Cow;

use index::Index;

use crate::policy::PolicyId;

pub use path::{ambiguous_separators, normalise};
pub use pattern::{PathPattern, PatternError};

/// The cost of a request that matches no route, in units.
const DEFAULT_COST: u32 = 1;

/// A path pattern and methods, with the policies and the cost of the requests that match them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pattern: PathPattern,
    methods: Vec<String>,
    policies: Vec<PolicyId>,
    cost: u32,
    falls_through: bool,
}

impl Route {
    /// A route for `methods`, or for every method if `methods` is empty. A request that matches it
    /// takes `cost` units from each of `policies`.
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
            falls_through: false,
        }
    }

    /// Lets later routes still apply to the requests that match this one, in addition to it. Used for
    /// routes that failed to parse, which may match more requests than their author meant.
    #[must_use]
    pub fn fall_through(self) -> Self {
        Self {
            falls_through: true,
            ..self
        }
    }

    fn covers(&self, method: &str) -> bool {
        let named = |wanted: &str| {
            self.methods
                .iter()
                .any(|name| name.eq_ignore_ascii_case(wanted))
        };
        // Origins answer HEAD by running their GET handler. So HEAD costs them as much as GET, and an
        // attacker learns as much from it.
        self.methods.is_empty()
            || named(method)
            || (method.eq_ignore_ascii_case("HEAD") && named("GET"))
    }

    fn matches(&self, method: &str, normal: &str) -> bool {
        self.covers(method) && self.pattern.matches(normal)
    }
}

/// The policies and the cost that the routes give a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The policies that apply, each once, in the order in which the route names them.
    pub policies: Vec<PolicyId>,
    /// How many units the request takes from each policy.
    pub cost: u32,
    /// The index of the route that the request matches, the first if it matches several. `None`: no route.
    pub route: Option<usize>,
}

/// No route and no policy, at the default cost.
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

/// The ways in which servers read a path, each in normal form, the usual one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReadings {
    /// `None`: the path is already in normal form.
    usual: Option<String>,
    others: Vec<String>,
}

impl PathReadings {
    /// The readings of a path, which is given as the client sent it.
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

    /// All readings. `path` is the path that they were made from.
    fn iter<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let usual = self.usual.as_deref();
        let usual = usual.unwrap_or_else(|| path::without_query(path));
        let others = self.others.iter().map(String::as_str);
        std::iter::once(usual).chain(others)
    }

    /// Whether some server takes `path` for `root` or a path beneath it. `root` is a path's first segment,
    /// in lower case, and `path` is the path that the readings were made from. Matrix parameters
    /// (`/;a/root;b`) are ignored.
    #[must_use]
    pub fn lead_to(&self, root: &str, path: &str) -> bool {
        let mut readings = self.iter(path);
        readings.any(|normal| normal.contains(root) && path::first_segment(normal) == Some(root))
    }
}

/// All routes in the order in which they are tried, and the policies of requests that match none.
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
    /// Routes, of which the first that matches a request applies. If none matches, the policies
    /// `default` apply at a cost of 1.
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

    /// The patterns as they were written, in the order of the routes.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.pattern.as_str())
    }

    /// The highest cost of any request, in units.
    #[must_use]
    pub const fn max_cost(&self) -> u32 {
        self.max_cost
    }

    /// Whether any route applies to some methods only.
    #[must_use]
    pub const fn name_methods(&self) -> bool {
        self.name_methods
    }

    /// The policies and the cost of a request with this method and path, both as the client sent them.
    #[must_use]
    pub fn classify(&self, method: &str, path: &str) -> RouteMatch {
        self.classify_in(method, &[], path, &PathReadings::of(path))
    }

    /// The same as [`classify`](Self::classify), with the path's readings already made, and with `others`: further
    /// methods that an origin may use in place of `method`. The policies of all methods and readings apply.
    #[must_use]
    pub fn classify_in(
        &self,
        method: &str,
        others: &[String],
        path: &str,
        readings: &PathReadings,
    ) -> RouteMatch {
        let mut matched = Vec::new();
        for normal in readings.iter(path) {
            self.add_matches(method, normal, &mut matched);
            for other in others {
                self.add_matches(other, normal, &mut matched);
            }
        }
        let mut route_match = RouteMatch {
            policies: Vec::new(),
            cost: 0,
            route: matched.iter().copied().flatten().next(),
        };
        for route in matched {
            match route.and_then(|at| self.routes.get(at)) {
                Some(route) => route_match.add(&route.policies, route.cost),
                None => route_match.add(&self.default, DEFAULT_COST),
            }
        }
        route_match
    }

    /// Adds to `matched` the routes that one reading of a path matches, each once: those that fall through,
    /// up to the first one that does not. `None` means the default policies, if no such route matches.
    fn add_matches(&self, method: &str, normal: &str, matched: &mut Vec<Option<usize>>) {
        let candidates = self.index.candidates(&self.routes, normal);
        let routes = candidates
            .iter()
            .filter_map(|at| Some((*at, self.routes.get(*at)?)));
        let mut matching = routes.filter(|(_, route)| route.matches(method, normal));
        loop {
            let next = matching.next();
            let at = next.map(|(at, _)| at);
            if !matched.contains(&at) {
                matched.push(at);
            }
            if next.is_none_or(|(_, route)| !route.falls_through) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
