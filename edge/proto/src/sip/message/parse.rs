//! Bytes to [`Message`].

use super::fault::{MessageError, MessageFault, ResponseHint};
use super::{Field, Message, Parsed, Span, Start};
use crate::sip::framer::parse_content_length;
use crate::sip::grammar::{is_token, split_list, split_once, trim_end, trim_start};
use crate::sip::header::{CSeq, HeaderName};
use crate::sip::limits::MessageLimits;
use crate::sip::method::Method;
use crate::sip::name_addr::{NameAddr, NameAddrError};
use crate::sip::uri::{ParamError, Uri};
use crate::sip::via::Via;
use bytes::Bytes;
use memchr::{memchr, memchr_iter};
use std::sync::Arc;

pub(super) fn parse(raw: Bytes, limits: &MessageLimits) -> Result<Message, MessageError> {
    if raw.len() > limits.message_bytes {
        return Err(MessageError {
            fault: MessageFault::TooLarge,
            response_hint: None,
        });
    }
    match parse_message(&raw, limits) {
        Ok(parsed) => Ok(Message {
            parsed: Arc::new(Parsed { raw, ..parsed }),
        }),
        Err(fault) => Err(MessageError {
            fault,
            response_hint: ResponseHint::read(&raw).map(Box::new),
        }),
    }
}

fn parse_message(raw: &[u8], limits: &MessageLimits) -> Result<Parsed, MessageFault> {
    let Scan {
        head_bytes,
        has_folds,
    } = scan(raw)?;
    let head = raw.get(..head_bytes).unwrap_or_default();
    let head = core::str::from_utf8(head).map_err(|_| MessageFault::NotUtf8)?;
    let head: Box<str> = if has_folds {
        unfold(head).into()
    } else {
        head.into()
    };
    let mut lines = Lines { head: &head, at: 0 };
    let (start, _) = lines.next().ok_or(MessageFault::StartLine)?;
    let start = parse_start_line(start)?;
    let mut fields = Vec::with_capacity(24);
    for (line, at) in lines {
        if line.len().saturating_add(2) > limits.line_bytes {
            return Err(MessageFault::LineTooLong);
        }
        if fields.len() >= limits.headers {
            return Err(MessageFault::TooManyHeaders);
        }
        fields.push(parse_field(line, at).ok_or(MessageFault::HeaderLine)?);
    }
    let parsed = Typed {
        head: &head,
        fields: &fields,
    }
    .parse(start, limits)?;
    let body = body_span(raw.len(), head_bytes, parsed.content_length)?;
    Ok(Parsed {
        raw: Bytes::new(),
        start: parsed.start,
        body,
        via: parsed.via,
        via_count: parsed.via_count,
        from: parsed.from,
        to: parsed.to,
        call_id: parsed.call_id,
        cseq: parsed.cseq,
        max_forwards: parsed.max_forwards,
        fields,
        head,
    })
}

/// What one look at every line of a head tells.
struct Scan {
    /// Start line, headers and the empty line.
    head_bytes: usize,
    has_folds: bool,
}

/// Finds the end of the head. Lines end in CRLF and nothing else.
fn scan(raw: &[u8]) -> Result<Scan, MessageFault> {
    let mut has_folds = false;
    let mut line_start = 0;
    for (lines, line_feed) in memchr_iter(b'\n', raw).enumerate() {
        let line = raw.get(line_start..line_feed).unwrap_or_default();
        let line = line
            .strip_suffix(b"\r")
            .ok_or(MessageFault::BareLineBreak)?;
        line_start = line_feed + 1;
        match line {
            [] if lines == 0 => return Err(MessageFault::StartLine),
            [] => {
                return Ok(Scan {
                    head_bytes: line_start,
                    has_folds,
                });
            }
            [b' ' | b'\t', ..] if lines < 2 => return Err(MessageFault::StartLine),
            [b' ' | b'\t', ..] => has_folds = true,
            _ => {}
        }
        check_characters(line)?;
    }
    Err(MessageFault::Unfinished)
}

/// No control character but tab, unless a backslash escapes it (in a quoted string any but CR and LF may be, RFC 3261 §25.1
/// `quoted-pair`).
fn check_characters(line: &[u8]) -> Result<(), MessageFault> {
    let is_control = |byte: u8| byte < b' ' || byte == 0x7f;
    // Without a branch the loop runs on whole vectors; nearly every line ends here.
    if !line.iter().fold(false, |any, &byte| any | is_control(byte)) {
        return Ok(());
    }
    let mut previous = 0;
    for &byte in line {
        match byte {
            b'\r' => return Err(MessageFault::BareLineBreak),
            b'\t' => {}
            _ if is_control(byte) && previous != b'\\' => {
                return Err(MessageFault::ControlCharacter);
            }
            _ => {}
        }
        previous = byte;
    }
    Ok(())
}

