//! The README's tables say what the code says.

use edge_proto::config::{Config, MediaConfig, SipConfig};
use edge_proto::event::Cause;
use edge_proto::time::Duration;
use edge_proto::trunk::AllowTable;
use sip_edge::metrics::Metrics;
use std::path::Path;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(path).expect("the README is there")
}

/// The rows of the table after a marker, without its header.
fn rows<'a>(text: &'a str, marker: &str) -> Vec<&'a str> {
    let (_, table) = text.split_once(marker).expect("the marker is there");
    let lines = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    lines.skip(2).collect()
}

#[test]
fn the_causes_are_those_of_the_code() {
    let text = readme();
    let expected: Vec<String> = Cause::ALL
        .iter()
        .map(|cause| {
            let code = cause.code().map_or(String::new(), |code| code.to_string());
            format!("| `{}` | {code} | {} |", cause.as_str(), cause.meaning())
        })
        .collect();
    assert_eq!(rows(&text, "<!-- causes:"), expected);
}

#[test]
fn the_metrics_are_those_of_the_code() {
    let config = Config {
        domains: Vec::new(),
        sip: SipConfig::default(),
        listeners: Vec::new(),
        media: MediaConfig {
            ipv4: None,
            ipv6: None,
            ports: 10_000..=20_000,
            timeout: Duration::from_secs(60),
        },
        trunks: Vec::new(),
        routes: Vec::new(),
        allow: AllowTable::default(),
    };
    let metrics = Metrics::new(&config).expect("valid names");
    let mut expected = metrics.names().to_vec();
    expected.sort();
    let text = readme();
    let mut told: Vec<&str> = rows(&text, "<!-- metrics:")
        .iter()
        .filter_map(|row| row.split('`').nth(1))
        .collect();
    told.sort_unstable();
    assert_eq!(told, expected);
}

#[test]
fn both_licences_are_in_the_one_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../LICENSE");
    let text = std::fs::read_to_string(path).expect("the licence is there");
    for part in [
        "MIT License",
        "WITHOUT WARRANTY OF ANY KIND",
        "Apache License",
        "END OF TERMS AND CONDITIONS",
    ] {
        assert!(text.contains(part), "{part}");
    }
}
