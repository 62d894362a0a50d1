//! Refer-To: accepted forms, attacks, and who calls.

use super::*;
use crate::call::policy::{Target, TargetRefusal, evaluate_fallback, evaluate_refer_to};
use crate::event::Cause;
use proptest::prelude::*;

fn evaluate(value: &str) -> Result<Target, TargetRefusal> {
    let config = Fixture::new().build();
    evaluate_refer_to(&config, ai(&config), value)
}

#[track_caller]
fn accepted(value: &str, trunk: &str, user: &str) {
    let target = evaluate(value).unwrap();
    assert_eq!((&*target.trunk.name, target.user.as_str()), (trunk, user));
}

#[track_caller]
fn refused(value: &str, status: u16, detail: &str) {
    let refusal = evaluate(value).unwrap_err();
    let cause = if status == 403 {
        Cause::TargetNotAllowed
    } else {
        Cause::TargetInvalid
    };
    assert_eq!(
        (refusal.status, refusal.cause),
        (status, cause),
        "{refusal:?}"
    );
    assert!(refusal.detail.contains(detail), "{}", refusal.detail);
}

#[test]
fn every_accepted_form_reaches_the_right_trunk() {
    accepted("<tel:+1-234-567-890>", "agents", "+1234567890");
    accepted("tel:+1(234)567.890", "agents", "+1234567890");
    accepted("+1234567890", "agents", "+1234567890");
    accepted(" <+1-234-567890> ", "agents", "+1234567890");
    accepted(
        "\"Agent\" <sip:+1234567890@edge.example.net>",
        "agents",
        "+1234567890",
    );
    accepted(
        "<sip:+1234567890@EDGE.example.net.:5060>",
        "agents",
        "+1234567890",
    );
    accepted("<sips:+1234567890@192.0.2.1:5062>", "agents", "+1234567890");
    accepted("<sip:bob@192.0.2.4>", "agents", "bob");
    accepted(
        "<sip:bob@192.0.2.4:5060;transport=udp;foo=bar;user=ip;method=INVITE>",
        "agents",
        "bob",
    );
    accepted("<sip:bob@[2001:DB8:0:0::4]>;foo=bar", "agents", "bob");
    accepted("<sip:%62ob%20x@192.0.2.4>", "agents", "bob x");
    accepted(
        "<sip:+1-234;isub=9@192.0.2.4;user=phone>",
        "agents",
        "+1234",
    );
    accepted("<sip:+1-234@192.0.2.4>", "agents", "+1-234");
    accepted("<sip:911@PBX.example.net>", "pbx", "911");
    accepted("<sip:911@pbx.example.net:5080>", "pbx", "911");
}

#[test]
fn what_is_malformed_is_400() {
    refused("", 400, "malformed");
    refused("<sip:bob@192.0.2.4", 400, "malformed");
    refused("bob", 400, "malformed");
    refused("<+1234567890x>", 400, "malformed");
    refused("<tel:>", 400, "malformed");
    refused("<tel:911;phone-context=+1>", 400, "phone-context");
    refused("<sip:192.0.2.4>", 400, "no user part");
    refused("<sip:@192.0.2.4>", 400, "malformed");
    refused("<sip:bob@192.0.2.4:99999>", 400, "malformed");
    refused("<sip:bob%0d%0aVia@192.0.2.4>", 400, "control characters");
    refused(
        &format!("<sip:{}@192.0.2.4>", "9".repeat(257)),
        400,
        "longer than 256 bytes",
    );
    refused("<sip:bob@192.0.2.4>, <sip:eve@192.0.2.4>", 400, "malformed");
}

#[test]
fn other_schemes_are_416() {
    refused("<http://192.0.2.4/bob>", 416, "http:");
    refused("<mailto:bob@192.0.2.4>", 416, "mailto:");
    refused("<urn:service:sos>", 416, "urn:");
}

#[test]
fn attacks_on_the_patterns_fail() {
    refused("<sip:x@evil.example.com;p=@192.0.2.4>", 400, "malformed");
    refused(
        "<sip:x%40192.0.2.4@evil.example.com>",
        403,
        "neither this edge nor the uri of a trunk",
    );
    refused("<sip:x@192.0.2.4@evil.example.com>", 400, "malformed");
    refused("<sip:x@192.0.2.4%40evil.example.com>", 400, "malformed");
    refused("<sip:x@evil.example.com?X=@192.0.2.4>", 400, "malformed");
    refused(
        "<sip:x@192.0.2.4.evil.example.com>",
        403,
        "neither this edge",
    );
    refused("<sip:x@192.0.2.4;maddr=203.0.113.9>", 403, "maddr");
    refused("<sip:x@192.0.2.4;MADDR=203.0.113.9>", 403, "maddr");
    refused("<sip:x@192.0.2.4;%6daddr=203.0.113.9>", 403, "maddr");
    refused("<sip:x:secret@192.0.2.4>", 403, "password");
    refused("<sip:x@192.0.2.4;method=BYE>", 403, "method");
    refused("<sip:x@192.0.2.4;method>", 403, "method");
    refused("<sip:x@192.0.2.4:9999>", 403, "neither this edge");
    refused(
        "<sip:+1234567890@edge.example.net:9999>",
        403,
        "neither this edge",
    );
    refused("<sip:x@192.0.2.4?Replaces=abc>", 403, "attended transfer");
    refused(
        "<sip:x@192.0.2.4?X-A=b%0d%0aRoute:%20x>",
        400,
        "control characters",
    );
    refused(
        "<sip:x@192.0.2.4?X-A%0d%0aRoute=x>",
        400,
        "control characters",
    );
    refused("<sip:x@192.0.2.4?X-A=a%00b>", 400, "control characters");
    let many: Vec<String> = (0..33).map(|n| format!("X-{n}=v")).collect();
    refused(
        &format!("<sip:x@192.0.2.4?{}>", many.join("&")),
        400,
        "more than 32 headers",
    );
}

