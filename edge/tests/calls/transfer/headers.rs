//! What the human's INVITE says: headers of the REFER and of its Refer-To that are copied, those that are not, and who calls.

use super::cast::*;
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Scenario, Scene, Story};

/// A REFER with these header lines to a human who is busy: the human's INVITE, and what is told of it.
fn invite_of(refer_to: &str, lines: &[&str]) -> Option<(Scene, String, Story)> {
    invite_under("", refer_to, lines)
}

/// The same with further keys of the policy.
fn invite_under(policy: &str, refer_to: &str, lines: &[&str]) -> Option<(Scene, String, Story)> {
    let config = trusting();
    let config = EdgeConfig {
        transfer: format!("{}\n{policy}", config.transfer),
        agents: format!(
            "headers = {{ \"X-Provider\" = \"acme\", \"X-Conversation-Id\" = \"fixed\" }}\n{}",
            config.agents
        ),
        ..config
    };
    let scene = Scene::v4(&config)?;
    let mut human = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let mut call = OwnAgent::talks(&scene);
    let refer_to = format!("Refer-To: {refer_to}");
    call.agent
        .says("REFER", &[&[refer_to.as_str()], lines].concat());
    call.agent.gets("202 REFER");
    call.agent.is_notified();
    call.agent.is_notified();
    human.passes();
    call.ends(&scene);
    let story = scene.story(3);
    let invite = human.received()[0].clone();
    Some((scene, invite, story))
}

/// The header lines of a message that begin with `X-` or are in `names`, as they stand.
fn lines<'a>(message: &'a str, names: &[&str]) -> Vec<&'a str> {
    let ours = |line: &&str| line.starts_with("X-") || names.iter().any(|n| line.starts_with(n));
    message.lines().map(str::trim_end).filter(ours).collect()
}

#[test]
fn headers_of_the_refer_are_copied_or_visibly_dropped() {
    let refer_to =
        format!("<{TARGET}?X-Ticket=T%207%2C%20urgent&X-Conversation-ID=from-uri&Priority=urgent>");
    let Some((_scene, invite, story)) = invite_of(
        &refer_to,
        &[
            "X-Conversation-ID: conv-42",
            "X-cUsTomer-Id: ä & \"quoted\"",
            "PH-Secret: 1",
            "Plivo-Thing: 2",
            "FS-Thing: 3",
            "SipAuthUser: 4",
            "ZT-Thing: 5",
            "TwilioSid: 6",
            "ClientRegion: 7",
            "Subject: not listed",
            "P-Asserted-Identity: <sip:+15550999@example.net>",
            "Route: <sip:evil.example.com;lr>",
        ],
    ) else {
        return;
    };
    let suspicious = [
        "PH-", "Plivo", "FS-", "Sip", "ZT-", "Twilio", "Client", "Subject", "P-", "Route",
        "Priority",
    ];
    let mut copied = lines(&invite, &suspicious);
    copied.sort_unstable();
    // The platform's own conversation wins over the one in the URI and over the trunk's.
    assert_eq!(
        copied,
        [
            "X-Conversation-ID: conv-42",
            "X-Provider: acme",
            "X-Ticket: T 7, urgent",
            "X-cUsTomer-Id: ä & \"quoted\"",
        ]
    );
    for (name, rule) in [
        ("PH-Secret", "drop_headers PH-*"),
        ("Plivo-Thing", "drop_headers Plivo*"),
        ("FS-Thing", "drop_headers FS-*"),
        ("SipAuthUser", "drop_headers SipAuth*"),
        ("ZT-Thing", "drop_headers ZT-*"),
        ("TwilioSid", "drop_headers Twilio*"),
        ("ClientRegion", "drop_headers ClientRegion"),
    ] {
        story.tells(&[&format!(
            "header_dropped header {name} of the REFER is not passed on to the target {rule}"
        )]);
    }
}

#[test]
fn what_sip_itself_uses_is_copied_under_no_policy() {
    let policy = "pass_headers = [\"*\"]\ndrop_headers = []";
    let target =
        format!("<{TARGET}?P-Preferred-Identity=%3Csip:boss%40example.net%3E&Subject=help>");
    let own = [
        "Route: <sip:evil.example.com;lr>",
        "P-Asserted-Identity: <sip:+15550999@example.net>",
        "Diversion: <sip:+15550999@example.net>",
        "Proxy-Authorization: Digest username=\"x\"",
        "Replaces: call;to-tag=1;from-tag=2",
        "PH-Allowed: yes",
    ];
    let Some((_scene, invite, story)) = invite_under(policy, &target, &own) else {
        return;
    };
    let names = [
        "Route",
        "P-",
        "Diversion",
        "Proxy-",
        "Replaces",
        "PH-",
        "Subject",
        "Refer-To",
    ];
    let mut copied = lines(&invite, &names);
    copied.sort_unstable();
    assert_eq!(
        copied,
        [
            "PH-Allowed: yes",
            "Subject: help",
            "X-Conversation-Id: fixed",
            "X-Provider: acme"
        ]
    );
    story.tells(&["header P-Preferred-Identity of the REFER is not passed on to the target SIP itself uses it"]);
    for once in [
        "Via: ",
        "From: ",
        "To: ",
        "Call-ID: ",
        "CSeq: ",
        "Contact: ",
        "Max-Forwards: ",
    ] {
        let times = invite.lines().filter(|line| line.starts_with(once)).count();
        assert_eq!(times, 1, "{once} in {invite}");
    }
}

#[test]
fn the_human_sees_the_callers_number_and_who_referred_it() {
    let Some((scene, invite, _)) = invite_of(&format!("<{TARGET}>"), &[]) else {
        return;
    };
    let from = header(&invite, "From").expect("a From");
    assert!(
        from.contains("Caller") && from.contains("<sip:+15550100@"),
        "{from}"
    );
    // RFC 3892: made from who refers, without its address.
    let referred_by = header(&invite, "Referred-By").expect("a Referred-By");
    let own = format!("<sip:+19995550123@{}>", scene.net.edge);
    assert_eq!(referred_by, own);
    for hidden in [scene.net.ai, scene.net.carrier] {
        assert!(!invite.contains(&hidden.to_string()), "{invite}");
    }
    assert_eq!(
        header(&invite, "Allow").map(|a| a.contains("REFER")),
        Some(true)
    );
}

#[test]
fn the_agents_own_referred_by_is_kept() {
    let line = "Referred-By: \"Agent 7\" <sip:agent7@platform.example.net>";
    let Some((_scene, invite, _)) = invite_of(&format!("<{TARGET}>"), &[line]) else {
        return;
    };
    assert_eq!(
        lines(&invite, &["Referred-By"])
            .iter()
            .filter(|l| l.starts_with("Referred-By"))
            .collect::<Vec<_>>(),
        [&line]
    );
}
