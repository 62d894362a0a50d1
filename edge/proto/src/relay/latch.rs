//! Which source is a leg's peer, and where its packets go (symmetric RTP, RFC 4961).

use super::{Component, RemoteMedia};
use crate::config::LatchMode;
use crate::time::{Duration, Instant};
use std::net::{IpAddr, SocketAddr};

/// How long the source that was learned under a description may speak under the next without being learned again.
///
/// A peer that moves to another port sends from the old one until it has the answer (RFC 3264 §8.3.1). Learning the old one
/// again would shut out the new; refusing it would cut speech; and a peer that moved in its SDP alone is learned after this.
const SUCCESSION: Duration = Duration::from_secs(2);

/// What the latch says about a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judgement {
    /// It is the learned one.
    Latched,
    /// Nothing is learned yet and this source may be: call [`Latch::learn`] once its packet proved to be media.
    Candidate,
    /// It may speak while nobody else is learned, but is not to be learned: see [`SUCCESSION`].
    Predecessor,
    /// No remote description to judge by.
    NoRemote,
    Stranger,
}

/// Who may be heard on a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Admission {
    /// The port is open, but whose it is is not known yet.
    #[default]
    Nobody,
    /// These hosts, from any port.
    Hosts([IpAddr; 2]),
    Anyone,
    Exact(SocketAddr),
}

/// Learned sources of one allocation, one per component. The first candidate wins, and only [`Latch::set_remote`] with a
/// changed description forgets it: a later packet never moves a latch, whatever its source.
#[derive(Debug)]
pub(super) struct Latch {
    mode: LatchMode,
    remote: Option<RemoteMedia>,
    learned: [Option<SocketAddr>; 2],
    /// The sources learned under the description before, and until when they are not learned again.
    former: [Option<(SocketAddr, Instant)>; 2],
}

impl Latch {
    pub fn new(mode: LatchMode) -> Self {
        Latch {
            mode,
            remote: None,
            learned: [None; 2],
            former: [None; 2],
        }
    }

    fn learned(&self, component: Component) -> Option<SocketAddr> {
        self.learned.get(component.index()).copied().flatten()
    }

    fn described(&self, component: Component) -> Option<SocketAddr> {
        let remote = self.remote?;
        Some(match component {
            Component::Rtp => remote.rtp,
            Component::Rtcp => remote.rtcp,
        })
    }

    /// Judges the source of a packet.
    pub fn judge(&self, now: Instant, component: Component, source: SocketAddr) -> Judgement {
        if let Some(learned) = self.learned(component) {
            return if learned == source {
                Judgement::Latched
            } else {
                Judgement::Stranger
            };
        }
        match (self.remote, self.described(component)) {
            (Some(remote), Some(described)) => {
                if !self.is_candidate(component, source, &remote, described) {
                    Judgement::Stranger
                } else if self.is_former(now, component, source)
                    && !same_endpoint(source, described)
                {
                    Judgement::Predecessor
                } else {
                    Judgement::Candidate
                }
            }
            _ => Judgement::NoRemote,
        }
    }

    fn is_former(&self, now: Instant, component: Component, source: SocketAddr) -> bool {
        let former = self.former.get(component.index()).copied().flatten();
        former.is_some_and(|(address, until)| address == source && now < until)
    }

    fn is_candidate(
        &self,
        component: Component,
        source: SocketAddr,
        remote: &RemoteMedia,
        described: SocketAddr,
    ) -> bool {
        // What cannot be answered can only be forged.
        if !is_unicast(source) {
            return false;
        }
        if self.mode == LatchMode::Off {
            return same_endpoint(source, described);
        }
        if source.ip() == described.ip() {
            return true;
        }
        // Where RTP has shown where the peer is, RTCP comes from there or from where the SDP says, from nowhere else.
        if component == Component::Rtcp
            && let Some(rtp) = self.learned(Component::Rtp)
        {
            return source.ip() == rtp.ip();
        }
        match self.mode {
            LatchMode::Any => true,
            LatchMode::Signalling => source.ip() == remote.signalling,
            LatchMode::Off => false,
        }
    }

    /// Who may be heard on `component` now; a filter in front of the socket may refuse everybody else. [`Latch::judge`] never
    /// accepts a source that is not among them.
    pub fn admission(&self, component: Component) -> Admission {
        if let Some(learned) = self.learned(component) {
            return Admission::Exact(learned);
        }
        let (Some(remote), Some(described)) = (self.remote, self.described(component)) else {
            return Admission::Nobody;
        };
        if self.mode == LatchMode::Off {
            return Admission::Exact(described);
        }
        match (component, self.learned(Component::Rtp), self.mode) {
            (Component::Rtcp, Some(rtp), _) => Admission::Hosts([described.ip(), rtp.ip()]),
            (_, _, LatchMode::Any) => Admission::Anyone,
            _ => Admission::Hosts([described.ip(), remote.signalling]),
        }
    }

