//! Writing JSON (RFC 8259) for scripts: the little that the commands' answers take.

use std::fmt::Write as _;

/// A string, section 7. Beyond what must be, every control character is escaped: a terminal obeys these, too.
#[must_use]
pub fn string(word: &str) -> String {
    let mut text = String::with_capacity(word.len() + 2);
    text.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => _ = write!(text, "\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// An array of values that are JSON already.
#[must_use]
pub fn array(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    format!("[{}]", values.join(","))
}

/// An object of values that are JSON already.
#[must_use]
pub fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn whatever_is_written_is_read_as_the_same() {
        let word = "a\"b\\c\n\u{1b}[2J\u{9b}ü…\u{202e}";
        let text =
            object(&[("a", array(["1".to_owned(), string(word)].into_iter())), ("b", "null".to_owned())]);
        assert!(!text.chars().any(char::is_control));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"a": [1, word], "b": null}));
    }
}
