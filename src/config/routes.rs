//! Reads `RATE_LIMIT_ROUTES`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policies::PolicyTable;
use super::vars::{is_header_name, whole_value};
use super::{Problems, Vars};
use crate::policy::{Mode, PREFLIGHT, PolicyId};
use crate::route::{PathPattern, Route, Routes};

const VARIABLE: &str = "RATE_LIMIT_ROUTES";

/// The routes, and what follows from them for the policies.
pub(super) struct RoutesRead {
    pub(super) routes: Routes,
    /// Policies that every request meets, because the requests for which they were meant are not known.
    pub(super) always: Vec<PolicyId>,
    /// Policies that any route uses.
    pub(super) used: BTreeSet<PolicyId>,
}

pub(super) fn read(vars: &Vars, table: &mut PolicyTable, problems: &mut Problems) -> RoutesRead {
    let value = vars.table(VARIABLE, problems);
    let mut reader = RoutesReader {
        table,
        problems,
        always: Vec::new(),
        used: BTreeSet::new(),
    };
    let routes = match value {
        None => Vec::new(),
        Some(Ok(Value::Array(list))) => list
            .iter()
            .enumerate()
            .filter_map(|(index, route)| reader.route(&format!("{VARIABLE}[{index}]"), route))
            .collect(),
        Some(_) => {
            reader.problems.error(
                VARIABLE,
                "must be a list of routes, or its JSON text; until then, every request also meets the policy `misconfigured`",
            );
            reader.always_meet_misconfigured();
            Vec::new()
        }
    };
    if reader.table.has_lost_options() {
        reader.always_meet_misconfigured();
    }
    let general: Vec<PolicyId> = reader.table.id("general").into_iter().collect();
    RoutesRead {
        always: reader.always,
        used: reader.used,
        routes: Routes::new(routes, general),
    }
}

struct RoutesReader<'a> {
    table: &'a mut PolicyTable,
    problems: &'a mut Problems,
    always: Vec<PolicyId>,
    used: BTreeSet<PolicyId>,
}

