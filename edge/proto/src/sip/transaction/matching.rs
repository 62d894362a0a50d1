//! Which transaction a message belongs to: the keys of the layer's indexes (RFC 3261 §17.1.3, §17.2.3, §8.2.2.2).
//!
//! A key is the fingerprint of the fields that match: a peer that chooses its branches decides neither how much an index holds
//! nor where in it.

use crate::fingerprint::{Fields, Fingerprint, Fingerprints};
use crate::sip::header::HeaderName;
use crate::sip::host::Host;
use crate::sip::message::Message;
use crate::sip::method::Method;
use crate::sip::via::Via;

/// Kinds of fingerprints.
const CLIENT: u8 = b'c';
const SERVER: u8 = b's';
const OLD_STYLE: u8 = b'o';
const REQUEST: u8 = b'r';

/// Makes the keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys(Fingerprints);

impl Keys {
    pub(super) fn new(names: Fingerprints) -> Self {
        Keys(names)
    }

    /// The key of a client transaction: the branch that this edge made up, and the method, since a CANCEL shares the
    /// INVITE's branch (§17.1.3).
    pub(super) fn client(&self, branch: &str, method: &Method) -> Fingerprint {
        let fields = self.0.begin(CLIENT).text(branch);
        fields.text(method.as_str()).finish()
    }

    /// The key of the server transaction that `request` creates, or repeats.
    ///
    /// `as_method` is the method of the transaction looked for: INVITE for an ACK or for a CANCEL's target. `to_tag` counts
    /// for requests without the magic cookie only.
    pub(super) fn server(
        &self,
        request: &Message,
        as_method: &Method,
        to_tag: &str,
    ) -> Fingerprint {
        let via = request.top_via();
        match via.rfc3261_branch() {
            // Compared exactly, although tokens are not case-sensitive: peers repeat a branch byte for byte, and some make
            // branches that differ in case alone.
            Some(branch) => sent_by(self.0.begin(SERVER).text(branch), via)
                .text(as_method.as_str())
                .finish(),
            None => self
                .0
                .begin(OLD_STYLE)
                .text(request.request_uri().unwrap_or_default())
                .text(to_tag)
                .text(request.from_tag().unwrap_or_default())
                .text(request.call_id())
                .number(request.cseq().number)
                .text(as_method.as_str())
                .text(
                    request
                        .values(HeaderName::Via)
                        .next()
                        .unwrap_or_default()
                        .trim(),
                )
                .finish(),
        }
    }

    /// What a request keeps when it is forked and merges again here by two paths (§8.2.2.2); also what an ACK for a 2xx
    /// shares with its INVITE, its branch being new (§13.2.2.4).
    pub(super) fn request(&self, request: &Message, method: &Method) -> Fingerprint {
        self.0
            .begin(REQUEST)
            .text(request.call_id())
            .text(request.from_tag().unwrap_or_default())
            .number(request.cseq().number)
            .text(method.as_str())
            .finish()
    }
}

/// Host and port. A parsed host is in lower case, and only a name has letters beyond hexadecimal digits.
fn sent_by(fields: Fields, via: &Via) -> Fields {
    let fields = match &via.host {
        Host::Name(name) => fields.text(name),
        Host::V4(address) => fields.number(address.to_bits()),
        Host::V6(address) => fields.bytes(&address.octets()),
    };
    fields.number(sent_by_port(via).into())
}

/// The sent-by port, by default that of the transport (§18.1.1).
pub(super) fn sent_by_port(via: &Via) -> u16 {
    via.port.unwrap_or({
        if via.transport.eq_ignore_ascii_case("TLS") {
            5061
        } else {
            5060
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_port_is_the_transports() {
        for (via, port) in [
            ("SIP/2.0/UDP h", 5060),
            ("SIP/2.0/tcp h", 5060),
            ("SIP/2.0/tls h", 5061),
            ("SIP/2.0/TLS h:5060", 5060),
            ("SIP/2.0/TCP h:7", 7),
        ] {
            assert_eq!(sent_by_port(&Via::parse(via).unwrap()), port, "{via}");
        }
    }
}
