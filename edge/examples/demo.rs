//! `make demo`: the main job between real SIPp endpoints on loopback, with config/demo.toml.
//!
//! One call is answered by the AI agent, which REFERs it with a digest challenge; the human answers after a 407; caller and
//! human hear each other and the AI hears nothing. Each party's RTP carries a payload of its own. Ends with status 0 only if
//! all of that was seen.

#[path = "../tests/calls/harness/mod.rs"]
mod harness;

use harness::parties::{agent_refers_as, caller, hangs_up_at_cue, human, until_released};
use harness::{Edge, Net, RtpParty, Scenario, Sipp, have_sipp, wait};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long a caller and a human wait for what happens during their call.
const PATIENT: [&str; 2] = ["-timeout", "600s"];

fn main() {
    if !have_sipp() {
        eprintln!("the demo needs SIPp: apt install sip-tester");
        std::process::exit(1);
    }
    let options = Options::of_arguments();
    let net = Net::demo();
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let edge = start(&net, dir.path(), options.running);
    step("sip-edge is ready on loopback with config/demo.toml");

    let voices = [
        RtpParty::new(net.carrier, 0xc1),
        RtpParty::new(net.ai, 0xa1),
        RtpParty::new(net.human, 0x41),
    ];
    let [carrier_rtp, ai_rtp, human_rtp] = &voices;
    let (ai_at, human_at) = (
        SocketAddr::new(net.ai, 5070),
        SocketAddr::new(net.human, 5060),
    );
    let human = hangs_up_at_cue(human(human_rtp.address));
    let mut human =
        Sipp::start(dir.path(), "human", &human, human_at, None, &PATIENT).listening(human_at);
    let agent = agent_refers_as(
        ai_rtp.address,
        "sip:+1234567890@edge.example.net",
        Scenario::await_cue,
        ("ai", "demo-ai"),
    );
    let auth_uri = format!("edge@{};transport=tcp", edge.sip);
    let mut ai = Sipp::start(
        dir.path(),
        "ai",
        &until_released(agent, 3),
        ai_at,
        None,
        &["-auth_uri", &auth_uri],
    )
    .listening(ai_at);
    let carrier_at = SocketAddr::new(net.carrier, 5062);
    let mut carrier = Sipp::start(
        dir.path(),
        "carrier",
        &caller(carrier_rtp.address),
        carrier_at,
        Some(edge.sip),
        &PATIENT,
    );

    carrier_rtp.speak_to(carrier.remote_media());
    ai_rtp.speak_to(ai.remote_media());
    carrier_rtp.hears(ai_rtp, 5);
    ai_rtp.hears(carrier_rtp, 5);
    step("the call is answered: caller and AI agent hear each other");

    ai.cue("ACK");
    ai.until_received("the challenge", |m| m.starts_with("SIP/2.0 401"));
    step("the AI agent's REFER was challenged with 401");
    ai.until_received("202", |m| m.starts_with("SIP/2.0 202"));
    step("with credentials it was accepted with 202");
    human.until_received("credentials", |m| {
        m.starts_with("INVITE") && m.contains("Proxy-Authorization")
    });
    step("the human's side challenged with 407 and got credentials");

    human_rtp.speak_to(human.remote_media());
    carrier_rtp.hears(human_rtp, 5);
    human_rtp.hears(carrier_rtp, 5);
    let ai_heard = ai_rtp.heard_anything();
    carrier_rtp.hears(human_rtp, 25);
    human_rtp.hears(carrier_rtp, 25);
    assert_eq!(
        ai_rtp.heard_anything(),
        ai_heard,
        "the AI hears nothing any more"
    );
    assert_eq!(
        human_rtp.heard(ai_rtp.voice),
        0,
        "the human never hears the AI"
    );
    step("caller and human hear each other, the AI agent hears nothing");

    ai.passes();
    step("the AI agent was told 100, 180 and 200 by NOTIFY, then released");
    if let Some(command) = options.during {
        let packets = talk_during(&command, carrier_rtp, human_rtp);
        step(&format!(
            "{command} ran, and not one of {packets} packets between them was lost"
        ));
    }
    human.cue_after("ACK", 2);
    human.passes();
    carrier.passes();
    step("the human hung up, and so the caller's leg ended");

    report(&edge);
    println!("\ndemo: everything was observed");
}

