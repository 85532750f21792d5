//! `RATE_LIMIT_ROUTES`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policies::Table;
use super::vars::{is_header_name, whole_value};
use super::{Problems, Vars};
use crate::policy::{Mode, PolicyId};
use crate::route::{PathPattern, Route, Routes};

const VARIABLE: &str = "RATE_LIMIT_ROUTES";

/// What the variable says.
pub(super) struct Read {
    pub(super) routes: Routes,
    /// Policies of routes whose path cannot be read: they apply on every path, since the path that
    /// was meant would otherwise go unprotected.
    pub(super) always: Vec<PolicyId>,
    pub(super) used: BTreeSet<PolicyId>,
}

pub(super) fn read(vars: &Vars, table: &Table, problems: &mut Problems) -> Read {
    let mut reader = Reader {
        table,
        problems,
        always: Vec::new(),
        used: BTreeSet::new(),
    };
    let routes = match vars.table(VARIABLE) {
        None => Vec::new(),
        Some(Ok(Value::Array(list))) => list
            .iter()
            .enumerate()
            .filter_map(|(place, route)| reader.route(&format!("{VARIABLE}[{place}]"), route))
            .collect(),
        Some(_) => {
            reader.problems.error(
                VARIABLE,
                "must be a list of routes or its JSON text; every request meets the policy `sensitive` until it is mended",
            );
            reader.always.extend(table.id("sensitive"));
            Vec::new()
        }
    };
    let general: Vec<PolicyId> = table.id("general").into_iter().collect();
    Read {
        always: reader.always,
        used: reader.used,
        routes: Routes::new(routes, general),
    }
}

struct Reader<'a> {
    table: &'a Table,
    problems: &'a mut Problems,
    always: Vec<PolicyId>,
    used: BTreeSet<PolicyId>,
}

impl Reader<'_> {
    fn route(&mut self, place: &str, value: &Value) -> Option<Route> {
        let Value::Object(route) = value else {
            self.problems.error(
                place,
                "must be a table with `path` and `policies`; it is left out, and every request meets the policy `sensitive`",
            );
            self.always.extend(self.table.id("sensitive"));
            return None;
        };
        for field in route.keys() {
            if !matches!(field.as_str(), "path" | "methods" | "policies" | "cost") {
                self.problems.error(
                    place,
                    "has an unknown field; known are path, methods, policies and cost",
                );
            }
        }
        let policies = self.policies(&format!("{place}.policies"), route.get("policies"));
        let methods = self.methods(&format!("{place}.methods"), route.get("methods"));
        let cost = self.cost(&format!("{place}.cost"), route.get("cost"), &policies);
        let path = route.get("path").and_then(Value::as_str);
        let pattern = match path.map(PathPattern::parse) {
            Some(Ok(pattern)) => pattern,
            Some(Err(error)) => return self.everywhere(place, &error.to_string(), policies),
            None => return self.everywhere(place, "must be text", policies),
        };
        Some(Route::new(pattern, methods, policies, cost))
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
        let Some(Value::Array(names)) = value else {
            self.problems.error(
                place,
                "must be a list of policies' names (an empty list for none); `general` is in force",
            );
            return self.table.id("general").into_iter().collect();
        };
        let mut policies = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let name = name.as_str().unwrap_or_default().to_ascii_lowercase();
            if self.table.is_off(&name) {
                continue;
            }
            let id = self.table.id(&name).or_else(|| {
                self.problems.error(
                    format!("{place}[{number}]"),
                    "names a policy that does not exist; define RATE_LIMIT_<NAME> or correct the name (`sensitive` is in force)",
                );
                self.table.id("sensitive")
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
        let cost = match value {
            None | Some(Value::Null) => 1,
            Some(value) => whole_value(value)
                .filter(|cost| *cost > 0)
                .unwrap_or_else(|| {
                    self.problems
                        .error(place, "must be a whole number from 1; 1 is in force");
                    1
                }),
        };
        let too_much = policies.iter().any(|id| {
            self.table.policy(*id).is_some_and(|policy| {
                policy.mode == Mode::Enforce && cost > policy.quota.capacity()
            })
        });
        if too_much {
            self.problems.error(
                place,
                "is more than one of the route's policies ever allows: every request will be denied",
            );
        }
        cost
    }
}
