//! The parties of transfers: an agent that refers, humans that answer or do not, and what is asked of them all.

use crate::harness::wire::header;
use crate::harness::{Client, Edge, EdgeConfig, Net, RtpParty, Scenario, Scene, Sipp, Story, wait};
use crate::harness::{parties, scenario::sdp, sipp::media_of};
use std::net::{SocketAddr, TcpListener};

/// A number over `via`.
pub const TARGET: &str = "sip:+1234567890@edge.example.net";
/// A voice that only the second human has.
const BACKUP: u8 = 0x42;

impl Scenario {
    /// The AI agent up to the ACK of its answer.
    pub fn agent(rtp: SocketAddr) -> Scenario {
        Scenario::new()
            .recv_invite()
            .respond_invite("180 Ringing", "", "")
            .respond_invite("200 OK", "", &sdp(rtp))
            .recv_request("ACK")
    }

    /// On its cue the agent refers the caller to `target`, answers the challenge and is accepted.
    pub fn refers(self, target: &str) -> Scenario {
        self.refers_with(target, 10, "", 202)
    }

    /// The same with the CSeq of the first REFER, further headers and the final status.
    pub fn refers_with(self, target: &str, cseq: u32, extra: &str, status: u16) -> Scenario {
        let refer_to = format!("Refer-To: <{target}>\n{extra}");
        let credentials = "[authentication username=trunk-user password=s3cret]";
        self.await_cue()
            .callee_request("REFER", cseq, &refer_to, "")
            .recv_challenge(401)
            .callee_request("REFER", cseq + 1, &format!("{refer_to}\n{credentials}"), "")
            .recv(status)
    }

    /// On its cue it sends a REFER that no challenge is expected for.
    pub fn refers_plainly(self, target: &str, cseq: u32, status: u16) -> Scenario {
        self.await_cue()
            .callee_request("REFER", cseq, &format!("Refer-To: <{target}>"), "")
            .recv(status)
    }

    /// Gets and answers NOTIFYs.
    pub fn notified(self, count: usize) -> Scenario {
        (0..count).fold(self, |scenario, _| {
            scenario.recv_request("NOTIFY").respond("200 OK", "", "")
        })
    }

    /// Hangs up on its cue.
    pub fn hangs_up(self) -> Scenario {
        self.await_cue().callee_request("BYE", 90, "", "").recv(200)
    }

    /// Is hung up on.
    pub fn hung_up(self) -> Scenario {
        self.recv_request("BYE").respond("200 OK", "", "")
    }

    /// A human whose phone rings until the cue, and who answers then.
    pub fn human(rtp: SocketAddr) -> Scenario {
        Scenario::new().rings_and_answers(rtp)
    }

    pub fn rings_and_answers(self, rtp: SocketAddr) -> Scenario {
        self.rings_and_answers_with(&sdp(rtp))
    }

    /// The same with another session description.
    pub fn rings_and_answers_with(self, sdp: &str) -> Scenario {
        self.recv_invite()
            .respond_invite("180 Ringing", "", "")
            .await_cue()
            .respond_invite("200 OK", "", sdp)
            .recv_request("ACK")
    }

    /// A human who refuses; `line` is status and phrase.
    pub fn refusing(line: &str) -> Scenario {
        Scenario::new().refuses(line)
    }

    pub fn refuses(self, line: &str) -> Scenario {
        self.recv_invite()
            .respond_invite(line, "", "")
            .recv_request("ACK")
    }

    /// The human's side asks for credentials.
    pub fn challenges(self, challenge: &str) -> Scenario {
        self.recv_invite()
            .respond_invite(
                "407 Proxy Authentication Required",
                &format!("Proxy-Authenticate: Digest {challenge}"),
                "",
            )
            .recv_request("ACK")
    }
}

/// What the human's trunk asks with.
pub const CHALLENGE: &str = "realm=\"agents\", nonce=\"f00d\", algorithm=MD5, qop=\"auth\"";

/// The AI's trunk is offered both algorithms, the stronger one first.
pub fn both_algorithms() -> EdgeConfig {
    let config = EdgeConfig::default();
    EdgeConfig {
        ai: config.ai.replace("[\"MD5\"]", "[\"SHA-256\", \"MD5\"]"),
        ..config
    }
}

/// The usual policy, with trust in the dialog instead of credentials.
pub fn trusting() -> EdgeConfig {
    let config = EdgeConfig::default();
    EdgeConfig {
        transfer: config.transfer.replace("\"digest\"", "\"dialog\""),
        ..config
    }
}

