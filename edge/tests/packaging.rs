//! What the packages bring besides the program fits it: the unit, the manual pages, the versions. What only an installation can
//! show is in packaging/smoke.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tree(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(tree(file)).unwrap_or_else(|fault| panic!("{file}: {fault}"))
}

/// Keys of a TOML text, also of those that are commented out as in `# key = value`.
fn keys(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            let (key, _) = line.split_once(" = ")?;
            let is_key = key
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            is_key.then_some(key)
        })
        .collect()
}

#[test]
fn the_manual_page_describes_every_key() {
    let page = read("packaging/man/sip-edge.toml.5");
    let bold: BTreeSet<&str> = page
        .lines()
        .filter(|line| line.starts_with(".B"))
        .flat_map(str::split_whitespace)
        .collect();
    let (annotated, every) = (
        read("config/sip-edge.toml"),
        read("edge/tests/config/odd/every-key.toml"),
    );
    let keys: BTreeSet<&str> = keys(&annotated).union(&keys(&every)).copied().collect();
    assert!(keys.len() > 50, "{keys:?}");
    let missing: Vec<_> = keys.difference(&bold).collect();
    assert!(missing.is_empty(), "not in the manual page: {missing:?}");
}

#[test]
fn the_manual_page_describes_every_command() {
    let page = read("packaging/man/sip-edge.8").replace("\\-", "-");
    let output = Command::new(env!("CARGO_BIN_EXE_sip-edge"))
        .args(["completions", "bash"])
        .output()
        .unwrap();
    let completions = String::from_utf8(output.stdout).unwrap();
    let options: BTreeSet<&str> = completions
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .collect();
    assert!(options.contains("--refer-to"), "{options:?}");
    // Every command has these.
    let details = ["--help", "--version"];
    let untold = |option: &&&str| !details.contains(*option) && !page.contains(**option);
    let missing: Vec<_> = options.iter().filter(untold).collect();
    assert!(missing.is_empty(), "not in the manual page: {missing:?}");
    for command in ["run", "check", "explain refer", "ctl", "cdr verify"] {
        assert!(page.contains(&format!(".B {command}\n")), "{command}");
    }
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("sip-edge.service");
    let text = read("packaging/systemd/sip-edge.service");
    let here = text.replace("/usr/bin/sip-edge", env!("CARGO_BIN_EXE_sip-edge"));
    std::fs::write(&unit, here).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&unit)
            .output();
        let output = output.ok()?;
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Some((output.status.success(), text.into_owned()))
    };
    let Some((good, text)) = analyze(&["verify", "--man=no"]) else {
        eprintln!("SKIPPED: systemd-analyze is not installed (apt install systemd)");
        return;
    };
    // It also loads the units that this one wants, and complains about theirs.
    let ours: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("sip-edge"))
        .collect();
    assert!(good && ours.is_empty(), "{text}");
    // In tenths: 2.0.
    let security = analyze(&["security", "--offline=yes", "--no-pager", "--threshold=20"]);
    let (good, text) = security.unwrap();
    assert!(good, "{text}");
}

#[test]
fn the_unit_says_why_it_needs_each_capability() {
    let unit = read("packaging/systemd/sip-edge.service");
    let granted = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    let ambient = granted("AmbientCapabilities=");
    assert_eq!(ambient, granted("CapabilityBoundingSet="));
    let names: Vec<&str> = ambient.split(' ').collect();
    for name in &names {
        let why = unit.contains(&format!("\n# {name} "));
        assert!(why, "{name} is granted, and no line says why");
    }
    // XDP is loaded with the first and several times as fast with the second.
    assert!(names.contains(&"CAP_BPF") && names.contains(&"CAP_PERFMON"));
}

#[test]
fn the_changelogs_are_about_this_version() {
    let changelog = read("packaging/deb/changelog");
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("sip-edge ({version}-");
    assert!(changelog.starts_with(&expected), "{changelog}");
    let spec = read("packaging/rpm/sip-edge.spec");
    let (_, changelog) = spec.split_once("%changelog\n").expect("a changelog");
    let first = changelog.lines().next().unwrap_or_default();
    assert!(first.contains(&format!(" - {version}-")), "{first}");
}

#[test]
fn both_packages_bring_the_same() {
    let (deb, rpm) = (read("edge/Cargo.toml"), read("packaging/rpm/sip-edge.spec"));
    let (_, assets) = deb.split_once("\nassets = [\n").expect("assets");
    let (assets, _) = assets.split_once("\n]\n").expect("their end");
    let sources: Vec<&str> = assets
        .lines()
        .filter_map(|line| line.split('"').nth(1)?.rsplit('/').next())
        .filter(|name| !name.starts_with("lintian"))
        .collect();
    assert!(sources.len() > 12, "{sources:?}");
    let missing: Vec<_> = sources.iter().filter(|name| !rpm.contains(*name)).collect();
    assert!(missing.is_empty(), "not in the .rpm: {missing:?}");
    for file in [
        "packaging/systemd/sip-edge.service",
        "%{tree}/LICENSE",
        "%config(noreplace) %attr(0640,root,sip-edge) /etc/sip-edge/sip-edge.toml",
    ] {
        assert!(rpm.contains(file), "not in the .rpm: {file}");
    }
}

/// Runs a maintainer script with `argument`, on a directory in the place of the pins.
fn run_script(script: &str, argument: &str, pins: &Path) {
    let script = script.replace("/sys/fs/bpf/sip-edge", pins.to_str().unwrap());
    for outside in ["/sys/", "/etc/", "/var/", "systemctl"] {
        assert!(!script.contains(outside), "{outside} in {script}");
    }
    let output = Command::new("sh")
        .args(["-c", &script, "script", argument])
        .output()
        .unwrap();
    assert!(output.status.success(), "{argument}: {output:?}");
}

#[test]
fn removing_a_package_takes_off_the_filter_that_a_crash_left() {
    let postrm = read("packaging/deb/postrm");
    let (_, body) = postrm.split_once("#DEBHELPER#\n").expect("a script");
    // What follows removes the files of the service.
    let (deb, _) = body.split_once("\nif ").expect("the part for purge");
    let spec = read("packaging/rpm/sip-edge.spec");
    let (_, body) = spec.split_once("\n%postun\n").expect("a scriptlet");
    let (rpm, _) = body.split_once("\n# Call records").expect("its end");
    for (script, gone, stays) in [
        (deb, &["remove", "purge"][..], &["upgrade", "disappear"][..]),
        (rpm, &["0"], &["1"]),
    ] {
        let script = format!("set -e\n{script}");
        for argument in gone {
            let directory = tempfile::tempdir().unwrap();
            let pins = directory.path().join("pins");
            std::fs::create_dir_all(pins.join("v1/4026531840-1-0")).unwrap();
            std::fs::write(pins.join("v1/4026531840-1-0/link-eth0"), "").unwrap();
            run_script(&script, argument, &pins);
            assert!(!pins.exists(), "{argument}");
            // Not there is no error.
            run_script(&script, argument, &pins);
        }
        for argument in stays {
            let pins = tempfile::tempdir().unwrap();
            run_script(&script, argument, pins.path());
            assert!(pins.path().exists(), "{argument}");
        }
    }
}
