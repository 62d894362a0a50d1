//! Configuration files: what each bad one is told, what the good ones are warned of, and that all shipped ones load.
//!
//! `UPDATE_EXPECTED=1 cargo test -p sip-edge --test config` rewrites the expected findings; read the difference before
//! committing it.

use sip_edge::config::{Context, Environment, Settings, parse};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// No facts about the machine the test runs on.
const NOWHERE: Environment = Environment {
    credentials: None,
    ephemeral_ports: None,
    reserved_ports: Vec::new(),
    open_files: None,
    interfaces: None,
};

fn here(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|e| e == "toml");
    let mut files: Vec<_> = entries.filter(is_toml).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no files", folder.display());
    files
}

fn judge(path: &Path) -> Result<Settings, String> {
    let text = fs::read_to_string(path).unwrap();
    let context = Context {
        environment: &NOWHERE,
        previous: None,
        world_readable: false,
    };
    parse(path, &text, &context).map_err(|error| error.to_string())
}

/// Findings without the directory of the file.
fn findings(path: &Path, text: &str) -> String {
    let folder = format!("{}/", path.parent().unwrap().display());
    let text = text.replace(&folder, "");
    if text.is_empty() { text } else { text + "\n" }
}

fn compare(path: &Path, found: &str, faults: &mut Vec<String>) {
    let expected_at = path.with_extension("expected");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&expected_at, found).unwrap();
    }
    let expected = fs::read_to_string(&expected_at).unwrap_or_default();
    if found != expected {
        let name = path.display();
        faults.push(format!("{name}: expected\n{expected}\nfound\n{found}"));
    }
}

#[test]
fn bad_files_are_told_everything_that_is_wrong() {
    let mut faults = Vec::new();
    for path in toml_files(&here("tests/config/bad")) {
        match judge(&path) {
            Ok(_) => faults.push(format!("{} is accepted", path.display())),
            Err(error) => compare(&path, &findings(&path, &error), &mut faults),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn odd_files_load_with_warnings() {
    let mut faults = Vec::new();
    for path in toml_files(&here("tests/config/odd")) {
        match judge(&path) {
            Err(error) => faults.push(format!("{} is refused:\n{error}", path.display())),
            Ok(settings) => {
                let lines: Vec<_> = settings.warnings.iter().map(ToString::to_string).collect();
                compare(&path, &findings(&path, &lines.join("\n")), &mut faults);
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A copy of config/ in which the files that examples name exist, as they would for an operator.
fn copy_of_shipped() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["", "examples"] {
        let from = here("../config").join(folder);
        let to = copy.path().join(folder);
        fs::create_dir_all(to.join("secrets")).unwrap();
        fs::create_dir_all(to.join("tls")).unwrap();
        for file in toml_files(&from) {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
        for secret in ["ai", "platform", "agents"] {
            let path = to.join("secrets").join(secret);
            fs::write(&path, "not-a-real-one\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        let names = ["sip.example.net".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let tls = to.join("tls");
        fs::write(tls.join("cert.pem"), certified.cert.pem()).unwrap();
        fs::write(tls.join("ca.pem"), certified.cert.pem()).unwrap();
        fs::write(tls.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    }
    copy
}

#[test]
fn every_shipped_file_loads_without_a_warning() {
    let copy = copy_of_shipped();
    for folder in ["", "examples"] {
        for file in toml_files(&copy.path().join(folder)) {
            match judge(&file) {
                Ok(settings) => assert_eq!(settings.warnings, [], "{}", file.display()),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn what_make_runs_needs_no_other_files() {
    for name in ["sip-edge.toml", "demo.toml"] {
        judge(&here("../config").join(name)).unwrap();
    }
}
