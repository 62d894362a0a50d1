//! Calls without a transfer, in the ordinary way.

use crate::harness::*;

#[test]
fn a_call_is_answered_bridged_and_hung_up_by_the_caller() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn the_agent_hangs_up() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        hang_up(w, &mut agent, &mut [&mut caller]);
        w.assert_cdr(&[
            "1 in carrier 200 completed local",
            "2 out ai 200 completed remote",
        ]);
    });
}

#[test]
fn both_hang_up_at_once() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let bye = agent.gets(w, "BYE");
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        agent.answers(w, &bye, 481);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn a_bye_that_is_never_answered_leaves_nothing() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        agent.gets(w, "BYE");
    });
}
