//! What a REFER may name: targets that are refused however they are dressed, and those that are called, and how.

use super::cast::*;
use crate::harness::client::kind;
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Net, Scenario, Scene, have_sipp};

/// A trunk whose REFERs need no credentials and may name one number, and whoever is at the human's host.
fn scene() -> Option<Scene> {
    let net = have_sipp().then(Net::v4)?;
    let human = net.human;
    let config = EdgeConfig {
        transfer: format!(
            "max_transfers = 1\nauth = \"dialog\"\nvia = \"agents\"\ntargets = [\"+1234567890\", \"sip:*@{human}\"]"
        ),
        ..EdgeConfig::default()
    };
    Some(Scene::new(net, &config))
}

/// Sends a REFER with each of these values (`HUMAN` and so on stand for hosts); all are refused with `status` and `cause`.
fn are_refused(values: &[&str], status: u16, cause: &str) {
    let Some(scene) = scene() else { return };
    let mut call = OwnAgent::talks(&scene);
    let mut others = Vec::new();
    for value in values {
        let value = value
            .replace("HUMAN", &scene.net.human.to_string())
            .replace("CARRIER", &scene.net.carrier.to_string())
            .replace("STRANGER", &scene.net.stranger.to_string())
            .replace("EDGE", &scene.net.edge.to_string());
        call.agent.says("REFER", &[&format!("Refer-To: {value}")]);
        let refusal = call.agent.wire.next().expect("a refusal");
        let reason = header(&refusal, "Reason").unwrap_or_default();
        let verdict = format!("{} {reason}", kind(&refusal));
        if verdict != format!("{status} REFER SIP;cause={status};text=\"{cause}\"") {
            others.push(format!("{value}: {verdict}"));
        }
    }
    assert_eq!(others, Vec::<String>::new());
    call.ends(&scene);
    let story = scene.story(2);
    let verdict = format!("refer:{status} {cause}");
    let refused = story.lines()[1].matches(&verdict).count();
    assert_eq!(refused, values.len(), "{}", story.lines()[1]);
    human_was_not_called(&scene.edge);
}

#[test]
fn hosts_that_only_look_like_an_allowed_one() {
    are_refused(
        &[
            "<sip:x@evil.example.com>",
            "<sip:x@evil.example.com;p=%40HUMAN>",
            "<sip:x@evil.example.com?p=%40HUMAN>",
            "<sip:x@evil.example.com:5080;HUMAN>",
            "<sip:HUMAN@evil.example.com>",
            "<sip:x%40HUMAN@evil.example.com>",
            "<sip:x@HUMAN.evil.example.com>",
            "<sip:x@STRANGER>",
            "<sip:+1234567890@evil.example.com>",
            "<sip:+1234567890@edge.example.net.evil.example.com>",
            // Trunks all of them, but none that the policy lists.
            "<sip:x@CARRIER>",
            "<sip:x@CARRIER:5060>",
            // No trunk's port.
            "<sip:x@HUMAN:5081>",
            "<sip:x@HUMAN:22>",
            "<sip:+1234567890@edge.example.net:22>",
        ],
        403,
        "target_not_allowed",
    );
}

#[test]
fn parts_of_a_uri_that_would_lead_elsewhere() {
    are_refused(
        &[
            "<sip:x@HUMAN;maddr=STRANGER>",
            "<sip:+1234567890@edge.example.net;MADDR=STRANGER>",
            "<sip:x:secret@HUMAN>",
            "<sip:x:@HUMAN>",
            "<sip:x@HUMAN;method=BYE>",
            "<sip:x@HUMAN;method>",
            "<sip:x@HUMAN?Replaces=call%3Bto-tag%3D1%3Bfrom-tag%3D2>",
        ],
        403,
        "target_not_allowed",
    );
}

#[test]
fn numbers_that_are_not_the_allowed_one() {
    are_refused(
        &[
            "<tel:+1234567891>",
            "<tel:1234567890>",
            "<tel:+12345678900>",
            "+1234567891",
            "<sip:1234567890@edge.example.net>",
            "<sip:+1234567891@edge.example.net>",
            "<sip:+123456789%31@edge.example.net>",
            "<sip:+1234567890%20@edge.example.net>",
            "<sip:+1234567890;ext=1@edge.example.net>",
            "<sip:+1234567890%3b@edge.example.net>",
            // A pattern for sip: is none for sips:.
            "<sips:x@HUMAN>",
        ],
        403,
        "target_not_allowed",
    );
}

