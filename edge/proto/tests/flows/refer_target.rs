//! What a REFER may name, and where the call goes. No INVITE ever leaves for a host that is no trunk's.

use crate::harness::*;

fn trusting(change: impl Fn(&mut TransferPolicy)) -> impl Fn() -> Config {
    move || {
        policy_with(|policy| {
            policy.auth = ReferAuth::Dialog;
            change(policy);
        })
    }
}

/// The target is refused; nobody is called.
fn refused(targets: &[&str], status: u16, cause: &str) {
    flow(trusting(|_| {}), |w| {
        let (mut caller, mut agent) = answered(w);
        for target in targets {
            agent.sends(w, "REFER", &[&format!("Refer-To: {target}")], "");
            let refusal = agent.gets(w, &format!("{status} REFER"));
            let reason = format!("SIP;cause={status};text=\"{cause}\"");
            assert_eq!(
                refusal.header(HeaderName::Reason),
                Some(reason.as_str()),
                "{target}"
            );
        }
        assert!(w.connects.iter().all(|c| c.remote == w.site.ai));
        assert!(w.resolves.is_empty(), "nothing is looked up either");
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

/// The target is called at `site`'s peer, with this Request-URI.
fn called(
    config: impl Fn() -> Config,
    target: &str,
    peer: impl Fn(&Site) -> SocketAddr,
    uri: &str,
) {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        agent.sends(w, "REFER", &[&format!("Refer-To: {target}")], "");
        agent.gets(w, "202 REFER");
        gets_notify(w, &mut agent, "100 Trying");
        let peer = peer(&w.site);
        let (mut human, invite) = invited(w, peer, HUMAN_RTP);
        assert_eq!(invite.request_uri(), Some(uri));
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

const DIALLED: &str = "sip:+1234567890@192.0.2.30:5080;transport=tcp";

#[test]
fn telephone_numbers_go_over_via() {
    for target in [
        "<tel:+1234567890>",
        "tel:+1-234-567-890",
        "<tel:+1.234.567.(890)>",
        "+1234567890",
        "<+1234567890>",
        "\"Live Agent\" <tel:+1234567890;ext=1>",
    ] {
        called(trusting(|_| {}), target, |site| site.human, DIALLED);
    }
}

#[test]
fn hosts_that_mean_this_edge_go_over_via() {
    for target in [
        "<sip:+1234567890@edge.example.net>",
        "sip:+1234567890@EDGE.example.net",
        "<sip:+1234567890@edge.example.net:5060;transport=udp>",
        "<sips:+1234567890@edge.example.net>",
        "<sip:+1234567890@192.0.2.1>",
        "<sip:%2b1234567890@edge.example.net>",
        "<sip:+1-234-567-890@edge.example.net;user=phone>",
    ] {
        called(trusting(|_| {}), target, |site| site.human, DIALLED);
    }
}

#[test]
fn the_host_of_a_trunk_goes_to_that_trunk() {
    let any = trusting(|policy| {
        policy.targets = vec!["sip:*@192.0.2.30".into(), "sip:*@192.0.2.40".into()];
    });
    called(
        &any,
        "<sip:desk@192.0.2.30:5080>",
        |site| site.human,
        "sip:desk@192.0.2.30:5080;transport=tcp",
    );
    // Port and transport are the trunk's.
    called(
        &any,
        "<sip:desk@192.0.2.40;transport=udp;lr;x=y>",
        |site| site.spare,
        "sip:desk@192.0.2.40:5090;transport=tcp",
    );
}

#[test]
fn malformed_targets() {
    refused(
        &[
            "",
            "<>",
            "<sip:>",
            "<sip:@192.0.2.30>",
            "<sip:192.0.2.30>",
            "<sip:x@>",
            "<sip:x@192.0.2.30",
            "sip:x@192.0.2.30>",
            "<sip:x@192.0.2.30:99999>",
            "<sip:x%zz@192.0.2.30>",
            "<sip:x@[::1>",
            "<tel:>",
            // Spellings of 192.0.2.30 that some resolvers take.
            "<sip:x@0xc000021e>",
            "<sip:x@3221225502>",
            "<sip:x@192.0.2.030>",
            "<tel:112;phone-context=+49>",
            "nonsense",
        ],
        400,
        "target_invalid",
    );
}

#[test]
fn several_targets_or_none() {
    flow(trusting(|_| {}), |w| {
        let (mut caller, mut agent) = answered(w);
        agent.says(w, "REFER");
        agent.gets(w, "400 REFER");
        let refer_to = format!("Refer-To: {TARGET}");
        agent.sends(w, "REFER", &[&refer_to, &refer_to], "");
        agent.gets(w, "400 REFER");
        agent.sends(w, "REFER", &[&refer_to, "r: <sip:x@192.0.2.30>"], "");
        agent.gets(w, "400 REFER");
        // A list in one line.
        agent.sends(
            w,
            "REFER",
            &[&format!("Refer-To: {TARGET}, <sip:x@192.0.2.30>")],
            "",
        );
        agent.gets(w, "400 REFER");
        assert_eq!(w.verdicts(), ["400 target_invalid"; 4]);
        w.assert_silent(w.site.human);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn schemes_that_cannot_be_called() {
    refused(
        &[
            "<http://192.0.2.30/>",
            "<mailto:x@192.0.2.30>",
            "<urn:service:sos>",
            "<im:x@192.0.2.30>",
        ],
        416,
        "target_invalid",
    );
}

#[test]
fn targets_that_are_not_on_the_list() {
    refused(
        &[
            "<tel:+1234567891>",
            "<sip:+12345678900@edge.example.net>",
            "<sip:1234567890@edge.example.net>",
            "<sip:+1234567890@192.0.2.40>",
            "<sips:x@192.0.2.30>",
        ],
        403,
        "target_not_allowed",
    );
}

#[test]
fn hosts_that_are_nobodys() {
    refused(
        &[
            "<sip:+1234567890@198.51.100.1>",
            "<sip:+1234567890@evil.example.com>",
            "<sip:x@192.0.2.30.evil.example.com>",
            "<sip:x@192.0.2.66>",
            "<sip:x@localhost>",
            "<sip:x@[2001:db8::30]>",
        ],
        403,
        "target_not_allowed",
    );
}

#[test]
fn attacks_on_the_patterns() {
    // `sip:*@192.0.2.30` is on the list.
    refused(
        &[
            "<sip:x@evil.example.com;p=%40192.0.2.30>",
            "<sip:x@evil.example.com?X=%40192.0.2.30>",
            "\"sip:x@192.0.2.30\" <sip:x@evil.example.com>",
            "<sip:x@evil.example.com>;p=\"<sip:x@192.0.2.30>\"",
            "<sip:x%40192.0.2.30@evil.example.com>",
            "<sip:x;a=b%40192.0.2.30@198.51.100.9>",
            "<sip:192.0.2.30@evil.example.com>",
            // Where the request would go, and what it would be.
            "<sip:x@192.0.2.30;maddr=198.51.100.9>",
            "<sip:x@192.0.2.30;MADDR=192.0.2.30>",
            "<sip:x:password@192.0.2.30>",
            "<sip:x:@192.0.2.30>",
            "<sip:x@192.0.2.30;method=BYE>",
            "<sip:x@192.0.2.30;method=invite%20>",
            "<sip:x@192.0.2.30?Replaces=1%3Bto-tag%3D2%3Bfrom-tag%3D3>",
        ],
        403,
        "target_not_allowed",
    );
    refused(
        &[
            "<sip:x@evil.example.com;p=@192.0.2.30>",
            "<sip:x@evil.example.com?X=@192.0.2.30>",
            "<sip:x@evil.example.com:5060;x=sip:*@192.0.2.30>",
            "<sip:x%0d%0aRoute:%20y@192.0.2.30>",
            "<sip:x%00@192.0.2.30>",
            "<sip:x@192.0.2.30?X-A=1%0d%0aRoute:%20%3Csip:198.51.100.9%3E>",
            "<sip:x@192.0.2.30?X-A%0d%0aRoute=1>",
            "<sip:x@192.0.2.30?X-A=1%0a>",
            "<sip:x@evil@192.0.2.30>",
        ],
        400,
        "target_invalid",
    );
}

#[test]
fn what_is_dropped_from_a_target_that_is_allowed() {
    called(
        trusting(|_| {}),
        "<sip:x@192.0.2.30;ttl=1;unknown=2;method=INVITE;transport=tls>",
        |site| site.human,
        "sip:x@192.0.2.30:5080;transport=tcp",
    );
    // Letters that a Request-URI cannot have stay escaped.
    called(
        trusting(|_| {}),
        "<sip:a%20b%40c@192.0.2.30>",
        |site| site.human,
        "sip:a%20b%40c@192.0.2.30:5080;transport=tcp",
    );
}

#[test]
fn a_policy_without_via() {
    flow(trusting(|policy| policy.via = None), |w| {
        let (mut caller, mut agent) = answered(w);
        agent.sends(w, "REFER", &["Refer-To: <tel:+1234567890>"], "");
        agent.gets(w, "403 REFER");
        assert_eq!(w.verdicts(), ["403 target_not_allowed"]);
        w.assert_told(&["has no via that could call a telephone number"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}
