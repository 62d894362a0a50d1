//! Where one message ends and the next begins.
//!
//! On a stream a message must say its length (RFC 3261 §18.3, §20.14). A peer that is wrong about it cannot be understood any
//! further, so every framing error is fatal for its connection. Lines end in CRLF and nothing else: a bare LF that one parser
//! takes for a line end and another does not is how messages are smuggled.

use crate::sip::grammar::is_token_byte;
use crate::sip::limits::MessageLimits;
use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr_iter, memmem};

/// Why a stream (or datagram) cannot be cut into messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FramingError {
    #[error("what arrives is not SIP")]
    NotSip,
    #[error("a line ends with CR or LF alone")]
    BareLineBreak,
    #[error("a line is longer than allowed")]
    LineTooLong,
    #[error("more header lines than allowed")]
    TooManyHeaders,
    #[error("the message is larger than allowed")]
    MessageTooLarge,
    #[error("a message on a stream has no Content-Length")]
    ContentLengthMissing,
    #[error("Content-Length is not one number")]
    ContentLengthMalformed,
    #[error("Content-Length appears more than once")]
    ContentLengthRepeated,
    #[error("a datagram holds nothing but line breaks")]
    Empty,
    #[error("bytes were pushed before the messages in earlier ones had been taken")]
    NotDrained,
}

impl FramingError {
    /// The status to answer with before the connection closes, where the head was understood
    /// ([`StreamFramer::rejected_head`]).
    pub const fn status(self) -> Option<u16> {
        match self {
            FramingError::MessageTooLarge => Some(513),
            FramingError::ContentLengthMissing
            | FramingError::ContentLengthMalformed
            | FramingError::ContentLengthRepeated => Some(400),
            _ => None,
        }
    }
}

/// What a stream carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Exactly one message.
    Message(Bytes),
    /// CRLF CRLF: to be answered with CRLF (RFC 5626 §4.4.1).
    KeepAlivePing,
    /// A lone CRLF: the answer to a ping of ours, or a line break before a message (RFC 3261 §7.5). Needs no answer.
    KeepAlivePong,
}

/// Cuts a byte stream into messages.
///
/// After each push, [`StreamFramer::next`] is called until it returns `None`. The frames do not depend on how the stream was
/// cut into pushes. Each byte is looked at a bounded number of times. A message that lies within one pushed [`Bytes`] is a
/// slice of it, not a copy.
#[derive(Debug)]
pub struct StreamFramer {
    limits: MessageLimits,
    originated: bool,
    buffer: Buffer,
    state: State,
    failed: Option<FramingError>,
    rejected_head: Option<Bytes>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Between messages.
    Boundary,
    /// In the start line and headers. Positions count from the start of the message.
    Head {
        line_start: usize,
        scanned: usize,
        headers: usize,
    },
    /// The whole message has `total` bytes.
    Body { total: usize },
}

impl State {
    const HEAD: State = State::Head {
        line_start: 0,
        scanned: 0,
        headers: 0,
    };
}

impl StreamFramer {
    /// For a connection that the peer opened: two CRLF are its ping.
    pub fn new(limits: MessageLimits) -> StreamFramer {
        StreamFramer {
            limits,
            originated: false,
            buffer: Buffer::Whole(Bytes::new()),
            state: State::Boundary,
            failed: None,
            rejected_head: None,
        }
    }

    /// For a connection that the edge opened: only the edge pings on it (RFC 5626 §4.4.1), so each CRLF is a pong, told at
    /// once and not held back in case it is the first half of a ping.
    pub fn for_originated(limits: MessageLimits) -> StreamFramer {
        StreamFramer {
            originated: true,
            ..StreamFramer::new(limits)
        }
    }

