//! The routes that a path can meet, found without trying every one.
//!
//! The routes' numbers, sorted by the segments of their patterns, are a tree without nodes: patterns
//! that begin alike lie side by side, and what each segment of a path leaves of them is found by
//! bisection. Behind a `**` the segments are compared from the path's end. So the cost grows with the
//! logarithm of the number of routes; only what a path tells apart nowhere is tried one by one:
//! different patterns with a `*` in the same place that begin alike (`*.jpg`, `*.png`), and those
//! that have several `**` with the difference between them.

use std::borrow::Cow;

use super::Route;
use super::pattern::Segment;
use crate::steps;

/// Up to so many routes, trying each is as fast (`RoutesMixed` in bench/core).
const FEW: usize = 16;

/// What the routes ask of a path, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// The routes' numbers: of few in their own order, otherwise by their patterns' steps.
    order: Vec<usize>,
}

impl Index {
    pub(super) fn new(routes: &[Route]) -> Self {
        if routes.len() <= FEW {
            let order = (0..routes.len()).collect();
            return Self { order };
        }
        Self::sorted(routes)
    }

    /// Sorted one by one: sorting them at once takes code that nothing else here needs.
    fn sorted(routes: &[Route]) -> Self {
        let mut order: Vec<usize> = Vec::with_capacity(routes.len());
        for (number, route) in routes.iter().enumerate() {
            let place = order.partition_point(|other| {
                let other = routes.get(*other).map(|other| other.pattern.steps());
                other.is_some_and(|other| other.le(route.pattern.steps()))
            });
            order.insert(place, number);
        }
        Self { order }
    }

    /// The numbers, ascending, of all routes of `routes`, which are those that it was made of, whose
    /// patterns match a path in normal form, and perhaps of others.
    pub(super) fn candidates(&self, routes: &[Route], normal: &str) -> Cow<'_, [usize]> {
        if self.order.len() <= FEW {
            return Cow::Borrowed(&self.order);
        }
        Cow::Owned(self.found(routes, normal))
    }

    fn found(&self, routes: &[Route], normal: &str) -> Vec<usize> {
        let path: Vec<&str> = super::path::segments(normal).collect();
        let mut search = Search {
            routes,
            found: Vec::new(),
        };
        search.search(&self.order, 0, &path, false);
        search.found
    }
}

struct Search<'a> {
    routes: &'a [Route],
    found: Vec<usize>,
}

impl Search<'_> {
    fn step(&self, route: usize, number: usize) -> Option<&Segment> {
        self.routes.get(route)?.pattern.step(number)
    }

    /// Goes on with the routes `within`, whose patterns are the same, and match, up to step `number`.
    /// `path` is what is left of the path; `from_end`: they had a `**`, so from its end.
    fn search(&mut self, within: &[usize], number: usize, path: &[&str], from_end: bool) {
        steps::count(1);
        let (ended, within) = self.split(within, number, Sorts::Before(ANY, &[]));
        if from_end || path.is_empty() {
            self.add(ended);
        }
        let (any, within) = self.split(within, number, Sorts::Before(GLOB, &[]));
        if from_end {
            self.add(any);
        } else if !any.is_empty() {
            self.search(any, number + 1, path, true);
        }
        let next = if from_end {
            path.split_last()
        } else {
            path.split_first()
        };
        let Some((text, path)) = next else { return };

        let (mut globs, literals) = self.split(within, number, Sorts::Before(LITERAL, &[]));
        let (_, literals) = self.split(literals, number, Sorts::Before(LITERAL, text.as_bytes()));
        let (literals, _) = self.split(literals, number, Sorts::UpTo(LITERAL, text.as_bytes()));
        if !literals.is_empty() {
            self.search(literals, number + 1, path, from_end);
        }

        // Those that begin as the text does, the longest beginnings first. Nothing sorts between such a
        // beginning and the text but what begins with it as well.
        let mut upto = text.as_bytes();
        loop {
            (globs, _) = self.split(globs, number, Sorts::UpTo(GLOB, upto));
            let Some(last) = globs.last() else { break };
            let (_, begins) = key(self.step(*last, number));
            let common = begins.iter().zip(upto).take_while(|(a, b)| a == b);
            let common = common.count();
            if common < begins.len() {
                upto = &upto[..common];
                continue;
            }
            let (others, mut group) = self.split(globs, number, Sorts::Before(GLOB, begins));
            while let Some((first, others)) = group.split_first() {
                let glob = self.step(*first, number);
                // Most are alone: bisecting for each would cost more than trying it.
                let alone = others
                    .first()
                    .is_none_or(|next| self.step(*next, number) != glob);
                let (same, rest) = if alone {
                    group.split_at(1)
                } else {
                    self.split(group, number, Sorts::With(glob))
                };
                if glob.is_some_and(|glob| glob.matches(text)) {
                    self.search(same, number + 1, path, from_end);
                }
                group = rest;
            }
            globs = others;
        }
    }

    /// Those whose step sorts so, which come first, and the others.
    fn split<'r>(
        &self,
        routes: &'r [usize],
        number: usize,
        sorts: Sorts<'_>,
    ) -> (&'r [usize], &'r [usize]) {
        let first = routes.partition_point(|route| {
            let step = self.step(*route, number);
            match sorts {
                Sorts::Before(kind, begins) => key(step) < (kind, begins),
                Sorts::UpTo(kind, begins) => key(step) <= (kind, begins),
                Sorts::With(glob) => step == glob,
            }
        });
        routes.split_at(first)
    }

    fn add(&mut self, routes: &[usize]) {
        for route in routes {
            let place = self.found.partition_point(|other| other < route);
            self.found.insert(place, *route);
        }
    }
}

/// Where a step sorts.
#[derive(Clone, Copy)]
enum Sorts<'a> {
    Before(u8, &'a [u8]),
    UpTo(u8, &'a [u8]),
    With(Option<&'a Segment>),
}

const ANY: u8 = 1;
const GLOB: u8 = 2;
const LITERAL: u8 = 3;

/// What a step sorts by first: its kind, and the text with which it begins.
fn key(step: Option<&Segment>) -> (u8, &[u8]) {
    match step {
        None => (0, &[]),
        Some(Segment::Any) => (ANY, &[]),
        Some(Segment::Glob { begins, .. }) => (GLOB, begins.as_bytes()),
        Some(Segment::Literal(text)) => (LITERAL, text.as_bytes()),
    }
}
