//! The path patterns that an operator writes.

use std::fmt;

use super::path;
use crate::steps;

/// The longest pattern, in bytes. It is far longer than any real pattern, and limits the cost of matching.
const MAX_PATTERN_BYTES: usize = 1024;

/// A pattern for paths in normal form. `*` matches any number of any characters within a segment, and
/// may occur several times (`/api/v*/user-*`). `**` must be a whole segment and matches zero or more
/// segments (`/api/**` matches `/api` too).
///
/// A pattern is normalised as paths are, except for `.` and `..`, which it must not contain. An escaped
/// `%2A` is a literal star. An escaped separator (`%2F`, `%5C`) is a literal character of its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
    /// The place of the first `**`, or the number of segments.
    first_any: usize,
}

/// One segment of a pattern. [`Index`](super::index::Index) relies on the order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Segment {
    /// `**`.
    Any,
    /// Texts with a `*` between each two of them. The first begins the segment, the last ends it.
    Glob {
        begins: String,
        between: Vec<String>,
        ends: String,
    },
    /// This text.
    Literal(String),
}

/// The rule that a path pattern breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It does not start with `/`, so it is not an absolute path.
    NoLeadingSlash,
    /// It is longer than 1,024 bytes.
    TooLong,
    /// It contains `?` or `#`. Queries and fragments are not matched, so it could never match as meant.
    QueryOrFragment,
    /// It has `**` as a part of a segment, where it would mean the same as `*`.
    PartialDoubleStar,
    /// It has a segment `.` or `..`. Paths are resolved before matching, so it could never match.
    DotSegment,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeadingSlash => "a path pattern must start with '/'",
            Self::TooLong => "a path pattern must be at most 1024 bytes long",
            Self::QueryOrFragment => "a path pattern must not contain '?' or '#'",
            Self::PartialDoubleStar => "'**' in a path pattern must be a whole segment",
            Self::DotSegment => "a path pattern must not contain the segments '.' and '..'",
        })
    }
}

impl std::error::Error for PatternError {}

impl PathPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// The [`PatternError`] of the first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong);
        }
        if !text.starts_with('/') {
            return Err(PatternError::NoLeadingSlash);
        }
        if text.contains(['?', '#']) {
            return Err(PatternError::QueryOrFragment);
        }
        let mut segments = Vec::new();
        for piece in text.split(['/', '\\']).filter(|piece| !piece.is_empty()) {
            segments.push(Segment::parse(piece)?);
        }
        // `**` twice in a row matches the same paths as once.
        segments.dedup_by(|next, previous| *next == Segment::Any && *previous == Segment::Any);
        let any = segments.iter().position(|next| *next == Segment::Any);
        Ok(Self {
            text: text.to_owned(),
            first_any: any.unwrap_or(segments.len()),
            segments,
        })
    }

    /// Replaces each segment of `text` that is another router's placeholder (`:id`, `{id}`, `[id]`, `<id>`,
    /// `(.*)`, `{*rest}`, a last `*rest`) by `**`. The result matches at least what the placeholders mean,
    /// which as a pattern of this limiter would match only themselves. `None` if `text` has no placeholder.
    /// A percent-escape (`%3Aid`) is never a part of a placeholder.
    #[must_use]
    pub fn without_placeholders(text: &str) -> Option<String> {
        let mut widened = String::with_capacity(text.len());
        let mut found = false;
        // A backslash is not split at, because it may belong to a regular expression (`\d`).
        let mut pieces = text.trim_end_matches('/').split('/').peekable();
        while let Some(piece) = pieces.next() {
            let is_last = pieces.peek().is_none();
            let (mut is_placeholder, is_open) = placeholder(piece.as_bytes());
            is_placeholder |= is_last && is_named_star(piece.as_bytes());
            found |= is_placeholder;
            widened.push_str(if is_placeholder { "**" } else { piece });
            // An open placeholder continues after the slash: `([^/]+)`.
            if is_last || is_open {
                break;
            }
            widened.push('/');
        }
        found.then_some(widened)
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segment at `number` in the order in which segments narrow a search most: those before the first
    /// `**`, then this `**`, then from the last segment backwards, because those match the path's end.
    pub(super) fn step(&self, number: usize) -> Option<&Segment> {
        match number.checked_sub(self.first_any + 1) {
            None => self.segments.get(number),
            Some(back) => self
                .segments
                .get(self.first_any + 1..)?
                .iter()
                .nth_back(back),
        }
    }

    /// All segments in the order of [`step`](Self::step).
    pub(super) fn steps(&self) -> impl Iterator<Item = &Segment> {
        (0..self.segments.len()).filter_map(|number| self.step(number))
    }

    /// Whether a path in normal form ([`normalise`](super::normalise)) matches.
    ///
    /// This is the classic matching of globs, with segments in place of characters. On a mismatch only
    /// the *last* `**` takes one more segment, since another choice of an earlier one would never help.
    /// So the worst case is the product of the two lengths, never exponential.
    #[must_use]
    pub fn matches(&self, normal: &str) -> bool {
        let mut path = path::segments(normal);
        let mut next = 0;
        // Where to resume after a mismatch: the pattern's segment after the last `**`, and the rest of the
        // path after the segments that this `**` has taken.
        let mut resume = None;
        loop {
            steps::count(1);
            let segment = self.segments.get(next);
            if segment == Some(&Segment::Any) {
                next += 1;
                if next == self.segments.len() {
                    return true;
                }
                resume = Some((next, path.clone()));
                continue;
            }
            match (segment, path.next()) {
                (None, None) => return true,
                // The path is used up. If `**` took more segments, even fewer would be left.
                (Some(_), None) => return false,
                (Some(segment), Some(text)) if segment.matches(text) => next += 1,
                _ => {
                    let Some((after, rest)) = &mut resume else {
                        return false;
                    };
                    rest.next();
                    (next, path) = (*after, rest.clone());
                }
            }
        }
    }
}

