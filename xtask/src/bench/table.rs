//! The bench's rows as text.

use std::fmt::Write;

use super::{Row, Section};

/// One block per section: heading, remark, and a line per row.
pub(super) fn render(sections: &[Section]) -> String {
    let rows = || sections.iter().flat_map(|section| &section.rows);
    let name_width = rows().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for section in sections {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", section.heading);
        if !section.remark.is_empty() {
            let _ = writeln!(text, "({})", section.remark);
        }
        for row in &section.rows {
            let spread = format!("{}–{}", number(row.low), number(row.high));
            let (ratio, goal) = (number(row.ratio), goal(row));
            let _ = writeln!(
                text,
                "  {:<name_width$}  {ratio:>8}  {spread:<18}  {goal:<14}  {}",
                row.name, row.figures
            );
        }
        for what in &section.left_out {
            let _ = writeln!(text, "  left out: {what}");
        }
        text.push('\n');
    }
    text
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

fn goal(row: &Row) -> String {
    let (sign, limit, met) = match (row.at_least, row.at_most) {
        (Some(limit), _) => ('≥', limit, row.ratio >= limit),
        (None, Some(limit)) => ('≤', limit, row.ratio <= limit),
        (None, None) => return String::new(),
    };
    format!("{sign} {limit} {}", if met { "met" } else { "MISSED" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_its_side_only() {
        let row = |at_least, at_most| Row {
            name: "a : b".into(),
            ratio: 0.98,
            low: 0.9,
            high: 1.1,
            at_least,
            at_most,
            figures: "98 : 100".into(),
        };
        assert_eq!(goal(&row(Some(0.97), None)), "≥ 0.97 met");
        assert_eq!(goal(&row(Some(0.99), None)), "≥ 0.99 MISSED");
        assert_eq!(goal(&row(None, Some(0.97))), "≤ 0.97 MISSED");
        assert_eq!(goal(&row(None, None)), "");
        let rows = vec![row(Some(0.97), None)];
        let left_out = vec!["c : d: no room".into()];
        let text = render(&[Section { heading: "Rates".into(), remark: String::new(), rows, left_out }]);
        assert!(text.contains("  a : b     0.980  0.900–1.10"), "{text}");
        assert!(text.ends_with("  left out: c : d: no room\n\n"), "{text}");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [13_480.4, 13.48, 1.347, 0.084, 0.000_082].map(number);
        assert_eq!(shown, ["13480", "13.5", "1.35", "0.084", "8.2e-5"]);
    }
}
