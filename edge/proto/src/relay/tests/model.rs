//! The relay against a reference model under random commands and packets.
//!
//! The model keeps what was said, not what was concluded: it judges every packet from the history of the allocation.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SLOTS: u32 = 4;

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    Open(u32, LatchMode),
    Close(u32),
    SetRemote(u32, SocketAddr, SocketAddr, SocketAddr),
    Bridge(u32, u32, bool, bool),
    Unbridge(u32),
    /// Milliseconds.
    Pass(u64),
    Packet(u32, Component, SocketAddr, Content),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// Payload type.
    Rtp(u8),
    Rtcp,
    Garbage,
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        18 => (1u8..=2, 4000u16..=4001).prop_map(|(host, port)| SocketAddr::from(([192, 0, 2, host], port))),
        1 => Just(SocketAddr::from(([0, 0, 0, 0], 4000))),
        1 => Just(at("[2001:db8::1]:4000")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 1..=SLOTS;
    let mode = prop_oneof![
        Just(LatchMode::Off),
        Just(LatchMode::Signalling),
        Just(LatchMode::Any)
    ];
    let packet = prop_oneof![
        12 => Just((Component::Rtp, Content::Rtp(0))),
        4 => Just((Component::Rtp, Content::Rtp(101))),
        8 => Just((Component::Rtcp, Content::Rtcp)),
        1 => Just((Component::Rtp, Content::Rtp(8))),
        1 => Just((Component::Rtp, Content::Rtcp)),
        1 => Just((Component::Rtcp, Content::Rtp(0))),
        1 => Just((Component::Rtp, Content::Garbage)),
        1 => Just((Component::Rtcp, Content::Garbage)),
    ];
    let muted = || proptest::bool::weighted(0.2);
    prop_oneof![
        2 => (slot(), mode).prop_map(|(s, m)| Step::Open(s, m)),
        1 => slot().prop_map(Step::Close),
        3 => (slot(), address(), address(), address()).prop_map(|(s, a, b, c)| Step::SetRemote(s, a, b, c)),
        4 => (slot(), slot(), muted(), muted()).prop_map(|(a, b, x, y)| Step::Bridge(a, b, x, y)),
        1 => slot().prop_map(Step::Unbridge),
        4 => (1u64..1500).prop_map(Step::Pass),
        60 => (slot(), packet, address()).prop_map(|(s, (c, p), a)| Step::Packet(s, c, a, p)),
    ]
}

/// What was said about one open allocation.
struct Said {
    generation: u32,
    mode: LatchMode,
    remote: Option<RemoteMedia>,
    /// Media accepted since the description last changed, oldest first.
    accepted: Vec<(Component, SocketAddr)>,
    /// The source that counted under the description before, when another address was described, and until when it only speaks.
    former: [Option<(SocketAddr, Instant)>; 2],
    strangers: u64,
}

impl Said {
    /// The source that counts for `component`. The first one accepted wins; but an RTCP source accepted before the first RTP
    /// source is void where it is on neither that host nor the described one.
    fn source(&self, component: Component) -> Option<SocketAddr> {
        let first_rtp = self.accepted.iter().position(|(c, _)| *c == Component::Rtp);
        if component == Component::Rtp {
            return first_rtp.map(|position| self.accepted[position].1);
        }
        let mut heard = self.accepted.iter().enumerate();
        heard.find_map(|(position, &(c, source))| {
            let fits = first_rtp.is_none_or(|first| {
                position > first
                    || source.ip() == self.accepted[first].1.ip()
                    || Some(source.ip()) == self.remote.map(|remote| remote.rtcp.ip())
            });
            (c == Component::Rtcp && fits).then_some(source)
        })
    }

    fn admits(&self, component: Component, source: SocketAddr) -> bool {
        let Some(remote) = self.remote else {
            return false;
        };
        if let Some(known) = self.source(component) {
            return known == source;
        }
        if source.ip().is_unspecified() {
            return false;
        }
        let described = [remote.rtp, remote.rtcp][component.index()];
        let rtp_host = self.source(Component::Rtp).map(|a| a.ip());
        match (self.mode, component, rtp_host) {
            (LatchMode::Off, ..) => source == described,
            (_, Component::Rtcp, Some(host)) => {
                source.ip() == described.ip() || source.ip() == host
            }
            (LatchMode::Signalling, ..) => {
                source.ip() == described.ip() || source.ip() == remote.signalling
            }
            (LatchMode::Any, ..) => true,
        }
    }

