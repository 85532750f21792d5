//! Turns a path as the client sent it into the normal form that patterns are matched against, and into
//! the normal forms of its other readings.

use std::borrow::Cow;

use crate::steps;

/// The set of separators of segments, in addition to `/`, which always separates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Separators(u8);

impl Separators {
    const SLASH_ONLY: Self = Self(0);
    /// An unencoded backslash.
    const BACKSLASH: Self = Self(1);
    /// `%2F`.
    const ENCODED_SLASH: Self = Self(2);
    /// `%5C` and the unencoded backslash: a server that splits after decoding cannot distinguish them.
    const ENCODED_BACKSLASH: Self = Self(4 | 1);
    const ALL: Self = Self(7);

    /// Every set that at least one server is known to use.
    const SETS: [Self; 6] = [
        Self::SLASH_ONLY,
        Self::BACKSLASH,
        Self::ENCODED_SLASH,
        Self(Self::BACKSLASH.0 | Self::ENCODED_SLASH.0),
        Self::ENCODED_BACKSLASH,
        Self::ALL,
    ];

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The length in bytes of the separator with which `bytes` begin. `None` if they begin with none.
    const fn begins(self, bytes: &[u8]) -> Option<usize> {
        match bytes {
            [b'/', ..] => Some(1),
            [b'\\', ..] if self.has(Self::BACKSLASH) => Some(1),
            [b'%', b'2', b'f' | b'F', ..] if self.has(Self::ENCODED_SLASH) => Some(3),
            [b'%', b'5', b'c' | b'C', ..] if self.has(Self::ENCODED_BACKSLASH) => Some(3),
            _ => None,
        }
    }

    /// The pieces of `text` between separators, including empty ones.
    fn split(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = Some(text);
        std::iter::from_fn(move || {
            let text = rest?;
            for (at, _) in text
                .bytes()
                .enumerate()
                .filter(|(_, byte)| b"/\\%".contains(byte))
            {
                if let Some(width) = self.begins(&text.as_bytes()[at..]) {
                    rest = Some(&text[at + width..]);
                    return Some(&text[..at]);
                }
            }
            rest = None;
            Some(text)
        })
    }
}

/// How a server resolves `.` and `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dots {
    /// `..` removes the last segment that is not empty, because `//` collapses first, as in nginx.
    AfterCollapsing,
    /// `..` removes the segment before it, even an empty one, as URL parsers do.
    BeforeCollapsing,
    /// They stay, as in a server that does not look for them after it has decoded a path.
    Kept,
}

/// One way to read a path: split and resolve it once, or once more after that, as a server behind a
/// URL parser does.
#[derive(Clone, Copy, Debug)]
struct PathReading {
    first: (Separators, Dots),
    then: Option<(Separators, Dots)>,
}

/// The only reading of a path without ambiguity.
const USUAL: PathReading = PathReading {
    first: (Separators::BACKSLASH, Dots::AfterCollapsing),
    then: None,
};

/// The path without its query and fragment.
pub(super) fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}

/// The normal form of a path in its usual reading, as the [module](super) defines it. Borrowed if the
/// path is already in normal form.
#[must_use]
pub fn normalise(path: &str) -> Cow<'_, str> {
    let path = without_query(path);
    steps::count(path.len());
    if is_normal(path) {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(read(path, USUAL))
    }
}

/// The segments of a path in normal form.
pub(super) fn segments(normal: &str) -> impl Iterator<Item = &str> + Clone {
    normal.split('/').filter(|segment| !segment.is_empty())
}

/// The normal forms of a path in its other readings, without those that equal `usual` or each
/// other. There are at most 47. For nearly every path there is none, and nothing is allocated.
pub(super) fn other_readings(path: &str, usual: &str) -> Vec<String> {
    let path = without_query(path);
    let mut others: Vec<String> = Vec::new();
    let mut add = |other: String| {
        steps::count(others.len());
        if other != usual && !others.contains(&other) {
            others.push(other);
        }
    };
    for reading in ambiguities(path) {
        add(read(path, reading));
    }
    if let Some(path) = after_authority(path) {
        add(read(path, USUAL));
        for reading in ambiguities(path) {
            add(read(path, reading));
        }
    }
    others
}