/// Caller and AI agent, who hear each other.
pub struct Talk {
    pub carrier: Sipp,
    pub ai: Sipp,
}

impl Talk {
    /// The carrier's caller is connected to an agent with this scenario.
    pub fn begins(scene: &Scene, ai: &Scenario) -> Talk {
        Talk::begins_with(scene, ai, &parties::caller(scene.carrier.address))
    }

    pub fn begins_with(scene: &Scene, ai: &Scenario, caller: &Scenario) -> Talk {
        let ai = scene.ai_answers(ai);
        let carrier = scene.carrier_calls(caller);
        scene.talk((&scene.carrier, &carrier), (&scene.ai, &ai));
        Talk { carrier, ai }
    }

    /// Both scenarios came to their end.
    pub fn passes(&mut self) {
        self.ai.passes();
        self.carrier.passes();
    }
}

/// The AI agent by a client of the suite's own, in a call that a SIPp caller made.
pub struct OwnAgent {
    pub agent: Client,
    pub carrier: Sipp,
}

impl OwnAgent {
    /// Caller and agent hear each other.
    pub fn talks(scene: &Scene) -> OwnAgent {
        OwnAgent::talks_with(scene, &parties::caller(scene.carrier.address))
    }

    pub fn talks_with(scene: &Scene, caller: &Scenario) -> OwnAgent {
        let (agent, invite, carrier) = OwnAgent::rings_with(scene, caller);
        OwnAgent::connected(scene, agent, &invite, carrier)
    }

    /// The INVITE has arrived, and is not answered.
    pub fn rings(scene: &Scene) -> (Client, String, Sipp) {
        OwnAgent::rings_with(scene, &parties::caller(scene.carrier.address))
    }

    fn rings_with(scene: &Scene, caller: &Scenario) -> (Client, String, Sipp) {
        let listener = TcpListener::bind((scene.net.ai, 5070)).expect("the agent's port");
        let carrier = scene.carrier_calls(caller);
        let (agent, invite) = Client::called(&listener);
        (agent, invite, carrier)
    }

    /// The next call to the same agent, over the same connection.
    pub fn talks_again(self, scene: &Scene) -> OwnAgent {
        let carrier = scene.carrier_calls(&parties::caller(scene.carrier.address));
        let (agent, invite) = Client::called_over(self.agent.wire, (scene.net.ai, 5070).into());
        OwnAgent::connected(scene, agent, &invite, carrier)
    }

    /// The agent answers the INVITE.
    pub fn connected(scene: &Scene, mut agent: Client, invite: &str, carrier: Sipp) -> OwnAgent {
        agent.accepts(invite, scene.ai.address);
        scene.carrier.speak_to(carrier.remote_media());
        scene.ai.speak_to(media_of(invite).expect("SDP"));
        scene.still_with_the_ai();
        OwnAgent { agent, carrier }
    }

    /// Caller and agent still hear each other; the agent hangs up, and so ends the caller's leg.
    pub fn ends(&mut self, scene: &Scene) {
        scene.still_with_the_ai();
        self.agent.hangs_up();
        self.carrier.passes();
    }
}

impl Scene {
    /// Caller and AI agent hear each other from now on, and the human hears nobody.
    pub fn still_with_the_ai(&self) {
        self.carrier.hears(&self.ai, 5);
        self.ai.hears(&self.carrier, 5);
        assert_eq!(self.human.heard_anything(), 0, "the human hears nobody");
    }

    /// Lets the human speak; caller and human hear each other, the AI hears nothing any more, and the human never heard it.
    pub fn with_the_human(&self, human: &Sipp) {
        self.bridged_to(&self.human, human);
    }

    pub fn bridged_to(&self, voice: &RtpParty, human: &Sipp) {
        self.talk_on(voice, human);
        let ai_heard = self.ai.heard_anything();
        self.carrier.hears(voice, 20);
        voice.hears(&self.carrier, 20);
        assert_eq!(self.ai.heard_anything(), ai_heard, "the AI hears nothing");
        assert_eq!(voice.heard(self.ai.voice), 0, "the human hears no AI");
    }

    fn talk_on(&self, voice: &RtpParty, human: &Sipp) {
        voice.speak_to(human.remote_media());
        self.carrier.hears(voice, 5);
        voice.hears(&self.carrier, 5);
    }

    /// Another human's voice, at the address of [`backup_trunk`].
    pub fn backup(&self) -> RtpParty {
        RtpParty::new(self.net.stranger, BACKUP)
    }

