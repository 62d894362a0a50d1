//! What the process writes shows no secret to anybody, and a caller's number only where bills are made of it.

use crate::harness::main_job::MainJob;
use crate::harness::{EdgeConfig, Scene};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The numbers in the main job: who calls, who is called, and who is called in the end.
const NUMBERS: [&str; 3] = ["15550100", "19995550123", "1234567890"];
/// A shorter value of a digest may turn up by chance.
const TELLING: usize = 8;

/// Values that credentials and challenges carried, as the parties have seen them on the wire.
fn digest_values(trace: &str) -> BTreeSet<&str> {
    let of = |name: &'static str| {
        let rest = trace.split(name).skip(1);
        rest.filter_map(|rest| rest.strip_prefix("=\"")?.split('"').next())
    };
    let all = of("nonce").chain(of("response"));
    all.filter(|value| value.len() >= TELLING).collect()
}

#[test]
fn nothing_that_is_written_shows_a_secret_and_no_log_a_number() {
    let config = EdgeConfig {
        log: "debug",
        ..EdgeConfig::default()
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let story = MainJob::over_tcp(&scene).plays(&scene);
    let read = |name: &str| fs::read_to_string(scene.dir.path().join(name)).expect(name);
    let traces = [read("ai.messages"), read("human.messages")].concat();
    let values = digest_values(&traces);
    // The challenge to the REFER, the answer, and our own answer to the human's side.
    assert!(values.len() >= 3, "{values:?}");
    let secrets = values
        .into_iter()
        .chain(["s3cret", "Digest username", "Digest realm"]);
    let written = [
        ("the log", scene.edge.log()),
        ("the records", read("cdr.jsonl")),
        ("the journal", journals(scene.dir.path())),
        ("the metrics", scene.edge.metrics()),
        ("the timeline", story.timeline.join("\n")),
        ("the calls", scene.edge.get("/v1/calls")),
        ("the trunks", scene.edge.get("/v1/trunks")),
    ];
    for secret in secrets {
        for (what, text) in &written {
            assert!(!text.contains(secret), "{what} shows {secret}:\n{text}");
        }
    }
    let [(_, log), (_, records), (_, journal), (_, metrics), ..] = &written;
    for number in NUMBERS {
        assert!(!log.contains(number), "the log shows {number}:\n{log}");
        assert!(!metrics.contains(number), "the metrics show {number}");
        assert!(records.contains(number) && journal.contains(number));
    }
    // It is the whole call that was logged.
    assert!(log.contains(&story.call) && log.contains("DEBUG"), "{log}");
    for event in ["REFER", "407", "caller and target are bridged"] {
        assert!(log.contains(event), "no {event}:\n{log}");
    }
}

/// The files beside the CDR file in which a running edge keeps what is open.
fn journals(dir: &Path) -> String {
    let files = fs::read_dir(dir).expect("the directory").flatten();
    let journals = files.filter(|file| file.file_name().to_string_lossy().contains(".open"));
    journals
        .map(|file| String::from_utf8_lossy(&fs::read(file.path()).expect("readable")).into_owned())
        .collect()
}
