//! What a call costs in `edge-proto` alone: complete calls played through one `B2bua` with a peer of canned words on either side,
//! without sockets, threads or a clock. INVITE, 100, 180, 200, ACK, BYE, 200 on both sides, media ports included.
//! Besides, how often a call allocates.
//!
//! `cargo run --release -p edge-bench --bin protocol [CALLS]` tells both; to count instructions:
//! `valgrind --tool=callgrind --toggle-collect='*protocol::step*' target/release/protocol 2000`.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use edge_proto::b2bua::{B2bua, B2buaParams, Input, Output, SharedKeys};
use edge_proto::config::Config;
use edge_proto::id::{ConnectionId, CoreId, ListenerId};
use edge_proto::relay::{MediaCommand, MediaEvent, MediaStats};
use edge_proto::time::{Duration, Instant};
use sip_edge::config::{Context, Environment, parse};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The daemon's, counted: what a call costs in a process that has more to do is mostly the memory that it asks for.
#[global_allocator]
static ALLOCATOR: Counted = Counted(mimalloc::MiMalloc);

struct Counted(mimalloc::MiMalloc);

/// Allocations within [`step`], and whether that runs.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

impl Counted {
    /// Not inlined, so that a profile shows who asked.
    #[inline(never)]
    fn count(&self) {
        if COUNTING.load(Relaxed) {
            ALLOCATIONS.store(ALLOCATIONS.load(Relaxed) + 1, Relaxed);
        }
    }
}

// SAFETY: all of it is the inner allocator's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count();
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count();
        unsafe { self.0.realloc(memory, layout, size) }
    }
}

/// Time between two calls: 500 a second.
const PACE: Duration = Duration::from_millis(2);
/// Calls that are under way when the first one ends: half a second of talk.
const UP: usize = 250;
/// Calls that are played before anything is timed.
const WARM_UP: usize = 1_000;

const CONFIG: &str = r#"
[edge]
domains = ["edge.example.net"]
[[listen]]
transport = "tcp"
address = "127.0.0.1:5060"
[media]
addresses = ["127.0.0.1"]
ports = "10000-30000"
[admin]
address = "127.0.0.1:9090"
[[trunk]]
name = "carrier"
allow = ["127.0.0.2/32"]
[[trunk]]
name = "ai"
allow = ["127.0.0.3/32"]
uri = "sip:127.0.0.3:5070;transport=tcp"
[[route]]
from = "carrier"
number = "+1999*"
to = "ai"
"#;

const SDP: &str = "v=0\r\no=load 1 1 IN IP4 127.0.0.9\r\ns=-\r\nc=IN IP4 127.0.0.9\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0 101\r\n\
a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

fn main() -> Result<()> {
    let calls = match std::env::args().nth(1) {
        Some(text) => text.parse().context("how many calls?")?,
        None => 50_000,
    };
    let mut world = World::new(config()?)?;
    world.play(WARM_UP)?;
    ALLOCATIONS.store(0, Relaxed);
    let begun = std::time::Instant::now();
    world.play(calls)?;
    let each = begun.elapsed().as_secs_f64() * 1e6 / calls as f64;
    let allocations = ALLOCATIONS.load(Relaxed) as f64 / calls as f64;
    println!(
        "{calls} calls: {each:.1} us each, the peers' part included; {allocations:.0} allocations each"
    );
    Ok(())
}

fn config() -> Result<Arc<Config>> {
    let context = Context {
        environment: &Environment::default(),
        previous: None,
        world_readable: false,
    };
    Ok(parse(Path::new("protocol.toml"), CONFIG, &context)?.protocol)
}

/// The B2BUA and everything around it.
struct World {
    edge: B2bua,
    now: Instant,
    carrier: ConnectionId,
    platform: Option<ConnectionId>,
    /// Calls begun.
    begun: usize,
    /// Calls that are to be hung up.
    up: VecDeque<Up>,
    outputs: Vec<Output>,
    /// What the edge wrote.
    to_carrier: VecDeque<Bytes>,
    to_platform: VecDeque<Bytes>,
    events: usize,
}

/// A call from its answer on, as the carrier knows it.
struct Up {
    number: usize,
    to: String,
    contact: String,
}

/// One input and all that comes of it: what is measured.
#[inline(never)]
fn step(edge: &mut B2bua, now: Instant, input: Input, outputs: &mut Vec<Output>) {
    COUNTING.store(true, Relaxed);
    edge.handle(now, input);
    while let Some(output) = edge.poll_output() {
        outputs.push(output);
    }
    std::hint::black_box(edge.poll_timeout());
    COUNTING.store(false, Relaxed);
}

impl World {
    fn new(config: Arc<Config>) -> Result<World> {
        let params = B2buaParams {
            config,
            core: CoreId(0),
            cores: 1,
            seed: [7; 32],
            keys: SharedKeys {
                nonce: [1; 32],
                owner: [2; 32],
            },
        };
        let carrier = ConnectionId::accepted(CoreId(0), 1);
        let mut world = World {
            edge: B2bua::new(params, Instant::ZERO),
            now: Instant::ZERO,
            carrier,
            platform: None,
            begun: 0,
            up: VecDeque::new(),
            outputs: Vec::new(),
            to_carrier: VecDeque::new(),
            to_platform: VecDeque::new(),
            events: 0,
        };
        world.feed(Input::Accepted {
            connection: carrier,
            listener: ListenerId(0),
            local: "127.0.0.1:5060".parse()?,
            remote: "127.0.0.2:40000".parse()?,
        });
        Ok(world)
    }

