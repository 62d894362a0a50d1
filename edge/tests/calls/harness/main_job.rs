//! The main job from call to hang-up, which every address family, transport and number of cores has to do alike.

use super::scenario::{Scenario, sdp};
use super::{Scene, Sipp, Story, parties, wait};
use std::net::SocketAddr;

/// Who plays in it, and where they meet the edge.
pub struct MainJob {
    pub caller: Scenario,
    pub agent: Scenario,
    pub human: Scenario,
    /// Where the carrier sends its calls.
    pub entrance: SocketAddr,
    /// Our Contact on the agent's leg without its scheme: what the agent's credentials are for.
    pub contact: String,
}

impl MainJob {
    /// Over TCP, at the addresses of the scene.
    pub fn over_tcp(scene: &Scene) -> MainJob {
        MainJob {
            caller: parties::caller(scene.carrier.address),
            agent: agent(scene.ai.address),
            human: human(scene.human.address),
            entrance: scene.edge.sip,
            contact: format!("edge@{};transport=tcp", scene.edge.sip),
        }
    }

    /// Plays it: a call is answered by the agent, REFERred, answered by the human behind a 407, and ends when the human hangs
    /// up. Asserts who hears whom, what the agent is told, and what the edge reports.
    pub fn plays(self, scene: &Scene) -> Story {
        let ai_at = SocketAddr::new(scene.net.ai, 5070);
        let carrier_at = SocketAddr::new(scene.net.carrier, 5062);
        let extra = ["-auth_uri", self.contact.as_str()];
        let dir = scene.dir.path();
        let mut human = scene.human_answers(&self.human);
        let mut ai = Sipp::start(dir, "ai", &self.agent, ai_at, None, &extra).listening(ai_at);
        let entrance = Some(self.entrance);
        let mut carrier = Sipp::start(dir, "carrier", &self.caller, carrier_at, entrance, &[]);

        let (caller, agent, person) = (&scene.carrier, &scene.ai, &scene.human);
        scene.talk((caller, &carrier), (agent, &ai));
        ai.cue("ACK");
        human.until_received("an INVITE with credentials", |m| {
            m.starts_with("INVITE ") && m.contains("Proxy-Authorization: Digest")
        });
        // While the human's phone rings, nothing changes for the caller.
        caller.hears(agent, 5);
        agent.hears(caller, 5);
        assert_eq!(person.heard_anything(), 0);
        human.cue("SIP/2.0 180");
        person.speak_to(human.remote_media());
        caller.hears(person, 5);
        person.hears(caller, 5);
        let ai_heard = agent.heard_anything();
        caller.hears(person, 20);
        person.hears(caller, 20);
        assert_eq!(agent.heard_anything(), ai_heard, "the AI hears nothing");
        assert_eq!(person.heard(agent.voice), 0, "the human never hears the AI");

        ai.passes();
        human.cue_after("ACK", 2);
        human.passes();
        carrier.passes();
        assert_eq!(told(&ai), ["SIP/2.0 100", "SIP/2.0 180", "SIP/2.0 200"]);
        let story = scene.story(3);
        is_reported(&story);
        story
    }
}

/// The agent: refers at its cue, answers the challenge, is told of progress and success, and is released.
fn agent(rtp: SocketAddr) -> Scenario {
    let refer_to = "Refer-To: <sip:+1234567890@edge.example.net>";
    let credentials = "[authentication username=trunk-user password=s3cret]";
    let agent = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .respond_invite("200 OK", "", &sdp(rtp))
        .recv_request("ACK")
        .await_cue()
        .callee_request("REFER", 10, refer_to, "")
        .recv_challenge(401)
        .callee_request("REFER", 11, &format!("{refer_to}\n{credentials}"), "")
        .recv(202);
    parties::until_released(agent, 3)
}

/// The human: challenges, rings until the cue, answers, and hangs up at the next.
fn human(rtp: SocketAddr) -> Scenario {
    let challenge =
        r#"Proxy-Authenticate: Digest realm="agents", nonce="f00d", algorithm=MD5, qop="auth""#;
    let answers = Scenario::new()
        .recv_invite()
        .respond_invite("407 Proxy Authentication Required", challenge, "")
        .recv_request("ACK")
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .await_cue()
        .respond_invite("200 OK", "", &sdp(rtp))
        .recv_request("ACK");
    parties::hangs_up_at_cue(answers)
}

/// The status lines that NOTIFYs brought, without their phrases.
fn told(agent: &Sipp) -> Vec<String> {
    wait::until("the agent is notified", || {
        let received = agent.received();
        let notifies = received.iter().filter(|m| m.starts_with("NOTIFY "));
        let lines: Vec<String> = notifies
            .filter_map(|m| m.lines().find(|l| l.starts_with("SIP/2.0 ")))
            .filter_map(|line| line.get(..11).map(str::to_owned))
            .collect();
        (lines.len() >= 3).then_some(lines)
    })
}

/// CDR and timeline of the main job.
fn is_reported(story: &Story) {
    for (trunk, by) in [("carrier", "local"), ("ai", "edge"), ("agents", "remote")] {
        let leg = story.leg(trunk);
        assert_eq!(leg["cause"], "completed", "{leg:#}");
        assert_eq!(leg["sip_status"], 200, "{leg:#}");
        assert_eq!(leg["hangup_by"], by, "{leg:#}");
        assert!(
            leg["media"]["received"]["packets"].as_u64() > Some(0),
            "{leg:#}"
        );
    }
    assert_eq!(story.leg("agents")["transfer"]["result"], "completed");
    let verdicts: Vec<_> = story.leg("ai")["refers"]
        .as_array()
        .expect("REFERs")
        .iter()
        .map(|refer| refer["status"].as_u64())
        .collect();
    assert_eq!(verdicts, [Some(401), Some(202)]);
    story.tells(&[
        "request REFER received from ai",
        "response 401 Unauthorized to REFER sent to ai",
        "response 202 Accepted to REFER sent to ai",
        "request NOTIFY sent to ai",
        "transfer_attempt",
        "response 407 Proxy Authentication Required to INVITE received from agents",
        "response 180 Ringing to INVITE received from agents",
        "response 200 OK to INVITE received from agents",
        "transfer_bridged",
        "transfer_ended transfer 1: completed",
        "request BYE sent to ai",
        "request BYE received from agents",
        "request BYE sent to carrier",
        "call_ended the call is over completed",
    ]);
}
