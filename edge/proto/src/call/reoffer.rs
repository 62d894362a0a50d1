//! What caller and target speak: what the target is offered, whether the two understand each other, and the re-INVITE of the
//! caller where they do not.

use super::Call;
use super::leg::{Leg, Reoffer, ReofferPurpose};
use crate::b2bua::Context;
use crate::config::Trunk;
use crate::event::{Cause, LegNumber};
use crate::sdp::{self, Codec};

impl Call {
    /// Whether what the peer of each leg sends can be passed on to the other.
    pub(super) fn understand_each_other(&self, a: LegNumber, b: LegNumber) -> bool {
        let (Some(a), Some(b)) = (self.legs.get(a), self.legs.get(b)) else {
            return false;
        };
        let understands = |from: &Leg, to: &Leg| {
            let (Some(spoken), Some(remote)) = (from.media.spoken(), &to.media.remote) else {
                return false;
            };
            remote
                .codecs
                .iter()
                .any(|codec| sdp::same_codec(codec, spoken))
        };
        understands(a, b) && understands(b, a)
    }

    /// The target speaks something else than the caller: the caller is asked to change.
    pub(super) fn reoffer_for_target(
        &mut self,
        cx: &mut Context,
        caller: LegNumber,
        target: LegNumber,
    ) {
        if let Some(transfer) = self.transfer.as_mut() {
            transfer.reoffering = true;
        }
        self.note(
            cx,
            caller,
            "reoffer",
            "the target chose a codec that the caller does not use; the caller is asked to change"
                .to_owned(),
            None,
        );
        if !self.ask_for(cx, caller, target, ReofferPurpose::Transfer) {
            self.on_reoffered(cx, caller, ReofferPurpose::Transfer, None, false);
        }
    }

    /// Offers `leg` what the peer of `other` speaks, as far as the peer of `leg` has shown to know it. `false`: nothing, or
    /// nobody to ask.
    fn ask_for(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        other: LegNumber,
        purpose: ReofferPurpose,
    ) -> bool {
        let (Some(l), Some(o)) = (self.legs.get(leg), self.legs.get(other)) else {
            return false;
        };
        let codecs = common(l, o);
        sdp::has_speech(&codecs)
            && self.reoffer(
                cx,
                leg,
                Reoffer {
                    codecs,
                    purpose,
                    retries: 0,
                },
            )
    }

    /// Our re-INVITE has ended: the caller took, or refused, other codecs.
    pub(super) fn on_reoffered(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        purpose: ReofferPurpose,
        refused: Option<u16>,
        accepted: bool,
    ) {
        let waiting = self
            .transfer
            .as_ref()
            .filter(|t| t.reoffering && t.transferee == leg);
        if let Some(target) = waiting.and_then(|t| t.target) {
            if accepted && self.understand_each_other(leg, target) {
                return self.bridge_target(cx);
            }
            self.drop_answered_target(cx, refused);
        }
        let Some(other) = self.other(leg) else {
            return;
        };
        if self.understand_each_other(leg, other) {
            return self.rebridge(cx);
        }
        // It took the codecs of a target that it is not bridged with: back to what the other side understands, once.
        let asked = purpose == ReofferPurpose::Transfer
            && self.ask_for(cx, leg, other, ReofferPurpose::Return);
        self.note(
            cx,
            leg,
            "reoffer",
            if asked {
                "the transfer came to nothing; this side is asked to go back to the codec before"
            } else {
                "this side does not go back to the codec before, which the other side needs"
            }
            .to_owned(),
            (!asked).then(|| Cause::NoCommonCodec.as_str().to_owned()),
        );
    }
}

/// What the target is offered: what the caller uses first, so that no re-INVITE is needed, then whatever else it can do.
pub(super) fn offer_for(transferee: &Leg, trunk: &Trunk) -> Vec<Codec> {
    let in_use = transferee.media.local.iter().flat_map(|l| &l.codecs);
    let mut codecs: Vec<Codec> = Vec::new();
    for codec in in_use.chain(&transferee.media.capabilities) {
        let known = codecs
            .iter()
            .any(|c| sdp::same_codec(c, codec) || c.payload_type == codec.payload_type);
        if !known {
            codecs.push(codec.clone());
        }
    }
    let ours = sdp::offer_codecs(&codecs, &transferee.trunk.codecs);
    sdp::offer_codecs(&ours, &trunk.codecs)
}

/// The codecs of the peer of `other` under the numbers of the peer of `leg`, as far as that one can do them.
fn common(leg: &Leg, other: &Leg) -> Vec<Codec> {
    let wanted = other.media.remote.iter().flat_map(|r| &r.codecs);
    wanted
        .filter_map(|codec| {
            let mut known = leg.media.capabilities.iter();
            known.find(|known| sdp::same_codec(known, codec)).cloned()
        })
        .collect()
}