    /// Begins so many calls, one each [`PACE`], and ends as many that were begun before.
    fn play(&mut self, calls: usize) -> Result<()> {
        for _ in 0..calls {
            self.now = self.now + PACE;
            if self.edge.poll_timeout().is_some_and(|at| at <= self.now) {
                self.feed(Input::Timeout);
            }
            let up = self.begin()?;
            self.up.push_back(up);
            if self.up.len() > UP
                && let Some(up) = self.up.pop_front()
            {
                self.end(&up)?;
            }
        }
        ensure!(self.events > calls, "events are missing");
        Ok(())
    }

    fn begin(&mut self) -> Result<Up> {
        self.begun += 1;
        let number = self.begun;
        let invite = format!(
            "INVITE sip:+19995550100@127.0.0.1:5060;transport=TCP SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.2:5061;branch=z9hG4bK-1-{number}-0\r\n\
             Max-Forwards: 70\r\n{}To: <sip:+19995550100@127.0.0.1>\r\nCall-ID: {number}-1@127.0.0.2\r\nCSeq: 1 INVITE\r\n{CONTACT}\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
            from(number),
            SDP.len()
        );
        self.feed(Input::Received {
            connection: self.carrier,
            bytes: invite.into(),
        });
        let offered = take(&mut self.to_platform, "INVITE ")?;
        self.answer(&offered, number, "180 Ringing", "")?;
        self.answer(&offered, number, "200 OK", SDP)?;
        take(&mut self.to_carrier, "SIP/2.0 100")?;
        take(&mut self.to_carrier, "SIP/2.0 180")?;
        let answer = take(&mut self.to_carrier, "SIP/2.0 200")?;
        let up = Up {
            number,
            to: line(&answer, "To: ")?.to_owned(),
            contact: line(&answer, "Contact: <")?
                .trim_end_matches('>')
                .to_owned(),
        };
        self.request(&up, "ACK", 1);
        take(&mut self.to_platform, "ACK ")?;
        Ok(up)
    }

    fn end(&mut self, up: &Up) -> Result<()> {
        self.request(up, "BYE", 2);
        take(&mut self.to_carrier, "SIP/2.0 200")?;
        let bye = take(&mut self.to_platform, "BYE ")?;
        self.answer(&bye, up.number, "200 OK", "")
    }

    /// The carrier's requests within the dialog.
    fn request(&mut self, up: &Up, method: &str, cseq: u32) {
        let number = up.number;
        let bytes = format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.2:5061;branch=z9hG4bK-1-{number}-{method}\r\nMax-Forwards: 70\r\n{}To: {}\r\n\
             Call-ID: {number}-1@127.0.0.2\r\nCSeq: {cseq} {method}\r\n{CONTACT}Content-Length: 0\r\n\r\n",
            up.contact,
            from(number),
            up.to
        );
        self.feed(Input::Received {
            connection: self.carrier,
            bytes: bytes.into(),
        });
    }

    /// The platform's answer.
    fn answer(&mut self, request: &str, number: usize, status: &str, body: &str) -> Result<()> {
        let to = line(request, "To: ")?;
        let tag = if to.contains(";tag=") {
            String::new()
        } else {
            format!(";tag=1P{number}")
        };
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let bytes = format!(
            "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
             Contact: <sip:load@127.0.0.3:5070;transport=TCP>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            line(request, "Via: ")?,
            line(request, "From: ")?,
            line(request, "Call-ID: ")?,
            line(request, "CSeq: ")?,
            body.len()
        );
        let connection = self.platform.context("no connection to the platform")?;
        self.feed(Input::Received {
            connection,
            bytes: bytes.into(),
        });
        Ok(())
    }

    /// Hands an input over and carries out what follows, as the control and the media thread would.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut outputs = std::mem::take(&mut self.outputs);
            step(&mut self.edge, self.now, input, &mut outputs);
            inputs.extend(
                outputs
                    .drain(..)
                    .filter_map(|output| self.carry_out(output)),
            );
            self.outputs = outputs;
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Connect { connection, .. } => {
                self.platform = Some(connection);
                let local = SocketAddr::from(([127, 0, 0, 1], 41_000));
                return Some(Input::Connected { connection, local });
            }
            Output::Transmit { connection, bytes } if connection == self.carrier => {
                self.to_carrier.push_back(bytes);
            }
            Output::Transmit { bytes, .. } => self.to_platform.push_back(bytes),
            Output::Media(MediaCommand::Open { allocation, .. }) => {
                return Some(Input::Media(MediaEvent::Opened { allocation }));
            }
            Output::Media(MediaCommand::Close { allocation }) => {
                let stats = MediaStats::default();
                return Some(Input::Media(MediaEvent::Closed { allocation, stats }));
            }
            Output::Event(_) => self.events += 1,
            _ => {}
        }
        None
    }
}

const CONTACT: &str = "Contact: <sip:+1234567890@127.0.0.2:5061;transport=TCP>\r\n";

fn from(number: usize) -> String {
    format!("From: <sip:+1234567890@127.0.0.2>;tag=1C{number}\r\n")
}

/// The next message, which has to begin so.
fn take(queue: &mut VecDeque<Bytes>, start: &str) -> Result<String> {
    let bytes = queue.pop_front().with_context(|| format!("no {start}"))?;
    let text = String::from_utf8(bytes.to_vec())?;
    ensure!(text.starts_with(start), "{start}was expected, not {text}");
    Ok(text)
}

/// The rest of the line that begins so.
fn line<'a>(message: &'a str, start: &str) -> Result<&'a str> {
    let mut lines = message.split("\r\n");
    lines
        .find_map(|line| line.strip_prefix(start))
        .with_context(|| format!("no {start}in {message}"))
}
