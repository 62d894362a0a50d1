//! SIP as the peers read it: a reader of its own, strict about what the edge writes, so that a mistake that the edge's parser
//! and builder share shows.

use bytes::Bytes;
use std::fmt;

/// A message, in the spelling it was sent in.
#[derive(Clone)]
pub struct Sip {
    pub raw: Bytes,
    pub start: Start,
    /// Names in lower case, compact forms expanded.
    headers: Vec<(String, String)>,
    pub body: String,
}

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    Request { method: String, uri: String },
    Response { code: u16 },
}

const COMPACT: &[(&str, &str)] = &[
    ("v", "via"),
    ("f", "from"),
    ("t", "to"),
    ("i", "call-id"),
    ("m", "contact"),
    ("l", "content-length"),
    ("c", "content-type"),
    ("r", "refer-to"),
    ("b", "referred-by"),
    ("o", "event"),
    ("k", "supported"),
];

impl Sip {
    /// Reads exactly one message.
    ///
    /// # Errors
    /// A sentence that says what no careful reader would accept.
    pub fn parse(raw: &Bytes) -> Result<Sip, String> {
        let text = std::str::from_utf8(raw).map_err(|_| "it is not UTF-8".to_owned())?;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or("it has no end of headers")?;
        let mut lines = head.split("\r\n");
        let start = start(lines.next().unwrap_or_default())?;
        let mut headers = Vec::new();
        for line in lines {
            if line.contains(['\r', '\n', '\0']) {
                return Err(format!("a control character is in {line:?}"));
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("{line:?} is no header"))?;
            let name = name.trim_end().to_ascii_lowercase();
            if name.is_empty() || name.contains([' ', '\t', '"', '<']) {
                return Err(format!("{name:?} is no header name"));
            }
            let name = COMPACT
                .iter()
                .find(|(compact, _)| *compact == name)
                .map_or(name, |(_, long)| (*long).to_owned());
            headers.push((name, value.trim().to_owned()));
        }
        let sip = Sip {
            raw: raw.clone(),
            start,
            headers,
            body: body.to_owned(),
        };
        sip.check()?;
        Ok(sip)
    }

    /// What RFC 3261 §8.1.1 and §20.14 ask of every message on a stream.
    fn check(&self) -> Result<(), String> {
        for name in ["from", "to", "call-id", "cseq", "content-length"] {
            let count = self.headers(name).count();
            if count != 1 {
                return Err(format!("it has {count} {name} headers"));
            }
        }
        let length = self.header("content-length").parse::<usize>();
        if length != Ok(self.body.len()) {
            return Err(format!(
                "Content-Length is {} and the body has {} bytes",
                self.header("content-length"),
                self.body.len()
            ));
        }
        if self.branch().is_empty() {
            return Err("its Via has no branch".to_owned());
        }
        if self.from_tag().is_empty() {
            return Err("its From has no tag".to_owned());
        }
        let (_, method) = self.cseq();
        match &self.start {
            Start::Request { method: m, .. } if *m != method => {
                Err(format!("a {m} has CSeq {}", self.header("cseq")))
            }
            Start::Request { .. } if self.header("max-forwards").parse::<u8>().is_err() => {
                Err("it has no Max-Forwards".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// All values of a header, given in lower case.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All headers.
    pub fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The first value of a header, empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// A request's method; empty for a response.
    pub fn method(&self) -> &str {
        match &self.start {
            Start::Request { method, .. } => method,
            Start::Response { .. } => "",
        }
    }

    /// A request's Request-URI; empty for a response.
    pub fn uri(&self) -> &str {
        match &self.start {
            Start::Request { uri, .. } => uri,
            Start::Response { .. } => "",
        }
    }

    /// A response's status; 0 for a request.
    pub fn code(&self) -> u16 {
        match self.start {
            Start::Request { .. } => 0,
            Start::Response { code } => code,
        }
    }

    /// Number and method of CSeq.
    pub fn cseq(&self) -> (u32, &str) {
        let (number, method) = self.header("cseq").split_once(' ').unwrap_or_default();
        (number.parse().unwrap_or_default(), method.trim())
    }

    pub fn call_id(&self) -> &str {
        self.header("call-id")
    }

    #[expect(
        clippy::wrong_self_convention,
        reason = "it is the tag of From, as SIP calls it"
    )]
    pub fn from_tag(&self) -> &str {
        parameter_of(self.header("from"), "tag")
    }

    pub fn to_tag(&self) -> &str {
        parameter_of(self.header("to"), "tag")
    }

    /// The branch of the topmost Via.
    pub fn branch(&self) -> &str {
        parameter_of(self.header("via"), "branch")
    }

    /// The URI in Contact.
    pub fn contact(&self) -> &str {
        uri_in(self.header("contact"))
    }

    /// A request that starts a dialog.
    pub fn is_initial_invite(&self) -> bool {
        self.method() == "INVITE" && self.to_tag().is_empty()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

impl fmt::Debug for Sip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())
    }
}

impl Sip {
    /// One line: what it is, and of which dialog.
    pub fn summary(&self) -> String {
        let what = match &self.start {
            Start::Request { method, uri } => format!("{method} {uri}"),
            Start::Response { code } => format!("{code}"),
        };
        let detail = match self.header("event") {
            "" => String::new(),
            event => format!(
                " [{event}; {}; {}]",
                self.header("subscription-state"),
                self.body.lines().next().unwrap_or_default()
            ),
        };
        let refer_to = match self.header("refer-to") {
            "" => String::new(),
            target => format!(" -> {target}"),
        };
        format!(
            "{what} ({}) call {} from-tag {} to-tag {}{detail}{refer_to}",
            self.header("cseq"),
            self.call_id(),
            self.from_tag(),
            self.to_tag()
        )
    }
}

fn start(line: &str) -> Result<Start, String> {
    let mut words = line.splitn(3, ' ');
    let (Some(first), Some(second), Some(third)) = (words.next(), words.next(), words.next())
    else {
        return Err(format!("{line:?} is no start line"));
    };
    if first == "SIP/2.0" {
        let code = second
            .parse()
            .ok()
            .filter(|code| (100..700).contains(code))
            .ok_or_else(|| format!("{second:?} is no status"))?;
        return Ok(Start::Response { code });
    }
    if third != "SIP/2.0" || second.is_empty() {
        return Err(format!("{line:?} is no request line"));
    }
    Ok(Start::Request {
        method: first.to_owned(),
        uri: second.to_owned(),
    })
}

/// The value of a header parameter (behind the URI's angle brackets), empty without one.
pub fn parameter_of<'a>(value: &'a str, name: &str) -> &'a str {
    let behind = value.rsplit_once('>').map_or(value, |(_, rest)| rest);
    behind
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map_or("", |(_, value)| value.trim())
}