impl Segment {
    fn parse(piece: &str) -> Result<Self, PatternError> {
        if piece == "**" {
            return Ok(Self::Any);
        }
        if piece.contains("**") {
            return Err(PatternError::PartialDoubleStar);
        }
        if path::dots(piece) > 0 {
            return Err(PatternError::DotSegment);
        }
        // The split comes before decoding, so that `%2A` is not a wildcard.
        let mut texts = piece.split('*').map(|text| {
            let mut decoded = String::new();
            path::push_decoded(&mut decoded, text);
            decoded
        });
        let begins = texts.next().unwrap_or_default();
        let mut between: Vec<String> = texts.collect();
        Ok(match between.pop() {
            None => Self::Literal(begins),
            Some(ends) => Self::Glob {
                begins,
                between,
                ends,
            },
        })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => literal == text,
            Self::Glob {
                begins,
                between,
                ends,
            } => {
                steps::count(text.len());
                let middle = text.strip_prefix(begins.as_str());
                let Some(mut middle) = middle.and_then(|rest| rest.strip_suffix(ends.as_str()))
                else {
                    return false;
                };
                // The leftmost place for each text leaves the most space for the next one, so the matcher
                // never has to go back.
                between
                    .iter()
                    .all(|wanted| match middle.split_once(wanted.as_str()) {
                        Some((_, after)) => {
                            middle = after;
                            true
                        }
                        None => false,
                    })
            }
        }
    }
}

const fn begins_name(byte: &u8) -> bool {
    byte.is_ascii_alphabetic() || *byte == b'_'
}

/// Whether a segment of a pattern contains another router's placeholder, and whether this placeholder continues
/// after the segment. Texts that real paths contain are not placeholders: `users:get`, `12:30`,
/// `Mercury_(planet)`, `list[0]`.
fn placeholder(piece: &[u8]) -> (bool, bool) {
    let mut found = false;
    // The last bracket, if it is still open.
    let mut open = None;
    for (at, byte) in piece.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| piece.get(at));
        let after = piece.get(at + 1);
        found |= match (open, byte) {
            // No URL contains these characters unescaped.
            (_, b'{' | b'}' | b'<' | b'>') => true,
            (Some(b'['), b']') => before == Some(&b'['),
            (Some(b'['), byte) => !byte.is_ascii_digit(),
            (Some(b'('), b'|' | b'\\') => true,
            (Some(b'('), b'.') => matches!(after, Some(b'*' | b'+')),
            (_, b':') => {
                matches!(before, None | Some(b'-' | b'.' | b'@' | b'~'))
                    && after.is_some_and(begins_name)
            }
            _ => false,
        };
        match byte {
            b'(' | b'[' | b'{' => open = Some(*byte),
            b')' | b']' | b'}' => open = None,
            _ => {}
        }
    }
    (found || open.is_some(), open.is_some())
}

