//! SIP, SIPS and tel URIs.
//!
//! Parsing is strict where two parsers could disagree about the host: exactly one `@` at most, no escapes in hosts, no
//! parameter or header twice. Policy decides on the parsed value, and only a value rebuilt from it is ever sent, so a router
//! behind the edge sees what the policy saw.

use crate::sip::grammar::{byte_kind, is_unreserved, percent_decode, percent_encode, split_once};
pub use crate::sip::host::{Host, HostError};
use crate::sip::host::{parse_port, split_host_port};
pub use crate::sip::params::{ParamError, Params};
use compact_str::CompactString;
use core::fmt;
use core::str::FromStr;

/// What is wrong with a URI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UriError {
    #[error("there is no scheme")]
    Scheme,
    #[error("it holds a character that must be escaped")]
    Character,
    #[error("it has more than one @")]
    SecondAt,
    #[error("the user part is empty, badly escaped or holds a character that is not allowed there")]
    User,
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("{0}")]
    Param(#[from] ParamError),
    #[error("an embedded header is not name=value, badly escaped, or one of too many")]
    Header,
    #[error("the telephone number is empty or holds something else than digits and separators")]
    Number,
}

/// A URI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Uri {
    Sip(SipUri),
    Tel(TelUri),
    /// Any other scheme (lower case); `rest` is what follows its colon, as received.
    Other {
        scheme: String,
        rest: String,
    },
}

impl Uri {
    /// Parses an absolute URI, which must be nothing but visible ASCII without quotes and angle brackets.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        let (scheme, rest) = split_once(text, b':').ok_or(UriError::Scheme)?;
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            return Err(UriError::Scheme);
        }
        if !rest.bytes().all(is_uri_byte) {
            return Err(UriError::Character);
        }
        if scheme.eq_ignore_ascii_case("sip") {
            SipUri::parse_rest(false, rest).map(Uri::Sip)
        } else if scheme.eq_ignore_ascii_case("sips") {
            SipUri::parse_rest(true, rest).map(Uri::Sip)
        } else if scheme.eq_ignore_ascii_case("tel") {
            TelUri::parse_rest(rest).map(Uri::Tel)
        } else if rest.is_empty() {
            Err(UriError::Character)
        } else {
            Ok(Uri::Other {
                scheme: scheme.to_ascii_lowercase(),
                rest: rest.to_owned(),
            })
        }
    }

    /// Lower case: `sip`, `sips`, `tel`, ...
    pub fn scheme(&self) -> &str {
        match self {
            Uri::Sip(uri) => uri.scheme(),
            Uri::Tel(_) => "tel",
            Uri::Other { scheme, .. } => scheme,
        }
    }

    /// The SIP or SIPS URI, if it is one.
    pub fn as_sip(&self) -> Option<&SipUri> {
        match self {
            Uri::Sip(uri) => Some(uri),
            _ => None,
        }
    }

    /// The tel URI, if it is one.
    pub fn as_tel(&self) -> Option<&TelUri> {
        match self {
            Uri::Tel(uri) => Some(uri),
            _ => None,
        }
    }

    /// Whether two URIs mean the same (RFC 3261 §19.1.4, RFC 3966 §4; other schemes byte by byte).
    pub fn equivalent(&self, other: &Uri) -> bool {
        match (self, other) {
            (Uri::Sip(a), Uri::Sip(b)) => a.equivalent(b),
            (Uri::Tel(a), Uri::Tel(b)) => a.equivalent(b),
            _ => self == other,
        }
    }

    /// Whether an unescaped component holds a control character, CR and LF among them.
    pub fn contains_control(&self) -> bool {
        match self {
            Uri::Sip(uri) => uri.contains_control(),
            Uri::Tel(uri) => params_contain_control(&uri.params),
            Uri::Other { .. } => false,
        }
    }
}

impl FromStr for Uri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Uri, UriError> {
        Uri::parse(text)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::Sip(uri) => uri.fmt(f),
            Uri::Tel(uri) => uri.fmt(f),
            Uri::Other { scheme, rest } => write!(f, "{scheme}:{rest}"),
        }
    }
}

/// A `sip:` or `sips:` URI (RFC 3261 §19.1.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SipUri {
    pub sips: bool,
    /// Unescaped; never empty.
    pub user: Option<CompactString>,
    /// Unescaped. Only present behind a user.
    pub password: Option<CompactString>,
    pub host: Host,
    pub port: Option<u16>,
    pub params: Params,
    /// Embedded headers, unescaped: a value may hold CR, LF or anything else ([`SipUri::contains_control`]).
    pub headers: Vec<(String, String)>,
}

byte_kind! {
    /// What any part of a URI may be written with.
    fn is_uri_byte(byte) {
        byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>')
    }
}

