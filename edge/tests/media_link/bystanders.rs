//! Whoever would miss packets that pass the kernel's IP by, is found while he is there, and not when he has gone.

use crate::bpf::{Attached, EGRESS_OF_GROUP, TCX_EGRESS, TCX_INGRESS};
use crate::xdp_support::netns::{Peer, attempt, ip};
use crate::xdp_support::privileged;
use crate::{ETH_P_ALL, index, ip_address, keep_capabilities, packet_socket};
use rustix::thread::CapabilitySet;
use sip_edge::media::link::bystanders::{Bystander, Bystanders, Hook};
use sip_edge::media::link::cgroup;
use std::path::PathBuf;

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
fn chains_are_found_where_what_leaves_comes_by() {
    const TEST: &str = "chains_are_found_where_what_leaves_comes_by";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked();
    let mut bystanders = Bystanders::open().unwrap();
    let incoming = "add table inet t; add chain inet t in { type filter hook input priority 0; }";
    if !able(TEST, "nft", incoming) {
        return;
    }
    assert_eq!(look(&mut bystanders), NOBODY);
    let chains = [
        ("inet", "hook postrouting", [true, true]),
        ("inet", "hook output", [true, true]),
        ("ip", "hook output", [true, false]),
        ("ip6", "hook postrouting", [false, true]),
        ("ip", "hook forward", [false, false]),
        ("netdev", "hook ingress device edge0", [false, false]),
        ("netdev", "hook egress device edge0", [true, true]),
    ];
    for (family, hook, expected) in chains {
        let chain = format!("chain {family} u c {{ type filter {hook} priority 0; }}");
        if able(TEST, "nft", &format!("add table {family} u; add {chain}")) {
            let found = look(&mut bystanders);
            let hooked = |found: &Option<Bystander>| matches!(found, Some(Bystander::Netfilter(_)));
            assert_eq!(
                found.each_ref().map(hooked),
                expected,
                "{family} {hook}: {found:?}"
            );
            assert!(able(TEST, "nft", &format!("delete table {family} u")));
            assert_eq!(look(&mut bystanders), NOBODY);
        }
    }
}

#[test]
fn programs_at_the_egress_are_found_and_others_are_not() {
    const TEST: &str = "programs_at_the_egress_are_found_and_others_are_not";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked();
    let mut bystanders = Bystanders::open().unwrap();
    let ingress = match Attached::to_interface(index("edge0"), TCX_INGRESS) {
        Ok(attached) => attached,
        Err(error) => {
            println!("SKIPPED {TEST}: this kernel has no tcx: {error}");
            return;
        }
    };
    assert_eq!(look(&mut bystanders), NOBODY);
    let egress = Attached::to_interface(index("edge0"), TCX_EGRESS).unwrap();
    let programs = Some(Bystander::Programs {
        interface: "edge0".to_owned(),
        programs: 1,
    });
    assert_eq!(look(&mut bystanders), [programs.clone(), programs]);
    drop(egress);
    assert_eq!(look(&mut bystanders), NOBODY);
    drop(ingress);
}

/// In a group of the test's own, which nobody is in.
#[test]
fn programs_of_a_control_group_are_counted() {
    const TEST: &str = "programs_of_a_control_group_are_counted";
    if !privileged(TEST) {
        return;
    }
    let own = match cgroup::own() {
        Ok(Some(own)) => own,
        other => {
            println!("SKIPPED {TEST}: no control group of version 2: {other:?}");
            return;
        }
    };
    let before = cgroup::egress_programs(&own).unwrap();
    let path = own.join(format!("sip-edge-test-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&path) {
        println!("SKIPPED {TEST}: no control group of its own: {error}");
        return;
    }
    let group = Group(path);
    assert_eq!(cgroup::egress_programs(&group.0).unwrap(), before);
    let attached = Attached::to_group(&group.0, EGRESS_OF_GROUP).unwrap();
    assert_eq!(cgroup::egress_programs(&group.0).unwrap(), before + 1);
    drop(attached);
    assert_eq!(cgroup::egress_programs(&group.0).unwrap(), before);
    assert_eq!(cgroup::egress_programs(&own).unwrap(), before);
}

/// A control group, removed when dropped.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        // Its files are the kernel's, and go with it.
        std::fs::remove_dir(&self.0).unwrap();
    }
}

/// Two capabilities are enough; and whoever may not ask does not take that for an answer.
#[test]
fn without_privileges_nobody_is_ruled_out() {
    if !privileged("without_privileges_nobody_is_ruled_out") {
        return;
    }
    let _peer = Peer::linked();
    keep_capabilities(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
    assert_eq!(look(&mut Bystanders::open().unwrap()), NOBODY);
    keep_capabilities(CapabilitySet::empty());
    for found in look(&mut Bystanders::open().unwrap()) {
        assert!(
            matches!(found, Some(Bystander::Unknown { .. })),
            "{found:?}"
        );
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
