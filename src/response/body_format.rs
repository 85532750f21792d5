//! Chooses the format of an answer's body by the client's `Accept` header (RFC 9110, 12.4.2 and 12.5.1).

use std::mem;

use crate::config::thousandths;
use crate::steps;

/// The format of the body of an answer to traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFormat {
    /// JSON, unless the client prefers another format.
    #[default]
    Json,
    /// Problem details (RFC 9457). Only denials have this format; other answers are JSON in its place.
    Problem,
    /// An HTML page for people.
    Page,
}

/// The part of an `Accept` header that is read, in bytes from its start. Browsers send about 150 bytes.
const MAX_ACCEPT_BYTES: usize = 1024;

/// How specifically a media range matches a media type. The most specific range determines the weight of the type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// No range matches.
    No,
    /// `*/*`.
    Any,
    /// `type/*`.
    Type,
    /// The type itself, with parameters that may name another variant of it.
    Parameters,
    /// The type itself.
    Exact,
}

/// A media type with the best fit among the ranges read so far.
struct Candidate {
    name: [&'static str; 2],
    fit: Fit,
    /// The weight of the range with the best fit, in thousandths.
    weight: u32,
}

impl Candidate {
    /// The order of preference: first by weight, then types that are named before those that match a wildcard.
    fn preference(&self) -> (u32, bool) {
        (self.weight, self.is_named())
    }

    fn is_named(&self) -> bool {
        self.fit >= Fit::Parameters
    }

