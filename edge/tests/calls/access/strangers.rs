//! Sources that no trunk lists, on the signalling side and on media ports.

use super::{is_served, options};
use crate::harness::parties::{agent_answers, caller};
use crate::harness::{EdgeConfig, Net, RtpParty, Scene, Wire, have_sipp, wait};
use std::net::SocketAddr;

#[test]
fn a_source_that_no_trunk_lists_gets_no_byte_and_a_closed_connection() {
    if !have_sipp() {
        return;
    }
    let scene = Scene::new(Net::v4(), &EdgeConfig::default());
    let dropped = r#"sip_edge_access_dropped_packets_total{listener="public",reason="unlisted"}"#;
    let count = || scene.edge.metric(dropped).unwrap_or(0.0);
    assert_eq!(count(), 0.0);
    for attempt in 1..=3u32 {
        let mut stranger = Wire::connect(scene.net.stranger, scene.edge.sip);
        options(&mut stranger, scene.edge.sip);
        assert_eq!(stranger.next(), None, "no message");
        assert_eq!(stranger.rest(), b"", "no byte");
        wait::until("the refusal is counted", || {
            (count() == f64::from(attempt)).then_some(())
        });
    }
    let told = format!("{} dropped at listener public", scene.net.stranger);
    scene.edge.until_logged(&told);
    // One that is closed without having asked anything.
    let mut silent = Wire::connect(scene.net.stranger, scene.edge.sip);
    assert_eq!((silent.next(), silent.rest()), (None, &b""[..]));
    // The listed ones do not suffer.
    let mut listed = Wire::connect(scene.net.carrier, scene.edge.sip);
    is_served(&mut listed, scene.edge.sip);
    let asked = || -> Vec<String> {
        let metrics = scene.edge.metrics();
        let lines = metrics.lines().map(str::to_owned);
        lines
            .filter(|l| l.starts_with("sip_edge_sip_requests_total{"))
            .collect()
    };
    let asked = wait::until("the request is counted", || {
        Some(asked()).filter(|lines| !lines.is_empty())
    });
    assert_eq!(
        asked.len(),
        1,
        "strangers' requests are never read: {asked:?}"
    );
}

/// Attacks a leg's ports with a voice of its own until dropped.
struct Stranger {
    rtp: RtpParty,
}

impl Stranger {
    fn attacks(scene: &Scene, voice: u8, target: SocketAddr) -> Stranger {
        let rtp = RtpParty::new(scene.net.stranger, voice);
        rtp.speak_to(target);
        Stranger { rtp }
    }
}

#[test]
fn a_strangers_rtp_is_never_heard_before_during_or_after_latching() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut ai = scene.ai_answers(&agent_answers(scene.ai.address));
    let mut carrier = scene.carrier_calls(&caller(scene.carrier.address));
    let (caller, agent) = (&scene.carrier, &scene.ai);
    // Before anybody spoke: both legs' ports are attacked by two voices, from the moment they are known.
    let to_caller_leg = carrier.remote_media();
    let to_agent_leg = ai.remote_media();
    let one = Stranger::attacks(&scene, 0xe1, to_caller_leg);
    let other = Stranger::attacks(&scene, 0xe2, to_agent_leg);
    let strangers = || {
        let count = scene
            .edge
            .metric(r#"sip_edge_rtp_dropped_total{core="0",reason="stranger"}"#);
        count.unwrap_or(0.0)
    };
    wait::until("strangers come first", || {
        (strangers() >= 10.0).then_some(())
    });
    assert_eq!(caller.heard_anything() + agent.heard_anything(), 0);
    // During: the legs' own peers start while the attack goes on. It has not taken their places.
    scene.talk((caller, &carrier), (agent, &ai));
    // After: and goes on.
    caller.hears(agent, 25);
    agent.hears(caller, 25);
    ai.cue("ACK");
    ai.passes();
    carrier.passes();
    for party in [caller, agent] {
        for stranger in [&one, &other] {
            assert_eq!(
                party.heard(stranger.rtp.voice),
                0,
                "{:#x}",
                stranger.rtp.voice
            );
        }
    }
    assert_eq!(
        one.rtp.heard_anything() + other.rtp.heard_anything(),
        0,
        "nor do they hear anything"
    );
    let story = scene.story(2);
    let counted: u64 = ["carrier", "ai"]
        .iter()
        .filter_map(|trunk| story.leg(trunk)["media"]["strangers"].as_u64())
        .sum();
    assert!(counted >= 10, "{story:#?}");
    for (trunk, peer) in [("carrier", scene.net.carrier), ("ai", scene.net.ai)] {
        assert_eq!(story.leg(trunk)["cause"], "completed");
        story.tells(&[&format!(
            "first_rtp first RTP packet of this leg's peer, from {peer}"
        )]);
    }
    story.never_tells(&scene.net.stranger.to_string());
}
