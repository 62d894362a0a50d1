//! Whoever would miss packets that pass the kernel's IP by, is found while he is there, and not when he has gone.

use crate::xdp_support::netns::{Peer, attempt, ip};
use crate::xdp_support::privileged;
use crate::{ETH_P_ALL, index, ip_address, packet_socket};
use sip_edge::media::link::bystanders::{Bystander, Bystanders, Hook};

const LOCAL: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Who is found for either family.
fn look(bystanders: &mut Bystanders) -> [Option<Bystander>; 2] {
    let interface = index("edge0");
    LOCAL.map(|local| bystanders.look(interface, ip_address(local)))
}

const NOBODY: [Option<Bystander>; 2] = [None, None];

fn tc(arguments: &str) {
    let (ok, why) = attempt("tc", arguments);
    assert!(ok, "tc {arguments}: {why}");
}

/// Whether a program does as it is told; says so where it does not, or is not there.
fn able(test: &str, program: &str, arguments: &str) -> bool {
    let runs = std::process::Command::new(program)
        .arg("-V")
        .output()
        .is_ok();
    let (able, why) = match runs {
        true => attempt(program, arguments),
        false => (false, "no such program".to_owned()),
    };
    if !able {
        println!("SKIPPED {test}: {program} {arguments}: {}", why.trim());
    }
    able
}

#[test]
fn captures_are_found_for_as_long_as_they_run() {
    if !privileged("captures_are_found_for_as_long_as_they_run") {
        return;
    }
    let _peer = Peer::linked();
    ip("link add other0 type veth peer name other1");
    let mut bystanders = Bystanders::open().unwrap();
    assert_eq!(look(&mut bystanders), NOBODY);
    const ETH_P_ARP: u16 = 0x0806;
    // Both only see what comes in, or nothing of this interface.
    let _arp = packet_socket(ETH_P_ARP, index("edge0"));
    let _elsewhere = packet_socket(ETH_P_ALL, index("other0"));
    assert_eq!(look(&mut bystanders), NOBODY);
    for interface in [index("edge0"), 0] {
        let capture = packet_socket(ETH_P_ALL, interface);
        for found in look(&mut bystanders) {
            assert!(
                matches!(found, Some(Bystander::Capture { .. })),
                "{found:?}"
            );
        }
        drop(capture);
        assert_eq!(look(&mut bystanders), NOBODY);
    }
}

#[test]
fn queueing_disciplines_that_do_more_than_queue_are_found() {
    const TEST: &str = "queueing_disciplines_that_do_more_than_queue_are_found";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked_with("numtxqueues 2 numrxqueues 2");
    let mut bystanders = Bystanders::open().unwrap();
    assert_eq!(look(&mut bystanders), NOBODY);
    let found = |kind: &str| {
        let discipline = Bystander::Discipline {
            interface: "edge0".to_owned(),
            kind: kind.to_owned(),
        };
        [Some(discipline.clone()), Some(discipline)]
    };
    if able(
        TEST,
        "tc",
        "qdisc add dev edge0 root tbf rate 10mbit burst 10kb latency 50ms",
    ) {
        assert_eq!(look(&mut bystanders), found("tbf"));
        tc("qdisc del dev edge0 root");
        assert_eq!(look(&mut bystanders), NOBODY);
    }
    for queue in ["pfifo_fast", "mq", "fq", "fq_codel"] {
        if able(
            TEST,
            "tc",
            &format!("qdisc add dev edge0 handle 7: root {queue}"),
        ) {
            assert_eq!(look(&mut bystanders), NOBODY, "{queue}");
            if queue == "mq"
                && able(
                    TEST,
                    "tc",
                    "qdisc replace dev edge0 parent 7:2 tbf rate 10mbit burst 10kb latency 50ms",
                )
            {
                assert_eq!(look(&mut bystanders), found("tbf"));
            }
            tc("qdisc del dev edge0 root");
        }
    }
    // Filters of what comes in alone, and of both.
    for (filters, who) in [("ingress", NOBODY), ("clsact", found("clsact"))] {
        if able(TEST, "tc", &format!("qdisc add dev edge0 {filters}")) {
            assert_eq!(look(&mut bystanders), who, "{filters}");
            tc(&format!("qdisc del dev edge0 {filters}"));
        }
    }
    assert_eq!(look(&mut bystanders), NOBODY);
    ip("link add other0 type veth peer name other1");
    if able(
        TEST,
        "tc",
        "qdisc add dev other0 root tbf rate 10mbit burst 10kb latency 50ms",
    ) {
        assert_eq!(look(&mut bystanders), NOBODY);
    }
    ip("link set edge0 down");
    ip("link del other0");
    let interface = index("edge0");
    ip("link del edge0");
    let found = bystanders.look(interface, ip_address(LOCAL[0]));
    assert!(
        matches!(found, Some(Bystander::Unknown { .. })),
        "{found:?}"
    );
}

