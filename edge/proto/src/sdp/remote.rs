//! What a peer's description says.

use super::SdpError;
use super::codec::{Codec, has_speech, same_codec};
use super::local::LocalDescription;
use super::parse::{self, Attribute, Media, Session};
use compact_str::CompactString;
use smallvec::{SmallVec, smallvec};
use std::net::{IpAddr, SocketAddr};

/// The direction of a stream, as the side that wrote it sees it (RFC 8866 §6.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    /// The direction that lets media flow as told.
    pub const fn new(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// Whether its writer sends.
    pub const fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// Whether its writer receives.
    pub const fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// The same flow seen from the other side: sendonly becomes recvonly.
    pub const fn mirrored(self) -> Self {
        Direction::new(self.receives(), self.sends())
    }

    /// What both allow.
    pub const fn and(self, other: Direction) -> Self {
        Direction::new(
            self.sends() && other.sends(),
            self.receives() && other.receives(),
        )
    }

    /// The attribute's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn of(attributes: &[Attribute<'_>]) -> Option<Self> {
        attributes.iter().find_map(|attribute| {
            [
                Direction::SendRecv,
                Direction::SendOnly,
                Direction::RecvOnly,
                Direction::Inactive,
            ]
            .into_iter()
            .find(|direction| attribute.name.eq_ignore_ascii_case(direction.as_str()))
        })
    }
}

/// The RTP profile of an `m=` line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// RTP/AVP
    Avp,
    /// RTP/AVPF
    Avpf,
    /// RTP/SAVP
    Savp,
    /// RTP/SAVPF
    Savpf,
    /// UDP/TLS/RTP/SAVP and SAVPF: keys by DTLS.
    Dtls,
}

impl Profile {
    /// The profile a transport names, `None` when it is not RTP over UDP.
    pub fn parse(proto: &str) -> Option<Self> {
        [
            ("RTP/AVP", Profile::Avp),
            ("RTP/AVPF", Profile::Avpf),
            ("RTP/SAVP", Profile::Savp),
            ("RTP/SAVPF", Profile::Savpf),
            ("UDP/TLS/RTP/SAVP", Profile::Dtls),
            ("UDP/TLS/RTP/SAVPF", Profile::Dtls),
        ]
        .into_iter()
        .find_map(|(name, profile)| name.eq_ignore_ascii_case(proto).then_some(profile))
    }

    /// Whether its packets are SRTP.
    pub const fn is_encrypted(self) -> bool {
        !matches!(self, Profile::Avp | Profile::Avpf)
    }
}

/// A peer's audio stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteAudio {
    /// Where the peer receives RTP. Unspecified (`0.0.0.0`, `::`) when it is held the old way (RFC 2543).
    pub rtp: SocketAddr,
    /// Where it receives RTCP: `a=rtcp` (RFC 3605), else the RTP port + 1.
    pub rtcp: SocketAddr,
    /// In its order of preference, at least one.
    pub codecs: Vec<Codec>,
    /// As the peer sees it: `SendOnly` means that it does not listen. An unspecified address never receives.
    pub direction: Direction,
    /// Milliseconds of media per packet that it wishes for.
    pub ptime: Option<u32>,
    /// Milliseconds of media per packet that it bears.
    pub maxptime: Option<u32>,
    pub profile: Profile,
    /// It has `a=crypto` lines (RFC 4568).
    pub has_crypto: bool,
}

impl RemoteAudio {
    /// Whether the peer wants packets, and has an address to send them to.
    pub fn receives(&self) -> bool {
        self.direction.receives() && !self.rtp.ip().is_unspecified()
    }

    /// Whether the peer has put us on hold: it does not listen.
    pub fn is_hold(&self) -> bool {
        !self.receives()
    }
}

/// One `m=` line, as far as an answer repeats it when it refuses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediaLine {
    /// `audio`, `video`, ...
    pub media: CompactString,
    /// Zero: already refused or disabled.
    pub port: u16,
    /// `RTP/AVP`, ...
    pub proto: CompactString,
    /// The first format: an `m=` line needs one also when refused (RFC 3264 §6).
    pub format: CompactString,
}

/// The `m=` lines of a session and which of them is the audio stream. Their number and order never change in a session
/// (RFC 3264 §8), so whoever writes the next description has to know them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    pub(super) lines: SmallVec<[MediaLine; 1]>,
    pub(super) audio: usize,
}

impl Shape {
    /// The lines in order; never empty.
    pub fn lines(&self) -> &[MediaLine] {
        &self.lines
    }

    /// The position of the audio stream among the lines.
    pub fn audio(&self) -> usize {
        self.audio
    }
}

impl Default for Shape {
    /// One audio stream, as in the offers that open our sessions.
    fn default() -> Self {
        Shape {
            lines: smallvec![MediaLine {
                media: "audio".into(),
                port: 0,
                proto: "RTP/AVP".into(),
                format: "0".into(),
            }],
            audio: 0,
        }
    }
}

/// A peer's offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    audio: RemoteAudio,
    shape: Shape,
}

