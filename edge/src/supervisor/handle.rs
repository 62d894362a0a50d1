//! What other threads may ask of the supervisor.

use crate::access::AccessView;
use arc_swap::ArcSwap;
use edge_proto::config::Config;
use prometheus::IntGauge;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Requests that wait; more are refused.
const WAITING: usize = 16;

/// Where the process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Not every core accepts calls yet.
    Starting = 0,
    Ready = 1,
    /// New calls are refused; the process ends with the last call.
    Draining = 2,
    Stopping = 3,
}

/// What came of a reload that was put in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reloaded {
    pub trunks_added: Vec<String>,
    pub trunks_removed: Vec<String>,
    /// Keys that changed in the file but are in force only after a restart.
    pub needs_restart: Vec<String>,
    /// What works, perhaps not as meant.
    pub warnings: Vec<String>,
}

/// For the admin API: cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    requests: mpsc::Sender<Request>,
    phase: Arc<AtomicU8>,
    config: Arc<ArcSwap<Config>>,
    access: Arc<OnceLock<AccessView>>,
    /// Call records that wait for their file.
    backlog: Arc<OnceLock<IntGauge>>,
}

/// Why a request was not carried out.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// The text names file, line, key and what is expected, or the address that is in use.
    #[error("{0}")]
    Refused(String),
    #[error("the edge is busy with other requests or is stopping")]
    Unavailable,
}

#[derive(Debug)]
pub(super) enum Request {
    Reload(SyncSender<Result<Reloaded, String>>),
    Drain,
}

impl SupervisorHandle {
    /// `config`: what is about to be put in force.
    pub(super) fn new(config: Arc<Config>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(WAITING);
        let phase = Arc::new(AtomicU8::new(Phase::Starting as u8));
        let handle = SupervisorHandle {
            requests,
            phase,
            config: Arc::new(ArcSwap::new(config)),
            access: Arc::default(),
            backlog: Arc::default(),
        };
        (handle, receiver)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn watch_access(&self, access: AccessView) {
        // Once per process.
        let _ = self.access.set(access);
    }

    /// `backlog`: how many call records wait for their file.
    pub(super) fn watch_records(&self, backlog: IntGauge) {
        // Once per process.
        let _ = self.backlog.set(backlog);
    }

    /// What is wrong although calls are taken: one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let access = self.access.get().map(AccessView::get);
        let access = access
            .filter(|status| !status.is_complete())
            .map(|status| format!("access: {status}"));
        let waiting = self.backlog.get().map_or(0, IntGauge::get);
        let records = (waiting > 0).then(|| {
            format!(
                "cdr: {waiting} call records wait in memory, since their file cannot be written"
            )
        });
        access.into_iter().chain(records).collect()
    }

    pub(super) fn put_in_force(&self, config: Arc<Config>) {
        self.config.store(config);
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            2 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Reads the configuration file again and puts it in force. A file with an error changes nothing. Blocks until it is done.
    pub fn reload(&self) -> Result<Reloaded, RequestError> {
        let (reply, answer) = sync_channel(1);
        self.requests
            .try_send(Request::Reload(reply))
            .map_err(|_| RequestError::Unavailable)?;
        match answer.recv() {
            Ok(result) => result.map_err(RequestError::Refused),
            Err(_) => Err(RequestError::Unavailable),
        }
    }

    /// Refuses new calls, ends the process after the last one.
    pub fn drain(&self) -> Result<(), RequestError> {
        self.requests
            .try_send(Request::Drain)
            .map_err(|_| RequestError::Unavailable)
    }
}