/// A copy of the same length in which the line breaks of folded headers are spaces.
fn unfold(head: &str) -> String {
    head.replace("\r\n ", "   ").replace("\r\n\t", "  \t")
}

/// The lines of a head with their positions, without the empty one at the end.
struct Lines<'a> {
    head: &'a str,
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (&'a str, usize);

    fn next(&mut self) -> Option<(&'a str, usize)> {
        let rest = self.head.get(self.at..)?;
        let end = memchr(b'\r', rest.as_bytes())?;
        let line = rest.get(..end).filter(|line| !line.is_empty())?;
        let at = self.at;
        self.at += end + 2;
        Some((line, at))
    }
}

enum StartLine {
    Request {
        method: Method,
        uri: Span,
        typed: Uri,
    },
    Response {
        status: u16,
        reason: Span,
    },
}

fn parse_start_line(line: &str) -> Result<StartLine, MessageFault> {
    let first = memchr(b' ', line.as_bytes()).ok_or(MessageFault::StartLine)?;
    let (word, rest) = line
        .split_at_checked(first)
        .ok_or(MessageFault::StartLine)?;
    if word.contains('/') {
        check_version(word)?;
        return parse_status_line(line, first + 1);
    }
    let last = memchr_iter(b' ', rest.as_bytes()).next_back();
    let last = first + last.ok_or(MessageFault::StartLine)?;
    let uri = Span::new(first + 1, last);
    let text = line.get(first + 1..last).ok_or(MessageFault::StartLine)?;
    let version = line.get(last + 1..).unwrap_or_default();
    if !is_token(word) || version.is_empty() || text.is_empty() || text.contains(' ') {
        return Err(MessageFault::StartLine);
    }
    check_version(version)?;
    let typed = Uri::parse(text).map_err(MessageFault::RequestUri)?;
    if typed.as_sip().is_some_and(|sip| !sip.headers.is_empty()) {
        return Err(MessageFault::RequestUriHeaders);
    }
    Ok(StartLine::Request {
        method: Method::from_token(word),
        uri,
        typed,
    })
}

