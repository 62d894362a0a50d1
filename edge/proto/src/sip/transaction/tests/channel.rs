//! Two layers over a channel that loses, duplicates and reorders: whatever it does, everything ends and nobody is told twice.

use super::*;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// What the channel does to each message. Delays stay below T1, so that nothing outlives the transaction that absorbs it.
#[derive(Clone, Copy, Debug)]
struct Channel {
    reliable: bool,
    loss_percent: u64,
    duplicate_percent: u64,
    delay_ms: u64,
}

#[derive(Debug)]
enum Due {
    ToServer(Bytes),
    ToClient(Bytes),
    /// The server's user answers.
    Respond(ServerKey, Bytes, u16),
    /// The client's user hangs up.
    Cancel(ClientKey),
}

/// What a user was told of one of its transactions.
#[derive(Clone, Copy, Default, Debug)]
struct Told {
    finals: u32,
    done: u32,
}

struct World {
    rng: ChaCha20Rng,
    channel: Channel,
    now: Instant,
    client: TransactionLayer,
    server: TransactionLayer,
    /// By time, then by order of creation.
    due: BTreeMap<(Instant, u64), Due>,
    serial: u64,
    /// How often each distinct message was transmitted.
    transmitted: BTreeMap<Vec<u8>, u32>,
    client_told: BTreeMap<ClientKey, Told>,
    server_told: BTreeMap<ServerKey, Told>,
    /// Branches and methods that came to the server's user as new.
    seen: BTreeSet<(String, String)>,
}

const METHODS: [&str; 4] = ["INVITE", "OPTIONS", "BYE", "INVITE"];
const FINALS: [u16; 5] = [200, 486, 200, 404, 603];

impl World {
    fn new(seed: u64, channel: Channel) -> Self {
        World {
            rng: ChaCha20Rng::seed_from_u64(seed),
            channel,
            now: at(0),
            client: layer(),
            server: layer(),
            due: BTreeMap::new(),
            serial: 0,
            transmitted: BTreeMap::new(),
            client_told: BTreeMap::new(),
            server_told: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    fn later(&mut self, after_ms: u64, what: Due) {
        self.serial += 1;
        let when = self.now + Duration::from_millis(after_ms);
        self.due.insert((when, self.serial), what);
    }

    fn hop(&self) -> Hop {
        if self.channel.reliable {
            tcp(1)
        } else {
            udp_from("192.0.2.1:5060")
        }
    }

    fn transmit(&mut self, to_server: bool, bytes: Bytes) {
        *self.transmitted.entry(bytes.to_vec()).or_default() += 1;
        let wrap = if to_server {
            Due::ToServer
        } else {
            Due::ToClient
        };
        if self.channel.reliable {
            self.later(self.channel.delay_ms, wrap(bytes));
            return;
        }
        let duplicate = self.below(100) < self.channel.duplicate_percent;
        for _ in 0..1 + u32::from(duplicate) {
            if self.below(100) >= self.channel.loss_percent {
                let delay = self.below(self.channel.delay_ms);
                self.later(delay, wrap(bytes.clone()));
            }
        }
    }

    fn start(&mut self, number: usize) {
        let (branch, call_id) = (
            format!(";branch=z9hG4bK-{number}"),
            format!("call-{number}"),
        );
        let method = METHODS[number % METHODS.len()];
        let request = Request {
            method,
            branch: &branch,
            call_id: &call_id,
            ..INVITE
        };
        let hop = self.hop();
        let key = request.start(&mut self.client, self.now, hop);
        self.client_told.insert(key, Told::default());
        if method == "INVITE" {
            // Some callers hang up; and nobody lets a phone ring for ever, since that is the user's to limit (Timer C).
            let hangs_up = self.below(3) == 0;
            let after = if hangs_up { self.below(5_000) } else { 60_000 };
            self.later(after, Due::Cancel(key));
        }
    }

    fn carry_out(&mut self, what: Due) {
        let now = self.now;
        match what {
            Due::ToServer(bytes) => self.at_server(&parse(bytes)),
            Due::ToClient(bytes) => self.at_client(&parse(bytes)),
            Due::Respond(key, bytes, code) => {
                if self.server.respond(now, key, code, bytes) && code >= 200 {
                    self.server_told.get_mut(&key).unwrap().finals += 1;
                }
            }
            Due::Cancel(key) => {
                self.client.cancel(now, key, &[]);
            }
        }
    }

    fn at_server(&mut self, request: &Message) {
        let (hop, reliable) = (self.hop(), self.channel.reliable);
        match self.server.on_request(self.now, hop, reliable, request) {
            RequestDisposition::New(key) => {
                self.newly_seen(key, request);
                let code = FINALS[usize::try_from(self.below(5)).unwrap()];
                let ring = self.below(400);
                let decide = ring + self.below(6_000);
                if request.method() == Some(Method::Invite) && self.below(2) == 0 {
                    self.later(ring, Due::Respond(key, answer(request, 180, "to-1"), 180));
                }
                self.later(
                    decide,
                    Due::Respond(key, answer(request, code, "to-1"), code),
                );
            }
            RequestDisposition::Cancel { cancel, invite } => {
                self.newly_seen(cancel, request);
                let code = if invite.is_some() { 200 } else { 481 };
                self.carry_out(Due::Respond(cancel, answer(request, code, "to-1"), code));
                if let Some(invite) = invite {
                    let terminated = terminated(request);
                    self.carry_out(Due::Respond(invite, terminated, 487));
                }
            }
            RequestDisposition::Ack(Some(key)) => self.server.acknowledged(key),
            RequestDisposition::Ack(None) | RequestDisposition::Absorbed => {}
            other => panic!("{other:?} for {request:?}"),
        }
    }

    fn newly_seen(&mut self, key: ServerKey, request: &Message) {
        let branch = request.top_via().branch().unwrap().to_owned();
        let method = request.method().unwrap().as_str().to_owned();
        assert!(
            self.seen.insert((branch, method)),
            "told twice: {request:?}"
        );
        self.server_told.insert(key, Told::default());
    }

    fn at_client(&mut self, response: &Message) {
        let is_invite = response.cseq().method == Method::Invite;
        let is_success = response
            .status()
            .is_some_and(|code| (200..300).contains(&code));
        match self.client.on_response(self.now, response) {
            ResponseDisposition::Final(key) => {
                self.client_told.get_mut(&key).unwrap().finals += 1;
                if is_invite && is_success {
                    self.acknowledge(response);
                }
            }
            ResponseDisposition::Retransmitted2xx(_) => {
                assert!(is_invite && is_success);
                self.acknowledge(response);
            }
            ResponseDisposition::Provisional(_)
            | ResponseDisposition::Absorbed
            | ResponseDisposition::Stray => {}
        }
    }

    /// As the user does: an ACK of its own branch, the same for each repetition.
    fn acknowledge(&mut self, response: &Message) {
        let branch = format!("{}-ack", response.top_via().branch().unwrap());
        let ack = Request {
            method: "ACK",
            branch: &format!(";branch={branch}"),
            call_id: response.call_id(),
            to_tag: ";tag=to-1",
            ..INVITE
        };
        self.transmit(true, ack.bytes());
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                TransactionOutput::Transmit { bytes, .. } => self.transmit(true, bytes),
                TransactionOutput::Event(event) => self.client_event(event),
            }
        }
        while let Some(output) = self.server.poll_output() {
            match output {
                TransactionOutput::Transmit { bytes, .. } => self.transmit(false, bytes),
                TransactionOutput::Event(TransactionEvent::ServerDone(key)) => {
                    self.server_told.get_mut(&key).unwrap().done += 1;
                }
                TransactionOutput::Event(TransactionEvent::NoAck(_)) => {
                    assert!(!self.channel.reliable, "every ACK arrives");
                }
                TransactionOutput::Event(other) => panic!("{other:?}"),
            }
        }
    }

