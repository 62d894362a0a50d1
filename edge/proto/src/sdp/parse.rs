//! From bytes to `m=` sections that are checked line by line. Nothing is copied: a section is made of places in the body.

use super::codec::{Codec, is_token};
use super::{MAX_BYTES, MAX_CODECS, MAX_MEDIA_LINES, SdpError};
use arrayvec::ArrayVec;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::str::from_utf8;

/// The attributes that mean something here. The rest, from free text in any character set to candidates by the dozen, is never
/// looked at, so nothing in it can refuse a call.
const ATTRIBUTES: &[&str] = &[
    "rtpmap", "fmtp", "ptime", "maxptime", "rtcp", "crypto", "sendrecv", "sendonly", "recvonly",
    "inactive",
];

/// Line types that are skipped whatever they hold.
const SKIPPED: &[u8] = b"osiuepbtrzk";

/// A body, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Session<'a> {
    pub connection: Option<Connection<'a>>,
    pub attributes: Attributes<'a>,
    pub medias: SmallVec<[Media<'a>; 1]>,
}

/// An `m=` line and what follows it.
#[derive(Debug)]
pub(super) struct Media<'a> {
    pub media: &'a str,
    pub port: u16,
    pub proto: &'a str,
    /// Separated by spaces.
    pub formats: &'a str,
    /// The first of its `c=` lines.
    pub connection: Option<Connection<'a>>,
    pub attributes: Attributes<'a>,
}

/// A `c=` line.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    pub net: &'a str,
    pub kind: &'a str,
    pub address: &'a str,
}

/// An `a=` line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    pub name: &'a str,
    /// Empty where there is none.
    pub value: &'a str,
}

pub(super) type Attributes<'a> = SmallVec<[Attribute<'a>; 8]>;

/// Parses a body. What [`SKIPPED`] and [`ATTRIBUTES`] leave has to be right; its order is free but for `v=`, which comes first, and
/// `m=`, which begins a section.
pub(super) fn session(body: &[u8]) -> Result<Session<'_>, SdpError> {
    if body.len() > MAX_BYTES {
        return Err(SdpError::TooLong);
    }
    if body.trim_ascii().is_empty() {
        return Err(SdpError::Empty);
    }
    let mut session = Session::default();
    let mut versioned = false;
    for (number, line) in (1..).zip(body.split_inclusive(|&byte| byte == b'\n')) {
        // A CR by itself ends nothing, not even the last line.
        let end = [&b"\r\n"[..], b"\n"].into_iter();
        let line = end
            .filter_map(|end| line.strip_suffix(end))
            .next()
            .unwrap_or(line);
        if line.is_empty() || !matters(line) {
            continue;
        }
        let malformed = |what: &str| SdpError::Malformed(format!("line {number}: {what}"));
        let [kind, b'=', value @ ..] = line else {
            return Err(malformed("it is not of the form x=value"));
        };
        if line.iter().any(|byte| matches!(byte, 0 | b'\r')) {
            return Err(malformed("it holds NUL or CR"));
        }
        let value = from_utf8(value).map_err(|_| malformed("it is not UTF-8"))?;
        if !std::mem::replace(&mut versioned, true) && (*kind, value) != (b'v', "0") {
            return Err(malformed("v=0 was expected"));
        }
        session.add(*kind, value).map_err(|fault| match fault {
            Fault::TooManyMediaLines => SdpError::TooManyMediaLines,
            Fault::Line(what) => malformed(what),
        })?;
    }
    if versioned {
        Ok(session)
    } else {
        Err(SdpError::Malformed("there is no v= line".to_owned()))
    }
}

pub(super) fn matters(line: &[u8]) -> bool {
    match line {
        [b'a', b'=', attribute @ ..] => from_utf8(attribute).is_ok_and(|attribute| {
            let name = attribute.split(':').next().unwrap_or_default().trim_end();
            ATTRIBUTES
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
        }),
        [kind, b'=', ..] => !SKIPPED.contains(kind),
        _ => true,
    }
}

