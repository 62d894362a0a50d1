use super::*;
use crate::test_support::{call_with_transfer, config, trunk};
use edge_proto::event::{Cause, Direction, Event, EventKind};
use edge_proto::sip::Method;
use edge_proto::time::{Duration, Instant};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn metrics() -> Metrics {
    Metrics::new(&config()).expect("names and labels are valid")
}

fn observe(metrics: &Metrics, kind: EventKind) {
    let event = Event {
        at: Instant::ZERO,
        call: None,
        leg: None,
        kind,
    };
    Observer::default().observe(metrics, CoreId(1), &event);
}

/// The value of a series in the text that Prometheus gets.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render().expect("renders");
    let line = text.lines().find(|l| {
        l.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

fn response(trunk: &str, method: &str, code: u16) -> EventKind {
    EventKind::Response {
        trunk: Arc::from(trunk),
        method: Method::from_token(method),
        code,
        direction: Direction::Outbound,
        elapsed: Some(Duration::from_millis(300)),
    }
}

/// One event or reading for each family of the contract.
fn exercise(metrics: &Metrics) {
    let mut observer = Observer::default();
    for event in call_with_transfer() {
        observer.observe(metrics, CoreId(0), &event);
    }
    let ai: Arc<str> = Arc::from("ai");
    observe(
        metrics,
        EventKind::Request {
            trunk: ai.clone(),
            method: Method::Refer,
            direction: Direction::Inbound,
        },
    );
    observe(
        metrics,
        EventKind::Digest {
            trunk: ai,
            outcome: "challenged",
        },
    );
    observe(
        metrics,
        EventKind::AccessDropped {
            listener: Arc::from("public"),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            reason: "unlisted",
        },
    );
    observe(
        metrics,
        EventKind::Overflow {
            queue: "transactions",
        },
    );
    observe(
        metrics,
        EventKind::Malformed {
            source: SocketAddr::from(([192, 0, 2, 1], 5060)),
            fault: "no Via".to_owned(),
        },
    );
    metrics.leg_alive("carrier", true);
    metrics.rtp_packets_total(CoreId(0), "io_uring", "inbound", 7);
    metrics.rtp_dropped_total(CoreId(0), "stranger", 2);
    metrics.watch_relay_latency(CoreId(0), Arc::default());
}

/// Names and labels that dashboards rely on.
const CONTRACT: &[(&str, &[&str])] = &[
    ("sip_edge_calls_active", &["trunk"]),
    ("sip_edge_calls_total", &["trunk", "direction", "cause"]),
    ("sip_edge_transfers_total", &["trunk", "result", "cause"]),
    (
        "sip_edge_sip_requests_total",
        &["trunk", "method", "direction"],
    ),
    (
        "sip_edge_sip_responses_total",
        &["trunk", "method", "code", "direction"],
    ),
    ("sip_edge_sip_response_seconds", &["trunk", "method"]),
    ("sip_edge_transfer_seconds", &["trunk"]),
    ("sip_edge_digest_challenges_total", &["trunk", "outcome"]),
    ("sip_edge_rtp_packets_total", &["core", "lane", "direction"]),
    ("sip_edge_rtp_dropped_total", &["core", "reason"]),
    ("sip_edge_rtp_relay_latency_seconds", &["core", "lane"]),
    (
        "sip_edge_access_dropped_packets_total",
        &["listener", "reason"],
    ),
    ("sip_edge_ring_overflow_total", &["core", "ring"]),
    ("sip_edge_build_info", &["version"]),
];

#[test]
fn every_name_of_the_contract_is_there_with_its_labels() {
    let metrics = metrics();
    exercise(&metrics);
    let families = metrics.registry.gather();
    for (name, labels) in CONTRACT {
        let family = families
            .iter()
            .find(|f| f.name() == *name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        for series in family.get_metric() {
            let have: BTreeSet<&str> = series.get_label().iter().map(|l| l.name()).collect();
            assert_eq!(have, labels.iter().copied().collect(), "{name}");
        }
        assert!(!family.help().is_empty(), "{name}");
    }
}

#[test]
fn a_call_counts_as_the_contract_says() {
    let metrics = metrics();
    exercise(&metrics);
    let is = |series: &str, expected: f64| {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    };
    is(
        "sip_edge_calls_total{cause=\"completed\",direction=\"inbound\",trunk=\"carrier\"}",
        1.0,
    );
    is(
        "sip_edge_calls_total{cause=\"completed\",direction=\"outbound\",trunk=\"agents\"}",
        1.0,
    );
    is(
        "sip_edge_transfers_total{cause=\"target_not_allowed\",result=\"denied\",trunk=\"ai\"}",
        1.0,
    );
    is(
        "sip_edge_transfers_total{cause=\"completed\",result=\"completed\",trunk=\"ai\"}",
        1.0,
    );
    is("sip_edge_transfer_seconds_count{trunk=\"ai\"}", 1.0);
    is("sip_edge_transfer_seconds_sum{trunk=\"ai\"}", 0.52);
    is(
        "sip_edge_sip_response_seconds_count{method=\"INVITE\",trunk=\"agents\"}",
        1.0,
    );
    is(
        "sip_edge_sip_response_seconds_bucket{method=\"INVITE\",trunk=\"agents\",le=\"0.25\"}",
        0.0,
    );
    is(
        "sip_edge_sip_response_seconds_bucket{method=\"INVITE\",trunk=\"agents\",le=\"0.5\"}",
        1.0,
    );
    is(
        "sip_edge_sip_responses_total{code=\"180\",direction=\"inbound\",method=\"INVITE\",trunk=\"ai\"}",
        1.0,
    );
    is(
        "sip_edge_access_dropped_packets_total{listener=\"public\",reason=\"unlisted\"}",
        1.0,
    );
    is(
        "sip_edge_ring_overflow_total{core=\"1\",ring=\"transactions\"}",
        1.0,
    );
    is("sip_edge_calls_active{trunk=\"carrier\"}", 1.0);
    is("sip_edge_calls_active{trunk=\"agents\"}", 0.0);
    is("sip_edge_malformed_messages_total", 1.0);
}

/// The counters of an alert or a panel that count a trunk's first event as one.
fn zeros(metrics: &Metrics, trunk: &str) -> Vec<Option<f64>> {
    [
        "sip_edge_calls_total{cause=\"media_timeout\",direction=\"inbound\",",
        "sip_edge_calls_total{cause=\"sip_auth_failed\",direction=\"outbound\",",
        "sip_edge_digest_challenges_total{outcome=\"wrong_credentials\",",
        "sip_edge_transfers_total{cause=\"transfer_unauthorized\",result=\"denied\",",
    ]
    .iter()
    .map(|series| value(metrics, &format!("{series}trunk=\"{trunk}\"}}")))
    .collect()
}

#[test]
fn what_a_trunk_may_come_to_count_begins_at_zero_and_is_bounded() {
    let metrics = metrics();
    assert_eq!(zeros(&metrics, "ai"), [Some(0.0); 4]);
    assert_eq!(zeros(&metrics, "new"), [None; 4]);
    let mut config = config();
    let series = metrics.render().expect("renders").lines().count();
    config.trunks.push(trunk(3, "new", &["203.0.113.0/24"]));
    exercise(&metrics);
    metrics.update(&config);
    assert_eq!(zeros(&metrics, "new"), [Some(0.0); 4]);
    let more = metrics.render().expect("renders").lines().count() - series;
    assert!(more < 400, "{more} lines for a trunk");
    // What counted already goes on counting.
    let completed =
        "sip_edge_calls_total{cause=\"completed\",direction=\"inbound\",trunk=\"carrier\"}";
    assert_eq!(value(&metrics, completed), Some(1.0));
}

#[test]
fn a_refused_refer_counts_once_and_a_challenge_not_at_all() {
    let metrics = metrics();
    let refer = |status, cause| EventKind::Refer {
        target: "tel:+1234567890".to_owned(),
        status,
        cause: Some(cause),
        detail: String::new(),
    };
    let in_call = |kind| crate::test_support::event(1, Some(2), kind);
    Observer::default().observe(
        &metrics,
        CoreId(0),
        &in_call(refer(401, Cause::TransferUnauthorized)),
    );
    Observer::default().observe(
        &metrics,
        CoreId(0),
        &in_call(refer(403, Cause::TransferLimit)),
    );
    let text = metrics.render().expect("renders");
    let transfers = text
        .lines()
        .filter(|line| line.starts_with("sip_edge_transfers_total{"));
    for line in transfers {
        assert!(line.ends_with(" 0"), "{line}");
    }
    // Outside a call nothing else tells.
    observe(&metrics, refer(481, Cause::TransferUnauthorized));
    assert_eq!(
        value(
            &metrics,
            "sip_edge_transfers_total{cause=\"transfer_unauthorized\",result=\"denied\",trunk=\"other\"}"
        ),
        Some(1.0)
    );
}

#[test]
fn a_trunk_that_a_reload_brings_has_its_label_at_once() {
    let metrics = metrics();
    let mut observer = Observer::default();
    let name: Arc<str> = Arc::from("new");
    let method = Method::Bye;
    let mut request = || {
        let kind = EventKind::Request {
            trunk: name.clone(),
            method: method.clone(),
            direction: Direction::Inbound,
        };
        let event = crate::test_support::event(1, None, kind);
        observer.observe(&metrics, CoreId(0), &event);
    };
    let requests = |trunk: &str| {
        let labels = format!("{{direction=\"inbound\",method=\"BYE\",trunk=\"{trunk}\"}}");
        value(&metrics, &format!("sip_edge_sip_requests_total{labels}"))
    };
    request();
    request();
    assert_eq!((requests("other"), requests("new")), (Some(2.0), None));
    let mut config = config();
    config.trunks.push(trunk(3, "new", &[]));
    metrics.update(&config);
    request();
    assert_eq!((requests("other"), requests("new")), (Some(2.0), Some(1.0)));
}

#[test]
fn what_peers_send_cannot_make_new_labels() {
    let metrics = metrics();
    for n in 0..1_000 {
        observe(
            &metrics,
            response(&format!("trunk-{n}"), &format!("METHOD{n}"), 100 + n),
        );
        observe(&metrics, response("ai", "invite", n));
    }
    let text = metrics.render().expect("renders");
    let series = text
        .lines()
        .filter(|l| l.starts_with("sip_edge_sip_responses_total"))
        .count();
    // Registered codes, six classes and "other", for two trunks and the one method "other".
    assert!(series <= 2 * (80 + 7), "{series}");
    assert!(!text.contains("METHOD") && !text.contains("trunk-1"));
    assert_eq!(fold_code(299), "2xx");
    assert_eq!(fold_code(486), "486");
    assert_eq!(fold_code(42), "other");
    assert_eq!(fold_method("INVITE"), "INVITE");
    assert_eq!(fold_method("invite"), "other");
}

#[test]
fn trunks_of_a_new_configuration_get_their_series() {
    let metrics = metrics();
    assert_eq!(
        value(&metrics, "sip_edge_calls_active{trunk=\"new\"}"),
        None
    );
    let mut config = config();
    config.trunks = vec![trunk(0, "new", &[])];
    metrics.update(&config);
    assert_eq!(
        value(&metrics, "sip_edge_calls_active{trunk=\"new\"}"),
        Some(0.0)
    );
    // Calls of a removed trunk still end.
    metrics.leg_alive("ai", false);
    assert_eq!(
        value(&metrics, "sip_edge_calls_active{trunk=\"ai\"}"),
        Some(-1.0)
    );
}

#[test]
fn foreign_totals_are_read_at_each_scrape() {
    const SERIES: &str =
        "sip_edge_rtp_packets_total{core=\"2\",direction=\"inbound\",lane=\"io_uring\"}";
    let metrics = metrics();
    let total = Arc::new(AtomicU64::new(5));
    let source = total.clone();
    metrics.on_scrape(move |m| {
        m.rtp_packets_total(
            CoreId(2),
            "io_uring",
            "inbound",
            source.load(Ordering::Relaxed),
        );
    });
    assert_eq!(value(&metrics, SERIES), Some(5.0));
    assert_eq!(value(&metrics, SERIES), Some(5.0));
    total.store(12, Ordering::Relaxed);
    assert_eq!(value(&metrics, SERIES), Some(12.0));
    // Its owner was replaced and counts from zero: nothing is lost, nothing goes back.
    total.store(3, Ordering::Relaxed);
    assert_eq!(value(&metrics, SERIES), Some(15.0));
}

#[test]
fn what_a_control_thread_could_not_hand_on_is_counted_once() {
    let metrics = metrics();
    let status = Arc::new(crate::control::CoreStatus::default());
    metrics.watch_control(CoreId(1), status.clone());
    status.handoffs_rejected.store(4, Ordering::Relaxed);
    status.handoffs.store(9, Ordering::Relaxed);
    observe(&metrics, EventKind::Overflow { queue: "handoff" });
    assert_eq!(
        value(
            &metrics,
            "sip_edge_ring_overflow_total{core=\"1\",ring=\"handoff\"}"
        ),
        Some(4.0)
    );
    assert_eq!(
        value(&metrics, "sip_edge_handoffs_total{core=\"1\"}"),
        Some(9.0)
    );
}

#[test]
fn drops_seen_by_two_counters_add_up() {
    let metrics = metrics();
    exercise(&metrics);
    metrics.access_dropped_total("public", "unlisted", 100);
    assert_eq!(
        value(
            &metrics,
            "sip_edge_access_dropped_packets_total{listener=\"public\",reason=\"unlisted\"}"
        ),
        Some(101.0)
    );
}

#[test]
fn the_state_of_xdp_is_that_of_the_latest_look() {
    let metrics = metrics();
    metrics.set_xdp_attached([("eth0", "native", true), ("eth1", "none", false)].into_iter());
    let series = |interface, mode| {
        format!("sip_edge_access_xdp_attached{{interface=\"{interface}\",mode=\"{mode}\"}}")
    };
    assert_eq!(value(&metrics, &series("eth0", "native")), Some(1.0));
    assert_eq!(value(&metrics, &series("eth1", "none")), Some(0.0));
    metrics.set_xdp_attached([("eth0", "generic", true)].into_iter());
    assert_eq!(value(&metrics, &series("eth0", "generic")), Some(1.0));
    assert_eq!(value(&metrics, &series("eth0", "native")), None);
    assert_eq!(value(&metrics, &series("eth1", "none")), None);
}

#[test]
fn causes_are_label_values() {
    for cause in Cause::ALL {
        assert!(
            cause
                .as_str()
                .chars()
                .all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '-')),
            "{cause:?}"
        );
    }
}

/// `promtool check metrics` where it is installed; the parser below stands in for it everywhere.
#[test]
fn promtool_accepts_the_text() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let metrics = metrics();
    exercise(&metrics);
    let text = metrics.render().expect("renders");
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            println!("SKIPPED: promtool is not installed ({error})");
            return;
        }
    };
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_text_is_well_formed() {
    let metrics = metrics();
    exercise(&metrics);
    let text = metrics.render().expect("renders");
    let mut typed = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(typed.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(series.to_owned()), "{series} twice");
            let name = series.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s).filter(|f| typed.contains(*f)))
                .unwrap_or(name);
            assert!(typed.contains(family), "{line} has no type");
        }
    }
}
