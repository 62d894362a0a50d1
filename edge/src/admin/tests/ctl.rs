//! `sip-edge ctl` against a real server.

use super::*;
use crate::admin::client::{CtlArgs, CtlError, execute};
use crate::test_support::{CALL, NUMBER};
use clap::Parser;

/// As the binary embeds it.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    ctl: CtlArgs,
}

fn parse(words: &[&str]) -> CtlArgs {
    let line = std::iter::once("ctl").chain(words.iter().copied());
    Cli::try_parse_from(line).expect("a command line").ctl
}

fn run(args: &CtlArgs) -> Result<(bool, String), CtlError> {
    let mut out = Vec::new();
    let done = execute(args, &mut out)?;
    Ok((done, String::from_utf8(out).expect("text")))
}

impl Scene {
    fn ctl(&self, words: &[&str]) -> Result<(bool, String), CtlError> {
        let (url, token) = (format!("http://{}", self.address), self.token_file());
        let mut all = vec![
            "--admin",
            &url,
            "--token-file",
            token.to_str().expect("UTF-8"),
        ];
        all.extend(words);
        run(&parse(&all))
    }

    fn text(&self, words: &[&str]) -> String {
        self.ctl(words).expect("an answer").1
    }
}

#[test]
fn calls_are_listed_for_people_and_for_programs() {
    let mut scene = Scene::new();
    assert_eq!(scene.text(&["calls"]), "no calls\n");
    scene.call(6);
    let text = scene.text(&["calls"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("CALL"), "{text}");
    assert!(lines[1].starts_with(&CALL[..12]), "{text}");
    assert!(
        lines[1].contains(NUMBER) && lines[1].contains("ai:answered"),
        "{text}"
    );
    assert_eq!(lines[2], "1 active");
    let json: Value = serde_json::from_str(&scene.text(&["--json", "calls"])).expect("JSON");
    assert_eq!(json["calls"][0]["call"], CALL);
    assert_eq!(scene.text(&["calls", "--ended"]), "no calls\n");
}

#[test]
fn a_call_is_printed_with_its_timeline() {
    let mut scene = Scene::new();
    scene.call(usize::MAX);
    let text = scene.text(&["call", &CALL[..12]]);
    assert!(
        text.starts_with(&format!("call {CALL}: ended (completed) since ")),
        "{text}"
    );
    let timeline: Vec<&str> = text.lines().filter(|l| l.contains("  leg ")).collect();
    assert_eq!(timeline.len(), call_with_transfer().len() - 1, "{text}");
    assert!(
        timeline
            .iter()
            .any(|l| l.contains("leg 2  refer ")
                && l.contains("refused with 403 (target_not_allowed: ")),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|l| l.starts_with("3    agents") && l.contains("50/49")),
        "{text}"
    );
}

#[test]
fn trunks_and_their_load_are_printed() {
    let scene = Scene::new();
    let text = scene.text(&["trunks"]);
    assert!(
        text.lines()
            .any(|l| l.starts_with("carrier") && l.contains("0/10") && l.contains("digest+ip")),
        "{text}"
    );
}

#[test]
fn an_address_is_tested_and_the_exit_code_tells() {
    let scene = Scene::new();
    let (allowed, text) = scene
        .ctl(&["allow-test", "ai", "198.51.100.9"])
        .expect("an answer");
    assert!(
        allowed && text.starts_with("198.51.100.9 as ai: allowed: "),
        "{text}"
    );
    let (allowed, text) = scene
        .ctl(&["allow-test", "ai", "192.0.2.9"])
        .expect("an answer");
    assert!(
        !allowed && text.starts_with("192.0.2.9 as ai: not allowed: "),
        "{text}"
    );
    let unknown = scene
        .ctl(&["allow-test", "a/b", "192.0.2.9"])
        .expect_err("no such trunk");
    assert!(
        matches!(unknown, CtlError::Refused { status: 404, .. }),
        "{unknown}"
    );
}

