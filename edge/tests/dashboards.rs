//! The dashboard and the alert rules ask for metrics that exist, and a real Prometheus that scrapes a busy edge answers every query
//! of the dashboard.

#[path = "calls/harness/mod.rs"]
mod harness;

use harness::parties::{agent_refers, caller, human, until_released};
use harness::{Edge, EdgeConfig, Net, RtpParty, Sipp, have_sipp, wait};
use serde_json::Value;
use sip_edge::access::Reason;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(packaging(file)).unwrap_or_else(|fault| panic!("{file}: {fault}"))
}

/// Title and expression of every query of the dashboard.
fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana/sip-edge.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let expression = |target: Value| target["expr"].as_str().map(str::to_owned);
        let queries = targets.into_iter().filter_map(expression);
        queries
            .map(move |query| (title.clone(), query))
            .collect::<Vec<_>>()
    };
    panels.iter().flat_map(of_panel).collect()
}

#[test]
fn every_metric_is_shown_or_raises_an_alert() {
    let readme = std::fs::read_to_string(packaging("../README.md")).expect("the README");
    let (_, table) = readme.split_once("<!-- metrics:").expect("the metrics");
    let metrics: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    assert!(metrics.len() > 20, "{metrics:?}");
    let uses = read("grafana/sip-edge.json") + &read("prometheus/rules.yml");
    let unused: Vec<_> = metrics
        .iter()
        .filter(|name| !uses.contains(*name))
        .collect();
    assert!(unused.is_empty(), "neither shown nor watched: {unused:?}");
}

#[test]
fn the_alert_rules_are_tested_with_reasons_that_there_are() {
    let text = read("prometheus/rules.test.yml");
    let series = text
        .lines()
        .filter(|line| line.contains("sip_edge_access_dropped_packets_total{"));
    let reasons: BTreeSet<&str> = series
        .filter_map(|line| line.split_once("reason=\"")?.1.split('"').next())
        .collect();
    assert!(!reasons.is_empty());
    let known = Reason::ALL.map(Reason::as_str);
    let unknown: Vec<_> = reasons.iter().filter(|r| !known.contains(*r)).collect();
    assert!(unknown.is_empty(), "never emitted: {unknown:?}");
}

#[test]
fn panels_have_an_id_and_a_place_of_their_own() {
    let dashboard: Value = serde_json::from_str(&read("grafana/sip-edge.json")).expect("JSON");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
        let of = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(of("x") + of("w") <= 24, "{}", panel["title"]);
        for (x, y) in (of("x")..of("x") + of("w"))
            .flat_map(|x| (of("y")..of("y") + of("h")).map(move |y| (x, y)))
        {
            assert!(cells.insert((x, y)), "{} overlaps", panel["title"]);
        }
    }
}

/// The metric names in a text of expressions.
fn names_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            word.starts_with("sip_edge_") || word.starts_with("process_") || *word == "up"
        })
        .collect()
}

/// Whether /metrics can hold a series of that name.
fn exists(name: &str, exported: &str) -> bool {
    let kind = |name: &str, kind: &str| exported.contains(&format!("# TYPE {name} {kind}\n"));
    let histogram = ["_bucket", "_sum", "_count"]
        .into_iter()
        .filter_map(|suffix| name.strip_suffix(suffix))
        .any(|family| kind(family, "histogram"));
    name == "up" || histogram || kind(name, "counter") || kind(name, "gauge")
}

/// `None`, said aloud, where the program is not installed.
fn program(name: &str) -> Option<Command> {
    let found = Command::new(name)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {name} is not installed (apt install prometheus)");
        return None;
    }
    Some(Command::new(name))
}

#[test]
fn the_alert_rules_are_valid_and_fire_when_they_should() {
    let Some(mut check) = program("promtool") else {
        return;
    };
    let rules = packaging("prometheus");
    let run = |command: &mut Command| {
        let output = command.current_dir(&rules).output().expect("promtool runs");
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    };
    run(check.args(["check", "rules", "rules.yml"]));
    run(Command::new("promtool").args(["check", "config", "--syntax-only", "scrape.yml"]));
    run(Command::new("promtool").args(["test", "rules", "rules.test.yml"]));
    let (rules, tests) = (
        read("prometheus/rules.yml"),
        read("prometheus/rules.test.yml"),
    );
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert_eq!(rules.matches("runbook: ").count(), alerts.len());
    for alert in alerts {
        let fires = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
    }
}

