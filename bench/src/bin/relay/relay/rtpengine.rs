//! rtpengine without its kernel module, told about calls over its ng protocol.

use super::{Relay, Start, spawn};
use crate::netns::Network;
use crate::plan;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::net::{SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NG: &str = "127.0.0.1:2223";
const START: Duration = Duration::from_secs(10);

pub fn start(network: &Network, start: &Start) -> Result<Relay> {
    let (low, high) = plan::RELAY_RANGE;
    let mut command = Command::new("rtpengine");
    command
        .args([
            "--foreground",
            "--log-stderr",
            "--log-level=2",
            "--table=-1",
        ])
        // One core: more threads only take turns.
        .args(["--num-threads=1", "--media-num-threads=1"])
        .arg(format!("--interface={}", plan::RELAY))
        .arg(format!("--listen-ng={NG}"))
        .arg(format!("--port-min={low}"))
        .arg(format!("--port-max={high}"))
        .arg("--config-file=none")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = spawn(&mut command, network, start.core)
        .context("is rtpengine-daemon (Debian) installed?")?;
    let mut relay = Relay {
        kind: super::Kind::Rtpengine,
        child,
        targets: Vec::new(),
    };
    let ng = network.in_relay(|| Ok(Ng(UdpSocket::bind("127.0.0.1:0")?)))?;
    ng.0.connect(NG)?;
    ng.0.set_read_timeout(Some(Duration::from_millis(300)))?;
    ng.wait_until_ready()?;
    for call in 0..plan::legs(start.flows) / 2 {
        let [caller, callee] = [call * 2, call * 2 + 1];
        let id = format!("call-{call}");
        let common = [("call-id", id.as_str()), ("from-tag", "a")];
        // What the callee is told is where the callee sends.
        let to_callee = ng.sdp("offer", &common, caller)?;
        let common = [("call-id", id.as_str()), ("from-tag", "a"), ("to-tag", "b")];
        let to_caller = ng.sdp("answer", &common, callee)?;
        relay.targets.extend([to_caller, to_callee]);
    }
    Ok(relay)
}

struct Ng(UdpSocket);

impl Ng {
    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            match self.ask("ping", &[]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("rtpengine does not answer");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Sends a leg's SDP; returns where the answer says that RTP has to be sent.
    fn sdp(&self, command: &str, common: &[(&str, &str)], leg: u16) -> Result<SocketAddrV4> {
        let (address, port) = (plan::PEERS, plan::peer(leg).port());
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        );
        let mut fields = common.to_vec();
        fields.push(("sdp", &sdp));
        fields.push(("ICE", "remove"));
        let reply = self.ask(command, &fields)?;
        let told = reply.get("sdp").context("no SDP in the reply")?;
        let find = |start: &str| {
            told.lines()
                .find_map(|line| line.strip_prefix(start))
                .and_then(|rest| rest.split(' ').next())
                .with_context(|| format!("no {start} in {told}"))
        };
        let port: u16 = find("m=audio ")?.parse()?;
        ensure!(port != 0, "rtpengine refused a stream");
        Ok(SocketAddrV4::new(find("c=IN IP4 ")?.parse()?, port))
    }

    fn ask(&self, command: &str, fields: &[(&str, &str)]) -> Result<BTreeMap<String, String>> {
        let mut all: BTreeMap<&str, &str> = fields.iter().copied().collect();
        all.insert("command", command);
        let cookie = format!("{command}{}", fields.first().map_or("", |field| field.1));
        let mut text = format!("{cookie} d");
        for (key, value) in all {
            text += &format!("{}:{key}{}:{value}", key.len(), value.len());
        }
        text.push('e');
        let mut buffer = [0; 8192];
        let mut last = None;
        for _ in 0..5 {
            self.0.send(text.as_bytes()).ok();
            match self.0.recv(&mut buffer) {
                Ok(length) => {
                    let reply = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                    let Some((_, body)) = reply.split_once(' ').filter(|(c, _)| *c == cookie)
                    else {
                        continue;
                    };
                    let reply = dictionary(body).context("not a bencoded dictionary")?;
                    match reply.get("result").map(String::as_str) {
                        Some("ok" | "pong") => return Ok(reply),
                        _ => bail!("rtpengine says {reply:?}"),
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("no reply"), Into::into))
    }
}

/// The text values of a bencoded dictionary; others are passed over.
fn dictionary(text: &str) -> Option<BTreeMap<String, String>> {
    let mut rest = text.strip_prefix('d')?;
    let mut found = BTreeMap::new();
    while !rest.starts_with('e') {
        let (key, behind) = string(rest)?;
        rest = match string(behind) {
            Some((value, behind)) => {
                found.insert(key.to_owned(), value.to_owned());
                behind
            }
            None => skip(behind)?,
        };
    }
    Some(found)
}

fn string(text: &str) -> Option<(&str, &str)> {
    let (length, rest) = text.split_once(':')?;
    rest.split_at_checked(length.parse().ok()?)
}

/// What follows one value of any kind.
fn skip(text: &str) -> Option<&str> {
    if let Some((_, rest)) = string(text) {
        return Some(rest);
    }
    if let Some(rest) = text.strip_prefix('i') {
        return rest.split_once('e').map(|(_, rest)| rest);
    }
    let mut rest = text.strip_prefix(['d', 'l'])?;
    while !rest.starts_with('e') {
        rest = skip(rest)?;
    }
    rest.strip_prefix('e')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_past_what_is_no_text() {
        let reply = dictionary("d7:createdi12e4:listl1:ai3ee6:result2:ok3:sdp5:v=0\r\ne").unwrap();
        assert_eq!(reply["result"], "ok");
        assert_eq!(reply["sdp"], "v=0\r\n");
        assert_eq!(reply.len(), 2);
        assert!(dictionary("d3:ab").is_none());
    }
}
