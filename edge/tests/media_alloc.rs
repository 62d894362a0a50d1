//! Nothing per packet allocates.

#[path = "media_relay/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "xdp_support/netns.rs"]
#[allow(dead_code)]
mod netns;

use bench::{Bench, Party, V4, conversation, talk};
use edge_proto::relay::LatchMode;
use edge_proto::relay::{Component, DropReason};
use netns::Peer;
use sip_edge::media::link::service::LinkService;
use sip_edge::media::occupied::OccupiedPorts;
use sip_edge::media::steering::Steering;
use sip_edge::media::{Hub, MediaOptions, Sharing};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Counts what threads that asked for it allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

impl Counting {
    fn count() {
        // A thread that is ending has no thread-locals any more.
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        // SAFETY: the caller keeps alloc's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps dealloc's contract, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count();
        // SAFETY: the caller keeps realloc's contract, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn relaying_and_dropping_allocate_nothing() {
    for sharing in [None, Some(Sharing::Senders), Some(Sharing::Ports)] {
        *SHARING.lock().unwrap() = sharing;
        relay_and_drop();
    }
    // In a namespace of its own, which is gone with the thread.
    std::thread::spawn(relay_past_the_kernel).join().unwrap();
}

/// What flows share.
static SHARING: Mutex<Option<Sharing>> = Mutex::new(None);

fn hub() -> Option<Hub> {
    let sharing = (*SHARING.lock().unwrap())?;
    let occupied = Arc::new(OccupiedPorts::new([]));
    let opened = Steering::attach([V4.parse().unwrap()]).and_then(|steering| {
        Ok(Hub::open(
            steering.thread(0)?,
            (&(10_000..=60_000), occupied),
            sharing,
        ))
    });
    opened
        .inspect_err(|error| println!("SKIPPED: flows cannot share sockets here ({error})"))
        .ok()
}

fn relay_and_drop() {
    let options = MediaOptions {
        allocations: 8,
        ..MediaOptions::default()
    };
    let mut bench = Bench::start(options, || COUNTED.set(true));
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    assert!(
        ALLOCATIONS.load(Ordering::Relaxed) > 0,
        "set-up allocates, so the count works"
    );
    let talk_and_attack = |number| {
        a.raw(Component::Rtp, leg_a.rtp, b"not RTP");
        a.raw(Component::Rtp, leg_a.rtp, &a.packet(8, 1));
        talk(&a, leg_a, &b, leg_b, number);
    };
    // While the sockets tell sources, as far as that lasts; then connected.
    for connected in [false, true] {
        if connected {
            bench.wait_connected(2);
        }
        talk_and_attack(1);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for number in 2..2000 {
            talk_and_attack(number);
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
    }
    assert!(bench.dropped(DropReason::NotRtp) >= 3998);
}

fn relay_past_the_kernel() {
    const EDGE: &str = "192.0.2.1";
    if netns::enter().is_none() {
        println!("SKIPPED: no network namespace of its own is permitted here");
        return;
    }
    let peer = Peer::linked();
    let (service, mut ways) = LinkService::new(1).unwrap();
    let stop = service.stopper();
    let service = std::thread::spawn(move || service.run());
    let steering = Steering::attach([EDGE.parse().unwrap()]).unwrap();
    let occupied = Arc::new(OccupiedPorts::new([]));
    let ports = (&(10_000..=60_000), occupied);
    let hub = Hub::open(steering.thread(0).unwrap(), ports, Sharing::Ports);
    let options = MediaOptions {
        allocations: 8,
        ..MediaOptions::default()
    };
    let mut bench = Bench::sharing(options, || COUNTED.set(true), (Some(hub), ways.pop()));
    let [a, b] = peer.run(|| {
        [("caller", "192.0.2.10"), ("human", "192.0.2.20")].map(|(name, ip)| Party::new(name, ip))
    });
    let [leg_a, leg_b] = [&a, &b].map(|party| {
        let leg = bench.open(EDGE, LatchMode::Signalling);
        bench.describe(leg, party);
        leg
    });
    bench.bridge(leg_a, leg_b);
    bench.settle_commands();
    let linked = |bench: &Bench| bench.counters.sent_by_link.get();
    let deadline = std::time::Instant::now() + bench::DEADLINE;
    for number in 1.. {
        let before = linked(&bench);
        talk(&a, leg_a, &b, leg_b, number);
        if linked(&bench) == before + 2 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no way");
    }
    let before = (ALLOCATIONS.load(Ordering::Relaxed), linked(&bench));
    for number in 2..2000 {
        talk(&a, leg_a, &b, leg_b, number);
    }
    let after = (ALLOCATIONS.load(Ordering::Relaxed), linked(&bench));
    assert_eq!(after, (before.0, before.1 + 2 * 1998));
    drop(bench);
    stop.stop();
    service.join().unwrap();
}
