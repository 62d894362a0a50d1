//! The dashboard and the alert rules ask for metrics that exist, and a real Prometheus that scrapes an edge under load answers every
//! query of the dashboard.

#[path = "calls/harness/mod.rs"]
mod harness;

use harness::{Edge, EdgeConfig, Net, Play, Staging, wait};
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

/// The rules without what is for people.
fn expressions(rules: &str) -> String {
    let lines = rules.lines().filter(|line| !line.contains("runbook:"));
    lines.flat_map(|line| [line, "\n"]).collect()
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
    let dashboard = read("grafana/sip-edge.json");
    let quoted = rules.split("dashboard's ").skip(1);
    for panels in quoted.filter_map(|text| text.lines().next()) {
        for title in panels
            .split("\\\"")
            .skip(1)
            .step_by(2)
            .take_while(|title| title.starts_with(char::is_uppercase))
        {
            let panel = format!("\"title\": \"{title}\"");
            assert!(dashboard.contains(&panel), "the dashboard has no {title:?}");
        }
    }
    // What fires nothing has all that an alert looks at.
    let (_, well) = tests.split_once("fires nothing").expect("the well edge");
    for name in names_in(&expressions(&rules)) {
        assert!(
            well.contains(&format!("'{name}{{")),
            "{name} of an edge that is well"
        );
    }
    for alert in alerts {
        let fires = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
    }
}

/// What a second set of peers with these names, at addresses of its own, adds to `staging.toml`.
struct Peers {
    name: &'static str,
    /// The last numbers of the carrier's, the platform's and the human's addresses.
    hosts: [u8; 3],
    /// Keys of the carrier's trunk, and of the platform's with its transfers.
    carrier: &'static str,
    platform: &'static str,
}

const PEERS: [Peers; 3] = [
    Peers {
        name: "rtp",
        hosts: [12, 13, 14],
        carrier: "",
        platform: "",
    },
    Peers {
        name: "digest",
        hosts: [22, 23, 24],
        carrier: "",
        platform: "digest_algorithms = [\"MD5\"]\nusername = \"ai\"\npassword = \"load\"\n\
            [trunk.transfer]\nmax_transfers = 1\nvia = \"digest-agents\"\ntargets = [\"+1234567890\"]\n",
    },
    Peers {
        name: "small",
        hosts: [32, 33, 34],
        carrier: "max_calls = 2",
        platform: "",
    },
];

impl Peers {
    fn toml(&self, prefix: &str) -> String {
        let Peers {
            name,
            hosts,
            carrier,
            platform,
        } = self;
        let [from, ai, human] = hosts.map(|last| format!("{prefix}{last}"));
        format!(
            r#"
[[trunk]]
name = "{name}-carrier"
allow = ["{from}/32"]
{carrier}

[[trunk]]
name = "{name}-agents"
allow = ["{human}/32"]
uri = "sip:{human}:5080;transport=tcp"

[[trunk]]
name = "{name}-ai"
allow = ["{ai}/32"]
uri = "sip:{ai}:5070;transport=tcp"
{platform}

[[route]]
from = "{name}-carrier"
number = "+1999*"
to = "{name}-ai"
"#
        )
    }

    /// Begins a scenario of the load kit between them.
    fn play(&self, staging: &Staging, scenario: &str, size: [(&str, &str); 3]) -> Play {
        let hosts = self.hosts.map(|last| staging.host(last));
        let names = ["CARRIER", "PLATFORM", "HUMAN"];
        let at = names.iter().zip(&hosts).map(|(n, h)| (*n, h.as_str()));
        let variables: Vec<_> = size.into_iter().chain(at).collect();
        staging.play(scenario, &variables)
    }
}

/// Metrics that stay at zero under an ordinary load.
const QUIET: [&str; 9] = [
    "sip_edge_cdr_backlog_records",
    "sip_edge_rtp_dropped_total",
    // Nothing leaves a loopback interface that way.
    "sip_edge_rtp_link_packets_total",
    "sip_edge_access_xdp_attached",
    "sip_edge_access_xdp_detached_total",
    "sip_edge_ring_overflow_total",
    "sip_edge_cdr_write_errors_total",
    "sip_edge_draining",
    // With one core there is no other.
    "sip_edge_handoffs_total",
];