    fn destination(&self, component: Component) -> Option<SocketAddr> {
        let remote = self.remote?;
        let sdp = [remote.rtp, remote.rtcp][component.index()];
        let guess = self
            .source(component)
            .unwrap_or_else(|| match self.source(Component::Rtp) {
                Some(rtp)
                    if component == Component::Rtcp
                        && ![remote.rtp.ip(), remote.rtcp.ip()].contains(&rtp.ip()) =>
                {
                    SocketAddr::new(rtp.ip(), rtp.port() + 1)
                }
                _ => sdp,
            });
        (guess.is_ipv4() && !guess.ip().is_unspecified()).then_some(guess)
    }
}

#[derive(Default)]
struct Model {
    open: BTreeMap<u32, Said>,
    generations: BTreeMap<u32, u32>,
    /// (from, to) -> muted.
    directions: BTreeMap<(u32, u32), bool>,
}

impl Model {
    fn id(&self, slot: u32) -> AllocationId {
        AllocationId {
            slot,
            generation: self.generations.get(&slot).copied().unwrap_or(0),
        }
    }

    fn unbridge(&mut self, slot: u32) {
        self.directions.retain(|&(a, b), _| a != slot && b != slot);
    }

    /// Takes a packet at `now`: `Some` when it must be forwarded.
    fn packet(
        &mut self,
        now: Instant,
        slot: u32,
        component: Component,
        source: SocketAddr,
        content: Content,
    ) -> Option<(u32, SocketAddr)> {
        let said = self.open.get_mut(&slot)?;
        if !said.admits(component, source) {
            said.strangers += u64::from(said.remote.is_some());
            return None;
        }
        let payload_type = match (component, content) {
            (Component::Rtp, Content::Rtp(payload_type)) => Some(payload_type),
            (Component::Rtcp, Content::Rtcp) => None,
            _ => return None,
        };
        let described = said.remote.map(|r| [r.rtp, r.rtcp][component.index()]);
        let only_speaks = said.source(component).is_none()
            && said.former[component.index()].is_some_and(|(a, until)| a == source && now < until)
            && described != Some(source);
        if !only_speaks {
            said.accepted.push((component, source));
        }
        let (&(_, to), &muted) = self
            .directions
            .iter()
            .find(|((from, _), _)| *from == slot)?;
        match payload_type {
            Some(_) if muted => return None,
            Some(payload_type) if payload_type != 0 && payload_type != 101 => return None,
            _ => {}
        }
        Some((to, self.open.get(&to)?.destination(component)?))
    }
}

struct Run {
    bench: Bench,
    model: Model,
    forwarded: usize,
}

