//! One parsed message: the received bytes and an index into them.

mod fault;
mod parse;

pub use self::fault::{MessageError, MessageFault, ResponseHint};
use crate::sip::grammar::split_list;
use crate::sip::header::{CSeq, HeaderName};
pub use crate::sip::limits::MessageLimits;
use crate::sip::method::Method;
use crate::sip::name_addr::{NameAddr, NameAddrError};
use crate::sip::uri::Uri;
use crate::sip::via::Via;
use bytes::Bytes;
use core::fmt;
use core::ops::Range;
use std::sync::Arc;

/// A SIP message.
///
/// Cheap to clone. Header values are slices of one copy of the head; what every message must carry (Via, From, To, Call-ID,
/// CSeq) was checked and typed once, at parse time. Text from here is a peer's: it reaches a wire only through a builder.
#[derive(Clone)]
pub struct Message {
    parsed: Arc<Parsed>,
}

/// Byte positions in a message.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Positions beyond 4 GiB saturate and then read as empty; limits keep messages far below.
    fn new(start: usize, end: usize) -> Span {
        let position = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Span {
            start: position(start),
            end: position(end),
        }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug)]
struct Field {
    known: Option<HeaderName>,
    name: Span,
    value: Span,
}

#[derive(Debug)]
struct Parsed {
    raw: Bytes,
    /// Start line and headers as text, without folds: checked to be UTF-8 once, where slices of `raw` would be at each look.
    head: Box<str>,
    start: Start,
    fields: Vec<Field>,
    body: Span,
    via: Via,
    via_count: usize,
    from: NameAddr,
    to: NameAddr,
    call_id: Span,
    cseq: CSeq,
    max_forwards: Option<u8>,
}

#[derive(Debug)]
enum Start {
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

/// A header that may appear once appears again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} appears more than once")]
pub struct Repeated(pub HeaderName);

impl Message {
    /// Parses exactly one message, as a framer delimited it. Bytes beyond Content-Length are ignored (RFC 3261 §18.3).
    pub fn parse(raw: Bytes, limits: &MessageLimits) -> Result<Message, MessageError> {
        parse::parse(raw, limits)
    }

    pub fn is_request(&self) -> bool {
        matches!(self.parsed.start, Start::Request { .. })
    }

    pub fn is_response(&self) -> bool {
        !self.is_request()
    }

    /// A request's method. A response's is `cseq().method`.
    pub fn method(&self) -> Option<Method> {
        match &self.parsed.start {
            Start::Request { method, .. } => Some(method.clone()),
            Start::Response { .. } => None,
        }
    }

    /// A response's status code, 100 to 699.
    pub fn status(&self) -> Option<u16> {
        match self.parsed.start {
            Start::Request { .. } => None,
            Start::Response { status, .. } => Some(status),
        }
    }

    /// A response's reason phrase; may be empty.
    pub fn reason(&self) -> Option<&str> {
        match self.parsed.start {
            Start::Request { .. } => None,
            Start::Response { reason, .. } => Some(self.text(reason)),
        }
    }

    /// A request's Request-URI as received.
    pub fn request_uri(&self) -> Option<&str> {
        match self.parsed.start {
            Start::Request { uri, .. } => Some(self.text(uri)),
            Start::Response { .. } => None,
        }
    }

    /// A request's Request-URI, parsed.
    pub fn uri(&self) -> Option<&Uri> {
        match &self.parsed.start {
            Start::Request { typed, .. } => Some(typed),
            Start::Response { .. } => None,
        }
    }

    /// The first header of that name.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers(name).next()
    }