/// Some ten seconds of 35 calls a second: every kind of call of the load kit, transfers behind a digest challenge, calls with
/// RTP, and a carrier that calls more than it may.
#[test]
fn every_query_of_the_dashboard_returns_data_from_an_edge_under_load() {
    let Some(prometheus) = program("prometheus") else {
        return;
    };
    // An interface that is not there: XDP says so, and nothing on this machine is touched.
    let more = |text: String| {
        let (_, rest) = text.split_once("address = \"").expect("a listener");
        let (edge, _) = rest.split_once("1:5060\"").expect("its address");
        let peers: String = PEERS.iter().map(|peers| peers.toml(edge)).collect();
        format!("{text}\n{peers}\n[access]\ninterfaces = [\"sip-edge-none\"]\n")
    };
    let Some(staging) = Staging::start(more) else {
        return;
    };
    let edge = &staging.edge;
    let prometheus = Prometheus::start(prometheus, &staging.net, staging.dir.path());
    // The counters start at something that they can grow from.
    prometheus.until("a first scrape", || prometheus.has_data("up == 1"));
    strangers_and_nonsense(&staging.net, edge.sip);
    edge.reload();
    let size = |calls, rate, hold| [("CALLS", calls), ("RATE", rate), ("HOLD_MS", hold)];
    let [rtp, digest, small] = &PEERS;
    let plays = [
        staging.play("mixed", &size("200", "20", "1000")),
        rtp.play(&staging, "rtp", size("80", "8", "4000")),
        digest.play(&staging, "transfer-digest", size("30", "3", "1000")),
        small.play(&staging, "overload", size("40", "4", "2000")),
    ];
    let busy = "sum(sip_edge_calls_active) >= 60";
    prometheus.until(busy, || prometheus.has_data(busy));
    plays.into_iter().for_each(|play| drop(play.passed()));
    let idle = "sum(sip_edge_calls_active) == 0";
    prometheus.until(idle, || prometheus.is_so(idle));
    every_cause_is_seen(&prometheus);
    assert!(!prometheus.has_data("up == 0"), "every scrape was answered");

    let exported = edge.metrics();
    let queries = dashboard_queries();
    assert!(queries.len() > 25, "{queries:?}");
    let all: String = queries.iter().map(|(_, q)| format!("{q}\n")).collect();
    let rules = read("prometheus/rules.yml");
    let expressions = expressions(&rules);
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
        let is_quiet = names_in(&query).iter().any(|name| QUIET.contains(name));
        prometheus.until(&format!("data for \"{title}\": {query}"), || {
            let values = prometheus.values(&query);
            match is_quiet {
                true => !values.is_empty(),
                // A flat line at zero would be data, too, and would show nothing.
                false => values.iter().any(|value| *value > 0.0),
            }
        });
    }
}

/// Calls, transfers and refused sources by what the load made of them.
fn every_cause_is_seen(prometheus: &Prometheus) {
    let calls = ["completed", "busy", "cancelled", "no-answer", "trunk_limit"]
        .map(|cause| format!("sip_edge_calls_total{{cause=\"{cause}\"}}"));
    let transfers = ["completed", "busy", "no-answer"]
        .map(|result| format!("sip_edge_transfers_total{{result=\"{result}\"}}"));
    let others = [
        "sip_edge_digest_challenges_total{outcome=\"accepted\"}",
        "sip_edge_access_dropped_packets_total{reason=\"unlisted\"}",
        "sip_edge_malformed_messages_total",
    ]
    .map(str::to_owned);
    for series in calls.into_iter().chain(transfers).chain(others) {
        let increase = format!("sum(increase({series}[2m])) > 0");
        prometheus.until(&increase, || prometheus.has_data(&increase));
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
        !self.values(query).is_empty()
    }

    /// Whether the query has a sample now.
    fn is_so(&self, query: &str) -> bool {
        !self.samples(query, 0).is_empty()
    }

    /// The samples that are numbers, of every series, now and in the last minutes.
    fn values(&self, query: &str) -> Vec<f64> {
        self.samples(query, 240)
    }

    fn samples(&self, query: &str, last_seconds: u64) -> Vec<f64> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let response = ureq::get(format!("{}/query_range", self.api))
            .query("query", query)
            .query("start", (now - last_seconds).to_string())
            .query("end", now.to_string())
            .query("step", "1")
            .call();
        let Ok(mut response) = response else {
            return Vec::new();
        };
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let series = answer["data"]["result"].as_array().into_iter().flatten();
        series
            .filter_map(|one| one["values"].as_array())
            .flatten()
            .filter_map(|sample| sample[1].as_str()?.parse().ok())
            .filter(|value: &f64| !value.is_nan())
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
