//! A reload that takes a source off the list. What the removed side sees: a BYE for each of its calls with the reason, then the end
//! of each of its connections, and from then on no byte. Behind XDP its packets are dropped from the reload on, so its
//! answers to the BYE are not heard any more, and nothing waits for them.

use super::veth::{addresses, on_veth};
use super::{is_served, rewrite};
use crate::harness::parties::{agent_answers, caller};
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::tunnel::{Service, Tunnel, have_stunnel};
use crate::harness::wire::header;
use crate::harness::{
    Conversation, Counted, Edge, EdgeConfig, Net, Scene, Sipp, Wire, have_sipp, wait,
};
use crate::tls::Secure;
use crate::traffic::{knock, until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

const REASON: &str = "SIP;cause=403;text=\"access_removed\"";

/// The agents call a platform of their own, which has the stranger's address.
fn with_others(net: &Net, config: EdgeConfig) -> EdgeConfig {
    let (spare, host) = (net.stranger, Net::host(net.stranger));
    EdgeConfig {
        tail: format!(
            "{}\n[[route]]\nfrom = \"agents\"\nnumber = \"*\"\nto = \"spare\"\n\
             [[trunk]]\nname = \"spare\"\nallow = [\"{spare}\"]\nuri = \"sip:{host}:5090;transport=tcp\"\n",
            config.tail
        ),
        ..config
    }
}

/// A call of two other sources, all of whose packets are counted, and a connection of one of them.
struct Others {
    caller: Sipp,
    platform: Sipp,
    talk: Conversation,
    idle: Wire,
}

impl Others {
    fn call(scene: &Scene) -> Others {
        let net = &scene.net;
        let (one, other) = (Counted::bind(net.human), Counted::bind(net.stranger));
        let agent = agent_answers(other.address());
        let at = SocketAddr::new(net.stranger, 5090);
        let platform = scene.called("others-platform", &agent, at);
        let at = SocketAddr::new(net.human, 5066);
        let caller = scene.calls("others-caller", &caller(one.address()), at);
        let talk = Conversation::begins(
            (one, caller.remote_media()),
            (other, platform.remote_media()),
        );
        talk.is_up();
        let mut idle = Wire::connect(net.human, scene.edge.sip);
        is_served(&mut idle, scene.edge.sip);
        Others {
            caller,
            platform,
            talk,
            idle,
        }
    }

    /// Nothing happened to them: no packet is missing, and their call ends as they wish.
    fn noticed_nothing(mut self, scene: &Scene) {
        self.talk.goes_on(25);
        // Where the kernel may be passed by, it is, also beside XDP. Nothing leaves so for peers on loopback.
        if !scene.edge.sip.ip().is_loopback() && sip_edge::media::link::sender::probe().is_ok() {
            wait::until("packets leave past the kernel's IP", || {
                self.talk.goes_on(5);
                let metrics = scene.edge.metrics();
                let mut lines = metrics.lines();
                let sent = |line: &str| {
                    let counter = line.strip_prefix("sip_edge_rtp_link_packets_total{")?;
                    counter.split_once(' ')?.1.parse::<f64>().ok()
                };
                lines.any(|line| sent(line) > Some(0.0)).then_some(())
            });
        }
        is_served(&mut self.idle, scene.edge.sip);
        self.talk.ends();
        self.platform.cue("ACK");
        self.platform.passes();
        self.caller.passes();
        let lines = scene.edge.cdrs(4);
        for trunk in ["agents", "spare"] {
            assert_eq!(leg(&lines, trunk)["cause"], "completed");
        }
    }
}

/// The CDR line of the only leg of a trunk.
fn leg<'a>(lines: &'a [Value], trunk: &str) -> &'a Value {
    let mut legs = lines.iter().filter(|line| line["trunk"] == trunk);
    match (legs.next(), legs.next()) {
        (Some(leg), None) => leg,
        _ => panic!("not one leg of {trunk}: {lines:#?}"),
    }
}

/// Which side of the call is removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removed {
    Caller,
    Platform,
}

impl Removed {
    fn address(self, net: &Net) -> IpAddr {
        match self {
            Removed::Caller => net.carrier,
            Removed::Platform => net.ai,
        }
    }

