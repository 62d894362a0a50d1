//! Requests of ours within a dialog: where they go, and what becomes of a leg whose connection is lost.

use super::Call;
use crate::b2bua::{ClientPurpose, ClientUse, Context, Hop, PRODUCT};
use crate::event::LegNumber;
use crate::sip::dialog::ViaLine;
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Method, RequestBuilder};

impl Call {
    /// Sends a request within the dialog of `leg`, in a transaction of its own; `fill` adds to it. `None`: there is no dialog,
    /// nobody to send to, or no room for a transaction.
    pub(super) fn send_in_dialog(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        purpose: ClientPurpose,
        method: Method,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Option<ClientKey> {
        let l = self.legs.get_mut(leg)?;
        let next_hop = l.dialog.as_ref()?.next_hop().to_owned();
        let hop = cx.dialog_hop(&next_hop, l.reach())?;
        l.hop = Some(hop);
        let branch = cx.branch();
        let (transport, sent_by) = l.via(cx)?;
        let via = ViaLine {
            transport,
            sent_by: &sent_by,
            branch: &branch,
        };
        let refreshes = matches!(method, Method::Invite | Method::Update | Method::Notify);
        let contact = refreshes.then_some(l.contact.as_str());
        let request = l
            .dialog
            .as_mut()?
            .request(&method, &via, contact)
            .header(HeaderName::UserAgent, PRODUCT);
        let user = ClientUse {
            call: self.key,
            leg,
            purpose,
            method,
            trunk: l.label.clone(),
            sent_at: cx.now,
            hop,
        };
        cx.send_request(&branch, fill(request).build(), user, self.id.clone())
    }

    /// A connection is gone, perhaps one of another core that looks open from here.
    pub fn on_hop_lost(&mut self, leg: LegNumber, hop: Hop) {
        if let Some(l) = self.legs.get_mut(leg) {
            l.hop = l.hop.filter(|&own| own != hop);
        }
    }
}
