//! `sip-edge cdr verify FILE...`: does every line parse, is it consistent, and do the lines of a call tell all of it?

mod call;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use call::CallLegs;
use record::Leg;

/// Longest line that is looked at; a longer one is a problem, not a record.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Arguments of `sip-edge cdr verify`.
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    /// CDR files; give the rotated ones too, oldest first: a call's legs may end in different files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Something wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// Counts from 1.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// The result of looking at all files.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Report {
    pub records: usize,
    pub calls: usize,
    pub transfers: usize,
    pub problems: Vec<Problem>,
}

/// Runs the command. 0: nothing wrong; 1: problems; 2: a file could not be read.
pub fn run(args: &VerifyArgs) -> ExitCode {
    execute(args, &mut io::stdout().lock())
}

fn execute(args: &VerifyArgs, out: &mut impl Write) -> ExitCode {
    let mut verifier = Verifier::default();
    for path in &args.files {
        if let Err(error) = verifier.file(path) {
            eprintln!("sip-edge: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    let report = verifier.finish();
    let outcome = if report.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    // A reader that went away (`| head`) changes nothing about the verdict.
    let _ = print(&report, args.json, out);
    outcome
}

fn print(report: &Report, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return writeln!(out);
    }
    for problem in &report.problems {
        writeln!(out, "{problem}")?;
    }
    writeln!(
        out,
        "{} records, {} calls, {} transfers: {}",
        report.records,
        report.calls,
        report.transfers,
        match report.problems.len() {
            0 => "nothing wrong".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        }
    )
}

/// Collects what the files say.
#[derive(Default)]
pub struct Verifier {
    files: Vec<PathBuf>,
    calls: BTreeMap<String, CallLegs>,
    report: Report,
}

/// Where a leg's record was read: index into the files, line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    file: usize,
    line: usize,
}

impl Verifier {
    /// Reads one file.
    pub fn file(&mut self, path: &Path) -> io::Result<()> {
        self.read(path, BufReader::new(File::open(path)?))
    }

    /// Reads what `reader` gives, called `path` in the report.
    pub fn read(&mut self, path: &Path, mut reader: impl BufRead) -> io::Result<()> {
        self.files.push(path.to_owned());
        let mut place = Place {
            file: self.files.len() - 1,
            line: 0,
        };
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let read = io::Read::take(&mut reader, limit).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            place.line += 1;
            if bytes.pop_if(|b| *b == b'\n').is_some() {
                self.line(place, &bytes);
            } else if read > MAX_LINE_BYTES {
                self.problem(place, format!("longer than {MAX_LINE_BYTES} bytes"));
                reader.skip_until(b'\n')?;
            } else {
                self.problem(place, "torn: the last line has no newline".to_owned());
            }
        }
    }

    fn line(&mut self, place: Place, bytes: &[u8]) {
        self.report.records += 1;
        let mut problems = Vec::new();
        let leg = Leg::parse(bytes, &mut problems);
        for what in problems {
            self.problem(place, what);
        }
        let Some(leg) = leg else { return };
        let legs = self.calls.entry(leg.call.clone()).or_default();
        if let Some(first) = legs.insert(place, leg) {
            let file = self.files.get(first.file).map(|f| f.display().to_string());
            self.problem(
                place,
                format!(
                    "this leg of the call is already told by {}:{}",
                    file.unwrap_or_default(),
                    first.line
                ),
            );
        }
    }

    fn problem(&mut self, place: Place, what: String) {
        self.report.problems.push(Problem {
            file: self.files.get(place.file).cloned().unwrap_or_default(),
            line: place.line,
            what,
        });
    }

    /// Judges the calls as wholes.
    pub fn finish(mut self) -> Report {
        let calls = std::mem::take(&mut self.calls);
        self.report.calls = calls.len();
        for (id, legs) in &calls {
            self.report.transfers += legs.transfers();
            for (place, what) in legs.problems() {
                self.problem(place, format!("call {id}: {what}"));
            }
        }
        let files = &self.files;
        self.report
            .problems
            .sort_by_key(|p| (files.iter().position(|f| *f == p.file), p.line));
        self.report
    }
}

#[cfg(test)]
mod tests;
