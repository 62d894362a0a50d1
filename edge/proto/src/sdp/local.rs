//! What this edge says of itself.

use super::codec::{Codec, has_speech, same_codec};
use super::remote::{Direction, MediaLine, Offer, Shape};
use std::fmt::Write;
use std::net::IpAddr;

/// This edge's description of one leg's audio stream. RTCP is on the port after RTP, never on the same (no rtcp-mux).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalDescription {
    /// The same for all descriptions of a dialog. Only the lower 63 bits are used (RFC 3264 §5).
    pub session_id: u64,
    /// Goes up by one with each description that differs from the one before (RFC 3264 §8).
    pub version: u64,
    /// Advertised address of the media port.
    pub address: IpAddr,
    pub rtp_port: u16,
    /// In order of preference.
    pub codecs: Vec<Codec>,
    /// As this edge sees it.
    pub direction: Direction,
    /// Milliseconds of media per packet, when there is a wish.
    pub ptime: Option<u32>,
}

impl LocalDescription {
    /// An offer that opens a session: one audio stream.
    pub fn offer_bytes(&self) -> Vec<u8> {
        self.reoffer_bytes(&Shape::default())
    }

    /// An offer within a session whose descriptions have that shape: the audio stream in its place, all others disabled, and
    /// the audio stream, too, if there is no speech codec.
    pub fn reoffer_bytes(&self, shape: &Shape) -> Vec<u8> {
        self.write(shape, &self.codecs, self.direction)
    }

    /// The answer to `offer`: as many `m=` lines as it has, all but the audio stream refused with port 0.
    ///
    /// Of our codecs those are listed that the offer has, under the offer's numbers (from [`super::answer_codecs`] they have them
    /// already). The direction is what both sides allow. If no speech codec is left, the audio stream is refused, too.
    pub fn answer_bytes(&self, offer: &Offer) -> Vec<u8> {
        let offered = offer.audio();
        let mut codecs: Vec<Codec> = Vec::new();
        for own in &self.codecs {
            let theirs = offered.codecs.iter().find(|theirs| same_codec(own, theirs));
            if let Some(theirs) = theirs
                && !codecs.iter().any(|codec| same_codec(codec, own))
            {
                codecs.push(Codec {
                    payload_type: theirs.payload_type,
                    ..own.clone()
                });
            }
        }
        let direction = self.answer_direction(offered.direction);
        self.write(offer.shape(), &codecs, direction)
    }

    /// The direction of an answer to an offer with direction `offered` (RFC 3264 §6.1).
    pub fn answer_direction(&self, offered: Direction) -> Direction {
        self.direction.and(offered.mirrored())
    }

    /// Continues the session of `previous`: takes its id, and a version that is one higher if anything else differs.
    pub fn bump_if_changed(&mut self, previous: &LocalDescription) {
        self.session_id = previous.session_id;
        self.version = previous.version;
        if self != previous {
            self.version = previous.version.wrapping_add(1);
        }
    }

    fn write(&self, shape: &Shape, codecs: &[Codec], direction: Direction) -> Vec<u8> {
        let mut out = self.session();
        for (index, line) in shape.lines().iter().enumerate() {
            if index == shape.audio() && has_speech(codecs) {
                self.write_audio(&mut out, &line.proto, codecs, direction);
            } else {
                write_refused(&mut out, line);
            }
        }
        out.into_bytes()
    }

    fn session(&self) -> String {
        let kind = if self.address.is_ipv4() { "IP4" } else { "IP6" };
        let (id, version) = (self.session_id & MAX_NUMBER, self.version & MAX_NUMBER);
        let address = self.address;
        let mut out = String::with_capacity(TYPICAL_BYTES);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "v=0\r\no=- {id} {version} IN {kind} {address}\r\ns=-\r\nc=IN {kind} {address}\r\nt=0 0\r\n"
        );
        out
    }

    fn write_audio(&self, out: &mut String, proto: &str, codecs: &[Codec], direction: Direction) {
        // Writing to a String cannot fail.
        let _ = write!(out, "m=audio {} {proto}", self.rtp_port);
        for codec in codecs {
            let _ = write!(out, " {}", codec.payload_type);
        }
        out.push_str("\r\n");
        for codec in codecs {
            write_codec(out, codec);
        }
        if let Some(ptime) = self.ptime {
            let _ = write!(out, "a=ptime:{ptime}\r\n");
        }
        let _ = write!(out, "a={}\r\n", direction.as_str());
    }
}

/// A description with a few codecs has room in it.
const TYPICAL_BYTES: usize = 384;

/// RFC 3264 §5: numbers in `o=` fit a signed 64-bit integer.
const MAX_NUMBER: u64 = i64::MAX as u64;

fn write_codec(out: &mut String, codec: &Codec) {
    let Codec {
        payload_type,
        name,
        clock_rate,
        channels,
        fmtp,
    } = codec;
    let _ = write!(out, "a=rtpmap:{payload_type} {name}/{clock_rate}");
    if *channels > 1 {
        let _ = write!(out, "/{channels}");
    }
    out.push_str("\r\n");
    if let Some(fmtp) = fmtp {
        let _ = write!(out, "a=fmtp:{payload_type} ");
        out.extend(fmtp.chars().map(|c| if c.is_control() { ' ' } else { c }));
        out.push_str("\r\n");
    }
}

fn write_refused(out: &mut String, line: &MediaLine) {
    let MediaLine {
        media,
        proto,
        format,
        ..
    } = line;
    let _ = write!(out, "m={media} 0 {proto} {format}\r\n");
}
