//! What one seed plays: how many cores, which configuration, how rude the peers and how bad the network.

mod config;
mod places;
mod targets;

pub use config::{Change, build, password_of};
pub use places::{Host, HostId, Places, Side, media_address};
pub use targets::{FALLBACKS, TARGETS, Target, VIA_NUMBER, Verdict};

use crate::dice::Dice;
use edge_proto::config::{InboundAuth, LatchMode, OnFailure, ReferAuth};
use edge_proto::id::CoreId;
use edge_proto::time::Duration;

/// Everything that is fixed before the first event. All chances are in permille.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub cores: u8,
    pub calls: u32,
    /// Calls start within this time.
    pub span: Duration,
    pub policy: PolicyKnobs,
    pub limits: LimitKnobs,
    pub network: NetworkKnobs,
    /// How rude the peers are: 0 is flawless, 1000 is the worst.
    pub rudeness: u32,
    /// Reload this long after the start, with this change.
    pub reload: Option<(Duration, Change)>,
    pub drain: Option<Duration>,
    pub places: Places,
    /// A core that cannot keep up from then on, for so long.
    pub overload: Option<(CoreId, Duration, Duration)>,
}

/// What the configuration says about calls and transfers.
#[derive(Clone, Debug)]
pub struct PolicyKnobs {
    pub t1: Duration,
    pub carrier_auth: InboundAuth,
    pub platform_auth: InboundAuth,
    pub refer_auth: ReferAuth,
    pub max_transfers: u32,
    /// Agents may transfer on, in dialog mode.
    pub agents_transfer: bool,
    pub fallbacks: usize,
    pub on_failure: OnFailure,
    pub ring_timeout: Duration,
    pub auth_timeout: Duration,
    pub bridge_families: bool,
    pub latch: LatchMode,
    /// The agents' trunk takes PCMA only, so that callers who use PCMU have to be asked to change.
    pub agents_pcma_only: bool,
    pub media_timeout: Duration,
}

/// Limits, many of them low enough to be met.
#[derive(Clone, Debug)]
pub struct LimitKnobs {
    pub calls: usize,
    pub transactions: usize,
    pub connections: usize,
    /// RTP port pairs of all cores together.
    pub port_pairs: u16,
    /// 0: unlimited.
    pub platform_max_calls: u32,
    pub agents_max_calls: u32,
    pub carrier_calls_per_s: u32,
}

/// What the network, the queues, the resolver and the host's ports do.
#[derive(Clone, Debug)]
pub struct NetworkKnobs {
    pub latency_ms: (u32, u32),
    pub cut: u32,
    pub resets: u32,
    pub refuse: u32,
    pub lose: u32,
    pub duplicate: u32,
    pub reorder: u32,
    pub handoff_capacity: usize,
    pub handoff_delay_ms: (u32, u32),
    pub media_delay_ms: (u32, u32),
    pub bind_fails: u32,
    pub resolver_late_ms: u32,
    pub resolver_fails: u32,
    /// Wake-ups come up to this late.
    pub timer_late_ms: u32,
    /// Wake-ups that nobody asked for.
    pub spurious_wakes: u32,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64) -> Scenario {
        let dice = &mut Dice::new(seed, 1);
        let cores = *dice.pick(&[1, 2, 3, 4]);
        let rudeness = *dice.pick(&[0, 250, 500, 700, 1000]);
        let rough = *dice.pick(&[0, 300, 1000]);
        let calls = dice.between(8, 28);
        let span = dice.millis(5_000, 60_000);
        Scenario {
            seed,
            cores,
            calls,
            span,
            policy: policy(dice),
            limits: limits(dice),
            network: network(dice, rough),
            rudeness,
            reload: dice
                .chance(300)
                .then(|| (dice.millis(5_000, 60_000), *dice.pick(&Change::ALL))),
            drain: dice.chance(150).then(|| dice.millis(10_000, 60_000)),
            places: Places::draw(dice),
            // Last, so that the rest of a seed's scenario stays what it was.
            overload: dice.chance(150).then(|| {
                let core = CoreId(dice.below(cores.into()) as u8);
                (core, dice.millis(1_000, 40_000), dice.millis(100, 10_000))
            }),
        }
    }
}

fn policy(dice: &mut Dice) -> PolicyKnobs {
    PolicyKnobs {
        t1: Duration::from_millis(*dice.pick(&[100, 500])),
        carrier_auth: *dice.pick(&[InboundAuth::Ip, InboundAuth::Ip, InboundAuth::DigestAndIp]),
        platform_auth: *dice.pick(&[InboundAuth::Ip, InboundAuth::Digest]),
        refer_auth: *dice.pick(&[ReferAuth::Digest, ReferAuth::Digest, ReferAuth::Dialog]),
        max_transfers: *dice.pick(&[0, 1, 1, 1, 2, 3]),
        agents_transfer: dice.chance(400),
        fallbacks: *dice.pick(&[0, 0, 1, 2]),
        on_failure: *dice.pick(&[OnFailure::Return, OnFailure::Return, OnFailure::Hangup]),
        ring_timeout: dice.millis(2_000, 12_000),
        auth_timeout: dice.millis(1_000, 4_000),
        bridge_families: dice.chance(500),
        latch: *dice.pick(&[LatchMode::Signalling, LatchMode::Signalling, LatchMode::Off]),
        agents_pcma_only: dice.chance(250),
        media_timeout: Duration::from_secs(*dice.pick(&[10, 20, 60])),
    }
}

fn limits(dice: &mut Dice) -> LimitKnobs {
    LimitKnobs {
        calls: *dice.pick(&[1000, 1000, 1000, 4]),
        transactions: *dice.pick(&[10_000, 10_000, 10_000, 40]),
        connections: *dice.pick(&[1000, 1000, 1000, 40]),
        port_pairs: *dice.pick(&[400, 400, 400, 16]),
        platform_max_calls: *dice.pick(&[0, 0, 0, 3]),
        agents_max_calls: *dice.pick(&[0, 0, 0, 1]),
        carrier_calls_per_s: *dice.pick(&[0, 0, 0, 1]),
    }
}

fn network(dice: &mut Dice, rough: u32) -> NetworkKnobs {
    let scaled = |permille: u32| permille * rough / 1000;
    NetworkKnobs {
        latency_ms: *dice.pick(&[(0, 2), (1, 30), (5, 250)]),
        cut: scaled(*dice.pick(&[100, 500])),
        resets: scaled(6),
        refuse: scaled(60),
        lose: scaled(80),
        duplicate: scaled(40),
        reorder: scaled(100),
        handoff_capacity: *dice.pick(&[1, 2, 8, 64]),
        handoff_delay_ms: *dice.pick(&[(0, 1), (0, 20)]),
        media_delay_ms: *dice.pick(&[(0, 1), (0, 50)]),
        bind_fails: scaled(60),
        resolver_late_ms: *dice.pick(&[5, 400, 4_000]),
        resolver_fails: scaled(120),
        timer_late_ms: *dice.pick(&[0, 3]),
        spurious_wakes: *dice.pick(&[0, 20]),
    }
}
