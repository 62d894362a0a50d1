//! What is wrong with a message, and what can still be answered.

use crate::sip::framer::head_end;
use crate::sip::header::{CSeqError, HeaderName};
use crate::sip::name_addr::NameAddrError;
use crate::sip::uri::UriError;
use crate::sip::via::ViaError;

/// A message that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct MessageError {
    pub fault: MessageFault,
    /// What a response needs; `None` for responses, for ACK, and where the mandatory headers could not be read.
    pub response_hint: Option<Box<ResponseHint>>,
}

impl MessageError {
    /// The status to answer a request with.
    pub fn status(&self) -> u16 {
        self.fault.status()
    }
}

/// The peer's fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageFault {
    #[error("the message is larger than allowed")]
    TooLarge,
    #[error("the headers do not end")]
    Unfinished,
    #[error("a line ends with CR or LF alone")]
    BareLineBreak,
    #[error("a control character in the headers")]
    ControlCharacter,
    #[error("the headers are not UTF-8")]
    NotUtf8,
    #[error("the start line is neither a request nor a status line")]
    StartLine,
    #[error("the SIP version is not 2.0")]
    Version,
    #[error("the status code is not between 100 and 699")]
    StatusCode,
    #[error("the Request-URI is wrong: {0}")]
    RequestUri(UriError),
    #[error("the Request-URI carries headers")]
    RequestUriHeaders,
    #[error("a header line is not name: value")]
    HeaderLine,
    #[error("a header line is longer than allowed")]
    LineTooLong,
    #[error("more header lines than allowed")]
    TooManyHeaders,
    #[error("more Via values than allowed")]
    TooManyVias,
    #[error("{0} is missing")]
    Missing(HeaderName),
    #[error("{0} appears more than once")]
    Repeated(HeaderName),
    #[error("Via is wrong: {0}")]
    Via(ViaError),
    #[error("From is wrong: {0}")]
    From(NameAddrError),
    #[error("To is wrong: {0}")]
    To(NameAddrError),
    #[error("Call-ID is empty or holds white space")]
    CallId,
    #[error("CSeq is wrong: {0}")]
    CSeq(CSeqError),
    #[error("the method of CSeq is not that of the request")]
    CSeqMethod,
    #[error("the method of CSeq is not that of the request, which is unknown here")]
    CSeqUnknownMethod,
    #[error("Max-Forwards is not a number from 0 to 255")]
    MaxForwards,
    #[error("Content-Length is not a number")]
    ContentLength,
    #[error("the body is shorter than Content-Length says")]
    BodyTruncated,
}

impl MessageFault {
    /// The status to answer a request with.
    pub const fn status(&self) -> u16 {
        match self {
            MessageFault::TooLarge => 513,
            MessageFault::Version => 505,
            // A future method may have rules for CSeq that are not known yet (RFC 4475 §3.1.2.18).
            MessageFault::CSeqUnknownMethod => 501,
            MessageFault::TooManyVias => 483,
            _ => 400,
        }
    }
}

/// The header values that a response copies (RFC 3261 §8.2.6.2), read leniently from a request that is otherwise wrong.
/// Raw text: only [`crate::sip::ResponseBuilder`] may put it on a wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHint {
    pub method: String,
    /// Whole Via lines, in order.
    pub vias: Vec<String>,
    pub from: String,
    pub to: String,
    pub call_id: String,
    pub cseq: String,
}

impl ResponseHint {
    /// Reads the start of a request. `None` when it is a response or ACK, or lacks one of the headers.
    pub fn read(message: &[u8]) -> Option<ResponseHint> {
        let head = match head_end(message) {
            Some(end) => message.get(..end)?,
            None => message,
        };
        let text = String::from_utf8_lossy(head)
            .replace("\r\n ", "   ")
            .replace("\r\n\t", "   ");
        let mut lines = text.split("\r\n");
        let method = lines.next()?.split([' ', '\t']).next()?;
        let is_status_line = method
            .split_at_checked(4)
            .is_some_and(|(start, _)| start.eq_ignore_ascii_case("SIP/"));
        if method.is_empty() || is_status_line || method == "ACK" {
            return None;
        }
        let mut vias = Vec::new();
        let mut first = [const { None }; 4];
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim().to_owned();
            let slot = match HeaderName::parse(name.trim_end()) {
                Some(HeaderName::Via) => {
                    vias.push(value);
                    continue;
                }
                Some(HeaderName::From) => 0,
                Some(HeaderName::To) => 1,
                Some(HeaderName::CallId) => 2,
                Some(HeaderName::CSeq) => 3,
                _ => continue,
            };
            if let Some(slot) = first.get_mut(slot) {
                slot.get_or_insert(value);
            }
        }
        let [Some(from), Some(to), Some(call_id), Some(cseq)] = first else {
            return None;
        };
        (!vias.is_empty()).then(|| ResponseHint {
            method: method.to_owned(),
            vias,
            from,
            to,
            call_id,
            cseq,
        })
    }
}
