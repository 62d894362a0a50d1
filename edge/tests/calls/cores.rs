//! Several cores: a call belongs to one of them, and what concerns it may arrive at any.

use crate::harness::digest::authorization;
use crate::harness::main_job::MainJob;
use crate::harness::parties::{caller, hangs_up_at_cue};
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::sipp::media_of;
use crate::harness::wire::{header, response_to};
use crate::harness::{EdgeConfig, Net, Scene, Wire, have_sipp, wait};
use std::net::{SocketAddr, TcpListener};

fn two_cores() -> EdgeConfig {
    let usual = EdgeConfig::default();
    EdgeConfig {
        edge: usual.edge.replace("[0]", "[0, 1]"),
        ..usual
    }
}

/// Says aloud when this machine has one core only.
fn have_two_cores() -> bool {
    let two = std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2);
    if !two {
        eprintln!("SKIPPED: this machine has one core");
    }
    two
}

/// The core in a tag that the edge minted: its first two hex digits.
fn core_of(value: &str) -> String {
    let tag = value.split(";tag=").nth(1).expect("a tag");
    tag.get(..2).expect("a core").to_owned()
}

/// Which core accepted this connection: what cannot be read is refused where it arrives, and the tag of the 400 names the core.
fn accepted_by(wire: &mut Wire, edge: SocketAddr) -> String {
    let local = wire.local();
    wire.send(
        &format!(
            "OPTIONS sip:{edge} SIP/2.0
             Via: SIP/2.0/TCP {local};branch=z9hG4bKwhere
             Max-Forwards: 70
             From: <sip:probe@{local}>;tag=1
             To: <sip:{edge}>
             Call-ID: where
             CSeq: 1 INVITE"
        ),
        "",
    );
    let refusal = wire.next_of("SIP/2.0 400");
    core_of(header(&refusal, "To").expect("a To"))
}

/// A connection that another core than `owner` accepted.
fn connection_of_another_core(scene: &Scene, owner: &str) -> Wire {
    let mut tried = Vec::new();
    wait::until("the other core accepts a connection", || {
        let mut wire = Wire::connect(scene.net.ai, scene.edge.sip);
        let core = accepted_by(&mut wire, scene.edge.sip);
        if core != owner {
            return Some(wire);
        }
        // Kept open, so that the next one comes from another port.
        tried.push(wire);
        None
    })
}

