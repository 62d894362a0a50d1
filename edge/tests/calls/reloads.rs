//! Reloads under load: no call is dropped, and no RTP packet is lost between the parties.

use crate::harness::parties::{agent_answers, caller};
use crate::harness::{Conversation, Counted, EdgeConfig, Scene, wait};
use crate::load::{Party, host};
use rustix::process::Signal;

/// Reloads during the call; the load goes on all the while.
const RELOADS: usize = 100;

#[test]
fn a_hundred_reloads_under_load_drop_no_call_and_lose_no_packet() {
    let config = EdgeConfig::default();
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let net = &scene.net;
    let dir = scene.dir.path();
    let (one, other) = (Counted::bind(net.carrier), Counted::bind(net.ai));
    // One call whose packets are counted.
    let agent = scene.ai_answers(&agent_answers(other.address()));
    let carrier = scene.carrier_calls(&caller(one.address()));
    let (from_carrier, from_agent) = (carrier.remote_media(), agent.remote_media());
    // And many around it, to the same platform: it answers at the address of the agents' trunk here.
    let file = dir.join("sip-edge.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let route = "\n[[route]]\nfrom = \"carrier\"\nnumber = \"+1998*\"\nto = \"agents\"\n";
    let change = |n: usize| {
        let comment = format!("{text}{route}# change {n}\n");
        std::fs::write(&file, comment).expect("writable");
        scene.edge.signal(Signal::HUP);
    };
    let reloads = || scene.edge.reloads();
    change(0);
    wait::until("the first reload", || (reloads() >= 1).then_some(()));
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
    let call = Conversation::begins((one, from_carrier), (other, from_agent));
    call.is_up();
    for n in 1..=RELOADS {
        change(n);
        wait::until("the reload", || (reloads() > n).then_some(()));
    }
    let sent = call.ends();
    load.passes();
    println!("{RELOADS} reloads, 401 calls, {sent} packets each way, none lost");
}

/// Numbers that the route of the load matches.
fn load_numbers(dir: &std::path::Path) -> String {
    let file = dir.join("numbers.csv");
    std::fs::write(&file, "SEQUENTIAL\n+19985550123;+15550100;\n").expect("writable");
    file.display().to_string()
}