    /// The other human, at the address of [`backup_trunk`].
    pub fn backup_answers(&self, scenario: &Scenario) -> Sipp {
        let at = SocketAddr::new(self.net.stranger, 5090);
        self.called("backup", scenario, at)
    }

    /// Waits until the agent was told all of this by NOTIFY: status, subscription state without its seconds, and Reason.
    pub fn told(&self, agent: &Sipp, expected: &[&str]) {
        wait::until(&format!("{} NOTIFYs", expected.len()), || {
            (notifies(agent).len() >= expected.len()).then_some(())
        });
        assert_eq!(notifies(agent), expected);
    }
}

/// What the agent was told by NOTIFY.
pub fn notifies(agent: &Sipp) -> Vec<String> {
    let received = agent.received();
    let notifies = received.iter().filter(|m| m.starts_with("NOTIFY "));
    notifies.map(|notify| notice(notify)).collect()
}

/// Status, subscription state without its seconds, and Reason of a NOTIFY.
pub fn notice(notify: &str) -> String {
    let state = header(notify, "Subscription-State").expect("a state");
    let state = match state.strip_prefix("active;expires=") {
        Some(seconds) => {
            assert!(seconds.parse::<u32>().is_ok_and(|s| s > 0), "{state}");
            "active"
        }
        None => state,
    };
    assert!(header(notify, "Event").is_some_and(|event| event.starts_with("refer")));
    assert_eq!(
        header(notify, "Content-Type"),
        Some("message/sipfrag;version=2.0")
    );
    let status = notify
        .lines()
        .find_map(|line| line.strip_prefix("SIP/2.0 "));
    let status = status.expect("a sipfrag").trim();
    let reason = header(notify, "Reason").map_or(String::new(), |reason| format!(" {reason}"));
    format!("{status} {state}{reason}")
}

/// A final NOTIFY of a failure.
pub fn failure(status: &str, cause: &str) -> String {
    let code = &status[..3];
    format!("{status} terminated;reason=noresource SIP;cause={code};text=\"{cause}\"")
}

/// What the agent is told until the human's phone rings. The human answers after it, lest the news overtake each other.
pub const RINGING: [&str; 2] = ["100 Trying active", "180 Ringing active"];

/// The final NOTIFY of a success.
pub const SUCCESS: &str = "200 OK terminated;reason=noresource";

impl Story {
    /// The CDR lines by leg, one short text each: trunk, status, cause with its code, who hung up; each REFER with its verdict;
    /// the transfer's id, attempt, trunk and result.
    pub fn lines(&self) -> Vec<String> {
        let mut legs: Vec<_> = self.legs.iter().collect();
        legs.sort_by_key(|leg| leg["leg"].as_u64());
        legs.into_iter().map(short).collect()
    }

    pub fn is(&self, expected: &[&str]) {
        assert_eq!(self.lines(), expected, "\n{}", self.timeline.join("\n"));
    }
}

fn short(leg: &serde_json::Value) -> String {
    let word = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = ["trunk", "sip_status", "cause", "hangup_by"]
        .map(|key| word(&leg[key]))
        .join(" ");
    if !leg["cause_code"].is_null() {
        text.push_str(&format!(" {}", leg["cause_code"]));
    }
    for refer in leg["refers"].as_array().into_iter().flatten() {
        text.push_str(&format!(" refer:{}", refer["status"]));
        if let Some(cause) = refer["cause"].as_str() {
            text.push_str(&format!(" {cause}"));
        }
    }
    let transfer = &leg["transfer"];
    if !transfer.is_null() {
        let [id, attempt, via, result] =
            ["id", "attempt", "via", "result"].map(|key| word(&transfer[key]));
        text.push_str(&format!(" transfer:{id}.{attempt} via {via}: {result}"));
    }
    text
}

/// A trunk to another human, as TOML.
pub fn backup_trunk(net: &Net) -> String {
    let at = net.stranger;
    format!(
        "[[trunk]]\nname = \"backup\"\nallow = [\"{at}/32\"]\nuri = \"sip:{at}:5090;transport=tcp\"\n"
    )
}

/// Nobody called the human: no leg, no INVITE.
pub fn human_was_not_called(edge: &Edge) {
    let calls = edge.metrics();
    let sent = calls
        .lines()
        .find(|line| line.starts_with("sip_edge_sip_requests_total{") && line.contains("agents"));
    assert_eq!(sent, None);
}
