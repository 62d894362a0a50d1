//! Many seeds with the real B2BUA: none breaks a rule, and together they meet everything they should.

use edge_sim::coverage::Coverage;
use edge_sim::{run, run_traced};

/// What every 200 seeds must meet at least once.
const INTERESTING: &[&str] = &[
    "transfer bridged",
    "transfer: fallback tried",
    "transfer: completed (completed)",
    "transfer: busy (busy)",
    "transfer: no-answer (no-answer)",
    "transfer: timeout (sip_auth_timeout)",
    "transfer: failed (sip_auth_failed)",
    "transfer: failed (rejected)",
    "transfer: failed (unreachable)",
    "transfer: failed (network_mismatch)",
    "transfer: failed (caller_refused)",
    "transfer: cancelled (cancelled)",
    "transfer: denied (transfer_disabled)",
    "transfer: denied (transfer_limit)",
    "transfer: denied (transfer_pending)",
    "transfer: denied (transfer_unauthorized)",
    "transfer: denied (target_invalid)",
    "transfer: denied (target_not_allowed)",
    "digest: replayed",
    "digest: stale",
    "digest: wrong_credentials",
    "digest: wrong_uri",
    "digest: malformed",
    "digest: reflected",
    "leg ended: access_removed",
    "leg ended: edge_overload",
    "leg ended: edge_restart",
    "leg ended: media_timeout",
    "leg ended: no_common_codec",
    "leg ended: signalling_timeout",
    "leg ended: trunk_limit",
    "edge: connection limit",
    "edge: re-INVITE",
    "access: unlisted",
    "handoff: delivered",
    "handoff: queue full",
    "media: relayed",
    "media: dropped stranger",
    "media: port taken by somebody else",
    "net: connection refused",
    "net: connection reset",
    "net: message cut",
    "net: packet lost",
    "net: packet duplicated",
    "net: packet delayed past others",
    "note: fork",
    "operator: drain",
    "operator: end",
    "overflow: calls",
    "overflow: signalling",
    "peer: 200 after CANCEL",
    "peer: BYE in an early dialog",
    "peer: BYE unanswered",
    "peer: NOTIFY answered 481",
    "peer: NOTIFY unanswered",
    "peer: REFER from another trunk's source",
    "peer: no ACK",
    "peer: hold",
    "peer: UPDATE",
    "peer: silent after credentials",
    "peer: transferor left after the 202",
    "peer: vanished",
    "glare: the edge's re-INVITE met ours",
    "race: 200 crossed CANCEL or BYE",
    "race: BYE crossed BYE",
    "resolver: failed",
];

#[test]
fn seeds_break_no_rule_and_meet_what_is_interesting() {
    let seeds = std::env::var("SEEDS").ok();
    let seeds: u64 = seeds.map_or(200, |text| text.parse().expect("SEEDS is a number"));
    let mut coverage = Coverage::default();
    for seed in 0..seeds {
        let outcome = run(seed);
        coverage.add(&outcome.coverage);
        if let Some(violation) = outcome.violation {
            let trace = run_traced(seed).trace.join("\n");
            panic!(
                "{trace}\nseed {seed}: {} violated at {:?}: {}\nagain: cargo run -p edge-sim -- --seed {seed} --verbose",
                violation.checker, violation.at, violation.text
            );
        }
    }
    if seeds >= 200 {
        assert_eq!(coverage.missing(INTERESTING), Vec::<&str>::new());
    }
}

#[test]
fn a_seed_gives_one_run() {
    for seed in 0..6 {
        assert_eq!(run(seed).fingerprint, run(seed).fingerprint, "seed {seed}");
    }
}