    /// Another address takes its place, on the list and as what is called.
    fn leaves(self, scene: &Scene) {
        let old = self.address(&scene.net);
        let (mask, new) = match old {
            IpAddr::V4(_) => (32, "192.0.2.99"),
            IpAddr::V6(_) => (128, "2001:db8::99"),
        };
        let new = new.parse().expect("an address");
        let allow = |ip: IpAddr| format!("allow = [\"{ip}/{mask}\"]");
        let uri = |ip: IpAddr| format!("uri = \"sip:{}:", Net::host(ip));
        let changes = [(allow(old), allow(new)), (uri(old), uri(new))];
        rewrite(&scene.edge, &changes);
    }
}

/// SIGHUP, until it is in force.
fn by_signal(edge: &Edge) {
    let before = edge.reloads();
    edge.signal(Signal::HUP);
    wait::until("the reload", || (edge.reloads() > before).then_some(()));
}

/// A call between carrier and platform, of which one is removed, beside a call of others. Calls come in at `entrance`.
fn loses_its_call(
    scene: &Scene,
    removed: Removed,
    entrance: SocketAddr,
    caller: &Scenario,
    reload: impl Fn(&Edge),
) {
    let others = Others::call(scene);
    let platform = Scenario::new()
        .recv_invite()
        .respond_invite("200 OK", "", &sdp(scene.ai.address))
        .recv_request("ACK")
        .recv_request("BYE")
        .respond("200 OK", "", "");
    let mut platform = scene.ai_answers(&platform);
    let at = SocketAddr::new(scene.net.carrier, 5062);
    let mut caller = scene.sipp("carrier", caller, at, Some(entrance), &[]);
    let (one, other) = (&scene.carrier, &scene.ai);
    scene.talk((one, &caller), (other, &platform));
    // Connections without a call: one to where the calls are, and one that is not in use at all.
    let source = removed.address(&scene.net);
    let mut idle = vec![Wire::connect(source, scene.edge.sip)];
    is_served(&mut idle[0], scene.edge.sip);
    if entrance != scene.edge.sip {
        idle.push(Wire::connect(source, entrance));
        is_served(&mut idle[1], entrance);
    }

    removed.leaves(scene);
    reload(&scene.edge);
    for party in [&caller, &platform] {
        let bye = party.until_received("BYE", |message| message.starts_with("BYE "));
        assert_eq!(header(&bye, "Reason"), Some(REASON), "{bye}");
    }
    for wire in &mut idle {
        assert_eq!((wire.next(), wire.rest()), (None, &b""[..]));
    }
    match removed {
        Removed::Caller => platform.passes(),
        Removed::Platform => caller.passes(),
    }
    is_reported(scene);
    // Nothing crosses any more, though both go on talking; what was on its way has arrived in the meantime.
    others.talk.goes_on(5);
    let heard = || (one.heard(other.voice), other.heard(one.voice));
    let before = heard();
    others.talk.goes_on(25);
    assert_eq!(heard(), before);
    others.noticed_nothing(scene);
}

fn is_reported(scene: &Scene) {
    let lines = scene.edge.cdrs(2);
    for trunk in ["carrier", "ai"] {
        let leg = leg(&lines, trunk);
        assert_eq!(leg["cause"], "access_removed");
        assert_eq!(leg["hangup_by"], "edge");
        assert_eq!(leg["sip_status"], 200);
    }
    let call = leg(&lines, "carrier")["call"].as_str().expect("an id");
    let story = scene.edge.timeline(call);
    let told = "access this peer is not listed any more access_removed";
    assert!(story.iter().any(|entry| entry == told), "{story:#?}");
    for series in [
        "sip_edge_calls_total{cause=\"access_removed\",direction=\"inbound\",trunk=\"carrier\"}",
        "sip_edge_calls_total{cause=\"access_removed\",direction=\"outbound\",trunk=\"ai\"}",
    ] {
        wait::until(series, || scene.edge.metric(series).filter(|n| *n == 1.0));
    }
}

/// What a source gets that userspace alone refuses: a connection that is closed without a byte.
fn is_refused(scene: &Scene, source: IpAddr) {
    let mut again = Wire::connect(source, scene.edge.sip);
    assert_eq!((again.next(), again.rest()), (None, &b""[..]));
}

