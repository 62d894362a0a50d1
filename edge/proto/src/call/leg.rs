//! One leg: a dialog with one peer, its media, and the facts its CDR line will tell.

use crate::b2bua::{Candidate, Hop, Reach};
use crate::call::invite::SentInvite;
use crate::call::media::LegMedia;
use crate::call::notify::Notifier;
use crate::call::originate::Origination;
use crate::call::setup::CallerIdentity;
use crate::config::{Transport, Trunk};
use crate::event::{
    Cause, Direction, HangupBy, LegNumber, LegRecord, MediaRecord, ReferRecord, TransferRecord,
};
use crate::sdp::{Codec, LocalDescription};
use crate::sip::dialog::Dialog;
use crate::sip::transaction::{ClientKey, ServerKey};
use crate::sip::{Message, Method};
use crate::time::Instant;
use bytes::Bytes;
use compact_str::CompactString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Endpoints of one INVITE that may hang up before their 2xx arrives.
const MAX_EARLY_BYES: usize = 8;

/// Where a leg stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LegState {
    /// Inbound: the INVITE is not finally answered.
    Incoming,
    /// Outbound: its address is looked up or its media ports are opened.
    Preparing,
    /// Outbound: the INVITE was sent.
    Calling,
    /// Outbound: given up while the INVITE was pending; a 2xx that crosses is ACKed and BYEd.
    Cancelling,
    /// Answered (2xx sent or received).
    Confirmed,
    /// BYE sent.
    Ending,
    /// Nothing is left to say to the peer.
    Over,
}

/// What our re-INVITE is to offer, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reoffer {
    pub codecs: Vec<Codec>,
    pub purpose: ReofferPurpose,
    /// How often it met the peer's own, or lost its connection, so far.
    pub retries: u8,
}

/// Why a re-INVITE is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReofferPurpose {
    /// A transfer's target speaks something else.
    Transfer,
    /// The leg took the codecs of a target that it was not bridged with: back to what the other side understands.
    Return,
}

/// Our re-INVITEs of one leg, one at a time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Modification {
    /// Waits for its final response, having offered this.
    pub offered: Option<(ClientKey, LocalDescription, Reoffer)>,
    /// Comes next: after the one that is offered, after the ACK of the peer's own, or some time after it met that (491).
    pub waiting: Option<Reoffer>,
}

impl Modification {
    /// The re-INVITE of this transaction has ended: what it offered.
    pub fn finish(&mut self, key: ClientKey) -> Option<(LocalDescription, Reoffer)> {
        let (_, offer, reoffer) = self.offered.take_if(|(client, ..)| *client == key)?;
        Some((offer, reoffer))
    }
}

/// A re-INVITE (or the initial INVITE) of the peer that we answered with 2xx and whose ACK is due.
#[derive(Clone, Debug)]
pub(crate) struct AwaitedAck {
    pub server: ServerKey,
    pub cseq: u32,
    /// The 2xx carried our offer, and the ACK has to carry this.
    pub owes: Option<Owed>,
}

/// An answer that an ACK owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owed {
    /// Without it there is no session.
    FirstAnswer,
    /// Without it the session stays as it was.
    Answer,
}

/// The dialog of an answer that nobody wants, as far as its repetitions need it.
#[derive(Clone, Debug)]
pub(crate) struct Disowned {
    /// The answering endpoint's tag.
    pub tag: String,
    pub ack: Bytes,
    pub hop: Hop,
}

/// One leg of a call.
pub(crate) struct Leg {
    pub number: LegNumber,
    pub direction: Direction,
    pub trunk: Arc<Trunk>,
    /// The trunk's name, shared by all reports.
    pub label: Arc<str>,
    pub state: LegState,
    pub sip_call_id: String,
    pub local_tag: String,
    /// `From` and `To` users for the CDR.
    pub from: CompactString,
    pub to: CompactString,
    /// Whom a transfer target is shown when this leg is transferred.
    pub identity: CallerIdentity,
    pub dialog: Option<Dialog>,
    /// Our Contact in this dialog.
    pub contact: String,
    /// Where the dialog's last request came from or went to.
    pub hop: Option<Hop>,
    /// Transport of `hop`, which may be a connection of another core.
    pub transport: Option<Transport>,
    /// The peer's signalling address.
    pub peer: Option<SocketAddr>,
    /// The address the trunk's `uri` led to.
    pub located: Option<Candidate>,
    /// Inbound: the INVITE and its transaction, until it is finally answered.
    pub invite: Option<(ServerKey, Message)>,
    /// Outbound: everything needed to send the INVITE, again.
    pub origination: Option<Box<Origination>>,
    /// Tags of endpoints whose BYE came before their 2xx.
    left_early: Vec<String>,
    pub awaited_ack: Option<AwaitedAck>,
    pub modification: Modification,
    /// Our INVITE, which later 2xx (of forks) make dialogs with.
    pub sent_invite: Option<SentInvite>,
    /// The ACK to our INVITE's 2xx, sent again when the 2xx is.
    pub last_ack: Option<Bytes>,
    /// Dialogs of further answers to our INVITE, which were ended at once.
    pub disowned: Vec<Disowned>,
    /// Our BYE, while it is unanswered.
    pub bye: Option<ClientKey>,
    /// It was sent a second time.
    pub bye_again: bool,
    pub notifier: Notifier,
    /// CSeq of the last REFER that was accepted: what has it again is that REFER again.
    pub referred: Option<u32>,
    /// It is ended, like this, once its peer has confirmed how the transfer it asked for ended.
    pub releasing: Option<(Cause, HangupBy)>,
    pub media: LegMedia,
    pub start: Instant,
    pub ring: Option<Instant>,
    pub answer: Option<Instant>,
    pub end: Option<Instant>,
    pub sip_status: Option<u16>,
    pub cause: Option<Cause>,
    pub hangup_by: HangupBy,
    pub refers: Vec<ReferRecord>,
    pub transfer: Option<TransferRecord>,
    pub recorded: bool,
    /// It was counted against the trunk's `max_calls`.
    pub counted: bool,
}

