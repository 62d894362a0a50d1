//! SIPp scenarios, put together from steps. The text of a step is SIPp's own, so that a trace reads like the scenario.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// A scenario for one SIPp process.
pub struct Scenario {
    xml: String,
    /// Contact URI, and transport and sent-by of Via, where they are not SIPp's own.
    place: Option<(String, String)>,
    variables: Vec<&'static str>,
}

/// An SDP body with PCMU and telephone-event at an RTP party's address.
pub fn sdp(rtp: SocketAddr) -> String {
    sdp_codecs(rtp, "0 101", &["0 PCMU/8000", "101 telephone-event/8000"])
}

/// The same with other formats.
pub fn sdp_codecs(rtp: SocketAddr, formats: &str, maps: &[&str]) -> String {
    let kind = if rtp.is_ipv4() { "IP4" } else { "IP6" };
    let (ip, port) = (rtp.ip(), rtp.port());
    let maps: String = maps.iter().map(|m| format!("a=rtpmap:{m}\n")).collect();
    format!(
        "v=0\no=party 1 1 IN {kind} {ip}\ns=-\nc=IN {kind} {ip}\nt=0 0\nm=audio {port} RTP/AVP {formats}\n{maps}a=sendrecv\n"
    )
}

impl Scenario {
    pub fn new() -> Scenario {
        Scenario {
            xml: String::new(),
            place: None,
            variables: Vec::new(),
        }
    }

    /// The party is reached at `contact` over TLS, which something in front of it speaks at `address`. A sips: party calls sips:.
    pub fn behind_tls(mut self, contact: &str, address: SocketAddr) -> Self {
        self.place = Some((contact.to_owned(), format!("TLS {address}")));
        self
    }

    /// Any step, as SIPp writes it.
    pub fn raw(mut self, xml: &str) -> Self {
        self.xml.push_str(xml);
        self.xml.push('\n');
        self
    }

    /// Sends a message; `body` empty: none. `head` is everything before Content-Length, lines indented or not.
    pub fn send(self, head: &str, body: &str) -> Self {
        self.send_with("", head, body)
    }

