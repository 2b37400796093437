//! From files to one tree: reads a board file and what it inherits, and lays the one over the other.
//!
//! Each value keeps the file and line it came from, so that what is wrong with it can be said there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};

/// The defaults: every key there is. The one source of truth for people and for the agent.
pub(super) const BASE: &str = include_str!("../../../board-configs/base.toml");
/// How [`BASE`] is called in messages.
const BASE_NAME: &str = "base.toml (built in)";
/// A board file is hand-written: more than this many bytes is a mistake.
const FILE_MAX: u64 = 256 * 1024;
/// Files in one chain of `inherits`.
const CHAIN_MAX: usize = 8;
/// Tables in tables; the deepest that means anything has three.
const DEPTH_MAX: usize = 8;

/// Where a value was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Index into [`Tree::files`].
    pub(super) file: usize,
    /// Counted from 1.
    pub(super) line: u32,
}

/// A value and where it was written.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Origin,
    pub(super) value: Value,
}

/// A table of the merged tree.
pub(super) type Table = BTreeMap<String, Node>;

/// What can stand in a board file.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Node>),
    Table(Table),
    /// A date, or a number out of all range: as written.
    Other(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) if text.chars().count() > 60 => {
                write!(f, "{:?}...", text.chars().take(60).collect::<String>())
            }
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number:?}"),
            Value::Bool(yes) => write!(f, "{yes}"),
            Value::List(_) => f.write_str("a list"),
            Value::Table(_) => f.write_str("a table"),
            Value::Other(text) => f.write_str(text.get(..60).unwrap_or(text)),
        }
    }
}

/// The merged settings.
#[derive(Debug)]
pub(super) struct Tree {
    /// Names of the files read, as messages give them. The built-in base is the first.
    pub(super) files: Vec<String>,
    /// The settings.
    pub(super) root: Table,
}

impl Tree {
    /// The built-in base alone.
    pub(super) fn builtin() -> Result<Tree, ConfigError> {
        let root = parse(BASE_NAME, 0, BASE)?;
        Ok(Tree { files: vec![BASE_NAME.to_owned()], root })
    }

    /// The built-in base with `text` laid over it, as if it were a file called `name` without `inherits`.
    #[cfg(test)]
    pub(super) fn over_builtin(name: &str, text: &str) -> Result<Tree, ConfigError> {
        let mut tree = Tree::builtin()?;
        tree.files.push(name.to_owned());
        overlay(&mut tree.root, parse(name, 1, text)?);
        Ok(tree)
    }

    /// The file at `path` laid over what it inherits, and that over the built-in base.
    pub(super) fn load(path: &Path) -> Result<Tree, ConfigError> {
        let mut tree = Tree::builtin()?;
        let mut layers: Vec<Table> = Vec::new();
        let mut seen: Vec<PathBuf> = Vec::new();
        let mut asked_by: Option<(String, Origin)> = None;
        let mut next = Some(path.to_path_buf());
        while let Some(path) = next.take() {
            let refuse = |why: String| match &asked_by {
                Some((file, at)) => ConfigError::one(Problem::at(
                    file,
                    at.line,
                    format!("inherits: {}: {why}", path.display()),
                )),
                None => ConfigError::one(Problem::of(&path.display().to_string(), why)),
            };
            let real = path.canonicalize().map_err(|e| refuse(cannot_read(&e, asked_by.is_some())))?;
            if seen.contains(&real) {
                return Err(refuse("inherits itself in a circle".to_owned()));
            }
            if seen.len() == CHAIN_MAX {
                return Err(refuse(format!("more than {CHAIN_MAX} files inherit from each other")));
            }
            let text = read(&path).map_err(refuse)?;
            seen.push(real);
            let name = path.display().to_string();
            let mut root = parse(&name, tree.files.len(), &text)?;
            if let Some(node) = root.remove("inherits") {
                let Value::Text(parent) = &node.value else {
                    let text = format!("inherits: found {}, allowed a file name in quotes", node.value);
                    return Err(ConfigError::one(Problem::at(&name, node.at.line, text)));
                };
                next = Some(path.parent().unwrap_or(Path::new("")).join(parent));
                asked_by = Some((name.clone(), node.at));
            }
            tree.files.push(name);
            layers.push(root);
        }
        for layer in layers.into_iter().rev() {
            overlay(&mut tree.root, layer);
        }
        Ok(tree)
    }
}

fn cannot_read(error: &std::io::Error, inherited: bool) -> String {
    match inherited {
        true => format!("cannot be read: {error} (without `inherits`, the built-in base is inherited)"),
        false => format!("cannot be read: {error}"),
    }
}

/// The text of a regular file of sane size.
fn read(path: &Path) -> Result<String, String> {
    let open = || {
        // Asked before opening: to open a FIFO would wait for its writer.
        if !path.metadata()?.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = open().map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("larger than {} KiB, allowed for a board file", FILE_MAX / 1024));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = e.utf8_error().valid_up_to();
        let line = e.as_bytes().iter().take(before).filter(|&&byte| byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8 text")
    })
}

/// Parses one file into a tree whose values remember their lines.
fn parse(name: &str, file: usize, text: &str) -> Result<Table, ConfigError> {
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|e| {
        let text = format!("not TOML: {}", e.message().replace('\n', "; "));
        ConfigError::one(match e.span() {
            Some(span) => Problem::at(name, lines.line(span.start), text),
            None => Problem::of(name, text),
        })
    })?;
    convert_table(table.get_ref(), file, &lines, 0).map_err(|line| {
        let text = format!("tables deeper than {DEPTH_MAX} in each other");
        ConfigError::one(Problem::at(name, line, text))
    })
}

/// Fails with the line at which the tree gets too deep.
fn convert_table(table: &DeTable<'_>, file: usize, lines: &Lines, depth: usize) -> Result<Table, u32> {
    let mut out = Table::new();
    for (key, value) in table.iter() {
        let at = Origin { file, line: lines.line(key.span().start) };
        let value = convert(value.get_ref(), at, lines, depth + 1)?;
        out.insert(key.get_ref().to_string(), Node { at, value });
    }
    Ok(out)
}

fn convert(value: &DeValue<'_>, at: Origin, lines: &Lines, depth: usize) -> Result<Value, u32> {
    if depth > DEPTH_MAX {
        return Err(at.line);
    }
    Ok(match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other(digits.to_string()),
        },
        DeValue::Float(digits) => match digits.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Other(digits.to_string()),
        },
        DeValue::Boolean(yes) => Value::Bool(*yes),
        DeValue::Datetime(when) => Value::Other(when.to_string()),
        DeValue::Table(table) => Value::Table(convert_table(table, at.file, lines, depth)?),
        DeValue::Array(array) => {
            let mut list = Vec::new();
            for item in array.iter() {
                let at = Origin { line: lines.line(item.span().start), ..at };
                list.push(Node { at, value: convert(item.get_ref(), at, lines, depth + 1)? });
            }
            Value::List(list)
        }
    })
}

/// Lays `over` over `base`: tables merge key by key, everything else is replaced.
fn overlay(base: &mut Table, over: Table) {
    for (key, node) in over {
        match (base.get_mut(&key).map(|below| &mut below.value), node.value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, Node { at: node.at, value });
            }
        }
    }
}

/// Finds the line of a byte offset.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at).collect())
    }

    /// Counted from 1.
    fn line(&self, offset: usize) -> u32 {
        u32::try_from(self.0.partition_point(|&end| end < offset) + 1).unwrap_or(u32::MAX)
    }
}