/// The rest of a path that begins with two or more slashes, as a server reads it that resolves the path as a
/// reference (`new URL(path, base)`). The first segment is then a host (RFC 3986, 4.2). The URL standard treats `\\` as `/`,
/// and more than two slashes as two. `None` if the path does not begin so.
fn after_authority(path: &str) -> Option<&str> {
    const SLASHES: [char; 2] = ['/', '\\'];
    let rest = path.trim_start_matches(SLASHES);
    if path.len() - rest.len() < 2 {
        return None;
    }
    let end = rest.find(SLASHES).unwrap_or(rest.len());
    rest.get(end..)
}

/// The readings that can differ from the usual one for this path.
fn ambiguities(path: &str) -> Vec<PathReading> {
    steps::count(path.len());
    let found = found_separators(path);
    if found == 0 && !path.contains("//") {
        return Vec::new();
    }
    let has_dots = Separators::ALL.split(path).any(|piece| dots(piece) > 0);
    let mut readings = Vec::new();
    for (place, set) in Separators::SETS.into_iter().enumerate() {
        // Sets that differ only in separators that the path does not contain split it in the same way.
        let same = |other: &Separators| other.0 & found == set.0 & found;
        if Separators::SETS.iter().take(place).any(same) {
            continue;
        }
        readings.push(PathReading {
            first: (set, Dots::AfterCollapsing),
            then: None,
        });
        if !has_dots {
            continue;
        }
        readings.push(PathReading {
            first: (set, Dots::BeforeCollapsing),
            then: None,
        });
        // A URL parser, the limiter's or the platform's, then a server that decodes the parser's output.
        let parser = (
            Separators(set.0 & Separators::BACKSLASH.0),
            Dots::BeforeCollapsing,
        );
        if parser.0.0 & found != set.0 & found {
            for dots in [Dots::AfterCollapsing, Dots::BeforeCollapsing, Dots::Kept] {
                readings.push(PathReading {
                    first: parser,
                    then: Some((set, dots)),
                });
            }
        }
    }
    readings
}

/// The separators other than `/` that occur in the path, as bits of [`Separators`].
fn found_separators(path: &str) -> u8 {
    let bytes = path.as_bytes();
    let mut found = 0;
    for at in (0..bytes.len()).filter(|at| matches!(bytes[*at], b'\\' | b'%')) {
        found |= match (bytes[at], Separators::ALL.begins(&bytes[at..])) {
            (_, None) => 0,
            (b'\\', _) => Separators::BACKSLASH.0,
            _ if bytes[at + 1] == b'2' => Separators::ENCODED_SLASH.0,
            _ => Separators::ENCODED_BACKSLASH.0 & !Separators::BACKSLASH.0,
        };
    }
    found
}

/// The number of separators in a path that servers read differently: `\\`, `%2F`, `%5C`, and `/` directly
/// after another separator. The cost of reading a path in every way grows with this number.
#[must_use]
pub fn ambiguous_separators(path: &str) -> usize {
    let bytes = without_query(path).as_bytes();
    steps::count(bytes.len());
    let (mut at, mut count, mut after_separator) = (0, 0, false);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let width = Separators::ALL.begins(rest);
        let is_plain = rest.first() == Some(&b'/') && !after_separator;
        count += usize::from(width.is_some() && !is_plain);
        after_separator = width.is_some();
        at += width.unwrap_or(1);
    }
    count
}

/// The first segment of a path in normal form, once matrix parameters are removed and dots resolved.
pub(super) fn first_segment(normal: &str) -> Option<&str> {
    let names = segments(normal).map(|segment| segment.split(';').next().unwrap_or_default());
    resolve(names, Dots::AfterCollapsing).first().copied()
}