/// The URI in a name-addr or addr-spec.
pub fn uri_in(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
        None => value.split(';').next().unwrap_or_default(),
    }
}

/// The user part of a sip: URI, empty without one.
pub fn user_of(uri: &str) -> &str {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    rest.split_once('@').map_or("", |(user, _)| user)
}

/// Host and port of a sip: URI, as written.
pub fn host_of(uri: &str) -> &str {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split([';', '?']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "SIP/2.0 200 OK\r\nv: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKx;rport\r\nFrom: \"A;tag=no\" <sip:a@example.net;tag=no>;tag=yes\r\nTo: <sip:b@example.net>\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\nContent-Length: 2\r\n\r\nhi";

    #[test]
    fn headers_are_read() {
        let sip = Sip::parse(&Bytes::from_static(OK.as_bytes())).unwrap();
        assert_eq!(sip.code(), 200);
        assert_eq!((sip.from_tag(), sip.to_tag()), ("yes", ""));
        assert_eq!(sip.branch(), "z9hG4bKx");
        assert_eq!(sip.cseq(), (7, "INVITE"));
        assert_eq!(sip.body, "hi");
    }

    #[test]
    fn faults_are_named() {
        let fault = |from: &str, to: &str| {
            let text = OK.replace(from, to);
            Sip::parse(&Bytes::from(text)).err().unwrap_or_default()
        };
        assert!(fault("Length: 2", "Length: 3").contains("Content-Length"));
        assert!(fault("Call-ID: c\r\n", "").contains("call-id"));
        assert!(fault(";branch=z9hG4bKx", "").contains("branch"));
        assert!(fault("To: <", "To: \n<").contains("control character"));
        assert!(fault("SIP/2.0 200", "SIP/2.0 99").contains("status"));
    }

    #[test]
    fn uris_come_apart() {
        assert_eq!(user_of("sip:+1@[2001:db8::1]:5060;transport=tcp"), "+1");
        assert_eq!(
            host_of("sip:+1@[2001:db8::1]:5060;transport=tcp"),
            "[2001:db8::1]:5060"
        );
        assert_eq!(host_of("sip:example.net"), "example.net");
        assert_eq!(uri_in("\"x\" <sip:a@b;lr>;tag=1"), "sip:a@b;lr");
    }
}
