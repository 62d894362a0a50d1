//! Everything that is made once, in the order in which it can fail.

use super::RunError;
use super::access::{access_options, watch_access};
use super::cores::{cpus, keep_pages_small, raise_open_files};
use super::handle::SupervisorHandle;
use super::notify::{Beat, ServiceManager};
use super::steering::SharedMedia;
use super::threads::Threads;
use crate::access::Access;
use crate::admin::{AdminServer, AdminStop};
use crate::cdr::{EarlyJournal, Records};
use crate::clock::Clock;
use crate::config::Settings;
use crate::control::listener::{ListenerSetup, bind};
use crate::control::resolver::ResolverSettings;
use crate::control::{self, ControlCommand, ControlLimits, CoreStatus, Outlets};
use crate::handoff::{Full, Receiver, Sender, Waker, bounded, bounded_on};
use crate::media::link::service::LinkStop;
use crate::media::link::table::WayTable;
use crate::media::{self, Hub, MediaCounters, MediaOptions};
use crate::metrics::Metrics;
use crate::reporter::{self, Batch, BookLimits, Reporter, ReporterOptions, ReporterStop, Shared};
use edge_proto::b2bua::{B2bua, B2buaParams, HandoffMessage, SharedKeys};
use edge_proto::config::Config;
use edge_proto::id::CoreId;
use edge_proto::relay::{DropReason, MediaCommand, MediaEvent};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages from other cores that may wait for a core; beyond them new work is refused and teardown retried.
const HANDOFFS: usize = 4096;
/// Commands that may wait for a media thread, and events for a control thread.
const MEDIA_QUEUE: usize = 4096;
const COMMANDS: usize = 16;

/// How long threads have to become ready, and to end.
const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(5);
/// The pause before a full command queue is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// One core, as the supervisor holds it.
pub(super) struct Core {
    id: CoreId,
    commands: Sender<ControlCommand>,
    status: Arc<CoreStatus>,
    media_stop: Arc<AtomicBool>,
    media_waker: Waker,
    media_counters: Arc<MediaCounters>,
}

/// A running edge.
pub(super) struct Running {
    pub settings: Settings,
    pub cores: Vec<Core>,
    pub metrics: Arc<Metrics>,
    pub threads: Threads,
    pub manager: ServiceManager,
    reporter: ReporterStop,
    admin: Option<AdminStop>,
    links: Option<LinkStop>,
    /// Detaches XDP when dropped.
    pub access: Access,
    pub shared_media: SharedMedia,
}

/// The sockets of one core's listeners.
type Sockets = Vec<ListenerSetup>;

