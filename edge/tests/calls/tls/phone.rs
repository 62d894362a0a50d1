//! baresip as a native TLS peer: the human who answers a transferred call.

use super::Secure;
use crate::harness::baresip::{Baresip, VOICE, have_baresip};
use crate::harness::main_job::MainJob;
use crate::harness::{EdgeConfig, Net, Scene, have_sipp};

#[test]
fn a_phone_answers_a_transferred_call_over_tls() {
    if !have_sipp() || !have_baresip() {
        return;
    }
    let secure = Secure::new(Net::v4());
    let at = Baresip::address(secure.net.human);
    let own = secure.peer("human", at);
    let mut phone = Baresip::start(
        secure.dir.path(),
        "+1234567890",
        at.ip(),
        &own,
        &secure.pki.ca,
    );
    let config = EdgeConfig {
        // Its RTP does not come from the address in its SDP.
        agents: format!("listen = [\"secure\"]\nlatch = \"any\"\n{}", secure.trunk()),
        agents_uri: Some(format!("\"sip:{at};transport=tls\"")),
        agents_allow: "\"127.0.0.1/32\"".to_owned(),
        ..secure.config()
    };
    let scene = Scene::with(secure.net, secure.dir, &config);
    let job = MainJob::over_tcp(&scene);
    let mut ai = scene.ai_answers(&job.agent);
    let mut carrier = scene.carrier_calls(&job.caller);
    let (caller, agent) = (&scene.carrier, &scene.ai);
    scene.talk((caller, &carrier), (agent, &ai));
    ai.cue("ACK");
    let incoming = phone.event("CALL_INCOMING");
    assert!(
        incoming["peeruri"]
            .as_str()
            .is_some_and(|uri| uri.contains("+15550100")),
        "{incoming}"
    );
    caller.hears(agent, 5);
    agent.hears(caller, 5);
    phone.command("accept");
    phone.event("CALL_ESTABLISHED");
    ai.passes();
    caller.hears_voice(VOICE, 5);
    let heard = [caller.heard(agent.voice), agent.heard_anything()];
    caller.hears_voice(VOICE, 50);
    let now = [caller.heard(agent.voice), agent.heard_anything()];
    assert_eq!(now, heard, "the AI neither speaks nor hears");
    phone.command("hangup");
    carrier.passes();
    let story = scene.story(3);
    assert!(
        phone.heard(caller.voice) >= 20 * 160,
        "the phone hears the caller:\n{}",
        phone.log()
    );
    assert_eq!(phone.heard(agent.voice), 0, "and never the AI");
    for trunk in ["carrier", "ai", "agents"] {
        assert_eq!(story.leg(trunk)["cause"], "completed");
    }
    assert_eq!(story.leg("agents")["hangup_by"], "remote");
    assert_eq!(story.leg("agents")["transfer"]["result"], "completed");
}
