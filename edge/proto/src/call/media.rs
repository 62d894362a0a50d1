//! The media side of legs: opening and closing allocations, and who hears whom.

use crate::b2bua::{Context, Family, Lease, Output, TimerKind};
use crate::call::Call;
use crate::event::{Cause, EventKind, LegNumber};
use crate::relay::{MediaCommand, MediaEvent, MediaStats, RemoteMedia};
use crate::sdp::{self, Codec, Direction, LocalDescription, RemoteAudio, Shape};
use crate::time::Duration;
use compact_str::CompactString;

/// Ports tried for one leg before it fails.
const MAX_BIND_TRIES: u8 = 5;
/// How long a CDR line waits for the media thread's counters.
const MEDIA_CLOSED_WAIT: Duration = Duration::from_secs(1);
/// How long an endpoint whose answer was not wanted may go on sending: our BYE's way, over UDP with a repetition or two.
const FORK: Duration = Duration::from_secs(2);

/// The media state of one leg.
#[derive(Default)]
pub(crate) struct LegMedia {
    pub lease: Option<Lease>,
    pub opened: bool,
    tries: u8,
    /// What we have said of ourselves and is in force.
    pub local: Option<LocalDescription>,
    /// What we said last, also where the peer refused it: the version counts on from there.
    said: Option<LocalDescription>,
    /// What the peer's last offer or answer said.
    pub remote: Option<RemoteAudio>,
    /// Where the media thread was told that the peer is.
    told: Option<RemoteMedia>,
    /// Another endpoint answered, too, and may not have stopped to send: see [`Call::fork_may_speak`].
    contested: bool,
    /// Every codec the peer has shown it can do, with its payload types: what a re-INVITE may offer.
    pub capabilities: Vec<Codec>,
    /// The `m=` lines of the session, whose number and order never change (RFC 3264 §8).
    pub shape: Shape,
    /// Encoding name in use, for the CDR.
    pub codec: Option<CompactString>,
    pub stats: Option<MediaStats>,
    /// `Close` was sent and `Closed` is awaited.
    pub closing: bool,
    /// Once closed, ports of this family are opened: the next address is of another family.
    pub reopen: Option<Family>,
}

impl LegMedia {
    /// Whether the peer wants to hear something.
    fn listens(&self) -> bool {
        self.remote.as_ref().is_some_and(RemoteAudio::receives)
    }

    /// Whether the peer may be heard.
    fn speaks(&self) -> bool {
        self.remote
            .as_ref()
            .is_some_and(|remote| remote.direction.sends())
    }

    /// What the peer speaks: the first speech codec of the answer that either side gave (RFC 3264 §6.1, §7), which is part of
    /// the other side's offer.
    pub fn spoken(&self) -> Option<&Codec> {
        let (local, remote) = (&self.local.as_ref()?.codecs, &self.remote.as_ref()?.codecs);
        let in_both = |codec: &&Codec, others: &[Codec]| {
            codec.is_speech() && others.iter().any(|other| sdp::same_codec(other, codec))
        };
        let answered = remote.len() <= local.len()
            && remote
                .iter()
                .all(|r| local.iter().any(|l| sdp::same_codec(l, r)));
        if answered {
            remote.iter().find(|codec| in_both(codec, local))
        } else {
            local.iter().find(|codec| in_both(codec, remote))
        }
    }

    /// The peer accepted `offer` with `answer`: it is what we say of ourselves from now on.
    pub fn accept(&mut self, offer: LocalDescription, answer: &RemoteAudio) {
        self.local = Some(offer);
        self.codec = speech_name(&answer.codecs);
    }

    /// A description of our side with `codecs`; the session id stays, the version counts up with each change (RFC 3264 §8).
    pub fn describe(
        &mut self,
        cx: &mut Context,
        codecs: Vec<Codec>,
        direction: Direction,
    ) -> Option<LocalDescription> {
        let lease = self.lease.as_ref()?;
        let mut next = LocalDescription {
            session_id: 0,
            version: 0,
            address: lease.advertised,
            rtp_port: lease.bind.port(),
            codecs,
            direction,
            ptime: None,
        };
        match &self.said {
            Some(previous) => next.bump_if_changed(previous),
            None => {
                next.session_id = cx.session_id();
                next.version = next.session_id;
            }
        }
        self.codec = speech_name(&next.codecs);
        self.said = Some(next.clone());
        self.local = Some(next.clone());
        Some(next)
    }
}