/// What the packages' smoke test asks for; `make demo` gives no options.
#[derive(Default)]
struct Options {
    /// `--running CDR TOKEN`: the edge runs already with config/demo.toml, and with these files.
    running: Option<(PathBuf, PathBuf)>,
    /// `--during COMMAND`: runs while caller and human talk.
    during: Option<String>,
}

impl Options {
    fn of_arguments() -> Options {
        let mut options = Options::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(option) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.unwrap_or_else(|| panic!("{option}: a value is missing"))
            };
            match option.as_str() {
                "--running" => options.running = Some((value().into(), value().into())),
                "--during" => options.during = Some(value()),
                _ => panic!("{option}: unknown option"),
            }
        }
        options
    }
}

/// Runs `command`, which has to succeed, while two parties talk. Asserts that each heard every packet that the other sent
/// meanwhile, and gives their number.
fn talk_during(command: &str, one: &RtpParty, other: &RtpParty) -> usize {
    let ways = [(one, other), (other, one)];
    // Heard first: what is on its way counts for nobody's loss.
    let before = ways.map(|(speaker, listener)| {
        let heard = listener.heard(speaker.voice);
        (heard, speaker.spoken())
    });
    let status = Command::new(command).status();
    let status = status.unwrap_or_else(|fault| panic!("{command}: {fault}"));
    assert!(status.success(), "{command} ends with {status}");
    let mut packets = 0;
    for ((speaker, listener), (heard, spoken)) in ways.into_iter().zip(before) {
        let sent = speaker.spoken() - spoken;
        assert!(sent > 0, "{} is silent", speaker.address);
        wait::until("every packet is heard", || {
            (listener.heard(speaker.voice) - heard >= sent).then_some(())
        });
        packets += sent;
    }
    packets
}

/// An edge with config/demo.toml: one of its own, or one that runs already and has this CDR file and token.
fn start(net: &Net, dir: &Path, running: Option<(PathBuf, PathBuf)>) -> Edge {
    if let Some((cdr, token)) = running {
        return Edge::attach(net, dir, cdr, token);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Where config/demo.toml has them. The demo's own line count starts at none: a demo that was stopped in the middle has left calls
    // in its journals besides, which an edge would tell of.
    let cdr = root.join("target/demo-cdr.jsonl");
    let token = root.join("target/demo-admin.token");
    remove_all(&cdr);
    Edge::run(net, dir, &root.join("config/demo.toml"), cdr, token)
}

/// Removes the file `cdr`, and those beside it whose names begin with its.
fn remove_all(cdr: &Path) {
    let (Some(directory), Some(name)) = (cdr.parent(), cdr.file_name()) else {
        return;
    };
    for file in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let begins = file
            .file_name()
            .as_encoded_bytes()
            .starts_with(name.as_encoded_bytes());
        if begins && std::fs::remove_file(file.path()).is_err() {
            println!("cannot remove {}", file.path().display());
        }
    }
}

/// Prints timeline and CDR, and checks that they tell the same story.
fn report(edge: &Edge) {
    let lines = edge.cdrs(3);
    let call = lines[0]["call"].as_str().expect("a call id");
    let timeline = edge.timeline(call);
    println!("\ntimeline of call {call}:");
    for entry in &timeline {
        println!("  {entry}");
    }
    println!("\nCDR:");
    for line in &lines {
        println!("{line}");
    }
    assert!(lines.iter().all(|line| line["call"] == call), "one call");
    assert!(
        lines
            .iter()
            .any(|line| line["transfer"]["result"] == "completed"),
        "the transfer completed"
    );
    assert!(
        timeline.iter().any(|entry| entry.contains("REFER")),
        "the timeline shows the REFER"
    );
}

fn step(what: &str) {
    println!("ok  {what}");
}
