//! From bytes to `m=` sections that are checked line by line.

use super::codec::{Codec, is_token};
use super::{MAX_BYTES, MAX_CODECS, MAX_MEDIA_LINES, SdpError};
use std::net::IpAddr;

/// Lines kept for the parser besides `v=`, `c=`, `m=`: the attributes that mean something here. The rest, from free text in
/// any character set to candidates by the dozen, is never looked at, so nothing in it can refuse a call.
const ATTRIBUTES: &[&str] = &[
    "rtpmap", "fmtp", "ptime", "maxptime", "rtcp", "crypto", "sendrecv", "sendonly", "recvonly",
    "inactive",
];

/// Line types that are skipped whatever they hold.
const SKIPPED: &[u8] = b"osiuepbtrzk";

/// Parses a body. Only what [`SKIPPED`] and [`ATTRIBUTES`] leave is there.
pub(super) fn session(body: &[u8]) -> Result<sdp_types::Session, SdpError> {
    if body.len() > MAX_BYTES {
        return Err(SdpError::TooLong);
    }
    if body.trim_ascii().is_empty() {
        return Err(SdpError::Empty);
    }
    let mut kept = Vec::with_capacity(body.len());
    let mut media_lines = 0;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"m=") {
            media_lines += 1;
        }
        if media_lines > MAX_MEDIA_LINES {
            return Err(SdpError::TooManyMediaLines);
        }
        if matters(line) {
            kept.extend_from_slice(line);
        }
    }
    sdp_types::Session::parse(&kept).map_err(|error| SdpError::Malformed(error.to_string()))
}

fn matters(line: &[u8]) -> bool {
    match line {
        [b'a', b'=', attribute @ ..] => std::str::from_utf8(attribute).is_ok_and(|attribute| {
            let name = attribute.split(':').next().unwrap_or_default().trim_end();
            ATTRIBUTES
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
        }),
        [kind, b'=', ..] => !SKIPPED.contains(kind),
        _ => true,
    }
}

/// The value of the first attribute of that name.
pub(super) fn attribute<'a>(attributes: &'a [sdp_types::Attribute], name: &str) -> Option<&'a str> {
    attributes
        .iter()
        .find(|attribute| attribute.attribute.trim().eq_ignore_ascii_case(name))
        .map(|attribute| attribute.value.as_deref().unwrap_or_default().trim())
}

/// The address of a `c=` line.
///
/// # Errors
/// [`SdpError::HostName`] for a name, [`SdpError::BadAddress`] for an address of another family than the line says,
/// multicast, broadcast or IPv4-mapped.
pub(super) fn connection_address(line: &sdp_types::Connection) -> Result<IpAddr, SdpError> {
    if !line.nettype.to_string().eq_ignore_ascii_case("IN") {
        return Err(SdpError::BadAddress);
    }
    address(&line.addrtype.to_string(), &line.connection_address)
}

/// An address as SDP writes it (RFC 8866 §5.7), with its type `IP4` or `IP6`.
pub(super) fn address(kind: &str, text: &str) -> Result<IpAddr, SdpError> {
    // A suffix is a multicast time to live or count.
    let multicast = text.contains('/');
    let text = text.split('/').next().unwrap_or_default();
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(SdpError::HostName);
    };
    let family_matches = match address {
        IpAddr::V4(address) => kind.eq_ignore_ascii_case("IP4") && !address.is_broadcast(),
        IpAddr::V6(address) => {
            kind.eq_ignore_ascii_case("IP6") && address.to_ipv4_mapped().is_none()
        }
    };
    if multicast || address.is_multicast() || !family_matches {
        return Err(SdpError::BadAddress);
    }
    Ok(address)
}

/// The payload types of an `m=` line in order, each once. What is no number of 0-127 is left out.
///
/// # Errors
/// [`SdpError::TooManyCodecs`].
pub(super) fn payload_types(formats: &str) -> Result<Vec<u8>, SdpError> {
    let mut types = Vec::new();
    for (index, format) in formats.split_ascii_whitespace().enumerate() {
        if index >= MAX_CODECS {
            return Err(SdpError::TooManyCodecs);
        }
        let number = format.parse::<u8>().ok().filter(|&number| number < 128);
        if let Some(number) = number
            && !types.contains(&number)
        {
            types.push(number);
        }
    }
    Ok(types)
}

/// The codecs of an RTP stream in the order of its `m=` line. A type without an rtpmap is what RFC 3551 says, or unknown and
/// left out; the first rtpmap and fmtp of a type count.
pub(super) fn codecs(media: &sdp_types::Media) -> Result<Vec<Codec>, SdpError> {
    let types = payload_types(&media.fmt)?;
    let mut rtpmaps: [Option<&str>; 128] = [None; 128];
    let mut fmtps: [Option<&str>; 128] = [None; 128];
    for attribute in &media.attributes {
        let name = attribute.attribute.trim();
        let table = if name.eq_ignore_ascii_case("rtpmap") {
            &mut rtpmaps
        } else if name.eq_ignore_ascii_case("fmtp") {
            &mut fmtps
        } else {
            continue;
        };
        let value = attribute.value.as_deref().unwrap_or_default().trim();
        let Some((number, rest)) = value.split_once([' ', '\t']) else {
            continue;
        };
        if let Some(slot) = number
            .parse::<usize>()
            .ok()
            .and_then(|number| table.get_mut(number))
        {
            slot.get_or_insert(rest.trim());
        }
    }
    let value = |table: &[Option<&str>; 128], number: u8| {
        table
            .get(usize::from(number))
            .copied()
            .flatten()
            .map(str::to_owned)
    };
    Ok(types
        .into_iter()
        .filter_map(|number| {
            let codec = match value(&rtpmaps, number) {
                Some(rtpmap) => Codec::from_rtpmap(number, &rtpmap),
                None => Codec::from_static(number),
            }?;
            Some(Codec {
                fmtp: value(&fmtps, number).filter(|fmtp| !fmtp.is_empty()),
                ..codec
            })
        })
        .collect())
}

/// Checks that the words of an `m=` line can be written back in an answer.
pub(super) fn is_writable(media: &sdp_types::Media) -> bool {
    is_token(&media.media)
        && !media.proto.is_empty()
        && media.proto.split('/').all(is_token)
        && media
            .fmt
            .split_ascii_whitespace()
            .next()
            .is_some_and(is_token)
}
