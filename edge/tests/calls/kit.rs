//! Every scenario of the load kit (`bench/sipp`), as an operator runs it, at a small size: `run` against an edge with the kit's
//! own `staging.toml`, moved to the test's addresses.

use crate::harness::Staging;
use crate::harness::staging::kit;
use crate::harness::wait;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

fn counts(wanted: &[(&str, &str, usize)]) -> BTreeMap<(String, String), usize> {
    let entry = |&(trunk, cause, count): &(&str, &str, usize)| {
        ((trunk.to_owned(), cause.to_owned()), count)
    };
    wanted.iter().map(entry).collect()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

const CALL: [&str; 2] = ["call-caller", "call-agent"];
const RTP: [&str; 2] = ["rtp-caller", "call-agent"];
const OVERLOAD: [&str; 2] = ["overload-caller", "call-agent"];
const TRANSFER: [&str; 3] = ["transfer-caller", "transfer-agent", "human"];
const DIGEST: [&str; 3] = ["transfer-caller", "transfer-agent-digest", "human"];
const MIXED: [&str; 3] = ["mixed-caller", "mixed-agent", "mixed-human"];

#[test]
fn the_tests_here_leave_no_scenario_of_the_kit_out() {
    let played: BTreeSet<String> = [&CALL[..], &RTP, &OVERLOAD, &TRANSFER, &DIGEST, &MIXED]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let files = fs::read_dir(kit()).expect("the kit");
    let there: BTreeSet<String> = files
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".xml")?.to_owned()))
        .collect();
    assert_eq!(there, played);
}

#[test]
fn calls_are_made_and_end() {
    let Some(staging) = Staging::start(|text| text) else {
        return;
    };
    let size = [("CALLS", "20"), ("RATE", "20"), ("HOLD_MS", "300")];
    assert_eq!(staging.plays("call", &size), names(CALL));
    let wanted = [("ai", "completed", 20), ("carrier", "completed", 20)];
    assert_eq!(staging.outcomes(40), counts(&wanted));
}

#[test]
fn calls_with_rtp_are_heard() {
    let Some(staging) = Staging::start(|text| text) else {
        return;
    };
    let size = [("CALLS", "10"), ("RATE", "20"), ("HOLD_MS", "1500")];
    assert_eq!(staging.plays("rtp", &size), names(RTP));
    for line in staging.edge.cdrs(20) {
        let packets = |direction: &str| line["media"][direction]["packets"].as_u64();
        // The platform echoes, so both legs hear.
        assert!(packets("received") > Some(0), "{line:#}");
        assert!(packets("sent") > Some(0), "{line:#}");
    }
}

#[test]
fn calls_are_transferred() {
    let Some(staging) = Staging::start(|text| text) else {
        return;
    };
    let size = [("CALLS", "10"), ("RATE", "10"), ("HOLD_MS", "300")];
    assert_eq!(staging.plays("transfer", &size), names(TRANSFER));
    let wanted = ["agents", "ai", "carrier"].map(|trunk| (trunk, "completed", 10));
    assert_eq!(staging.outcomes(30), counts(&wanted));
}

#[test]
fn calls_are_transferred_with_credentials() {
    // What the README says to change for it.
    let change = |text: String| {
        let trunk = "name = \"ai\"\n";
        let credentials = "digest_algorithms = [\"MD5\"]\nusername = \"ai\"\npassword = \"load\"\n";
        let changed = text
            .replace("auth = \"dialog\"", "auth = \"digest\"")
            .replace(trunk, &[trunk, credentials].concat());
        assert_ne!(changed, text);
        changed
    };
    let Some(staging) = Staging::start(change) else {
        return;
    };
    let size = [("CALLS", "10"), ("RATE", "10"), ("HOLD_MS", "300")];
    assert_eq!(staging.plays("transfer-digest", &size), names(DIGEST));
    let wanted = ["agents", "ai", "carrier"].map(|trunk| (trunk, "completed", 10));
    assert_eq!(staging.outcomes(30), counts(&wanted));
    let challenged = "sip_edge_digest_challenges_total{outcome=\"accepted\",trunk=\"ai\"}";
    let metrics = staging.edge.metrics();
    assert_eq!(staging.edge.metric(challenged), Some(10.0), "{metrics}");
}