impl Run {
    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let Run { bench, model, .. } = self;
        match step {
            Step::Open(slot, mode) => {
                if !model.open.contains_key(&slot) {
                    *model.generations.entry(slot).or_default() += 1;
                    let generation = model.id(slot).generation;
                    model.open.insert(
                        slot,
                        Said {
                            generation,
                            mode,
                            remote: None,
                            accepted: vec![],
                            former: [None; 2],
                            strangers: 0,
                        },
                    );
                    bench.command(MediaCommand::Open {
                        allocation: model.id(slot),
                        local: SocketAddr::from(([203, 0, 113, 1], 10_000 + 2 * slot as u16)),
                        latch: mode,
                    });
                }
            }
            Step::Close(slot) => {
                bench.command(MediaCommand::Close {
                    allocation: model.id(slot),
                });
                model.open.remove(&slot);
                model.unbridge(slot);
            }
            Step::SetRemote(slot, rtp, rtcp, signalling) => {
                self.set_remote(
                    slot,
                    RemoteMedia {
                        rtp,
                        rtcp,
                        signalling: signalling.ip(),
                    },
                );
            }
            Step::Bridge(a, b, mute_a, mute_b) => self.bridge((a, mute_a), (b, mute_b)),
            Step::Unbridge(slot) => {
                bench.command(MediaCommand::Unbridge {
                    allocation: model.id(slot),
                });
                model.unbridge(slot);
            }
            Step::Pass(millis) => bench.now = bench.now + Duration::from_millis(millis),
            Step::Packet(slot, component, source, content) => {
                self.packet(slot, component, source, content)?;
            }
        }
        Ok(())
    }

    fn set_remote(&mut self, slot: u32, remote: RemoteMedia) {
        let Run { bench, model, .. } = self;
        bench.command(MediaCommand::SetRemote {
            allocation: model.id(slot),
            remote,
        });
        if let Some(said) = model.open.get_mut(&slot)
            && said.remote != Some(remote)
        {
            for (component, address) in Component::ALL.into_iter().zip([remote.rtp, remote.rtcp]) {
                let before = said.remote.map(|r| [r.rtp, r.rtcp][component.index()]);
                if let Some(source) = said.source(component) {
                    said.former[component.index()] = (before != Some(address))
                        .then(|| (source, bench.now + Duration::from_secs(2)));
                }
            }
            said.remote = Some(remote);
            said.accepted.clear();
        }
    }

    fn bridge(&mut self, (a, mute_a): (u32, bool), (b, mute_b): (u32, bool)) {
        let Run { bench, model, .. } = self;
        bench.command(MediaCommand::Bridge {
            a: model.id(a),
            b: model.id(b),
            a_to_b: (!mute_a).then(map),
            b_to_a: (!mute_b).then(map),
        });
        model.unbridge(a);
        model.unbridge(b);
        if a != b && model.open.contains_key(&a) && model.open.contains_key(&b) {
            model.directions.insert((a, b), mute_a);
            model.directions.insert((b, a), mute_b);
        }
    }

    fn packet(
        &mut self,
        slot: u32,
        component: Component,
        source: SocketAddr,
        content: Content,
    ) -> Result<(), TestCaseError> {
        let Run {
            bench,
            model,
            forwarded,
        } = self;
        let mut bytes = match content {
            Content::Rtp(payload_type) => rtp(payload_type, 1),
            Content::Rtcp => rtcp(),
            Content::Garbage => vec![0x12; 40],
        };
        let allocation = model.id(slot);
        let verdict = bench
            .relay
            .relay(bench.now, allocation, component, source, &mut bytes);
        bench.pump();
        let seen = match verdict {
            Verdict::Forward {
                to,
                component: sent_as,
                destination,
                ..
            } => {
                prop_assert_eq!(sent_as, component);
                prop_assert_eq!(to, model.id(to.slot));
                Some((to.slot, destination))
            }
            Verdict::Drop(_) => None,
        };
        prop_assert_eq!(
            seen,
            model.packet(bench.now, slot, component, source, content),
            "{:?}",
            verdict
        );
        if seen.is_some() {
            *forwarded += 1;
            let expected = match content {
                Content::Rtp(101) => rtp(96, 1),
                Content::Rtp(payload_type) => rtp(payload_type, 1),
                Content::Rtcp => rtcp(),
                Content::Garbage => return Err(TestCaseError::fail("garbage was forwarded")),
            };
            prop_assert_eq!(bytes, expected);
        }
        Ok(())
    }

    /// What the relay says at the end agrees with what was said to it.
    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.bench.relay.len(), self.model.open.len());
        for (&slot, said) in &self.model.open {
            let allocation = AllocationId {
                slot,
                generation: said.generation,
            };
            let stats = self.bench.relay.stats(allocation);
            prop_assert_eq!(stats.map(|s| s.strangers), Some(said.strangers));
        }
        Ok(())
    }
}

fn run(steps: Vec<Step>) -> Result<usize, TestCaseError> {
    let mut run = Run {
        bench: Bench::new(),
        model: Model::default(),
        forwarded: 0,
    };
    for slot in 1..=SLOTS {
        run.step(Step::Open(slot, LatchMode::Signalling))?;
        run.step(Step::SetRemote(slot, peer(1), peer(1), peer(2)))?;
    }
    run.step(Step::Bridge(1, 2, false, false))?;
    run.step(Step::Bridge(3, 4, false, false))?;
    for step in steps {
        run.step(step)?;
    }
    run.check()?;
    Ok(run.forwarded)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]
    #[test]
    fn every_packet_gets_the_verdict_of_the_model(steps in proptest::collection::vec(step(), 0..300)) {
        run(steps)?;
    }
}

/// The runs above are worth something only if packets do get through in them.
#[test]
fn random_runs_forward_packets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let steps = proptest::collection::vec(step(), 300);
    let forwarded: usize = (0..50)
        .map(|_| run(steps.new_tree(&mut runner).unwrap().current()).unwrap())
        .sum();
    assert!(forwarded > 400, "{forwarded} of 15000 steps");
}
