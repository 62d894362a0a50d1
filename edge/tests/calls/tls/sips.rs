//! sips: is a promise for the whole dialog.

use super::Secure;
use crate::harness::parties::NUMBER;
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::tunnel::{Service, have_stunnel};
use crate::harness::wire::response_to;
use crate::harness::{EdgeConfig, Net, Scene, Tunnel, Wire, have_sipp};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

#[test]
fn a_call_to_a_sips_trunk_stays_on_tls_whatever_its_contact_says() {
    if !have_sipp() || !have_stunnel() {
        return;
    }
    let secure = Secure::new(Net::v4());
    let at = |port| SocketAddr::new(secure.net.ai, port);
    let (behind, in_the_clear) = (
        TcpListener::bind(at(5070)).expect("a free port"),
        TcpListener::bind(at(5072)).expect("a free port"),
    );
    in_the_clear.set_nonblocking(true).expect("non-blocking");
    let own = secure.peer("ai", at(5071));
    let _tunnel = Tunnel::start(
        secure.dir.path(),
        "front",
        &[Service::server(at(5071), at(5070), &own, None)],
    );
    let usual = secure.config();
    let config = EdgeConfig {
        // It may be called over plain TCP as well, if only its calls were not sips:.
        ai: format!(
            "listen = [\"public\", \"secure\"]\n{}{}",
            secure.trunk(),
            usual.ai
        ),
        ai_uri: Some(format!("\"sips:{}\"", at(5071))),
        ..usual
    };
    let contact = format!("Contact: <sip:agent@{};transport=tcp>", at(5072));
    let scene = Scene::with(secure.net, secure.dir, &config);
    let calls = Scenario::new()
        .caller_invite(NUMBER, 1, "", &sdp(scene.carrier.address))
        .recv_optional(100)
        .recv(200)
        .caller_request("ACK", 1, "", "")
        .await_cue()
        .caller_request("BYE", 2, "", "")
        .recv(200);
    let mut carrier = scene.carrier_calls(&calls);
    let mut agent = Wire::accept(&behind);
    let invite = agent.next_of("INVITE sips:");
    let answer = response_to(&invite, "200 OK", "agent");
    agent.send(&format!("{answer}\n{contact}"), &sdp(scene.ai.address));
    agent.next_of("ACK ");
    // The connection goes: the BYE needs a new one, and the Contact leads to one in the clear.
    drop(agent);
    scene.edge.until_logged("closed by peer");
    carrier.cue("ACK");
    let mut again = Wire::accept(&behind);
    let bye = again.next_of("BYE ");
    again.send(&response_to(&bye, "200 OK", ""), "");
    carrier.passes();
    let nobody = in_the_clear
        .accept()
        .map(|_| ())
        .map_err(|error| error.kind());
    assert_eq!(nobody, Err(ErrorKind::WouldBlock));
    let story = scene.story(2);
    assert_eq!(story.leg("ai")["cause"], "completed");
    assert_eq!(story.leg("carrier")["hangup_by"], "remote");
}
