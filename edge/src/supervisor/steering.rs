//! Whether flows share sockets: attached once, a hub for each media thread.

use crate::config::{MediaSteering, Settings};
use crate::media::Hub;
use crate::media::ipsec;
use crate::media::steering::{Steering, SteeringError};
use edge_proto::id::CoreId;

/// Attaches the program that steers latched flows to shared sockets, if the configuration wants it and the kernel permits it.
pub(super) fn attach(settings: &Settings) -> Option<Steering> {
    if settings.media.steering == MediaSteering::Off {
        return None;
    }
    let media = &settings.protocol.media;
    let addresses = [&media.ipv4, &media.ipv6].into_iter().flatten();
    match Steering::attach(addresses.map(|address| address.bind)) {
        Ok(steering) => Some(steering),
        Err(error) => {
            warn(&error);
            None
        }
    }
}

/// The hub of a core's media thread.
pub(super) fn hub(steering: Option<&Steering>, core: CoreId, settings: &Settings) -> Option<Hub> {
    let thread = steering?.thread(core.0).inspect_err(warn).ok()?;
    let hub = Hub::open(thread, &settings.protocol.media.ports, may_send(settings));
    hub.faults().iter().for_each(warn);
    Some(hub)
}

/// Whether flows may share the socket that sends.
fn may_send(settings: &Settings) -> bool {
    if settings.media.steering == MediaSteering::Receive {
        return false;
    }
    match ipsec::outbound_policies() {
        Ok(0) => true,
        Ok(policies) => {
            tracing::info!(
                policies,
                "the host has IPsec policies: flows send by sockets of their own, which all policies apply to"
            );
            false
        }
        Err(error) => {
            tracing::warn!(%error, "cannot ask for IPsec policies: flows send by sockets of their own");
            false
        }
    }
}

fn warn(error: &SteeringError) {
    tracing::warn!(
        %error,
        "media flows share no sockets, or less than they could, which costs more processor time per packet (media.steering = \"off\" \
         accepts it)"
    );
}
