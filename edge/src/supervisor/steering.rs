//! Whether flows share sockets: attached once, a hub for each media thread.

use crate::config::{MediaSteering, Settings};
use crate::media::Hub;
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
    let thread = steering?.thread(core.0);
    let opened = thread.and_then(|thread| Hub::open(thread, &settings.protocol.media.ports));
    match opened {
        Ok(hub) => {
            if !hub.sends() {
                tracing::warn!(
                    %core,
                    "without CAP_NET_RAW each flow sends by a socket of its own, which costs more processor time per packet"
                );
            }
            Some(hub)
        }
        Err(error) => {
            warn(&error);
            None
        }
    }
}

fn warn(error: &SteeringError) {
    tracing::warn!(
        %error,
        "media flows do not share sockets, which costs more processor time per packet (media.steering = \"off\" accepts it)"
    );
}
