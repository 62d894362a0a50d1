//! Session descriptions as the peers write and read them.

use std::net::{IpAddr, SocketAddr};

/// RTP payload types that peers know: PCMU, PCMA, G.722. Events have a number of the offerer's choice.
pub const PCMU: u8 = 0;
pub const PCMA: u8 = 8;
pub const G722: u8 = 9;

/// What the other side's description says about audio.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audio {
    pub rtp: SocketAddr,
    pub formats: Vec<u8>,
    /// Payload type of telephone events.
    pub events: Option<u8>,
    pub sends: bool,
    pub receives: bool,
}

/// Reads the audio of a description; `None` where there is nothing usable.
pub fn read(body: &str) -> Option<Audio> {
    let mut address: Option<IpAddr> = None;
    let mut port = None;
    let mut formats = Vec::new();
    let mut events = None;
    let (mut sends, mut receives) = (true, true);
    for line in body.lines() {
        let Some((kind, value)) = line.split_once('=') else {
            continue;
        };
        match kind {
            "c" => address = value.rsplit(' ').next()?.parse().ok(),
            "m" => {
                let mut words = value.split(' ');
                if words.next() != Some("audio") {
                    continue;
                }
                port = words.next()?.parse::<u16>().ok();
                formats = words.skip(1).filter_map(|word| word.parse().ok()).collect();
            }
            "a" if value == "sendonly" => receives = false,
            "a" if value == "recvonly" => sends = false,
            "a" if value == "inactive" => (sends, receives) = (false, false),
            "a" if value.ends_with(" telephone-event/8000") => {
                let number = value.strip_prefix("rtpmap:")?.split(' ').next()?;
                events = number.parse().ok();
            }
            _ => {}
        }
    }
    Some(Audio {
        rtp: SocketAddr::new(address?, port.filter(|&port| port != 0)?),
        formats,
        events,
        sends,
        receives,
    })
}

/// A description of one audio stream.
pub fn write(
    rtp: SocketAddr,
    version: u32,
    speech: &[u8],
    events: Option<u8>,
    direction: &str,
) -> String {
    let ip = rtp.ip();
    let kind = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let formats: Vec<String> = speech.iter().chain(&events).map(u8::to_string).collect();
    let formats = formats.join(" ");
    let map = match events {
        Some(number) => format!("a=rtpmap:{number} telephone-event/8000\r\n"),
        None => String::new(),
    };
    let other: String = speech
        .iter()
        .filter(|&&number| number >= 96)
        .map(|number| format!("a=rtpmap:{number} opus/48000/2\r\n"))
        .collect();
    format!(
        "v=0\r\no=- 7 {version} IN {kind} {ip}\r\ns=-\r\nc=IN {kind} {ip}\r\nt=0 0\r\nm=audio {} RTP/AVP {formats}\r\n{map}{other}a={direction}\r\n",
        rtp.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let rtp = "[2001:db8::7]:4000".parse().unwrap();
        let text = write(rtp, 2, &[PCMA, G722], Some(96), "sendonly");
        assert_eq!(
            read(&text),
            Some(Audio {
                rtp,
                formats: vec![PCMA, G722, 96],
                events: Some(96),
                sends: true,
                receives: false,
            })
        );
        assert_eq!(read(""), None);
    }
}