/// What is wrong with a line, or with one more of them.
enum Fault {
    TooManyMediaLines,
    Line(&'static str),
}

impl<'a> Session<'a> {
    fn add(&mut self, kind: u8, value: &'a str) -> Result<(), Fault> {
        if kind == b'm' {
            let media = Media::parse(value).map_err(Fault::Line)?;
            if self.medias.len() >= MAX_MEDIA_LINES {
                return Err(Fault::TooManyMediaLines);
            }
            self.medias.push(media);
            return Ok(());
        }
        match (kind, self.medias.last_mut()) {
            (b'c', Some(media)) => {
                let connection = Connection::parse(value).map_err(Fault::Line)?;
                media.connection.get_or_insert(connection);
            }
            (b'c', None) if self.connection.is_some() => {
                return Err(Fault::Line("there is a second c= line"));
            }
            (b'c', None) => {
                self.connection = Some(Connection::parse(value).map_err(Fault::Line)?);
            }
            (b'a', Some(media)) => media.attributes.push(Attribute::parse(value)),
            (b'a', None) => self.attributes.push(Attribute::parse(value)),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Media<'a> {
    /// `media port[/count] proto fmt ...`
    fn parse(value: &'a str) -> Result<Self, &'static str> {
        let mut words = value.splitn(4, ' ');
        let media = words.next().unwrap_or_default();
        let port = words.next().ok_or("the port is missing")?;
        let (port, count) = match port.split_once('/') {
            Some((port, count)) => (port, Some(count)),
            None => (port, None),
        };
        let port = port.parse().map_err(|_| "the port is not a number")?;
        if count.is_some_and(|count| count.parse::<u16>().is_err()) {
            return Err("the number of ports is none");
        }
        Ok(Media {
            media,
            port,
            proto: words.next().ok_or("the protocol is missing")?,
            formats: words.next().ok_or("the formats are missing")?,
            connection: None,
            attributes: Attributes::new(),
        })
    }

    /// Whether the words of the line can be written back in an answer.
    pub fn is_writable(&self) -> bool {
        is_token(self.media)
            && !self.proto.is_empty()
            && self.proto.split('/').all(is_token)
            && self.first_format().is_some_and(is_token)
    }

    pub fn first_format(&self) -> Option<&'a str> {
        self.formats.split_ascii_whitespace().next()
    }

    /// The value of the first attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&'a str> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name.eq_ignore_ascii_case(name))
            .map(|attribute| attribute.value)
    }
}

impl<'a> Connection<'a> {
    /// `nettype addrtype address`
    fn parse(value: &'a str) -> Result<Self, &'static str> {
        let mut words = value.split(' ').filter(|word| !word.is_empty());
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(net), Some(kind), Some(address), None) if is_token(net) && is_token(kind) => {
                Ok(Connection { net, kind, address })
            }
            _ => Err("it is not nettype, addrtype and address"),
        }
    }

    /// The address.
    ///
    /// # Errors
    /// [`SdpError::HostName`] for a name, [`SdpError::BadAddress`] for an address of another family than the line says,
    /// multicast, broadcast or IPv4-mapped.
    pub fn address(&self) -> Result<IpAddr, SdpError> {
        if !self.net.eq_ignore_ascii_case("IN") {
            return Err(SdpError::BadAddress);
        }
        address(self.kind, self.address)
    }
}

impl<'a> Attribute<'a> {
    /// `name` or `name:value`
    fn parse(line: &'a str) -> Self {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        Attribute {
            name: name.trim(),
            value: value.trim(),
        }
    }
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
fn payload_types(formats: &str) -> Result<ArrayVec<u8, MAX_CODECS>, SdpError> {
    let mut types = ArrayVec::new();
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
pub(super) fn codecs(media: &Media<'_>) -> Result<Vec<Codec>, SdpError> {
    let types = payload_types(media.formats)?;
    let rtpmaps = by_type(media, "rtpmap");
    let fmtps = by_type(media, "fmtp");
    let codecs = types.into_iter().filter_map(|number| {
        let codec = match *rtpmaps.get(usize::from(number))? {
            Some(rtpmap) => Codec::from_rtpmap(number, rtpmap),
            None => Codec::from_static(number),
        }?;
        let fmtp = fmtps.get(usize::from(number))?;
        let fmtp = fmtp.filter(|fmtp| !fmtp.is_empty());
        Some(Codec {
            fmtp: fmtp.map(Into::into),
            ..codec
        })
    });
    Ok(codecs.collect())
}

/// What the first attribute of that name says of each payload type.
fn by_type<'a>(media: &Media<'a>, name: &str) -> [Option<&'a str>; 128] {
    let mut table = [None; 128];
    let values = media
        .attributes
        .iter()
        .filter(|attribute| attribute.name.eq_ignore_ascii_case(name))
        .filter_map(|attribute| attribute.value.split_once([' ', '\t']));
    for (number, rest) in values {
        let slot = number.parse().ok().and_then(|n: usize| table.get_mut(n));
        if let Some(slot) = slot {
            slot.get_or_insert(rest.trim());
        }
    }
    table
}