#[test]
fn every_query_of_the_dashboard_returns_data_from_an_edge_with_a_call() {
    let Some(prometheus) = program("prometheus").filter(|_| have_sipp()) else {
        return;
    };
    let net = Net::v4();
    let dir = TempDir::new().expect("a directory");
    // An interface that is not there: XDP says so, and nothing on this machine is touched.
    let config = EdgeConfig {
        tail: "[access]\ninterfaces = [\"sip-edge-none\"]".into(),
        ..EdgeConfig::default()
    };
    let edge = Edge::start(&net, dir.path(), &config);
    let prometheus = Prometheus::start(prometheus, &net, dir.path());
    // The counters start at something that they can grow from.
    prometheus.until("a first scrape", || prometheus.has_data("up == 1"));
    strangers_and_nonsense(&net, edge.sip);
    // What is alerted on began at zero, so the first call is an increase there; response times show with the second.
    for legs in [3, 6] {
        call_with_transfer(&net, dir.path(), &edge);
        edge.cdrs(legs);
        let increase = "sum(increase(sip_edge_transfers_total{result=\"completed\"}[30s])) > 0";
        prometheus.until(increase, || prometheus.has_data(increase));
        let seen = format!("sum(sip_edge_cdr_records_total{{outcome=\"written\"}}) == {legs}");
        prometheus.until(&seen, || prometheus.has_data(&seen));
    }

    let exported = edge.metrics();
    let queries = dashboard_queries();
    assert!(queries.len() > 25, "{queries:?}");
    let all: String = queries.iter().map(|(_, q)| format!("{q}\n")).collect();
    let rules = read("prometheus/rules.yml");
    let expressions: String = rules
        .lines()
        .filter(|line| !line.contains("runbook:"))
        .collect();
    for name in names_in(&all).into_iter().chain(names_in(&expressions)) {
        assert!(
            exists(name, &exported),
            "{name} is not exported:\n{exported}"
        );
    }
    for (title, query) in queries {
        let query = query
            .replace("$__rate_interval", "30s")
            .replace("$instance", ".*")
            .replace("$trunk", ".*");
        assert!(!query.contains('$'), "{title}: unknown variable in {query}");
        prometheus.until(&format!("data for \"{title}\": {query}"), || {
            prometheus.has_data(&query)
        });
    }
}

#[test]
fn a_fresh_edge_shows_what_may_happen_at_zero_and_after_a_reload_what_may_happen_to_a_new_trunk() {
    let (net, dir) = (Net::v4(), TempDir::new().expect("a directory"));
    let edge = Edge::start(&net, dir.path(), &EdgeConfig::default());
    let zeros = |trunk: &str| {
        [
            "sip_edge_calls_total{cause=\"unreachable\",direction=\"outbound\",",
            "sip_edge_digest_challenges_total{outcome=\"challenged\",",
            "sip_edge_transfers_total{cause=\"transfer_disabled\",result=\"denied\",",
        ]
        .map(|series| edge.metric(&format!("{series}trunk=\"{trunk}\"}}")))
    };
    for trunk in ["carrier", "ai", "agents"] {
        assert_eq!(zeros(trunk), [Some(0.0); 3], "{trunk}");
    }
    for series in [
        "sip_edge_transfers_total{cause=\"completed\",result=\"completed\",trunk=\"ai\"}",
        "sip_edge_transfers_total{cause=\"no-answer\",result=\"no-answer\",trunk=\"ai\"}",
        "sip_edge_transfers_total{cause=\"dialog_unknown\",result=\"denied\",trunk=\"other\"}",
        "sip_edge_access_dropped_packets_total{listener=\"public\",reason=\"unlisted\"}",
        "sip_edge_ring_overflow_total{core=\"0\",ring=\"calls\"}",
        "sip_edge_reloads_total{result=\"refused\"}",
    ] {
        assert_eq!(edge.metric(series), Some(0.0), "{series}");
    }
    assert_eq!(zeros("late"), [None; 3]);
    let file = dir.path().join("sip-edge.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let more = format!("{text}\n[[trunk]]\nname = \"late\"\nallow = [\"192.0.2.7\"]\n");
    std::fs::write(&file, more).expect("writable");
    edge.ctl(&["reload"]);
    assert_eq!(zeros("late"), [Some(0.0); 3]);
}

