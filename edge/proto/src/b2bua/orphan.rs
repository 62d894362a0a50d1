//! A 2xx to an INVITE whose leg is gone. Its sender repeats it until it is acknowledged (RFC 3261 §13.3.1.4), and where it is
//! another endpoint than the one that was talked to, somebody holds a phone to his ear: it is ended (§13.2.2.4).

use super::connections::Origin;
use super::context::{ClientPurpose, Context};
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Message, Method, RequestBuilder};
use smallvec::smallvec;

/// Endpoints of one INVITE that are told apart; more than any phone rings at.
const MAX_ANSWERS: usize = 32;

impl Context {
    /// Notes who answered an INVITE. True: nobody with this tag did before.
    pub fn is_new_answer(&mut self, key: ClientKey, response: &Message) -> bool {
        let tag = response.to_tag().unwrap_or_default();
        let tag = self.names.begin(b'a').text(tag).finish();
        match self.answers.get_mut(&key) {
            None => {
                self.answers.insert(key, smallvec![tag]);
            }
            Some(known) if known.len() >= MAX_ANSWERS || known.contains(&tag) => return false,
            Some(known) => known.push(tag),
        }
        true
    }

    /// Deals with a 2xx that no leg waits for. A re-INVITE's is acknowledged: BYE was said in its dialog already. A new
    /// endpoint's is acknowledged and ended. One that comes again was dealt with when it came first.
    pub fn disown(
        &mut self,
        origin: &Origin,
        response: &Message,
        purpose: ClientPurpose,
        new: bool,
    ) {
        let cseq = response.cseq().number;
        if purpose != ClientPurpose::Reinvite && !new {
            return;
        }
        if let Some((_, ack)) = self.reply_request(origin, response, &Method::Ack, cseq) {
            self.transmit(origin.hop, ack);
        }
        if purpose == ClientPurpose::Reinvite {
            return;
        }
        let bye = self.reply_request(origin, response, &Method::Bye, cseq.saturating_add(1));
        if let Some((branch, bytes)) = bye {
            let reliable = origin.transport.is_reliable();
            // Where no room is left for it, the endpoint hangs up when it hears nothing.
            let _ = self.transactions.start(
                self.now,
                origin.hop,
                reliable,
                Method::Bye,
                &branch,
                bytes,
            );
        }
    }

    /// A request in the dialog of a 2xx, and its branch: all that it needs stands in the 2xx itself (§13.2.2.4).
    fn reply_request(
        &mut self,
        origin: &Origin,
        response: &Message,
        method: &Method,
        cseq: u32,
    ) -> Option<(String, bytes::Bytes)> {
        let contact = response.contact()?.ok()?;
        let advertised = origin
            .listener
            .and_then(|id| self.config.listener(id))
            .map_or(origin.local, |listener| listener.advertised);
        let branch = self.branch();
        let via = format!(
            "SIP/2.0/{} {advertised};branch={branch}",
            origin.transport.via_name()
        );
        let mut request = RequestBuilder::new(method, &contact.uri.to_string())
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70);
        // The route set of a caller is the Record-Route turned round (§12.1.2).
        let mut routes: Vec<&str> = response.values(HeaderName::RecordRoute).collect();
        routes.reverse();
        for route in routes {
            request = request.header(HeaderName::Route, route);
        }
        let request = request
            .header(HeaderName::From, response.from_header())
            .header(HeaderName::To, response.to_header())
            .header(HeaderName::CallId, response.call_id())
            .header(HeaderName::CSeq, format!("{cseq} {}", method.as_str()));
        Some((branch, request.build()))
    }
}