#[test]
fn a_refer_over_another_cores_connection_transfers_the_call() {
    if !have_sipp() || !have_two_cores() {
        return;
    }
    let scene = Scene::new(Net::v4(), &two_cores());
    let human = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .await_cue()
        .respond_invite("200 OK", "", &sdp(scene.human.address))
        .recv_request("ACK");
    let mut human = scene.human_answers(&hangs_up_at_cue(human));
    let listener = TcpListener::bind((scene.net.ai, 5070)).expect("the agent's port");
    let mut carrier = scene.carrier_calls(&caller(scene.carrier.address));

    let mut agent = Wire::accept(&listener);
    let invite = agent.next_of("INVITE ");
    let contact = format!("Contact: <sip:agent@{}:5070;transport=tcp>", scene.net.ai);
    let answer = response_to(&invite, "200 OK", "agent");
    agent.send(&format!("{answer}\n{contact}"), &sdp(scene.ai.address));
    agent.next_of("ACK ");
    scene.carrier.speak_to(carrier.remote_media());
    scene.ai.speak_to(media_of(&invite).expect("SDP"));
    scene.carrier.hears(&scene.ai, 5);
    scene.ai.hears(&scene.carrier, 5);

    let from = header(&invite, "From").expect("a From");
    let mut fresh = connection_of_another_core(&scene, &core_of(from));
    let before = handoffs(&scene);
    let target = header(&invite, "Contact").expect("a Contact");
    let target = target.trim_start_matches('<').trim_end_matches('>');
    let refer = |cseq: u32, credentials: &str| {
        format!(
            "REFER {target} SIP/2.0
             Via: SIP/2.0/TCP {};branch=z9hG4bKrefer{cseq}
             Max-Forwards: 70
             From: {};tag=agent
             To: {from}
             Call-ID: {}
             CSeq: {cseq} REFER
             {contact}
             Refer-To: <sip:+1234567890@edge.example.net>
             {credentials}",
            scene.net.ai,
            header(&invite, "To").expect("a To"),
            header(&invite, "Call-ID").expect("a Call-ID"),
        )
    };
    fresh.send(&refer(1, ""), "");
    let challenge = fresh.next_of("SIP/2.0 401");
    let credentials = authorization(&challenge, "REFER", target, "trunk-user", "s3cret");
    fresh.send(&refer(2, &format!("Authorization: {credentials}")), "");
    fresh.next_of("SIP/2.0 202");
    // Both requests went to the owner, and both answers came back.
    assert!(handoffs(&scene) >= before + 4.0);

    // The dialog has moved to that connection: the agent is told there, and released.
    for status in ["SIP/2.0 100", "SIP/2.0 180", "SIP/2.0 200"] {
        let notify = fresh.next_of("NOTIFY ");
        assert!(notify.contains(status), "{notify}");
        fresh.send(&response_to(&notify, "200 OK", ""), "");
        if status.ends_with("180") {
            human.cue("SIP/2.0 180");
        }
    }
    let bye = fresh.next_of("BYE ");
    fresh.send(&response_to(&bye, "200 OK", ""), "");

    scene.human.speak_to(human.remote_media());
    scene.carrier.hears(&scene.human, 5);
    scene.human.hears(&scene.carrier, 5);
    let heard = scene.ai.heard_anything();
    scene.human.hears(&scene.carrier, 20);
    assert_eq!(scene.ai.heard_anything(), heard, "the AI hears nothing");
    human.cue("ACK");
    human.passes();
    carrier.passes();

    let story = scene.story(3);
    for (trunk, by) in [("carrier", "local"), ("ai", "edge"), ("agents", "remote")] {
        assert_eq!(story.leg(trunk)["cause"], "completed");
        assert_eq!(story.leg(trunk)["hangup_by"], by);
    }
    assert_eq!(story.leg("agents")["transfer"]["result"], "completed");
    let source = story.leg("ai")["source"].as_str().unwrap_or_default();
    assert_eq!(
        source,
        fresh.local().to_string(),
        "where the agent was last heard from"
    );
    story.tells(&[
        "response 401 Unauthorized to REFER sent to ai",
        "response 202 Accepted to REFER sent to ai",
        "transfer_bridged",
    ]);
}

/// Messages that cores have handed to each other.
fn handoffs(scene: &Scene) -> f64 {
    let of = |core: u8| {
        scene
            .edge
            .metric(&format!("sip_edge_handoffs_total{{core=\"{core}\"}}"))
    };
    (0..2).filter_map(of).sum()
}

#[test]
fn the_main_job_on_two_cores() {
    if !have_sipp() || !have_two_cores() {
        return;
    }
    let scene = Scene::new(Net::v4(), &two_cores());
    MainJob::over_tcp(&scene).plays(&scene);
}

#[test]
fn calls_of_one_connection_are_spread_over_the_cores() {
    if !have_sipp() || !have_two_cores() {
        return;
    }
    const CALLS: usize = 12;
    let scene = Scene::new(Net::v4(), &two_cores());
    let many = ["-m", "12", "-l", "12", "-r", "50"];
    let at = SocketAddr::new(scene.net.ai, 5070);
    let answers = Scenario::new()
        .recv_invite()
        .respond_invite("200 OK", "", &sdp(scene.ai.address))
        .recv_request("ACK")
        .recv_request("BYE")
        .respond("200 OK", "", "");
    let calls = Scenario::new()
        .caller_invite("+19995550123", 1, "", &sdp(scene.carrier.address))
        .recv_optional(100)
        .recv(200)
        .caller_request("ACK", 1, "", "")
        .caller_request("BYE", 2, "", "")
        .recv(200);
    let mut ai = scene.sipp("ai", &answers, at, None, &many).listening(at);
    let from = SocketAddr::new(scene.net.carrier, 5062);
    let mut carrier = scene.sipp("carrier", &calls, from, Some(scene.edge.sip), &many);
    carrier.passes();
    ai.passes();
    let calls = wait::until("all calls are over", || {
        let calls: serde_json::Value = serde_json::from_str(&scene.edge.get("/v1/calls")).ok()?;
        let calls = calls["calls"].as_array()?.clone();
        let over = calls.iter().filter(|c| c["state"] == "ended").count();
        (over == CALLS).then_some(calls)
    });
    for core in 0..2 {
        assert!(
            calls.iter().any(|c| c["core"] == core),
            "core {core} has none: {calls:#?}"
        );
    }
    assert!(handoffs(&scene) > 0.0);
}
