use super::*;
use crate::test_support::{CALL, NUMBER, PASSWORD};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Long enough never to matter unless something hangs.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

#[test]
fn health_metrics_and_readiness_are_open_on_loopback() {
    let scene = Scene::new();
    assert_eq!(scene.get("/healthz").json()["status"], "ok");
    assert_eq!(
        (
            scene.get("/readyz").status,
            scene.get("/readyz").json()["ready"].clone()
        ),
        (200, true.into())
    );
    let metrics = scene.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.content_type, crate::metrics::CONTENT_TYPE);
    assert!(metrics.text.contains("sip_edge_build_info{version="));
    assert!(metrics.text.contains("\nsip_edge_ready 1\n"));
}

#[test]
fn an_edge_that_is_not_ready_says_why() {
    let scene = Scene::new();
    *scene.edge.readiness.lock().expect("no panic") = Readiness {
        ready: false,
        draining: true,
        problems: vec!["XDP was detached from eth0".to_owned()],
    };
    let answer = scene.get("/readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["problems"][0], "XDP was detached from eth0");
    let metrics = scene.get("/metrics").text;
    assert!(
        metrics.contains("\nsip_edge_ready 0\n") && metrics.contains("\nsip_edge_draining 1\n")
    );
}

#[test]
fn call_details_and_everything_that_acts_need_the_token() {
    let mut scene = Scene::new();
    scene.call(usize::MAX);
    let detail = format!("/v1/calls/{CALL}");
    let transfer = format!("{detail}/transfer");
    for (method, path) in [
        ("GET", detail.as_str()),
        ("POST", "/v1/reload"),
        ("POST", "/v1/drain"),
        ("POST", transfer.as_str()),
    ] {
        let answer = scene.request(method, path, None, "{}");
        assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{path}");
        assert_eq!(
            answer.challenge.as_deref(),
            Some("Bearer realm=\"sip-edge\"")
        );
    }
    assert!(!*scene.edge.drained.lock().expect("no panic"));
}

#[test]
fn a_wrong_token_is_refused_even_where_none_is_needed() {
    let scene = Scene::new();
    let right = scene.bearer();
    let wrong = [
        "Bearer ",
        "Bearer wrong",
        "Basic eDp5",
        "bearer",
        &right[..right.len() - 1],
    ];
    for value in wrong {
        let answer = scene.request("GET", "/healthz", Some(value), "");
        assert_eq!(answer.error().0, 401, "{value}");
    }
    let lower = right.replace("Bearer", "bearer");
    assert_eq!(
        scene.request("GET", "/healthz", Some(&lower), "").status,
        200
    );
}

#[test]
fn off_loopback_everything_needs_the_token() {
    let scene = Scene::on("0.0.0.0:0");
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/calls",
        "/v1/trunks",
        "/v1/events",
        "/nothing",
    ] {
        assert_eq!(
            scene.get(path).error(),
            (401, "unauthorized".to_owned()),
            "{path}"
        );
    }
    assert_eq!(scene.operator_get("/metrics").status, 200);
    assert_eq!(scene.operator_get("/nothing").status, 404);
}

#[test]
fn calls_are_listed_with_numbers_for_the_operator_only() {
    let mut scene = Scene::new();
    scene.call(6);
    let list = scene.operator_get("/v1/calls").json();
    assert_eq!(list["active"], 1);
    let call = &list["calls"][0];
    assert_eq!(
        (call["call"].as_str(), call["state"].as_str()),
        (Some(CALL), Some("active"))
    );
    assert_eq!(call["from"], format!("sip:{NUMBER}@192.0.2.1"));
    assert_eq!(call["legs"][1]["trunk"], "ai");
    assert_eq!(call["legs"][1]["state"], "answered");
    let masked = scene.get("/v1/calls");
    assert_eq!(masked.json()["calls"][0]["from"], "sip:***@192.0.2.1");
    assert!(
        !masked.text.replace(CALL, "").contains("234567"),
        "{}",
        masked.text
    );
}

#[test]
fn calls_are_filtered_by_state_and_number() {
    let mut scene = Scene::new();
    scene.call(usize::MAX);
    let count = |path: &str| scene.get(path).json()["calls"].as_array().map(Vec::len);
    assert_eq!(count("/v1/calls"), Some(1));
    assert_eq!(count("/v1/calls?state=active"), Some(0));
    assert_eq!(count("/v1/calls?state=ended"), Some(1));
    assert_eq!(count("/v1/calls?limit=0"), Some(0));
    for bad in ["state=dead", "limit=-1", "limit=x"] {
        let answer = scene.get(&format!("/v1/calls?{bad}"));
        assert_eq!(answer.error(), (400, "bad_query".to_owned()), "{bad}");
    }
}

