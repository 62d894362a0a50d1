//! What `sip-edge explain refer` answers is what a live call gets.

use crate::harness::*;
use edge_proto::call::policy::{DryRun, as_refer_to};
use proptest::prelude::*;

/// What varies between cases.
#[derive(Clone, Debug)]
struct Case {
    max_transfers: u32,
    auth: ReferAuth,
    via: bool,
    targets: Vec<&'static str>,
    ai: Network,
    agents: Network,
    bridge: bool,
    refer_to: String,
}

const PATTERNS: [&str; 7] = [
    "+1234567890",
    "+1*",
    "tel:+49*",
    "sip:*@192.0.2.30",
    "sip:*@192.0.2.30:5080",
    "sips:*@edge.example.net",
    "sip:human@*",
];

fn refer_to() -> impl Strategy<Value = String> {
    let likely = prop::sample::select(vec![
        "+1234567890",
        "tel:+1-234-567-890",
        "tel:+49301234",
        "tel:112;phone-context=+49",
        "sip:+1234567890@edge.example.net",
        "sip:+1234567890@192.0.2.1:5060",
        "sips:+1234567890@edge.example.net",
        "sip:human@192.0.2.30",
        "sip:human@192.0.2.30:5080",
        "sip:human@192.0.2.30:9",
        "sip:human@192.0.2.10",
        "sip:human@evil.example.com",
        "sip:x@evil.example.com;p=@192.0.2.30",
        "sip:human@192.0.2.30;maddr=203.0.113.9",
        "sip:human:secret@192.0.2.30",
        "sip:human@192.0.2.30;method=BYE",
        "sip:human@192.0.2.30?X-A=b%0d%0aRoute:%20c",
        "sip:human@192.0.2.30?X-A=b",
        "sip:hu%6dan@192.0.2.30;user=phone",
        "sip:192.0.2.30",
        "http://192.0.2.30/",
        "\"Human\" <sip:human@192.0.2.30>;x=y",
    ]);
    prop_oneof![
        3 => likely.prop_map(str::to_owned),
        1 => "sips?:[+a-z0-9%@;?=:.<>\\[\\]-]{0,30}",
        1 => "[ -~]{0,30}",
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let networks = prop::sample::select(vec![Network::Dual, Network::Ipv4, Network::Ipv6]);
    let auths = prop::sample::select(vec![ReferAuth::Digest, ReferAuth::Dialog]);
    let targets = prop::sample::subsequence(PATTERNS.to_vec(), 0..=PATTERNS.len());
    let ai = prop::sample::select(vec![Network::Dual, Network::Ipv4]);
    let flags = (prop::bool::weighted(0.8), any::<bool>());
    (0u32..3, auths, flags, targets, ai, networks, refer_to()).prop_map(
        |(max_transfers, auth, (via, bridge), targets, ai, agents, refer_to)| Case {
            max_transfers,
            auth,
            via,
            targets,
            ai,
            agents,
            bridge,
            refer_to,
        },
    )
}

fn build(case: &Case) -> Config {
    config_with(|config| {
        edit_policy(config, |policy| {
            policy.max_transfers = case.max_transfers;
            policy.auth = case.auth;
            policy.via = case.via.then(|| "agents".to_owned());
            policy.targets = case.targets.iter().map(|&t| t.to_owned()).collect();
        });
        edit_trunk(config, "ai", |trunk| trunk.network = case.ai);
        edit_trunk(config, "agents", |trunk| {
            trunk.network = case.agents;
            trunk.bridge_families = case.bridge;
        });
    })
}

/// Status and cause of the final answer to the REFER in a call, its challenge answered.
fn live(case: &Case) -> String {
    let mut world = World::new(build(case), 1);
    let (_caller, mut agent) = answered(&mut world);
    let refer_to = format!("Refer-To: {}", as_refer_to(&case.refer_to));
    agent.sends(&mut world, "REFER", &[&refer_to], "");
    let (_, response) = world.recv(agent.address);
    if response.status() == Some(401) {
        let authorization = Answering::new("REFER", &agent.target).line(&response);
        agent.sends(&mut world, "REFER", &[&refer_to, &authorization], "");
    }
    world.verdicts().pop().expect("a verdict")
}

fn dry(case: &Case) -> String {
    let config = build(case);
    let question = DryRun {
        transferor: config.trunk_named("ai").expect("the trunk"),
        refer_to: &case.refer_to,
        source: Some(V4.ai.ip()),
        transfers_done: 0,
    };
    match question.judge(&config).result {
        Ok(_) => "202".to_owned(),
        Err(refusal) => format!("{} {}", refusal.status, refusal.cause.as_str()),
    }
}

proptest! {
    #[test]
    fn dry_run_and_live_call_agree(case in case()) {
        prop_assert_eq!(dry(&case), live(&case));
    }
}

/// The property is worth something only if its cases reach verdicts of every kind.
#[test]
fn the_cases_reach_every_verdict() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut verdicts = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let case = case().new_tree(&mut runner).expect("a case").current();
        verdicts.insert(dry(&case));
    }
    for expected in [
        "202",
        "400 target_invalid",
        "403 network_mismatch",
        "403 target_not_allowed",
        "403 transfer_disabled",
        "416 target_invalid",
    ] {
        assert!(verdicts.contains(expected), "{expected}");
    }
}
