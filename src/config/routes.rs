//! `RATE_LIMIT_ROUTES`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policies::Table;
use super::vars::{is_header_name, whole_value};
use super::{Problems, Vars};
use crate::policy::{Mode, PREFLIGHT, PolicyId};
use crate::route::{PathPattern, Route, Routes};

const VARIABLE: &str = "RATE_LIMIT_ROUTES";

/// What the variable says.
pub(super) struct Read {
    pub(super) routes: Routes,
    /// Policies that every request meets, because it cannot be read which ones were meant to.
    pub(super) always: Vec<PolicyId>,
    pub(super) used: BTreeSet<PolicyId>,
}

pub(super) fn read(vars: &Vars, table: &mut Table, problems: &mut Problems) -> Read {
    let given = vars.table(VARIABLE, problems);
    let mut reader = RoutesReader {
        table,
        problems,
        always: Vec::new(),
        used: BTreeSet::new(),
    };
    let routes = match given {
        None => Vec::new(),
        Some(Ok(Value::Array(list))) => list
            .iter()
            .enumerate()
            .filter_map(|(place, route)| reader.route(&format!("{VARIABLE}[{place}]"), route))
            .collect(),
        Some(_) => {
            reader.problems.error(
                VARIABLE,
                "must be a list of routes or its JSON text; every request meets the policy `misconfigured` until it is mended",
            );
            reader.distrust();
            Vec::new()
        }
    };
    if reader.table.lost_options() {
        reader.distrust();
    }
    let general: Vec<PolicyId> = reader.table.id("general").into_iter().collect();
    Read {
        always: reader.always,
        used: reader.used,
        routes: Routes::new(routes, general),
    }
}

struct RoutesReader<'a> {
    table: &'a mut Table,
    problems: &'a mut Problems,
    always: Vec<PolicyId>,
    used: BTreeSet<PolicyId>,
}

impl RoutesReader<'_> {
    fn distrust(&mut self) {
        let misconfigured = self.table.misconfigured();
        self.always.extend(misconfigured);
    }

    /// A route of which anything cannot be read stands beside the routes after it, so that it hides
    /// none of them.
    fn route(&mut self, place: &str, value: &Value) -> Option<Route> {
        let Value::Object(route) = value else {
            self.problems.error(
                place,
                "must be a table with `path` and `policies`; every request meets the policy `misconfigured` until it is mended",
            );
            self.distrust();
            return None;
        };
        let path = route.get("path").and_then(Value::as_str);
        if path.is_some_and(|path| path.split('/').any(|segment| segment == ".*")) {
            self.problems.warn(
                format!("{place}.path"),
                "has a segment `.*`, which matches names that begin with a dot; write `*` or `**` if it is a regular \
                 expression, and `%2E*` if not",
            );
        }
        let clear = self.problems.0.len();
        for field in route.keys() {
            if !matches!(field.as_str(), "path" | "methods" | "policies" | "cost") {
                self.problems.error(
                    place,
                    "has an unknown field (known are path, methods, policies and cost); it hides no later route",
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
                "has a placeholder of another router; write `*` for one segment, `**` for any number, and escape what \
                 stands for itself (`%3A` for a colon); meanwhile it stands for `**`, and the route hides no later one",
            );
        }
        let pattern = match widened.as_deref().or(path).map(PathPattern::parse) {
            Some(Ok(pattern)) => pattern,
            Some(Err(error)) => return self.everywhere(place, &error.to_string(), policies),
            None => return self.everywhere(place, "must be text", policies),
        };
        let unclear = self.problems.0.len() > clear;
        self.warn_of_cost(&format!("{place}.cost"), cost, &policies);
        let route = Route::new(pattern, methods, policies, cost);
        Some(if unclear { route.fall_through() } else { route })
    }

    fn everywhere(&mut self, place: &str, rule: &str, policies: Vec<PolicyId>) -> Option<Route> {
        self.problems.error(
            format!("{place}.path"),
            format!("{rule}; the route's policies apply on every path until it is mended"),
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
                    "must be a list of policies' names (an empty list for none)",
                );
                other.map_or(&[Value::Null][..], std::slice::from_ref)
            }
        };
        let mut policies = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let name = name.as_str().unwrap_or_default().to_ascii_lowercase();
            if self.table.is_off(&name) && name != PREFLIGHT {
                continue;
            }
            let id = self.table.id(&name).or_else(|| {
                self.problems.error(
                    format!("{place}[{number}]"),
                    if name == PREFLIGHT {
                        "names the policy that CORS preflights meet, and nothing else does (`misconfigured` is in force)"
                    } else {
                        "names no policy; define RATE_LIMIT_<NAME> or correct the name (`misconfigured` is in force)"
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
                    "must be a list of HTTP methods, or absent for all; all are in force",
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
                let dearest = self.capacity(policies).unwrap_or(1);
                self.problems.error(
                    place,
                    format!("must be a whole number from 1; {dearest}, the most that is ever admitted, is in force"),
                );
                dearest
            })
    }

    /// The most that the enforced ones of `policies`, and of those that always apply, admit at once.
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

    fn warn_of_cost(&mut self, place: &str, cost: u32, policies: &[PolicyId]) {
        if self.capacity(policies).is_some_and(|most| cost > most) {
            self.problems.error(
                place,
                "is more than one of the policies that apply ever allows: every request will be denied",
            );
        }
    }
}
