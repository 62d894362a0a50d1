//! Which transaction a message belongs to: the keys of the layer's indexes (RFC 3261 §17.1.3, §17.2.3, §8.2.2.2).
//!
//! A key is the matching fields written one after the other, separated by a line feed, which none of them can contain. The
//! indexes are ordered maps: a peer that chooses its branches cannot make them slow, as it could a hash table without a
//! secret.

use crate::sip::header::HeaderName;
use crate::sip::message::Message;
use crate::sip::method::Method;
use crate::sip::via::Via;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Longer keys are replaced by their digest: what a peer sends does not decide how much an index holds.
const KEY_BYTES: usize = 256;

/// Composes keys in one buffer that is used again and again.
#[derive(Debug, Default)]
pub(super) struct KeyBuffer {
    text: String,
}

impl KeyBuffer {
    fn begin(&mut self, kind: &str) {
        self.text.clear();
        self.text.push_str(kind);
    }

    fn push(&mut self, field: &str) {
        self.text.push('\n');
        self.text.push_str(field);
    }

    fn push_number(&mut self, number: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "\n{number}");
    }

    fn finish(&mut self) -> &str {
        if self.text.len() > KEY_BYTES {
            let digest = Sha256::digest(self.text.as_bytes());
            self.text.clear();
            self.text.push('#');
            for byte in digest {
                let _ = write!(self.text, "{byte:02x}");
            }
        }
        &self.text
    }

    /// The key of a client transaction: the branch that this edge made up, and the method, since a CANCEL shares the
    /// INVITE's branch (§17.1.3).
    pub(super) fn client(&mut self, branch: &str, method: &Method) -> &str {
        self.begin("c");
        self.push(branch);
        self.push(method.as_str());
        self.finish()
    }

    /// The key of the server transaction that `request` creates, or repeats.
    ///
    /// `as_method` is the method of the transaction looked for: INVITE for an ACK or for a CANCEL's target. `to_tag` counts
    /// for requests without the magic cookie only.
    pub(super) fn server(&mut self, request: &Message, as_method: &Method, to_tag: &str) -> &str {
        let via = request.top_via();
        match via.rfc3261_branch() {
            Some(branch) => {
                self.begin("s");
                // Compared exactly, although tokens are not case-sensitive: peers repeat a branch byte for byte, and some
                // make branches that differ in case alone.
                self.push(branch);
                self.push_sent_by(via);
                self.push(as_method.as_str());
            }
            None => {
                self.begin("o");
                self.push(request.request_uri().unwrap_or_default());
                self.push(to_tag);
                self.push(request.from_tag().unwrap_or_default());
                self.push(request.call_id());
                self.push_number(request.cseq().number);
                self.push(as_method.as_str());
                self.push(
                    request
                        .values(HeaderName::Via)
                        .next()
                        .unwrap_or_default()
                        .trim(),
                );
            }
        }
        self.finish()
    }

    /// What a request keeps when it is forked and merges again here by two paths (§8.2.2.2); also what an ACK for a 2xx
    /// shares with its INVITE, its branch being new (§13.2.2.4).
    pub(super) fn request(&mut self, request: &Message, method: &Method) -> &str {
        self.begin("r");
        self.push(request.call_id());
        self.push(request.from_tag().unwrap_or_default());
        self.push_number(request.cseq().number);
        self.push(method.as_str());
        self.finish()
    }

    fn push_sent_by(&mut self, via: &Via) {
        // A parsed host is in lower case.
        self.push_number(&via.host);
        self.push_number(sent_by_port(via));
    }
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
