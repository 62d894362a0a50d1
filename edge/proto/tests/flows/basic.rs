//! Calls without a transfer.

use crate::ua::{Ua, expect_invite};
use crate::world::*;
use edge_proto::event::{Cause, HangupBy};
use edge_proto::sip::HeaderName;

/// A call from the carrier that the AI agent has answered: both user agents and the INVITE the agent got.
pub fn answered(world: &mut World, core: u8) -> (Ua, Ua) {
    let connection = world.connect(addr(CARRIER), core);
    let mut caller = Ua::caller(addr(CARRIER), connection, "+19995550123", 4000);
    caller.invite(world);
    caller.expect(world, 100, "INVITE");
    let (mut agent, invite) = expect_invite(world, addr(AI), 4100);
    agent.respond(world, &invite, 100, &[], "");
    agent.respond(world, &invite, 180, &[], "");
    caller.expect(world, 180, "INVITE");
    let body = agent.sdp();
    agent.respond(world, &invite, 200, &[], &body);
    agent.expect_request(world, "ACK");
    let ok = caller.expect(world, 200, "INVITE");
    caller.ack(world, &ok, "");
    (caller, agent)
}

#[test]
fn a_call_is_answered_bridged_and_hung_up() {
    for cores in [1, 4] {
        let mut world = World::new(config(), cores);
        let (mut caller, mut agent) = answered(&mut world, 0);
        assert_eq!(
            world.bridged(),
            [(addr("192.0.2.10:4000"), addr("192.0.2.20:4100"))]
        );
        caller.send(&mut world, "BYE", &[], "");
        caller.expect(&mut world, 200, "BYE");
        let bye = agent.expect_request(&mut world, "BYE");
        agent.respond(&mut world, &bye, 200, &[], "");
        world.assert_all_over();
        assert_eq!(world.record("carrier").cause, Cause::Completed);
        assert_eq!(world.record("carrier").hangup_by, HangupBy::Remote);
        assert_eq!(world.record("ai").hangup_by, HangupBy::Local);
        assert_eq!(world.record("ai").sip_status, Some(200));
    }
}

#[test]
fn the_platform_sees_the_call_and_the_caller() {
    let mut world = World::new(config(), 1);
    let connection = world.connect(addr(CARRIER), 0);
    let mut caller = Ua::caller(addr(CARRIER), connection, "+19995550123", 4000);
    let body = caller.sdp();
    caller.send(&mut world, "INVITE", &["X-CALLER-ID: from-the-call"], &body);
    caller.expect(&mut world, 100, "INVITE");
    let (_, invite) = expect_invite(&mut world, addr(AI), 4100);
    assert_eq!(
        invite.request_uri(),
        Some("sip:+19995550123@192.0.2.20:5070;transport=tcp")
    );
    assert!(invite.from_header().contains("+15550100"));
    let allow = invite.header(HeaderName::Allow).expect("Allow");
    assert!(allow.contains("REFER") && allow.contains("NOTIFY"));
    assert_eq!(invite.named("X-CALL-ID").next().map(str::len), Some(32));
    assert_eq!(invite.named("X-CALLER-ID").next(), Some("from-the-call"));
}