/// What it gets behind XDP: nothing at all, and its RTP is dropped, too.
fn is_dropped(scene: &Scene, source: IpAddr) {
    let count = |listener: &str, reason: &str| {
        let series = format!(
            "sip_edge_access_dropped_packets_total{{listener=\"{listener}\",reason=\"{reason}\"}}"
        );
        scene.edge.metric(&series).unwrap_or(0.0)
    };
    let before = count("public", "unlisted");
    let from = SocketAddr::new(source, 0).to_string();
    let socket = knock(&from, &scene.edge.sip.to_string());
    until("the SYN is dropped", || {
        count("public", "unlisted") > before
    });
    assert!(socket.take_error().expect("a socket").is_none());
    let fault = socket.peer_addr().expect_err("not connected");
    assert_eq!(fault.kind(), ErrorKind::NotConnected);
    let before = count("media", "unallocated");
    until("RTP of the ended call is dropped", || {
        count("media", "unallocated") > before
    });
}

#[test]
fn a_caller_that_a_signal_removes_is_told_and_cut_off() {
    if !have_sipp() {
        return;
    }
    let net = Net::v4();
    let config = with_others(&net, EdgeConfig::default());
    let scene = Scene::new(net, &config);
    let calls = caller(scene.carrier.address);
    loses_its_call(&scene, Removed::Caller, scene.edge.sip, &calls, by_signal);
    is_refused(&scene, scene.net.carrier);
}

#[test]
fn a_platform_that_the_api_removes_is_told_and_cut_off() {
    if !have_sipp() {
        return;
    }
    let net = Net::v4();
    let config = with_others(&net, EdgeConfig::default());
    let scene = Scene::new(net, &config);
    let calls = caller(scene.carrier.address);
    loses_its_call(
        &scene,
        Removed::Platform,
        scene.edge.sip,
        &calls,
        Edge::reload,
    );
    is_refused(&scene, scene.net.ai);
}

#[test]
fn a_caller_over_tls_that_is_removed_is_told_and_cut_off() {
    if !have_sipp() || !have_stunnel() {
        return;
    }
    let secure = Secure::new(Net::v4());
    let carrier = secure.net.carrier;
    let entrance = SocketAddr::new(carrier, 5064);
    let front = Service::client(entrance, secure.listener(), &secure.pki.ca, None);
    let _tunnel = Tunnel::start(secure.dir.path(), "front", &[front]);
    let config = EdgeConfig {
        carrier_uri: Some(format!("\"sip:{carrier}:5065;transport=tls\"")),
        carrier: secure.trunk(),
        ..secure.config()
    };
    let config = with_others(&secure.net, config);
    let scene = Scene::with(secure.net, secure.dir, &config);
    let contact = format!("sip:caller@{carrier}:5065;transport=tls");
    let calls = caller(scene.carrier.address).behind_tls(&contact, SocketAddr::new(carrier, 5065));
    loses_its_call(&scene, Removed::Caller, entrance, &calls, by_signal);
    is_refused(&scene, carrier);
}

#[test]
fn behind_native_xdp_a_removed_callers_packets_are_dropped_from_the_reload_on() {
    let test = "behind_native_xdp_a_removed_callers_packets_are_dropped_from_the_reload_on";
    let config = with_others(&addresses(true), EdgeConfig::default());
    let access = "interfaces = [\"edge0\"]\nmode = \"native\"";
    on_veth(test, true, config, access, |scene, _| {
        let calls = caller(scene.carrier.address);
        loses_its_call(scene, Removed::Caller, scene.edge.sip, &calls, by_signal);
        is_dropped(scene, scene.net.carrier);
    });
}

#[test]
fn behind_generic_xdp_a_removed_platforms_packets_are_dropped_from_the_reload_on() {
    let test = "behind_generic_xdp_a_removed_platforms_packets_are_dropped_from_the_reload_on";
    let config = with_others(&addresses(false), EdgeConfig::default());
    let access = "interfaces = [\"edge0\"]\nmode = \"generic\"";
    on_veth(test, false, config, access, |scene, _| {
        let calls = caller(scene.carrier.address);
        loses_its_call(
            scene,
            Removed::Platform,
            scene.edge.sip,
            &calls,
            Edge::reload,
        );
        is_dropped(scene, scene.net.ai);
    });
}
