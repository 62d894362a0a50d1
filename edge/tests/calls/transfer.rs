//! The main job, between processes.

use crate::harness::parties::{agent_refers, caller, human, until_released};
use crate::harness::{Edge, EdgeConfig, Net, RtpParty, Sipp, have_sipp};
use std::net::SocketAddr;
use tempfile::TempDir;

#[test]
fn success_caller_and_human_hear_each_other_and_the_ai_hears_nothing() {
    if !have_sipp() {
        return;
    }
    let net = Net::v4();
    let dir = TempDir::new().expect("a directory");
    let edge = Edge::start(&net, dir.path(), &EdgeConfig::default());
    let (carrier_rtp, ai_rtp, human_rtp) = (
        RtpParty::new(net.carrier, 0xc1),
        RtpParty::new(net.ai, 0xa1),
        RtpParty::new(net.human, 0x41),
    );
    let ai_at = SocketAddr::new(net.ai, 5070);
    let human_at = SocketAddr::new(net.human, 5080);
    let mut human = Sipp::start(
        dir.path(),
        "human",
        &human(human_rtp.address)
            .pause(1500)
            .callee_request("BYE", 20, "", "")
            .recv(200),
        human_at,
        None,
        &[],
    )
    .listening(human_at);
    let agent = agent_refers(ai_rtp.address, "sip:+1234567890@edge.example.net", 1000);
    let agent = until_released(agent, 3);
    let auth_uri = format!("edge@{};transport=tcp", edge.sip);
    let mut ai = Sipp::start(
        dir.path(),
        "ai",
        &agent,
        ai_at,
        None,
        &["-auth_uri", &auth_uri],
    )
    .listening(ai_at);
    let mut carrier = Sipp::start(
        dir.path(),
        "carrier",
        &caller(carrier_rtp.address),
        SocketAddr::new(net.carrier, 5062),
        Some(edge.sip),
        &[],
    );
    carrier_rtp.speak_to(carrier.remote_media());
    ai_rtp.speak_to(ai.remote_media());
    carrier_rtp.hears(&ai_rtp, 5);
    ai_rtp.hears(&carrier_rtp, 5);
    human_rtp.speak_to(human.remote_media());
    carrier_rtp.hears(&human_rtp, 5);
    human_rtp.hears(&carrier_rtp, 5);
    let ai_heard = ai_rtp.heard_anything();
    carrier_rtp.hears(&human_rtp, 25);
    human_rtp.hears(&carrier_rtp, 25);
    assert_eq!(ai_rtp.heard_anything(), ai_heard, "the AI hears nothing");
    assert_eq!(
        human_rtp.heard(ai_rtp.voice),
        0,
        "the human never hears the AI"
    );
    ai.passes();
    human.passes();
    carrier.passes();
    let lines = edge.cdrs(3);
    let leg = |trunk: &str| {
        lines
            .iter()
            .find(|line| line["trunk"] == trunk)
            .expect("a CDR line")
    };
    assert_eq!(leg("agents")["transfer"]["result"], "completed");
    assert_eq!(leg("agents")["cause"], "completed");
    assert_eq!(leg("ai")["refers"].as_array().map(Vec::len), Some(2));
    let call = leg("carrier")["call"].as_str().expect("a call id");
    assert!(lines.iter().all(|line| line["call"] == call));
    let timeline = edge.timeline(call).join("\n");
    for wanted in ["REFER", "202", "407", "NOTIFY"] {
        assert!(timeline.contains(wanted), "{wanted} in:\n{timeline}");
    }
}
