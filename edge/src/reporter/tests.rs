use super::*;
use crate::handoff::{Sender, bounded};
use crate::test_support::{CALL, call_with_transfer, config, event};
use edge_proto::event::{Direction, EventKind};
use edge_proto::sip::Method;
use edge_proto::time::Instant;
use serde_json::Value;
use std::path::PathBuf;

struct Scene {
    dir: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Scene {
    fn new() -> Self {
        Scene {
            dir: tempfile::tempdir().expect("a temporary directory"),
            metrics: Arc::new(Metrics::new(&config()).expect("valid names")),
        }
    }

    fn cdr(&self) -> PathBuf {
        self.dir.path().join("cdr.jsonl")
    }

    fn reporter(&self) -> (Reporter, Sender<Batch>) {
        let (sender, events) = bounded(64).expect("a queue");
        let reporter = Reporter::new(ReporterOptions {
            events,
            metrics: self.metrics.clone(),
            cdr: Records::open(&self.cdr(), self.metrics.cdr()).expect("opens"),
            limits: BookLimits::default(),
            clock: Clock::start(),
        });
        (reporter, sender)
    }
}

#[test]
fn one_stream_of_events_becomes_book_cdr_metrics_and_live_stream() {
    let scene = Scene::new();
    let (reporter, sender) = scene.reporter();
    let shared = reporter.shared();
    let mut stream = shared.subscribe();
    let stopper = reporter.stopper();
    let thread = std::thread::spawn(move || reporter.run());
    let events = call_with_transfer();
    let count = events.len();
    for events in events.chunks(3) {
        let mut batch = Batch::new(CoreId(1));
        for event in events {
            batch.add(event);
        }
        sender.try_send(batch).expect("room");
    }
    stopper.stop();
    let ended = thread.join().expect("the reporter ends without a panic");
    ended.expect("the thread could sleep");

    // CDR: three legs, told in full.
    let text = std::fs::read_to_string(scene.cdr()).expect("readable");
    let legs: Vec<u64> = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"))
        .map(|v| v["leg"].as_u64().expect("a number"))
        .collect();
    assert_eq!(legs, [2, 3, 1]);
    let mut verifier = crate::cdr::verify::Verifier::default();
    verifier.file(&scene.cdr()).expect("readable");
    assert_eq!(verifier.finish().problems, []);

    // Metrics: every leg came and went.
    let metrics = scene.metrics.render().expect("renders");
    for line in [
        "sip_edge_calls_active{trunk=\"carrier\"} 0",
        "sip_edge_calls_active{trunk=\"ai\"} 0",
        "sip_edge_calls_total{cause=\"completed\",direction=\"outbound\",trunk=\"agents\"} 1",
        "sip_edge_transfers_total{cause=\"target_not_allowed\",result=\"denied\",trunk=\"ai\"} 1",
        "sip_edge_cdr_records_total{outcome=\"written\"} 3",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }

    // Book: the call has ended and is still told.
    let book = shared.book();
    assert_eq!(book.active_calls(), 0);
    let Lookup::Found(call) = book.find(CALL) else {
        panic!("the call is remembered");
    };
    assert_eq!((call.core, call.legs.len()), (CoreId(1), 3));
    assert_eq!(call.timeline().count(), count);

    // Live stream: everything, in order.
    let mut times = Vec::new();
    while let Ok(published) = stream.try_recv() {
        times.push(published.event.at);
    }
    assert_eq!(times.len(), count);
    assert!(times.is_sorted());
}

#[test]
fn legs_alive_are_counted_by_trunk() {
    let scene = Scene::new();
    let (mut reporter, _queue) = scene.reporter();
    for event in call_with_transfer().into_iter().take(12) {
        reporter.report(CoreId(0), &event);
    }
    let metrics = scene.metrics.render().expect("renders");
    for trunk in ["carrier", "ai", "agents"] {
        let line = format!("sip_edge_calls_active{{trunk=\"{trunk}\"}} 1");
        assert!(metrics.lines().any(|l| l == line), "{line}");
    }
}

#[test]
fn a_full_disk_changes_nothing_for_calls() {
    let scene = Scene::new();
    std::os::unix::fs::symlink("/dev/full", scene.cdr()).expect("links");
    let (mut reporter, _queue) = scene.reporter();
    for event in call_with_transfer() {
        reporter.report(CoreId(0), &event);
    }
    reporter.tick();
    let metrics = scene.metrics.render().expect("renders");
    assert!(metrics.contains("sip_edge_cdr_backlog_records 3"));
    assert!(matches!(reporter.shared().book().find(CALL), Lookup::Found(c) if c.ended.is_some()));
}

#[test]
fn a_call_keeps_the_clock_it_started_with() {
    let scene = Scene::new();
    let (mut reporter, _queue) = scene.reporter();
    let mut events = call_with_transfer().into_iter();
    reporter.report(CoreId(0), &events.next().expect("an event"));
    let before = reporter.clock;
    let later = before.at(Instant::from_millis(0)) + jiff::SignedDuration::from_secs(3_600);
    assert!(
        reporter
            .clock
            .resync(Instant::from_millis(0), later)
            .is_some()
    );
    for event in events {
        reporter.report(CoreId(0), &event);
    }
    drop(reporter);
    let text = std::fs::read_to_string(scene.cdr()).expect("readable");
    let expected = rfc3339(before.at(Instant::from_millis(9_001)));
    assert!(text.contains(&format!("\"end\":\"{expected}\"")), "{text}");
}

#[test]
fn events_of_no_call_are_counted_and_nothing_else() {
    let scene = Scene::new();
    let (mut reporter, _queue) = scene.reporter();
    let mut options = event(
        1,
        None,
        EventKind::Request {
            trunk: Arc::from("ai"),
            method: Method::Options,
            direction: Direction::Inbound,
        },
    );
    options.call = None;
    reporter.report(CoreId(0), &options);
    assert_eq!(reporter.shared().book().active_calls(), 0);
    let metrics = scene.metrics.render().expect("renders");
    assert!(metrics.contains("method=\"OPTIONS\""));
}

/// While it lets events gather, too.
#[test]
fn a_reader_sees_what_was_sent_before_it_asked() {
    const CALLS: u32 = 20;
    let scene = Scene::new();
    let (reporter, sender) = scene.reporter();
    let shared = reporter.shared();
    let stopper = reporter.stopper();
    let thread = std::thread::spawn(move || reporter.run());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let call = |number: u32| format!("{number:032x}");
    let send = |number| {
        let mut started = call_with_transfer().swap_remove(0);
        started.call = Some(call(number).as_str().into());
        let mut batch = Batch::new(CoreId(0));
        batch.add(&started);
        sender.try_send(batch).expect("room");
    };
    let knows = |number| matches!(shared.book().find(&call(number)), Lookup::Found(_));
    send(0);
    let begun = std::time::Instant::now();
    while !knows(0) {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    for number in 1..CALLS {
        send(number);
        runtime.block_on(shared.caught_up());
        assert!(knows(number), "{number}");
    }
    stopper.stop();
    thread.join().expect("no panic").expect("it could sleep");
    // Nobody is there to catch up: nobody waits for it.
    runtime.block_on(shared.caught_up());
}

#[test]
fn the_more_comes_the_sooner_it_is_told_again() {
    let scene = Scene::new();
    let (reporter, _sender) = scene.reporter();
    let (least, most) = GATHER.into_inner();
    assert_eq!(reporter.next_pause(least, 1), least * 2);
    assert_eq!(reporter.next_pause(most, MANY - 1), most);
    assert_eq!(reporter.next_pause(most, MANY), most / 2);
    assert_eq!(reporter.next_pause(least, MANY), least);
    let _looking = reporter.shared().subscribe();
    assert_eq!(reporter.next_pause(most, 1), least);
}
