//! Where the files are that a configuration names.

use super::diagnostic::{At, Sink};
use std::path::{Path, PathBuf};

/// What a path begins with that names a credential of the service manager (systemd.exec(5), LoadCredential=).
const CREDENTIAL: &str = "credential:";

/// How the paths of one configuration file are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files<'a> {
    /// The directory of the configuration file: relative paths start there.
    pub base: &'a Path,
    /// `$CREDENTIALS_DIRECTORY`, where the service manager gave this process one.
    pub credentials: Option<&'a Path>,
}

impl Files<'_> {
    /// The file that a key names; reports a credential that cannot be had.
    pub(super) fn path(&self, sink: &mut Sink<'_>, key: &At<String>) -> Option<PathBuf> {
        match self.resolve(&key.value) {
            Ok(path) => Some(path),
            Err(fault) => {
                sink.error(&key.place, fault);
                None
            }
        }
    }

    fn resolve(&self, text: &str) -> Result<PathBuf, String> {
        let Some(name) = text.strip_prefix(CREDENTIAL) else {
            return Ok(self.base.join(text));
        };
        // What credential_name_valid() of systemd takes, so that nothing leaves the directory.
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(format!("{name:?} is not the name of a credential"));
        }
        match self.credentials {
            Some(directory) => Ok(directory.join(name)),
            None => Err(format!(
                "the credential {name:?} was not given to this process ($CREDENTIALS_DIRECTORY is not set); \
                 a systemd unit gives it by LoadCredential=, see sip-edge.toml(5)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(credentials: Option<&str>, text: &str) -> Result<String, String> {
        let files = Files {
            base: Path::new("/etc/sip-edge"),
            credentials: credentials.map(Path::new),
        };
        let path = files.resolve(text)?;
        Ok(path.display().to_string())
    }

    #[test]
    fn paths_start_at_the_file_and_credentials_at_their_directory() {
        let given = Some("/run/credentials/sip-edge.service");
        for (text, expected) in [
            ("secrets/ai", "/etc/sip-edge/secrets/ai"),
            ("/var/secret", "/var/secret"),
            ("./credential:ai", "/etc/sip-edge/./credential:ai"),
            ("credential:ai", "/run/credentials/sip-edge.service/ai"),
            (
                "credential:secret_ai",
                "/run/credentials/sip-edge.service/secret_ai",
            ),
        ] {
            assert_eq!(resolve(given, text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_credential_is_refused_by_name() {
        for text in ["credential:", "credential:..", "credential:a/b"] {
            let fault = resolve(Some("/run/c"), text).unwrap_err();
            assert!(fault.contains("not the name of a credential"), "{fault}");
        }
        let fault = resolve(None, "credential:ai").unwrap_err();
        assert!(
            fault.contains("\"ai\"") && fault.contains("LoadCredential="),
            "{fault}"
        );
    }
}