impl Call {
    /// Leases a port for the leg and has its sockets opened; [`Call::on_media`] hears the result.
    /// `false`: no media address of that family, or no port is free.
    pub(super) fn open_media(&mut self, cx: &mut Context, leg: LegNumber, family: Family) -> bool {
        let key = self.key;
        let Some(l) = self.legs.get_mut(leg) else {
            return false;
        };
        let Some(lease) = cx.leases.lease(family) else {
            return false;
        };
        l.media.tries += 1;
        l.media.lease = Some(lease);
        l.media.opened = false;
        cx.allocations.insert(lease.id, (key, leg));
        cx.outputs.push_back(Output::Media(MediaCommand::Open {
            allocation: lease.id,
            local: lease.bind,
            latch: l.trunk.latch,
        }));
        // Where another port was tried before.
        self.tell_remote(cx, leg);
        true
    }

    /// Closes the leg's sockets; its CDR line follows with their counters.
    pub(super) fn close_media(&mut self, cx: &mut Context, leg: LegNumber) {
        let key = self.key;
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if l.media.closing {
            return;
        }
        let Some(lease) = &l.media.lease else {
            return;
        };
        l.media.closing = true;
        cx.outputs.push_back(Output::Media(MediaCommand::Close {
            allocation: lease.id,
        }));
        cx.set_timer(key, leg, TimerKind::MediaClosed, cx.now + MEDIA_CLOSED_WAIT);
    }

    /// Something about the leg's allocation.
    pub(crate) fn on_media(&mut self, cx: &mut Context, leg: LegNumber, event: MediaEvent) {
        match event {
            MediaEvent::Opened { .. } => {
                let Some(l) = self.legs.get_mut(leg) else {
                    return;
                };
                l.media.opened = true;
                if l.is_alive() {
                    self.on_media_opened(cx, leg);
                }
            }
            MediaEvent::OpenFailed { reason, .. } => self.on_open_failed(cx, leg, reason),
            MediaEvent::FirstPacket { source, .. } => {
                self.event(cx, leg, EventKind::FirstRtp { source });
            }
            MediaEvent::Timeout { .. } => self.on_media_timeout(cx, leg),
            MediaEvent::Closed { stats, .. } => {
                if let Some(l) = self.legs.get_mut(leg) {
                    l.media.stats = Some(stats);
                }
                self.media_closed(cx, leg);
            }
        }
    }

    /// The port is free again and the CDR line can be written.
    pub(super) fn media_closed(&mut self, cx: &mut Context, leg: LegNumber) {
        cx.cancel_timer(self.key, leg, TimerKind::MediaClosed);
        if let Some(l) = self.legs.get_mut(leg)
            && let Some(lease) = l.media.lease.take()
        {
            l.media.closing = false;
            cx.allocations.remove(&lease.id);
            cx.leases.release(&lease);
            if let Some(family) = l.media.reopen.take() {
                self.reopen_media(cx, leg, family);
            }
        }
    }

    fn reopen_media(&mut self, cx: &mut Context, leg: LegNumber, family: Family) {
        let alive = self.legs.get_mut(leg).is_some_and(|l| {
            l.media.local = None;
            l.media.said = None;
            l.media.told = None;
            l.media.stats = None;
            l.is_alive()
        });
        if alive && !self.open_media(cx, leg, family) {
            self.fail_leg(cx, leg, 503, Cause::EdgeOverload);
        }
    }