/// A source that no trunk lists, and a listed one that talks nonsense.
fn strangers_and_nonsense(net: &Net, sip: SocketAddr) {
    for from in [net.stranger, net.carrier] {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket
            .bind(&SocketAddr::new(from, 0).into())
            .expect("a loopback address");
        if socket.connect(&sip.into()).is_ok() {
            let mut stream: TcpStream = socket.into();
            // A stranger's connection may be closed before it speaks.
            let _ = stream.write_all(b"nonsense\r\n\r\n");
        }
    }
}

fn call_with_transfer(net: &Net, dir: &Path, edge: &Edge) {
    let voice = |ip, voice| RtpParty::new(ip, voice);
    let (carrier_rtp, ai_rtp, human_rtp) = (
        voice(net.carrier, 0xc1),
        voice(net.ai, 0xa1),
        voice(net.human, 0x41),
    );
    let (ai_at, human_at) = (
        SocketAddr::new(net.ai, 5070),
        SocketAddr::new(net.human, 5080),
    );
    let scenario = human(human_rtp.address)
        .pause(1000)
        .callee_request("BYE", 20, "", "")
        .recv(200);
    let mut human = Sipp::start(dir, "human", &scenario, human_at, None, &[]).listening(human_at);
    let agent = agent_refers(ai_rtp.address, "sip:+1234567890@edge.example.net", 1000);
    let auth_uri = format!("edge@{};transport=tcp", edge.sip);
    let agent = until_released(agent, 3);
    let mut ai =
        Sipp::start(dir, "ai", &agent, ai_at, None, &["-auth_uri", &auth_uri]).listening(ai_at);
    let carrier_at = SocketAddr::new(net.carrier, 5062);
    let scenario = caller(carrier_rtp.address);
    let mut carrier = Sipp::start(dir, "carrier", &scenario, carrier_at, Some(edge.sip), &[]);
    carrier_rtp.speak_to(carrier.remote_media());
    ai_rtp.speak_to(ai.remote_media());
    carrier_rtp.hears(&ai_rtp, 5);
    human_rtp.speak_to(human.remote_media());
    carrier_rtp.hears(&human_rtp, 5);
    ai.passes();
    human.passes();
    carrier.passes();
}

/// A running Prometheus that scrapes the edge every second. It is killed when dropped.
struct Prometheus {
    child: Child,
    api: String,
    log: PathBuf,
}

impl Prometheus {
    fn start(mut command: Command, net: &Net, dir: &Path) -> Prometheus {
        // All of 127.0.0.0/8 is loopback: no token.
        let scrape = read("prometheus/scrape.yml")
            .replace("127.0.0.1:9090", &format!("{}:9090", net.edge))
            .replace("scrape_interval: 15s", "scrape_interval: 1s");
        let config = dir.join("prometheus.yml");
        std::fs::write(&config, scrape).expect("the configuration is written");
        let address = SocketAddr::new(net.stranger, 9091);
        let log = dir.join("prometheus.log");
        let output = std::fs::File::create(&log).expect("a log file");
        let child = command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("Prometheus starts");
        Prometheus {
            child,
            api: format!("http://{address}/api/v1"),
            log,
        }
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        wait::until(&format!("{what}\n{log}"), || holds().then_some(()));
    }

    /// Whether the query has a sample that is a number, now or in the last minutes.
    fn has_data(&self, query: &str) -> bool {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let response = ureq::get(format!("{}/query_range", self.api))
            .query("query", query)
            .query("start", (now - 240).to_string())
            .query("end", now.to_string())
            .query("step", "1")
            .call();
        let Ok(mut response) = response else {
            return false;
        };
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let series = answer["data"]["result"].as_array();
        series.into_iter().flatten().any(|one| {
            let samples = one["values"].as_array();
            samples
                .into_iter()
                .flatten()
                .any(|sample| sample[1].as_str().is_some_and(|value| value != "NaN"))
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
