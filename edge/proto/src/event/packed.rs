//! Events as octets: on their way from a control thread to the reporter, in the timelines of calls, and in a file that is read
//! again after a crash.
//!
//! Numbers are little-endian base 128 (LEB128), text has its length before it, and which kind an event is, is told by a number.
//! What a file may hold is read by the next version, too: numbers and fields stay as they are, or [`FORMAT`] changes and the older
//! one is still read.

use super::{
    CallId, Cause, DIGEST_OUTCOMES, Direction, Event, EventKind, HangupBy, LegRecord, MediaRecord,
    ReferRecord, TransferRecord,
};
use crate::config::Transport;
use crate::relay::{DirectionStats, MediaStats};
use crate::sip::Method;
use crate::time::{Duration, Instant};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Names the form of what [`pack`] makes.
pub const FORMAT: u8 = 1;

/// Words that events take from a fixed set, besides [`DIGEST_OUTCOMES`]. Any other becomes `other`.
const WORDS: [&str; 41] = [
    "other",
    // `result` of a transfer.
    "completed",
    "failed",
    "timeout",
    "no-answer",
    "busy",
    "denied",
    "cancelled",
    // `encryption` and `lane` of a leg's media.
    "none",
    "io_uring",
    "xdp",
    // Why a source was refused.
    "unlisted",
    "connection_limit",
    // Queues.
    "handoff",
    "media",
    "event",
    "calls",
    "transactions",
    // `kind` of a note.
    "access",
    "bye",
    "cancel",
    "end",
    "fallback",
    "fork",
    "hangup",
    "media_timeout",
    "modify",
    "no_ack",
    "note",
    "notify",
    "refused",
    "reoffer",
    "sdp",
    "unreachable",
    // Of SRTP, when it is negotiated.
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
    "consult",
    "replaced",
    // Another queue; last, since what an older version wrote counts from the first.
    "signalling",
];

/// The word itself, for as long as the program lives. `None`: no event has it.
pub(super) fn word(text: &str) -> Option<&'static str> {
    let mut known = WORDS.iter().chain(&DIGEST_OUTCOMES);
    known.find(|word| **word == text).copied()
}

/// Adds the octets of `event`; their number is for the caller to keep.
pub fn pack(event: &Event, into: &mut Vec<u8>) {
    event.call.put(into);
    event.at.put(into);
    event.leg.put(into);
    event.kind.put(into);
}

/// The event of these octets; `None`: they are not of this [`FORMAT`].
pub fn unpack(bytes: &[u8], names: &mut Names) -> Option<Event> {
    let mut from = Reader { bytes, names };
    let call = Packed::get(&mut from)?;
    unpack_rest(from, call)
}

/// What [`pack`] made, without the call's id, which the call's timeline need not keep.
pub fn without_call(bytes: &[u8]) -> Option<&[u8]> {
    let (&known, mut rest) = bytes.split_first()?;
    if known != 0 {
        text(&mut rest)?;
    }
    Some(rest)
}

/// Whether an event with this comes back as it was: all of its words are known.
pub fn is_whole(kind: &EventKind) -> bool {
    let mut bytes = Vec::new();
    kind.put(&mut bytes);
    let names = &mut Names::default();
    let mut back = EventKind::get(&mut Reader {
        bytes: &bytes,
        names,
    });
    if let (EventKind::LegEnded(record), Some(EventKind::LegEnded(back))) = (kind, &mut back) {
        back.call = record.call.clone();
    }
    back.as_ref() == Some(kind)
}

/// The event of [`without_call`], of the call `call`.
pub fn unpack_of_call(bytes: &[u8], call: CallId, names: &mut Names) -> Option<Event> {
    unpack_rest(Reader { bytes, names }, Some(call))
}

fn unpack_rest(mut from: Reader<'_, '_>, call: Option<CallId>) -> Option<Event> {
    let at = Packed::get(&mut from)?;
    let leg = Packed::get(&mut from)?;
    let mut kind = Packed::get(&mut from)?;
    if let EventKind::LegEnded(record) = &mut kind {
        record.call = call.clone().unwrap_or_default();
    }
    let event = Event {
        at,
        call,
        leg,
        kind,
    };
    from.bytes.is_empty().then_some(event)
}

/// Names that came up lately: each event has some that the one before it had, and need not have its own copy.
#[derive(Debug, Default)]
pub struct Names([Option<Arc<str>>; Names::PLACES]);