#[test]
fn calls_of_every_kind_are_mixed() {
    let Some(staging) = Staging::start(|text| text) else {
        return;
    };
    // Rounded up to two turns of the twenty lines of mixed.csv.
    let size = [("CALLS", "21"), ("RATE", "20"), ("HOLD_MS", "300")];
    assert_eq!(staging.plays("mixed", &size), names(MIXED));
    let wanted = [
        ("agents", "busy", 2),
        ("agents", "completed", 8),
        ("agents", "no-answer", 2),
        ("ai", "busy", 2),
        ("ai", "cancelled", 6),
        ("ai", "completed", 28),
        ("carrier", "busy", 2),
        ("carrier", "cancelled", 6),
        ("carrier", "completed", 28),
    ];
    assert_eq!(staging.outcomes(84), counts(&wanted));
    let probes =
        "sip_edge_sip_requests_total{direction=\"inbound\",method=\"OPTIONS\",trunk=\"carrier\"}";
    let metrics = staging.edge.metrics();
    assert_eq!(staging.edge.metric(probes), Some(4.0), "{metrics}");
}

/// Under either limit of a trunk: each call is accepted and goes as its scenario says, or is refused, and nothing else happens to
/// any.
#[test]
fn calls_beyond_what_is_allowed_are_refused_in_order() {
    for limit in ["max_calls = 5", "max_calls_per_s = 10"] {
        let limited = |text: String| {
            let name = "name = \"carrier\"\n";
            text.replace(name, &format!("{name}{limit}\n"))
        };
        let Some(staging) = Staging::start(limited) else {
            return;
        };
        let size = [("CALLS", "40"), ("RATE", "100"), ("HOLD_MS", "1000")];
        assert_eq!(staging.plays("overload", &size), names(OVERLOAD));
        let ended = |cause: &str| {
            let labels = format!("cause=\"{cause}\",direction=\"inbound\",trunk=\"carrier\"");
            staging
                .edge
                .metric(&format!("sip_edge_calls_total{{{labels}}}"))
        };
        // What happened is reported a moment after the carrier has seen it.
        let [accepted, refused] = wait::until("40 calls to be over", || {
            let counts = ["completed", "trunk_limit"].map(|cause| ended(cause).unwrap_or(0.0));
            (counts.iter().sum::<f64>() >= 40.0).then(|| counts.map(|count| count as usize))
        });
        assert!(
            accepted > 0 && refused > 0,
            "{limit}: {accepted} accepted, {refused} refused"
        );
        let wanted = [
            ("ai", "completed", accepted),
            ("carrier", "completed", accepted),
            ("carrier", "trunk_limit", refused),
        ];
        assert_eq!(staging.outcomes(40 + accepted), counts(&wanted), "{limit}");
    }
}

/// All of them are up at once, each with RTP both ways, and each ends as its scenario says.
#[test]
fn a_thousand_calls_with_rtp_at_once_end_in_order() {
    let Some(staging) = Staging::start(|text| text) else {
        return;
    };
    // The first call lasts until well after the last one began.
    let size = [("CALLS", "1000"), ("RATE", "100"), ("HOLD_MS", "20000")];
    let mut peak = 0.0_f64;
    staging.plays_meanwhile("rtp", &size, || {
        let active = |trunk: &str| {
            let series = format!("sip_edge_calls_active{{trunk=\"{trunk}\"}}");
            staging.edge.metric(&series).unwrap_or(0.0)
        };
        peak = peak.max(active("carrier").min(active("ai")));
    });
    let lines = staging.edge.cdrs(2000);
    let heard = |line: &&serde_json::Value| {
        line["media"]["received"]["packets"].as_u64() > Some(0)
            && line["media"]["sent"]["packets"].as_u64() > Some(0)
    };
    let packets = |line: &serde_json::Value| line["media"]["received"]["packets"].as_u64();
    let relayed: u64 = lines.iter().filter_map(packets).sum();
    println!("1,000 calls, {peak} at once, {relayed} RTP packets received");
    assert_eq!(lines.iter().filter(heard).count(), 2000);
    let wanted = [("ai", "completed", 1000), ("carrier", "completed", 1000)];
    assert_eq!(staging.outcomes(2000), counts(&wanted));
    assert_eq!(peak, 1000.0, "all of them at once");
}