impl Offer {
    /// Reads a body of type application/sdp as an offer. The first usable audio stream is the one that counts.
    ///
    /// # Errors
    /// When there is none, what is wrong with the first audio stream that is not disabled.
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        let session = parse::session(body)?;
        let lines = media_lines(&session)?;
        let mut failure = SdpError::NoAudio;
        for (index, media) in session.medias.iter().enumerate() {
            if !media.media.eq_ignore_ascii_case("audio") {
                continue;
            }
            match audio(&session, media) {
                Ok(audio) => {
                    return Ok(Offer {
                        audio,
                        shape: Shape {
                            lines,
                            audio: index,
                        },
                    });
                }
                Err(error) if matches!(failure, SdpError::NoAudio | SdpError::Refused) => {
                    failure = error;
                }
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// The audio stream to use.
    pub fn audio(&self) -> &RemoteAudio {
        &self.audio
    }

    /// All `m=` lines, in order.
    pub fn media_lines(&self) -> &[MediaLine] {
        &self.shape.lines
    }

    /// The lines and the audio stream's place, which every later description of the session keeps.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// A peer's answer to an offer of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    audio: RemoteAudio,
}

impl Answer {
    /// Reads a body of type application/sdp as the answer to [`LocalDescription::offer_bytes`].
    ///
    /// Codecs that were not offered are left out, and the direction is cut down to what was offered. More `m=` lines than were
    /// offered are borne: there are endpoints that add a refused video line.
    ///
    /// # Errors
    /// [`SdpError::Refused`] for `m=audio 0`, [`SdpError::NoCommonCodec`] when no speech codec of the offer is accepted.
    pub fn parse(body: &[u8], offered: &LocalDescription) -> Result<Self, SdpError> {
        Self::parse_shaped(body, offered, &Shape::default())
    }

    /// The audio stream as accepted.
    pub fn audio(&self) -> &RemoteAudio {
        &self.audio
    }

    /// The same for the answer to [`LocalDescription::reoffer_bytes`].
    ///
    /// # Errors
    /// As [`Answer::parse`].
    pub fn parse_shaped(
        body: &[u8],
        offered: &LocalDescription,
        shape: &Shape,
    ) -> Result<Self, SdpError> {
        let session = parse::session(body)?;
        media_lines(&session)?;
        let media = session
            .medias
            .get(shape.audio)
            .filter(|media| media.media.eq_ignore_ascii_case("audio"))
            .ok_or(SdpError::ShapeMismatch)?;
        if session.medias.len() < shape.lines.len() {
            return Err(SdpError::ShapeMismatch);
        }
        let mut audio = audio(&session, media)?;
        audio
            .codecs
            .retain(|codec| offered.codecs.iter().any(|ours| same_codec(ours, codec)));
        if !has_speech(&audio.codecs) {
            return Err(SdpError::NoCommonCodec);
        }
        audio.direction = audio.direction.and(offered.direction.mirrored());
        Ok(Answer { audio })
    }
}

fn media_lines(session: &Session<'_>) -> Result<SmallVec<[MediaLine; 1]>, SdpError> {
    session
        .medias
        .iter()
        .map(|media| {
            if !media.is_writable() {
                return Err(SdpError::Malformed(
                    "an m= line is not made of tokens".into(),
                ));
            }
            Ok(MediaLine {
                media: media.media.into(),
                port: media.port,
                proto: media.proto.into(),
                format: media.first_format().unwrap_or_default().into(),
            })
        })
        .collect()
}

fn audio(session: &Session<'_>, media: &Media<'_>) -> Result<RemoteAudio, SdpError> {
    if media.port == 0 {
        return Err(SdpError::Refused);
    }
    let profile = Profile::parse(media.proto).ok_or(SdpError::NotRtp)?;
    if profile.is_encrypted() {
        return Err(SdpError::OnlyEncrypted);
    }
    let codecs = parse::codecs(media)?;
    if codecs.is_empty() {
        return Err(SdpError::NoCodec);
    }
    let connection = media.connection.as_ref().or(session.connection.as_ref());
    let address = connection.ok_or(SdpError::NoConnection)?.address()?;
    let rtp = SocketAddr::new(address, media.port);
    let mut direction = Direction::of(&media.attributes)
        .or_else(|| Direction::of(&session.attributes))
        .unwrap_or_default();
    if address.is_unspecified() {
        direction = direction.and(Direction::SendOnly);
    }
    Ok(RemoteAudio {
        rtp,
        rtcp: rtcp(media, rtp),
        codecs,
        direction,
        ptime: milliseconds(media, "ptime"),
        maxptime: milliseconds(media, "maxptime"),
        profile,
        has_crypto: media.attribute("crypto").is_some(),
    })
}

/// RFC 3605 `a=rtcp:port [IN IP4 address]`; one that cannot be used is as if absent.
fn rtcp(media: &Media<'_>, rtp: SocketAddr) -> SocketAddr {
    let next = SocketAddr::new(rtp.ip(), rtp.port().checked_add(1).unwrap_or(rtp.port()));
    let Some(value) = media.attribute("rtcp") else {
        return next;
    };
    let mut words = value.split_ascii_whitespace();
    let Some(port) = words
        .next()
        .and_then(|port| port.parse().ok())
        .filter(|&port: &u16| port != 0)
    else {
        return next;
    };
    let address: Option<IpAddr> = match (words.next(), words.next(), words.next()) {
        (None, ..) => Some(rtp.ip()),
        (Some(net), Some(kind), Some(address)) if net.eq_ignore_ascii_case("IN") => {
            parse::address(kind, address)
                .ok()
                .filter(|address| address.is_ipv4() == rtp.is_ipv4())
        }
        _ => None,
    };
    address.map_or(next, |address| SocketAddr::new(address, port))
}

/// A packet time in whole milliseconds, 1-1000; fractions, which some write, are cut off.
fn milliseconds(media: &Media<'_>, name: &str) -> Option<u32> {
    media
        .attribute(name)?
        .split('.')
        .next()?
        .parse()
        .ok()
        .filter(|time| (1..=1000).contains(time))
}
