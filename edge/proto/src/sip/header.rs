//! Header field names, and the one tiny typed value that every message carries ([`CSeq`]).

use crate::sip::grammar::{is_token, trim, trim_start};
use crate::sip::method::Method;
use core::fmt;
use core::str::FromStr;

macro_rules! header_names {
    ($($variant:ident $canonical:literal $lower:literal $(/ $compact:literal)?;)*) => {
        /// A header field that this crate knows by name. Others are reached by [`crate::sip::Message::named`].
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum HeaderName {
            $(#[doc = $canonical] $variant,)*
        }

        impl HeaderName {
            /// Every known name.
            pub const ALL: &'static [HeaderName] = &[$(HeaderName::$variant,)*];

            /// The canonical spelling.
            pub const fn as_str(self) -> &'static str {
                match self { $(HeaderName::$variant => $canonical,)* }
            }

            /// The one-letter form (RFC 3261 §7.3.3 and extensions).
            pub const fn compact(self) -> Option<char> {
                match self { $($(HeaderName::$variant => Some($compact),)?)* _ => None }
            }

            fn from_lower(lower: &str) -> Option<HeaderName> {
                match lower { $($lower => Some(HeaderName::$variant),)* _ => None }
            }

            fn from_compact(letter: char) -> Option<HeaderName> {
                match letter { $($($compact => Some(HeaderName::$variant),)?)* _ => None }
            }
        }
    };
}

header_names! {
    Accept "Accept" "accept";
    AcceptContact "Accept-Contact" "accept-contact" / 'a';
    AcceptEncoding "Accept-Encoding" "accept-encoding";
    AcceptLanguage "Accept-Language" "accept-language";
    AlertInfo "Alert-Info" "alert-info";
    Allow "Allow" "allow";
    AllowEvents "Allow-Events" "allow-events" / 'u';
    AuthenticationInfo "Authentication-Info" "authentication-info";
    Authorization "Authorization" "authorization";
    CSeq "CSeq" "cseq";
    CallId "Call-ID" "call-id" / 'i';
    CallInfo "Call-Info" "call-info";
    Contact "Contact" "contact" / 'm';
    ContentDisposition "Content-Disposition" "content-disposition";
    ContentEncoding "Content-Encoding" "content-encoding" / 'e';
    ContentLanguage "Content-Language" "content-language";
    ContentLength "Content-Length" "content-length" / 'l';
    ContentType "Content-Type" "content-type" / 'c';
    Date "Date" "date";
    Diversion "Diversion" "diversion";
    ErrorInfo "Error-Info" "error-info";
    Event "Event" "event" / 'o';
    Expires "Expires" "expires";
    From "From" "from" / 'f';
    HistoryInfo "History-Info" "history-info";
    Identity "Identity" "identity" / 'y';
    InReplyTo "In-Reply-To" "in-reply-to";
    Join "Join" "join";
    MaxForwards "Max-Forwards" "max-forwards";
    MimeVersion "MIME-Version" "mime-version";
    MinExpires "Min-Expires" "min-expires";
    MinSe "Min-SE" "min-se";
    Organization "Organization" "organization";
    PAssertedIdentity "P-Asserted-Identity" "p-asserted-identity";
    PPreferredIdentity "P-Preferred-Identity" "p-preferred-identity";
    Path "Path" "path";
    Priority "Priority" "priority";
    Privacy "Privacy" "privacy";
    ProxyAuthenticate "Proxy-Authenticate" "proxy-authenticate";
    ProxyAuthorization "Proxy-Authorization" "proxy-authorization";
    ProxyRequire "Proxy-Require" "proxy-require";
    RAck "RAck" "rack";
    RSeq "RSeq" "rseq";
    Reason "Reason" "reason";
    RecordRoute "Record-Route" "record-route";
    ReferSub "Refer-Sub" "refer-sub";
    ReferTo "Refer-To" "refer-to" / 'r';
    ReferredBy "Referred-By" "referred-by" / 'b';
    RejectContact "Reject-Contact" "reject-contact" / 'j';
    RemotePartyId "Remote-Party-ID" "remote-party-id";
    Replaces "Replaces" "replaces";
    ReplyTo "Reply-To" "reply-to";
    RequestDisposition "Request-Disposition" "request-disposition" / 'd';
    Require "Require" "require";
    RetryAfter "Retry-After" "retry-after";
    Route "Route" "route";
    Server "Server" "server";
    SessionExpires "Session-Expires" "session-expires" / 'x';
    SipETag "SIP-ETag" "sip-etag";
    SipIfMatch "SIP-If-Match" "sip-if-match";
    Subject "Subject" "subject" / 's';
    SubscriptionState "Subscription-State" "subscription-state";
    Supported "Supported" "supported" / 'k';
    TargetDialog "Target-Dialog" "target-dialog";
    Timestamp "Timestamp" "timestamp";
    To "To" "to" / 't';
    Unsupported "Unsupported" "unsupported";
    UserAgent "User-Agent" "user-agent";
    UserToUser "User-to-User" "user-to-user";
    Via "Via" "via" / 'v';
    Warning "Warning" "warning";
    WwwAuthenticate "WWW-Authenticate" "www-authenticate";
}

