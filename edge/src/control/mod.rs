//! The control thread of a core: sockets, TLS, names and queues around one B2BUA.
//!
//! Everything runs on one tokio-uring runtime, on one thread, and so without locks:
//! - [`driver`] owns the protocol; tasks reach it through [`handle`]. Whatever happens becomes one `Input`; the outputs are carried out at once; then the next.
//! - [`listener`] accepts; [`tasks`] holds one reader, one writer and (for outbound connections) one connector per
//!   [`connection`]. A read in flight is never dropped, since that would lose data: it is ended with a shutdown.
//! - [`load`] says whether the thread is too far behind to take new calls.
//! - [`pace`] says how long inputs may gather before the next turn.
//! - [`inbox`] takes what other threads send; [`outlets`] sends to them, never blocking.
//! - [`tls`] and [`resolver`] do what their names say.

mod connection;
mod driver;
mod handle;
mod inbox;
pub mod listener;
mod load;
mod outlets;
mod pace;
pub mod resolver;
mod tasks;
#[cfg(test)]
mod tests;
pub mod tls;

pub use driver::Protocol;
pub use outlets::Outlets;

use crate::cdr::EarlyJournal;
use crate::clock::Clock;
use crate::handoff::Receiver;
use driver::Driver;
use edge_proto::b2bua::HandoffMessage;
use edge_proto::config::Config;
use edge_proto::id::CoreId;
use edge_proto::relay::MediaEvent;
use edge_proto::time::Duration;
use handle::Control;
use listener::ListenerSetup;
use resolver::{Resolver, ResolverSettings};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tls::TlsSettings;

/// Bounds on the connections of one core, besides the configuration's own limits.
#[derive(Clone, Copy, Debug)]
pub struct ControlLimits {
    /// A TCP connection must be established within this time.
    pub connect: Duration,
    /// A TLS handshake must end within this time after TCP was established.
    pub handshake: Duration,
    /// A connection that was accepted must bring its first bytes within this time after it (TLS included) was open.
    pub first_bytes: Duration,
    /// A connection without any traffic is closed. Long: a call may be silent on the signalling side for hours, and a peer
    /// that vanished is found by TCP keep-alive much sooner.
    pub idle: Duration,
    /// A write that makes no progress for this time closes the connection.
    pub write_stall: Duration,
    /// After a close: time for the rest to be written and for the peer to close its side.
    pub linger: Duration,
    /// Bytes that may wait for one peer.
    pub write_queue_bytes: usize,
    /// How often the times above are checked.
    pub sweep: Duration,
    /// `sip.overload_ms`: what peers send waits for so long when new calls are refused; zero: they are not.
    pub overload: Duration,
}

impl Default for ControlLimits {
    fn default() -> Self {
        ControlLimits {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            first_bytes: Duration::from_secs(32),
            idle: Duration::from_secs(4 * 3600),
            write_stall: Duration::from_secs(32),
            linger: Duration::from_secs(2),
            write_queue_bytes: 1024 * 1024,
            sweep: Duration::from_millis(250),
            overload: Duration::ZERO,
        }
    }
}

/// From the supervisor to a control thread.
#[derive(Debug)]
pub enum ControlCommand {
    /// A new configuration. Listeners that are not in `listeners` close; their connections stay.
    Reload {
        config: Arc<Config>,
        tls: Arc<TlsSettings>,
        resolver: ResolverSettings,
        listeners: Vec<ListenerSetup>,
    },
    /// Refuse new calls, finish the old; [`CoreStatus::idle`] tells when they are finished.
    Drain,
    /// The same, but the old calls are ended now.
    End,
    /// Close everything and return from [`run`].
    Stop,
}

/// What other threads may know about a control thread. Counters only grow.
#[derive(Debug, Default)]
pub struct CoreStatus {
    /// New calls are refused.
    pub draining: AtomicBool,
    /// While draining: no call is left.
    pub idle: AtomicBool,
    /// Configurations put in force since the start.
    pub reloads: AtomicU64,
    /// Connections that are open now, whoever opened them.
    pub connections: AtomicU64,
    pub accepted: AtomicU64,
    /// Refused because of the connection limit.
    pub refused: AtomicU64,
    /// Grows as long as the thread does its work, calls or none, at least every [`ControlLimits::sweep`].
    pub beats: AtomicU64,
    /// Messages handed, or meant to be handed, to another core.
    pub handoffs: AtomicU64,
    /// Those that the other core's queue had no room for.
    pub handoffs_rejected: AtomicU64,
    /// Events that nobody will see because the reporter could not keep up.
    pub events_dropped: AtomicU64,
}

/// Everything a control thread is given. The receivers must share one waker.
pub struct Setup {
    pub core: CoreId,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub tls: Arc<TlsSettings>,
    pub limits: ControlLimits,
    /// `sip.batch_us`: how long inputs that come fast may wait at most, to be handled together; zero: not at all.
    pub batch: Duration,
    pub listeners: Vec<ListenerSetup>,
    pub resolver: ResolverSettings,
    pub commands: Receiver<ControlCommand>,
    pub handoffs: Receiver<HandoffMessage>,
    pub media: Receiver<MediaEvent>,
    pub outlets: Outlets,
    /// Holds what is told about calls before anything of it leaves.
    pub early: EarlyJournal,
    pub status: Arc<CoreStatus>,
    /// Called once, when the listeners accept.
    pub ready: Box<dyn FnOnce() + Send>,
}

/// At the end of the thread: how long the last events and media commands may wait for room in their queues.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Entries of the submission queue; the completion queue has room for a read and a write of every connection.
const RING_ENTRIES: u32 = 1024;
const RING_COMPLETIONS: u32 = 32 * 1024;

/// Runs a control thread until [`ControlCommand::Stop`]. Fails when the ring or a listener cannot be set up.
pub fn run<P: Protocol>(setup: Setup, protocol: P) -> io::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(RING_COMPLETIONS);
    // Completions are looked for before the thread sleeps anyway: none has to interrupt it.
    ring.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    tokio_uring::Runtime::new(&builder)?.block_on(main(setup, protocol))
}

async fn main<P: Protocol>(setup: Setup, protocol: P) -> io::Result<()> {
    let resolver = Resolver::new(&setup.resolver);
    let inbox = Rc::new(inbox::Inbox {
        commands: setup.commands,
        handoffs: setup.handoffs,
        media: setup.media,
    });
    let sweep = setup.limits.sweep;
    let status = setup.status.clone();
    let control = Control::new(Driver::new(
        driver::Parts {
            core: setup.core,
            clock: setup.clock,
            config: setup.config,
            tls: setup.tls,
            limits: setup.limits,
            batch: setup.batch,
            outlets: setup.outlets,
            early: setup.early,
            status: setup.status,
            resolver,
        },
        protocol,
    ));
    control.listen(setup.listeners)?;
    (setup.ready)();
    tokio_uring::spawn(tasks::keep_time(control.clone()));
    tokio_uring::spawn(tasks::gather(control.clone(), inbox.clone()));
    tokio_uring::spawn(tasks::sweep(control.clone(), status, sweep));
    tokio_uring::spawn(tasks::retry_outlets(control.clone()));
    inbox.run(&control).await?;
    // Tells the media thread what was not told yet.
    control.end_turn();
    control.shut_down().await;
    let _ = tokio::time::timeout(LAST_EVENTS, tasks::empty_outlets(&control)).await;
    Ok(())
}
