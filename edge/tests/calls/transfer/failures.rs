//! The human cannot be had: the agent is told why, and the caller still hears the AI.

use super::cast::*;
use crate::harness::{EdgeConfig, Scenario, Scene, Sipp, Story};

/// A transfer to a human who does not answer, from the first INVITE to the end of the call. `told` is what the agent is told
/// after `100 Trying`, in order; `then` is what the human does once it was.
fn fails_and(
    config: &EdgeConfig,
    human: &Scenario,
    told: &[&str],
    then: impl FnOnce(&Sipp),
) -> Option<Story> {
    let scene = Scene::v4(config)?;
    let mut human = scene.human_answers(human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(1 + told.len())
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &[&["100 Trying active"], told].concat());
    then(&human);
    human.passes();
    scene.still_with_the_ai();
    talk.ai.cue("NOTIFY");
    talk.passes();
    Some(scene.story(3))
}

fn fails(config: &EdgeConfig, human: &Scenario, told: &[&str]) -> Option<Story> {
    fails_and(config, human, told, |_| {})
}

/// The usual policy with further keys.
fn policy_with(more: &str) -> EdgeConfig {
    let config = EdgeConfig::default();
    EdgeConfig {
        transfer: format!("{}\n{more}", config.transfer),
        ..config
    }
}

/// The legs of caller and agent in every such call.
const CARRIER: &str = "carrier 200 completed local";
const AI: &str = "ai 200 completed remote refer:401 transfer_unauthorized refer:202";

#[test]
fn busy() {
    let human = Scenario::refusing("486 Busy Here");
    let told = failure("486 Busy Here", "busy");
    let Some(story) = fails(&EdgeConfig::default(), &human, &[&told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents 486 busy remote transfer:1.1 via agents: busy",
    ]);
    story.tells(&[
        "refused with 401",
        "accepted with 202",
        "transfer 1, attempt 1",
        "INVITE sent to agents",
        "486 Busy Here to INVITE received from agents",
        "notify 486 Busy Here (terminated;reason=noresource)",
        "transfer 1: busy",
    ]);
}

#[test]
fn declining() {
    let human = Scenario::refusing("603 Decline");
    let told = failure("603 Decline", "rejected");
    let Some(story) = fails(&EdgeConfig::default(), &human, &[&told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents 603 rejected remote transfer:1.1 via agents: failed",
    ]);
    story.tells(&[
        "603 Decline to INVITE received from agents",
        "transfer 1: failed rejected",
    ]);
}

#[test]
fn a_redirection_is_not_followed() {
    let human = Scenario::new()
        .recv_invite()
        .respond(
            "302 Moved Temporarily",
            "Contact: <sip:evil@[local_ip]:9999>",
            "",
        )
        .recv_request("ACK");
    let told = failure("480 Temporarily Unavailable", "rejected");
    let Some(story) = fails(&EdgeConfig::default(), &human, &[&told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents 302 rejected remote transfer:1.1 via agents: failed",
    ]);
}

#[test]
fn not_answering() {
    let human = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .recv_cancel();
    let told = failure("408 Request Timeout", "no-answer");
    let config = policy_with("ring_timeout_s = 1");
    let Some(story) = fails(&config, &human, &["180 Ringing active", &told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents 487 no-answer edge transfer:1.1 via agents: no-answer",
    ]);
    story.tells(&[
        "180 Ringing to INVITE received from agents",
        "not answered within the ring timeout",
        "transfer 1: no-answer",
    ]);
}

#[test]
fn rejecting_our_credentials() {
    let human = Scenario::new().challenges(CHALLENGE).challenges(CHALLENGE);
    rejected_credentials(&human, 407);
}

#[test]
fn forbidding_the_call_after_our_credentials() {
    let human = Scenario::new()
        .challenges(CHALLENGE)
        .refuses("403 Forbidden");
    rejected_credentials(&human, 403);
}

fn rejected_credentials(human: &Scenario, status: u16) {
    let told = failure("403 Forbidden", "sip_auth_failed 4240");
    let Some(story) = fails(&EdgeConfig::default(), human, &[&told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        &format!("agents {status} sip_auth_failed remote 4240 transfer:1.1 via agents: failed"),
    ]);
    story.tells(&[
        "407",
        "INVITE sent to agents",
        "transfer 1: failed sip_auth_failed",
    ]);
}

#[test]
fn a_stale_challenge_is_answered_once_more() {
    // RFC 7616 §3.3: stale=true says that the credentials were right.
    let human = Scenario::new()
        .challenges(CHALLENGE)
        .challenges(&format!("{CHALLENGE}, stale=true").replace("f00d", "beef"))
        .refuses("486 Busy Here");
    let told = failure("486 Busy Here", "busy");
    let Some(story) = fails(&EdgeConfig::default(), &human, &[&told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents 486 busy remote transfer:1.1 via agents: busy",
    ]);
}

#[test]
fn never_answering_our_credentials() {
    let human = Scenario::new()
        .challenges(CHALLENGE)
        .recv_invite()
        .await_cue();
    let told = failure("408 Request Timeout", "sip_auth_timeout 4250");
    let config = policy_with("auth_timeout_s = 1");
    let Some(story) = fails_and(&config, &human, &[&told], |human| human.cue("INVITE")) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents - sip_auth_timeout edge 4250 transfer:1.1 via agents: timeout",
    ]);
    story.tells(&[
        "407",
        "no response to the INVITE with credentials",
        "transfer 1: timeout sip_auth_timeout",
    ]);
}

#[test]
fn a_provisional_response_ends_the_wait_for_our_credentials() {
    // auth_timeout_s is about silence; a phone that rings is not silent.
    let human = Scenario::new()
        .challenges(CHALLENGE)
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .recv_cancel();
    let told = failure("408 Request Timeout", "no-answer");
    let config = policy_with("auth_timeout_s = 1\nring_timeout_s = 2");
    let Some(story) = fails(&config, &human, &["180 Ringing active", &told]) else {
        return;
    };
    story.is(&[
        CARRIER,
        AI,
        "agents 487 no-answer edge transfer:1.1 via agents: no-answer",
    ]);
}

#[test]
fn nobody_at_the_humans_address() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(2)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    let told = failure("503 Service Unavailable", "unreachable");
    scene.told(&talk.ai, &["100 Trying active", &told]);
    scene.still_with_the_ai();
    talk.ai.cue("NOTIFY");
    talk.passes();
    let story = scene.story(3);
    story.is(&[
        CARRIER,
        AI,
        "agents - unreachable edge transfer:1.1 via agents: failed",
    ]);
    story.tells(&["connect failed", "transfer 1: failed unreachable"]);
}

#[test]
fn the_caller_is_hung_up_on_where_the_policy_says_so() {
    let Some(scene) = Scene::v4(&policy_with("on_failure = \"hangup\"")) else {
        return;
    };
    let mut human = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(2)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    human.passes();
    talk.passes();
    let told = failure("486 Busy Here", "busy");
    scene.told(&talk.ai, &["100 Trying active", &told]);
    scene.story(3).is(&[
        "carrier 200 busy edge",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202",
        "agents 486 busy remote transfer:1.1 via agents: busy",
    ]);
}