    fn take(&mut self, range: &MediaRange<'_>) {
        let is = |name: &str, own: &str| name.eq_ignore_ascii_case(own);
        let fit = match (range.of, self.name) {
            (["*", "*"], _) => Fit::Any,
            ([kind, "*"], [own, _]) if is(kind, own) => Fit::Type,
            ([kind, name], own) if is(kind, own[0]) && is(name, own[1]) => {
                match range.has_parameters {
                    true => Fit::Parameters,
                    false => Fit::Exact,
                }
            }
            _ => return,
        };
        if (fit, range.weight) > (self.fit, self.weight) {
            (self.fit, self.weight) = (fit, range.weight);
        }
    }
}

/// Weighs media types by an `Accept` header. Only the ranges that end within its first 1,024 bytes are read.
fn weigh<const N: usize>(accept: Option<&str>, names: [[&'static str; 2]; N]) -> [Candidate; N] {
    let mut candidates = names.map(|name| Candidate {
        name,
        fit: Fit::No,
        weight: 0,
    });
    let accept = accept.unwrap_or_default();
    let read = accept.get(..accept.floor_char_boundary(MAX_ACCEPT_BYTES));
    let mut rest = match read {
        Some(read) if read.len() < accept.len() => {
            read.rsplit_once(',').map_or("", |(whole, _)| whole)
        }
        read => read.unwrap_or_default(),
    };
    steps::count(rest.len());
    while let Some(range) = next_of(&mut rest, b',') {
        if let Some(range) = MediaRange::read(range) {
            candidates
                .iter_mut()
                .for_each(|candidate| candidate.take(&range));
        }
    }
    candidates
}

/// Whether an `Accept` header names the media type `wanted`, and weighs it no less than `usual`.
#[must_use]
pub fn prefers(accept: Option<&str>, wanted: [&'static str; 2], usual: [&'static str; 2]) -> bool {
    let [wanted, usual] = weigh(accept, [wanted, usual]);
    wanted.is_named() && wanted.weight > 0 && wanted.weight >= usual.weight
}

impl BodyFormat {
    /// The format that an `Accept` header prefers. Only the ranges that end within its first 1,024 bytes are read. It is
    /// JSON if the client accepts none of the formats.
    #[must_use]
    pub fn preferred(accept: Option<&str>) -> Self {
        let [json, problem, page] = weigh(
            accept,
            [
                ["application", "json"],
                ["application", "problem+json"],
                ["text", "html"],
            ],
        );
        // Among equals JSON is chosen, unless the client names problem details as well: it wants them for errors.
        let rank = if problem.is_named() { 3 } else { 1 };
        let ranked = [
            (Self::Json, json, 2),
            (Self::Problem, problem, rank),
            (Self::Page, page, 0),
        ];
        let acceptable = ranked
            .iter()
            .filter(|(_, candidate, _)| candidate.weight > 0);
        let preferred =
            acceptable.max_by_key(|(_, candidate, rank)| (candidate.preference(), *rank));
        preferred.map_or(Self::Json, |(format, ..)| *format)
    }
}

/// A range of media types, such as `text/*;q=0.5`.
struct MediaRange<'a> {
    /// The type and the subtype.
    of: [&'a str; 2],
    has_parameters: bool,
    /// In thousandths.
    weight: u32,
}

impl<'a> MediaRange<'a> {
    /// Parses a range. `None` if it is not a range, or if its weight is invalid.
    fn read(text: &'a str) -> Option<Self> {
        let mut rest = text;
        let (kind, name) = next_of(&mut rest, b';')?.split_once('/')?;
        let mut range = Self {
            of: [kind, name],
            has_parameters: false,
            weight: 1000,
        };
        while let Some(parameter) = next_of(&mut rest, b';') {
            match parameter.split_once('=') {
                Some(("q" | "Q", weight)) => {
                    // The grammar allows `1.` too.
                    let weight = thousandths(weight.strip_suffix('.').unwrap_or(weight));
                    range.weight = weight.filter(|weight| *weight <= 1000)?;
                    // Parameters after the weight do not belong to the type.
                    break;
                }
                _ => range.has_parameters |= !parameter.is_empty(),
            }
        }
        Some(range)
    }
}

/// Removes from `rest` the text before the next separator outside of quotes (RFC 9110, 5.6.4), and returns it without
/// surrounding blanks. `None` if nothing is left, or if a quote does not end.
fn next_of<'a>(rest: &mut &'a str, separator: u8) -> Option<&'a str> {
    if rest.is_empty() {
        return None;
    }
    let (mut quoted, mut escaped) = (false, false);
    for (place, byte) in rest.bytes().enumerate() {
        match byte {
            _ if mem::take(&mut escaped) => {}
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                let found = rest.get(..place);
                *rest = rest.get(place + 1..).unwrap_or_default();
                return found.map(str::trim_ascii);
            }
            _ => {}
        }
    }
    let last = mem::take(rest);
    (!quoted).then(|| last.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::{BodyFormat, prefers};

    #[track_caller]
    fn assert_format(expected: BodyFormat, accepts: &[&str]) {
        for accept in accepts {
            assert_eq!(BodyFormat::preferred(Some(accept)), expected, "{accept}");
        }
    }

    #[test]
    fn a_media_type_is_preferred_if_it_is_named_and_weighs_no_less_than_the_usual_one() {
        let open = ["application", "openmetrics-text"];
        for (accept, expected) in [
            // Prometheus 2 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                true,
            ),
            (
                "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.8",
                false,
            ),
            ("application/openmetrics-text;q=0", false),
            ("text/plain", false),
            ("application/*", false),
            ("*/*", false),
            ("", false),
            ("x-application/openmetrics-text", false),
        ] {
            assert_eq!(
                prefers(Some(accept), open, ["text", "plain"]),
                expected,
                "{accept}"
            );
        }
        assert!(!prefers(None, open, ["text", "plain"]));
    }

    #[test]
    fn the_format_with_the_greatest_weight_is_preferred() {
        assert_eq!(BodyFormat::preferred(None), BodyFormat::Json);
        assert_format(
            BodyFormat::Json,
            &[
                "application/json, application/problem+json;q=0.1",
                "application/problem+json;q=0.1, application/json",
                "application/problem+json;q=0.899, application/json;q=0.9",
                "text/html;q=0.9, application/json",
                "text/html;q=0.9, */*",
                "application/json;q=0.001",
                // axios
                "application/json, text/plain, */*",
            ],
        );
        assert_format(
            BodyFormat::Problem,
            &[
                "application/problem+json",
                "Application/Problem+JSON",
                "application/problem+json;q=0.5, text/html;q=0.4",
                "application/json;q=0, application/*",
                "a/b,application/problem+json;v=1",
            ],
        );
        assert_format(
            BodyFormat::Page,
            &[
                "text/html",
                "TEXT/HTML",
                "text/html, application/problem+json;q=0.9",
                "text/*",
                "text/html;level=1",
                "text/html;charset=utf-8, application/json;q=0.5",
                // Chrome, Firefox
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            ],
        );
    }

