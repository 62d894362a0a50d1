//! Messages to bytes.
//!
//! Whatever text is put in, what comes out is one message with the header lines that were asked for and no other: CR, LF and
//! NUL become spaces, and so does every other control character that no backslash escapes.

use crate::sip::grammar::{is_token_byte, split_list};
use crate::sip::header::HeaderName;
use crate::sip::message::{Message, ResponseHint};
use crate::sip::method::Method;
use crate::sip::name_addr::NameAddr;
use crate::sip::status::reason_phrase;
use crate::sip::via::Via;
use bytes::Bytes;
use core::fmt::{self, Display, Write as _};
use std::cell::RefCell;
use std::net::SocketAddr;

/// What names a header: a [`HeaderName`] or text.
pub trait HeaderLike {
    /// The name, as known or as it is to be written.
    fn as_name(&self) -> Name<'_>;
}

/// The name of a header line.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    Known(HeaderName),
    /// Anything, maybe a known name.
    Text(&'a str),
}

impl HeaderLike for HeaderName {
    fn as_name(&self) -> Name<'_> {
        Name::Known(*self)
    }
}

impl HeaderLike for str {
    fn as_name(&self) -> Name<'_> {
        Name::Text(self)
    }
}

impl HeaderLike for String {
    fn as_name(&self) -> Name<'_> {
        Name::Text(self)
    }
}

impl<T: HeaderLike + ?Sized> HeaderLike for &T {
    fn as_name(&self) -> Name<'_> {
        (**self).as_name()
    }
}

/// Writes text with the control characters that could break a line or a parser replaced by spaces.
struct Clean<'a> {
    out: &'a mut String,
    previous: char,
}

impl fmt::Write for Clean<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Without a branch the loop runs on whole vectors; nearly every text ends here.
        let control = |any, byte: u8| any | byte.is_ascii_control();
        if !text.bytes().fold(false, control) {
            self.out.push_str(text);
            self.previous = text.chars().next_back().unwrap_or(self.previous);
            return Ok(());
        }
        for character in text.chars() {
            self.out.push(match character {
                '\r' | '\n' | '\0' => ' ',
                '\t' => '\t',
                c if c.is_ascii_control() && self.previous != '\\' => ' ',
                c => c,
            });
            self.previous = character;
        }
        Ok(())
    }
}

/// Header lines and a body in the making.
#[derive(Clone, Debug, Default)]
struct Lines {
    text: String,
    body: Vec<u8>,
}

/// The most room that is kept for messages to come, in bytes, and for how many of them: a response is put together from two.
const SPARE_BYTES: usize = 16 * 1024;
const SPARES: usize = 4;

thread_local! {
    /// Room that messages were put together in. It is used again while it is still in the cache.
    static SPARE: RefCell<Vec<Lines>> = const { RefCell::new(Vec::new()) };
}

impl Lines {
    /// Nothing yet, with room where there is some to spare.
    fn begin() -> Lines {
        let spare = SPARE.try_with(|spares| spares.borrow_mut().pop());
        spare.ok().flatten().unwrap_or_default()
    }

    /// Leaves the room to those that come.
    fn recycle(mut self) {
        if self.text.capacity() + self.body.capacity() > SPARE_BYTES {
            return;
        }
        self.text.clear();
        self.body.clear();
        // The thread may be about to end.
        let _ = SPARE.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARES {
                spares.push(self);
            }
        });
    }

    fn clean(&mut self, value: impl Display) {
        // Writing to a String fails only if a Display implementation does; the line then ends where it failed.
        let _ = write!(
            Clean {
                out: &mut self.text,
                previous: ' '
            },
            "{value}"
        );
    }

    fn push(&mut self, name: Name<'_>, value: impl Display) {
        match name {
            // The length is this module's business.
            Name::Known(HeaderName::ContentLength) | Name::Text("") => return,
            Name::Known(known) => self.text.push_str(known.as_str()),
            Name::Text(text) if HeaderName::parse(text) == Some(HeaderName::ContentLength) => {
                return;
            }
            Name::Text(text) => self.text.extend(text.bytes().map(|byte| {
                if is_token_byte(byte) {
                    char::from(byte)
                } else {
                    '-'
                }
            })),
        }
        self.text.push_str(": ");
        self.clean(value);
        self.text.push_str("\r\n");
    }

    fn set_body(&mut self, content_type: &str, body: &[u8]) {
        self.push(Name::Known(HeaderName::ContentType), content_type);
        self.body.clear();
        self.body.extend_from_slice(body);
    }

    /// One line for each value; the first is `top` instead if it has to tell where the request came from.
    fn push_vias<'a>(
        &mut self,
        values: impl Iterator<Item = &'a str>,
        source: Option<SocketAddr>,
        top: impl FnOnce() -> Option<Via>,
    ) {
        let mut stamped = source.and_then(|source| {
            let mut via = top()?;
            via.stamp(source);
            Some(via)
        });
        for value in values {
            match stamped.take() {
                Some(via) => self.push(Name::Known(HeaderName::Via), via),
                None => self.push(Name::Known(HeaderName::Via), value),
            }
        }
    }

    fn push_to(&mut self, to: &str, tag: Option<&str>) {
        match tag {
            Some(tag) => self.push(Name::Known(HeaderName::To), format_args!("{to};tag={tag}")),
            None => self.push(Name::Known(HeaderName::To), to),
        }
    }

    fn finish(mut self) -> Bytes {
        let _ = write!(self.text, "Content-Length: {}\r\n\r\n", self.body.len());
        // A copy without the room to spare: transactions keep messages for half a minute.
        let mut bytes = Vec::with_capacity(self.text.len() + self.body.len());
        bytes.extend_from_slice(self.text.as_bytes());
        bytes.extend_from_slice(&self.body);
        self.recycle();
        bytes.into()
    }
}

