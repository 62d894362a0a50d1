//! Session descriptions of peers.

use std::net::{IpAddr, SocketAddr};

/// One description, to be changed before it is written.
#[derive(Clone, Debug)]
pub struct Sdp {
    pub address: IpAddr,
    pub port: u16,
    pub version: u32,
    /// Payload types of the `m=` line.
    pub formats: Vec<u8>,
    /// `rtpmap` values.
    pub maps: Vec<String>,
    pub direction: &'static str,
    pub profile: &'static str,
    /// Whole lines at the end of the audio stream.
    pub more: Vec<String>,
}

impl Sdp {
    /// PCMU and telephone-event at `address`.
    pub fn new(address: SocketAddr, port: u16) -> Sdp {
        Sdp {
            address: address.ip(),
            port,
            version: 1,
            formats: Vec::new(),
            maps: Vec::new(),
            direction: "sendrecv",
            profile: "RTP/AVP",
            more: Vec::new(),
        }
        .codecs(&[0, 101])
    }

    /// These payload types: 101 and 96 are telephone-event, all others static.
    pub fn codecs(mut self, formats: &[u8]) -> Sdp {
        self.formats = formats.to_vec();
        self.maps = formats
            .iter()
            .filter(|format| **format > 95)
            .map(|format| format!("{format} telephone-event/8000"))
            .collect();
        self
    }

    pub fn direction(mut self, direction: &'static str) -> Sdp {
        self.direction = direction;
        self
    }

    /// Held as in RFC 2543.
    pub fn unspecified(mut self) -> Sdp {
        self.address = if self.address.is_ipv4() {
            IpAddr::from([0, 0, 0, 0])
        } else {
            IpAddr::from([0u16; 8])
        };
        self
    }

    pub fn port(mut self, port: u16) -> Sdp {
        self.port = port;
        self
    }

    pub fn profile(mut self, profile: &'static str) -> Sdp {
        self.profile = profile;
        self
    }

    pub fn line(mut self, line: &str) -> Sdp {
        self.more.push(line.to_owned());
        self
    }

    pub fn text(&self) -> String {
        let kind = if self.address.is_ipv4() { "IP4" } else { "IP6" };
        let (ip, port, version) = (self.address, self.port, self.version);
        let formats: String = self.formats.iter().map(|f| format!(" {f}")).collect();
        let maps: String = self
            .maps
            .iter()
            .map(|map| format!("a=rtpmap:{map}\r\n"))
            .collect();
        let more: String = self.more.iter().map(|line| format!("{line}\r\n")).collect();
        format!(
            "v=0\r\no=ua 1 {version} IN {kind} {ip}\r\ns=-\r\nc=IN {kind} {ip}\r\nt=0 0\r\nm=audio {port} {}{formats}\r\n{maps}a={}\r\n{more}",
            self.profile, self.direction
        )
    }
}

/// The payload types of the audio stream in a description of the edge.
pub fn formats(body: &[u8]) -> Vec<u8> {
    let body = String::from_utf8_lossy(body).into_owned();
    let Some(line) = body.lines().find(|line| line.starts_with("m=audio ")) else {
        return Vec::new();
    };
    line.split(' ')
        .skip(3)
        .map(|format| format.parse().expect("a payload type"))
        .collect()
}

/// The direction attribute of a description of the edge.
pub fn direction(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body).into_owned();
    ["sendrecv", "sendonly", "recvonly", "inactive"]
        .into_iter()
        .find(|direction| body.contains(&format!("a={direction}\r\n")))
        .unwrap_or_else(|| panic!("no direction in {body}"))
        .to_owned()
}