    fn client_event(&mut self, event: TransactionEvent) {
        match event {
            TransactionEvent::ClientTimeout(key) => {
                assert!(!self.channel.reliable, "every response arrives");
                self.client_told.get_mut(&key).unwrap().finals += 1;
            }
            TransactionEvent::ClientDone(key) => self.client_told.get_mut(&key).unwrap().done += 1,
            other => panic!("{other:?}"),
        }
    }

    /// Until nothing is under way and no timer is set.
    fn run(&mut self) {
        loop {
            self.drain();
            let arrival = self.due.first_key_value().map(|(&(when, _), _)| when);
            let timeout = [self.client.poll_timeout(), self.server.poll_timeout()];
            let Some(now) = timeout.into_iter().chain([arrival]).flatten().min() else {
                return;
            };
            assert!(now >= self.now && now < at(300_000), "it ends, at {now:?}");
            self.now = now;
            self.client.handle_timeout(now);
            self.server.handle_timeout(now);
            self.drain();
            while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= now) {
                let what = entry.remove();
                self.carry_out(what);
                self.drain();
            }
        }
    }

    fn check(&self) {
        assert_empty(&self.client);
        assert_empty(&self.server);
        for (key, told) in &self.client_told {
            assert_eq!((told.finals, told.done), (1, 1), "{key:?}");
        }
        for (key, told) in &self.server_told {
            assert_eq!((told.finals, told.done), (1, 1), "{key:?}");
        }
        if self.channel.reliable {
            let repeated = self.transmitted.iter().find(|(_, count)| **count != 1);
            assert!(repeated.is_none(), "sent again: {repeated:?}");
        }
    }
}

/// The 487 to the INVITE of a received CANCEL: the same message but for the method.
fn terminated(cancel: &Message) -> Bytes {
    let text = String::from_utf8(cancel.raw().to_vec()).unwrap();
    answer(&parse(text.replace("CANCEL", "INVITE")), 487, "to-1")
}

fn simulate(seed: u64, transactions: usize, channel: Channel) -> BTreeMap<Vec<u8>, u32> {
    let mut world = World::new(seed, channel);
    for number in 0..transactions {
        world.start(number);
    }
    world.run();
    world.check();
    world.transmitted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn over_udp_everything_ends_and_nobody_is_told_twice(
        seed: u64,
        loss_percent in 0..=100u64,
        duplicate_percent in 0..=100u64,
        delay_ms in 1..450u64,
    ) {
        let channel = Channel { reliable: false, loss_percent, duplicate_percent, delay_ms };
        simulate(seed, 8, channel);
    }

    #[test]
    fn over_tcp_nothing_is_sent_twice(seed: u64, delay_ms in 0..200u64) {
        let channel = Channel { reliable: true, loss_percent: 0, duplicate_percent: 0, delay_ms };
        simulate(seed, 8, channel);
    }
}

#[test]
fn the_same_seed_gives_the_same_messages() {
    let channel = Channel {
        reliable: false,
        loss_percent: 30,
        duplicate_percent: 20,
        delay_ms: 400,
    };
    let first = simulate(42, 40, channel);
    assert_eq!(first, simulate(42, 40, channel));
    assert_ne!(first, simulate(43, 40, channel));
    assert!(
        first.values().any(|&count| count > 1),
        "losses were made good"
    );
}