#[test]
fn a_call_is_told_by_its_legs_and_its_timeline() {
    let mut scene = Scene::new();
    scene.call(usize::MAX);
    // The start of the id is enough.
    let call = scene
        .operator_get(&format!("/v1/calls/{}", &CALL[..8]))
        .json();
    assert_eq!(
        (call["state"].as_str(), call["cause"].as_str()),
        (Some("ended"), Some("completed"))
    );
    assert_eq!(call["duration_ms"], 8_002);
    let legs = call["legs"].as_array().expect("legs");
    assert_eq!(legs.len(), 3);
    assert_eq!(legs[2]["transfer"]["result"], "completed");
    assert_eq!(legs[1]["refers"][0]["cause"], "target_not_allowed");
    assert_eq!(legs[0]["media"]["received"]["packets"], 50);

    let timeline = call["timeline"].as_array().expect("a timeline");
    assert_eq!(timeline.len(), call_with_transfer().len());
    let fields: BTreeSet<&str> = ["at", "leg", "kind", "detail", "reason"].into();
    let mut last = String::new();
    for line in timeline {
        let have: BTreeSet<&str> = line
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(have, fields);
        let at = line["at"].as_str().expect("a time").to_owned();
        assert!(at >= last && at.ends_with('Z'), "{at}");
        last = at;
    }
    let refused = timeline
        .iter()
        .find(|l| l["kind"] == "refer")
        .expect("a verdict");
    assert_eq!(refused["leg"], 2);
    assert_eq!(
        refused["reason"],
        format!("target_not_allowed: sip:{NUMBER}@203.0.113.66 leads to no trunk")
    );
}

#[test]
fn a_call_under_way_is_told_so_far() {
    let mut scene = Scene::new();
    scene.call(5);
    let call = scene.operator_get(&format!("/v1/calls/{CALL}")).json();
    assert_eq!(call["state"], "active");
    assert_eq!(call["end"], Value::Null);
    let legs = call["legs"].as_array().expect("legs");
    assert_eq!(
        (legs[0]["state"].as_str(), legs[1]["state"].as_str()),
        (Some("ringing"), Some("answered"))
    );
    assert!(legs[1]["answer"].is_string() && legs[0]["answer"].is_null());
}

#[test]
fn what_is_not_there_is_said_in_json() {
    let scene = Scene::new();
    let unknown = scene.operator_get("/v1/calls/ffffffffffff");
    assert_eq!(unknown.error(), (404, "unknown_call".to_owned()));
    assert_eq!(scene.get("/v2").error(), (404, "unknown_path".to_owned()));
    assert_eq!(
        scene.operator_post("/metrics", "").error(),
        (405, "wrong_method".to_owned())
    );
    assert_eq!(
        scene.operator_get("/v1/reload").error(),
        (405, "wrong_method".to_owned())
    );
    assert_eq!(
        scene.operator_get("/v1/calls/%ff").error(),
        (400, "bad_path".to_owned())
    );
}

#[test]
fn trunks_are_shown_without_their_secrets() {
    let mut scene = Scene::new();
    scene.call(usize::MAX);
    let trunks = scene.operator_get("/v1/trunks").json();
    let ai = &trunks["trunks"][1];
    assert_eq!(ai["name"], "ai");
    assert_eq!(ai["allow"][0], "198.51.100.0/24");
    assert_eq!(ai["uri"][0], "sip:192.0.2.10:5060;transport=tcp");
    assert_eq!(ai["username"], "trunk-user");
    assert_eq!(
        scene.get("/v1/trunks").json()["trunks"][1]["username"],
        Value::Null
    );
    let token = scene.bearer().replace("Bearer ", "");
    let call = format!("/v1/calls/{CALL}");
    for path in [
        "/v1/trunks",
        "/v1/calls",
        "/metrics",
        "/readyz",
        call.as_str(),
    ] {
        let text = scene.operator_get(path).text;
        assert!(!text.contains(PASSWORD) && !text.contains(&token), "{path}");
    }
}

