//! What our INVITE and its ACK say.

use super::leg::Leg;
use super::policy::Families;
use super::setup::{ANONYMOUS, CallerIdentity};
use crate::b2bua::{ALLOW, Candidate, Context, PRODUCT};
use crate::config::{PresentAs, PresentedCredentials, Transport, TrunkUri};
use crate::sdp::{Codec, LocalDescription};
use crate::sip::dialog::{Dialog, SentRequest, ViaLine, party};
use crate::sip::{HeaderName, Host, Message, Method, NameAddr, RequestBuilder, SipUri};
use crate::time::Duration;
use compact_str::CompactString;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// What the INVITE of a new leg says.
#[derive(Clone, Debug)]
pub(crate) struct InviteTemplate {
    /// User part of the Request-URI and of To.
    pub number: CompactString,
    pub caller: CallerIdentity,
    /// Further headers, in order, the trunk's own among them.
    pub headers: Vec<(String, String)>,
    /// Offered, in order of preference.
    pub codecs: Vec<Codec>,
    pub max_forwards: u8,
    /// Shown when challenged.
    pub present: Option<PresentedCredentials>,
    /// How long the peer may leave an INVITE with credentials without any response; `None`: as long as any INVITE.
    pub auth_timeout: Option<Duration>,
    /// Addresses of other families are not called.
    pub families: Families,
}

/// The INVITE that was sent last, as far as its answers need it.
#[derive(Clone, Debug)]
pub(crate) struct SentInvite {
    uri: String,
    /// From and To, as a dialog has them.
    local: String,
    remote: String,
    cseq: u32,
    credentials: Option<(HeaderName, String)>,
}

impl Leg {
    /// The dialog that an answer to our INVITE makes. `None`: it makes none, or there was no INVITE.
    pub(super) fn dialog_by(&self, answer: &Message) -> Option<Dialog> {
        let sent = self.sent_invite.as_ref()?;
        let request = SentRequest {
            uri: &sent.uri,
            call_id: &self.sip_call_id,
            local_tag: &self.local_tag,
            local: &sent.local,
            remote: &sent.remote,
            number: sent.cseq,
        };
        Dialog::uac(request, answer).ok()
    }

    /// The Via of our next request in this leg's transport.
    pub(super) fn via(&self, cx: &Context) -> Option<(Transport, String)> {
        let hop = self.hop?;
        let peer = self.peer?;
        let transport = cx.known_transport(hop).or(self.transport)?;
        let sent_by = match self.located.as_ref() {
            Some(located) => cx.sent_by(&self.trunk, located.uri.transport, located.address),
            None => cx.sent_by(&self.trunk, transport, peer),
        }
        .or_else(|| contact_address(&self.contact))?;
        Some((transport, sent_by.to_string()))
    }

    /// The Request-URI of the leg's INVITE: the number at the trunk's host, port and transport, whatever anybody asked for.
    pub(super) fn request_uri(&self) -> String {
        let (Some(located), Some(origination)) = (&self.located, &self.origination) else {
            return String::new();
        };
        target_uri(&located.uri, &origination.template.number)
    }

