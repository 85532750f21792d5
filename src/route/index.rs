//! Finds the routes that can match a path without trying every route.
//!
//! The routes' numbers are sorted by the segments of their patterns, which makes them a search tree
//! without nodes. Patterns with the same beginning are next to each other, and each segment of a path
//! narrows the candidates by bisection. After a `**`, segments are compared from the path's end. So the
//! cost grows with the logarithm of the number of routes. Only patterns that no segment distinguishes
//! are tried one by one: different patterns that begin alike and have a `*` in the same segment (`*.jpg`,
//! `*.png`), and patterns with several `**` that differ only between them.

use std::borrow::Cow;

use super::Route;
use super::pattern::Segment;
use crate::steps;

/// Up to this number of routes, trying each is as fast (`RoutesMixed` in bench/core).
const MAX_UNSORTED: usize = 16;

/// The routes, sorted for a search by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// The routes' numbers: up to [`MAX_UNSORTED`] of them in their own order, more of them by their
    /// patterns' steps.
    order: Vec<usize>,
}

impl Index {
    pub(super) fn new(routes: &[Route]) -> Self {
        if routes.len() <= MAX_UNSORTED {
            let order = (0..routes.len()).collect();
            return Self { order };
        }
        Self::sorted(routes)
    }

    /// Sorts by insertion. A call of the standard sort would add code that nothing else here needs.
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

    /// The numbers of all routes whose patterns match a path in normal form, and perhaps of others, in
    /// ascending order. `routes` are the routes that the index was made from.
    pub(super) fn candidates(&self, routes: &[Route], normal: &str) -> Cow<'_, [usize]> {
        if self.order.len() <= MAX_UNSORTED {
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

    /// Searches the routes `within`, whose patterns are equal and match up to step `number`. `path` is
    /// the rest of the path. `from_end`: their patterns had a `**`, so the rest is compared from its end.
    fn search(&mut self, within: &[usize], number: usize, path: &[&str], from_end: bool) {
        steps::count(1);
        let (ended, within) = self.split(within, number, SortBound::Before(ANY, &[]));
        if from_end || path.is_empty() {
            self.add(ended);
        }
        let (any, within) = self.split(within, number, SortBound::Before(GLOB, &[]));
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

        let (mut globs, literals) = self.split(within, number, SortBound::Before(LITERAL, &[]));
        let (_, literals) = self.split(
            literals,
            number,
            SortBound::Before(LITERAL, text.as_bytes()),
        );
        let (literals, _) = self.split(literals, number, SortBound::UpTo(LITERAL, text.as_bytes()));
        if !literals.is_empty() {
            self.search(literals, number + 1, path, from_end);
        }

        // The globs whose beginning is a prefix of the text, the longest beginnings first. Everything that
        // sorts between such a beginning and the text starts with this beginning as well.
        let mut upto = text.as_bytes();
        loop {
            (globs, _) = self.split(globs, number, SortBound::UpTo(GLOB, upto));
            let Some(last) = globs.last() else { break };
            let (_, begins) = key(self.step(*last, number));
            let common = begins.iter().zip(upto).take_while(|(a, b)| a == b);
            let common = common.count();
            if common < begins.len() {
                upto = &upto[..common];
                continue;
            }
            let (others, mut group) = self.split(globs, number, SortBound::Before(GLOB, begins));
            while let Some((first, others)) = group.split_first() {
                let glob = self.step(*first, number);
                // Most globs occur once. Bisecting for each would cost more than comparing the next one.
                let alone = others
                    .first()
                    .is_none_or(|next| self.step(*next, number) != glob);
                let (same, rest) = if alone {
                    group.split_at(1)
                } else {
                    self.split(group, number, SortBound::Equal(glob))
                };
                if glob.is_some_and(|glob| glob.matches(text)) {
                    self.search(same, number + 1, path, from_end);
                }
                group = rest;
            }
            globs = others;
        }
    }

    /// Splits sorted routes into those whose step `number` is within `bound`, and the others after them.
    fn split<'r>(
        &self,
        routes: &'r [usize],
        number: usize,
        bound: SortBound<'_>,
    ) -> (&'r [usize], &'r [usize]) {
        let first = routes.partition_point(|route| {
            let step = self.step(*route, number);
            match bound {
                SortBound::Before(kind, begins) => key(step) < (kind, begins),
                SortBound::UpTo(kind, begins) => key(step) <= (kind, begins),
                SortBound::Equal(glob) => step == glob,
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

/// A bound on the order of steps, at which a sorted list of routes is split.
#[derive(Clone, Copy)]
enum SortBound<'a> {
    /// Steps whose [`key`] is less than this one.
    Before(u8, &'a [u8]),
    /// Steps whose [`key`] is this one or less.
    UpTo(u8, &'a [u8]),
    /// Steps that are equal to this one.
    Equal(Option<&'a Segment>),
}

const ANY: u8 = 1;
const GLOB: u8 = 2;
const LITERAL: u8 = 3;

/// The first criteria by which a step sorts: its kind, and the text with which it begins.
fn key(step: Option<&Segment>) -> (u8, &[u8]) {
    match step {
        None => (0, &[]),
        Some(Segment::Any) => (ANY, &[]),
        Some(Segment::Glob { begins, .. }) => (GLOB, begins.as_bytes()),
        Some(Segment::Literal(text)) => (LITERAL, text.as_bytes()),
    }
}
