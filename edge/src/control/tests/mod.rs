//! A control thread over real loopback sockets, driven by a script in the place of the B2BUA. Waits have deadlines, none
//! sleeps.

mod lifecycle;
mod limits;
mod outbound;
mod pki;
mod resolving;
mod threads;
mod tls;
mod turns;

use super::listener::{ListenSocket, ListenerSetup, bind};
use super::resolver::ResolverSettings;
use super::tls::TlsSettings;
use super::{ControlCommand, ControlLimits, CoreStatus, Outlets, Protocol, Setup};
use crate::cdr::EarlyJournal;
use crate::clock::Clock;
use crate::handoff::{Receiver, Sender, Waker, bounded, bounded_on};
use crate::reporter::Batch;
use bytes::Bytes;
use edge_proto::b2bua::{CloseReason, HandoffMessage, Input, Output};
use edge_proto::config::{Config, Listener, MediaConfig, SipConfig, Transport};
use edge_proto::event::{Event, EventKind, packed};
use edge_proto::id::{ConnectionId, CoreId, ListenerId};
use edge_proto::relay::{MediaCommand, MediaEvent};
use edge_proto::time::{Duration, Instant};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// Longer than anything takes on a loaded machine; reached only by a failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the script does with an input, besides the outputs that the test queued.
type Reaction = Box<dyn FnMut(&Input) -> Vec<Output> + Send>;

/// The B2BUA's understudy: tells the test what happened, does what it is told.
struct Script {
    seen: mpsc::Sender<Input>,
    queued: Arc<Mutex<VecDeque<Output>>>,
    reaction: Reaction,
    outputs: VecDeque<Output>,
    timeout: Arc<Mutex<Option<Instant>>>,
}

impl Protocol for Script {
    fn handle(&mut self, now: Instant, input: Input) {
        if let Input::Timeout = input {
            let mut timeout = self.timeout.lock().unwrap();
            assert!(timeout.is_some_and(|at| at <= now), "early timeout");
            *timeout = None;
        }
        self.outputs.extend((self.reaction)(&input));
        self.outputs.extend(self.queued.lock().unwrap().drain(..));
        // The test may have what it wanted and be gone.
        let _ = self.seen.send(input);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        *self.timeout.lock().unwrap()
    }

    fn is_idle(&self) -> bool {
        self.queued.lock().unwrap().is_empty()
    }
}

/// Sends back what it receives.
fn echo() -> Reaction {
    Box::new(|input| match input {
        Input::Received { connection, bytes } => vec![Output::Transmit {
            connection: *connection,
            bytes: bytes.clone(),
        }],
        _ => Vec::new(),
    })
}

/// Does only what the test queues.
fn nothing() -> Reaction {
    Box::new(|_| Vec::new())
}

/// A running control thread.
struct Edge {
    seen: mpsc::Receiver<Input>,
    queued: Arc<Mutex<VecDeque<Output>>>,
    timeout: Arc<Mutex<Option<Instant>>>,
    commands: Sender<ControlCommand>,
    handoffs: Sender<HandoffMessage>,
    media_events: Sender<MediaEvent>,
    media: Receiver<MediaCommand>,
    events: Receiver<Batch>,
    /// Of those, what came with an event that was waited for.
    told: RefCell<VecDeque<Event>>,
    status: Arc<CoreStatus>,
    clock: Clock,
    /// Of the listeners, in order.
    addresses: Vec<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

/// What can be different between tests.
struct Options {
    core: CoreId,
    limits: ControlLimits,
    connections: usize,
    transports: Vec<Transport>,
    tls: TlsSettings,
    reaction: Reaction,
    resolver: ResolverSettings,
    /// Queues to other cores.
    cores: Vec<Sender<HandoffMessage>>,
    /// The queue other cores send to, when the test made it beforehand.
    handoffs: Option<(Waker, Sender<HandoffMessage>, Receiver<HandoffMessage>)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            core: CoreId(0),
            limits: ControlLimits {
                sweep: Duration::from_millis(5),
                ..ControlLimits::default()
            },
            connections: 100,
            transports: vec![Transport::Tcp],
            tls: TlsSettings::default(),
            reaction: nothing(),
            resolver: ResolverSettings::default(),
            cores: Vec::new(),
            handoffs: None,
        }
    }
}

fn listener(id: u16, transport: Transport) -> Listener {
    let address = "127.0.0.1:0".parse().unwrap();
    Listener {
        id: ListenerId(id),
        name: format!("test-{id}"),
        transport,
        address,
        advertised: address,
    }
}

fn config(connections: usize) -> Arc<Config> {
    let mut sip = SipConfig::default();
    sip.limits.connections = connections;
    Arc::new(Config {
        domains: Vec::new(),
        sip,
        listeners: Vec::new(),
        media: MediaConfig {
            ipv4: None,
            ipv6: None,
            ports: 10_000..=20_000,
            timeout: Duration::ZERO,
        },
        trunks: Vec::new(),
        routes: Vec::new(),
        allow: Default::default(),
    })
}

/// One socket for each transport, bound.
fn listeners(transports: &[Transport]) -> (Vec<ListenerSetup>, Vec<SocketAddr>) {
    transports
        .iter()
        .zip(0..)
        .map(|(transport, id)| {
            let socket: ListenSocket = bind(&listener(id, *transport), 1).unwrap().pop().unwrap();
            let address = socket.local_addr().unwrap();
            let setup = ListenerSetup {
                id: ListenerId(id),
                transport: *transport,
                address,
                socket: Some(socket),
            };
            (setup, address)
        })
        .unzip()
}