    pub(super) fn build_invite(
        &mut self,
        branch: &str,
        located: &Candidate,
        advertised: SocketAddr,
        local: &LocalDescription,
    ) -> Option<bytes::Bytes> {
        let request_uri = self.request_uri();
        let trunk = self.trunk.clone();
        let origination = self.origination.as_deref_mut()?;
        let template = &origination.template;
        if origination.to.is_empty() {
            origination.to = format!("<{}>", plain_uri(&located.uri, &template.number));
        }
        let from = origination.from.get_or_insert_with(|| {
            let (display, user) = match &trunk.present_as {
                PresentAs::Caller => (&template.caller.display, template.caller.user.as_deref()),
                PresentAs::Fixed(number) => (&None, Some(number.as_str())),
            };
            from_value(display, user, advertised, located.uri.sips)
        });
        self.sent_invite = Some(SentInvite {
            uri: request_uri.clone(),
            local: party(from),
            remote: origination.to.clone(),
            cseq: origination.cseq,
            credentials: origination.authorization.clone(),
        });
        let mut request = RequestBuilder::new(&Method::Invite, &request_uri)
            .header(
                HeaderName::Via,
                format_args!(
                    "SIP/2.0/{} {advertised};branch={branch}{}",
                    located.uri.transport.via_name(),
                    if located.uri.transport == Transport::Udp {
                        ";rport"
                    } else {
                        ""
                    }
                ),
            )
            .header(HeaderName::MaxForwards, template.max_forwards)
            .header(
                HeaderName::From,
                format_args!("{from};tag={}", self.local_tag),
            )
            .header(HeaderName::To, &origination.to)
            .header(HeaderName::CallId, &self.sip_call_id)
            .header(
                HeaderName::CSeq,
                format_args!("{} INVITE", origination.cseq),
            )
            .header(HeaderName::Contact, &self.contact)
            .header(HeaderName::Allow, ALLOW)
            .header(HeaderName::Supported, "norefersub")
            .header(HeaderName::UserAgent, PRODUCT);
        if let Some((name, value)) = &origination.authorization {
            request = request.header(*name, value);
        }
        for (name, value) in &template.headers {
            request = request.header(name.as_str(), value);
        }
        Some(
            request
                .body("application/sdp", &local.offer_bytes())
                .build(),
        )
    }

    pub(super) fn build_ack(
        &self,
        cx: &mut Context,
        dialog: &mut Dialog,
        cseq: u32,
    ) -> Option<bytes::Bytes> {
        let branch = cx.branch();
        let (transport, sent_by) = self.via(cx)?;
        let via = ViaLine {
            transport,
            sent_by: &sent_by,
            branch: &branch,
        };
        // RFC 3261 §22.1: the ACK carries the INVITE's credentials, since it cannot be challenged.
        let ack = dialog.ack(cseq, &via);
        let sent = self.sent_invite.as_ref();
        let ack = match sent.and_then(|invite| invite.credentials.as_ref()) {
            Some((name, value)) => ack.header(*name, value),
            None => ack,
        };
        Some(ack.build())
    }
}

/// A URI of `user` at `host`.
pub(super) fn sip_uri(sips: bool, user: Option<&str>, host: Host) -> SipUri {
    let mut uri = SipUri::new(host);
    uri.sips = sips;
    uri.user = user.map(CompactString::from);
    uri
}

/// A configured host; the configuration check has refused what is none.
pub(super) fn host_of(text: &str) -> Host {
    Host::parse_lenient(text).unwrap_or_else(|_| Host::Name("invalid".into()))
}

/// `user` at the trunk's own host, port and transport.
fn target_uri(uri: &TrunkUri, user: &str) -> String {
    let mut text = plain_uri(uri, user);
    text.reserve_exact(20);
    // Writing to a String cannot fail.
    if let Some(port) = uri.port {
        let _ = write!(text, ":{port}");
    }
    match uri.transport {
        Transport::Tls if uri.sips => {}
        Transport::Udp => {}
        transport => {
            let _ = write!(text, ";transport={}", transport.uri_name());
        }
    }
    text
}

/// Scheme, user and host only, as To and From show them.
fn plain_uri(uri: &TrunkUri, user: &str) -> String {
    sip_uri(uri.sips, Some(user), host_of(&uri.host)).to_string()
}

fn from_value(
    display: &Option<CompactString>,
    user: Option<&str>,
    advertised: SocketAddr,
    sips: bool,
) -> NameAddr {
    let user = user.unwrap_or(ANONYMOUS);
    let mut from = NameAddr::new(sip_uri(sips, Some(user), advertised.ip().into()));
    from.display.clone_from(display);
    from
}

fn contact_address(contact: &str) -> Option<SocketAddr> {
    let rest = contact.split_once('@')?.1;
    let end = rest.find([';', '>'])?;
    rest.get(..end)?.parse().ok()
}