    /// The same with attributes on `<send>`, such as `retrans="500"`.
    pub fn send_with(mut self, attributes: &str, head: &str, body: &str) -> Self {
        let head: Vec<&str> = head
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\n"
        };
        let _ = writeln!(
            self.xml,
            "<send {attributes}><![CDATA[\n{}\n{kind}Content-Length: [len]\n\n{body}]]></send>",
            head.join("\n")
        );
        self
    }

    pub fn recv_request(self, method: &str) -> Self {
        self.raw(&format!("<recv request=\"{method}\" />"))
    }

    pub fn recv(self, code: u16) -> Self {
        self.raw(&format!("<recv response=\"{code}\" rrs=\"true\" />"))
    }

    pub fn recv_optional(self, code: u16) -> Self {
        self.raw(&format!("<recv response=\"{code}\" optional=\"true\" />"))
    }

    pub fn recv_challenge(self, code: u16) -> Self {
        self.raw(&format!("<recv response=\"{code}\" auth=\"true\" />"))
    }

    /// Waits until the test lets it go on: SIPp's own pause, `ms` long. Only to order two parties' messages.
    pub fn pause(self, ms: u32) -> Self {
        self.raw(&format!("<pause milliseconds=\"{ms}\" />"))
    }

    /// Waits for [`Sipp::cue`](super::Sipp::cue).
    pub fn await_cue(self) -> Self {
        self.recv_request("INFO")
    }

    /// Takes an INVITE as callee and remembers whom to talk to in later requests of the dialog.
    pub fn recv_invite(mut self) -> Self {
        self.variables.extend(["via", "from", "to", "cseq"]);
        self.raw(
            r#"<recv request="INVITE" rrs="true"><action>
<ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via" />
<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="cseq" />
<ereg regexp=".*" search_in="hdr" header="From:" assign_to="from" />
<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to" />
</action></recv>"#,
        )
    }

    /// A response to the last request.
    pub fn respond(self, line: &str, extra: &str, body: &str) -> Self {
        self.send(
            &format!(
                "SIP/2.0 {line}
                 [last_Via:]
                 [last_From:]
                 [last_To:]
                 [last_Call-ID:]
                 [last_CSeq:]
                 Contact: <sip:party@[local_ip]:[local_port];transport=[transport]>
                 {extra}"
            ),
            body,
        )
    }

    /// A response to the last INVITE, whatever came since; it sets our tag.
    pub fn respond_invite(self, line: &str, extra: &str, body: &str) -> Self {
        self.send(
            &format!(
                "SIP/2.0 {line}
                 Via:[$via]
                 From:[$from]
                 To:[$to];tag=[pid]P[call_number]
                 Call-ID: [call_id]
                 CSeq:[$cseq]
                 Contact: <sip:party@[local_ip]:[local_port];transport=[transport]>
                 {extra}"
            ),
            body,
        )
    }

    /// A request of the callee within the dialog.
    pub fn callee_request(self, method: &str, cseq: u32, extra: &str, body: &str) -> Self {
        self.send(
            &format!(
                "{method} [next_url] SIP/2.0
                 Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
                 Max-Forwards: 70
                 From:[$to];tag=[pid]P[call_number]
                 To:[$from]
                 Call-ID: [call_id]
                 CSeq: {cseq} {method}
                 Contact: <sip:party@[local_ip]:[local_port];transport=[transport]>
                 {extra}"
            ),
            body,
        )
    }

    /// The caller's INVITE to `number`.
    pub fn caller_invite(self, number: &str, cseq: u32, extra: &str, body: &str) -> Self {
        self.send(
            &format!(
                "INVITE sip:{number}@[remote_ip]:[remote_port];transport=[transport] SIP/2.0
                 Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
                 Max-Forwards: 70
                 From: \"Caller\" <sip:+15550100@[local_ip]>;tag=[pid]C[call_number]
                 To: <sip:{number}@[remote_ip]>
                 Call-ID: [call_id]
                 CSeq: {cseq} INVITE
                 Contact: <sip:caller@[local_ip]:[local_port];transport=[transport]>
                 {extra}"
            ),
            body,
        )
    }

    /// The caller's ACK of the last final response, or another request of its dialog.
    pub fn caller_request(self, method: &str, cseq: u32, extra: &str, body: &str) -> Self {
        self.send(
            &format!(
                "{method} [next_url] SIP/2.0
                 Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
                 Max-Forwards: 70
                 From: \"Caller\" <sip:+15550100@[local_ip]>;tag=[pid]C[call_number]
                 [last_To:]
                 Call-ID: [call_id]
                 CSeq: {cseq} {method}
                 Contact: <sip:caller@[local_ip]:[local_port];transport=[transport]>
                 {extra}"
            ),
            body,
        )
    }

    /// ACKs the refusal that was just received: within the INVITE's transaction (RFC 3261 §17.1.1.3).
    pub fn caller_acks_refusal(self, number: &str, cseq: u32) -> Self {
        self.send(
            &format!(
                "ACK sip:{number}@[remote_ip]:[remote_port];transport=[transport] SIP/2.0
                 [last_Via:]
                 Max-Forwards: 70
                 [last_From:]
                 [last_To:]
                 Call-ID: [call_id]
                 CSeq: {cseq} ACK"
            ),
            "",
        )
    }

    /// The same for a re-INVITE.
    pub fn caller_acks_refused_change(self, cseq: u32) -> Self {
        self.send(
            &format!(
                "ACK [next_url] SIP/2.0
                 [last_Via:]
                 Max-Forwards: 70
                 [last_From:]
                 [last_To:]
                 Call-ID: [call_id]
                 CSeq: {cseq} ACK"
            ),
            "",
        )
    }

    /// Gives up the INVITE whose provisional response was just received: the same transaction (RFC 3261 §9.1).
    pub fn caller_cancels(self, number: &str, cseq: u32) -> Self {
        self.send(
            &format!(
                "CANCEL sip:{number}@[remote_ip]:[remote_port];transport=[transport] SIP/2.0
                 [last_Via:]
                 Max-Forwards: 70
                 From: \"Caller\" <sip:+15550100@[local_ip]>;tag=[pid]C[call_number]
                 To: <sip:{number}@[remote_ip]>
                 Call-ID: [call_id]
                 CSeq: {cseq} CANCEL"
            ),
            "",
        )
    }

    /// As callee: is cancelled, and ends the INVITE with 487.
    pub fn recv_cancel(self) -> Self {
        self.recv_request("CANCEL")
            .respond("200 OK", "", "")
            .respond_invite("487 Request Terminated", "", "")
            .recv_request("ACK")
    }

    /// The file's text.
    pub fn xml(&self, name: &str) -> String {
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"ISO-8859-1\" ?>\n<!DOCTYPE scenario SYSTEM \"sipp.dtd\">\n<scenario name=\"{name}\">\n{}",
            self.xml
        );
        if !self.variables.is_empty() {
            // SIPp refuses a variable that is used once; the reference makes it two.
            let _ = writeln!(
                xml,
                "<Reference variables=\"{}\" />",
                self.variables.join(",")
            );
        }
        xml.push_str("</scenario>\n");
        if let Some((contact, sent_by)) = &self.place {
            const OWN: &str = "[local_ip]:[local_port];transport=[transport]";
            for user in ["party", "caller"] {
                xml = xml.replace(&format!("<sip:{user}@{OWN}>"), &format!("<{contact}>"));
            }
            xml = xml.replace("[transport] [local_ip]:[local_port]", sent_by);
            if contact.starts_with("sips:") {
                xml = xml.replace("INVITE sip:", "INVITE sips:");
            }
        }
        xml
    }
}