impl Edge {
    fn start(options: Options) -> Self {
        let (waker, handoff_sender, handoff_receiver) = options.handoffs.unwrap_or_else(|| {
            let waker = Waker::new().unwrap();
            let (sender, receiver) = bounded_on(64, &waker);
            (waker, sender, receiver)
        });
        let (commands, command_receiver) = bounded_on(8, &waker);
        let (media_events, media_receiver) = bounded_on(64, &waker);
        let (media_sender, media) = bounded(64).unwrap();
        let (event_sender, events) = bounded(1024).unwrap();
        let (seen_sender, seen) = mpsc::channel();
        let (setups, addresses) = listeners(&options.transports);
        let status = Arc::new(CoreStatus::default());
        let queued: Arc<Mutex<VecDeque<Output>>> = Arc::default();
        let timeout: Arc<Mutex<Option<Instant>>> = Arc::default();
        let clock = Clock::start();
        let setup = Setup {
            core: options.core,
            clock,
            config: config(options.connections),
            tls: Arc::new(options.tls),
            limits: options.limits,
            batch: Duration::from_millis(1),
            listeners: setups,
            resolver: options.resolver,
            commands: command_receiver,
            handoffs: handoff_receiver,
            media: media_receiver,
            outlets: Outlets::new(options.core, media_sender, options.cores, event_sender),
            early: EarlyJournal::absent(clock),
            status: status.clone(),
            ready: Box::new(|| ()),
        };
        let script = Script {
            seen: seen_sender,
            queued: queued.clone(),
            reaction: options.reaction,
            outputs: VecDeque::new(),
            timeout: timeout.clone(),
        };
        let thread = std::thread::spawn(move || super::run(setup, script).unwrap());
        Edge {
            seen,
            queued,
            timeout,
            commands,
            handoffs: handoff_sender,
            media_events,
            media,
            events,
            told: RefCell::default(),
            status,
            clock,
            addresses,
            thread: Some(thread),
        }
    }

    fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A client of the first listener.
    fn client(&self) -> TcpStream {
        client(self.address())
    }

    /// A client and the edge's side of it.
    fn accepted(&self) -> (TcpStream, ConnectionId) {
        let client = self.client();
        let Input::Accepted { connection, .. } = self.next() else {
            panic!("expected Accepted");
        };
        (client, connection)
    }

    /// Lets the script return `outputs` at once.
    fn does(&self, outputs: impl IntoIterator<Item = Output>) {
        self.queued.lock().unwrap().extend(outputs);
        self.handoffs.try_send(poke()).unwrap();
    }

    /// The next input, pokes left out.
    fn next(&self) -> Input {
        loop {
            let input = self.seen.recv_timeout(DEADLINE).expect("an input");
            if !is_poke(&input) {
                return input;
            }
        }
    }

    /// `Received` bytes of a connection until there are `length` of them.
    fn received(&self, of: ConnectionId, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            match self.next() {
                Input::Received { connection, bytes } if connection == of => all.extend(bytes),
                other => panic!("expected Received, got {other:?}"),
            }
        }
        all
    }

    fn closed(&self, of: ConnectionId) -> CloseReason {
        match self.next() {
            Input::Closed { connection, reason } if connection == of => reason,
            other => panic!("expected Closed, got {other:?}"),
        }
    }

    /// The detail of the next event about a connection.
    fn noted(&self) -> String {
        loop {
            while let Some(event) = self.told.borrow_mut().pop_front() {
                if let EventKind::Connection { detail, .. } = event.kind {
                    return detail;
                }
            }
            let batch = self.events.recv_timeout(Some(DEADLINE)).unwrap();
            let batch = batch.expect("an event");
            let names = &mut packed::Names::default();
            let events = batch.iter().map(|bytes| packed::unpack(bytes, names));
            self.told.borrow_mut().extend(events.map(Option::unwrap));
        }
    }

    /// Waits until the thread holds so many connections.
    fn wait_until_open(&self, connections: u64) {
        let start = std::time::Instant::now();
        while self.status.connections.load(Ordering::Relaxed) != connections {
            assert!(start.elapsed() < DEADLINE, "not {connections} connections");
            std::thread::yield_now();
        }
    }

    fn wait_until_empty(&self) {
        self.wait_until_open(0);
    }

    fn stop(mut self) {
        self.commands.try_send(ControlCommand::Stop).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.commands.try_send(ControlCommand::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the control thread panicked");
        }
    }
}

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client
}

/// A message without meaning that makes the script return what is queued.
fn poke() -> HandoffMessage {
    HandoffMessage::ConnectionGone {
        connection: ConnectionId::accepted(CoreId(CoreId::MAX_CORES), 0),
    }
}

fn is_poke(input: &Input) -> bool {
    matches!(input, Input::Handoff(HandoffMessage::ConnectionGone { connection })
        if connection.core() == CoreId(CoreId::MAX_CORES))
}

fn transmit(connection: ConnectionId, bytes: impl Into<Bytes>) -> Output {
    Output::Transmit {
        connection,
        bytes: bytes.into(),
    }
}

/// Bytes in which a loss, a repetition or a swap shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xff).unwrap())
        .collect()
}
