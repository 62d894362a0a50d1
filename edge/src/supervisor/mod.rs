//! The only place that starts, pins and ends threads: per core a control and a media thread, beside them the reporter and the
//! admin server. Signals, reload and drain arrive here and nowhere else.
//!
//! ```text
//!                       ┌── control-n ◄──► media-n      (one pair per core, pinned to its CPU)
//!  supervisor (main) ───┼── reporter                    (events → log, metrics, CDRs, calls)
//!                       └── admin                       (HTTP; asks back through SupervisorHandle)
//! ```

mod access;
mod cores;
mod handle;
mod notify;
mod reload;
mod start;
mod steering;
#[cfg(test)]
mod tests;
mod threads;

pub use cores::{CoresError, cpus, raise_open_files};
pub use handle::{Phase, Reloaded, RequestError, SupervisorHandle};

use crate::admin::AdminError;
use crate::cdr::CdrError;
use crate::config::Settings;
use crate::control::ControlCommand;
use crate::control::listener::ListenError;
use crate::media::MediaError;
use crate::media::claim::ClaimError;
use handle::Request;
use start::Running;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// How often a drain looks whether the last call is over, and an end whether the last is told.
const DRAIN_TICK: Duration = Duration::from_millis(100);
const END_TICK: Duration = Duration::from_millis(5);
/// How long peers have to answer the BYEs of an end: longer than a transferor's last NOTIFY is waited for (8 * T1).
const END: Duration = Duration::from_secs(6);

/// How often to look which media ports others have.
const PORTS_TICK: Duration = Duration::from_secs(5);
/// How often XDP's attachments and drop counters are looked at.
const ACCESS_TICK: Duration = Duration::from_secs(1);

/// Why the edge could not start, or ended other than it was told to.
#[derive(thiserror::Error, Debug)]
pub enum RunError {
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// The kernel lacks something, which the error names.
    #[error(transparent)]
    Kernel(#[from] MediaError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "media.ports: {0}, without a socket for each: give each edge a range or an address of its own"
    )]
    MediaPorts(#[from] ClaimError),
    #[error(transparent)]
    Cdr(#[from] CdrError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("not ready within {0:?}")]
    NotReady(Duration),
    #[error("thread {name}: {fault}")]
    Thread { name: String, fault: String },
    #[error("{doing}: {error}")]
    System {
        doing: &'static str,
        error: io::Error,
    },
}

impl RunError {
    fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
        move |error| RunError::System { doing, error }
    }
}

/// Runs the edge on the calling thread until a signal or a drain ends it. Returns `Ok` when it was told to end.
pub fn run(settings: Settings) -> Result<(), RunError> {
    threads::abort_on_panic();
    runtime()?.block_on(supervise(settings, Signals::install()))
}

fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::system("starting the supervisor"))
}

async fn supervise(
    settings: Settings,
    signals: impl Future<Output = io::Result<Signals>>,
) -> Result<(), RunError> {
    let mut signals = signals
        .await
        .map_err(RunError::system("installing signal handlers"))?;
    let (handle, mut requests) = SupervisorHandle::new(settings.protocol.clone());
    let mut running = Running::start(settings, &handle).await?;
    handle.enter(Phase::Ready);
    running.metrics.set_state(true, false);
    tracing::info!(cores = running.cores.len(), "sip-edge ready");
    running.manager.ready();
    let outcome = running.serve(&handle, &mut signals, &mut requests).await;
    handle.enter(Phase::Stopping);
    running.metrics.set_state(false, true);
    running.manager.stopping();
    running.manager.status("ending".to_owned());
    running.end_calls().await;
    running.stop().await;
    outcome
}

/// The signals that the edge listens to.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn install() -> io::Result<Self> {
        Ok(Signals {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.reload.recv() => Wish::Reload,
            _ = self.terminate.recv() => Wish::Terminate,
            _ = self.interrupt.recv() => Wish::Interrupt,
        }
    }
}

/// What a signal asks for.
enum Wish {
    Reload,
    /// Drain, for as long as the configuration allows; the second time: end.
    Terminate,
    Interrupt,
}

/// Since when the edge was told to stop, if it was: an operator's `ctl drain` waits for the last call, SIGTERM does not wait
/// for longer than `edge.drain_timeout_s`.
#[derive(Clone, Copy, Default)]
struct Stop(Option<tokio::time::Instant>);

impl Stop {
    fn is_overdue(self, limit: Option<Duration>) -> bool {
        self.0
            .zip(limit)
            .is_some_and(|(since, limit)| since.elapsed() >= limit)
    }
}

impl Running {
    /// Until told to end, or until a thread ends by itself.
    async fn serve(
        &mut self,
        handle: &SupervisorHandle,
        signals: &mut Signals,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Result<(), RunError> {
        let mut drain_tick = tokio::time::interval(DRAIN_TICK);
        let mut access_tick = tokio::time::interval(ACCESS_TICK);
        access_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ports_tick = tokio::time::interval(PORTS_TICK);
        ports_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report_tick = tokio::time::interval(self.manager.period());
        report_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = Stop::default();
        loop {
            let draining = handle.phase() == Phase::Draining;
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Reload => drop(self.reload(handle).await),
                    Wish::Terminate if stop.0.is_some() => {
                        tracing::info!("told to end before the drain was over");
                        return Ok(());
                    }
                    Wish::Terminate => {
                        stop = Stop(Some(tokio::time::Instant::now()));
                        self.manager.stopping();
                        self.drain(handle).await;
                    }
                    Wish::Interrupt => {
                        tracing::info!("interrupted");
                        return Ok(());
                    }
                },
                Some(request) = requests.recv() => match request {
                    // Who asked may have stopped waiting.
                    Request::Reload(reply) => drop(reply.try_send(self.reload(handle).await)),
                    Request::Drain => self.drain(handle).await,
                },
                end = self.threads.next_end() => return Err(end.into_error()),
                _ = report_tick.tick() => self.report(draining),
                _ = access_tick.tick() => self.access.poll(),
                _ = ports_tick.tick() => self.shared_media.look_at_ports(),
                _ = drain_tick.tick(), if draining => {
                    if self.is_idle() {
                        tracing::info!("drained: the last call is over");
                        return Ok(());
                    }
                    if stop.is_overdue(self.settings.drain_timeout) {
                        tracing::warn!("edge.drain_timeout_s is over: the calls that are left are ended");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Ends the calls that are left; returns when their peers know and their records are on the way, or after [`END`]: what is
    /// not recorded by then, the next start closes.
    async fn end_calls(&self) {
        for core in &self.cores {
            core.command(ControlCommand::End).await;
        }
        let ended = async {
            while !self.is_idle() {
                tokio::time::sleep(END_TICK).await;
            }
        };
        if tokio::time::timeout(END, ended).await.is_err() {
            tracing::warn!("not every peer has answered its BYE");
        }
    }

    async fn drain(&mut self, handle: &SupervisorHandle) {
        if handle.phase() == Phase::Draining {
            return;
        }
        handle.enter(Phase::Draining);
        self.metrics.set_state(false, true);
        self.tell_status(true);
        for core in &self.cores {
            core.drain().await;
        }
        tracing::info!("draining: new calls are refused, the process ends with the last call");
    }
}
