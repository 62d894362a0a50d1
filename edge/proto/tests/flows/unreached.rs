//! What never comes to pass: attempts that send no INVITE, messages that are never finished.

use crate::harness::*;

#[test]
fn an_attempt_that_sends_no_invite_has_its_cdr_line() {
    let config = || trunk_with("agents", |trunk| trunk.codecs = vec!["G722".to_owned()]);
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, "<tel:+1234567890>", &[]);
        gets_failure(w, &mut agent, "488 Not Acceptable Here", "no_common_codec");
        w.assert_silent(w.site.human);
        returned(w, caller, agent);
        let record = w.record("agents").clone();
        assert_eq!(record.cause, Cause::NoCommonCodec);
        let transfer = record.transfer.expect("it tells the transfer");
        assert_eq!((transfer.attempt, transfer.result), (1, "failed"));
    });
}

#[test]
fn an_attempt_beyond_the_trunk_s_limit_has_its_cdr_line() {
    let config = || {
        let mut config = trunk_with("agents", |trunk| trunk.max_calls_per_s = 1);
        edit_policy(&mut config, |policy| {
            policy.fallback = vec!["tel:+1234567891".to_owned()];
        });
        config
    };
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "503 Service Unavailable", "trunk_limit");
        returned(w, caller, agent);
        let attempts: Vec<_> = w
            .records()
            .into_iter()
            .filter_map(|record| Some((record.transfer.as_ref()?.attempt, record.cause)))
            .collect();
        assert_eq!(attempts, [(1, Cause::Busy), (2, Cause::TrunkLimit)]);
    });
}

#[test]
fn a_message_whose_rest_never_comes_costs_the_connection() {
    flow(config, |w| {
        let carrier = w.site.carrier;
        let connection = w.connect(carrier);
        w.send(
            Link::Stream(connection),
            carrier,
            "INVITE sip:+19995550123@192.0.2.1 SIP/2.0\r\nVia: ",
        );
        w.advance(seconds(31));
        assert!(w.closed.is_empty(), "it has 64*T1 to come");
        w.advance(seconds(2));
        assert_eq!(w.closed, [connection]);
        w.assert_silent(carrier);
    });
}

#[test]
fn a_message_that_comes_slowly_but_whole_is_taken() {
    flow(config, |w| {
        let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
        let text = ua.request("OPTIONS", &[], "");
        let (start, rest) = text.split_at(text.len() / 2);
        w.send(ua.link, ua.address, start.to_owned());
        w.advance(seconds(20));
        w.send(ua.link, ua.address, rest.to_owned());
        ua.gets(w, "200 OPTIONS");
        w.advance(seconds(60));
        assert!(w.closed.is_empty());
    });
}

#[test]
fn a_caller_whose_connection_is_lost_while_it_rings_is_answered_over_a_new_one() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        let Link::Stream(connection) = caller.link else {
            panic!("over TCP");
        };
        w.reset(connection);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        assert_ne!(caller.link, Link::Stream(connection));
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_caller_who_cannot_be_reached_any_more_loses_the_call() {
    flow(config, |w| {
        let (caller, mut agent, invite) = ringing(w);
        let Link::Stream(connection) = caller.link else {
            panic!("over TCP");
        };
        w.refusing.push(caller.address);
        w.reset(connection);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        w.advance(seconds(33));
        gets_bye(w, &mut agent);
        w.assert_silent(caller.address);
        assert_eq!(w.record("carrier").cause, Cause::SignallingTimeout);
    });
}