#[test]
fn what_no_pattern_lists_is_403() {
    refused(
        "<tel:+4930123456>",
        403,
        "no pattern in the targets of trunk \"ai\" matches tel:+4930123456",
    );
    refused("<tel:1234567890>", 403, "no pattern");
    refused("<sips:bob@192.0.2.4>", 403, "no pattern");
    refused("<sip:bob@edge.example.net>", 403, "no pattern");
    refused("<sip:811@pbx.example.net>", 403, "no pattern");
    // A bare number reaches hosts routed to via, and no other.
    refused("<sip:+1234567890@pbx.example.net>", 403, "no pattern");
    refused("<sip:+1234567890@192.0.2.2>", 403, "no pattern");
    accepted("<sip:+1234567890@192.0.2.4>", "agents", "+1234567890");
}

#[test]
fn embedded_headers_come_unescaped() {
    let target = evaluate("<sip:bob@192.0.2.4?X-A=a%20b&Route=x>").unwrap();
    let expected = [("X-A", "a b"), ("Route", "x")];
    assert_eq!(
        target.embedded,
        expected.map(|(n, v)| (n.to_owned(), v.to_owned()))
    );
    assert_eq!(target.text, "sip:bob@192.0.2.4");
}

#[test]
fn without_via_only_trunk_hosts_can_be_called() {
    let mut fixture = Fixture::new();
    fixture.policy().via = None;
    fixture.policy().targets = strings(&["*", "sip:*@*"]);
    let config = fixture.build();
    let who = |value| evaluate_refer_to(&config, ai(&config), value);
    assert!(
        who("<tel:+1234567890>")
            .unwrap_err()
            .detail
            .contains("has no via")
    );
    assert!(
        who("<sip:1@edge.example.net>")
            .unwrap_err()
            .detail
            .contains("has no via")
    );
    assert_eq!(
        who("<sip:1@192.0.2.4>").unwrap().trunk.name.to_string(),
        "agents"
    );
    assert_eq!(who("<sip:1@evil.example.com>").unwrap_err().status, 403);
}

#[test]
fn a_via_without_uri_calls_nobody() {
    let mut fixture = Fixture::new();
    fixture.policy().via = Some("inbound".to_owned());
    let config = fixture.build();
    let refusal = evaluate_refer_to(&config, ai(&config), "<tel:+1234567890>").unwrap_err();
    assert_eq!(
        refusal.detail,
        "trunk \"inbound\", the via, cannot make calls"
    );
}

#[test]
fn trunks_on_one_host_are_told_apart_by_port_then_via() {
    let mut fixture = Fixture::new();
    fixture.trunks[0].uris = vec![uri("192.0.2.1", Some(5071))];
    fixture.trunks[3].uris = vec![uri("192.0.2.1", Some(5072))];
    fixture.trunks[2].uris = vec![uri("192.0.2.1", Some(5073))];
    fixture.policy().targets = strings(&["sip:*@192.0.2.1"]);
    let config = fixture.build();
    let who = |value| {
        evaluate_refer_to(&config, ai(&config), value)
            .unwrap()
            .trunk
            .name
            .to_string()
    };
    assert_eq!(who("<sip:1@192.0.2.1:5071>"), "carrier");
    assert_eq!(who("<sip:1@192.0.2.1:5072>"), "pbx");
    assert_eq!(who("<sip:1@192.0.2.1:5073>"), "agents");
    assert_eq!(who("<sip:1@192.0.2.1>"), "agents");
}

#[test]
fn a_fallback_needs_no_pattern_but_a_trunk() {
    let config = Fixture::new().build();
    let who = |value| evaluate_fallback(&config, ai(&config), value);
    assert_eq!(
        who("tel:+4930123456").unwrap().trunk.name.to_string(),
        "agents"
    );
    assert_eq!(
        who("sip:1@pbx.example.net").unwrap().trunk.name.to_string(),
        "pbx"
    );
    assert_eq!(who("sip:1@evil.example.com").unwrap_err().status, 403);
    assert_eq!(who("sip:1@192.0.2.4;maddr=x").unwrap_err().status, 403);
    assert_eq!(who("sip:1@192.0.2.4?X-A=b").unwrap().embedded.len(), 1);
    assert_eq!(who("<sip:1@192.0.2.4;maddr=x>").unwrap_err().status, 403);
}

proptest! {
    /// Whatever stands in Refer-To, a call goes to a trunk that the target's host or `via` means, for a user that a pattern
    /// matches, and nothing that could break a line comes along.
    #[test]
    fn no_text_reaches_anyone_else(
        value in prop_oneof![
            any::<String>(),
            "<?(sips?|tel):[ -~]{0,40}>?",
            "<sip:[a-z0-9%+.;:@]{1,12}@(192[.]0[.]2[.]4|evil[.]example[.]com|pbx[.]example[.]net)[;?=%@a-z0-9.:]{0,20}>",
        ],
    ) {
        let config = Fixture::new().build();
        if let Ok(target) = evaluate_refer_to(&config, ai(&config), &value) {
            prop_assert!(["agents", "pbx"].contains(&&*target.trunk.name));
            if &*target.trunk.name == "pbx" {
                prop_assert!(target.user.starts_with('9'), "{}", target.user);
            }
            let embedded = target.embedded.iter().flat_map(|(name, value)| [name, value]);
            let mut texts = embedded.chain([&target.user, &target.text]);
            prop_assert!(!texts.any(|text| text.chars().any(char::is_control)));
        }
    }
}
