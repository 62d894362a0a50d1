//! Reloads under load: no call is dropped, and no RTP packet is lost between the parties.

use crate::harness::parties::caller;
use crate::harness::sipp::media_of;
use crate::harness::wire::Wire;
use crate::harness::{Client, Conversation, Counted, EdgeConfig, Scene, Sipp, wait};
use crate::load::{Party, host};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener};

/// Reloads during the calls; the load goes on all the while.
const RELOADS: usize = 100;
/// Calls whose packets are counted.
const COUNTED: u16 = 4;

/// The calls whose packets are counted: who plays in them, and what they say.
struct Calls {
    carriers: Vec<Sipp>,
    agents: Vec<Client>,
    talks: Vec<Conversation>,
}

impl Calls {
    /// Several callers are answered by one platform, each call with a voice of its own on both sides.
    fn begin(scene: &Scene) -> Calls {
        let listener = TcpListener::bind((scene.net.ai, 5070)).expect("the platform's port");
        let platform = listener.local_addr().expect("a bound listener");
        let mut open = Vec::new();
        let mut calls = Calls {
            carriers: Vec::new(),
            agents: Vec::new(),
            talks: Vec::new(),
        };
        for n in 0..COUNTED {
            let one = Counted::bind(scene.net.carrier);
            let other = Counted::bind(scene.net.ai);
            let at = SocketAddr::new(scene.net.carrier, 5072 + 2 * n);
            let carrier = scene.calls(&format!("carrier{n}"), &caller(one.address()), at);
            let wire = Wire::next_to_speak(&listener, &mut open);
            let (mut agent, invite) = Client::called_over(wire, platform);
            agent.accepts(&invite, other.address());
            // The edge calls the next agent over the connections that it has; each agent goes on over its own.
            let own = Wire::connect(scene.net.ai, scene.edge.sip);
            open.push(std::mem::replace(&mut agent.wire, own));
            let from_agent = media_of(&invite).expect("SDP");
            let from_carrier = carrier.remote_media();
            let talk = Conversation::begins((one, from_carrier), (other, from_agent));
            calls.carriers.push(carrier);
            calls.agents.push(agent);
            calls.talks.push(talk);
        }
        for talk in &calls.talks {
            talk.is_up();
        }
        calls
    }

    /// Every packet has arrived; then the agents hang up. Gives how many packets were sent in all.
    fn end(mut self) -> usize {
        let packets: usize = self
            .talks
            .into_iter()
            .map(|talk| 2 * usize::from(talk.ends()))
            .sum();
        for (agent, carrier) in self.agents.iter_mut().zip(&mut self.carriers) {
            agent.hangs_up();
            carrier.passes();
        }
        packets
    }
}

/// The configuration with things that no running call is concerned by: a trunk, a prefix and a route, each of which comes and
/// goes at its own pace.
fn changed(text: &str, n: usize) -> String {
    let mut text = text.to_owned();
    if has_extra_trunk(n) {
        text += &format!(
            "\n[[trunk]]\nname = \"extra\"\nallow = [\"203.0.113.{}\"]\nuri = \"sip:203.0.113.9\"\n",
            n % 250
        );
    }
    if n % 3 == 1 {
        text = text.replace(
            "/32\", ]",
            &format!("/32\", \"198.51.100.{}/32\"]", n % 250),
        );
    }
    if n % 5 < 3 {
        text +=
            &format!("\n[[route]]\nfrom = \"carrier\"\nnumber = \"+1777{n}*\"\nto = \"agents\"\n");
    }
    text
}

const fn has_extra_trunk(n: usize) -> bool {
    n % 2 == 1
}

#[test]
fn a_hundred_reloads_under_load_drop_no_call_and_lose_no_packet() {
    let config = EdgeConfig {
        edge: "cores = [0, 1]".into(),
        // The load's platform answers at the address of the agents' trunk.
        tail: "[[route]]\nfrom = \"carrier\"\nnumber = \"+1998*\"\nto = \"agents\"".into(),
        ..EdgeConfig::default()
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let net = &scene.net;
    let dir = scene.dir.path();
    let file = dir.join("sip-edge.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    assert_ne!(changed(&text, 1), changed(&text, 2));
    assert!(text.contains("/32\", ]"), "the prefix has its place");
    let calls = Calls::begin(&scene);
    let _platform = Party::start(dir, "call-agent", (&host(net.human), 5080), &[]);
    let mut load = Party::start(
        dir,
        "call-caller",
        (&host(net.carrier), 5064),
        &[
            &scene.edge.sip.to_string(),
            "-inf",
            &load_numbers(dir),
            "-d",
            "1000",
            "-r",
            "40",
            "-m",
            "400",
        ],
    );
    let reloads = || {
        let applied = scene
            .edge
            .metric("sip_edge_reloads_total{result=\"applied\"}");
        applied.unwrap_or(0.0) as usize
    };
    for n in 1..=RELOADS {
        std::fs::write(&file, changed(&text, n)).expect("writable");
        scene.edge.signal(Signal::HUP);
        wait::until("the reload", || (reloads() >= n).then_some(()));
        // It is in force.
        let trunks = scene.edge.get("/v1/trunks");
        assert_eq!(trunks.contains("\"extra\""), has_extra_trunk(n), "{trunks}");
    }
    let packets = calls.end();
    load.passes();
    assert_eq!(scene.edge.cdrs(2 * (400 + usize::from(COUNTED))).len(), 808);
    println!("{RELOADS} reloads, 404 calls, {packets} packets, none lost");
}

/// Numbers that the route of the load matches.
fn load_numbers(dir: &std::path::Path) -> String {
    let file = dir.join("numbers.csv");
    std::fs::write(&file, "SEQUENTIAL\n+19985550123;+15550100;\n").expect("writable");
    file.display().to_string()
}
