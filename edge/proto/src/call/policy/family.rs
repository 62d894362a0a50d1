//! Address families of the legs of a transfer: `network` and `bridge_families`.

use crate::config::{Config, MediaConfig, Network, Trunk};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A set of address families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Families {
    pub const BOTH: Families = Families {
        ipv4: true,
        ipv6: true,
    };

    pub const NONE: Families = Families {
        ipv4: false,
        ipv6: false,
    };

    /// The family of one address.
    pub fn of(address: IpAddr) -> Families {
        let ipv4 = address.to_canonical().is_ipv4();
        Families { ipv4, ipv6: !ipv4 }
    }

    /// The families that this edge has a media address of.
    pub fn of_media(media: &MediaConfig) -> Families {
        Families {
            ipv4: media.ipv4.is_some(),
            ipv6: media.ipv6.is_some(),
        }
    }

    /// Those in both sets.
    pub fn and(self, other: Families) -> Families {
        Families {
            ipv4: self.ipv4 && other.ipv4,
            ipv6: self.ipv6 && other.ipv6,
        }
    }

    /// Those in either set.
    pub fn or(self, other: Families) -> Families {
        Families {
            ipv4: self.ipv4 || other.ipv4,
            ipv6: self.ipv6 || other.ipv6,
        }
    }

    /// The sets of one family that make up this one.
    pub fn each(self) -> impl Iterator<Item = Families> {
        let ipv4 = Families {
            ipv6: false,
            ..self
        };
        let ipv6 = Families {
            ipv4: false,
            ..self
        };
        [ipv4, ipv6].into_iter().filter(|one| !one.is_empty())
    }

    /// Whether the family of `address` is among them.
    pub fn contain(self, address: IpAddr) -> bool {
        !self.and(Families::of(address)).is_empty()
    }

    pub fn is_empty(self) -> bool {
        !self.ipv4 && !self.ipv6
    }
}

impl From<Network> for Families {
    fn from(network: Network) -> Families {
        Families {
            ipv4: network != Network::Ipv6,
            ipv6: network != Network::Ipv4,
        }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.ipv4, self.ipv6) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4 only",
            (false, true) => "IPv6 only",
            (false, false) => "neither IPv4 nor IPv6",
        })
    }
}

/// The leg that stays when the transferor leaves: usually the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Transferee {
    /// The family of its media; what its trunk's `network` permits where no call exists yet.
    pub families: Families,
    /// `bridge_families` of its trunk.
    pub bridges: bool,
}

impl Transferee {
    /// A leg whose media uses `local`, an address of this edge.
    pub fn live(local: IpAddr, trunk: &Trunk) -> Transferee {
        Transferee {
            families: Families::of(local),
            bridges: trunk.bridge_families,
        }
    }

    /// Any leg that `trunk` could have: media follows the families that its peer can signal over.
    pub fn possible(config: &Config, trunk: &Trunk) -> Transferee {
        let network = Families::from(trunk.network).and(Families::of_media(&config.media));
        let reachable = network
            .and(families_of_listeners(config, trunk))
            .and(families_of_peer(trunk));
        Transferee {
            // A trunk that fits nothing carries no calls; the check of the configuration says so elsewhere.
            families: if reachable.is_empty() {
                network
            } else {
                reachable
            },
            bridges: trunk.bridge_families,
        }
    }
}

fn families_of_listeners(config: &Config, trunk: &Trunk) -> Families {
    let listeners = trunk.listen.iter().filter_map(|&id| config.listener(id));
    listeners.fold(Families::NONE, |families, listener| {
        families.or(Families::of(listener.address.ip()))
    })
}

/// The families of the addresses that the peer may use: those that `allow` lists, and those that its calls go to.
fn families_of_peer(trunk: &Trunk) -> Families {
    let listed = trunk.allow.iter().map(|net| Families::of(net.addr()));
    let called = trunk.uris.iter().map(|uri| {
        let address = uri.host.parse::<IpAddr>().ok();
        address.map_or(Families::BOTH, Families::of)
    });
    listed.chain(called).fold(Families::NONE, Families::or)
}

/// Two trunks of a transfer share no address family.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FamilyMismatch {
    #[error("trunk \"{target}\" is {families} and this edge has no such media address")]
    NoMedia { target: String, families: Families },
    #[error(
        "trunk \"{transferor}\" is {theirs}, trunk \"{target}\" is {families}, and bridge_families is off"
    )]
    Transferor {
        transferor: String,
        theirs: Families,
        target: String,
        families: Families,
    },
    #[error(
        "the other party's leg is {theirs}, trunk \"{target}\" is {families}, and bridge_families is off"
    )]
    Transferee {
        theirs: Families,
        target: String,
        families: Families,
    },
}

/// The families that the new leg may use, where there is one.
///
/// The target's trunk must share a family with the trunk that sent the REFER and with the leg that stays. With
/// `bridge_families` on any of the three it need not; the families of the leg that stays are then still preferred.
pub fn family_check(
    config: &Config,
    transferor: &Trunk,
    transferee: Transferee,
    target: &Trunk,
) -> Result<Families, FamilyMismatch> {
    let families = Families::from(target.network);
    let usable = families.and(Families::of_media(&config.media));
    if usable.is_empty() {
        return Err(FamilyMismatch::NoMedia {
            target: target.name.to_string(),
            families,
        });
    }
    let shared = usable.and(transferee.families);
    if transferor.bridge_families || transferee.bridges || target.bridge_families {
        return Ok(if shared.is_empty() { usable } else { shared });
    }
    let theirs = Families::from(transferor.network);
    if families.and(theirs).is_empty() {
        return Err(FamilyMismatch::Transferor {
            transferor: transferor.name.to_string(),
            theirs,
            target: target.name.to_string(),
            families,
        });
    }
    if shared.is_empty() {
        return Err(FamilyMismatch::Transferee {
            theirs: transferee.families,
            target: target.name.to_string(),
            families,
        });
    }
    Ok(shared)
}

/// The trunks whose legs a transfer by `transferor` may leave behind: those with a route to it, and those it has a route to.
pub fn other_parties<'a>(
    config: &'a Config,
    transferor: &'a Trunk,
) -> impl Iterator<Item = &'a Trunk> {
    let related = |trunk: &&'a Arc<Trunk>| {
        config.routes.iter().any(|route| {
            let calls =
                |from: &str, to: &str| route.from == from && route.to.iter().any(|name| name == to);
            calls(&trunk.name, &transferor.name) || calls(&transferor.name, &trunk.name)
        })
    };
    config.trunks.iter().filter(related).map(|trunk| &**trunk)
}