/// Longer than every known name.
const LONGEST: usize = 24;

impl HeaderName {
    /// The known header that `name` spells, in any case, in full or compact form.
    pub fn parse(name: &str) -> Option<HeaderName> {
        let bytes = name.as_bytes();
        if let [letter] = bytes {
            return Self::from_compact(char::from(letter.to_ascii_lowercase()));
        }
        let mut buffer = [0; LONGEST];
        let lower = buffer.get_mut(..bytes.len())?;
        lower.copy_from_slice(bytes);
        lower.make_ascii_lowercase();
        Self::from_lower(core::str::from_utf8(lower).ok()?)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A `CSeq` value (RFC 3261 §20.16).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CSeq {
    /// Below 2^31 (§8.1.1.5).
    pub number: u32,
    pub method: Method,
}

/// What is wrong with a `CSeq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CSeqError {
    #[error("not a number followed by a method")]
    Shape,
    #[error("the number is 2147483648 or more")]
    Range,
    #[error("the method is not a token")]
    Method,
}

impl CSeq {
    /// Exclusive upper bound of the number.
    pub const LIMIT: u32 = 1 << 31;

    /// Parses `number LWS method`.
    pub fn parse(text: &str) -> Result<CSeq, CSeqError> {
        let text = trim(text);
        let (number, method) = text.split_once([' ', '\t']).ok_or(CSeqError::Shape)?;
        let method = trim_start(method);
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CSeqError::Shape);
        }
        if !is_token(method) {
            return Err(CSeqError::Method);
        }
        match number.parse() {
            Ok(number) if number < Self::LIMIT => Ok(CSeq {
                number,
                method: Method::from_token(method),
            }),
            _ => Err(CSeqError::Range),
        }
    }
}

impl FromStr for CSeq {
    type Err = CSeqError;
    fn from_str(text: &str) -> Result<CSeq, CSeqError> {
        CSeq::parse(text)
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_in_any_case_and_in_compact_form() {
        for &name in HeaderName::ALL {
            let text = name.as_str();
            assert!(text.len() <= LONGEST);
            assert_eq!(HeaderName::parse(text), Some(name));
            assert_eq!(HeaderName::parse(&text.to_lowercase()), Some(name));
            assert_eq!(HeaderName::parse(&text.to_uppercase()), Some(name));
            if let Some(letter) = name.compact() {
                assert_eq!(HeaderName::parse(&letter.to_string()), Some(name));
                let upper = letter.to_ascii_uppercase().to_string();
                assert_eq!(HeaderName::parse(&upper), Some(name));
            }
        }
        for unknown in ["", "q", "X-Via", "Viaa", "Vi", "é", &"x".repeat(500)] {
            assert_eq!(HeaderName::parse(unknown), None);
        }
    }

    #[test]
    fn cseq_keeps_its_range_and_shape() {
        let cseq = CSeq::parse("0009\t INVITE").unwrap();
        assert_eq!((cseq.number, &cseq.method), (9, &Method::Invite));
        assert_eq!(cseq.to_string(), "9 INVITE");
        assert_eq!(CSeq::parse("2147483647 ACK").unwrap().number, 2147483647);
        for (text, error) in [
            ("2147483648 ACK", CSeqError::Range),
            ("36893488147419103232 REGISTER", CSeqError::Range),
            ("-1 ACK", CSeqError::Shape),
            ("+1 ACK", CSeqError::Shape),
            ("1", CSeqError::Shape),
            ("", CSeqError::Shape),
            ("1 IN VITE", CSeqError::Method),
            ("1 INVITE,", CSeqError::Method),
        ] {
            assert_eq!(CSeq::parse(text), Err(error), "{text}");
        }
    }
}
