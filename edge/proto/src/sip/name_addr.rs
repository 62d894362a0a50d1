//! `name-addr` and `addr-spec` values: From, To, Contact, Refer-To, Referred-By, Route, Record-Route.

use crate::sip::grammar::{
    is_token, quoted_string, split_list, split_once, trim, trim_start, write_quoted,
};
use crate::sip::params::{ParamError, Params};
use crate::sip::uri::{SipUri, Uri, UriError};
use compact_str::{CompactString, ToCompactString as _};
use core::fmt;
use core::str::FromStr;

/// What is wrong with a name-addr.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameAddrError {
    #[error("the display name is badly quoted or holds a character that must be quoted")]
    DisplayName,
    #[error("the angle brackets are unbalanced or hold white space")]
    Brackets,
    #[error("a URI with a comma or question mark must be in angle brackets")]
    BareUri,
    #[error("the URI is wrong: {0}")]
    Uri(#[from] UriError),
    #[error("a header parameter is wrong: {0}")]
    Param(#[from] ParamError),
}

/// `[display-name] <URI> *(;param)`, or a bare `URI *(;param)` in which every parameter is the header's (RFC 3261 §20).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameAddr {
    /// Unquoted.
    pub display: Option<CompactString>,
    pub uri: Uri,
    /// The URI as received. [`fmt::Display`] writes `uri`, not this.
    pub uri_text: CompactString,
    /// Header parameters.
    pub params: Params,
}

impl NameAddr {
    /// Without a display name and parameters.
    pub fn new(uri: impl Into<Uri>) -> NameAddr {
        let uri = uri.into();
        NameAddr {
            display: None,
            uri_text: uri.to_compact_string(),
            uri,
            params: Params::new(),
        }
    }

    /// Parses one value.
    pub fn parse(text: &str) -> Result<NameAddr, NameAddrError> {
        let text = trim(text);
        if text.starts_with('"') {
            let (display, rest) = quoted_string(text).ok_or(NameAddrError::DisplayName)?;
            return Self::parse_bracketed(Some(display), trim_start(rest));
        }
        match split_once(text, b'<') {
            Some((display, _)) => {
                let rest = text.strip_prefix(display).unwrap_or_default();
                let display = trim(display);
                if !display.bytes().all(is_display_byte) {
                    return Err(NameAddrError::DisplayName);
                }
                let display = (!display.is_empty()).then(|| display.into());
                Self::parse_bracketed(display, rest)
            }
            None => Self::parse_bare(text),
        }
    }

    /// Parses every value of a comma-separated header line.
    pub fn parse_list(text: &str) -> impl Iterator<Item = Result<NameAddr, NameAddrError>> {
        split_list(text).map(NameAddr::parse)
    }

    fn parse_bracketed(
        display: Option<CompactString>,
        text: &str,
    ) -> Result<NameAddr, NameAddrError> {
        let (uri_text, rest) = text
            .strip_prefix('<')
            .and_then(|inner| split_once(inner, b'>'))
            .ok_or(NameAddrError::Brackets)?;
        if uri_text.bytes().any(|b| matches!(b, b' ' | b'\t')) {
            return Err(NameAddrError::Brackets);
        }
        Ok(NameAddr {
            display,
            uri: Uri::parse(uri_text)?,
            uri_text: uri_text.into(),
            params: Params::parse_header(rest)?,
        })
    }

    fn parse_bare(text: &str) -> Result<NameAddr, NameAddrError> {
        let (uri_text, params) = match text.find(';').and_then(|at| text.split_at_checked(at)) {
            Some((uri, params)) => (trim(uri), params),
            None => (text, ""),
        };
        if uri_text.contains([',', '?']) {
            return Err(NameAddrError::BareUri);
        }
        Ok(NameAddr {
            display: None,
            uri: Uri::parse(uri_text)?,
            uri_text: uri_text.into(),
            params: Params::parse_header(params)?,
        })
    }

    /// The `tag` parameter.
    pub fn tag(&self) -> Option<&str> {
        self.params.value("tag")
    }

    /// The URI, when it is SIP or SIPS.
    pub fn sip(&self) -> Option<&SipUri> {
        self.uri.as_sip()
    }
}

/// What an unquoted display name may hold. The grammar has tokens and spaces only; callers' names arrive with more. Left out
/// is everything that could make another parser find an address or a list item in it.
const fn is_display_byte(byte: u8) -> bool {
    !byte.is_ascii_control()
        && !matches!(byte, b'"' | b',' | b';' | b':' | b'@' | b'<' | b'>' | b'\\')
        || byte == b'\t'
}

