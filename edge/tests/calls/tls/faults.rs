//! Certificates that must not be accepted, of servers that we call and of clients that call us.

use super::Secure;
use crate::harness::parties::{agent_answers, caller_refused};
use crate::harness::pki::Issued;
use crate::harness::tunnel::{Service, have_stunnel};
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Net, Pki, Scene, Tunnel, Wire, have_sipp};
use std::net::SocketAddr;

/// A call to a platform that shows a certificate which must be refused. Nothing is sent to it, and the timeline names the fault.
fn is_refused(uri: &str, show: impl FnOnce(&Secure, SocketAddr) -> Issued, fault: &str) {
    if !have_sipp() || !have_stunnel() {
        return;
    }
    let secure = Secure::new(Net::v4());
    let ai_tls = SocketAddr::new(secure.net.ai, 5071);
    let ai_plain = SocketAddr::new(secure.net.ai, 5070);
    let shown = show(&secure, ai_tls);
    let _tunnel = Tunnel::start(
        secure.dir.path(),
        "front",
        &[Service::server(ai_tls, ai_plain, &shown, None)],
    );
    let usual = secure.config();
    let config = EdgeConfig {
        ai: format!("{}{}", secure.trunk(), usual.ai),
        ai_uri: Some(format!("\"{}\"", uri.replace("AT", &ai_tls.to_string()))),
        ..usual
    };
    let scene = Scene::with(secure.net, secure.dir, &config);
    let ai = scene.ai_answers(&agent_answers(scene.ai.address));
    let mut carrier = scene.carrier_calls(&caller_refused(scene.carrier.address, 502));
    carrier.passes();
    let refusal = carrier.until_received("the refusal", |m| m.starts_with("SIP/2.0 502"));
    assert!(
        header(&refusal, "Reason").is_some_and(|r| r.contains("unreachable")),
        "{refusal}"
    );
    assert_eq!(ai.trace(), "", "the platform gets nothing");
    let story = scene.story(2);
    for trunk in ["carrier", "ai"] {
        assert_eq!(story.leg(trunk)["cause"], "unreachable");
    }
    story.tells(&["TLS failed", "call_ended the call is over unreachable"]);
    story.tells(&[fault]);
}

#[test]
fn an_expired_certificate_is_refused() {
    is_refused(
        "sip:AT;transport=tls",
        |secure, at| {
            secure.pki.issue("expired", &at.ip().to_string(), |params| {
                params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            })
        },
        "certificate expired at 2021-01-01",
    );
}

#[test]
fn a_self_signed_certificate_is_refused() {
    is_refused(
        "sips:AT",
        |secure, at| Issued::self_signed(secure.dir.path(), "own", &at.ip().to_string()),
        "certificate has an unknown issuer",
    );
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    is_refused(
        "sip:AT;transport=tls",
        |secure, _| secure.pki.issue("other", "other.example.net", |_| {}),
        "(it names other.example.net)",
    );
}

/// Asks over a tunnel that shows `own`, and gives the first line of the answer; `None`: closed without any.
fn asks(
    scene: &Scene,
    secure: (&Pki, SocketAddr),
    name: &str,
    own: Option<&Issued>,
) -> Option<String> {
    let (pki, listener) = secure;
    let port = 5064 + name.len() as u16;
    let entrance = SocketAddr::new(scene.net.carrier, port);
    let service = Service::client(entrance, listener, &pki.ca, own);
    let _tunnel = Tunnel::start(scene.dir.path(), name, &[service]);
    let mut wire = Wire::connect(scene.net.carrier, entrance);
    wire.send(
        &format!(
            "OPTIONS sip:{listener} SIP/2.0
             Via: SIP/2.0/TLS {entrance};branch=z9hG4bKprobe
             Max-Forwards: 70
             From: <sip:probe@{entrance}>;tag=1
             To: <sip:{listener}>
             Call-ID: probe
             CSeq: 1 OPTIONS"
        ),
        "",
    );
    let answer = wire.next();
    assert_eq!(wire.rest(), b"");
    answer.and_then(|m| m.lines().next().map(str::to_owned))
}

#[test]
fn a_listener_with_client_ca_serves_nobody_without_its_certificate() {
    if !have_sipp() || !have_stunnel() {
        return;
    }
    let secure = Secure::new(Net::v4());
    let clients = Pki::new(secure.dir.path(), "clients");
    let demand = format!("client_ca = {}", super::quoted(&clients.ca));
    let config = EdgeConfig {
        tail: secure.listen(&demand),
        ..EdgeConfig::default()
    };
    let listed = clients.issue("listed", "carrier.example.net", |_| {});
    let foreign = secure.pki.issue("foreign", "carrier.example.net", |_| {});
    let listener = secure.listener();
    let Secure { net, dir, pki, .. } = secure;
    let scene = Scene::with(net, dir, &config);
    let with = |name, own| asks(&scene, (&pki, listener), name, own);
    assert_eq!(with("a", Some(&listed)).as_deref(), Some("SIP/2.0 200 OK"));
    assert_eq!(with("bb", None), None);
    assert_eq!(with("ccc", Some(&foreign)), None);
    for fault in [
        "TLS failed: peer showed no certificate",
        "TLS failed: certificate has an unknown issuer",
    ] {
        scene.edge.until_logged(fault);
    }
}
