//! Real HTTP over loopback, against a server on a thread of its own.

mod api;
mod ctl;

use super::*;
use crate::cdr::Records;
use crate::clock::Clock;
use crate::config::AdminSettings;
use crate::handoff::bounded;
use crate::metrics::Metrics;
use crate::reporter::{BookLimits, Reporter, ReporterOptions};
use crate::test_support::{call_with_transfer, config};
use edge_proto::id::CoreId;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// A supervisor that does what the test says.
struct FakeEdge {
    config: Arc<Config>,
    readiness: Mutex<Readiness>,
    reload: Mutex<Result<ReloadReport, String>>,
    /// A reload waits for a word from here, when there is one.
    gate: Mutex<Option<Receiver<()>>>,
    drained: Mutex<bool>,
}

impl EdgeControl for FakeEdge {
    fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().expect("no panic").clone()
    }

    fn reload(&self) -> Result<ReloadReport, String> {
        let gate = self.gate.lock().expect("no panic").take();
        if let Some(gate) = gate {
            let _ = gate.recv();
        }
        self.reload.lock().expect("no panic").clone()
    }

    fn drain(&self) -> Result<(), String> {
        *self.drained.lock().expect("no panic") = true;
        Ok(())
    }
}

/// A running admin server with a reporter that the test feeds.
struct Scene {
    dir: tempfile::TempDir,
    edge: Arc<FakeEdge>,
    reporter: Reporter,
    address: SocketAddr,
    stop: AdminStop,
    thread: Option<JoinHandle<Result<(), AdminError>>>,
}

/// What a request got.
struct Answer {
    status: u16,
    content_type: String,
    challenge: Option<String>,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.content_type, "application/json", "{}", self.text);
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// Status and error code.
    fn error(&self) -> (u16, String) {
        let json = self.json();
        assert!(!json["message"].as_str().unwrap_or_default().is_empty());
        (
            self.status,
            json["error"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

impl Scene {
    fn new() -> Scene {
        Scene::on("127.0.0.1:0")
    }

    fn on(address: &str) -> Scene {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = Arc::new(config());
        let metrics = Arc::new(Metrics::new(&config).expect("valid names"));
        let (_, events) = bounded(1).expect("a queue");
        let clock = Clock::start();
        let reporter = Reporter::new(ReporterOptions {
            events,
            metrics: metrics.clone(),
            cdr: Records::open(&dir.path().join("cdr.jsonl"), metrics.cdr()).expect("opens"),
            limits: BookLimits::default(),
            clock,
        });
        let edge = Arc::new(FakeEdge {
            config,
            readiness: Mutex::new(Readiness {
                ready: true,
                ..Readiness::default()
            }),
            reload: Mutex::new(Ok(ReloadReport::default())),
            gate: Mutex::new(None),
            drained: Mutex::new(false),
        });
        let options = AdminSettings {
            address: address.parse().expect("an address"),
            token_file: dir.path().join("admin.token"),
        };
        let server = AdminServer::bind(&options, clock, reporter.shared(), metrics, edge.clone())
            .expect("binds");
        let port = server.local_addr().expect("bound").port();
        let stop = server.stopper();
        Scene {
            dir,
            edge,
            reporter,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            stop,
            thread: Some(std::thread::spawn(move || server.run())),
        }
    }

    /// Reports the first `events` events of a call with a transfer; all of them when there are no more.
    fn call(&mut self, events: usize) {
        for event in call_with_transfer().into_iter().take(events) {
            self.reporter.report(CoreId(1), &event);
        }
    }

    fn token_file(&self) -> PathBuf {
        self.dir.path().join("admin.token")
    }

    fn bearer(&self) -> String {
        Token::load(&self.token_file())
            .expect("generated")
            .authorization()
    }

    fn request(&self, method: &str, path: &str, authorization: Option<&str>, body: &str) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("Content-Type", "application/json");
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        let mut response = agent
            .run(request.body(body.to_owned()).expect("a request"))
            .expect("an answer");
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("text").to_owned())
        };
        Answer {
            status: response.status().as_u16(),
            content_type: header("content-type").unwrap_or_default(),
            challenge: header("www-authenticate"),
            text: response.body_mut().read_to_string().expect("text"),
        }
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None, "")
    }

    fn operator_get(&self, path: &str) -> Answer {
        self.request("GET", path, Some(&self.bearer()), "")
    }

    fn operator_post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, Some(&self.bearer()), body)
    }

    /// Makes the next reload wait for the sender that this gives.
    fn hold_reload(&self) -> Sender<()> {
        let (open, gate) = channel();
        *self.edge.gate.lock().expect("no panic") = Some(gate);
        open
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let served = thread.join().expect("the server ends without a panic");
            assert!(served.is_ok() || std::thread::panicking(), "{served:?}");
        }
    }
}