/// The path in one reading, in normal form.
fn read(
    path: &str,
    PathReading {
        first: (separators, dots),
        then,
    }: PathReading,
) -> String {
    let stages = 1 + usize::from(then.is_some());
    steps::count((1 + stages) * path.len());
    // An absolute path has an empty piece before its first separator, which is not a segment.
    let start = separators.begins(path.as_bytes()).unwrap_or(0);
    let mut pieces = resolve(separators.split(&path[start..]), dots);
    if let Some((separators, dots)) = then {
        pieces = resolve(
            pieces.into_iter().flat_map(|piece| separators.split(piece)),
            dots,
        );
    }
    let mut normal = String::with_capacity(path.len() + 1);
    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
        normal.push('/');
        push_decoded(&mut normal, piece);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    normal
}

fn resolve<'a>(pieces: impl Iterator<Item = &'a str>, mode: Dots) -> Vec<&'a str> {
    let mut kept = Vec::new();
    for piece in pieces {
        match dots(piece) {
            1 if mode != Dots::Kept => {}
            2 if mode != Dots::Kept => drop(kept.pop()),
            _ if piece.is_empty() && mode == Dots::AfterCollapsing => {}
            _ => kept.push(piece),
        }
    }
    kept
}

/// The number of dots in a segment `.` or `..`, where `%2E` counts as a dot: 1 or 2. It is 0 for any other
/// segment.
pub(super) fn dots(piece: &str) -> usize {
    let mut rest = piece.as_bytes();
    let mut dots = 0;
    while let [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] = rest {
        (rest, dots) = (after, dots + 1);
    }
    if rest.is_empty() && dots <= 2 {
        dots
    } else {
        0
    }
}

/// Appends a segment, or a part of one, decoded once and folded to lower case. A separator that is a
/// character of the segment in this reading is written as `%2f` or `%5c`, so that it cannot be
/// mistaken for a separator.
pub(super) fn push_decoded(normal: &mut String, piece: &str) {
    if piece
        .bytes()
        .all(|byte| byte.is_ascii() && !matches!(byte, b'%' | b'\\'))
    {
        push_lower_case(normal, piece);
        return;
    }
    let mut rest = piece.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let [byte, after @ ..] = rest {
        let (byte, after) = match after {
            [high, low, after @ ..] if *byte == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (*byte, &rest[1..]),
            },
            _ => (*byte, after),
        };
        match byte {
            b'/' => decoded.extend_from_slice(b"%2f"),
            b'\\' => decoded.extend_from_slice(b"%5c"),
            _ => decoded.push(byte),
        }
        rest = after;
    }
    let decoded = String::from_utf8_lossy(&decoded);
    if decoded.is_ascii() {
        push_lower_case(normal, &decoded);
        return;
    }
    // Each character is folded on its own, because `str::to_lowercase` folds a sigma depending on what follows.
    normal.extend(decoded.chars().flat_map(char::to_lowercase));
}