    fn on_open_failed(&mut self, cx: &mut Context, leg: LegNumber, reason: String) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let tries = l.media.tries;
        let closing = l.media.closing;
        let Some(lease) = l.media.lease.take() else {
            return;
        };
        cx.allocations.remove(&lease.id);
        cx.leases.quarantine(&lease);
        self.note(
            cx,
            leg,
            "media",
            format!(
                "port {} of {} could not be opened",
                lease.bind.port(),
                lease.bind.ip()
            ),
            Some(reason),
        );
        if closing {
            return self.media_closed(cx, leg);
        }
        let again = tries < MAX_BIND_TRIES && self.open_media(cx, leg, Family::of(lease.bind.ip()));
        if !again {
            self.fail_leg(cx, leg, 503, Cause::MediaFailed);
        }
    }

    /// A peer went silent. If it is bridged and speaks and listens (it is not held), the call is dead; not so a transferor that
    /// has said its word and waits for the outcome.
    fn on_media_timeout(&mut self, cx: &mut Context, leg: LegNumber) {
        let bridged = self.other(leg).is_some() && self.transferor() != Some(leg);
        let silent = self
            .legs
            .get(leg)
            .is_some_and(|l| l.is_answered() && l.media.speaks() && l.media.listens());
        if bridged && silent {
            self.note(
                cx,
                leg,
                "media_timeout",
                "no RTP from the peer".to_owned(),
                Some(Cause::MediaTimeout.as_str().to_owned()),
            );
            self.end_call(cx, Cause::MediaTimeout);
        }
    }

    /// Takes in what the peer's SDP says, and tells the media thread where the peer is.
    pub(super) fn set_remote(&mut self, cx: &mut Context, leg: LegNumber, remote: RemoteAudio) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        for codec in &remote.codecs {
            if !l.media.capabilities.iter().any(|known| {
                sdp::same_codec(known, codec) || known.payload_type == codec.payload_type
            }) {
                l.media.capabilities.push(codec.clone());
            }
        }
        let signalling = l.peer.map_or(remote.rtp.ip(), |peer| peer.ip());
        // Held the old way (RFC 2543) it says no address: the one known so far stays.
        let is_told = !remote.rtp.ip().is_unspecified();
        if is_told {
            l.media.told = Some(RemoteMedia {
                rtp: remote.rtp,
                rtcp: remote.rtcp,
                signalling,
            });
        }
        l.media.remote = Some(remote);
        if is_told {
            self.tell_remote(cx, leg);
        }
    }

    /// Tells the media thread where the peer is.
    fn tell_remote(&self, cx: &mut Context, leg: LegNumber) {
        let media = self.legs.get(leg).map(|l| &l.media);
        let media = media.filter(|media| !media.closing);
        let Some((lease, mut remote)) = media.and_then(|m| m.lease.as_ref().zip(m.told)) else {
            return;
        };
        if media.is_some_and(|media| media.contested) {
            remote.signalling = remote.rtp.ip();
        }
        let allocation = lease.id;
        cx.outputs.push_back(Output::Media(MediaCommand::SetRemote {
            allocation,
            remote,
        }));
    }

    /// A second endpoint answered, is being told BYE, and may send until it has that. Both are behind the address that signals:
    /// who sends from there is not known for now, and would be heard for the rest of the call. Only the address that the
    /// answer in use names is heard, until [`FORK`] is over; then whoever sends is found anew.
    pub(super) fn fork_may_speak(&mut self, cx: &mut Context, leg: LegNumber) {
        if let Some(l) = self.legs.get_mut(leg) {
            l.media.contested = true;
        }
        self.tell_remote(cx, leg);
        cx.set_timer(self.key, leg, TimerKind::Fork, cx.now + FORK);
    }

    pub(super) fn fork_is_silent(&mut self, cx: &mut Context, leg: LegNumber) {
        if let Some(l) = self.legs.get_mut(leg) {
            l.media.contested = false;
        }
        self.tell_remote(cx, leg);
    }

    /// (Re)joins the media of the two bridged legs as their descriptions say now.
    pub(super) fn rebridge(&mut self, cx: &mut Context) {
        let Some((a, b)) = self.bridge else {
            return;
        };
        let (Some(a), Some(b)) = (self.legs.get(a), self.legs.get(b)) else {
            return;
        };
        let (Some(lease_a), Some(lease_b)) = (&a.media.lease, &b.media.lease) else {
            return;
        };
        cx.outputs.push_back(Output::Media(MediaCommand::Bridge {
            a: lease_a.id,
            b: lease_b.id,
            a_to_b: one_way(&a.media, &b.media),
            b_to_a: one_way(&b.media, &a.media),
        }));
    }
}

/// The name of the codec that is spoken, for the CDR.
pub(super) fn speech_name(codecs: &[Codec]) -> Option<CompactString> {
    let speech = codecs.iter().find(|codec| codec.is_speech())?;
    Some(speech.name.clone())
}

/// How packets of `from`'s peer are renumbered for `to`'s peer; `None`: they are not relayed.
fn one_way(from: &LegMedia, to: &LegMedia) -> Option<crate::relay::PayloadMap> {
    let declared = from.local.as_ref()?;
    let wanted = to.remote.as_ref()?;
    (from.speaks() && to.listens()).then(|| sdp::payload_map(&declared.codecs, &wanted.codecs))
}