/// Whether a segment is `*` and a name, as other routers write a placeholder for the rest of a path.
fn is_named_star(piece: &[u8]) -> bool {
    let in_name = |byte: &u8| begins_name(byte) || byte.is_ascii_digit();
    matches!(piece, [b'*', first, rest @ ..] if begins_name(first) && rest.iter().all(in_name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PathPattern, PatternError};

    fn matches(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(path)
    }

    #[test]
    fn one_star_stays_within_its_segment_and_two_stars_cross_segments() {
        let table: [(&str, &[&str], &[&str]); 14] = [
            ("/", &["/"], &["/a"]),
            ("/api", &["/api"], &["/", "/ap", "/apis", "/api/x"]),
            ("/API//Auth/", &["/api/auth"], &["/api"]),
            ("/*", &["/a", "/*"], &["/", "/a/b"]),
            ("/**", &["/", "/a", "/a/b/c"], &[]),
            (
                "/api/**",
                &["/api", "/api/x", "/api/x/y"],
                &["/", "/apix", "/x/api"],
            ),
            (
                "/api/**/**/login",
                &["/api/login", "/api/a/b/login", "/api/login/login"],
                &["/api", "/api/login/x"],
            ),
            (
                "/**/a/**/b",
                &["/a/b", "/x/a/y/b", "/a/a/b/b"],
                &["/b/a", "/a/b/c", "/a"],
            ),
            (
                "/api/v*/user-*",
                &["/api/v2/user-7", "/api/v/user-"],
                &["/api/v2/x/user-7", "/api/2/user-7"],
            ),
            ("/*a*b*", &["/ab", "/xaybz", "/aab"], &["/ba", "/a", "/a/b"]),
            ("/ab*ba", &["/abba", "/abxba"], &["/aba", "/ab"]),
            ("/a%2Ab", &["/a*b"], &["/axb"]),
            ("/a%2Fb/%61", &["/a%2fb/a"], &["/a/b/a"]),
            ("/caf%C3%89", &["/café"], &["/cafe"]),
        ];
        for (pattern, yes, no) in table {
            for path in yes {
                assert!(matches(pattern, path), "{pattern} {path}");
            }
            for path in no {
                assert!(!matches(pattern, path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn a_pattern_that_breaks_a_rule_is_rejected_with_the_error_of_that_rule() {
        let long = format!("/{}", "a".repeat(1024));
        let table = [
            ("", PatternError::NoLeadingSlash),
            ("api/secret", PatternError::NoLeadingSlash),
            ("\\api", PatternError::NoLeadingSlash),
            ("/api?secret", PatternError::QueryOrFragment),
            ("/api#secret", PatternError::QueryOrFragment),
            ("/secret**", PatternError::PartialDoubleStar),
            ("/***", PatternError::PartialDoubleStar),
            ("/api/../secret", PatternError::DotSegment),
            ("/api/%2E/secret", PatternError::DotSegment),
            (&long, PatternError::TooLong),
        ];
        for (pattern, error) in table {
            assert_eq!(PathPattern::parse(pattern), Err(error), "{pattern}");
            assert!(!error.to_string().contains("secret"));
        }
        assert!(PathPattern::parse(&long[..1024]).is_ok());
    }

    #[test]
    fn matching_ends_soon_on_input_that_takes_a_backtracking_matcher_forever() {
        // 8,000 segments against 170 `**`, and 16,000 characters against 500 `*`. The time would be
        // exponential if every wildcard could backtrack.
        let path = "/a".repeat(8000);
        assert!(!matches(&format!("{}/b", "/**/a".repeat(170)), &path));
        assert!(matches(&"/**/a".repeat(170), &path));
        assert!(!matches(&format!("/**{}/b", "/a".repeat(500)), &path));
        let segment = format!("/{}", "a".repeat(16_000));
        assert!(!matches(&format!("/{}b", "*a".repeat(500)), &segment));
        assert!(!matches(&format!("/{}*b*", "*a".repeat(500)), &segment));
        assert!(matches(&format!("/{}*", "*a".repeat(500)), &segment));
    }

    /// Whether a pattern matches a path, in the plainest possible code. It takes exponential time, so it
    /// is for short inputs only.
    fn plainly_matches(pattern: &[&str], path: &[&str]) -> bool {
        fn star(pattern: &[u8], text: &[u8]) -> bool {
            match pattern {
                [] => text.is_empty(),
                [b'*', rest @ ..] => (0..=text.len()).any(|taken| star(rest, &text[taken..])),
                [byte, rest @ ..] => text.first() == Some(byte) && star(rest, &text[1..]),
            }
        }
        match pattern {
            [] => path.is_empty(),
            ["**", rest @ ..] => {
                (0..=path.len()).any(|taken| plainly_matches(rest, &path[taken..]))
            }
            [segment, rest @ ..] => {
                path.first()
                    .is_some_and(|text| star(segment.as_bytes(), text.as_bytes()))
                    && plainly_matches(rest, &path[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_plain_backtracking(
            pattern in prop::collection::vec("\\*\\*|\\*?([ab]{1,2}\\*){0,2}[ab]?", 0..6),
            path in prop::collection::vec("[ab]{1,4}", 0..6),
        ) {
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).filter(|segment| !segment.is_empty()).collect();
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let matched = matches(&format!("/{}", pattern.join("/")), &format!("/{}", path.join("/")));
            prop_assert_eq!(matched, plainly_matches(&pattern, &path));
        }

        #[test]
        fn parsing_never_panics(pattern in "/?([*/.%2fé\\\\]|\\PC){0,40}") {
            let _ = PathPattern::parse(&pattern);
        }

        #[test]
        fn a_pattern_without_its_placeholders_has_no_placeholder_and_matches_no_less(pattern in "(/[*:a.{}()<>\\[\\]0-9\\\\-]{0,6}){0,5}") {
            let Some(widened) = PathPattern::without_placeholders(&pattern) else { return Ok(()) };
            prop_assert_eq!(PathPattern::without_placeholders(&widened), None);
            let Ok(widened) = PathPattern::parse(&widened) else { return Ok(()) };
            if let Ok(written) = PathPattern::parse(&pattern) {
                let path = pattern.replace('*', "x").replace('\\', "/");
                let path = super::super::normalise(&path);
                prop_assert!(!written.matches(&path) || widened.matches(&path));
            }
        }
    }
}
