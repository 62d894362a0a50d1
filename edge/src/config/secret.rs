//! Passwords in files of their own.

use edge_proto::config::Secret;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The longest password, in bytes.
const MAX_PASSWORD: u64 = 1024;

/// Reads a password file: its text without one trailing line end. The error says what is wrong and never what is inside.
pub(super) fn read_password(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("cannot open {shown}: {error}"))?;
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot examine {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if metadata.mode() & 0o007 != 0 {
        return Err(format!(
            "{shown} is accessible to everyone (mode {:04o}); expected at most 0640",
            metadata.mode() & 0o7777
        ));
    }
    let mut text = String::new();
    file.take(MAX_PASSWORD + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    check_password(line.strip_suffix('\r').unwrap_or(line))
        .map_err(|fault| format!("{shown}: {fault}"))
}

/// A password that a digest can be computed from.
pub(super) fn check_password(text: &str) -> Result<Secret, String> {
    if text.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if text.len() as u64 > MAX_PASSWORD {
        return Err(format!("the password is longer than {MAX_PASSWORD} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("the password contains control characters".to_owned());
    }
    Ok(Secret::new(text))
}
