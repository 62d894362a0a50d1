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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn read(content: &[u8], mode: u32) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let shown = path.display().to_string();
        read_password(&path)
            .map(|secret| secret.expose().to_owned())
            .map_err(|fault| fault.replace(&shown, "FILE"))
    }

    #[test]
    fn one_line_end_is_not_part_of_the_password() {
        for content in ["pass word", "pass word\n", "pass word\r\n"] {
            assert_eq!(read(content.as_bytes(), 0o600).as_deref(), Ok("pass word"));
        }
        assert_eq!(read(b" a ", 0o640).as_deref(), Ok(" a "));
    }

    #[test]
    fn what_others_can_reach_is_refused() {
        for mode in [0o644, 0o604, 0o602, 0o601, 0o666] {
            let fault = read(b"secret", mode).unwrap_err();
            let expected =
                format!("FILE is accessible to everyone (mode {mode:04o}); expected at most 0640");
            assert_eq!(fault, expected);
        }
    }

    #[test]
    fn what_is_no_password_is_refused_without_being_shown() {
        let long = "x".repeat(1025);
        for (content, expected) in [
            (&b""[..], "FILE: the password is empty"),
            (b"\n", "FILE: the password is empty"),
            (b"a\nb\n", "FILE: the password contains control characters"),
            (
                long.as_bytes(),
                "FILE: the password is longer than 1024 bytes",
            ),
            (
                b"\xff",
                "cannot read FILE: stream did not contain valid UTF-8",
            ),
        ] {
            assert_eq!(read(content, 0o600), Err(expected.to_owned()));
        }
    }
}
