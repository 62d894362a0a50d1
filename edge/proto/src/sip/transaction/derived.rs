//! Requests that the layer makes from an INVITE it sent: the ACK for a 3xx-6xx and the CANCEL.

use crate::sip::builder::RequestBuilder;
use crate::sip::header::HeaderName;
use crate::sip::message::Message;
use crate::sip::method::Method;
use bytes::Bytes;

/// The ACK for a 3xx-6xx to `invite` (RFC 3261 §17.1.1.3): the INVITE's Request-URI, top Via, Route set, From and Call-ID,
/// the response's To. Credentials are repeated, since an ACK cannot be challenged (§22.1).
pub(super) fn ack(invite: &Message, response: &Message) -> Bytes {
    let mut builder = common(&Method::Ack, invite, response.to_header());
    for name in [HeaderName::Authorization, HeaderName::ProxyAuthorization] {
        for value in invite.headers(name) {
            builder = builder.header(name, value);
        }
    }
    builder.build()
}

/// The CANCEL for `invite` (§9.1): as the INVITE in Request-URI, top Via, Route set, From, To, Call-ID and CSeq number, with
/// no Require and no credentials (§22.1: a CANCEL is never challenged).
pub(super) fn cancel<'a>(
    invite: &Message,
    extra_headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Bytes {
    let mut builder = common(&Method::Cancel, invite, invite.to_header());
    for (name, value) in extra_headers {
        builder = builder.header(name, value);
    }
    builder.build()
}

fn common(method: &Method, invite: &Message, to: &str) -> RequestBuilder {
    let mut builder = RequestBuilder::new(method, invite.request_uri().unwrap_or_default());
    if let Some(via) = invite.values(HeaderName::Via).next() {
        builder = builder.header(HeaderName::Via, via);
    }
    for route in invite.headers(HeaderName::Route) {
        builder = builder.header(HeaderName::Route, route);
    }
    builder
        .header(HeaderName::MaxForwards, 70)
        .header(HeaderName::From, invite.from_header())
        .header(HeaderName::To, to)
        .header(HeaderName::CallId, invite.call_id())
        .header(
            HeaderName::CSeq,
            format_args!("{} {}", invite.cseq().number, method),
        )
}