    /// Takes in bytes, copying them.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.may_push() {
            self.buffer.extend(bytes);
        }
    }

    /// Takes in bytes without copying them, where no part of a message is waiting.
    pub fn push_bytes(&mut self, bytes: Bytes) {
        if self.may_push() {
            if self.buffer.is_empty() {
                self.buffer = Buffer::Whole(bytes);
            } else {
                self.buffer.extend(&bytes);
            }
        }
    }

    /// A drained buffer holds less than one message, so what is kept never exceeds that and one push.
    fn may_push(&mut self) -> bool {
        if self.buffer.len() > self.limits.message_bytes && self.failed.is_none() {
            self.fail(FramingError::NotDrained);
        }
        self.failed.is_none()
    }

    /// The next frame, `None` when more bytes are needed. An error is final: it is returned for ever after.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame>, FramingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        loop {
            let step = match self.state {
                State::Boundary => self.boundary(),
                State::Head {
                    line_start,
                    scanned,
                    headers,
                } => self.head(line_start, scanned, headers),
                State::Body { total } => {
                    if self.buffer.len() < total {
                        return Ok(None);
                    }
                    self.state = State::Boundary;
                    return Ok(Some(Frame::Message(self.buffer.take(total))));
                }
            };
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => return Ok(None),
                Ok(Step::Frame(frame)) => return Ok(Some(frame)),
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// The start line and headers of the message that made framing fail, where they were complete: enough for a response.
    pub fn rejected_head(&self) -> Option<&Bytes> {
        self.rejected_head.as_ref()
    }

    /// Whether part of a message is waiting for the rest.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn fail(&mut self, error: FramingError) -> FramingError {
        self.failed = Some(error);
        self.buffer = Buffer::Whole(Bytes::new());
        error
    }

    fn boundary(&mut self) -> Result<Step, FramingError> {
        let (take, frame) = match self.buffer.as_slice() {
            [] | [b'\r'] => return Ok(Step::Wait),
            [b'\r', b'\n', ..] if self.originated => (2, Frame::KeepAlivePong),
            [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => return Ok(Step::Wait),
            [b'\r', b'\n', b'\r', b'\n', ..] => (4, Frame::KeepAlivePing),
            [b'\r', b'\n', ..] => (2, Frame::KeepAlivePong),
            [first, ..] if is_token_byte(*first) => {
                self.state = State::HEAD;
                return Ok(Step::Again);
            }
            _ => return Err(FramingError::NotSip),
        };
        self.buffer.take(take);
        Ok(Step::Frame(frame))
    }

    fn head(
        &mut self,
        mut line_start: usize,
        mut scanned: usize,
        mut headers: usize,
    ) -> Result<Step, FramingError> {
        let bytes = self.buffer.as_slice();
        while let Some(at) = bytes.get(scanned..).and_then(|rest| memchr(b'\n', rest)) {
            let end = scanned + at + 1;
            self.check_length(line_start, end)?;
            let line = bytes.get(line_start..end).unwrap_or_default();
            let line = line
                .strip_suffix(b"\r\n")
                .filter(|line| memchr(b'\r', line).is_none())
                .ok_or(FramingError::BareLineBreak)?;
            if line.is_empty() {
                return self.end_of_head(end);
            }
            if line_start == 0 {
                if !names_sip(line) {
                    return Err(FramingError::NotSip);
                }
            } else if !line.starts_with(b" ") && !line.starts_with(b"\t") {
                headers += 1;
                if headers > self.limits.headers {
                    return Err(FramingError::TooManyHeaders);
                }
            }
            line_start = end;
            scanned = end;
        }
        self.check_length(line_start, bytes.len())?;
        self.state = State::Head {
            line_start,
            scanned: bytes.len(),
            headers,
        };
        Ok(Step::Wait)
    }

    /// Which limit the message passes first when it reaches `end`; independent of how far `end` is past it.
    fn check_length(&self, line_start: usize, end: usize) -> Result<(), FramingError> {
        let line_limit = line_start.saturating_add(self.limits.line_bytes);
        if end <= line_limit.min(self.limits.message_bytes) {
            Ok(())
        } else if line_limit < self.limits.message_bytes {
            Err(FramingError::LineTooLong)
        } else {
            Err(FramingError::MessageTooLarge)
        }
    }

    fn end_of_head(&mut self, head_bytes: usize) -> Result<Step, FramingError> {
        let head = self.buffer.as_slice().get(..head_bytes).unwrap_or_default();
        let body = content_length(head)
            .and_then(|length| length.ok_or(FramingError::ContentLengthMissing));
        let total = body.and_then(|body| match head_bytes.checked_add(body) {
            Some(total) if total <= self.limits.message_bytes => Ok(total),
            _ => Err(FramingError::MessageTooLarge),
        });
        match total {
            Ok(total) => {
                self.state = State::Body { total };
                Ok(Step::Again)
            }
            Err(error) => {
                self.rejected_head = Some(Bytes::copy_from_slice(head));
                Err(error)
            }
        }
    }
}

/// Whether a start line can be SIP's, right or wrong. What cannot is another protocol, not a mistake to answer.
fn names_sip(line: &[u8]) -> bool {
    memchr_iter(b'/', line).any(|slash| {
        line.get(..slash)
            .and_then(|before| before.last_chunk::<3>())
            .is_some_and(|name| name.eq_ignore_ascii_case(b"SIP"))
    })
}

enum Step {
    Again,
    Wait,
    Frame(Frame),
}

