//! The commands that answer from a configuration file alone.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

const CONFIG: &str = r#"
[edge]
domains = ["edge.example.net"]
[[listen]]
transport = "tcp"
address = "127.0.0.1:5060"
[media]
addresses = ["127.0.0.1", "::1"]
ports = "10000-20000"
[[trunk]]
name = "carrier"
network = "ipv4"
allow = ["127.0.0.2/32"]
[[trunk]]
name = "ai"
allow = ["127.0.0.3/32"]
uri = "sip:127.0.0.3:5070"
username = "ai"
password = "not-a-real-one"
[trunk.transfer]
max_transfers = 1
via = "agents"
targets = ["+1*", "sip:*@127.0.0.4", "sip:*@desk.example.net"]
fallback = ["sip:help@127.0.0.4"]
[[trunk]]
name = "agents"
uri = ["sip:127.0.0.4:5060", "sip:127.0.0.4:5080"]
headers = { "X-Desk" = "1" }
[[trunk]]
name = "desk"
network = "ipv6"
listen = []
uri = "sip:desk.example.net"
[[listen]]
transport = "tcp"
address = "[::1]:5060"
[[route]]
from = "carrier"
number = "*"
to = "ai"
"#;

fn config(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn edge(arguments: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sip-edge"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn explain(arguments: &[&str]) -> (Option<i32>, String) {
    let file = config(CONFIG);
    let output = edge(
        &[&["explain", "refer", "--trunk", "ai"], arguments].concat(),
        file.path(),
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

fn json(output: &[u8]) -> serde_json::Value {
    serde_json::from_slice(output).unwrap()
}

#[test]
fn check_tells_what_is_good_and_what_peers_need() {
    let file = config(CONFIG);
    let output = edge(&["check"], file.path());
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(": good; 2 listeners, 4 trunks, 1 route\n"),
        "{text}"
    );
    assert!(text.contains("warning: trunk.ai.transfer.targets[2]: transfers would be refused with calls of trunk \"carrier\""));
    let carrier = "\n  carrier\n    signalling  tcp 127.0.0.1:5060\n    media       udp 127.0.0.1:10000-20000\n  ai\n";
    assert!(text.contains(carrier), "{text}");
    assert!(text.contains(
        "\n  desk\n    signalling  tcp [::1]:5060\n    media       udp [::1]:10000-20000\n"
    ));
}

#[test]
fn check_refuses_with_a_status_and_every_finding() {
    let file = config("colour = 1\n[[trunk]]\nname = \"a\"\n");
    let output = edge(&["check"], file.path());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(":1:1: error: colour: unknown key"));
    assert!(text.contains("there is no [[listen]]"));
    assert!(text.ends_with(": refused\n"));
    let missing = edge(&["check"], Path::new("/nonexistent/sip-edge.toml"));
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stdout).contains("cannot find the file"));
}

#[test]
fn check_speaks_json() {
    let bad = config("colour = 1\n");
    let output = edge(&["check", "--json"], bad.path());
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output.stdout);
    assert_eq!(report["ok"], false);
    let finding = report["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["key"] == "colour");
    let finding = finding.unwrap();
    assert_eq!(finding["severity"], "error");
    assert_eq!(
        (&finding["line"], &finding["column"]),
        (&1.into(), &1.into())
    );
    let good = config(CONFIG);
    let report = json(&edge(&["check", "--json"], good.path()).stdout);
    assert_eq!(report["ok"], true);
    assert_eq!(report["peers"][1]["trunk"], "ai");
    assert_eq!(report["peers"][0]["signalling"][0], "tcp 127.0.0.1:5060");
}

