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
use std::net::SocketAddr;

/// What names a header: a [`HeaderName`] or text.
pub trait HeaderLike {
    /// The name as it is to be written.
    fn as_name(&self) -> &str;
}

impl HeaderLike for HeaderName {
    fn as_name(&self) -> &str {
        self.as_str()
    }
}

impl HeaderLike for str {
    fn as_name(&self) -> &str {
        self
    }
}

impl HeaderLike for String {
    fn as_name(&self) -> &str {
        self
    }
}

impl<T: HeaderLike + ?Sized> HeaderLike for &T {
    fn as_name(&self) -> &str {
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

impl Lines {
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

    fn push(&mut self, name: &str, value: impl Display) {
        if name.is_empty() || HeaderName::parse(name) == Some(HeaderName::ContentLength) {
            return; // the length is this module's business
        }
        let replace = |byte| {
            if is_token_byte(byte) {
                char::from(byte)
            } else {
                '-'
            }
        };
        self.text.extend(name.bytes().map(replace));
        self.text.push_str(": ");
        self.clean(value);
        self.text.push_str("\r\n");
    }

    fn set_body(&mut self, content_type: &str, body: &[u8]) {
        self.push(HeaderName::ContentType.as_str(), content_type);
        self.body = body.to_vec();
    }

    fn finish(mut self) -> Bytes {
        let _ = write!(self.text, "Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = self.text.into_bytes();
        bytes.append(&mut self.body);
        Bytes::from(bytes)
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
        let mut text = String::with_capacity(1024);
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
        RequestBuilder {
            lines: Lines {
                text,
                body: Vec::new(),
            },
        }
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
    status: String,
    /// One value a line.
    vias: Vec<String>,
    top_via: Option<Via>,
    to: Option<To>,
    lines: Lines,
}

#[derive(Clone, Debug)]
struct To {
    text: String,
    has_tag: bool,
}

impl ResponseBuilder {
    /// A response without any header. An empty `reason` stands for the code's registered phrase.
    pub fn new(code: u16, reason: &str) -> ResponseBuilder {
        let code = code.clamp(100, 699);
        let reason = if reason.is_empty() {
            reason_phrase(code)
        } else {
            reason
        };
        let mut status = Lines::default();
        status.clean(format_args!("SIP/2.0 {code} {reason}"));
        ResponseBuilder {
            status: status.text,
            vias: Vec::new(),
            top_via: None,
            to: None,
            lines: Lines {
                text: String::with_capacity(1024),
                body: Vec::new(),
            },
        }
    }

    /// The response to a request, with what RFC 3261 §8.2.6.2 copies: every Via, From, To, Call-ID and CSeq; Timestamp in a
    /// 100.
    pub fn to(request: &Message, code: u16) -> ResponseBuilder {
        let mut builder = ResponseBuilder::new(code, "");
        builder.vias = request.values(HeaderName::Via).map(str::to_owned).collect();
        builder.top_via = Some(request.top_via().clone());
        builder.to = Some(To {
            text: request.to_header().to_owned(),
            has_tag: request.to_tag().is_some(),
        });
        let timestamp = request
            .header(HeaderName::Timestamp)
            .filter(|_| code == 100);
        builder
            .header(HeaderName::From, request.from_header())
            .header(HeaderName::CallId, request.call_id())
            .header(
                HeaderName::CSeq,
                request.header(HeaderName::CSeq).unwrap_or_default(),
            )
            .maybe(HeaderName::Timestamp, timestamp)
    }

    /// The response to a request that could not be parsed, as far as it could be read.
    pub fn to_hint(request: &ResponseHint, code: u16) -> ResponseBuilder {
        let mut builder = ResponseBuilder::new(code, "");
        builder.vias = request
            .vias
            .iter()
            .flat_map(|line| split_list(line))
            .map(str::to_owned)
            .collect();
        builder.top_via = builder.vias.first().and_then(|via| Via::parse(via).ok());
        builder.to = Some(To {
            text: request.to.clone(),
            // What cannot be parsed gets no tag put to it.
            has_tag: NameAddr::parse(&request.to).map_or(true, |to| to.params.contains("tag")),
        });
        builder
            .header(HeaderName::From, &request.from)
            .header(HeaderName::CallId, &request.call_id)
            .header(HeaderName::CSeq, &request.cseq)
    }

    /// Says behind the status code's phrase what is wrong with the request (RFC 3261 §21.4.1). `fault`: words of ours, none of the
    /// peer's. Characters that a Reason-Phrase has to escape (§25.1) become dashes.
    pub fn because(mut self, fault: &str) -> Self {
        self.status.push_str(": ");
        let allowed = |c: char| c.is_ascii_alphanumeric() || " ;/?:@&=+$,-_.!~*'()".contains(c);
        let escaped = fault.chars().map(|c| if allowed(c) { c } else { '-' });
        self.status.extend(escaped);
        self
    }

    /// Puts a tag to the copied To when it has none (RFC 3261 §8.2.6.2).
    pub fn to_tag(mut self, tag: &str) -> Self {
        if let Some(to) = self.to.as_mut().filter(|to| !to.has_tag) {
            to.text.push_str(";tag=");
            to.text.push_str(tag);
            to.has_tag = true;
        }
        self
    }

    /// Notes in the top Via where the request came from ([`Via::stamp`]).
    pub fn received_from(mut self, source: SocketAddr) -> Self {
        if let (Some(via), Some(line)) = (self.top_via.as_mut(), self.vias.first_mut()) {
            via.stamp(source);
            *line = via.to_string();
        }
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
    pub fn build(self) -> Bytes {
        let mut all = Lines {
            text: String::with_capacity(self.lines.text.len() + 512),
            body: self.lines.body,
        };
        all.text.push_str(&self.status);
        all.text.push_str("\r\n");
        for via in &self.vias {
            all.push(HeaderName::Via.as_str(), via);
        }
        if let Some(to) = &self.to {
            all.push(HeaderName::To.as_str(), &to.text);
        }
        all.text.push_str(&self.lines.text);
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
        assert_eq!(&request.body()[..], b"v=0\r\n");

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
