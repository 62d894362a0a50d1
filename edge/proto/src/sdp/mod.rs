//! SDP (RFC 8866) as far as an offer/answer exchange about one audio stream needs it (RFC 3264).
//!
//! Nothing of a peer's description is copied into one of ours: a received body becomes an [`Offer`] or an [`Answer`], and
//! what goes out is written anew from a [`LocalDescription`]. So addresses, ICE candidates, bundles, session names and
//! unknown attributes of one side never reach the other.
//!
//! The model is the first usable audio stream. Every other `m=` line is known by its shape only, so that an answer can
//! refuse it in its place with port 0 and a later offer can keep it there.

mod codec;
mod local;
mod parse;
#[cfg(test)]
mod properties;
mod remote;
#[cfg(test)]
mod tests;

pub use codec::{
    Codec, answer_codecs, default_codecs, has_speech, offer_codecs, payload_map, same_codec,
};
pub use local::LocalDescription;
pub use remote::{Answer, Direction, MediaLine, Offer, Profile, RemoteAudio, Shape};

use crate::event::Cause;

/// The longest body looked at, in bytes.
pub const MAX_BYTES: usize = 32_768;
/// The most `m=` lines.
pub const MAX_MEDIA_LINES: usize = 64;
/// The most formats on an `m=` line that is read.
pub const MAX_CODECS: usize = 64;

/// Why a description is not usable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SdpError {
    #[error("no description")]
    Empty,
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("more than {MAX_MEDIA_LINES} m= lines")]
    TooManyMediaLines,
    #[error("more than {MAX_CODECS} formats on an m= line")]
    TooManyCodecs,
    /// Not SDP; the text names the line and what is wrong with it.
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("an audio stream has no c= line")]
    NoConnection,
    /// Only addresses are accepted: a name would have to be resolved before each packet could be judged.
    #[error("c= has a host name instead of an address")]
    HostName,
    /// Multicast, broadcast, IPv4-mapped, or of another family than the line says.
    #[error("c= has an address that media cannot be sent to")]
    BadAddress,
    #[error("there is no audio stream")]
    NoAudio,
    /// `m=audio 0`: the peer wants no audio, or refuses ours.
    #[error("the audio stream is refused (port 0)")]
    Refused,
    /// Audio is offered over SAVP, SAVPF or DTLS only.
    #[error("audio is offered with encryption only")]
    OnlyEncrypted,
    #[error("the audio stream is not RTP")]
    NotRtp,
    #[error("no codec of the audio stream is known")]
    NoCodec,
    /// The answer has no speech codec of the offer.
    #[error("the answer has no codec of the offer")]
    NoCommonCodec,
    /// An answer must answer each `m=` line of the offer in its place (RFC 3264 §6).
    #[error("the answer does not match the offer's m= lines")]
    ShapeMismatch,
}

impl SdpError {
    /// The cause that a call refused for this ends with.
    pub const fn cause(&self) -> Cause {
        match self {
            SdpError::OnlyEncrypted => Cause::EncryptionRequired,
            SdpError::NoAudio
            | SdpError::Refused
            | SdpError::NotRtp
            | SdpError::NoCodec
            | SdpError::NoCommonCodec => Cause::NoCommonCodec,
            _ => Cause::Malformed,
        }
    }

    /// The status that refuses a request with this offer: 400 for what is not SDP, 488 for what cannot be had here.
    pub const fn status(&self) -> u16 {
        match self {
            SdpError::Empty
            | SdpError::TooLong
            | SdpError::TooManyMediaLines
            | SdpError::TooManyCodecs
            | SdpError::Malformed(_)
            | SdpError::NoConnection
            | SdpError::ShapeMismatch => 400,
            _ => 488,
        }
    }
}
