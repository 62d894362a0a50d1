//! The listener and its connections.

use super::access::Guard;
use super::routes::{Api, router};
use super::stream::MAX_STREAMS;
use super::{AdminError, EdgeControl, Token};
use crate::clock::Clock;
use crate::config::AdminSettings;
use crate::metrics::Metrics;
use crate::reporter::Shared;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// A connection that sends no whole request head for so long is closed, idle ones too.
const HEADER_PATIENCE: Duration = Duration::from_secs(20);
const MAX_HEADER_BYTES: usize = 16 << 10;
/// After a stop: time for answers that are under way.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The admin API, bound to its address. [`AdminServer::run`] serves it.
pub struct AdminServer {
    listener: TcpListener,
    router: Router,
    stop: watch::Sender<bool>,
}

/// Ends [`AdminServer::run`].
#[derive(Clone, Debug)]
pub struct AdminStop(watch::Sender<bool>);

impl AdminStop {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl AdminServer {
    /// Reads or makes the token and binds the listener, so that what is wrong shows before any call is taken.
    pub fn bind(
        options: &AdminSettings,
        clock: Clock,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
        control: Arc<dyn EdgeControl>,
    ) -> Result<AdminServer, AdminError> {
        let token = Token::load_or_create(&options.token_file)?;
        let listener = TcpListener::bind(options.address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| AdminError::Bind {
                address: options.address,
                source,
            })?;
        let (stop, stopped) = watch::channel(false);
        let api = Api {
            shared,
            metrics,
            control,
            clock,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            stopped,
            reloading: Arc::new(Mutex::new(())),
        };
        let guard = Guard::new(token, options.address.ip().to_canonical().is_loopback());
        Ok(AdminServer {
            listener,
            router: router(api, guard),
            stop,
        })
    }

    /// The address it is bound to, for port 0.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// For whoever spawns the thread.
    pub fn stopper(&self) -> AdminStop {
        AdminStop(self.stop.clone())
    }

    /// Serves until [`AdminStop::stop`], on this thread, with a runtime of its own.
    pub fn run(self) -> Result<(), AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .map_err(AdminError::Runtime)?;
        let served = runtime.block_on(self.serve());
        // A reload that hangs on a dead disk may not keep the process alive.
        runtime.shutdown_background();
        served
    }

    async fn serve(self) -> Result<(), AdminError> {
        let listener =
            tokio::net::TcpListener::from_std(self.listener).map_err(AdminError::Runtime)?;
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut stopped = self.stop.subscribe();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                _ = stopped.wait_for(|stopped| *stopped) => break,
            };
            let Some((stream, slot)) = accepted else {
                continue;
            };
            let (router, stopped) = (self.router.clone(), self.stop.subscribe());
            connections.spawn(async move {
                converse(stream, router, stopped).await;
                drop(slot);
            });
            while connections.try_join_next().is_some() {}
        }
        let _ = tokio::time::timeout(STOP_PATIENCE, async {
            while connections.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// The next connection, once there is room for it. `None`: that one came to nothing.
async fn accept(
    listener: &tokio::net::TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, Slot)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of descriptors, or the peer is gone already. Both pass; spinning does not help.
            tracing::debug!(%error, "an admin connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn converse(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    // What goes wrong here is the peer's business: it hung up.
    let _ = connection.await;
}