#[test]
fn reload_and_drain_say_what_they_did() {
    let scene = Scene::new();
    *scene.edge.reload.lock().expect("no panic") = Ok(ReloadReport {
        trunks_removed: vec!["old".to_owned()],
        needs_restart: vec!["edge.cores".to_owned()],
        ..ReloadReport::default()
    });
    assert_eq!(
        scene.text(&["reload"]),
        "the new configuration is in force\ntrunks removed: old\nneeds a restart: edge.cores\n"
    );
    *scene.edge.reload.lock().expect("no panic") = Err("line 7: no".to_owned());
    assert_eq!(
        scene.ctl(&["reload"]).expect_err("refused").to_string(),
        "line 7: no"
    );
    assert_eq!(
        scene.text(&["drain"]),
        "draining: no new calls; 0 under way\n"
    );
    assert!(*scene.edge.drained.lock().expect("no panic"));
}

#[test]
fn a_transfer_is_refused_in_the_apis_words() {
    let mut scene = Scene::new();
    scene.call(6);
    let error = scene
        .ctl(&["transfer", CALL, "tel:+1234567890"])
        .expect_err("not built");
    assert!(
        matches!(error, CtlError::Refused { status: 501, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("not built yet"), "{error}");
}

#[test]
fn events_are_followed_until_the_edge_goes() {
    let mut scene = Scene::new();
    let stop = scene.stop.clone();
    let (url, token) = (format!("http://{}", scene.address), scene.token_file());
    let shared = scene.reporter.shared();
    let follower = std::thread::spawn(move || {
        let words = [
            "--admin",
            &url,
            "--token-file",
            token.to_str().expect("UTF-8"),
            "events",
        ];
        run(&parse(&words))
    });
    // What happens before it listens is not for it.
    while shared.listeners() == 0 {
        std::thread::yield_now();
    }
    scene.call(usize::MAX);
    while shared.backlog() > 0 {
        std::thread::yield_now();
    }
    stop.stop();
    let (_, text) = follower.join().expect("no panic").expect("an orderly end");
    assert_eq!(text.lines().count(), call_with_transfer().len(), "{text}");
    assert!(text.lines().all(|l| l.starts_with(&CALL[..12])), "{text}");
}

#[test]
fn an_edge_that_is_not_there_is_explained() {
    // Bound and closed again: nobody listens there now.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port");
    let error = run(&parse(&["--admin", &free.to_string(), "trunks"])).expect_err("nobody there");
    let text = error.to_string();
    assert!(matches!(error, CtlError::Unreachable { .. }), "{text}");
    assert!(
        text.contains("refused") && text.contains("Is sip-edge running"),
        "{text}"
    );
}

#[test]
fn a_token_problem_is_explained() {
    let mut scene = Scene::new();
    scene.call(6);
    let url = format!("http://{}", scene.address);
    let other = scene.dir.path().join("other.token");
    let with = |file: &PathBuf| {
        let file = file.to_str().expect("UTF-8");
        run(&parse(&[
            "--admin",
            &url,
            "--token-file",
            file,
            "call",
            CALL,
        ]))
        .expect_err("refused")
    };
    assert!(with(&other).to_string().contains("other.token"));
    Token::load_or_create(&other).expect("made");
    let wrong = with(&other);
    assert!(matches!(wrong, CtlError::Unauthorized { .. }), "{wrong}");
    assert!(
        wrong.to_string().contains("is it this edge's token_file?"),
        "{wrong}"
    );
}

#[test]
fn another_service_on_the_port_is_recognised() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        let mut request = [0; 1024];
        let _ = socket.read(&mut request);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    });
    let error = run(&parse(&["--admin", &address.to_string(), "trunks"])).expect_err("not ours");
    server.join().expect("no panic");
    assert!(matches!(error, CtlError::NotSipEdge { .. }), "{error}");
}