impl FromStr for NameAddr {
    type Err = NameAddrError;
    fn from_str(text: &str) -> Result<NameAddr, NameAddrError> {
        NameAddr::parse(text)
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = &self.display {
            if is_token(display) {
                f.write_str(display)?;
            } else {
                write_quoted(f, display)?;
            }
            f.write_str(" ")?;
        }
        write!(f, "<{}>", self.uri)?;
        self.params.write_header(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NameAddr {
        NameAddr::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn forms() {
        let a = parse(" \"A. \\\"G\\\" <x@y>, Bell\" <sip:agb@example.net;lr>;Tag=a48s ; x");
        assert_eq!(a.display.as_deref(), Some("A. \"G\" <x@y>, Bell"));
        assert_eq!(a.uri_text, "sip:agb@example.net;lr");
        assert!(a.sip().unwrap().lr());
        assert_eq!(a.tag(), Some("a48s"));
        assert_eq!(
            a.to_string(),
            "\"A. \\\"G\\\" <x@y>, Bell\" <sip:agb@example.net;lr>;Tag=a48s;x"
        );
        assert_eq!(parse("caller<sip:a@h>").to_string(), "caller <sip:a@h>");
        assert_eq!(
            parse("Jos\u{e9} (home) <sip:a@h>").to_string(),
            "\"Jos\u{e9} (home)\" <sip:a@h>"
        );
        assert_eq!(parse("\"\"<sip:a@h>").display.as_deref(), Some(""));
        assert_eq!(parse("<tel:+1-2>").uri.to_string(), "tel:+12");
    }

    #[test]
    fn parameters_of_a_bare_uri_belong_to_the_header() {
        let a = parse("sip:a@h;tag=x;lr");
        assert_eq!((a.tag(), a.sip().unwrap().lr()), (Some("x"), false));
        assert_eq!(a.to_string(), "<sip:a@h>;tag=x;lr");
        let a = parse("<sip:a;x=y@h;lr>;tag=x");
        assert_eq!((a.tag(), a.sip().unwrap().lr()), (Some("x"), true));
        assert_eq!(a.sip().unwrap().user.as_deref(), Some("a;x=y"));
    }

    #[test]
    fn refused() {
        for (text, error) in [
            ("<>", NameAddrError::Uri(UriError::Scheme)),
            ("", NameAddrError::Uri(UriError::Scheme)),
            ("*", NameAddrError::Uri(UriError::Scheme)),
            ("\"a <sip:a@h>", NameAddrError::DisplayName),
            ("\"a\" sip:a@h", NameAddrError::Brackets),
            ("<sip:a@h", NameAddrError::Brackets),
            ("< sip:a@h>", NameAddrError::Brackets),
            ("<sip:a@h >", NameAddrError::Brackets),
            ("Bell, A <sip:a@h>", NameAddrError::DisplayName),
            ("sip:evil@x <sip:a@h>", NameAddrError::DisplayName),
            ("a\0b <sip:a@h>", NameAddrError::DisplayName),
            (
                "<sip:a@h><sip:b@h>",
                NameAddrError::Param(ParamError::Trailing),
            ),
            (
                "<sip:a@h>, <sip:b@h>",
                NameAddrError::Param(ParamError::Trailing),
            ),
            ("<sip:a@h>x", NameAddrError::Param(ParamError::Trailing)),
            (
                "<sip:a@h>;tag=a;tag=b",
                NameAddrError::Param(ParamError::Duplicate),
            ),
            (
                "<sip:x@evil;p=@127.0.0.4>",
                NameAddrError::Uri(UriError::SecondAt),
            ),
            (
                "sip:x@evil;p=@127.0.0.4",
                NameAddrError::Param(ParamError::Value),
            ),
            ("sip:a@h?x=y", NameAddrError::BareUri),
            ("sip:a@h, sip:b@h", NameAddrError::BareUri),
            ("sip:a@h\r\nX: y", NameAddrError::Uri(UriError::Character)),
        ] {
            assert_eq!(NameAddr::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn lists() {
        let hosts: Vec<_> = NameAddr::parse_list("\"x, y\" <sip:a@h;lr>, <sip:b@i;lr>")
            .map(|item| item.unwrap().sip().unwrap().host.to_string())
            .collect();
        assert_eq!(hosts, ["h", "i"]);
    }
}
