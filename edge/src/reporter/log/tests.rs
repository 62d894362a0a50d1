use super::*;
use crate::test_support::{CALL, LogSink, PASSWORD, call_with_transfer, config};
use std::net::SocketAddr;

/// Everything that is logged in `run`, at every level.
fn logged(run: impl FnOnce()) -> String {
    let sink = LogSink::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(sink.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    sink.text()
}

fn stranger(ms: u64) -> Event {
    Event {
        at: Instant::from_millis(ms),
        call: None,
        leg: None,
        kind: EventKind::Malformed {
            source: SocketAddr::from(([192, 0, 2, 66], 5060)),
            fault: "no Via\r\nforged line for sip:+1234567890@192.0.2.1".to_owned(),
        },
    }
}

#[test]
fn a_call_is_logged_with_its_context_and_without_numbers() {
    let text = logged(|| {
        let mut log = EventLog::default();
        for event in call_with_transfer() {
            log.event(CoreId(1), &event, &WallClock::of_origin(0));
        }
    });
    assert_eq!(text.lines().count(), call_with_transfer().len());
    for line in text.lines() {
        assert!(line.contains(&format!("call=\"{CALL}\"")), "{line}");
        assert!(line.contains("core=1"), "{line}");
    }
    // No number, in whatever notation: the call's own id is the only run of digits that long.
    assert!(!text.replace(CALL, "").contains("234567"), "{text}");
    assert!(text.contains("target_not_allowed"), "{text}");
    assert!(text.contains("leg=3"), "{text}");
}

#[test]
fn a_peers_text_stays_on_its_line() {
    let text =
        logged(|| EventLog::default().event(CoreId(0), &stranger(1), &WallClock::of_origin(0)));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("234567"), "{text}");
}

#[test]
fn strangers_get_a_few_lines_a_second_and_the_rest_is_summed_up() {
    let text = logged(|| {
        let mut log = EventLog::default();
        for ms in 0..500 {
            log.event(CoreId(0), &stranger(ms), &WallClock::of_origin(0));
        }
        log.event(CoreId(0), &stranger(1_500), &WallClock::of_origin(0));
    });
    assert_eq!(text.lines().count(), LINES_PER_S as usize + 2, "{text}");
    assert!(text.contains("lines=490"), "{text}");
}

#[test]
fn a_configuration_that_is_logged_by_mistake_shows_no_secret() {
    let text = logged(|| tracing::info!(config = ?config().trunks[0].credentials, "loaded"));
    assert!(
        text.contains("trunk-user") && !text.contains(PASSWORD),
        "{text}"
    );
}