impl RoutesReader<'_> {
    /// Makes every request meet the policy `misconfigured`.
    fn always_meet_misconfigured(&mut self) {
        let misconfigured = self.table.misconfigured();
        self.always.extend(misconfigured);
    }

    /// Reads one route. If any part of it is not valid, later routes still apply to its requests, so that it hides none
    /// of them.
    fn route(&mut self, place: &str, value: &Value) -> Option<Route> {
        let Value::Object(route) = value else {
            self.problems.error(
                place,
                "must be a table with `path` and `policies`; until then, every request also meets the policy `misconfigured`",
            );
            self.always_meet_misconfigured();
            return None;
        };
        let path = route.get("path").and_then(Value::as_str);
        if path.is_some_and(|path| path.split('/').any(|segment| segment == ".*")) {
            self.problems.warn(
                format!("{place}.path"),
                "has a segment `.*`, which matches names that begin with a dot; if you meant a regular expression, write `*` \
                 or `**`, else write `%2E*`",
            );
        }
        let problems_before = self.problems.0.len();
        for field in route.keys() {
            if !matches!(field.as_str(), "path" | "methods" | "policies" | "cost") {
                self.problems.error(
                    place,
                    "has an unknown field; the fields are path, methods, policies and cost. Until you correct it, later routes \
                     still apply to its requests",
                );
            }
        }
        let policies = self.policies(&format!("{place}.policies"), route.get("policies"));
        let methods = self.methods(&format!("{place}.methods"), route.get("methods"));
        let cost = self.cost(&format!("{place}.cost"), route.get("cost"), &policies);
        let widened = path.and_then(PathPattern::without_placeholders);
        if widened.is_some() {
            self.problems.error(
                format!("{place}.path"),
                "has a placeholder of another router; write `*` for one segment, `**` for any number, and percent-encode \
                 characters that you mean literally (`%3A` for a colon). Until you correct it, the placeholder means `**`, and \
                 later routes still apply to its requests",
            );
        }
        let pattern = match widened.as_deref().or(path).map(PathPattern::parse) {
            Some(Ok(pattern)) => pattern,
            Some(Err(error)) => return self.everywhere(place, &error.to_string(), policies),
            None => return self.everywhere(place, "must be text", policies),
        };
        let has_problems = self.problems.0.len() > problems_before;
        self.check_cost(&format!("{place}.cost"), cost, &policies);
        let route = Route::new(pattern, methods, policies, cost);
        Some(if has_problems {
            route.fall_through()
        } else {
            route
        })
    }

    /// Applies the policies of a route without a valid path to every path.
    fn everywhere(&mut self, place: &str, rule: &str, policies: Vec<PolicyId>) -> Option<Route> {
        self.problems.error(
            format!("{place}.path"),
            format!("{rule}; until then, the route's policies apply to every path"),
        );
        self.always.extend(policies);
        None
    }

    fn policies(&mut self, place: &str, value: Option<&Value>) -> Vec<PolicyId> {
        let names = match value {
            Some(Value::Array(names)) => names.as_slice(),
            other => {
                self.problems.error(
                    place,
                    "must be a list of policies' names, an empty one for none; until then, a lone name counts as a list, and \
                     anything else as the policy `misconfigured`",
                );
                other.map_or(&[Value::Null][..], std::slice::from_ref)
            }
        };
        let mut policies = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let name = name.as_str().unwrap_or_default().to_ascii_lowercase();
            if self.table.is_off(&name) && name != PREFLIGHT {
                continue;
            }
            let id = self.table.id(&name).or_else(|| {
                self.problems.error(
                    format!("{place}[{index}]"),
                    if name == PREFLIGHT {
                        "names the policy of CORS preflights, which no other request meets; name another policy; until then, \
                         `misconfigured` is in force in its place"
                    } else {
                        "names no policy; define RATE_LIMIT_<NAME> or correct the name; until then, `misconfigured` is in force \
                         in its place"
                    },
                );
                self.table.misconfigured()
            });
            self.used.extend(id);
            policies.extend(id);
        }
        policies
    }

    fn methods(&mut self, place: &str, value: Option<&Value>) -> Vec<String> {
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list.as_slice(),
            Some(_) => &[Value::Null],
        };
        let methods: Option<Vec<String>> = list
            .iter()
            .map(|method| {
                let method = method.as_str()?;
                is_header_name(method).then(|| method.to_ascii_uppercase())
            })
            .collect();
        match methods.filter(|methods| !methods.is_empty()) {
            Some(methods) => methods,
            None => {
                self.problems.error(
                    place,
                    "must be a list of HTTP methods, or absent for all methods; until then, the route applies to all methods",
                );
                Vec::new()
            }
        }
    }

    fn cost(&mut self, place: &str, value: Option<&Value>, policies: &[PolicyId]) -> u32 {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return 1;
        };
        whole_value(value)
            .filter(|cost| *cost > 0)
            .unwrap_or_else(|| {
                let max = self.capacity(policies).unwrap_or(1);
                self.problems.error(
                    place,
                    format!("must be a whole number from 1; until then, {max} is in force, the highest cost that can be admitted"),
                );
                max
            })
    }

    /// The highest cost that every enforced one of `policies`, and the policy `ip`, can admit.
    fn capacity(&self, policies: &[PolicyId]) -> Option<u32> {
        policies
            .iter()
            .copied()
            .chain(self.table.id("ip"))
            .filter_map(|id| self.table.policy(id))
            .filter(|policy| policy.mode == Mode::Enforce)
            .map(|policy| policy.quota.capacity())
            .min()
    }

    fn check_cost(&mut self, place: &str, cost: u32, policies: &[PolicyId]) {
        if self.capacity(policies).is_some_and(|max| cost > max) {
            self.problems.error(
                place,
                "is more than one of the policies that apply can ever admit, so that every request is denied; lower the cost, or \
                 raise that policy's limit",
            );
        }
    }
}
