//! A request's path and query.

use percent_encoding::percent_decode_str;

use super::AdminRequest;
use super::bad_input::BadInput;
use crate::steps;

/// How many segments and parameters are read. No path of the control plane has more, and no query may have more
/// ([`Input::only`]). The bound keeps the work small, since they are read before the token is checked.
const MAX_SEGMENTS: usize = 8;
const MAX_PARAMETERS: usize = 16;

/// A request's path and query, decoded.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The path's segments, decoded.
    pub segments: Vec<String>,
    /// Whether any segment or parameter, once decoded, is not UTF-8.
    pub unreadable: bool,
    parameters: Vec<(String, String)>,
}

impl Input {
    /// Reads a request's path and query.
    #[must_use]
    pub fn read(request: &AdminRequest) -> Self {
        let path = request.path.strip_prefix('/').unwrap_or(&request.path);
        let mut unreadable = false;
        steps::count(path.len() + request.query.len());
        let segments = path.split('/').take(MAX_SEGMENTS).map(|segment| {
            let decoded = percent_decode_str(segment).decode_utf8();
            unreadable |= decoded.is_err();
            decoded.unwrap_or_default().into_owned()
        });
        let segments = segments.collect();
        let parameters = form_urlencoded::parse(request.query.as_bytes());
        let parameters: Vec<_> = parameters.into_owned().take(MAX_PARAMETERS).collect();
        // The parser replaces invalid UTF-8 by this character.
        unreadable |= parameters
            .iter()
            .any(|(name, value)| name.contains('\u{fffd}') || value.contains('\u{fffd}'));
        Self {
            segments,
            unreadable,
            parameters,
        }
    }

    /// Checks that the query has no other parameters than `known`, and each at most once.
    ///
    /// # Errors
    ///
    /// [`BadInput`] lists the known parameters.
    pub fn only(&self, known: &[&str]) -> Result<(), BadInput> {
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &self.parameters {
            if !known.contains(&name.as_str()) || seen.contains(&name.as_str()) {
                return Err(BadInput(match known {
                    [] => "This call takes no query parameters.".to_owned(),
                    known => format!(
                        "The only query parameters are {}, each at most once.",
                        known.join(", ")
                    ),
                }));
            }
            seen.push(name);
        }
        Ok(())
    }

    /// The decoded value of a parameter. `None` if the query does not have it.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is a whole number from `min` to `max`, or `default` if the query does not have it.
    ///
    /// # Errors
    ///
    /// [`BadInput`] if the value is anything else, or if it is absent and there is no default.
    pub fn number(
        &self,
        name: &str,
        [min, max]: [u32; 2],
        default: Option<u32>,
    ) -> Result<u32, BadInput> {
        let rule = || BadInput::out_of_range(name, [min, max]);
        let Some(text) = self.parameter(name) else {
            return default.ok_or_else(rule);
        };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(rule)
    }

    /// The cursor with which an earlier page ended. `None` asks for the first page.
    ///
    /// # Errors
    ///
    /// [`BadInput`] if `parse` does not know the value.
    pub fn cursor<C>(&self, parse: impl Fn(&str) -> Option<C>) -> Result<Option<C>, BadInput> {
        let Some(text) = self.parameter("cursor") else {
            return Ok(None);
        };
        let cursor = parse(text).ok_or(BadInput::from(
            "`cursor` must be the cursor that the previous page returned.",
        ))?;
        Ok(Some(cursor))
    }
}

#[cfg(test)]
mod tests {
    use super::Input;
    use crate::admin::AdminRequest;
    use crate::admin::bad_input::BadInput;

    fn input(path: &str, query: &str) -> Input {
        Input::read(&AdminRequest {
            path: path.to_owned(),
            query: query.to_owned(),
            ..AdminRequest::default()
        })
    }

    #[test]
    fn a_path_is_split_into_segments_before_they_are_decoded() {
        assert_eq!(
            input("/blocked/10.0.0.0%2F8", "").segments,
            ["blocked", "10.0.0.0/8"]
        );
        assert_eq!(
            input("/blocked/..%2fevents", "").segments,
            ["blocked", "../events"]
        );
        assert_eq!(input("//blocked", "").segments, ["", "blocked"]);
        assert!(input("/usage/auth/%ff", "").unreadable);
        assert!(input("/events", "cursor=%ff").unreadable);
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let is_accepted = |query| input("/", query).only(&["limit", "hours"]).is_ok();
        assert!(is_accepted("") && is_accepted("limit=1") && is_accepted("limit=1&hours=2"));
        for query in ["limit=1&limit=1", "other=1", "limit%00=1"] {
            assert!(!is_accepted(query), "{query}");
        }
    }

    #[test]
    fn a_number_consists_of_digits_and_is_in_its_range() {
        let read = |query: &str| input("/", query).number("limit", [1, 100], Some(7));
        assert_eq!(
            [read(""), read("limit=1"), read("limit=100")],
            [Ok(7), Ok(1), Ok(100)]
        );
        for bad in [
            "",
            "0",
            "101",
            "-1",
            "+1",
            "1.5",
            "1e1",
            "NaN",
            "99999999999",
            " 1",
            "0x1",
        ] {
            assert!(
                matches!(
                    read(&format!("limit={}", bad.replace('+', "%2B"))),
                    Err(BadInput(_))
                ),
                "{bad}"
            );
        }
        assert!(input("/", "").number("limit", [1, 100], None).is_err());
    }
}