#[test]
fn what_would_inject_lines() {
    are_refused(
        &[
            "<sip:x@HUMAN?X-A=1%0D%0ARoute:%20%3Csip:evil.example.com%3E>",
            "<sip:x@HUMAN?X-A=1%0ARoute:%20x>",
            "<sip:x@HUMAN?X-A%0D%0ARoute=x>",
            "<sip:x@HUMAN?X-A=%00>",
            "<sip:x%0D%0ARoute:%20evil@HUMAN>",
            "<sip:+1234567890%0D%0A@edge.example.net>",
            "<sip:x%00@HUMAN>",
        ],
        400,
        "target_invalid",
    );
}

#[test]
fn what_is_malformed() {
    are_refused(
        &[
            // No parameter and no header holds a bare @ (RFC 3261 §25.1): whoever reads on to the last one reads another host.
            "<sip:x@evil.example.com;p=@HUMAN>",
            "<sip:x@evil.example.com?p=@HUMAN>",
            "<sip:x@evil.example.com@HUMAN>",
            "<sip:HUMAN>",
            "<sip:@HUMAN>",
            "<sip:>",
            "<>",
            "",
            "<sip:x@HUMAN",
            "sip",
            "<sip:x@[HUMAN>",
            "<sip:x@HUMAN:99999>",
            "<sip:x@HUMAN:5080:5080>",
            "<sip:%zz@HUMAN>",
            "<tel:xyz>",
            "<tel:>",
            "<tel:112;phone-context=+49>",
            "<sip:x@HUMAN>, <sip:y@HUMAN>",
            "<sip:x@HUMAN>\nRefer-To: <sip:y@HUMAN>",
        ],
        400,
        "target_invalid",
    );
}

#[test]
fn a_refer_without_refer_to() {
    let Some(scene) = scene() else { return };
    let mut call = OwnAgent::talks(&scene);
    call.agent.says("REFER", &[]);
    call.agent.gets("400 REFER");
    call.ends(&scene);
    scene.story(2).is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:400 target_invalid",
    ]);
}

#[test]
fn schemes_that_cannot_be_called() {
    are_refused(
        &[
            "<http://HUMAN/>",
            "<mailto:human@example.net>",
            "<urn:service:sos>",
            "<sipx:x@HUMAN>",
            "<file:///etc/passwd>",
        ],
        416,
        "target_invalid",
    );
}

/// A target that is called: the Request-URI of the new INVITE, whatever the REFER said besides.
fn is_called(refer_to: &str, user: &str) {
    let Some(scene) = scene() else { return };
    let human = Scenario::refusing("486 Busy Here");
    let mut human = scene.human_answers(&human);
    let mut call = OwnAgent::talks(&scene);
    let refer_to = refer_to.replace("HUMAN", &scene.net.human.to_string());
    call.agent
        .says("REFER", &[&format!("Refer-To: {refer_to}")]);
    let answer = call.agent.wire.next().expect("an answer");
    assert_eq!(kind(&answer), "202 REFER", "{refer_to}");
    call.agent.is_notified();
    call.agent.is_notified();
    human.passes();
    let invite = human.received()[0].clone();
    let uri = format!(
        "INVITE sip:{user}@{}:5080;transport=tcp SIP/2.0",
        scene.net.human
    );
    assert_eq!(invite.lines().next(), Some(uri.as_str()), "{refer_to}");
    call.ends(&scene);
}

#[test]
fn an_escaped_number_is_the_number() {
    is_called(
        "\"Sales\" <SIP:%2B123456789%30@EDGE.example.NET;unknown=1;user=phone;lr>;x=y",
        "+1234567890",
    );
}

#[test]
fn a_telephone_number_goes_over_the_via() {
    is_called("<tel:+1-234-(567).890;ext=5>", "+1234567890");
}

#[test]
fn a_bare_number_is_a_telephone_number() {
    is_called("+1234567890", "+1234567890");
}

#[test]
fn a_trunks_host_goes_to_that_trunk() {
    is_called("sip:queue%20one@HUMAN:5080;transport=udp", "queue%20one");
}