#[test]
fn explain_an_accepted_refer() {
    let target = "sip:+1234567890@edge.example.net?X-Ticket=7&Route=x";
    let (status, text) = explain(&[
        "--refer-to",
        target,
        "--header",
        "X-Customer-ID: 42",
        "--header",
        "PH-Id: 1",
    ]);
    assert_eq!(status, Some(0));
    let expected = r#"REFER from trunk "ai" to sip:+1234567890@edge.example.net?X-Ticket=7&Route=x

  yes        is the dialog known? (supposed) a dialog of trunk "ai"
  yes        may the source signal on the dialog's trunk? (supposed) the trunk lists it
  yes        is the call answered? (supposed) answered
  yes        is no other transfer pending? (supposed) none is
  yes        are transfers enabled? max_transfers is 1
  yes        is it authenticated? digest; right credentials are supposed
  yes        are transfers left? 0 of 1 used
  yes        is Refer-To valid? sip:+1234567890@edge.example.net
  yes        is the target allowed? trunk "agents" calls "+1234567890"
  yes        do the address families match? IPv4 only

Accepted: 202. Then trunk "agents" sends
  INVITE sip:+1234567890@127.0.0.4:5060;transport=tcp
  INVITE sip:+1234567890@127.0.0.4:5080;transport=tcp
  and answers a challenge as "ai"
  with X-Ticket: 7
  with X-Customer-ID: 42
  with X-Desk: 1
  without Route (SIP itself uses it)
  without PH-Id (drop_headers PH-*)
  and gives up after 30 s of ringing
  if that fails, calls sip:help@127.0.0.4 over trunk "agents"
"#;
    assert_eq!(text, expected);
}

#[test]
fn explain_says_which_step_refuses() {
    for (arguments, step, end) in [
        (
            &["--refer-to", "+1234567890", "--source", "127.0.0.9"][..],
            "no         may the source signal on the dialog's trunk? the source is not in the allow list",
            "Refused: 403 transfer_unauthorized\n",
        ),
        (
            &["--refer-to", "+1234567890", "--transfers-done", "1"],
            "no         are transfers left? the call already had 1 of 1 transfers",
            "Refused: 403 transfer_limit\n",
        ),
        (
            &["--refer-to", "http://example.net"],
            "no         is Refer-To valid?",
            "Refused: 416 target_invalid\n",
        ),
        (
            &["--refer-to", "sip:x@127.0.0.4;maddr=192.0.2.1"],
            "no         is the target allowed? maddr in the target is not allowed",
            "Refused: 403 target_not_allowed\n",
        ),
        (
            &["--refer-to", "sip:x@desk.example.net"],
            "no         do the address families match? the other party's leg is IPv4 only",
            "Refused: 403 network_mismatch\n",
        ),
    ] {
        let (status, text) = explain(arguments);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(step), "{text}");
        assert!(text.ends_with(end), "{text}");
    }
    let (_, text) = explain(&["--refer-to", "nonsense"]);
    assert!(
        text.contains("not asked  is the target allowed?\n"),
        "{text}"
    );
}

#[test]
fn explain_speaks_json_and_knows_nonsense() {
    let file = config(CONFIG);
    let question = [
        "explain",
        "refer",
        "--refer-to",
        "+1234567890",
        "--json",
        "--trunk",
    ];
    let output = edge(&[&question[..], &["ai"]].concat(), file.path());
    let answer = json(&output.stdout);
    assert_eq!(answer["accepted"], true);
    assert_eq!(answer["steps"][9]["answer"], "yes");
    assert_eq!(answer["call"]["trunk"], "agents");
    let output = edge(&[&question[..], &["carrier"]].concat(), file.path());
    assert_eq!(output.status.code(), Some(1));
    let answer = json(&output.stdout);
    assert_eq!(
        (&answer["status"], &answer["cause"]),
        (&403.into(), &"transfer_disabled".into())
    );
    let output = edge(&[&question[..], &["nobody"]].concat(), file.path());
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "sip-edge: there is no trunk \"nobody\"; expected one of carrier, ai, agents, desk\n"
    );
}

#[test]
fn the_version_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_sip-edge"))
        .arg("--version")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("sip-edge {}\n", env!("CARGO_PKG_VERSION")));
}
