//! The main job with stunnel in front of each SIPp: no leg of the call is in the clear.

use super::Secure;
use crate::harness::main_job::MainJob;
use crate::harness::tunnel::{Service, have_stunnel};
use crate::harness::{EdgeConfig, Net, Scene, Story, Tunnel, have_sipp};
use std::net::{IpAddr, SocketAddr};

#[test]
fn success_over_tls_in_both_directions() {
    if !have_sipp() || !have_stunnel() {
        return;
    }
    let secure = Secure::new(Net::v4());
    let at = SocketAddr::new;
    let (carrier, ai, human) = (secure.net.carrier, secure.net.ai, secure.net.human);
    let (ai_tls, human_tls) = (at(ai, 5071), at(human, 5081));
    let entrance = at(carrier, 5064);
    let tunnel = Tunnel::start(
        secure.dir.path(),
        "front",
        &[
            Service::client(entrance, secure.listener(), &secure.pki.ca, None),
            // The platform demands a certificate from us as well.
            Service::server(
                ai_tls,
                at(ai, 5070),
                &secure.peer("ai", ai_tls),
                Some(&secure.pki.ca),
            ),
            Service::server(
                human_tls,
                at(human, 5080),
                &secure.peer("human", human_tls),
                None,
            ),
        ],
    );
    let usual = secure.config();
    let tls_only = |keys: &str| format!("listen = [\"secure\"]\n{}{keys}", secure.trunk());
    let config = EdgeConfig {
        carrier: "listen = [\"secure\"]".to_owned(),
        ai: tls_only(&usual.ai),
        agents: tls_only(&usual.agents),
        ai_uri: Some(format!("\"sip:{ai_tls};transport=tls\"")),
        agents_uri: Some(format!("\"sips:{human_tls}\"")),
        carrier_uri: Some(format!("\"sip:{carrier}:5065;transport=tls\"")),
        ..usual
    };
    let scene = Scene::with(secure.net, secure.dir, &config);
    let mut job = MainJob::over_tcp(&scene);
    job.caller = job
        .caller
        .behind_tls(&format!("sips:caller@{carrier}:5065"), at(carrier, 5065));
    job.agent = job
        .agent
        .behind_tls(&format!("sip:agent@{ai_tls};transport=tls"), ai_tls);
    job.human = job
        .human
        .behind_tls(&format!("sips:person@{human_tls}"), human_tls);
    job.entrance = entrance;
    job.contact = format!("edge@{}:5061;transport=tls", scene.net.edge);
    let story = job.plays(&scene);
    drop(tunnel);
    // RFC 3261 §12.1.1: who is called by sips: is reached by sips:.
    let messages = |name: &str| {
        let file = scene.dir.path().join(format!("{name}.messages"));
        std::fs::read_to_string(file).expect("what SIPp traced")
    };
    let ours = |scheme: &str| format!("Contact: <{scheme}:edge@{}:5061", scene.net.edge);
    for (party, scheme, other) in [
        ("carrier", "sips", "sip"),
        ("ai", "sip", "sips"),
        ("human", "sips", "sip"),
    ] {
        let messages = messages(party);
        assert!(messages.contains(&ours(scheme)), "{party}: {messages}");
        assert!(!messages.contains(&ours(other)), "{party}: {messages}");
    }
    is_from(
        &story,
        [("carrier", carrier), ("ai", ai), ("agents", human)],
    );
}

fn is_from(story: &Story, sources: [(&str, IpAddr); 3]) {
    for (trunk, ip) in sources {
        let source: SocketAddr = story.leg(trunk)["source"]
            .as_str()
            .and_then(|s| s.parse().ok())
            .expect("an address");
        assert_eq!(source.ip(), ip);
    }
}
