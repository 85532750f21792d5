//! Writes the tables into a page of the documentation, between markers. The text around them stays unchanged.

use crate::failure::Failure;

/// The path of the page, from the repository's root.
pub(crate) const PATH: &str = "docs/scaling.md";

/// A text of the page, with the name in its markers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// Replaces the text between the markers of each of `sections` in `page`.
pub(crate) fn with(page: &str, sections: &[Section]) -> Result<String, Failure> {
    let mut page = page.to_owned();
    for section in sections {
        let (from, to) = span(&page, section.name)?;
        page.replace_range(from..to, &format!("\n{}\n", section.text.trim_end()));
    }
    Ok(page)
}

/// The span of the text between the markers of `name`, in bytes.
fn span(page: &str, name: &str) -> Result<(usize, usize), Failure> {
    let (begins, ends) = (
        format!("<!-- {name} begins -->"),
        format!("<!-- {name} ends -->"),
    );
    let missing = || {
        Failure::new(format!(
            "{PATH} must have the lines {begins} and {ends}, in this order and once: put them \
             where the table belongs"
        ))
    };
    let once = |marker: &str| {
        let mut found = page.match_indices(marker).map(|(place, _)| place);
        found
            .next()
            .filter(|_| found.next().is_none())
            .ok_or_else(missing)
    };
    let from = once(&begins)? + begins.len();
    let to = once(&ends)?;
    if from > to {
        return Err(missing());
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::{Section, with};

    #[test]
    fn a_section_is_replaced_and_the_rest_of_the_page_stays() {
        let page = "a\n<!-- the cost begins -->\nold\n<!-- the cost ends -->\nb\n";
        let section = |name, text: &str| Section {
            name,
            text: text.to_owned(),
        };
        let written = with(page, &[section("the cost", "new\n")]).unwrap();
        let expected = "a\n<!-- the cost begins -->\nnew\n<!-- the cost ends -->\nb\n";
        assert_eq!(written, expected);
        assert!(with(page, &[section("the modes", "new")]).is_err());
        let twice = format!("{page}{page}");
        assert!(with(&twice, &[section("the cost", "new")]).is_err());
        let turned = "<!-- the cost ends -->\n<!-- the cost begins -->";
        assert!(with(turned, &[section("the cost", "new")]).is_err());
    }
}
