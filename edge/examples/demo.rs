//! `make demo`: the main job between real SIPp endpoints on loopback, with config/demo.toml.
//!
//! One call is answered by the AI agent, which REFERs it with a digest challenge; the human answers after a 407; caller and
//! human hear each other and the AI hears nothing. Each party's RTP carries a payload of its own. Ends with status 0 only if
//! all of that was seen.

#[path = "../tests/calls/harness/mod.rs"]
mod harness;

use harness::parties::{agent_refers_as, caller, human, until_released};
use harness::{Edge, Net, RtpParty, Sipp, have_sipp};
use std::net::SocketAddr;
use std::path::Path;

fn main() {
    if !have_sipp() {
        eprintln!("the demo needs SIPp: apt install sip-tester");
        std::process::exit(1);
    }
    let net = Net::demo();
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let edge = start(&net, dir.path());
    step("sip-edge is ready on loopback with config/demo.toml");

    let voices = [
        RtpParty::new(net.carrier, 0xc1),
        RtpParty::new(net.ai, 0xa1),
        RtpParty::new(net.human, 0x41),
    ];
    let [carrier_rtp, ai_rtp, human_rtp] = &voices;
    let (ai_at, human_at) = (
        SocketAddr::new(net.ai, 5070),
        SocketAddr::new(net.human, 5060),
    );
    let human = human(human_rtp.address)
        .pause(2000)
        .callee_request("BYE", 20, "", "")
        .recv(200);
    let mut human =
        Sipp::start(dir.path(), "human", &human, human_at, None, &[]).listening(human_at);
    let agent = agent_refers_as(
        ai_rtp.address,
        "sip:+1234567890@edge.example.net",
        1000,
        "ai",
        "demo-ai",
    );
    let auth_uri = format!("edge@{};transport=tcp", edge.sip);
    let mut ai = Sipp::start(
        dir.path(),
        "ai",
        &until_released(agent, 3),
        ai_at,
        None,
        &["-auth_uri", &auth_uri],
    )
    .listening(ai_at);
    let carrier_at = SocketAddr::new(net.carrier, 5062);
    let mut carrier = Sipp::start(
        dir.path(),
        "carrier",
        &caller(carrier_rtp.address),
        carrier_at,
        Some(edge.sip),
        &[],
    );

    carrier_rtp.speak_to(carrier.remote_media());
    ai_rtp.speak_to(ai.remote_media());
    carrier_rtp.hears(ai_rtp, 5);
    ai_rtp.hears(carrier_rtp, 5);
    step("the call is answered: caller and AI agent hear each other");

    ai.until_received("the challenge", |m| m.starts_with("SIP/2.0 401"));
    step("the AI agent's REFER was challenged with 401");
    ai.until_received("202", |m| m.starts_with("SIP/2.0 202"));
    step("with credentials it was accepted with 202");
    human.until_received("credentials", |m| {
        m.starts_with("INVITE") && m.contains("Proxy-Authorization")
    });
    step("the human's side challenged with 407 and got credentials");

    human_rtp.speak_to(human.remote_media());
    carrier_rtp.hears(human_rtp, 5);
    human_rtp.hears(carrier_rtp, 5);
    let ai_heard = ai_rtp.heard_anything();
    carrier_rtp.hears(human_rtp, 25);
    human_rtp.hears(carrier_rtp, 25);
    assert_eq!(
        ai_rtp.heard_anything(),
        ai_heard,
        "the AI hears nothing any more"
    );
    assert_eq!(
        human_rtp.heard(ai_rtp.voice),
        0,
        "the human never hears the AI"
    );
    step("caller and human hear each other, the AI agent hears nothing");

    ai.passes();
    step("the AI agent was told 100, 180 and 200 by NOTIFY, then released");
    human.passes();
    carrier.passes();
    step("the human hung up, and so the caller's leg ended");

    report(&edge);
    println!("\ndemo: everything was observed");
}

/// An edge with config/demo.toml: one of its own, or (`demo --running CDR TOKEN`, for the packages' smoke test) one that runs
/// already, with these files.
fn start(net: &Net, dir: &Path) -> Edge {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, cdr, token] = arguments.as_slice()
        && option == "--running"
    {
        return Edge::attach(net, dir, cdr.into(), token.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Where config/demo.toml has them. The demo's own line count starts at none.
    let cdr = root.join("target/demo-cdr.jsonl");
    let token = root.join("target/demo-admin.token");
    let _ = std::fs::remove_file(&cdr);
    Edge::run(net, dir, &root.join("config/demo.toml"), cdr, token)
}

/// Prints timeline and CDR, and checks that they tell the same story.
fn report(edge: &Edge) {
    let lines = edge.cdrs(3);
    let call = lines[0]["call"].as_str().expect("a call id");
    let timeline = edge.timeline(call);
    println!("\ntimeline of call {call}:");
    for entry in &timeline {
        println!("  {entry}");
    }
    println!("\nCDR:");
    for line in &lines {
        println!("{line}");
    }
    assert!(lines.iter().all(|line| line["call"] == call), "one call");
    assert!(
        lines
            .iter()
            .any(|line| line["transfer"]["result"] == "completed"),
        "the transfer completed"
    );
    assert!(
        timeline.iter().any(|entry| entry.contains("REFER")),
        "the timeline shows the REFER"
    );
}

fn step(what: &str) {
    println!("ok  {what}");
}