impl Leg {
    /// A leg in its first state.
    pub fn new(
        number: LegNumber,
        direction: Direction,
        trunk: Arc<Trunk>,
        state: LegState,
        now: Instant,
    ) -> Self {
        Leg {
            number,
            direction,
            label: trunk.name.clone(),
            trunk,
            state,
            sip_call_id: String::new(),
            local_tag: String::new(),
            from: CompactString::default(),
            to: CompactString::default(),
            identity: CallerIdentity::default(),
            dialog: None,
            contact: String::new(),
            hop: None,
            transport: None,
            peer: None,
            located: None,
            invite: None,
            origination: None,
            left_early: Vec::new(),
            awaited_ack: None,
            modification: Modification::default(),
            sent_invite: None,
            last_ack: None,
            disowned: Vec::new(),
            bye: None,
            bye_again: false,
            notifier: Notifier::default(),
            referred: None,
            releasing: None,
            media: LegMedia::default(),
            start: now,
            ring: None,
            answer: None,
            end: None,
            sip_status: None,
            cause: None,
            hangup_by: HangupBy::Edge,
            refers: Vec::new(),
            transfer: None,
            recorded: false,
            counted: false,
        }
    }

    /// Notes a BYE that overtook its sender's 2xx, as happens where the two come over different connections. `false`: it is no
    /// such BYE.
    pub fn notes_early_bye(&mut self, request: &Message) -> bool {
        let early = self.dialog.is_none()
            && self.state == LegState::Calling
            && request.cseq().method == Method::Bye
            && request.call_id() == self.sip_call_id
            && self.left_early.len() < MAX_EARLY_BYES;
        if early {
            let tag = request.from_tag().unwrap_or_default();
            self.left_early.push(tag.to_owned());
        }
        early
    }

    /// Whether the endpoint that answered has hung up already.
    pub fn has_left_early(&self) -> bool {
        self.dialog
            .as_ref()
            .is_some_and(|dialog| self.left_early.contains(&dialog.remote_tag))
    }

    /// Whether a request is in this leg's dialog, and the dialog lives. Before the callee answers only REFER counts, which is
    /// told that it is too early.
    pub fn takes(&self, request: &Message) -> bool {
        let method = &request.cseq().method;
        let in_dialog = match &self.dialog {
            Some(dialog) => dialog.contains(request),
            None => *method == Method::Refer && request.call_id() == self.sip_call_id,
        };
        in_dialog
            && match self.state {
                LegState::Over => false,
                // Both sides may hang up at once.
                LegState::Ending => *method == Method::Bye,
                _ => true,
            }
    }

    /// Whether the peer was answered or answered, and neither side has ended it.
    pub fn is_answered(&self) -> bool {
        self.state == LegState::Confirmed
    }

    /// Whether it neither ended nor is ending.
    pub fn is_alive(&self) -> bool {
        matches!(
            self.state,
            LegState::Incoming | LegState::Preparing | LegState::Calling | LegState::Confirmed
        )
    }

    /// Where the peer can be reached.
    pub fn reach(&self) -> Reach<'_> {
        let dialog = self.dialog.as_ref();
        let located = self.located.as_ref();
        let secure = dialog.is_some_and(|dialog| dialog.secure)
            || located.is_some_and(|candidate| candidate.uri.sips);
        let fits = !secure || self.transport == Some(Transport::Tls);
        Reach {
            trunk: &self.trunk,
            own: self.hop.zip(self.peer).filter(|_| fits),
            located,
            secure,
        }
    }

    /// Counts it against the trunk's `max_calls`. `false`: the limit is reached and nothing was counted.
    pub fn count(&mut self) -> bool {
        let limit = self.trunk.max_calls;
        let before = self.trunk.load.legs.fetch_add(1, Ordering::Relaxed);
        if limit != 0 && before >= limit {
            self.trunk.load.legs.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.counted = true;
        true
    }

    pub fn uncount(&mut self) {
        if self.counted {
            self.counted = false;
            self.trunk.load.legs.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The CDR line of the ended leg.
    pub fn record(&self, call: crate::event::CallId, now: Instant) -> LegRecord {
        LegRecord {
            call,
            leg: self.number,
            direction: self.direction,
            trunk: self.label.clone(),
            sip_call_id: self.sip_call_id.clone(),
            from: self.from.to_string(),
            to: self.to.to_string(),
            source: self.peer,
            start: self.start,
            ring: self.ring,
            answer: self.answer,
            end: self.end.unwrap_or(now),
            sip_status: self.sip_status,
            cause: self.cause.unwrap_or(Cause::Completed),
            hangup_by: self.hangup_by,
            refers: self.refers.clone(),
            transfer: self.transfer.clone(),
            media: self.media.stats.map(|stats| MediaRecord {
                codec: self.media.codec.as_ref().map(ToString::to_string),
                encryption: "none",
                lane: "io_uring",
                stats,
            }),
        }
    }
}
