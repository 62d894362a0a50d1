//! One dialog of a user agent of the suite's own, for what SIPp cannot do: SHA-256, replays, forged dialogs, requests from
//! foreign addresses. Its messages are written by hand.

use super::digest::{self, Parameters};
use super::scenario::sdp;
use super::wire::{Wire, header, response_to};
use std::net::{IpAddr, SocketAddr, TcpListener};

/// Our end of the dialog of a call that the edge made to us.
pub struct Client {
    pub wire: Wire,
    address: SocketAddr,
    pub call_id: String,
    /// Our From value with its tag.
    pub local: String,
    /// The edge's, with its tag.
    pub remote: String,
    /// The edge's Contact.
    pub target: String,
    pub cseq: u32,
}

impl Client {
    /// Takes the edge's connection and the INVITE on it.
    pub fn called(listener: &TcpListener) -> (Client, String) {
        let address = listener.local_addr().expect("a bound listener");
        Client::called_over(Wire::accept(listener), address)
    }

    /// Takes an INVITE on a connection that the edge made to `address`.
    pub fn called_over(mut wire: Wire, address: SocketAddr) -> (Client, String) {
        let invite = wire.next().expect("an INVITE");
        assert_eq!(kind(&invite), "INVITE", "{invite}");
        let client = Client {
            wire,
            address,
            call_id: value(&invite, "Call-ID").to_owned(),
            local: format!("{};tag={TAG}", value(&invite, "To")),
            remote: value(&invite, "From").to_owned(),
            target: contact_of(&invite).to_owned(),
            cseq: 100,
        };
        (client, invite)
    }

    /// Answers the INVITE with 200 and waits for the ACK.
    pub fn accepts(&mut self, invite: &str, rtp: SocketAddr) {
        self.answers(invite, "200 OK", &sdp(rtp));
        self.gets("ACK");
    }

    /// Goes on over a new connection from `source`.
    pub fn reconnects(&mut self, source: IpAddr, edge: SocketAddr) {
        self.wire = Wire::connect(source, edge);
    }

    /// Sends the next request of the dialog, with further header lines.
    pub fn says(&mut self, method: &str, lines: &[&str]) {
        self.cseq += 1;
        let request = self.request(method, lines);
        self.wire.send(&request, "");
    }

    /// A request of the dialog with the present CSeq.
    pub fn request(&self, method: &str, lines: &[&str]) -> String {
        let Client { cseq, call_id, .. } = self;
        format!(
            "{method} {} SIP/2.0
             Via: SIP/2.0/TCP {};branch=z9hG4bK{method}{cseq}{call_id}
             Max-Forwards: 70
             From: {}
             To: {}
             Call-ID: {call_id}
             CSeq: {cseq} {method}
             Contact: <sip:client@{};transport=tcp>
             {}",
            self.target,
            self.wire.local(),
            self.local,
            self.remote,
            self.address,
            lines.join("\n")
        )
    }

    /// Answers a request; `line` is status and phrase.
    pub fn answers(&mut self, request: &str, line: &str, body: &str) {
        let contact = format!("Contact: <sip:client@{};transport=tcp>", self.address);
        let head = response_to(request, line, TAG);
        self.wire.send(&format!("{head}\n{contact}"), body);
    }

    /// The next message, which must be `what`: `401 REFER` for a response, `NOTIFY` for a request.
    pub fn gets(&mut self, what: &str) -> String {
        let message = self.wire.next();
        let message = message.unwrap_or_else(|| panic!("closed before {what}"));
        assert_eq!(kind(&message), what, "{message}");
        assert_eq!(header(&message, "Call-ID"), Some(self.call_id.as_str()));
        message
    }

    /// The next message is a NOTIFY; it is answered and given.
    pub fn is_notified(&mut self) -> String {
        let notify = self.gets("NOTIFY");
        self.answers(&notify, "200 OK", "");
        notify
    }

    /// A REFER without credentials, which is challenged; the 401.
    pub fn is_challenged(&mut self, refer_to: &str) -> String {
        self.says("REFER", &[&format!("Refer-To: {refer_to}")]);
        self.gets("401 REFER")
    }

    /// The answer to one of the challenges of a 401, as the trunk's user would give it.
    pub fn answer_to(&self, challenge: &str, algorithm: &str) -> Parameters {
        let challenges = digest::challenges(challenge);
        let fitting = challenges.iter().find(|c| c["algorithm"] == algorithm);
        let fitting = fitting.unwrap_or_else(|| panic!("no {algorithm} in {challenge}"));
        assert_eq!(fitting["qop"], "auth");
        digest::answer(fitting, "trunk-user", &self.target)
    }

    /// A REFER with these credentials.
    pub fn refers(&mut self, refer_to: &str, answer: &Parameters) {
        let authorization = digest::signed(answer, "REFER", "s3cret");
        let authorization = format!("Authorization: {authorization}");
        let refer_to = format!("Refer-To: {refer_to}");
        self.says("REFER", &[&refer_to, &authorization]);
    }

    /// Hangs up.
    pub fn hangs_up(&mut self) {
        self.says("BYE", &[]);
        self.gets("200 BYE");
    }

    /// Is hung up on.
    pub fn is_hung_up_on(&mut self) -> String {
        let bye = self.gets("BYE");
        self.answers(&bye, "200 OK", "");
        bye
    }
}

const TAG: &str = "client";

/// `200 INVITE` of a response, `INVITE` of a request.
pub fn kind(message: &str) -> String {
    let method = value(message, "CSeq").split(' ').nth(1).unwrap_or_default();
    match message.strip_prefix("SIP/2.0 ") {
        Some(status) => format!("{} {method}", &status[..3]),
        None => method.to_owned(),
    }
}

fn value<'a>(message: &'a str, name: &str) -> &'a str {
    header(message, name).unwrap_or_else(|| panic!("no {name} in {message}"))
}

/// The URI of a message's Contact.
pub fn contact_of(message: &str) -> &str {
    let contact = value(message, "Contact");
    let inner = contact
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    inner.expect("angle brackets").0
}
