//! A 2xx whose leg is gone: its sender repeats it until it is acknowledged (RFC 3261 §13.3.1.4), whatever became of the dialog.

use super::connections::Origin;
use super::context::Context;
use crate::sip::{HeaderName, Message, Method, RequestBuilder};

impl Context {
    /// Acknowledges a 2xx to a re-INVITE of a leg that has ended meanwhile. All that the ACK needs stands in the 2xx itself
    /// (§13.2.2.4); there is no dialog left to say BYE in, that was said.
    pub fn ack_orphan(&mut self, origin: &Origin, response: &Message) {
        let Some(Ok(contact)) = response.contact() else {
            return;
        };
        let advertised = origin
            .listener
            .and_then(|id| self.config.listener(id))
            .map_or(origin.local, |listener| listener.advertised);
        let branch = self.branch();
        let via = format!(
            "SIP/2.0/{} {advertised};branch={branch}",
            origin.transport.via_name()
        );
        let mut ack = RequestBuilder::new(&Method::Ack, &contact.uri.to_string())
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70);
        // The route set of a caller is the Record-Route turned round (§12.1.2).
        let mut routes: Vec<&str> = response.values(HeaderName::RecordRoute).collect();
        routes.reverse();
        for route in routes {
            ack = ack.header(HeaderName::Route, route);
        }
        let ack = ack
            .header(HeaderName::From, response.from_header())
            .header(HeaderName::To, response.to_header())
            .header(HeaderName::CallId, response.call_id())
            .header(HeaderName::CSeq, format!("{} ACK", response.cseq().number));
        self.transmit(origin.hop, ack.build());
    }
}
