//! Tables in Markdown, and the format of numbers in them.

/// A table: a head, and rows with the same number of cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MarkdownTable {
    rows: Vec<Vec<String>>,
}

impl MarkdownTable {
    pub(crate) fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            rows: vec![head.into_iter().map(Into::into).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table in Markdown. The first column contains names, and the others numbers.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            text.push_str(&line(row));
            if number == 0 {
                let mut rule = vec!["---:".to_owned(); row.len()];
                if let Some(first) = rule.first_mut() {
                    "---".clone_into(first);
                }
                text.push_str(&line(&rule));
            }
        }
        text
    }
}

/// A number with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in percent, with two decimals. A part that rounds to 0 is shown as `< 0.01 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let hundredths = (u128::from(part) * 10_000 + u128::from(whole) / 2) / u128::from(whole);
    match hundredths {
        0 if part > 0 => "< 0.01 %".to_owned(),
        _ => format!("{}.{:02} %", hundredths / 100, hundredths % 100),
    }
}

/// How much `one` is more or less than `other`, in percent of `other`.
pub(crate) fn difference(one: u64, other: u64) -> String {
    let sign = match one.cmp(&other) {
        std::cmp::Ordering::Less => "-",
        std::cmp::Ordering::Equal => "",
        std::cmp::Ordering::Greater => "+",
    };
    format!("{sign}{}", percent(one.abs_diff(other), other))
}

/// `number / scale`, rounded to `decimals` decimals.
pub(crate) fn decimal(number: u128, scale: u128, decimals: u32) -> String {
    let unit = 10u128.pow(decimals);
    let rounded = (number * unit + scale / 2) / scale.max(1);
    let (whole, part) = (rounded / unit, rounded % unit);
    match decimals {
        0 => whole.to_string(),
        _ => format!("{whole}.{part:0width$}", width = decimals as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::{MarkdownTable, count, decimal, difference, percent};

    #[test]
    fn numbers_are_rounded_but_a_part_is_never_shown_as_0_percent() {
        assert_eq!(
            [count(0), count(999), count(1_000_000)],
            ["0", "999", "1,000,000"]
        );
        assert_eq!(percent(1, 3), "33.33 %");
        assert_eq!(percent(1, 1_000_000), "< 0.01 %");
        assert_eq!(percent(0, 5), "0.00 %");
        assert_eq!(difference(99, 100), "-1.00 %");
        assert_eq!(difference(103, 100), "+3.00 %");
        assert_eq!(decimal(2_999_600, 1_000_000, 3), "3.000");
        assert_eq!(decimal(1500, 1000, 0), "2");
    }

    #[test]
    fn a_table_is_written_in_markdown() {
        let mut table = MarkdownTable::new(["mode", "n"]);
        table.row(["strict".to_owned(), "1".to_owned()]);
        assert_eq!(
            table.markdown(),
            "| mode | n |\n| --- | ---: |\n| strict | 1 |\n"
        );
    }
}
