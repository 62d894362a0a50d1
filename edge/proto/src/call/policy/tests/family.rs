//! `network` and `bridge_families`.

use super::*;
use crate::call::policy::{Families, Transferee, family_check};
use crate::config::Network;

const V4: Families = Families {
    ipv4: true,
    ipv6: false,
};
const V6: Families = Families {
    ipv4: false,
    ipv6: true,
};

struct Case {
    transferor: Network,
    transferee: Families,
    target: Network,
    bridge: Option<usize>,
    media: &'static [&'static str],
}

fn check(case: &Case) -> Result<Families, String> {
    let mut fixture = Fixture::new();
    fixture.media = case.media.iter().map(|a| a.parse().unwrap()).collect();
    fixture.trunks[1].network = case.transferor;
    fixture.trunks[2].network = case.target;
    if let Some(trunk) = case.bridge {
        fixture.trunks[trunk].bridge_families = true;
    }
    let config = fixture.build();
    let transferee = Transferee {
        families: case.transferee,
        bridges: config.trunk_named("carrier").unwrap().bridge_families,
    };
    let target = config.trunk_named("agents").unwrap();
    family_check(&config, ai(&config), transferee, target).map_err(|m| m.to_string())
}

const BASE: Case = Case {
    transferor: Network::Dual,
    transferee: V4,
    target: Network::Dual,
    bridge: None,
    media: &["192.0.2.1", "2001:db8::1"],
};

#[test]
fn the_new_leg_uses_what_the_remaining_leg_has() {
    assert_eq!(check(&BASE), Ok(V4));
    assert_eq!(
        check(&Case {
            transferee: V6,
            ..BASE
        }),
        Ok(V6)
    );
    assert_eq!(
        check(&Case {
            transferee: Families::BOTH,
            ..BASE
        }),
        Ok(Families::BOTH)
    );
    assert_eq!(
        check(&Case {
            target: Network::Ipv4,
            ..BASE
        }),
        Ok(V4)
    );
    assert_eq!(
        check(&Case {
            transferee: Families::BOTH,
            media: &["192.0.2.1"],
            ..BASE
        }),
        Ok(V4)
    );
}

#[test]
fn a_mismatch_says_between_whom() {
    assert_eq!(
        check(&Case {
            target: Network::Ipv6,
            ..BASE
        })
        .unwrap_err(),
        "the other party's leg is IPv4 only, trunk \"agents\" is IPv6 only, and bridge_families is off"
    );
    assert_eq!(
        check(&Case {
            transferor: Network::Ipv4,
            transferee: V6,
            target: Network::Ipv6,
            ..BASE
        })
        .unwrap_err(),
        "trunk \"ai\" is IPv4 only, trunk \"agents\" is IPv6 only, and bridge_families is off"
    );
    assert_eq!(
        check(&Case {
            target: Network::Ipv6,
            media: &["192.0.2.1"],
            ..BASE
        })
        .unwrap_err(),
        "trunk \"agents\" is IPv6 only and this edge has no such media address"
    );
}

#[test]
fn any_of_the_three_trunks_may_bridge() {
    for bridge in [0, 1, 2] {
        let case = Case {
            target: Network::Ipv6,
            transferor: Network::Ipv4,
            bridge: Some(bridge),
            ..BASE
        };
        assert_eq!(check(&case), Ok(V6));
        let same = Case {
            bridge: Some(bridge),
            ..BASE
        };
        assert_eq!(check(&same), Ok(V4), "the same family is preferred");
    }
    assert!(
        check(&Case {
            target: Network::Ipv6,
            bridge: Some(3),
            ..BASE
        })
        .is_err()
    );
}

#[test]
fn a_leg_can_only_have_the_families_that_its_peer_can_use() {
    let mut fixture = Fixture::new();
    let net = |text: &str| text.parse().unwrap();
    fixture.trunks[0].allow = vec![net("192.0.2.2/32")];
    fixture.trunks[1].allow = vec![net("192.0.2.3/32"), net("2001:db8::3/128")];
    fixture.trunks[3].network = Network::Ipv6;
    let config = fixture.build();
    let families = |name: &str| {
        let trunk = config.trunk_named(name).unwrap();
        Transferee::possible(&config, trunk).families
    };
    // The edge of the fixture listens on IPv4 alone.
    assert_eq!(families("carrier"), V4);
    assert_eq!(families("ai"), V4);
    // Nothing fits: its network decides.
    assert_eq!(families("pbx"), V6);
    assert_eq!(families("inbound"), Families::BOTH);
    let mut config = config;
    config.listeners[0].address = "[::]:5060".parse().unwrap();
    let ai = Transferee::possible(&config, config.trunk_named("ai").unwrap());
    assert_eq!(ai.families, V6);
    let agents = Transferee::possible(&config, config.trunk_named("agents").unwrap());
    assert_eq!(agents.families, V6);
}

#[test]
fn sets_of_families() {
    let each: Vec<_> = Families::BOTH.each().collect();
    assert_eq!(each, [V4, V6]);
    assert_eq!(V4.each().collect::<Vec<_>>(), [V4]);
    assert_eq!(Families::NONE.each().count(), 0);
    assert_eq!(V4.or(V6), Families::BOTH);
    assert!(V4.and(V6).is_empty());
}
