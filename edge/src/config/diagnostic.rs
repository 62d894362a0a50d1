//! What is wrong with a configuration file, and where.

use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, perhaps not as meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: PathBuf,
    /// Counted from 1; 0: the finding is about the file as a whole.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// `trunk.ai.transfer.via`; tables without a usable name are numbered from 0: `route[2].to`. Empty: no key.
    pub key: String,
    /// What is wrong and what is expected. Never holds a secret.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration that is refused: all findings, errors and warnings, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigError {
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// An error about the file as a whole.
    pub(super) fn whole_file(path: &Path, message: String) -> ConfigError {
        ConfigError {
            diagnostics: vec![Diagnostic {
                severity: Severity::Error,
                file: path.to_owned(),
                line: 0,
                column: 0,
                key: String::new(),
                message,
            }],
        }
    }
}

/// Where a value stands in the file, and what it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Byte offset of the value; `None`: the file as a whole.
    pub offset: Option<usize>,
    pub key: Arc<str>,
    /// Element of an array.
    pub index: Option<usize>,
}

impl Place {
    /// The file as a whole.
    pub fn file() -> Place {
        Place {
            offset: None,
            key: Arc::from(""),
            index: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// An array, without the elements that are no good; those are reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed<T> {
    pub items: Vec<At<T>>,
    /// Elements that the file has.
    pub written: usize,
    pub place: Place,
}

/// Collects findings about one file.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<(usize, Diagnostic)>,
}

impl<'a> Sink<'a> {
    pub fn new(path: &'a Path, text: &'a str) -> Sink<'a> {
        Sink {
            path,
            text,
            found: Vec::new(),
        }
    }

    pub fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.add(Severity::Error, place, message.into());
    }

    pub fn warning(&mut self, place: &Place, message: impl Into<String>) {
        self.add(Severity::Warning, place, message.into());
    }

    pub fn has_errors(&self) -> bool {
        let is_error = |(_, d): &(usize, Diagnostic)| d.severity == Severity::Error;
        self.found.iter().any(is_error)
    }

    /// The findings in the order of the file.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(offset, _)| *offset);
        self.found.into_iter().map(|(_, found)| found).collect()
    }

    fn add(&mut self, severity: Severity, place: &Place, message: String) {
        let (line, column) = place.offset.map_or((0, 0), |at| position(self.text, at));
        let diagnostic = Diagnostic {
            severity,
            file: self.path.to_owned(),
            line,
            column,
            key: place.to_string(),
            message,
        };
        self.found.push((place.offset.unwrap_or(0), diagnostic));
    }
}

/// Line and column, counted from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default();
    (before.matches('\n').count() + 1, column.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one_in_characters() {
        let text = "a\nbé = 1\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, text.find('=').unwrap()), (2, 4));
        assert_eq!(position(text, 999), (3, 1));
    }
}