#[test]
fn rules_of_nftables_are_found_in_their_family() {
    const TEST: &str = "rules_of_nftables_are_found_in_their_family";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked();
    let mut bystanders = Bystanders::open().unwrap();
    let chain = |found: &Option<Bystander>| {
        matches!(found, Some(Bystander::Netfilter(Hook::Chain { table, chain, .. }))
            if table == "filter" && chain == "OUTPUT")
    };
    // They make tables of nf_tables, with base chains.
    let [v4, v6] = ["iptables-nft", "ip6tables-nft"];
    if !able(TEST, v4, "-A OUTPUT -d 198.51.100.1 -j DROP") {
        return;
    }
    let [ipv4, ipv6] = look(&mut bystanders);
    assert!(chain(&ipv4), "{ipv4:?}");
    assert_eq!(ipv6, None);
    if able(TEST, v6, "-A OUTPUT -d 2001:db8:9::1 -j DROP") {
        let [ipv4, ipv6] = look(&mut bystanders);
        assert!(chain(&ipv4) && chain(&ipv6), "{ipv4:?} {ipv6:?}");
    }
}

#[test]
fn rules_for_what_comes_in_are_nobodys_business() {
    const TEST: &str = "rules_for_what_comes_in_are_nobodys_business";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked();
    let mut bystanders = Bystanders::open().unwrap();
    assert_eq!(look(&mut bystanders), NOBODY);
    if able(
        TEST,
        "nft",
        "add table inet t; add chain inet t in { type filter hook input priority 0; }",
    ) {
        assert_eq!(look(&mut bystanders), NOBODY);
        for (hook, device) in [("postrouting", ""), ("output", "")] {
            let add =
                format!("add chain inet t out {{ type filter hook {hook} priority 0{device}; }}");
            assert!(able(TEST, "nft", &add));
            for found in look(&mut bystanders) {
                assert!(matches!(found, Some(Bystander::Netfilter(_))), "{found:?}");
            }
            assert!(able(TEST, "nft", "delete chain inet t out"));
            assert_eq!(look(&mut bystanders), NOBODY);
        }
    }
}

#[test]
fn tables_of_the_older_iptables_are_found_in_their_family() {
    const TEST: &str = "tables_of_the_older_iptables_are_found_in_their_family";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked();
    let mut bystanders = Bystanders::open().unwrap();
    if able(TEST, "iptables-legacy", "-A OUTPUT -d 198.51.100.1 -j DROP") {
        let [ipv4, ipv6] = look(&mut bystanders);
        assert!(matches!(ipv4, Some(Bystander::Netfilter(_))), "{ipv4:?}");
        assert_eq!(ipv6, None);
    }
    if able(
        TEST,
        "ip6tables-legacy",
        "-A OUTPUT -d 2001:db8:9::1 -j DROP",
    ) {
        let [_, ipv6] = look(&mut bystanders);
        assert!(matches!(ipv6, Some(Bystander::Netfilter(_))), "{ipv6:?}");
    }
}
