//! The three parties of the main job, as SIPp scenarios.

use super::scenario::{Scenario, sdp};
use std::net::SocketAddr;

/// The caller: calls, is answered, stays until it is hung up on.
pub fn caller(rtp: SocketAddr) -> Scenario {
    Scenario::new()
        .caller_invite(NUMBER, 1, "", &sdp(rtp))
        .recv_optional(100)
        .recv_optional(180)
        .recv_optional(183)
        .recv(200)
        .caller_request("ACK", 1, "", "")
        .recv_request("BYE")
        .respond("200 OK", "", "")
}

/// The number that the carrier's calls go to.
pub const NUMBER: &str = "+19995550123";

/// The caller: calls, and is refused with `code`.
pub fn caller_refused(rtp: SocketAddr, code: u16) -> Scenario {
    Scenario::new()
        .caller_invite(NUMBER, 1, "", &sdp(rtp))
        .recv_optional(100)
        .recv_optional(180)
        .recv(code)
        .caller_acks_refusal(NUMBER, 1)
}

/// The AI agent: answers, and hangs up at its cue.
pub fn agent_answers(rtp: SocketAddr) -> Scenario {
    hangs_up_at_cue(
        Scenario::new()
            .recv_invite()
            .respond_invite("180 Ringing", "", "")
            .respond_invite("200 OK", "", &sdp(rtp))
            .recv_request("ACK"),
    )
}

/// A callee that has been ACKed hangs up at its cue.
pub fn hangs_up_at_cue(callee: Scenario) -> Scenario {
    callee
        .await_cue()
        .callee_request("BYE", 20, "", "")
        .recv(200)
}

/// The AI agent up to its first REFER's final answer: `before_refer_ms` of talk, then a challenged REFER.
pub fn agent_refers(rtp: SocketAddr, target: &str, before_refer_ms: u32) -> Scenario {
    agent_refers_as(
        rtp,
        target,
        |agent| agent.pause(before_refer_ms),
        ("trunk-user", "s3cret"),
    )
}

/// The same with other credentials, and with `wait` before the REFER.
pub fn agent_refers_as(
    rtp: SocketAddr,
    target: &str,
    wait: impl FnOnce(Scenario) -> Scenario,
    (username, password): (&str, &str),
) -> Scenario {
    let refer_to = format!("Refer-To: <{target}>");
    let answered = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .respond_invite("200 OK", "", &sdp(rtp))
        .recv_request("ACK");
    wait(answered)
        .callee_request("REFER", 10, &refer_to, "")
        .recv_challenge(401)
        .callee_request(
            "REFER",
            11,
            &format!(
                "{refer_to}\n[authentication username={username} password={password}]\nX-Conversation-ID: conv-1"
            ),
            "",
        )
        .recv(202)
}

/// The human behind a trunk that challenges.
pub fn human(rtp: SocketAddr) -> Scenario {
    Scenario::new()
        .recv_invite()
        .respond_invite(
            "407 Proxy Authentication Required",
            "Proxy-Authenticate: Digest realm=\"agents\", nonce=\"f00d\", algorithm=MD5, qop=\"auth\"",
            "",
        )
        .recv_request("ACK")
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .respond_invite("200 OK", "", &sdp(rtp))
        .recv_request("ACK")
}

/// The AI agent answers NOTIFYs until it is released.
pub fn until_released(agent: Scenario, notifies: usize) -> Scenario {
    let agent = (0..notifies).fold(agent, |agent, _| {
        agent.recv_request("NOTIFY").respond("200 OK", "", "")
    });
    agent.recv_request("BYE").respond("200 OK", "", "")
}