fn check_version(version: &str) -> Result<(), MessageFault> {
    if version.eq_ignore_ascii_case("SIP/2.0") {
        return Ok(());
    }
    let number = version
        .split_at_checked(4)
        .filter(|(name, _)| name.eq_ignore_ascii_case("SIP/"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match number.and_then(|(_, number)| number.split_once('.')) {
        Some((major, minor)) if digits(major) && digits(minor) => Err(MessageFault::Version),
        _ => Err(MessageFault::StartLine),
    }
}

/// `at`: where the code starts. The space before an empty reason phrase may be missing.
fn parse_status_line(line: &str, at: usize) -> Result<StartLine, MessageFault> {
    let rest = line.get(at..).ok_or(MessageFault::StartLine)?;
    let (code, reason) = match rest.split_once(' ') {
        Some((code, reason)) => (code, Span::new(line.len() - reason.len(), line.len())),
        None => (rest, Span::new(line.len(), line.len())),
    };
    if code.is_empty() || !code.bytes().all(|b| b.is_ascii_digit()) {
        return Err(MessageFault::StartLine);
    }
    match code.parse() {
        Ok(status @ 100..=699) if code.len() == 3 => Ok(StartLine::Response { status, reason }),
        _ => Err(MessageFault::StatusCode),
    }
}

fn parse_field(line: &str, at: usize) -> Option<Field> {
    let (name, value) = split_once(line, b':')?;
    let name = trim_end(name);
    if !is_token(name) {
        return None;
    }
    let trimmed = trim_start(value);
    let start = at + line.len() - trimmed.len();
    let trimmed = trim_end(trimmed);
    Some(Field {
        known: HeaderName::parse(name),
        name: Span::new(at, at + name.len()),
        value: Span::new(start, start + trimmed.len()),
    })
}

/// A From or To. A tag that is there must be a token: an empty one would be none to some and one to others.
fn parse_party(text: &str) -> Result<NameAddr, NameAddrError> {
    let party = NameAddr::parse(text)?;
    match party.params.get("tag") {
        Some(tag) if !tag.is_some_and(is_token) => Err(ParamError::Value.into()),
        _ => Ok(party),
    }
}

/// The mandatory headers (RFC 3261 §8.1.1, §8.2.6.2) of an indexed head.
struct Typed<'a> {
    head: &'a str,
    fields: &'a [Field],
}

struct TypedParts {
    start: Start,
    via: Via,
    via_count: usize,
    from: NameAddr,
    to: NameAddr,
    call_id: Span,
    cseq: CSeq,
    max_forwards: Option<u8>,
    content_length: Option<usize>,
}

impl<'a> Typed<'a> {
    fn spans(&self, name: HeaderName) -> impl Iterator<Item = Span> {
        self.fields
            .iter()
            .filter(move |field| field.known == Some(name))
            .map(|field| field.value)
    }

    fn text(&self, span: Span) -> &'a str {
        self.head.get(span.range()).unwrap_or_default()
    }

    fn optional(&self, name: HeaderName) -> Result<Option<Span>, MessageFault> {
        let mut spans = self.spans(name);
        let first = spans.next();
        match spans.next() {
            Some(_) => Err(MessageFault::Repeated(name)),
            None => Ok(first),
        }
    }

    fn single(&self, name: HeaderName) -> Result<Span, MessageFault> {
        self.optional(name)?.ok_or(MessageFault::Missing(name))
    }

    fn parse(&self, start: StartLine, limits: &MessageLimits) -> Result<TypedParts, MessageFault> {
        let from = self.single(HeaderName::From)?;
        let to = self.single(HeaderName::To)?;
        let call_id = self.single(HeaderName::CallId)?;
        let cseq = self.single(HeaderName::CSeq)?;
        let (via, via_count) = self.vias(limits)?;
        let from = parse_party(self.text(from)).map_err(MessageFault::From)?;
        let to = parse_party(self.text(to)).map_err(MessageFault::To)?;
        let id = self.text(call_id);
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(MessageFault::CallId);
        }
        let cseq = CSeq::parse(self.text(cseq)).map_err(MessageFault::CSeq)?;
        match &start {
            StartLine::Request { method, .. } if *method == cseq.method => {}
            StartLine::Request {
                method: Method::Other(_),
                ..
            } => return Err(MessageFault::CSeqUnknownMethod),
            StartLine::Request { .. } => return Err(MessageFault::CSeqMethod),
            StartLine::Response { .. } => {}
        }
        Ok(TypedParts {
            start: match start {
                StartLine::Request { method, uri, typed } => Start::Request { method, uri, typed },
                StartLine::Response { status, reason } => Start::Response { status, reason },
            },
            via,
            via_count,
            from,
            to,
            call_id,
            cseq,
            max_forwards: self.max_forwards()?,
            content_length: self.content_length()?,
        })
    }

    fn vias(&self, limits: &MessageLimits) -> Result<(Via, usize), MessageFault> {
        let mut values = self
            .spans(HeaderName::Via)
            .flat_map(|span| split_list(self.text(span)));
        let top = values
            .next()
            .ok_or(MessageFault::Missing(HeaderName::Via))?;
        let top = Via::parse(top).map_err(MessageFault::Via)?;
        let mut count = 1;
        for value in values {
            count += 1;
            if count > limits.vias {
                return Err(MessageFault::TooManyVias);
            }
            if value.is_empty() {
                return Err(MessageFault::Via(crate::sip::via::ViaError::Protocol));
            }
        }
        Ok((top, count))
    }

    fn max_forwards(&self) -> Result<Option<u8>, MessageFault> {
        let Some(span) = self.optional(HeaderName::MaxForwards)? else {
            return Ok(None);
        };
        let text = self.text(span);
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(MessageFault::MaxForwards);
        }
        text.parse()
            .map(Some)
            .map_err(|_| MessageFault::MaxForwards)
    }

    fn content_length(&self) -> Result<Option<usize>, MessageFault> {
        let Some(span) = self.optional(HeaderName::ContentLength)? else {
            return Ok(None);
        };
        match parse_content_length(self.text(span).as_bytes()) {
            Ok(length) => Ok(Some(length)),
            Err(_) => Err(MessageFault::ContentLength),
        }
    }
}

fn body_span(
    total: usize,
    head_bytes: usize,
    content_length: Option<usize>,
) -> Result<Span, MessageFault> {
    let end = match content_length {
        None => total,
        Some(length) => head_bytes
            .checked_add(length)
            .filter(|&end| end <= total)
            .ok_or(MessageFault::BodyTruncated)?,
    };
    Ok(Span::new(head_bytes, end))
}
