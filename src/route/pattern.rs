//! The patterns that an operator writes for paths.

use std::fmt;

use super::path;
use crate::steps;

/// The longest pattern, in bytes: far beyond any real one, and a bound on what matching can cost.
const LONGEST_PATTERN: usize = 1024;

/// A pattern for paths in normal form: `*` stands for any characters within a segment, any number
/// of times (`/api/v*/user-*`), and `**` as a whole segment for zero or more segments (`/api/**`
/// matches `/api` too).
///
/// A pattern is normalised as paths are, but for `.` and `..`, which it may not contain. An escaped
/// `%2A` is a star itself, an escaped separator (`%2F`, `%5C`) that character within its segment.
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
    /// `*` between these texts: the first begins the segment, the last ends it.
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
    /// It does not start with `/`, so it is no absolute path.
    NoLeadingSlash,
    /// It is longer than 1,024 bytes.
    TooLong,
    /// It holds `?` or `#`: queries and fragments are not matched, so it could never match as
    /// meant.
    QueryOrFragment,
    /// It has `**` as a part of a segment, where it would have no meaning of its own.
    PartialDoubleStar,
    /// It has a segment `.` or `..`: paths are resolved before matching, so it could never match.
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
    /// The first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > LONGEST_PATTERN {
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
        // `**` twice in a row says no more than once.
        segments.dedup_by(|next, previous| *next == Segment::Any && *previous == Segment::Any);
        let any = segments.iter().position(|next| *next == Segment::Any);
        Ok(Self {
            text: text.to_owned(),
            first_any: any.unwrap_or(segments.len()),
            segments,
        })
    }

    /// `text` with `**` in place of each segment that is another router's placeholder (`:id`, `{id}`, `[id]`,
    /// `<id>`, `(.*)`, `{*rest}`, a last `*rest`), and so with more than any of these stand for; `None` if it
    /// has none. Here, they would match themselves alone. A percent-escape (`%3Aid`) is never a part of one.
    #[must_use]
    pub fn without_placeholders(text: &str) -> Option<String> {
        let mut widened = String::with_capacity(text.len());
        let mut found = false;
        // Not at a backslash, which is an expression's (`\d`).
        let mut pieces = text.trim_end_matches('/').split('/').peekable();
        while let Some(piece) = pieces.next() {
            let is_last = pieces.peek().is_none();
            let (mut is_placeholder, is_open) = placeholder(piece.as_bytes());
            is_placeholder |= is_last && is_named_star(piece.as_bytes());
            found |= is_placeholder;
            widened.push_str(if is_placeholder { "**" } else { piece });
            // It goes on behind a slash: `([^/]+)`.
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

    /// The segments in the order in which they say most of a path: those before the first `**`, it,
    /// then from the last one backwards, since those end the path.
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

    /// All of them.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Segment> {
        (0..self.segments.len()).filter_map(|number| self.step(number))
    }

    /// Whether a path in normal form ([`normalise`](super::normalise)) matches.
    ///
    /// The classic matching of globs, with segments for characters: on a mismatch only the *last*
    /// `**` takes one segment more, since an earlier one has nothing to gain by it. So the worst
    /// case is the product of the two lengths, never exponential.
    #[must_use]
    pub fn matches(&self, normal: &str) -> bool {
        let mut path = path::segments(normal);
        let mut next = 0;
        // Where to resume: the segment of the pattern after the last `**`, and the path after what
        // that took.
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
                // The path is used up; were `**` to take more, even less would be left.
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
        // Split before decoding, so that `%2A` is no wildcard.
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
                // The leftmost place for each text leaves the most to the next: no need ever to go
                // back.
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

/// Whether a segment of a pattern has what other routers fill in, and whether that goes on behind the segment.
/// Characters that paths have in earnest are none: `users:get`, `12:30`, `Mercury_(planet)`, `list[0]`.
fn placeholder(piece: &[u8]) -> (bool, bool) {
    let mut found = false;
    // The bracket that is open.
    let mut open = None;
    for (at, byte) in piece.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| piece.get(at));
        let after = piece.get(at + 1);
        found |= match (open, byte) {
            // No URL has these unescaped.
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

/// Whether a segment is `*` and a name, as others write the rest of a path.
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
    fn a_star_stays_within_its_segment_and_two_cross_segments() {
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
    fn a_pattern_that_breaks_a_rule_is_refused_by_the_name_of_that_rule() {
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
    fn matching_ends_soon_on_what_would_take_a_backtracking_matcher_for_ever() {
        // 8,000 segments against 170 `**`, and 16,000 characters against 500 `*`: exponential if
        // each could go back.
        let path = "/a".repeat(8000);
        assert!(!matches(&format!("{}/b", "/**/a".repeat(170)), &path));
        assert!(matches(&"/**/a".repeat(170), &path));
        assert!(!matches(&format!("/**{}/b", "/a".repeat(500)), &path));
        let segment = format!("/{}", "a".repeat(16_000));
        assert!(!matches(&format!("/{}b", "*a".repeat(500)), &segment));
        assert!(!matches(&format!("/{}*b*", "*a".repeat(500)), &segment));
        assert!(matches(&format!("/{}*", "*a".repeat(500)), &segment));
    }

    /// The meaning of a pattern as plainly as it can be said, on short inputs only: it is
    /// exponential.
    fn means(pattern: &[&str], path: &[&str]) -> bool {
        fn star(pattern: &[u8], text: &[u8]) -> bool {
            match pattern {
                [] => text.is_empty(),
                [b'*', rest @ ..] => (0..=text.len()).any(|taken| star(rest, &text[taken..])),
                [byte, rest @ ..] => text.first() == Some(byte) && star(rest, &text[1..]),
            }
        }
        match pattern {
            [] => path.is_empty(),
            ["**", rest @ ..] => (0..=path.len()).any(|taken| means(rest, &path[taken..])),
            [segment, rest @ ..] => {
                path.first()
                    .is_some_and(|text| star(segment.as_bytes(), text.as_bytes()))
                    && means(rest, &path[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_plain_meaning(
            pattern in prop::collection::vec("\\*\\*|\\*?([ab]{1,2}\\*){0,2}[ab]?", 0..6),
            path in prop::collection::vec("[ab]{1,4}", 0..6),
        ) {
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).filter(|segment| !segment.is_empty()).collect();
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let matched = matches(&format!("/{}", pattern.join("/")), &format!("/{}", path.join("/")));
            prop_assert_eq!(matched, means(&pattern, &path));
        }

        #[test]
        fn parsing_never_panics(pattern in "/?([*/.%2fé\\\\]|\\PC){0,40}") {
            let _ = PathPattern::parse(&pattern);
        }

        #[test]
        fn what_stands_for_placeholders_is_none(pattern in "(/[*:a.{}()<>\\[\\]0-9\\\\-]{0,6}){0,5}") {
            let Some(widened) = PathPattern::without_placeholders(&pattern) else { return Ok(()) };
            prop_assert_eq!(PathPattern::without_placeholders(&widened), None);
            // Whatever the placeholders stand for.
            let Ok(widened) = PathPattern::parse(&widened) else { return Ok(()) };
            if let Ok(written) = PathPattern::parse(&pattern) {
                let path = pattern.replace('*', "x").replace('\\', "/");
                let path = super::super::normalise(&path);
                prop_assert!(!written.matches(&path) || widened.matches(&path));
            }
        }
    }
}