#[test]
fn an_address_is_tested_against_the_live_allow_list() {
    let scene = Scene::new();
    let test = |trunk: &str, ip: &str| {
        scene
            .get(&format!("/v1/trunks/{trunk}/allow?ip={ip}"))
            .json()
    };
    let inside = test("ai", "198.51.100.9");
    assert_eq!(inside["allowed"], true);
    assert_eq!(inside["reason"], "allow contains 198.51.100.0/24");
    assert_eq!(inside["listeners"][0]["listener"], "public");
    assert_eq!(test("ai", "2001:db8::9")["allowed"], true);
    assert_eq!(test("ai", "::ffff:198.51.100.9")["allowed"], true);
    let outside = test("ai", "192.0.2.9");
    assert_eq!(outside["allowed"], false);
    assert_eq!(
        outside["reason"],
        "no network of allow contains the address"
    );
    assert_eq!(outside["listeners"][0]["trunks"][0], "carrier");
    assert_eq!(
        test("agents", "192.0.2.9")["reason"],
        "the trunk has no allow list: it only receives calls"
    );
    assert_eq!(
        scene.get("/v1/trunks/ai/allow?ip=x").error(),
        (400, "bad_query".to_owned())
    );
    assert_eq!(
        scene.get("/v1/trunks/ai/allow").error(),
        (400, "bad_query".to_owned())
    );
    let unknown = scene.get("/v1/trunks/nobody/allow?ip=192.0.2.9");
    assert_eq!(unknown.error(), (404, "unknown_trunk".to_owned()));
    assert!(unknown.text.contains("carrier, ai, agents"));
}

#[test]
fn a_reload_is_reported_and_a_bad_file_is_refused() {
    let scene = Scene::new();
    *scene.edge.reload.lock().expect("no panic") = Ok(ReloadReport {
        trunks_added: vec!["new".to_owned()],
        ..ReloadReport::default()
    });
    let answer = scene.operator_post("/v1/reload", "");
    assert_eq!(
        (answer.status, answer.json()["trunks_added"][0].clone()),
        (200, "new".into())
    );
    *scene.edge.reload.lock().expect("no panic") = Err("sip-edge.toml:7: what is this".to_owned());
    let answer = scene.operator_post("/v1/reload", "");
    assert_eq!(answer.error(), (422, "config_refused".to_owned()));
    assert_eq!(answer.json()["message"], "sip-edge.toml:7: what is this");
}

#[test]
fn one_reload_at_a_time_and_the_rest_of_the_api_goes_on() {
    let scene = Scene::new();
    let open = scene.hold_reload();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| scene.operator_post("/v1/reload", ""));
        // The gate is taken when the first reload runs; until then there is nothing to refuse.
        while scene.edge.gate.lock().expect("no panic").is_some() {
            std::thread::yield_now();
        }
        assert_eq!(
            scene.operator_post("/v1/reload", "").error(),
            (409, "reload_running".to_owned())
        );
        assert_eq!(scene.get("/healthz").status, 200);
        open.send(()).expect("the reload waits");
        assert_eq!(first.join().expect("no panic").status, 200);
    });
    assert_eq!(scene.operator_post("/v1/reload", "").status, 200);
}

#[test]
fn a_drain_is_passed_on() {
    let mut scene = Scene::new();
    scene.call(3);
    let answer = scene.operator_post("/v1/drain", "");
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.json(),
        serde_json::json!({"draining": true, "active": 1})
    );
    assert!(*scene.edge.drained.lock().expect("no panic"));
}

