//! Dialogs (RFC 3261 §12): what two user agents remember of each other between the requests of a call.

use crate::config::Transport;
use crate::sip::builder::RequestBuilder;
use crate::sip::grammar::write_quoted;
use crate::sip::header::HeaderName;
use crate::sip::message::Message;
use crate::sip::method::Method;
use crate::sip::name_addr::{NameAddr, NameAddrError};
use crate::sip::uri::Uri;
use core::fmt;
use std::borrow::Cow;

/// Sequence numbers are less than 2^31 (RFC 3261 §8.1.1.5).
pub const CSEQ_LIMIT: u32 = 1 << 31;

/// The most Record-Route values a dialog keeps.
pub const MAX_ROUTES: usize = 32;

/// Why a message cannot make or change a dialog.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialogError {
    /// A dialog-creating request needs exactly one Contact (§8.1.1.8).
    #[error("the request has no Contact")]
    NoContact,
    #[error("the Contact is wrong: {0}")]
    BadContact(NameAddrError),
    #[error("the Contact's scheme is not sip or sips")]
    ContactScheme,
    #[error("a Record-Route value is wrong: {0}")]
    BadRecordRoute(NameAddrError),
    #[error("a Record-Route value's scheme is not sip or sips")]
    RecordRouteScheme,
    #[error("there are more than {MAX_ROUTES} Record-Route values")]
    TooManyRoutes,
    #[error("the sequence number {0} is not below 2^31")]
    SequenceTooLarge(u32),
    /// A response of another call, or one whose From tag is not the one that was sent.
    #[error("the response does not belong to the request")]
    Mismatch,
    /// 100 Trying and failures make no dialog (§12.1).
    #[error("a response with status {0} makes no dialog")]
    NoDialog(u16),
}

/// A request's sequence number is lower than one seen before, or not a valid one: 500 (§12.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("CSeq {received} is out of order after {expected_above:?}")]
pub struct OutOfOrder {
    pub received: u32,
    /// The highest number seen so far.
    pub expected_above: Option<u32>,
}

/// Whether the call was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DialogState {
    /// Made by a provisional response.
    Early,
    /// Made, or confirmed, by a 2xx.
    Confirmed,
}

/// The Via of a request of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViaLine<'a> {
    pub transport: Transport,
    /// Host and port of the listener as peers see it; IPv6 in brackets.
    pub sent_by: &'a str,
    /// Begins with [`crate::sip::via::MAGIC_COOKIE`].
    pub branch: &'a str,
}

impl fmt::Display for ViaLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SIP/2.0/{} {};branch={}",
            self.transport.via_name(),
            self.sent_by,
            self.branch
        )?;
        // Over UDP the response is wanted where the request came from, past any NAT (RFC 3581).
        if self.transport == Transport::Udp {
            f.write_str(";rport")?;
        }
        Ok(())
    }
}

/// A request of ours, as far as the dialogs that its responses make need it.
#[derive(Clone, Copy, Debug)]
pub struct SentRequest<'a> {
    pub uri: &'a str,
    pub call_id: &'a str,
    pub local_tag: &'a str,
    /// From without its tag: see [`party`].
    pub local: &'a str,
    /// To without its tag.
    pub remote: &'a str,
    pub number: u32,
}

/// One dialog, seen from this edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    pub state: DialogState,
    pub call_id: String,
    pub local_tag: String,
    /// Empty where the peer gave none (RFC 2543, §12.1.1).
    pub remote_tag: String,
    /// Our From value without its tag: a name-addr.
    pub local: String,
    /// Our To value without its tag: a name-addr.
    pub remote: String,
    /// The number of the last request that was sent; 0 before the first.
    pub local_seq: u32,
    /// The highest number of a received request.
    pub remote_seq: Option<u32>,
    /// The peer's Contact URI.
    pub remote_target: String,
    /// Route values, the next one first.
    pub route_set: Vec<String>,
    /// Made by a request to a sips: URI: every request has to go by TLS (§12.1).
    pub secure: bool,
}

impl Dialog {
    /// The dialog that our response with `local_tag` to this request makes (§12.1.1), early until [`Self::confirm`].
    ///
    /// # Errors
    /// The request's Contact, Record-Route or CSeq is unfit: 400.
    pub fn uas(request: &Message, local_tag: &str) -> Result<Dialog, DialogError> {
        let number = request.cseq().number;
        if number >= CSEQ_LIMIT {
            return Err(DialogError::SequenceTooLarge(number));
        }
        Ok(Dialog {
            state: DialogState::Early,
            call_id: request.call_id().to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: request.from_tag().unwrap_or_default().to_owned(),
            local: party(request.to()),
            remote: party(request.from()),
            local_seq: 0,
            remote_seq: Some(number),
            remote_target: contact(request)?.ok_or(DialogError::NoContact)?,
            route_set: record_route(request)?,
            secure: is_sips(request.request_uri().unwrap_or_default()),
        })
    }

