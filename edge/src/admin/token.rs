//! The bearer token: a file that the edge makes, and that operators in its group may read.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// Shorter ones can be guessed.
const MIN_LENGTH: usize = 16;
const MAX_LENGTH: usize = 512;

/// A token that never prints.
#[derive(Clone)]
pub struct Token(Box<str>);

/// What is wrong with a token file. Never says what is in it.
#[derive(thiserror::Error, Debug)]
pub enum TokenError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot create {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("{path} is accessible to everyone (mode {mode:04o}); expected at most 0640")]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{path} must hold one line of {MIN_LENGTH} to {MAX_LENGTH} visible ASCII characters; remove it to have one generated"
    )]
    Malformed { path: PathBuf },
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the token, after making the file with a new one (256 random bits, mode 0640) if there is none.
    pub fn load_or_create(path: &Path) -> Result<Token, TokenError> {
        match Token::load(path) {
            Err(TokenError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                create(path).map_err(|source| TokenError::Create {
                    path: path.to_owned(),
                    source,
                })?;
                tracing::info!(path = %path.display(), "a new admin token was generated");
                Token::load(path)
            }
            other => other,
        }
    }

    /// Reads the token from its file.
    pub fn load(path: &Path) -> Result<Token, TokenError> {
        let failed = |source| TokenError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(TokenError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        let limit = MAX_LENGTH as u64 + 3;
        file.take(limit).read_to_string(&mut text).map_err(failed)?;
        let line = text.trim_end_matches(['\r', '\n']);
        let good = (MIN_LENGTH..=MAX_LENGTH).contains(&line.len())
            && line.chars().all(|c| c.is_ascii_graphic());
        if !good {
            return Err(TokenError::Malformed {
                path: path.to_owned(),
            });
        }
        Ok(Token(line.into()))
    }

    /// Whether `presented` is this token. Takes as long for a nearly right one as for a wrong one.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }

    /// The value of an `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// Makes the file whole or not at all; the one that another process makes at the same time is as good.
fn create(path: &Path) -> io::Result<()> {
    let mut random = [0u8; 32];
    let mut filled = 0;
    while let Some(rest) = random.get_mut(filled..).filter(|r| !r.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    let mut line: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    line.push('\n');
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    // A leftover of a crash, by a process of the same number.
    let _ = std::fs::remove_file(&temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(line.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| match std::fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
    let _ = std::fs::remove_file(&temporary);
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn scene() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("admin.token");
        (dir, path)
    }

    fn put(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("writable");
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn a_token_is_made_once_and_kept() {
        let (dir, path) = scene();
        let first = Token::load_or_create(&path).expect("made");
        let mode = fs::metadata(&path).expect("exists").mode() & 0o7777;
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        let again = Token::load_or_create(&path).expect("read");
        assert!(again.matches(first.0.as_bytes()));
        assert_eq!(first.0.len(), 64);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
        fs::remove_file(&path).expect("removes");
        let other = Token::load_or_create(&path).expect("made");
        assert!(!other.matches(first.0.as_bytes()));
    }

    #[test]
    fn only_the_whole_token_matches() {
        let (_dir, path) = scene();
        put(&path, "0123456789abcdef\n", 0o600);
        let token = Token::load(&path).expect("good");
        assert!(token.matches(b"0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "0123456789abcdef0",
        ] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_bad_file_is_refused_with_its_fault() {
        let (_dir, path) = scene();
        put(&path, "0123456789abcdef\n", 0o644);
        assert!(matches!(
            Token::load(&path),
            Err(TokenError::Exposed { mode: 0o644, .. })
        ));
        for bad in [
            "",
            "short\n",
            "two lines of it\nare not one token\n",
            "0123456789 abcdef",
        ] {
            put(&path, bad, 0o600);
            let error = Token::load_or_create(&path).expect_err(bad);
            assert!(matches!(error, TokenError::Malformed { .. }), "{bad}");
        }
        put(&path, &"x".repeat(MAX_LENGTH + 1), 0o600);
        assert!(matches!(
            Token::load(&path),
            Err(TokenError::Malformed { .. })
        ));
        let missing = path.with_file_name("missing/admin.token");
        assert!(matches!(
            Token::load_or_create(&missing),
            Err(TokenError::Create { .. })
        ));
    }

    #[test]
    fn a_token_does_not_print() {
        let (_dir, path) = scene();
        put(&path, "0123456789abcdef\n", 0o600);
        let token = Token::load(&path).expect("good");
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