impl Running {
    /// Binds, opens and starts everything; returns when every core accepts calls.
    pub(super) async fn start(
        settings: Settings,
        handle: &SupervisorHandle,
    ) -> Result<Self, RunError> {
        let clock = Clock::start();
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        match raise_open_files() {
            Ok(limit) => tracing::debug!(?limit, "open files"),
            Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
        }
        if let Err(error) = keep_pages_small() {
            tracing::debug!(%error, "cannot keep pages small");
        }
        let cpus = cpus(&settings.cores)?;
        // Here, where nothing runs yet and one message says it, rather than on each thread.
        media::probe_kernel()?;
        let sockets = open_listeners(&settings.protocol, None, cpus.len())?;
        let shared_media = SharedMedia::start(&settings)?;
        let metrics = Arc::new(Metrics::new(&settings.protocol)?);
        let (events, event_queue) = bounded(reporter::QUEUE_PER_CORE * cpus.len())
            .map_err(RunError::system("making the event queue"))?;
        let mut records = Records::open(&settings.cdr_path, metrics.cdr())?;
        let cores = u8::try_from(cpus.len()).unwrap_or(CoreId::MAX_CORES);
        let early = records.early_journals(cores, &clock);
        let reporter = Reporter::new(ReporterOptions {
            events: event_queue,
            metrics: metrics.clone(),
            cdr: records,
            limits: BookLimits {
                active: cpus.len() * settings.protocol.sip.limits.calls,
                ..BookLimits::default()
            },
            clock,
        });
        let access = Access::start(&settings.protocol, access_options(&settings.access));
        watch_access(&metrics, access.view());
        handle.watch_access(access.view());
        handle.watch_records(metrics.cdr().backlog);
        let mut running = Running {
            access,
            shared_media,
            settings,
            cores: Vec::with_capacity(cpus.len()),
            metrics,
            threads: Threads::new(),
            manager: ServiceManager::from_environment(),
            reporter: reporter.stopper(),
            admin: None,
            links: None,
        };
        let shared = reporter.shared();
        running.threads.spawn("reporter", None, move || {
            reporter.run().map_err(|error| error.to_string())
        })?;
        let outcome = async {
            let ready = running.start_cores(&cpus, (sockets, early), clock, &events)?;
            running.wait_until_ready(ready, 2 * cpus.len()).await?;
            running.start_admin(handle, shared, clock)
        }
        .await;
        match outcome {
            Ok(()) => {
                running.log_listeners();
                Ok(running)
            }
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    }

    /// Starts both threads of every core; each sends once over the channel when it is ready.
    fn start_cores(
        &mut self,
        cpus: &[usize],
        (sockets, early): (Vec<Sockets>, Vec<EarlyJournal>),
        clock: Clock,
        events: &Sender<Batch>,
    ) -> Result<mpsc::UnboundedReceiver<()>, RunError> {
        let keys = SharedKeys {
            nonce: random()?,
            owner: random()?,
        };
        let (queues, handoffs): (Vec<_>, Vec<_>) = cpus
            .iter()
            .map(|_| {
                let waker = Waker::new().map_err(RunError::system("making a queue"))?;
                let (sender, receiver) = bounded_on(HANDOFFS, &waker);
                Ok(((waker, receiver), sender))
            })
            .collect::<Result<Vec<_>, RunError>>()?
            .into_iter()
            .unzip();
        let mut ways = self.start_links(cpus.len())?.into_iter();
        let (ready, all_ready) = mpsc::unbounded_channel();
        let common = Common {
            clock,
            cores: u8::try_from(cpus.len()).unwrap_or(CoreId::MAX_CORES),
            keys,
            events,
            handoffs,
            ready,
        };
        for (((&cpu, id), queue), listeners) in cpus
            .iter()
            .zip((0..common.cores).map(CoreId))
            .zip(queues)
            .zip(sockets.into_iter().zip(early))
        {
            self.start_core(&common, (id, cpu, ways.next()), queue, listeners)?;
        }
        Ok(all_ready)
    }

    /// Starts the thread that knows the ways past the kernel's IP; what each media thread is given, or nothing.
    fn start_links(&mut self, threads: usize) -> Result<Vec<WayTable>, RunError> {
        let Some((service, ways)) = self.shared_media.links(&self.settings, threads) else {
            return Ok(Vec::new());
        };
        self.links = Some(service.stopper());
        self.threads.spawn("links", None, move || {
            service.run();
            Ok(())
        })?;
        Ok(ways)
    }

    fn start_core(
        &mut self,
        common: &Common<'_>,
        (id, cpu, ways): (CoreId, usize, Option<WayTable>),
        (waker, handoffs): (Waker, Receiver<HandoffMessage>),
        (listeners, early): (Sockets, EarlyJournal),
    ) -> Result<(), RunError> {
        let clock = common.clock;
        let hub = self.shared_media.hub(id, &self.settings);
        let shared = (hub, ways);
        let media = self.start_media((id, cpu), shared, (clock, &waker), &common.ready)?;
        let (commands, command_queue) = bounded_on(COMMANDS, &waker);
        let status = Arc::new(CoreStatus::default());
        self.metrics.watch_control(id, status.clone());
        let ready = common.ready.clone();
        let setup = control::Setup {
            core: id,
            clock,
            config: self.settings.protocol.clone(),
            tls: self.settings.tls.clone(),
            limits: ControlLimits {
                overload: self.settings.sip_overload,
                ..ControlLimits::default()
            },
            batch: self.settings.sip_batch,
            listeners,
            resolver: resolver_settings(&self.settings),
            commands: command_queue,
            handoffs,
            media: media.events,
            outlets: Outlets::new(
                id,
                media.commands,
                common.handoffs.clone(),
                common.events.clone(),
            ),
            early,
            status: status.clone(),
            ready: Box::new(move || {
                let _ = ready.send(());
            }),
        };
        let params = B2buaParams {
            config: self.settings.protocol.clone(),
            core: id,
            cores: common.cores,
            seed: random()?,
            keys: common.keys.clone(),
        };
        self.threads
            .spawn(&format!("control-{id}"), Some(cpu), move || {
                let protocol = B2bua::new(params, clock.now());
                control::run(setup, protocol).map_err(|error| error.to_string())
            })?;
        self.cores.push(Core {
            id,
            commands,
            status,
            media_stop: media.stop,
            media_waker: media.waker,
            media_counters: media.counters,
        });
        Ok(())
    }

    fn start_media(
        &mut self,
        (id, cpu): (CoreId, usize),
        (hub, ways): (Option<Hub>, Option<WayTable>),
        (clock, control): (Clock, &Waker),
        ready: &mpsc::UnboundedSender<()>,
    ) -> Result<Media, RunError> {
        let (commands, queue) = bounded(MEDIA_QUEUE).map_err(RunError::system("making a queue"))?;
        let waker = queue.waker().clone();
        let (event_sender, events) = bounded_on(MEDIA_QUEUE, control);
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(MediaCounters::default());
        let seen = counters.clone();
        self.watch_media(id, counters.clone());
        let setup = media::Setup {
            clock,
            options: MediaOptions {
                timeout: self.settings.protocol.media.timeout,
                batch: self.settings.media.batch,
                busy_poll: self.settings.media.busy_poll,
                ..MediaOptions::default()
            },
            commands: queue,
            events: event_sender,
            counters,
            guard: self.access.media_guard(),
            hub,
            ways,
            stop: stop.clone(),
        };
        let ready = ready.clone();
        self.threads
            .spawn(&format!("media-{id}"), Some(cpu), move || {
                // A thread that polls never sleeps: preferred, it would leave the control thread of its core nothing.
                let priority = if setup.options.busy_poll.is_zero() {
                    media::priority::prefer()
                } else {
                    media::priority::ordinary()
                };
                tracing::debug!(core = %id, %priority, "media thread");
                let worker = media::Worker::new(setup).map_err(|error| error.to_string())?;
                let _ = ready.send(());
                worker.run().map_err(|error| error.to_string())
            })?;
        Ok(Media {
            commands,
            events,
            stop,
            waker,
            counters: seen,
        })
    }

    /// Reads a media thread's counters at each scrape.
    fn watch_media(&self, core: CoreId, counters: Arc<MediaCounters>) {
        self.metrics.watch_relay_latency(core, counters.clone());
        self.metrics.on_scrape(move |metrics| {
            let lane = &counters.io_uring;
            metrics.rtp_packets_total(core, "io_uring", "inbound", lane.received.get());
            metrics.rtp_packets_total(core, "io_uring", "outbound", lane.sent.get());
            metrics.set_steered_flows(core, counters.steered_flows.get());
            metrics.rtp_link_packets_total(core, counters.sent_by_link.get());
            for &reason in DropReason::ALL {
                metrics.rtp_dropped_total(core, reason.as_str(), counters.dropped(reason));
            }
            for (ring, counter) in [
                ("completions", &counters.completion_overflows),
                ("buffers", &counters.buffers_exhausted),
                ("media_events", &counters.events_delayed),
            ] {
                metrics.ring_overflow_total(core, ring, counter.get());
            }
        });
    }

    async fn wait_until_ready(
        &mut self,
        mut ready: mpsc::UnboundedReceiver<()>,
        threads: usize,
    ) -> Result<(), RunError> {
        let deadline = tokio::time::Instant::now() + START;
        for _ in 0..threads {
            tokio::select! {
                biased;
                end = self.threads.next_end() => return Err(end.into_error()),
                Some(()) = ready.recv() => {}
                () = tokio::time::sleep_until(deadline) => return Err(RunError::NotReady(START)),
            }
        }
        Ok(())
    }

    fn start_admin(
        &mut self,
        handle: &SupervisorHandle,
        shared: Arc<Shared>,
        clock: Clock,
    ) -> Result<(), RunError> {
        let control = Arc::new(handle.clone());
        let metrics = self.metrics.clone();
        let server = AdminServer::bind(&self.settings.admin, clock, shared, metrics, control)?;
        self.admin = Some(server.stopper());
        tracing::info!(
            address = %self.settings.admin.address,
            token_file = %self.settings.admin.token_file.display(),
            "admin API"
        );
        self.threads.spawn("admin", None, move || {
            server.run().map_err(|error| error.to_string())
        })
    }

    pub(super) fn log_listeners(&self) {
        for listener in &self.settings.protocol.listeners {
            tracing::info!(
                listener = listener.name,
                transport = listener.transport.uri_name(),
                address = %listener.address,
                "listening"
            );
        }
    }

    /// How much each control and media thread has done so far: see [`CoreStatus::beats`] and [`MediaCounters::turns`].
    pub(super) fn beats(&self) -> Vec<Beat> {
        let beats = self.cores.iter().flat_map(|core| {
            let control = core.status.beats.load(Ordering::Relaxed);
            let media = core.media_counters.turns.get();
            [("control", control), ("media", media)].map(|(kind, count)| Beat {
                thread: format!("{kind}-{}", core.id),
                count,
            })
        });
        let beats = beats.collect();
        // A media thread without a packet sleeps: asked for a turn now, it has made it when this is called again.
        for core in &self.cores {
            core.media_waker.wake();
        }
        beats
    }

    /// Whether a drain is over.
    pub(super) fn is_idle(&self) -> bool {
        self.cores
            .iter()
            .all(|core| core.status.idle.load(Ordering::Acquire))
    }

    /// Ends all threads: control first (it flushes its connections and last events), the reporter last.
    pub(super) async fn stop(&mut self) {
        for core in &self.cores {
            core.command(ControlCommand::Stop).await;
        }
        self.threads.wait_for("control-", STOP).await;
        for core in &self.cores {
            core.media_stop.store(true, Ordering::Release);
            core.media_waker.wake();
        }
        self.threads.wait_for("media-", STOP).await;
        if let Some(links) = self.links.take() {
            links.stop();
            self.threads.wait_for("links", STOP).await;
        }
        if let Some(admin) = self.admin.take() {
            admin.stop();
            self.threads.wait_for("admin", STOP).await;
        }
        self.reporter.stop();
        self.threads.wait_for("reporter", STOP).await;
    }
}

/// What all cores are given alike.
struct Common<'a> {
    clock: Clock,
    cores: u8,
    keys: SharedKeys,
    events: &'a Sender<Batch>,
    /// Into each core's queue, by [`CoreId`].
    handoffs: Vec<Sender<HandoffMessage>>,
    /// Each thread sends once.
    ready: mpsc::UnboundedSender<()>,
}