impl Names {
    const PLACES: usize = 32;

    fn get(&mut self, text: &str) -> Arc<str> {
        let mixed = text.bytes().rev().take(8).fold(text.len(), |sum, byte| {
            sum.wrapping_mul(31) ^ usize::from(byte)
        });
        let Some(place) = self.0.get_mut(mixed % Names::PLACES) else {
            return Arc::from(text);
        };
        match place {
            Some(known) if **known == *text => known.clone(),
            place => place.insert(Arc::from(text)).clone(),
        }
    }
}

struct Reader<'a, 'n> {
    bytes: &'a [u8],
    names: &'n mut Names,
}

impl<'a> Reader<'a, '_> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        self.bytes.split_off(..count)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        text(&mut self.bytes)
    }
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let octet = *bytes.split_off_first()?;
        value |= u64::from(octet & 0x7f) << shift;
        if octet < 0x80 {
            return Some(value);
        }
    }
    None
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(number(bytes)?).ok()?;
    std::str::from_utf8(bytes.split_off(..length)?).ok()
}

fn put_text(text: &str, into: &mut Vec<u8>) {
    (text.len() as u64).put(into);
    into.extend_from_slice(text.as_bytes());
}

/// Something that has a form in octets.
trait Packed: Sized {
    fn put(&self, into: &mut Vec<u8>);
    fn get(from: &mut Reader<'_, '_>) -> Option<Self>;
}

impl Packed for u8 {
    fn put(&self, into: &mut Vec<u8>) {
        into.push(*self);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        from.array().map(|[octet]| octet)
    }
}

impl Packed for u64 {
    fn put(&self, into: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            into.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        into.push(rest as u8);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        number(&mut from.bytes)
    }
}

/// As another type that has a form.
macro_rules! packed_as {
    ($($type:ty as $other:ty: $to:expr, $back:expr;)*) => {$(
        impl Packed for $type {
            fn put(&self, into: &mut Vec<u8>) {
                let to: fn(&$type) -> $other = $to;
                to(self).put(into);
            }

            fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
                let back: fn($other) -> Option<$type> = $back;
                back(Packed::get(from)?)
            }
        }
    )*};
}

packed_as! {
    u16 as u64: |n| u64::from(*n), |n| n.try_into().ok();
    u32 as u64: |n| u64::from(*n), |n| n.try_into().ok();
    bool as u8: |yes| u8::from(*yes), |octet| (octet < 2).then_some(octet == 1);
    Instant as u64: |at| at.as_nanos(), |nanos| Some(Instant::from_nanos(nanos));
    Duration as u64: |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX), |nanos| Some(Duration::from_nanos(nanos));
    Direction as bool: |d| *d == Direction::Outbound, |outbound| Some(match outbound {
        false => Direction::Inbound,
        true => Direction::Outbound,
    });
    HangupBy as u8: |by| match by {
        HangupBy::Local => 0,
        HangupBy::Remote => 1,
        HangupBy::Edge => 2,
    }, |octet| match octet {
        0 => Some(HangupBy::Local),
        1 => Some(HangupBy::Remote),
        2 => Some(HangupBy::Edge),
        _ => None,
    };
    Transport as u8: |transport| match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
    }, |octet| match octet {
        0 => Some(Transport::Udp),
        1 => Some(Transport::Tcp),
        2 => Some(Transport::Tls),
        _ => None,
    };
}

impl Packed for f64 {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.to_le_bytes());
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        from.array().map(f64::from_le_bytes)
    }
}

