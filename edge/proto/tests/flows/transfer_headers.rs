//! Headers of a REFER on their way to the target.

use crate::harness::*;

/// The target's INVITE of a REFER with these headers and this Refer-To; the target is busy.
fn passed(
    config: impl Fn() -> Config,
    target: &str,
    extra: &[&str],
    told: &[&str],
    look: impl Fn(&Message),
) {
    flow(config, |w| {
        w.laws.may_show.push("192.0.2.20".into());
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, target, extra);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        look(&invite);
        w.assert_told(told);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
    });
}

fn all<'a>(message: &'a Message, name: &'a str) -> Vec<&'a str> {
    message.named(name).collect()
}

#[test]
fn what_the_policy_passes_and_drops() {
    let extra = [
        "X-Conversation-ID: c-1",
        "x-customer-id: 42",
        "PH-Secret: 1",
        "Plivo-Token: 2",
        "FS-Var: 3",
        "Twilio-Thing: 4",
        "ClientRegion: eu",
        "Subject: hello",
    ];
    let told = [
        "2 header_dropped: header PH-Secret of the REFER",
        "2 header_dropped: header ClientRegion of the REFER",
        "2 transfer_attempt",
    ];
    passed(config, TARGET, &extra, &told[..2], |invite| {
        assert_eq!(all(invite, "X-Conversation-ID"), ["c-1"]);
        assert_eq!(all(invite, "X-Customer-ID"), ["42"]);
        for name in [
            "PH-Secret",
            "Plivo-Token",
            "FS-Var",
            "Twilio-Thing",
            "ClientRegion",
            "Subject",
        ] {
            assert!(all(invite, name).is_empty(), "{name}");
        }
    });
}

#[test]
fn headers_inside_the_target() {
    let target = "<sip:+1234567890@edge.example.net?X-Conversation-ID=c-2&X-More=a%20b&PH-X=1>";
    passed(config, target, &[], &["header PH-X"], |invite| {
        assert_eq!(all(invite, "X-Conversation-ID"), ["c-2"]);
        assert_eq!(all(invite, "X-More"), ["a b"]);
        assert!(all(invite, "PH-X").is_empty());
    });
}

#[test]
fn the_platform_wins_over_the_trunk() {
    let config = || {
        trunk_with("agents", |trunk| {
            trunk.headers = vec![
                ("x-conversation-id".into(), "configured".into()),
                ("X-Provider".into(), "acme".into()),
            ];
        })
    };
    passed(config, TARGET, &["X-Conversation-ID: c-1"], &[], |invite| {
        assert_eq!(all(invite, "X-Conversation-ID"), ["c-1"]);
        assert_eq!(all(invite, "X-Provider"), ["acme"]);
    });
}

#[test]
fn headers_that_are_the_edges_own_are_never_passed() {
    let config = || policy_with(|policy| policy.pass_headers = vec!["*".into()]);
    let extra = [
        "Route: <sip:198.51.100.9;lr>",
        "Record-Route: <sip:198.51.100.9;lr>",
    ];
    passed(config, TARGET, &extra, &[], |invite| {
        assert!(all(invite, "Route").is_empty());
        assert!(all(invite, "Record-Route").is_empty());
        assert!(all(invite, "Refer-To").is_empty());
        assert!(all(invite, "Authorization").is_empty());
        assert_eq!(all(invite, "Call-ID").len(), 1);
    });
}

#[test]
fn referred_by_is_kept_or_made() {
    let kept = "Referred-By: <sip:agent@ai.example.net>";
    passed(config, TARGET, &[kept], &[], |invite| {
        assert_eq!(all(invite, "Referred-By"), ["<sip:agent@ai.example.net>"]);
    });
    passed(config, TARGET, &[], &[], |invite| {
        assert_eq!(all(invite, "Referred-By"), ["<sip:+19995550123@192.0.2.1>"]);
    });
}

#[test]
fn the_human_sees_the_callers_number() {
    passed(config, TARGET, &[], &[], |invite| {
        let from = invite.from_header();
        assert!(
            from.starts_with("Caller <sip:+15550100@192.0.2.1>"),
            "{from}"
        );
    });
    let fixed = || {
        trunk_with("agents", |trunk| {
            trunk.present_as = PresentAs::Fixed("+15550000".into());
        })
    };
    passed(fixed, TARGET, &[], &[], |invite| {
        assert!(
            invite
                .from_header()
                .starts_with("<sip:+15550000@192.0.2.1>")
        );
    });
}