    /// The dialog that a response (101-299) to our request makes (§12.1.2): early, or confirmed by a 2xx.
    ///
    /// A response without a Contact, which many provisional ones lack, leaves the request's own URI as the target.
    ///
    /// # Errors
    /// The response makes no dialog, is not of this request, or its Contact or Record-Route is unfit.
    pub fn uac(request: SentRequest<'_>, response: &Message) -> Result<Dialog, DialogError> {
        let state = match response.status().unwrap_or_default() {
            101..=199 => DialogState::Early,
            200..=299 => DialogState::Confirmed,
            code => return Err(DialogError::NoDialog(code)),
        };
        let is_its =
            response.call_id() == request.call_id && response.from_tag() == Some(request.local_tag);
        if !is_its {
            return Err(DialogError::Mismatch);
        }
        let mut route_set = record_route(response)?;
        route_set.reverse();
        Ok(Dialog {
            state,
            call_id: request.call_id.to_owned(),
            local_tag: request.local_tag.to_owned(),
            remote_tag: response.to_tag().unwrap_or_default().to_owned(),
            local: request.local.to_owned(),
            remote: request.remote.to_owned(),
            local_seq: request.number,
            remote_seq: None,
            remote_target: contact(response)?.unwrap_or_else(|| request.uri.to_owned()),
            route_set,
            secure: is_sips(request.uri),
        })
    }

    /// Our 2xx was sent.
    pub fn confirm(&mut self) {
        self.state = DialogState::Confirmed;
    }

    /// A 2xx with this early dialog's To tag came: its Record-Route and Contact replace those of the provisional responses
    /// (§13.2.2.4). A confirmed dialog only has its target refreshed.
    ///
    /// # Errors
    /// The Contact or Record-Route is unfit; the dialog stays as it was.
    pub fn confirm_by(&mut self, response: &Message) -> Result<(), DialogError> {
        let target = contact(response)?;
        if self.state == DialogState::Early {
            let mut route_set = record_route(response)?;
            route_set.reverse();
            self.route_set = route_set;
            self.state = DialogState::Confirmed;
        }
        if let Some(target) = target {
            self.remote_target = target;
        }
        Ok(())
    }

    /// Whether a received message is of this dialog (§12.2.2): the tags are compared exactly, ours being random.
    pub fn contains(&self, message: &Message) -> bool {
        let (ours, theirs) = if message.is_request() {
            (message.to_tag(), message.from_tag())
        } else {
            (message.from_tag(), message.to_tag())
        };
        message.call_id() == self.call_id
            && ours == Some(self.local_tag.as_str())
            && theirs.unwrap_or_default() == self.remote_tag
    }

    /// Notes the sequence number of a received request (not of ACK and CANCEL, which repeat the INVITE's). Gaps are fine.
    ///
    /// # Errors
    /// [`OutOfOrder`] when it is lower than one before, or 2^31 or more: 500.
    pub fn accept(&mut self, cseq: u32) -> Result<(), OutOfOrder> {
        if cseq >= CSEQ_LIMIT || self.remote_seq.is_some_and(|seen| cseq < seen) {
            return Err(OutOfOrder {
                received: cseq,
                expected_above: self.remote_seq,
            });
        }
        self.remote_seq = Some(cseq);
        Ok(())
    }

    /// Takes the peer's new Contact from a target refresh: an INVITE or UPDATE request (that was not refused), or a 2xx to
    /// one (§12.2). Any other message changes nothing. Returns whether the target changed.
    ///
    /// # Errors
    /// The Contact is unfit; the target stays.
    pub fn refresh_target(&mut self, message: &Message) -> Result<bool, DialogError> {
        let refreshes = matches!(message.cseq().method, Method::Invite | Method::Update)
            && message
                .status()
                .is_none_or(|code| (200..300).contains(&code));
        if !refreshes {
            return Ok(false);
        }
        let Some(target) = contact(message)? else {
            return Ok(false);
        };
        let changed = target != self.remote_target;
        self.remote_target = target;
        Ok(changed)
    }

    /// A request inside the dialog (§12.2.1.1) with the next sequence number; for ACK see [`Self::ack`], and CANCEL is the
    /// transaction layer's. `contact`: the whole value, for target refresh requests.
    ///
    /// At the last sequence number the count stays there, and the peer refuses the request.
    pub fn request(
        &mut self,
        method: &Method,
        via: &ViaLine<'_>,
        contact: Option<&str>,
    ) -> RequestBuilder {
        self.local_seq = self.local_seq.saturating_add(1).min(CSEQ_LIMIT - 1);
        let builder = self.build(method, via, self.local_seq);
        match contact {
            Some(contact) => builder.header(HeaderName::Contact, contact),
            None => builder,
        }
    }

