//! What is wrong with a board file, in words for the person who wrote it.

use std::fmt;

/// Everything found wrong in one run: at least one problem. Prints one line each, as
/// `FILE:LINE: KEY: found WHAT, allowed WHAT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    file: String,
    line: Option<u32>,
    text: String,
}

impl Problem {
    pub(super) fn at(file: &str, line: u32, text: String) -> Problem {
        Problem { file: file.to_owned(), line: Some(line), text }
    }

    pub(super) fn of(file: &str, text: String) -> Problem {
        Problem { file: file.to_owned(), line: None, text }
    }
}

impl ConfigError {
    pub(super) fn one(problem: Problem) -> ConfigError {
        ConfigError { problems: vec![problem] }
    }

    /// `Err` if there is any problem, in the order of files and lines.
    pub(super) fn check(mut problems: Vec<Problem>) -> Result<(), ConfigError> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        Err(ConfigError { problems })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&problem.file)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {}", problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