/// Bytes not yet framed.
#[derive(Debug)]
enum Buffer {
    /// What is left of one push.
    Whole(Bytes),
    /// A message spans pushes.
    Growing(BytesMut),
}

impl Buffer {
    fn as_slice(&self) -> &[u8] {
        match self {
            Buffer::Whole(bytes) => bytes,
            Buffer::Growing(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn extend(&mut self, more: &[u8]) {
        match self {
            Buffer::Growing(bytes) => bytes.extend_from_slice(more),
            Buffer::Whole(bytes) => {
                let mut growing = BytesMut::with_capacity(bytes.len() + more.len());
                growing.extend_from_slice(bytes);
                growing.extend_from_slice(more);
                *self = Buffer::Growing(growing);
            }
        }
    }

    /// Removes up to `count` bytes from the front.
    fn take(&mut self, count: usize) -> Bytes {
        let count = count.min(self.len());
        let taken = match self {
            Buffer::Whole(bytes) => bytes.split_to(count),
            Buffer::Growing(bytes) => bytes.split_to(count).freeze(),
        };
        if self.is_empty() {
            *self = Buffer::Whole(Bytes::new()); // lets go of the memory
        }
        taken
    }
}

/// Cuts a datagram down to its message: line breaks before it (RFC 3261 §7.5) and bytes after its Content-Length (§18.3) go.
/// A Content-Length that is missing means the rest of the datagram; one that is wrong is left to the message parser, which
/// can tell what to answer.
pub fn frame_datagram(mut bytes: Bytes) -> Result<Bytes, FramingError> {
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    match bytes.first() {
        None => return Err(FramingError::Empty),
        Some(&first) if !is_token_byte(first) => return Err(FramingError::NotSip),
        Some(_) => {}
    }
    let Some(head_bytes) = head_end(&bytes) else {
        return Ok(bytes);
    };
    if let Ok(Some(body)) = content_length(bytes.get(..head_bytes).unwrap_or_default()) {
        bytes.truncate(head_bytes.saturating_add(body));
    }
    Ok(bytes)
}

/// The length of start line and headers with the empty line that ends them.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The Content-Length in a complete head, folded or not, in full or compact form.
fn content_length(head: &[u8]) -> Result<Option<usize>, FramingError> {
    let mut found = None;
    let mut rest = head;
    let mut is_start_line = true;
    while !rest.is_empty() {
        let line;
        (line, rest) = split_logical_line(rest);
        let may_be = matches!(line, [b'C' | b'c' | b'L' | b'l', ..]);
        if std::mem::take(&mut is_start_line) || !may_be {
            continue;
        }
        let Some(colon) = memchr(b':', line) else {
            continue;
        };
        let (name, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
        let name = trim_folds(name);
        if !name.eq_ignore_ascii_case(b"Content-Length") && !name.eq_ignore_ascii_case(b"l") {
            continue;
        }
        if found.is_some() {
            return Err(FramingError::ContentLengthRepeated);
        }
        found = Some(parse_content_length(value.get(1..).unwrap_or_default())?);
    }
    Ok(found)
}

/// A line with its continuation lines, without the final CRLF, and what follows it.
fn split_logical_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    for at in memchr_iter(b'\n', bytes) {
        let (line, rest) = bytes.split_at_checked(at + 1).unwrap_or((bytes, &[]));
        if !matches!(rest, [b' ' | b'\t', ..]) {
            return (line.strip_suffix(b"\r\n").unwrap_or(line), rest);
        }
    }
    (bytes, &[])
}

/// Removes spaces, tabs and the line breaks of folds at both ends, and nothing else: a form feed is white space to some.
fn trim_folds(mut text: &[u8]) -> &[u8] {
    loop {
        text = match text {
            [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] => rest,
            [b'\r', b'\n', rest @ ..] | [rest @ .., b'\r', b'\n'] => rest,
            _ => return text,
        }
    }
}

/// `1*DIGIT` with white space and folds around it. A number too large to count is too large a message.
pub(crate) fn parse_content_length(value: &[u8]) -> Result<usize, FramingError> {
    let digits = trim_folds(value);
    if digits.is_empty() {
        return Err(FramingError::ContentLengthMalformed);
    }
    let mut length = 0_usize;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(FramingError::ContentLengthMalformed);
        }
        length = length
            .saturating_mul(10)
            .saturating_add(usize::from(digit - b'0'));
    }
    if length == usize::MAX {
        return Err(FramingError::MessageTooLarge);
    }
    Ok(length)
}

#[cfg(test)]
mod tests;