    /// Makes a candidate the peer. Returns whether an RTCP source was forgotten because it contradicts the RTP source that is
    /// learned now: the two belong to one peer, and RTP is what counts.
    pub fn learn(&mut self, component: Component, source: SocketAddr) -> bool {
        if let Some(learned) = self.learned.get_mut(component.index()) {
            *learned = Some(source);
        }
        if component == Component::Rtcp {
            return false;
        }
        let (Some(rtcp), Some(described)) = (
            self.learned(Component::Rtcp),
            self.described(Component::Rtcp),
        ) else {
            return false;
        };
        if rtcp.ip() == source.ip() || rtcp.ip() == described.ip() {
            return false;
        }
        self.forget(Component::Rtcp);
        true
    }

    fn forget(&mut self, component: Component) -> Option<SocketAddr> {
        self.learned.get_mut(component.index())?.take()
    }

    /// Takes a remote description. One that differs from the last re-opens the latch; returned are the components whose
    /// learned source was forgotten (RTP, RTCP).
    pub fn set_remote(&mut self, now: Instant, remote: RemoteMedia) -> [bool; 2] {
        if self.remote == Some(remote) {
            return [false; 2];
        }
        let before = Component::ALL.map(|component| self.described(component));
        self.remote = Some(remote);
        let mut forgotten = [false; 2];
        for (component, before) in Component::ALL.into_iter().zip(before) {
            let learned = self.forget(component);
            let moved = before != self.described(component);
            if let Some(flag) = forgotten.get_mut(component.index()) {
                *flag = learned.is_some();
            }
            if let Some(former) = self.former.get_mut(component.index()) {
                *former = match learned {
                    Some(source) if moved => Some((source, now + SUCCESSION)),
                    Some(_) => None,
                    None => *former,
                };
            }
        }
        forgotten
    }

    /// Where packets for the peer go: to the learned source, else to what its SDP says. RTCP without a learned source follows
    /// an RTP source that is not where the SDP said: the next port there (RFC 3550 §11) is then the better guess.
    pub fn destination(&self, component: Component) -> Option<SocketAddr> {
        if let Some(learned) = self.learned(component) {
            return Some(learned);
        }
        let remote = self.remote?;
        let guess = match (component, self.learned(Component::Rtp)) {
            (Component::Rtcp, Some(rtp))
                if rtp.ip() != remote.rtp.ip() && rtp.ip() != remote.rtcp.ip() =>
            {
                SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?)
            }
            (Component::Rtcp, _) => remote.rtcp,
            (Component::Rtp, _) => remote.rtp,
        };
        is_unicast(guess).then_some(guess)
    }
}

/// Equality of address and port; an IPv6 flow label or scope does not make another endpoint.
fn same_endpoint(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}