/// The supervisor's ends of a media thread.
struct Media {
    commands: Sender<MediaCommand>,
    events: Receiver<MediaEvent>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    counters: Arc<MediaCounters>,
}

impl Core {
    /// Returns when the core refuses new calls.
    pub(super) async fn drain(&self) {
        self.command(ControlCommand::Drain).await;
        let refuses = async {
            while !self.status.draining.load(Ordering::Acquire) {
                tokio::time::sleep(RETRY).await;
            }
        };
        if tokio::time::timeout(STOP, refuses).await.is_err() {
            tracing::error!(core = %self.id, "the control thread does not drain");
        }
    }

    /// How many configurations the core has put in force.
    pub(super) fn reloads(&self) -> u64 {
        self.status.reloads.load(Ordering::Acquire)
    }

    /// Returns when the core has put another configuration in force than the first `before`.
    pub(super) async fn reloaded(&self, before: u64) {
        let done = async {
            while self.reloads() == before {
                tokio::time::sleep(RETRY).await;
            }
        };
        if tokio::time::timeout(STOP, done).await.is_err() {
            tracing::error!(core = %self.id, "the control thread does not reload");
        }
    }

    /// Hands over a command, waiting for room for a while; a thread that takes none for so long is stuck.
    pub(super) async fn command(&self, mut command: ControlCommand) {
        let deadline = tokio::time::Instant::now() + STOP;
        while let Err(Full(back)) = self.commands.try_send(command) {
            if tokio::time::Instant::now() >= deadline {
                tracing::error!(core = %self.id, "the control thread does not take commands");
                return;
            }
            command = back;
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// For each core, its sockets of the listeners of `config`. Those that `before` has too stay open and get none.
pub(super) fn open_listeners(
    config: &Config,
    before: Option<&Config>,
    cores: usize,
) -> Result<Vec<Sockets>, RunError> {
    let mut per_core: Vec<Sockets> = (0..cores).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        let stays = before.is_some_and(|before| {
            before
                .listeners
                .iter()
                .any(|old| (old.transport, old.address) == (listener.transport, listener.address))
        });
        let mut sockets = if stays {
            Vec::new()
        } else {
            bind(listener, cores)?
        };
        for core in per_core.iter_mut().rev() {
            core.push(ListenerSetup {
                id: listener.id,
                transport: listener.transport,
                address: listener.address,
                socket: sockets.pop(),
            });
        }
    }
    Ok(per_core)
}

/// How control threads resolve names under `settings`.
pub(super) fn resolver_settings(settings: &Settings) -> ResolverSettings {
    ResolverSettings {
        servers: settings.dns_servers.clone(),
        avoid_ports: Some(settings.protocol.media.ports.clone()),
        ..ResolverSettings::default()
    }
}

/// Key material from the kernel.
fn random() -> Result<[u8; 32], RunError> {
    let mut bytes = [0; 32];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| RunError::system("asking the kernel for random bytes")(error.into()))?;
    // Up to 256 bytes come in one piece (getrandom(2)).
    if filled == bytes.len() {
        Ok(bytes)
    } else {
        Err(RunError::system("asking the kernel for random bytes")(
            std::io::ErrorKind::UnexpectedEof.into(),
        ))
    }
}
