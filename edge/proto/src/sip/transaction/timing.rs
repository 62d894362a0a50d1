//! The timers of RFC 3261 §17 (table 4) and RFC 6026 by their names, and how long they run.

use crate::config::SipConfig;
use crate::time::Duration;

/// A timer of one transaction.
///
/// The order of the variants breaks ties: at one instant a timer that ends a transaction fires before one that would
/// retransmit, so that nothing is sent for a transaction that is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// INVITE client: no response at all (64*T1).
    B,
    /// Non-INVITE client: no final response (64*T1).
    F,
    /// INVITE server: no ACK for a 3xx-6xx (64*T1).
    H,
    /// INVITE client, after CANCEL went out: no final response (64*T1, RFC 3261 §9.1, which gives it no letter).
    Cancelled,
    /// INVITE client: how long a 3xx-6xx may be retransmitted to us (at least 32 s, 0 on reliable transports).
    D,
    /// INVITE server: how long an ACK for a 3xx-6xx may be retransmitted to us (T4, 0 on reliable transports).
    I,
    /// Non-INVITE server: how long the request may be retransmitted to us (64*T1, 0 on reliable transports).
    J,
    /// Non-INVITE client: how long the final response may be retransmitted to us (T4, 0 on reliable transports).
    K,
    /// INVITE server after 2xx: how long the INVITE may be retransmitted to us (64*T1, RFC 6026 §7.1).
    L,
    /// INVITE client after 2xx: how long further 2xx may arrive (64*T1, RFC 6026 §7.2).
    M,
    /// INVITE client: retransmit the request (T1, doubling; unreliable transports only).
    A,
    /// Non-INVITE client: retransmit the request (T1, doubling up to T2; unreliable transports only).
    E,
    /// INVITE server: retransmit the 3xx-6xx (T1, doubling up to T2; unreliable transports only).
    G,
    /// INVITE server: retransmit the 2xx (T1, doubling up to T2; on every transport, since hops behind the next one may
    /// lose it, RFC 3261 §13.3.1.4, which gives it no letter).
    Success,
}

/// What a response means to a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseClass {
    /// 1xx.
    Provisional,
    /// 2xx.
    Success,
    /// 3xx to 6xx.
    Failure,
}

impl ResponseClass {
    /// The class of a status code; a code outside 100-699 is a failure (RFC 3261 §8.1.3.2).
    pub const fn of(code: u16) -> Self {
        match code {
            100..=199 => ResponseClass::Provisional,
            200..=299 => ResponseClass::Success,
            _ => ResponseClass::Failure,
        }
    }
}

/// The timer base (RFC 3261 §17.1.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timings {
    /// Estimated round trip; the first retransmission interval.
    pub t1: Duration,
    /// The longest retransmission interval (but for INVITE requests, whose interval has no bound).
    pub t2: Duration,
    /// How long a message stays in the network.
    pub t4: Duration,
}

impl From<&SipConfig> for Timings {
    fn from(config: &SipConfig) -> Self {
        Timings {
            t1: config.t1,
            t2: config.t2,
            t4: config.t4,
        }
    }
}

impl Timings {
    /// 64*T1: timers B, F, H, J, L and M.
    pub fn transaction(&self) -> Duration {
        self.t1.saturating_mul(64)
    }

    /// Timer D on an unreliable transport: the server's timer H, whose T1 is not ours to know, hence at least 32 s.
    pub fn timer_d(&self) -> Duration {
        self.transaction().max(Duration::from_secs(32))
    }

    /// The interval after `interval` where it doubles up to T2 (timers E, G and the retransmission of 2xx).
    pub fn next_interval(&self, interval: Duration) -> Duration {
        interval.saturating_mul(2).min(self.t2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_t1(t1: Duration) -> Timings {
        Timings::from(&SipConfig {
            t1,
            ..SipConfig::default()
        })
    }

    #[test]
    fn timer_d_does_not_shrink_with_our_t1() {
        // RFC 3261 §17.1.1.2: the server's T1 is unknown, so at least 32 s.
        assert_eq!(
            with_t1(Duration::from_millis(10)).timer_d(),
            Duration::from_secs(32)
        );
        assert_eq!(
            with_t1(Duration::from_secs(1)).timer_d(),
            Duration::from_secs(64)
        );
    }

    #[test]
    fn codes_have_classes() {
        for (code, class) in [
            (100, ResponseClass::Provisional),
            (199, ResponseClass::Provisional),
            (200, ResponseClass::Success),
            (299, ResponseClass::Success),
            (300, ResponseClass::Failure),
            (699, ResponseClass::Failure),
            (0, ResponseClass::Failure),
        ] {
            assert_eq!(ResponseClass::of(code), class, "{code}");
        }
    }

    #[test]
    fn what_ends_a_transaction_fires_before_what_repeats() {
        for last in [Timer::B, Timer::F, Timer::H, Timer::L, Timer::Cancelled] {
            for repeat in [Timer::A, Timer::E, Timer::G, Timer::Success] {
                assert!(last < repeat, "{last:?} {repeat:?}");
            }
        }
    }
}
