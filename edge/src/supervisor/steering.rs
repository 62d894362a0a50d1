//! What media flows share: decided once at the start, a hub for each media thread.

use super::RunError;
use crate::config::{Environment, FastPath, MediaSteering, Settings};
use crate::media::claim::{ClaimError, PortClaim, Use};
use crate::media::link::service::LinkService;
use crate::media::link::table::WayTable;
use crate::media::occupied::OccupiedPorts;
use crate::media::steering::{Steering, SteeringError};
use crate::media::{self, ipsec};
use crate::media::{Hub, Sharing};
use edge_proto::id::CoreId;
use std::net::IpAddr;
use std::sync::Arc;

/// What there is to be shared.
#[derive(Debug)]
pub(super) struct SharedMedia {
    steering: Option<Steering>,
    sharing: Sharing,
    occupied: Arc<OccupiedPorts>,
    #[expect(
        dead_code,
        reason = "the media ports are this edge's for as long as it runs"
    )]
    claims: Vec<PortClaim>,
}

impl SharedMedia {
    /// Claims the media ports, and attaches the program that gives packets to shared sockets, if the configuration wants it and the kernel permits
    /// it. The error: another edge uses these ports without sockets of their own, so nobody would notice when two calls had the same.
    pub(super) fn start(settings: &Settings) -> Result<SharedMedia, RunError> {
        let steering = attach(settings);
        let mut sharing = match &steering {
            Some(_) => wanted(settings),
            None => Sharing::Receivers,
        };
        let (mut claims, mut reason) = (Vec::new(), None);
        if sharing == Sharing::Ports {
            match claim(&mut claims, settings, Use::Sole) {
                Ok(()) => {}
                Err(error) => {
                    reason = Some(error);
                    claims.clear();
                    sharing = Sharing::Senders;
                }
            }
        }
        if claims.is_empty() {
            match claim(&mut claims, settings, Use::Shared) {
                Err(ClaimError::System { doing, error }) => {
                    tracing::warn!(doing, %error, "cannot see whether another edge uses the same media ports");
                }
                result => result?,
            }
        }
        if let Some(reason) = reason {
            tracing::info!(%reason, "media ports have sockets of their own");
        }
        let shared = SharedMedia {
            steering,
            sharing,
            occupied: Arc::new(OccupiedPorts::new(addresses(settings))),
            claims,
        };
        shared.look_at_ports();
        match shared.sharing() {
            None => tracing::info!("media flows have sockets of their own"),
            Some(Sharing::Receivers) => {
                tracing::info!("media flows share the sockets that receive")
            }
            Some(Sharing::Senders) => {
                tracing::info!("media flows share sockets, ports have their own besides")
            }
            Some(Sharing::Ports) => {
                tracing::info!("media flows share sockets, ports have none of their own")
            }
        }
        Ok(shared)
    }

    /// What flows share; `None`: each has sockets of its own.
    pub(super) fn sharing(&self) -> Option<Sharing> {
        self.steering.as_ref().map(|_| self.sharing)
    }

    /// Looks which media ports others have. To be called every few seconds.
    pub(super) fn look_at_ports(&self) {
        // Ports with sockets of their own say so themselves.
        if self.sharing == Sharing::Ports
            && let Err(error) = self.occupied.look()
        {
            tracing::warn!(%error, "cannot see which media ports others use");
        }
    }

    /// Looks after the ways past the kernel's IP for `threads` media threads, and what each of them is given; `None` where there are none.
    pub(super) fn links(
        &self,
        settings: &Settings,
        threads: usize,
    ) -> Option<(LinkService, Vec<WayTable>)> {
        // What leaves by sockets of its own has no headers of ours.
        let shares_sender = self.sharing() >= Some(Sharing::Senders);
        if settings.fast_path == FastPath::Off || !shares_sender {
            return None;
        }
        LinkService::new(threads)
            .inspect_err(|error| {
                tracing::info!(%error, "media leaves through the kernel's IP (media.fast_path)");
            })
            .ok()
    }

    /// The hub of a core's media thread.
    pub(super) fn hub(&self, core: CoreId, settings: &Settings) -> Option<Hub> {
        let steering = self.steering.as_ref()?;
        let thread = steering.thread(core.0).inspect_err(warn).ok()?;
        let ports = &settings.protocol.media.ports;
        let hub = Hub::open(thread, (ports, self.occupied.clone()), self.sharing);
        hub.faults().iter().for_each(warn);
        Some(hub)
    }
}

fn attach(settings: &Settings) -> Option<Steering> {
    if settings.media.steering == MediaSteering::Off {
        return None;
    }
    match Steering::attach(addresses(settings)) {
        Ok(steering) => Some(steering),
        Err(error) => {
            warn(&error);
            None
        }
    }
}

/// What flows may share on this host.
fn wanted(settings: &Settings) -> Sharing {
    if settings.media.steering == MediaSteering::Receive {
        return Sharing::Receivers;
    }
    match ipsec::outbound_policies() {
        Ok(0) => {}
        Ok(policies) => {
            tracing::info!(
                policies,
                "the host has IPsec policies: flows send by sockets of their own, which all policies apply to"
            );
            return Sharing::Receivers;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot ask for IPsec policies: flows send by sockets of their own");
            return Sharing::Receivers;
        }
    }
    for address in addresses(settings) {
        // What has no socket to be received by the program, or none to be sent from, needs its own.
        if address.is_unspecified() || media::probe_shared_sender(address).is_err() {
            return Sharing::Senders;
        }
    }
    // Nothing is bound to a port without a socket: the kernel might give it to somebody else.
    match Environment::probe().handed_out_port(&settings.protocol.media.ports) {
        None => Sharing::Ports,
        Some(port) => {
            tracing::info!(
                port,
                "the kernel may give media ports to outgoing sockets, so each has a socket of its own, which costs memory and time per call \
                 (net.ipv4.ip_local_reserved_ports prevents it)"
            );
            Sharing::Senders
        }
    }
}

/// Says which ports this edge uses, then looks whether another uses them. What it has said stays said, whatever it sees.
fn claim(claims: &mut Vec<PortClaim>, settings: &Settings, usage: Use) -> Result<(), ClaimError> {
    let ports = &settings.protocol.media.ports;
    for address in addresses(settings) {
        claims.push(PortClaim::say(address, ports.clone(), usage)?);
    }
    claims.iter().try_for_each(PortClaim::look)
}

/// Where media is: at most one address of each family, possibly a wildcard.
fn addresses(settings: &Settings) -> impl Iterator<Item = IpAddr> {
    let media = &settings.protocol.media;
    let addresses = [&media.ipv4, &media.ipv6].into_iter().flatten();
    addresses.map(|address| address.bind)
}

fn warn(error: &SteeringError) {
    tracing::warn!(
        %error,
        "media flows share no sockets, or less than they could, which costs more processor time per packet (media.steering = \"off\" \
         accepts it)"
    );
}