/// Whether one host can be meant: nothing is ever sent to a group, or to the address and port that stand for "none".
fn is_unicast(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn remote(rtp: &str, rtcp: &str, signalling: &str) -> RemoteMedia {
        RemoteMedia {
            rtp: at(rtp),
            rtcp: at(rtcp),
            signalling: signalling.parse().unwrap(),
        }
    }

    fn described() -> RemoteMedia {
        remote("192.0.2.1:4000", "192.0.2.1:4001", "198.51.100.1")
    }

    fn latch(mode: LatchMode) -> Latch {
        let mut latch = Latch::new(mode);
        assert_eq!(latch.set_remote(Instant::ZERO, described()), [false; 2]);
        latch
    }

    #[test]
    fn nothing_is_judged_before_a_description() {
        let latch = Latch::new(LatchMode::Any);
        assert_eq!(
            latch.judge(Instant::ZERO, Component::Rtp, at("192.0.2.1:4000")),
            Judgement::NoRemote
        );
        assert_eq!(latch.destination(Component::Rtp), None);
    }

    #[test]
    fn each_mode_admits_what_it_says() {
        use Judgement::{Candidate, Stranger};
        // Source -> off, signalling, any.
        let table = [
            ("192.0.2.1:4000", Candidate, Candidate, Candidate),
            ("192.0.2.1:5000", Stranger, Candidate, Candidate),
            ("198.51.100.1:4000", Stranger, Candidate, Candidate),
            ("203.0.113.9:4000", Stranger, Stranger, Candidate),
            ("192.0.2.1:0", Stranger, Stranger, Stranger),
            ("0.0.0.0:4000", Stranger, Stranger, Stranger),
            ("[2001:db8::1]:4000", Stranger, Stranger, Candidate),
        ];
        for (source, off, signalling, any) in table {
            for (mode, expected) in [
                (LatchMode::Off, off),
                (LatchMode::Signalling, signalling),
                (LatchMode::Any, any),
            ] {
                assert_eq!(
                    latch(mode).judge(Instant::ZERO, Component::Rtp, at(source)),
                    expected,
                    "{source} {mode:?}"
                );
            }
        }
        assert_eq!(
            latch(LatchMode::Off).judge(Instant::ZERO, Component::Rtcp, at("192.0.2.1:4001")),
            Candidate
        );
        assert_eq!(
            latch(LatchMode::Off).judge(Instant::ZERO, Component::Rtcp, at("192.0.2.1:4000")),
            Stranger
        );
    }

    #[test]
    fn the_first_match_wins_until_the_description_changes() {
        let mut latch = latch(LatchMode::Any);
        let (first, second) = (at("203.0.113.1:9"), at("192.0.2.1:4000"));
        assert!(!latch.learn(Component::Rtp, first));
        assert_eq!(
            latch.judge(Instant::ZERO, Component::Rtp, first),
            Judgement::Latched
        );
        assert_eq!(
            latch.judge(Instant::ZERO, Component::Rtp, second),
            Judgement::Stranger
        );
        assert_eq!(latch.destination(Component::Rtp), Some(first));
        assert_eq!(latch.set_remote(Instant::ZERO, described()), [false; 2]);
        assert_eq!(
            latch.judge(Instant::ZERO, Component::Rtp, second),
            Judgement::Stranger
        );
        let moved = remote("192.0.2.7:4000", "192.0.2.7:4001", "198.51.100.1");
        assert_eq!(latch.set_remote(Instant::ZERO, moved), [true, false]);
        assert_eq!(
            latch.judge(Instant::ZERO, Component::Rtp, second),
            Judgement::Candidate
        );
        assert_eq!(latch.destination(Component::Rtp), Some(moved.rtp));
    }

    /// Whether a filter that knows the admission lets a packet pass.
    fn passes(admission: Admission, source: SocketAddr) -> bool {
        match admission {
            Admission::Nobody => false,
            Admission::Hosts(hosts) => hosts.contains(&source.ip()),
            Admission::Anyone => true,
            Admission::Exact(one) => same_endpoint(one, source),
        }
    }

    #[test]
    fn who_is_admitted_follows_the_latch() {
        assert_eq!(
            Latch::new(LatchMode::Any).admission(Component::Rtp),
            Admission::Nobody
        );
        let hosts = |a: &str, b: &str| Admission::Hosts([a.parse().unwrap(), b.parse().unwrap()]);
        for (mode, expected) in [
            (LatchMode::Off, Admission::Exact(at("192.0.2.1:4000"))),
            (LatchMode::Signalling, hosts("192.0.2.1", "198.51.100.1")),
            (LatchMode::Any, Admission::Anyone),
        ] {
            assert_eq!(latch(mode).admission(Component::Rtp), expected, "{mode:?}");
        }
        let mut latch = latch(LatchMode::Any);
        latch.learn(Component::Rtp, at("203.0.113.1:6000"));
        assert_eq!(
            latch.admission(Component::Rtp),
            Admission::Exact(at("203.0.113.1:6000"))
        );
        assert_eq!(
            latch.admission(Component::Rtcp),
            hosts("192.0.2.1", "203.0.113.1")
        );
    }

    proptest::proptest! {
        /// A filter in front of the socket never refuses whom the relay would hear.
        #[test]
        fn nobody_who_would_be_heard_is_refused_before(
            mode in proptest::sample::select(&[LatchMode::Off, LatchMode::Signalling, LatchMode::Any][..]),
            steps in proptest::collection::vec((0u8..8, 0u8..4, proptest::bool::ANY), 0..12),
        ) {
            let host = |n: u8| at(&format!("192.0.2.{}:{}", n % 4, 4000 + u16::from(n / 4)));
            let mut latch = Latch::new(mode);
            for (host_number, other, describes) in steps {
                let source = host(host_number);
                if describes {
                    let rtcp = SocketAddr::new(host(other).ip(), source.port() + 1);
                    let signalling = host(other).ip();
                    let remote = RemoteMedia { rtp: source, rtcp, signalling };
                    latch.set_remote(Instant::ZERO, remote);
                }
                for component in Component::ALL {
                    for number in 0..8 {
                        let judgement = latch.judge(Instant::ZERO, component, host(number));
                        let refused = matches!(judgement, Judgement::Stranger | Judgement::NoRemote);
                        let admission = latch.admission(component);
                        proptest::prop_assert!(refused || passes(admission, host(number)));
                    }
                    if latch.judge(Instant::ZERO, component, source) == Judgement::Candidate && !describes {
                        latch.learn(component, source);
                    }
                }
            }
        }
    }

    #[test]
    fn rtcp_follows_the_learned_rtp_source() {
        let mut latch = latch(LatchMode::Any);
        latch.learn(Component::Rtp, at("203.0.113.1:6000"));
        assert_eq!(
            latch.destination(Component::Rtcp),
            Some(at("203.0.113.1:6001"))
        );
        for (source, expected) in [
            ("203.0.113.1:77", Judgement::Candidate),
            ("192.0.2.1:4001", Judgement::Candidate),
            ("203.0.113.2:6001", Judgement::Stranger),
        ] {
            assert_eq!(
                latch.judge(Instant::ZERO, Component::Rtcp, at(source)),
                expected
            );
        }
        latch.learn(Component::Rtcp, at("203.0.113.1:77"));
        assert_eq!(
            latch.destination(Component::Rtcp),
            Some(at("203.0.113.1:77"))
        );
    }

    #[test]
    fn an_rtcp_source_that_contradicts_the_rtp_source_is_forgotten() {
        let mut latch = latch(LatchMode::Any);
        latch.learn(Component::Rtcp, at("203.0.113.66:1"));
        assert!(latch.learn(Component::Rtp, at("192.0.2.1:4000")));
        assert_eq!(
            latch.judge(Instant::ZERO, Component::Rtcp, at("203.0.113.66:1")),
            Judgement::Stranger
        );
        assert_eq!(
            latch.destination(Component::Rtcp),
            Some(at("192.0.2.1:4001"))
        );
    }

    #[test]
    fn the_former_source_may_speak_but_gives_way_to_the_new_one() {
        use Judgement::{Candidate, Latched, Predecessor, Stranger};
        let former = at("192.0.2.1:4000");
        let moved = remote("192.0.2.1:4002", "192.0.2.1:4003", "198.51.100.1");
        let start = Instant::from_millis(5);
        let fresh = || {
            let mut latch = latch(LatchMode::Signalling);
            latch.learn(Component::Rtp, former);
            assert_eq!(latch.set_remote(start, moved), [true, false]);
            assert_eq!(latch.judge(start, Component::Rtp, former), Predecessor);
            latch
        };
        let mut latch = fresh();
        assert_eq!(latch.judge(start, Component::Rtp, moved.rtp), Candidate);
        latch.learn(Component::Rtp, moved.rtp);
        assert_eq!(latch.judge(start, Component::Rtp, moved.rtp), Latched);
        assert_eq!(latch.judge(start, Component::Rtp, former), Stranger);
        // Nobody new came: the peer moved in its SDP alone.
        let late = start + SUCCESSION;
        assert_eq!(fresh().judge(late, Component::Rtp, former), Candidate);
        // The description names the former source, or did not change for this component.
        for back in [
            described(),
            RemoteMedia {
                signalling: former.ip(),
                ..moved
            },
        ] {
            let mut latch = fresh();
            latch.learn(Component::Rtp, moved.rtp);
            latch.set_remote(start, back);
            assert_eq!(latch.judge(start, Component::Rtp, back.rtp), Candidate);
        }
        // Elsewhere altogether: no right to speak.
        let mut latch = fresh();
        latch.set_remote(start, remote("192.0.2.9:1", "192.0.2.9:2", "198.51.100.1"));
        assert_eq!(latch.judge(start, Component::Rtp, former), Stranger);
    }

    #[test]
    fn nothing_is_sent_to_a_group_or_to_nobody() {
        for address in [
            "0.0.0.0:4000",
            "224.0.0.1:4000",
            "255.255.255.255:4000",
            "192.0.2.1:0",
            "[::]:4000",
            "[ff02::1]:4000",
        ] {
            let mut latch = Latch::new(LatchMode::Any);
            latch.set_remote(Instant::ZERO, remote(address, address, "198.51.100.1"));
            assert_eq!(latch.destination(Component::Rtp), None, "{address}");
            assert_eq!(latch.destination(Component::Rtcp), None, "{address}");
        }
    }
}