fn push_lower_case(normal: &mut String, ascii: &str) {
    let from = normal.len();
    normal.push_str(ascii);
    if let Some(pushed) = normal.get_mut(from..) {
        pushed.make_ascii_lowercase();
    }
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether the path is in normal form, as far as that is cheap to find out.
fn is_normal(path: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase() && !matches!(byte, b'%' | b'\\');
    let Some(relative) = path.strip_prefix('/') else {
        return false;
    };
    path.bytes().all(plain)
        && (relative.is_empty()
            || relative
                .split('/')
                .all(|piece| !piece.is_empty() && dots(piece) == 0))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::{normalise, other_readings};

    #[test]
    fn a_path_has_one_normal_form() {
        let table = [
            ("/api/auth/login", "/api/auth/login"),
            ("/API/Auth/Login", "/api/auth/login"),
            ("//api///auth/login", "/api/auth/login"),
            ("/api/%61uth/%4Cogin", "/api/auth/login"),
            ("/api/./auth/../auth/login", "/api/auth/login"),
            ("/api/%2e/auth/.%2E/auth/login", "/api/auth/login"),
            ("/api/auth/login/", "/api/auth/login"),
            ("/api/auth/login/.", "/api/auth/login"),
            ("/api/auth/login/x/..", "/api/auth/login"),
            ("\\api\\auth\\login", "/api/auth/login"),
            ("api/auth/login", "/api/auth/login"),
            ("/api/auth/login?next=/", "/api/auth/login"),
            ("/api/auth/login#top", "/api/auth/login"),
            ("/api/%2e%2e/api/auth/login", "/api/auth/login"),
            ("/%2e%2e/%2e%2e/etc", "/etc"),
            ("", "/"),
            ("/", "/"),
            ("?", "/"),
            ("..", "/"),
            ("*", "/*"),
            // Unchanged: encoded separators, a second encoding, invalid escapes, parameters, three dots.
            ("/api%2Fauth%5Clogin", "/api%2fauth%5clogin"),
            ("/a/%252e%252E/b", "/a/%2e%2e/b"),
            ("/a/%2/%zz/%", "/a/%2/%zz/%"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a/.../b", "/a/.../b"),
            ("/a/..;/b", "/a/..;/b"),
            // A decoded character has no special meaning.
            ("/a%3Fb%23c", "/a?b#c"),
            ("/a%00b\0c%0A", "/a\0b\0c\n"),
            ("/%C3%89T%C3%89/É", "/été/é"),
            ("/%FF%61", "/\u{fffd}a"),
            ("/\u{212a}", "/k"),
        ];
        for (path, normal) in table {
            assert_eq!(normalise(path), normal, "{path:?}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed_and_has_no_other_reading() {
        for path in ["/", "/api/v2/user-7", "/a.b/..c/;d=1", "/a?x=%2F..%2F"] {
            assert!(matches!(normalise(path), Cow::Borrowed(_)), "{path:?}");
            assert_eq!(other_readings(path, &normalise(path)), Vec::<String>::new());
        }
    }

    #[test]
    fn a_path_is_read_in_every_way_a_server_may() {
        let table: [(&str, &[&str]); 13] = [
            ("/a%2Fb", &["/a/b"]),
            ("/a%5Cb", &["/a/b"]),
            ("/a\\b", &["/a%5cb"]),
            ("/a%2fb%5cc", &["/a/b%5cc", "/a%2fb/c", "/a/b/c"]),
            ("/p%2f..%2fa", &["/a", "/p/../a"]),
            // In two stages or in one, with merged slashes or without: some server does each of these.
            (
                "/p/a%2fb%2fc/../%2f..",
                &["/", "/p", "/p/..", "/p/a", "/p/a/b"],
            ),
            ("/a//../b", &["/a/b"]),
            ("/a%252fb", &[]),
            ("/a//b/", &[]),
            // To a server that resolves a reference, the first segment is a host.
            ("//x/login", &["/login"]),
            ("///x//login/", &["/login"]),
            (
                "/\\x\\a%2fb",
                &[
                    "/%5ca%2fb",
                    "/%5ca/b",
                    "/%5cx%5ca%2fb",
                    "/%5cx%5ca/b",
                    "/a%2fb",
                    "/a/b",
                    "/x/a/b",
                ],
            ),
            ("//x", &["/"]),
        ];
        for (path, expected) in table {
            let mut found = other_readings(path, &normalise(path));
            let mut expected: Vec<String> =
                expected.iter().map(|path| (*path).to_owned()).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_without_percent_signs(path in "[^%]*|[a-zA-Z./\\\\;é]{0,40}") {
            let once = normalise(&path).into_owned();
            prop_assert_eq!(normalise(&once), once.as_str());
        }

        #[test]
        fn a_normal_form_has_no_empty_segment_and_no_backslash(path in any::<String>()) {
            let usual = normalise(&path).into_owned();
            for normal in other_readings(&path, &usual).iter().chain([&usual]) {
                prop_assert!(normal.starts_with('/') && !normal.contains("//") && !normal.contains('\\'));
                prop_assert!(normal == "/" || !normal.ends_with('/'));
            }
        }
    }
}
