//! The process ends while there are calls: everybody is told, and every leg has its line.

use crate::harness::*;
use edge_proto::b2bua::Input;

#[test]
fn a_running_call_is_hung_up_on_both_sides() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.input_all(Input::End);
        for ua in [&mut caller, &mut agent] {
            let bye = gets_bye(w, ua);
            assert_eq!(
                bye.header(HeaderName::Reason),
                Some("SIP;cause=503;text=\"edge_restart\"")
            );
        }
        // Nothing is left to wait for.
        assert!(w.cores.iter().all(|core| core.is_idle()));
        w.assert_cdr(&[
            "1 in carrier 200 edge_restart edge",
            "2 out ai 200 edge_restart edge",
        ]);
        // Nor does anything begin.
        let mut late = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        late.invites(w);
        let refusal = late.gets(w, "503 INVITE");
        late.acks(w, &refusal);
    });
}

#[test]
fn a_call_that_rings_is_refused_so_that_another_edge_may_take_it() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        w.input_all(Input::Drain);
        w.input_all(Input::End);
        let refusal = caller.gets(w, "503 INVITE");
        assert!(refusal.header(HeaderName::RetryAfter).is_some());
        caller.acks(w, &refusal);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
        w.assert_cdr(&[
            "1 in carrier 503 edge_restart edge",
            "2 out ai 487 edge_restart edge",
        ]);
    });
}

#[test]
fn a_transferor_hears_how_its_transfer_ended_before_it_is_hung_up_on() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        w.input_all(Input::End);
        gets_bye(w, &mut caller);
        let cancel = human.gets(w, "CANCEL");
        human.answers(w, &cancel, 200);
        human.answers(w, &invite, 487);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "503 Service Unavailable", "edge_restart");
        gets_bye(w, &mut agent);
        assert!(w.cores.iter().all(|core| core.is_idle()));
        w.assert_cdr(&[
            "1 in carrier 200 edge_restart edge",
            "2 out ai 200 edge_restart edge refer:401 transfer_unauthorized refer:202",
            "3 out agents 487 edge_restart edge transfer:1.1 sip:+1234567890@edge.example.net via agents: cancelled",
        ]);
    });
}

#[test]
fn a_call_that_is_over_is_not_ended_again() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let bye = agent.gets(w, "BYE");
        w.input_all(Input::End);
        agent.answers(w, &bye, 200);
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}