byte_kind! {
    /// What a user part may hold unescaped besides `unreserved`. `#` is not in the grammar, yet service codes (`*98#`) arrive
    /// with it, and it cannot move the host; it leaves escaped.
    fn is_user_byte(byte) {
        is_unreserved(byte)
            || matches!(
                byte,
                b'&' | b'=' | b'+' | b'$' | b',' | b';' | b'?' | b'/' | b'#'
            )
    }
}

const fn is_password_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'&' | b'=' | b'+' | b'$' | b',')
}

/// What an embedded header may hold unescaped besides `unreserved`. `=` in values is not in the grammar, yet base64 padding
/// arrives with it; it leaves escaped.
const fn is_header_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'[' | b']' | b'/' | b'?' | b':' | b'+' | b'$')
}

impl SipUri {
    /// The most embedded headers.
    pub const MAX_HEADERS: usize = 64;

    /// A URI with nothing but a host.
    pub fn new(host: Host) -> SipUri {
        SipUri {
            sips: false,
            user: None,
            password: None,
            host,
            port: None,
            params: Params::new(),
            headers: Vec::new(),
        }
    }

    fn parse_rest(sips: bool, rest: &str) -> Result<SipUri, UriError> {
        // The grammar allows ; and ? in the user part but no @ anywhere, so one @ is the only reading.
        let (userinfo, rest) = match split_once(rest, b'@') {
            Some((_, rest)) if split_once(rest, b'@').is_some() => return Err(UriError::SecondAt),
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, rest),
        };
        let (user, password) = match userinfo {
            Some(userinfo) => parse_userinfo(userinfo)?,
            None => (None, None),
        };
        let (rest, headers) = match split_once(rest, b'?') {
            Some((rest, headers)) => (rest, parse_headers(headers)?),
            None => (rest, Vec::new()),
        };
        let (host_port, params) = match split_once(rest, b';') {
            Some((host_port, params)) => (host_port, Params::parse_uri(params)?),
            None => (rest, Params::new()),
        };
        let (host, port) = split_host_port(host_port);
        Ok(SipUri {
            sips,
            user,
            password,
            host: Host::parse(host)?,
            port: port.map(parse_port).transpose()?,
            params,
            headers,
        })
    }

    /// `sip` or `sips`.
    pub fn scheme(&self) -> &'static str {
        if self.sips { "sips" } else { "sip" }
    }

    /// The value of a parameter: `Some(None)` for one without a value.
    pub fn param(&self, name: &str) -> Option<Option<&str>> {
        self.params.get(name)
    }

    /// The `transport` parameter as received.
    pub fn transport(&self) -> Option<&str> {
        self.params.value("transport")
    }

    /// Whether the `lr` parameter is there (loose routing, RFC 3261 §19.1.1).
    pub fn lr(&self) -> bool {
        self.params.contains("lr")
    }

    /// The `maddr` parameter: where a router would go instead of the host.
    pub fn maddr(&self) -> Option<&str> {
        self.params.value("maddr")
    }

    /// The first embedded header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether an unescaped component holds a control character, CR and LF among them: nothing of such a URI may be copied
    /// into a header.
    pub fn contains_control(&self) -> bool {
        let control = |text: &str| text.chars().any(char::is_control);
        self.user.as_deref().is_some_and(control)
            || self.password.as_deref().is_some_and(control)
            || params_contain_control(&self.params)
            || self.headers.iter().any(|(n, v)| control(n) || control(v))
    }

    /// Whether two URIs mean the same (RFC 3261 §19.1.4). Not transitive: an unknown parameter in one only is ignored.
    pub fn equivalent(&self, other: &SipUri) -> bool {
        self.sips == other.sips
            && self.user == other.user
            && self.password == other.password
            && self.host == other.host
            && self.port == other.port
            && self.params_match(other)
            && other.params_match(self)
            && self.headers_match(other)
            && other.headers_match(self)
    }

    fn params_match(&self, other: &SipUri) -> bool {
        self.params
            .iter()
            .all(|(name, value)| match other.params.get(name) {
                Some(theirs) => match (value, theirs) {
                    (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
                    (a, b) => a == b,
                },
                None => !["user", "ttl", "method", "maddr", "transport"]
                    .iter()
                    .any(|decisive| decisive.eq_ignore_ascii_case(name)),
            })
    }

    fn headers_match(&self, other: &SipUri) -> bool {
        self.headers.len() == other.headers.len()
            && self.headers.iter().all(|(name, value)| {
                other
                    .headers
                    .iter()
                    .any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value)
            })
    }
}