macro_rules! common_methods {
    () => {
        /// Adds a header line. A Content-Length is ignored: the right one is always written. Characters of the name that no
        /// name may have become `-`.
        pub fn header(mut self, name: impl HeaderLike, value: impl Display) -> Self {
            self.push_header(name, value);
            self
        }

        /// [`Self::header`] by reference.
        pub fn push_header(&mut self, name: impl HeaderLike, value: impl Display) {
            self.lines.push(name.as_name(), value);
        }

        /// Adds a header line for each value.
        pub fn headers<V: Display>(
            mut self,
            name: impl HeaderLike,
            values: impl IntoIterator<Item = V>,
        ) -> Self {
            for value in values {
                self.push_header(&name, value);
            }
            self
        }

        /// Adds a header line if there is a value.
        pub fn maybe(self, name: impl HeaderLike, value: Option<impl Display>) -> Self {
            self.headers(name, value)
        }

        /// Sets Content-Type and the body. To be called once.
        pub fn body(mut self, content_type: &str, body: &[u8]) -> Self {
            self.lines.set_body(content_type, body);
            self
        }
    };
}

/// A request in the making.
#[derive(Clone, Debug)]
pub struct RequestBuilder {
    lines: Lines,
}

impl RequestBuilder {
    /// The Request-URI's white space, control and non-ASCII bytes are escaped.
    pub fn new(method: &Method, uri: &str) -> RequestBuilder {
        let mut lines = Lines::begin();
        let text = &mut lines.text;
        let token = method.as_str().bytes().filter(|&b| is_token_byte(b));
        text.extend(token.map(char::from));
        text.push(' ');
        for byte in uri.bytes() {
            if byte.is_ascii_graphic() {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text.push_str(" SIP/2.0\r\n");
        RequestBuilder { lines }
    }

    common_methods!();

    /// The message.
    pub fn build(self) -> Bytes {
        self.lines.finish()
    }
}

/// A response in the making.
#[derive(Clone, Debug)]
pub struct ResponseBuilder {
    code: u16,
    /// Empty: the registered phrase.
    reason: String,
    origin: Origin,
    /// Put to the copied To when it has none.
    to_tag: Option<String>,
    /// Where the request came from, for the top Via.
    source: Option<SocketAddr>,
    lines: Lines,
}

/// What the first lines of a response are copied from.
#[derive(Clone, Debug)]
enum Origin {
    Nothing,
    Request(Message),
    Hint(ResponseHint),
}

impl ResponseBuilder {
    fn from_origin(code: u16, origin: Origin) -> ResponseBuilder {
        ResponseBuilder {
            code: code.clamp(100, 699),
            reason: String::new(),
            origin,
            to_tag: None,
            source: None,
            lines: Lines::begin(),
        }
    }

    /// A response without any header. An empty `reason` stands for the code's registered phrase.
    pub fn new(code: u16, reason: &str) -> ResponseBuilder {
        ResponseBuilder {
            reason: reason.to_owned(),
            ..Self::from_origin(code, Origin::Nothing)
        }
    }

    /// The response to a request, with what RFC 3261 §8.2.6.2 copies: every Via, From, To, Call-ID and CSeq; Timestamp in a
    /// 100.
    pub fn to(request: &Message, code: u16) -> ResponseBuilder {
        Self::from_origin(code, Origin::Request(request.clone()))
    }

    /// The response to a request that could not be parsed, as far as it could be read.
    pub fn to_hint(request: &ResponseHint, code: u16) -> ResponseBuilder {
        Self::from_origin(code, Origin::Hint(request.clone()))
    }

    /// Says behind the status code's phrase what is wrong with the request (RFC 3261 §21.4.1). `fault`: words of ours, none of the
    /// peer's. Characters that a Reason-Phrase has to escape (§25.1) become dashes.
    pub fn because(mut self, fault: &str) -> Self {
        if self.reason.is_empty() {
            self.reason = reason_phrase(self.code).to_owned();
        }
        self.reason.push_str(": ");
        let allowed = |c: char| c.is_ascii_alphanumeric() || " ;/?:@&=+$,-_.!~*'()".contains(c);
        let escaped = fault.chars().map(|c| if allowed(c) { c } else { '-' });
        self.reason.extend(escaped);
        self
    }

    /// Puts a tag to the copied To when it has none (RFC 3261 §8.2.6.2).
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.to_tag.get_or_insert_with(|| tag.to_owned());
        self
    }

    /// Notes in the top Via where the request came from ([`Via::stamp`]).
    pub fn received_from(mut self, source: SocketAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Copies every Record-Route of the request, as a response that creates a dialog must (RFC 3261 §12.1.1).
    pub fn copy_record_routes(self, request: &Message) -> Self {
        self.headers(
            HeaderName::RecordRoute,
            request.headers(HeaderName::RecordRoute),
        )
    }

    common_methods!();

    /// The message.
    pub fn build(mut self) -> Bytes {
        let mut all = Lines::begin();
        std::mem::swap(&mut all.body, &mut self.lines.body);
        let reason = match self.reason.as_str() {
            "" => reason_phrase(self.code),
            reason => reason,
        };
        all.clean(format_args!("SIP/2.0 {} {reason}", self.code));
        all.text.push_str("\r\n");
        let (tag, source) = (self.to_tag.as_deref(), self.source);
        match &self.origin {
            Origin::Nothing => {}
            Origin::Request(request) => {
                all.push_vias(request.values(HeaderName::Via), source, || {
                    Some(request.top_via().clone())
                });
                let tag = tag.filter(|_| request.to_tag().is_none());
                all.push_to(request.to_header(), tag);
                all.push(Name::Known(HeaderName::From), request.from_header());
                all.push(Name::Known(HeaderName::CallId), request.call_id());
                let cseq = request.header(HeaderName::CSeq).unwrap_or_default();
                all.push(Name::Known(HeaderName::CSeq), cseq);
                let timestamp = request.header(HeaderName::Timestamp);
                if let Some(timestamp) = timestamp.filter(|_| self.code == 100) {
                    all.push(Name::Known(HeaderName::Timestamp), timestamp);
                }
            }
            Origin::Hint(hint) => {
                let vias = || hint.vias.iter().flat_map(|line| split_list(line));
                all.push_vias(vias(), source, || Via::parse(vias().next()?).ok());
                // What cannot be parsed gets no tag put to it.
                let has_tag =
                    NameAddr::parse(&hint.to).map_or(true, |to| to.params.contains("tag"));
                all.push_to(&hint.to, tag.filter(|_| !has_tag));
                all.push(Name::Known(HeaderName::From), &hint.from);
                all.push(Name::Known(HeaderName::CallId), &hint.call_id);
                all.push(Name::Known(HeaderName::CSeq), &hint.cseq);
            }
        }
        all.text.push_str(&self.lines.text);
        self.lines.recycle();
        all.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::MessageLimits;

    fn parse(bytes: Bytes) -> Message {
        Message::parse(bytes, &MessageLimits::default()).unwrap()
    }

    fn invite() -> RequestBuilder {
        RequestBuilder::new(&Method::Invite, "sip:+1234567890@example.net")
            .header(
                HeaderName::Via,
                "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;rport, SIP/2.0/TCP [2001:db8::1];branch=2",
            )
            .header(HeaderName::Via, "SIP/2.0/TLS c.example.net;branch=z9hG4bK3")
            .header("f", "<sip:a@example.net>;tag=1")
            .header(HeaderName::To, "<sip:b@example.net>")
            .header(HeaderName::CallId, "c1")
            .header(HeaderName::CSeq, "7 INVITE")
            .header(HeaderName::RecordRoute, "<sip:p1.example.net;lr>")
            .header("Record-Route", "<sip:p2.example.net;lr>")
            .header(HeaderName::Timestamp, "54.1")
            .body("application/sdp", b"v=0\r\n")
    }

    #[test]
    fn requests_and_their_responses() {
        let request = parse(invite().build());
        assert_eq!(request.method(), Some(Method::Invite));
        assert_eq!(request.header(HeaderName::ContentLength), Some("5"));
        assert_eq!(request.body(), b"v=0\r\n");

        let response = ResponseBuilder::to(&request, 180)
            .to_tag("xyz")
            .to_tag("again")
            .received_from("192.0.2.9:4000".parse().unwrap())
            .copy_record_routes(&request)
            .build();
        assert_eq!(
            core::str::from_utf8(&response).unwrap(),
            "SIP/2.0 180 Ringing\r\n\
             Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;rport=4000;received=192.0.2.9\r\n\
             Via: SIP/2.0/TCP [2001:db8::1];branch=2\r\n\
             Via: SIP/2.0/TLS c.example.net;branch=z9hG4bK3\r\n\
             To: <sip:b@example.net>;tag=xyz\r\n\
             From: <sip:a@example.net>;tag=1\r\n\
             Call-ID: c1\r\n\
             CSeq: 7 INVITE\r\n\
             Record-Route: <sip:p1.example.net;lr>\r\n\
             Record-Route: <sip:p2.example.net;lr>\r\n\
             Content-Length: 0\r\n\r\n"
        );
        assert_eq!(parse(response).to_tag(), Some("xyz"));
        let trying = parse(ResponseBuilder::to(&request, 100).build());
        assert_eq!(trying.header(HeaderName::Timestamp), Some("54.1"));
        assert_eq!(trying.to_tag(), None);
    }

    #[test]
    fn nothing_injects_a_line() {
        let evil = "a\r\nX-Evil: 1\r\n\r\nbody\0\x07";
        let bytes = invite()
            .header(evil, evil)
            .header("", "x")
            .header("Content-Length", "99")
            .header("l", "99")
            .maybe("X-None", None::<&str>)
            .build();
        let message = parse(bytes);
        assert_eq!(message.named("X-Evil").count(), 0);
        assert_eq!(
            message.named("a--X-Evil--1----body--").collect::<Vec<_>>(),
            ["a  X-Evil: 1    body"]
        );
        assert_eq!(message.headers(HeaderName::ContentLength).count(), 1);
        let line =
            RequestBuilder::new(&Method::from_token("A B\r\n"), "sip:a b\r\n\u{e9}@h").build();
        assert!(line.starts_with(b"AB sip:a%20b%0D%0A%C3%A9@h SIP/2.0\r\n"));
        let response = ResponseBuilder::new(9999, evil).build();
        assert_eq!(
            &response[..],
            b"SIP/2.0 699 a  X-Evil: 1    body  \r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn a_broken_request_is_answered_as_far_as_it_can_be_read() {
        let raw = Bytes::from_static(
            b"INVITE sip:a@h SIP/2.0\r\nv: SIP/2.0/UDP h;branch=1,\r\n SIP/2.0/UDP i\r\nf: \"x <sip:a@h>\r\n\
              t: <sip:b@h>\r\ni: 1\r\nCSeq: 1 INVITE\r\n\r\n",
        );
        let error = Message::parse(raw, &MessageLimits::default()).unwrap_err();
        let hint = error.response_hint.as_deref().unwrap();
        let response = ResponseBuilder::to_hint(hint, error.status())
            .to_tag("t")
            .build();
        assert_eq!(
            core::str::from_utf8(&response).unwrap(),
            "SIP/2.0 400 Bad Request\r\nVia: SIP/2.0/UDP h;branch=1\r\nVia: SIP/2.0/UDP i\r\nTo: <sip:b@h>;tag=t\r\n\
             From: \"x <sip:a@h>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
        // A To that already says something about a tag, or cannot be read, is copied as it is.
        for to in ["<sip:b@h>;tag=x", "<sip:b@h>;tag", "<sip:b@h"] {
            let hint = ResponseHint {
                to: to.to_owned(),
                ..hint.clone()
            };
            let response = ResponseBuilder::to_hint(&hint, 400).to_tag("t").build();
            let line = format!("\r\nTo: {to}\r\n");
            assert!(core::str::from_utf8(&response).unwrap().contains(&line));
        }
    }

    #[test]
    fn a_phrase_says_what_is_wrong_and_stays_a_phrase() {
        let response = ResponseBuilder::new(400, "")
            .because("CSeq is 2^31,\r\nor \"more\" (\u{e9}\0)")
            .build();
        assert_eq!(
            &response[..],
            b"SIP/2.0 400 Bad Request: CSeq is 2-31,--or -more- (--)\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