    /// The ACK for a 2xx to our INVITE with the number `cseq` (§13.2.2.4): built once, sent again for each repetition of the
    /// 2xx. It needs the credentials that the INVITE had (§22.1), and the answer if the 2xx carried an offer.
    pub fn ack(&self, cseq: u32, via: &ViaLine<'_>) -> RequestBuilder {
        self.build(&Method::Ack, via, cseq)
    }

    /// The URI to which the next request goes (§12.2.1.1, §8.1.2): the first route's, else the remote target.
    pub fn next_hop(&self) -> &str {
        match self.route_set.first() {
            Some(route) => bracketed_uri(route),
            None => &self.remote_target,
        }
    }

    fn build(&self, method: &Method, via: &ViaLine<'_>, number: u32) -> RequestBuilder {
        let (request_uri, routes, last) = self.routing();
        let mut builder = RequestBuilder::new(method, &request_uri)
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70);
        for route in routes {
            builder = builder.header(HeaderName::Route, route);
        }
        if let Some(last) = last {
            builder = builder.header(HeaderName::Route, format_args!("<{last}>"));
        }
        builder = builder.header(
            HeaderName::From,
            format_args!("{};tag={}", self.local, self.local_tag),
        );
        builder = if self.remote_tag.is_empty() {
            builder.header(HeaderName::To, &self.remote)
        } else {
            builder.header(
                HeaderName::To,
                format_args!("{};tag={}", self.remote, self.remote_tag),
            )
        };
        builder
            .header(HeaderName::CallId, &self.call_id)
            .header(HeaderName::CSeq, format_args!("{number} {method}"))
    }

    /// Request-URI, Route values, and a last Route of a bare URI (§12.2.1.1).
    fn routing(&self) -> (Cow<'_, str>, &[String], Option<&str>) {
        let target = request_uri(&self.remote_target);
        match self.route_set.split_first() {
            Some((first, rest)) if !is_loose(first) => (
                request_uri(bracketed_uri(first)),
                rest,
                Some(&self.remote_target),
            ),
            _ => (target, &self.route_set, None),
        }
    }
}

/// Display name and URI of a From or To value, as received, without its parameters.
pub fn party(value: &NameAddr) -> String {
    struct Party<'a>(&'a NameAddr);
    impl fmt::Display for Party<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if let Some(display) = &self.0.display {
                write_quoted(f, display)?;
                f.write_str(" ")?;
            }
            write!(f, "<{}>", self.0.uri_text)
        }
    }
    Party(value).to_string()
}

/// The first Contact's URI, if there is a Contact.
fn contact(message: &Message) -> Result<Option<String>, DialogError> {
    let Some(value) = message.values(HeaderName::Contact).next() else {
        return Ok(None);
    };
    let contact = NameAddr::parse(value).map_err(DialogError::BadContact)?;
    match contact.uri {
        Uri::Sip(_) => Ok(Some(contact.uri_text.into())),
        _ => Err(DialogError::ContactScheme),
    }
}

/// The Record-Route values as they can stand in a Route header, in the message's order.
fn record_route(message: &Message) -> Result<Vec<String>, DialogError> {
    let mut routes = Vec::new();
    for value in message.values(HeaderName::RecordRoute) {
        if routes.len() == MAX_ROUTES {
            return Err(DialogError::TooManyRoutes);
        }
        let route = NameAddr::parse(value).map_err(DialogError::BadRecordRoute)?;
        if route.sip().is_none() {
            return Err(DialogError::RecordRouteScheme);
        }
        // The grammar demands angle brackets; a value without them is given its own.
        let mut text = format!("<{}>", route.uri_text);
        // Parameters of a Record-Route are copied to the Route (§20.34); writing to a String cannot fail.
        let _ = route.params.write_header(&mut text);
        routes.push(text);
    }
    Ok(routes)
}

/// What stands between the angle brackets that [`record_route`] wrote.
fn bracketed_uri(route: &str) -> &str {
    route
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or(route, |(uri, _)| uri)
}

fn is_loose(route: &str) -> bool {
    matches!(Uri::parse(bracketed_uri(route)), Ok(Uri::Sip(uri)) if uri.lr())
}

/// A Contact's or a route's URI as a Request-URI, which has neither headers nor a method (§19.1.1, table 1).
fn request_uri(uri: &str) -> Cow<'_, str> {
    let method = |name: &[u8]| name.eq_ignore_ascii_case(b"method");
    // An escape may hide a letter of the name.
    if !uri.contains(['?', '%']) && !uri.as_bytes().windows(6).any(method) {
        return uri.into();
    }
    match Uri::parse(uri) {
        Ok(Uri::Sip(mut parsed))
            if !parsed.headers.is_empty() || parsed.param("method").is_some() =>
        {
            parsed.headers.clear();
            parsed.params.remove("method");
            parsed.to_string().into()
        }
        _ => uri.into(),
    }
}

fn is_sips(uri: &str) -> bool {
    uri.get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("sips:"))
}

#[cfg(test)]
mod tests;
