//! The parts that many flows have in common.

use super::digest::Answering;
use super::peers::*;
use super::ua::{Ua, host};
use super::world::World;
use edge_proto::sip::{HeaderName, Message};
use std::net::SocketAddr;

/// An INVITE that reached a peer which has no dialog yet.
pub fn invited(world: &mut World, address: SocketAddr, rtp_port: u16) -> (Ua, Message) {
    let (link, invite) = world.recv(address);
    let mut callee = Ua::callee(link, &invite, address, rtp_port);
    assert!(
        invite.method().is_some_and(|m| m.as_str() == "INVITE"),
        "{}",
        super::world::text(&invite)
    );
    callee.cseq += u32::from(rtp_port % 7);
    (callee, invite)
}

/// The carrier's caller, whose INVITE was answered with 100 Trying.
pub fn calling(world: &mut World) -> Ua {
    let mut caller = Ua::caller(world, world.site.carrier, NUMBER, CALLER_RTP);
    caller.invites(world);
    caller.gets(world, "100 INVITE");
    caller
}

/// A call that rings at the AI agent: caller, agent and the INVITE that the agent has not answered.
pub fn ringing(world: &mut World) -> (Ua, Ua, Message) {
    let mut caller = calling(world);
    let (mut agent, invite) = invited(world, world.site.ai, AGENT_RTP);
    agent.answers(world, &invite, 100);
    agent.answers(world, &invite, 180);
    caller.gets(world, "180 INVITE");
    (caller, agent, invite)
}

/// A call from the carrier that the AI agent has answered.
pub fn answered(world: &mut World) -> (Ua, Ua) {
    let (caller, agent, invite) = ringing(world);
    answering(world, caller, agent, &invite)
}

/// The agent answers, and both ACKs are exchanged.
pub fn answering(world: &mut World, mut caller: Ua, mut agent: Ua, invite: &Message) -> (Ua, Ua) {
    agent.accepts(world, invite, 200);
    agent.gets(world, "ACK");
    let ok = caller.gets(world, "200 INVITE");
    caller.acks(world, &ok);
    (caller, agent)
}

/// `ua` hangs up, and `others` are hung up.
pub fn hang_up(world: &mut World, ua: &mut Ua, others: &mut [&mut Ua]) {
    ua.says(world, "BYE");
    ua.gets(world, "200 BYE");
    for other in others {
        gets_bye(world, other);
    }
}

/// The edge hangs up on `ua`.
pub fn gets_bye(world: &mut World, ua: &mut Ua) -> Message {
    let bye = ua.gets(world, "BYE");
    ua.answers(world, &bye, 200);
    bye
}

/// The transfer target of most flows, over `via`.
pub const TARGET: &str = "<sip:+1234567890@edge.example.net>";

/// Sends a REFER and answers its challenge; what comes then is the caller's to look at.
pub fn refers(world: &mut World, agent: &mut Ua, target: &str, extra: &[&str]) {
    let refer_to = format!("Refer-To: {target}");
    let mut lines = vec![refer_to.as_str()];
    lines.extend(extra);
    agent.sends(world, "REFER", &lines, "");
    let challenge = agent.gets(world, "401 REFER");
    let authorization = Answering::new("REFER", &agent.target).line(&challenge);
    lines.push(&authorization);
    agent.sends(world, "REFER", &lines, "");
}

/// A REFER that is accepted: 202, then NOTIFY with 100.
pub fn referred(world: &mut World, agent: &mut Ua, target: &str, extra: &[&str]) {
    refers(world, agent, target, extra);
    agent.gets(world, "202 REFER");
    gets_notify(world, agent, "100 Trying");
}

/// The call of [`answered`] whose agent has referred the caller to [`TARGET`]: caller, agent, human, and the INVITE that the
/// human has not answered.
pub fn transferring(world: &mut World) -> (Ua, Ua, Ua, Message) {
    let (caller, mut agent) = answered(world);
    referred(world, &mut agent, TARGET, &[]);
    let (human, invite) = invited(world, world.site.human, HUMAN_RTP);
    (caller, agent, human, invite)
}

/// The human answers, and the transfer is told as a success that the agent has not yet answered.
pub fn bridging(world: &mut World, agent: &mut Ua, human: &mut Ua, invite: &Message) -> Message {
    human.accepts(world, invite, 200);
    human.gets(world, "ACK");
    let last = agent.gets(world, "NOTIFY");
    assert_eq!(sipfrag(&last), "200 OK");
    last
}

/// The call of [`answered`] after a transfer that succeeded, from which the agent is released: caller and human.
pub fn transferred(world: &mut World) -> (Ua, Ua) {
    let (caller, mut agent, mut human, invite) = transferring(world);
    let last = bridging(world, &mut agent, &mut human, &invite);
    agent.answers(world, &last, 200);
    gets_bye(world, &mut agent);
    (caller, human)
}

/// The status in a NOTIFY's body.
pub fn sipfrag(notify: &Message) -> String {
    let body = String::from_utf8_lossy(notify.body()).into_owned();
    body.strip_prefix("SIP/2.0 ")
        .and_then(|rest| rest.strip_suffix("\r\n"))
        .unwrap_or_else(|| panic!("not one status line: {body}"))
        .to_owned()
}

/// The next message is a NOTIFY with this status; it is answered.
pub fn gets_notify(world: &mut World, agent: &mut Ua, status: &str) -> Message {
    let notify = agent.gets(world, "NOTIFY");
    assert_eq!(sipfrag(&notify), status);
    agent.answers(world, &notify, 200);
    notify
}

/// The final NOTIFY of a transfer that failed, with its Reason.
pub fn gets_failure(world: &mut World, agent: &mut Ua, status: &str, cause: &str) {
    let notify = gets_notify(world, agent, status);
    let reason = format!("SIP;cause={};text=\"{cause}\"", &status[..3]);
    assert_eq!(notify.header(HeaderName::Reason), Some(reason.as_str()));
}

/// `caller` and `agent` still talk after a transfer that failed; then the caller hangs up.
pub fn returned(world: &mut World, mut caller: Ua, mut agent: Ua) {
    world.assert_bridges(&["4000<>4100"]);
    hang_up(world, &mut caller, &mut [&mut agent]);
}

/// A REFER target of `user` at a peer's host.
pub fn at(user: &str, peer: SocketAddr) -> String {
    format!("<sip:{user}@{}>", host(peer))
}