#[test]
fn a_transfer_is_judged_as_far_as_it_is_built() {
    let mut scene = Scene::new();
    scene.call(6);
    let path = format!("/v1/calls/{CALL}/transfer");
    let body = r#"{"target": "tel:+1234567890"}"#;
    assert_eq!(
        scene.operator_post(&path, body).error(),
        (501, "not_built".to_owned())
    );
    for bad in [
        "",
        "{",
        "{}",
        "[]",
        r#"{"target": " "}"#,
        r#"{"target": 7}"#,
    ] {
        assert_eq!(
            scene.operator_post(&path, bad).error(),
            (400, "bad_body".to_owned()),
            "{bad}"
        );
    }
    let unknown = scene.operator_post("/v1/calls/ffffffff/transfer", body);
    assert_eq!(unknown.error(), (404, "unknown_call".to_owned()));
    let long = format!(r#"{{"target": "{}"}}"#, "x".repeat(20_000));
    assert_eq!(scene.operator_post(&path, &long).error().0, 400);
    scene.call(usize::MAX);
    assert_eq!(
        scene.operator_post(&path, body).error(),
        (409, "call_ended".to_owned())
    );
}

/// An open event stream; its head has been read.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(scene: &Scene, path: &str, authorization: Option<&str>) -> (String, Stream) {
        let mut socket = TcpStream::connect(scene.address).expect("connects");
        socket.set_read_timeout(PATIENCE).expect("sets");
        let auth = authorization.map_or_else(String::new, |a| format!("Authorization: {a}\r\n"));
        write!(socket, "GET {path} HTTP/1.1\r\nHost: edge\r\n{auth}\r\n").expect("sends");
        let mut stream = Stream(BufReader::new(socket));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.0.read_line(&mut head).expect("reads"), 0, "{head}");
        }
        (head, stream)
    }

    /// The next event's kind and data.
    fn next(&mut self) -> (String, Value) {
        let mut kind = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).expect("an event"), 0);
            if let Some(name) = line.strip_prefix("event: ") {
                kind = name.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (kind, serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}

#[test]
fn events_are_streamed_as_they_happen() {
    let mut scene = Scene::new();
    let bearer = scene.bearer();
    let (head, mut operator) = Stream::open(&scene, "/v1/events", Some(&bearer));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: text/event-stream")
    );
    let (_, mut local) = Stream::open(&scene, "/v1/events", None);
    let (_, mut other_call) = Stream::open(&scene, "/v1/events?call=other", None);
    scene.call(usize::MAX);
    let mut other = call_with_transfer().remove(0);
    other.call = Some(Arc::from("other"));
    scene.reporter.report(CoreId(0), &other);

    let (kind, first) = operator.next();
    assert_eq!(
        (kind.as_str(), first["kind"].as_str()),
        ("call_started", Some("call_started"))
    );
    assert_eq!(
        (
            first["call"].as_str(),
            first["core"].clone(),
            first["leg"].clone()
        ),
        (Some(CALL), 1.into(), 1.into())
    );
    assert!(first["detail"].as_str().is_some_and(|d| d.contains(NUMBER)));
    for _ in 1..call_with_transfer().len() {
        operator.next();
    }
    assert_eq!(operator.next().1["call"], "other");
    assert_eq!(other_call.next().1["call"], "other");
    let (_, masked) = local.next();
    assert!(
        masked["detail"]
            .as_str()
            .is_some_and(|d| d.contains("sip:***@192.0.2.1") && !d.contains(NUMBER))
    );
}

#[test]
fn streams_are_bounded_and_end_with_the_server() {
    let mut scene = Scene::new();
    let mut open: Vec<Stream> = (0..crate::admin::stream::MAX_STREAMS)
        .map(|_| Stream::open(&scene, "/v1/events", None))
        .map(|(head, stream)| {
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            stream
        })
        .collect();
    assert_eq!(scene.get("/v1/events").error(), (503, "busy".to_owned()));
    assert_eq!(scene.get("/healthz").status, 200);
    scene.stop.stop();
    let thread = scene.thread.take().expect("running");
    thread.join().expect("no panic").expect("served");
    for stream in &mut open {
        let mut rest = Vec::new();
        stream
            .0
            .read_to_end(&mut rest)
            .expect("the server closed it");
    }
}

#[test]
fn nonsense_is_answered_or_closed_and_the_server_goes_on() {
    let scene = Scene::new();
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: edge\r\n\r\n",
        "x".repeat(100_000)
    );
    for request in [
        "\r\n\r\n",
        "INVITE sip:x SIP/2.0\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        long.as_str(),
    ] {
        let mut socket = TcpStream::connect(scene.address).expect("connects");
        socket.set_read_timeout(PATIENCE).expect("sets");
        // The server may close before all of it is sent.
        let _ = socket.write_all(request.as_bytes());
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.0 4"),
            "{text}"
        );
    }
    assert_eq!(scene.get("/healthz").status, 200);
}

#[test]
fn what_cannot_start_says_why() {
    let scene = Scene::new();
    let config = Arc::new(crate::test_support::config());
    let metrics = Arc::new(Metrics::new(&config).expect("valid names"));
    let mut options = AdminSettings {
        address: scene.address,
        token_file: scene.token_file(),
    };
    let bind = |options: &AdminSettings| {
        let shared = scene.reporter.shared();
        let error = AdminServer::bind(
            options,
            Clock::start(),
            shared,
            metrics.clone(),
            scene.edge.clone(),
        )
        .err();
        error.expect("it cannot").to_string()
    };
    let taken = bind(&options);
    assert!(
        taken.contains(&scene.address.to_string()) && taken.contains("in use"),
        "{taken}"
    );
    options.token_file = scene.dir.path().join("missing/admin.token");
    assert!(bind(&options).contains("missing/admin.token"));
}