    #[test]
    fn a_format_with_a_weight_of_0_is_not_acceptable() {
        assert_format(
            BodyFormat::Json,
            &[
                "application/problem+json;q=0",
                "application/problem+json;Q=0",
                "application/problem+json;q=0., text/html;q=0.0",
                "application/problem+json; q=0.000",
                "application/problem+json\t;\tq=0.0",
                "application/problem+json;v=1;q=0",
                "text/html;q=0, */*",
                "*/*;q=0",
                "application/json;q=0",
            ],
        );
    }

    #[test]
    fn the_most_specific_range_determines_the_weight() {
        // After the example of RFC 9110, 12.5.1.
        assert_format(
            BodyFormat::Page,
            &[
                "text/*;q=0.3, text/html;q=0.7, text/html;level=1, text/html;level=2;q=0.4, */*;q=0.5",
                "text/html, */*;q=0.1",
                "*/*;q=1, application/*;q=0.1, text/*",
            ],
        );
        assert_format(
            BodyFormat::Json,
            &[
                "text/html;level=1, text/html;q=0.4, */*;q=0.5",
                "text/*, text/html;q=0.1, application/json;q=0.2",
                "application/*;q=0.9, application/problem+json;q=0.2, text/*;q=0.8",
            ],
        );
    }

    #[test]
    fn among_equal_weights_a_named_format_is_preferred_and_then_json() {
        assert_format(
            BodyFormat::Json,
            &[
                "",
                "*/*",
                "application/*",
                "application/json, text/html",
                "text/html, application/json",
                "application/json, */*",
                "text/html;q=0.5, application/json;q=0.5",
                "image/webp, */*;q=0.8",
                "image/png",
            ],
        );
        assert_format(
            BodyFormat::Problem,
            &[
                // The usual header of clients that understand problem details.
                "application/json, application/problem+json",
                "application/problem+json, application/json",
                "application/problem+json, */*",
                "text/html, application/problem+json",
            ],
        );
        assert_format(
            BodyFormat::Page,
            &["text/html, */*", "application/*, text/html"],
        );
    }

    #[test]
    fn a_quoted_string_contains_no_ranges_and_no_weights() {
        assert_format(
            BodyFormat::Json,
            &[
                r#"a/b;c=", text/html, ""#,
                r#"a/b;c="\", text/html""#,
                r#"text/html;q="1""#,
                r#"application/problem+json;a=";q=1";q=0"#,
                // Quotes without an end.
                r#"text/html;a="b"#,
                r#"text/html;a="b\"#,
            ],
        );
        assert_format(
            BodyFormat::Page,
            &[r#"text/html;a=",;q=0""#, r#"a/b;c="\"",text/html"#],
        );
    }

    #[test]
    fn a_range_with_an_invalid_weight_is_ignored() {
        for weight in [
            "", "x", "2", "1.1", "-0", "0.1234", "0,5", ".5", " 1", "1.0000", "+1", "0.5.5",
        ] {
            let accept = format!("text/html;q={weight}, image/png");
            assert_format(BodyFormat::Json, &[&accept]);
        }
        for weight in ["1", "1.", "1.0", "1.000", "0.001", "0.5"] {
            assert_format(BodyFormat::Page, &[&format!("text/html;q={weight}")]);
        }
        assert_format(
            BodyFormat::Json,
            &[
                "xapplication/problem+json",
                "text",
                "/",
                "html",
                "*",
                ",;,",
                ";q=1",
                "text/html/x",
            ],
        );
    }
}
