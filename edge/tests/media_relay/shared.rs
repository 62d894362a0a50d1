//! The sockets that flows share, where the machine permits it.

use crate::bench::{V4, V6};
use sip_edge::media::occupied::OccupiedPorts;
use sip_edge::media::steering::Steering;
use sip_edge::media::{Hub, Sharing};
use std::sync::{Arc, LazyLock};

/// `None`: a message says that the test was skipped.
pub fn hub(sharing: Sharing) -> Option<Hub> {
    let addresses = [V4, V6].map(|text| text.parse().unwrap());
    let ports = (&(10_000..=60_000), occupied().clone());
    let opened = Steering::attach(addresses)
        .and_then(|steering| Ok(Hub::open(steering.thread(0)?, ports, sharing)));
    match opened {
        Ok(hub) => {
            assert!(hub.faults().is_empty(), "{:?}", hub.faults());
            Some(hub)
        }
        Err(error) => {
            // Anything but a want of privilege is a fault of the program.
            let text = with_causes(&error);
            assert!(text.contains("not permitted"), "{text}");
            println!("SKIPPED: flows cannot share sockets here ({text})");
            None
        }
    }
}

/// What the hubs know of others' ports.
pub fn occupied() -> &'static Arc<OccupiedPorts> {
    static OCCUPIED: LazyLock<Arc<OccupiedPorts>> = LazyLock::new(|| {
        let addresses = [V4, V6].map(|text| text.parse().unwrap());
        Arc::new(OccupiedPorts::new(addresses))
    });
    &OCCUPIED
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(|error| error.to_string()).collect();
    texts.join(": ")
}