impl Packed for String {
    fn put(&self, into: &mut Vec<u8>) {
        put_text(self, into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        from.text().map(str::to_owned)
    }
}

impl Packed for Method {
    fn put(&self, into: &mut Vec<u8>) {
        put_text(self.as_str(), into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        from.text().map(Method::from_token)
    }
}

impl Packed for Arc<str> {
    fn put(&self, into: &mut Vec<u8>) {
        put_text(self, into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        let text = from.text()?;
        Some(from.names.get(text))
    }
}

impl Packed for &'static str {
    fn put(&self, into: &mut Vec<u8>) {
        put_text(word(self).unwrap_or("other"), into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        Some(word(from.text()?).unwrap_or("other"))
    }
}

/// By name: the order of [`Cause::ALL`] may change.
impl Packed for Cause {
    fn put(&self, into: &mut Vec<u8>) {
        put_text(self.as_str(), into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        let name = from.text()?;
        Cause::ALL
            .iter()
            .find(|cause| cause.as_str() == name)
            .copied()
    }
}

impl Packed for IpAddr {
    fn put(&self, into: &mut Vec<u8>) {
        match self {
            IpAddr::V4(address) => {
                into.push(4);
                into.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                into.push(6);
                into.extend_from_slice(&address.octets());
            }
        }
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        match u8::get(from)? {
            4 => from
                .array::<4>()
                .map(|octets| Ipv4Addr::from(octets).into()),
            6 => from
                .array::<16>()
                .map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        }
    }
}

/// Flow label and scope are of no use to a report.
impl Packed for SocketAddr {
    fn put(&self, into: &mut Vec<u8>) {
        self.ip().put(into);
        self.port().put(into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        Some(SocketAddr::new(IpAddr::get(from)?, u16::get(from)?))
    }
}

impl<T: Packed> Packed for Option<T> {
    fn put(&self, into: &mut Vec<u8>) {
        self.is_some().put(into);
        if let Some(value) = self {
            value.put(into);
        }
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        match bool::get(from)? {
            true => T::get(from).map(Some),
            false => Some(None),
        }
    }
}

impl<T: Packed> Packed for Vec<T> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        self.iter().for_each(|item| item.put(into));
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        // Ends with the octets, whatever the number says.
        (0..u64::get(from)?).map(|_| T::get(from)).collect()
    }
}

impl<T: Packed> Packed for Box<T> {
    fn put(&self, into: &mut Vec<u8>) {
        T::put(self, into);
    }

    fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
        T::get(from).map(Box::new)
    }
}

/// Field by field, in this order.
macro_rules! packed_struct {
    ($($name:ident { $($field:ident),* $(; $without:ident)? })*) => {$(
        impl Packed for $name {
            fn put(&self, into: &mut Vec<u8>) {
                $(self.$field.put(into);)*
            }

            fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
                Some($name { $($field: Packed::get(from)?,)* $($without: Default::default())? })
            }
        }
    )*};
}

packed_struct! {
    // The call is the event's.
    LegRecord {
        leg, direction, trunk, sip_call_id, from, to, source, start, ring, answer, end, sip_status, cause, hangup_by, refers,
        transfer, media; call
    }
    ReferRecord { at, target, status, cause }
    TransferRecord { id, attempt, target, via, result }
    MediaRecord { codec, encryption, lane, stats }
    MediaStats { received, sent, strangers }
    DirectionStats { packets, bytes, lost, jitter_ms, first_packet }
}

/// Its number, then field by field.
macro_rules! packed_kinds {
    ($($number:literal = $kind:ident { $($field:ident),* })*) => {
        impl Packed for EventKind {
            fn put(&self, into: &mut Vec<u8>) {
                match self {
                    $(EventKind::$kind { $($field),* } => {
                        into.push($number);
                        $($field.put(into);)*
                    })*
                    EventKind::LegEnded(record) => {
                        into.push(LEG_ENDED);
                        record.put(into);
                    }
                }
            }

            fn get(from: &mut Reader<'_, '_>) -> Option<Self> {
                Some(match u8::get(from)? {
                    $($number => EventKind::$kind { $($field: Packed::get(from)?),* },)*
                    LEG_ENDED => EventKind::LegEnded(Packed::get(from)?),
                    _ => return None,
                })
            }
        }
    };
}

const LEG_ENDED: u8 = 15;

packed_kinds! {
    1 = CallStarted { trunk, from, to, sip_call_id, source }
    2 = LegStarted { trunk, direction, sip_call_id, from, to }
    3 = Request { trunk, method, direction }
    4 = Response { trunk, method, code, direction, elapsed }
    5 = Digest { trunk, outcome }
    6 = Routed { to, number }
    7 = Refer { target, status, cause, detail }
    8 = HeaderDropped { name, rule }
    9 = TransferAttempt { id, attempt, target, via }
    10 = TransferBridged { trunk, id, elapsed }
    11 = TransferEnded { trunk, id, result, cause }
    12 = FirstRtp { source }
    13 = Note { kind, detail, reason }
    16 = CallEnded { cause }
    17 = AccessDropped { listener, source, reason }
    18 = Connection { transport, remote, detail, failed }
    19 = Malformed { source, fault }
    20 = Overflow { queue }
}

#[cfg(test)]
mod tests;