    /// All headers of that name, one item per line as sent.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.parsed
            .fields
            .iter()
            .filter(move |field| field.known == Some(name))
            .map(|field| self.text(field.value))
    }

    /// The one header of that name, an error when there are two: choosing either would be a guess.
    pub fn single(&self, name: HeaderName) -> Result<Option<&str>, Repeated> {
        let mut all = self.headers(name);
        let first = all.next();
        match all.next() {
            Some(_) => Err(Repeated(name)),
            None => Ok(first),
        }
    }

    /// All values of that name, comma-separated ones split outside quotes and angle brackets. Not for challenges and
    /// credentials, whose parameters are separated by commas too.
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.headers(name).flat_map(split_list)
    }

    /// Whether an option tag or the like is among the values, case-insensitively.
    pub fn has_value(&self, name: HeaderName, value: &str) -> bool {
        self.values(name).any(|v| v.eq_ignore_ascii_case(value))
    }

    /// All headers of any name, known or not, in any case; a known name also finds its compact form.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let known = HeaderName::parse(name);
        self.parsed
            .fields
            .iter()
            .filter(move |field| match known {
                Some(_) => field.known == known,
                None => self.text(field.name).eq_ignore_ascii_case(name),
            })
            .map(|field| self.text(field.value))
    }

    /// Every header, name as received.
    pub fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parsed
            .fields
            .iter()
            .map(|field| (self.text(field.name), self.text(field.value)))
    }

    pub fn call_id(&self) -> &str {
        self.text(self.parsed.call_id)
    }

    pub fn cseq(&self) -> &CSeq {
        &self.parsed.cseq
    }

    pub fn from(&self) -> &NameAddr {
        &self.parsed.from
    }

    pub fn to(&self) -> &NameAddr {
        &self.parsed.to
    }

    /// `None`: an RFC 2543 peer.
    pub fn from_tag(&self) -> Option<&str> {
        self.parsed.from.tag()
    }

    /// `None` outside a dialog.
    pub fn to_tag(&self) -> Option<&str> {
        self.parsed.to.tag()
    }

    /// The From header as received.
    pub fn from_header(&self) -> &str {
        self.header(HeaderName::From).unwrap_or_default()
    }

    /// The To header as received.
    pub fn to_header(&self) -> &str {
        self.header(HeaderName::To).unwrap_or_default()
    }

    /// The first Via value.
    pub fn top_via(&self) -> &Via {
        &self.parsed.via
    }

    /// How many Via values there are. A response to us has exactly one (RFC 3261 §8.1.3.3).
    pub fn via_count(&self) -> usize {
        self.parsed.via_count
    }

    /// The first Contact value; `None` when there is no Contact.
    pub fn contact(&self) -> Option<Result<NameAddr, NameAddrError>> {
        self.values(HeaderName::Contact).next().map(NameAddr::parse)
    }

    pub fn max_forwards(&self) -> Option<u8> {
        self.parsed.max_forwards
    }

    /// The Content-Type header as received.
    pub fn content_type(&self) -> Option<&str> {
        self.header(HeaderName::ContentType)
    }

    /// Whether Content-Type is `media_type` (`application/sdp`), parameters aside.
    pub fn has_content_type(&self, media_type: &str) -> bool {
        self.content_type().is_some_and(|text| {
            let essence = text.split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case(media_type)
        })
    }

    /// The body; empty when there is none.
    pub fn body(&self) -> &[u8] {
        let body = self.parsed.body.range();
        self.parsed.raw.get(body).unwrap_or_default()
    }

    /// The bytes that were parsed.
    pub fn raw(&self) -> &Bytes {
        &self.parsed.raw
    }

    /// Only a position that cannot be gives the empty text.
    fn text(&self, span: Span) -> &str {
        self.parsed.head.get(span.range()).unwrap_or_default()
    }
}

impl fmt::Debug for Message {
    /// The start line and Call-ID: headers can hold credentials, so they do not print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parsed.start {
            Start::Request { method, .. } => write!(f, "Message({method}")?,
            Start::Response { status, .. } => write!(f, "Message({status}")?,
        }
        write!(f, ", {}, {})", self.parsed.cseq, self.call_id())
    }
}

#[cfg(test)]
mod tests;
