//! Takes typed values out of the merged tree and collects what is wrong with them.
//!
//! A getter that finds a mistake notes it and returns a stand-in, so that one run finds all mistakes;
//! [`Reader::finish`] makes sure that no stand-in ever leaves.

use std::ops::RangeInclusive;

use super::error::{ConfigError, Problem};
use super::source::{Node, Origin, Table, Value};

pub(super) struct Reader<'t> {
    files: &'t [String],
    problems: Vec<Problem>,
}

/// A table being read; remembers which keys it was asked for.
pub(super) struct Section<'t> {
    name: String,
    at: Origin,
    table: Option<&'t Table>,
    known: Vec<&'static str>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(files: &'t [String]) -> Reader<'t> {
        Reader { files, problems: Vec::new() }
    }

    /// The whole tree as a section.
    pub(super) fn root(&self, table: &'t Table) -> Section<'t> {
        let at = Origin { file: 0, line: 1 };
        Section { name: String::new(), at, table: Some(table), known: Vec::new() }
    }

    /// `[parent.key]`.
    pub(super) fn section(&mut self, parent: &mut Section<'t>, key: &'static str) -> Section<'t> {
        let name = parent.path(key);
        let (at, table) = match self.node(parent, key) {
            Some(Node { at, value: Value::Table(table) }) => (*at, Some(table)),
            Some(node) => {
                self.note(node.at, &name, &format!("found {}, allowed a table", node.value));
                (node.at, None)
            }
            None => (parent.at, None),
        };
        Section { name, at, table, known: Vec::new() }
    }

    /// The tables of `[[parent.key]]`; at most `max`.
    pub(super) fn sections(
        &mut self,
        parent: &mut Section<'t>,
        key: &'static str,
        max: usize,
    ) -> Vec<Section<'t>> {
        let name = parent.path(key);
        let Some(node) = self.node(parent, key) else { return Vec::new() };
        let Value::List(list) = &node.value else {
            self.note(node.at, &name, &format!("found {}, allowed a list of tables: [[{name}]]", node.value));
            return Vec::new();
        };
        if list.len() > max {
            self.note(node.at, &name, &format!("found {} tables, allowed at most {max}", list.len()));
            return Vec::new();
        }
        let mut sections = Vec::new();
        for Node { at, value } in list {
            match value {
                Value::Table(table) => {
                    sections.push(Section {
                        name: name.clone(),
                        at: *at,
                        table: Some(table),
                        known: Vec::new(),
                    });
                }
                other => self.note(*at, &name, &format!("found {other}, allowed a table: [[{name}]]")),
            }
        }
        sections
    }

    /// A whole number within `range`; `unit` is for the message.
    pub(super) fn integer(
        &mut self,
        section: &mut Section<'t>,
        key: &'static str,
        range: RangeInclusive<u32>,
        unit: &str,
    ) -> u32 {
        match self.node(section, key).map(|node| &node.value) {
            Some(Value::Integer(number)) => {
                if let Some(number) = u32::try_from(*number).ok().filter(|number| range.contains(number)) {
                    return number;
                }
            }
            None => return *range.start(),
            Some(_) => {}
        }
        self.refuse(section, key, &format!("{}..={} ({unit})", range.start(), range.end()));
        *range.start()
    }

    /// A number within `range`, whole or not; `unit` is for the message.
    pub(super) fn number(
        &mut self,
        section: &mut Section<'t>,
        key: &'static str,
        range: RangeInclusive<f64>,
        unit: &str,
    ) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a number that large is out of every range here")]
        let found = match self.node(section, key).map(|node| &node.value) {
            Some(Value::Integer(number)) => *number as f64,
            Some(Value::Float(number)) => *number,
            None => return *range.start(),
            Some(_) => f64::NAN,
        };
        if range.contains(&found) {
            return found;
        }
        self.refuse(section, key, &format!("{:?}..={:?} ({unit})", range.start(), range.end()));
        *range.start()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, section: &mut Section<'t>, key: &'static str) -> bool {
        match self.node(section, key).map(|node| &node.value) {
            Some(Value::Bool(yes)) => return *yes,
            None => return false,
            Some(_) => {}
        }
        self.refuse(section, key, "true, false");
        false
    }

    /// A text that passes `check`; `allowed` says in words what passes.
    pub(super) fn text(
        &mut self,
        section: &mut Section<'t>,
        key: &'static str,
        allowed: &str,
        check: fn(&str) -> bool,
    ) -> String {
        match self.node(section, key).map(|node| &node.value) {
            Some(Value::Text(text)) if check(text) => return text.clone(),
            None => return String::new(),
            Some(_) => {}
        }
        self.refuse(section, key, allowed);
        String::new()
    }

    /// Like [`Reader::text`], for a key that may be left out.
    pub(super) fn optional_text(
        &mut self,
        section: &mut Section<'t>,
        key: &'static str,
        allowed: &str,
        check: fn(&str) -> bool,
    ) -> Option<String> {
        if section.peek(key).is_none() {
            section.known.push(key);
            return None;
        }
        Some(self.text(section, key, allowed, check))
    }

    /// A list of at most `max` texts that pass `check`; `allowed` says in words what passes.
    pub(super) fn texts(
        &mut self,
        section: &mut Section<'t>,
        key: &'static str,
        max: usize,
        allowed: &str,
        check: fn(&str) -> bool,
    ) -> Vec<String> {
        let Some(node) = self.node(section, key) else { return Vec::new() };
        let text = |node: &Node| match &node.value {
            Value::Text(text) if check(text) => Some(text.clone()),
            _ => None,
        };
        if let Value::List(list) = &node.value
            && list.len() <= max
            && let Some(texts) = list.iter().map(text).collect()
        {
            return texts;
        }
        self.refuse(section, key, allowed);
        Vec::new()
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &mut Section<'t>,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = match self.node(section, key).map(|node| &node.value)? {
            Value::Text(text) => text.as_str(),
            _ => "",
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == found) {
            return Some(*value);
        }
        let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.refuse(section, key, &words.join(", "));
        None
    }

    /// Notes that the value of `key` is wrong beside another value, unless something is wrong already:
    /// the other value may be a stand-in.
    pub(super) fn refuse_beside(&mut self, section: &Section<'t>, key: &str, allowed: &str) {
        if self.problems.is_empty() {
            self.refuse(section, key, allowed);
        }
    }

    /// Notes that the value of `key` is wrong.
    fn refuse(&mut self, section: &Section<'t>, key: &str, allowed: &str) {
        if let Some(node) = section.peek(key) {
            self.note(node.at, &section.path(key), &format!("found {}, allowed {allowed}", node.value));
        }
    }

    /// Notes keys that nobody asked for.
    pub(super) fn close(&mut self, section: &Section<'t>) {
        let Some(table) = section.table else { return };
        for (key, node) in table {
            if section.known.contains(&key.as_str()) {
                continue;
            }
            let closest = section.known.iter().map(|known| (distance(key, known), known)).min();
            let advice = match closest {
                Some((distance, known)) if distance <= 2 => format!("did you mean `{known}`?"),
                _ => format!("allowed {}", section.known.join(", ")),
            };
            self.note(node.at, &section.path(&quoted(key)), &format!("unknown key, {advice}"));
        }
    }

    /// `Err` if anything was noted.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        ConfigError::check(self.problems)
    }

    /// The node of `key`, noted as known, and missed if it is not there.
    fn node(&mut self, section: &mut Section<'t>, key: &'static str) -> Option<&'t Node> {
        section.known.push(key);
        let found = section.peek(key);
        if found.is_none() && section.table.is_some() {
            self.note(section.at, &section.path(key), "missing");
        }
        found
    }

    fn note(&mut self, at: Origin, path: &str, text: &str) {
        let file = self.files.get(at.file).map_or("?", String::as_str);
        self.problems.push(Problem::at(file, at.line, format!("{path}: {text}")));
    }
}

impl<'t> Section<'t> {
    fn peek(&self, key: &str) -> Option<&'t Node> {
        self.table.and_then(|table| table.get(key))
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// A key as it may be printed: bare keys as they are, others quoted, cut and escaped.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let short: String = key.chars().take(60).collect();
    if bare { short } else { format!("{short:?}") }
}

/// How many letters have to be changed, added or left out to get from one word to the other
/// (Levenshtein). Words of very different length are simply far.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