fn params_contain_control(params: &Params) -> bool {
    params.iter().any(|(name, value)| {
        name.chars()
            .chain(value.unwrap_or("").chars())
            .any(char::is_control)
    })
}

type Userinfo = (Option<CompactString>, Option<CompactString>);

fn parse_userinfo(userinfo: &str) -> Result<Userinfo, UriError> {
    let (user, password) = match split_once(userinfo, b':') {
        Some((user, password)) => (user, Some(password)),
        None => (userinfo, None),
    };
    if user.is_empty() {
        return Err(UriError::User);
    }
    let user = percent_decode(user, is_user_byte).ok_or(UriError::User)?;
    let password = match password {
        Some(password) => Some(percent_decode(password, is_password_byte).ok_or(UriError::User)?),
        None => None,
    };
    Ok((Some(user), password))
}

fn parse_headers(text: &str) -> Result<Vec<(String, String)>, UriError> {
    let mut headers = Vec::new();
    for item in text.split('&') {
        let (name, value) = split_once(item, b'=').ok_or(UriError::Header)?;
        let name = percent_decode(name, is_header_byte).ok_or(UriError::Header)?;
        let value = percent_decode(value, |byte| is_header_byte(byte) || byte == b'=')
            .ok_or(UriError::Header)?;
        if name.is_empty() || headers.len() >= SipUri::MAX_HEADERS {
            return Err(UriError::Header);
        }
        headers.push((name.into(), value.into()));
    }
    Ok(headers)
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme())?;
        if let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) {
            percent_encode(f, user, |byte| byte != b'#' && is_user_byte(byte))?;
            if let Some(password) = &self.password {
                f.write_str(":")?;
                percent_encode(f, password, is_password_byte)?;
            }
            f.write_str("@")?;
        }
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.params.write_uri(f)?;
        let named = self.headers.iter().filter(|(name, _)| !name.is_empty());
        for (index, (name, value)) in named.enumerate() {
            f.write_str(if index == 0 { "?" } else { "&" })?;
            percent_encode(f, name, is_header_byte)?;
            f.write_str("=")?;
            percent_encode(f, value, is_header_byte)?;
        }
        Ok(())
    }
}

impl From<SipUri> for Uri {
    fn from(uri: SipUri) -> Uri {
        Uri::Sip(uri)
    }
}

impl From<TelUri> for Uri {
    fn from(uri: TelUri) -> Uri {
        Uri::Tel(uri)
    }
}

/// A `tel:` URI (RFC 3966).
///
/// A local number should carry `phone-context`; one without is taken all the same, since short codes arrive that way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TelUri {
    /// Visual separators removed, letters upper case; global numbers start with `+`.
    pub number: String,
    pub params: Params,
}

impl TelUri {
    fn parse_rest(rest: &str) -> Result<TelUri, UriError> {
        let (number, params) = match split_once(rest, b';') {
            Some((number, params)) => (number, Params::parse_uri(params)?),
            None => (rest, Params::new()),
        };
        let (global, digits) = match number.strip_prefix('+') {
            Some(digits) => (true, digits),
            None => (false, number),
        };
        let mut plain = String::with_capacity(number.len());
        if global {
            plain.push('+');
        }
        let mut any = false;
        for byte in digits.bytes() {
            match byte {
                b'-' | b'.' | b'(' | b')' => continue,
                b'0'..=b'9' => {}
                b'a'..=b'f' | b'A'..=b'F' | b'*' | b'#' if !global => {}
                _ => return Err(UriError::Number),
            }
            any = true;
            plain.push(char::from(byte.to_ascii_uppercase()));
        }
        if any {
            Ok(TelUri {
                number: plain,
                params,
            })
        } else {
            Err(UriError::Number)
        }
    }

    /// Whether the number is in international form.
    pub fn is_global(&self) -> bool {
        self.number.starts_with('+')
    }

    /// RFC 3966 §4: same number, same parameters in any order.
    pub fn equivalent(&self, other: &TelUri) -> bool {
        let covers = |a: &TelUri, b: &TelUri| {
            a.params
                .iter()
                .all(|(name, value)| match (value, b.params.get(name)) {
                    (Some(a), Some(Some(b))) => a.eq_ignore_ascii_case(b),
                    (None, Some(None)) => true,
                    _ => false,
                })
        };
        self.number == other.number && covers(self, other) && covers(other, self)
    }
}

impl fmt::Display for TelUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tel:")?;
        // The fields are public: whatever was put there, only a number leaves.
        self.number
            .chars()
            .filter(|c| c.is_ascii_hexdigit() || matches!(c, '+' | '*' | '#'))
            .try_for_each(|c| fmt::Write::write_char(f, c))?;
        self.params.write_uri(f)
    }
}

#[cfg(test)]
mod tests;
