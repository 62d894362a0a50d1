/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The layout of every map that the XDP programs share with the daemon. edge/src/access/layout.rs declares the same structs,
 * and a test compares the two through the object's BTF. Any change here is a new EDGE_LAYOUT_VERSION: maps are pinned under
 * sip-edge/v<version>, so that an upgraded daemon never reads what another version wrote.
 *
 * Addresses are in network byte order, an IPv4 address in word 0 with the other words zero. Ports are in host byte order.
 */
#ifndef SIP_EDGE_LAYOUT_H
#define SIP_EDGE_LAYOUT_H

#include <linux/types.h>

#define EDGE_LAYOUT_VERSION 1

/* Tables exist twice. The daemon fills the idle generation and then switches with one store to edge_control.active. */
#define EDGE_GENERATIONS 2
/* Most listeners of a generation. */
#define EDGE_LISTENERS 256
#define EDGE_PORTS 65536
/* Most listeners on one port and protocol. */
#define EDGE_CHAIN 64
/* Room for bounds and sets of trunks, all generations together. The daemon raises both where its configuration needs more. */
#define EDGE_BOUNDS (EDGE_GENERATIONS * 262144)
#define EDGE_SETS (EDGE_GENERATIONS * 16384)
/* Steps of the search for an interval: enough for 2^21 of them. */
#define EDGE_SEARCH_STEPS 22
/* Most media ports open at once, both families. */
#define EDGE_FLOWS 131072
/* Rows of the drop counters: one per listener that ever was, one for media ports, one for what no listener can be named for. */
#define EDGE_COUNTER_ROWS 512
#define EDGE_COUNTER_MEDIA 0
#define EDGE_COUNTER_ANY 1
/* Columns of the drop counters. */
#define EDGE_REASONS 16
/* How far a packet is followed before it counts as one that cannot be judged. */
#define EDGE_VLAN_TAGS 4
#define EDGE_EXTENSIONS 8

#define EDGE_FAMILY_IPV4 4
#define EDGE_FAMILY_IPV6 6

/* Why a packet was dropped; a column of the drop counters and the `reason` label of the metric. */
enum edge_reason {
	/* Its source is in no prefix of a trunk that uses the listener. */
	EDGE_UNLISTED = 0,
	/* A media port that is open for other sources. */
	EDGE_STRANGER = 1,
	/* A media port that is not open, and no socket of the host waits on it. */
	EDGE_UNALLOCATED = 2,
	/* The header ends before the ports, or lies about its own length. */
	EDGE_TRUNCATED = 3,
	/* A first fragment that ends before the ports. */
	EDGE_SHORT_FRAGMENT = 4,
	/* A TCP fragment at offset 1, which could overwrite the flags of its first fragment (RFC 3128). */
	EDGE_OVERLAP = 5,
	/* More extension headers or VLAN tags than are followed. */
	EDGE_TOO_DEEP = 6,
	/* A source route with hops left: the address it really goes to is not the one in the header. */
	EDGE_SOURCE_ROUTED = 7,
	/* An IPv4-mapped source in an IPv6 header: it would be taken for an IPv4 peer. */
	EDGE_MAPPED_SOURCE = 8,
};

/* control[0] */
struct edge_control {
	/* 0: everything passes; n: generation n - 1 is in force. */
	__u32 active;
};

/* scopes[generation] */
struct edge_scope {
	__u32 media4;
	__u32 media6[4];
	/* Both inclusive. */
	__u16 media_low;
	__u16 media_high;
	/* 0: no media on this family; 1: at the address above; 2: at any address. */
	__u8 media4_scope;
	__u8 media6_scope;
	/* Entries of `listeners` in use. */
	__u16 listeners;
	/* Where the generation's part of each map starts, and its entries in use. */
	__u32 bounds4_first;
	__u32 bounds4;
	__u32 bounds6_first;
	__u32 bounds6;
	__u32 sets_first;
};

#define EDGE_MEDIA_NONE 0
#define EDGE_MEDIA_ADDRESS 1
#define EDGE_MEDIA_ANY 2

/* ports[generation * EDGE_PORTS + port]: the first listener on a port; 0: none, n: entry n - 1 of the generation. */
struct edge_port {
	__u16 tcp;
	__u16 udp;
};

/* The trunks that allow a source, as bits: edge_proto::trunk::TrunkSet. */
struct edge_trunks {
	__u64 words[4];
};

/* listeners[generation * EDGE_LISTENERS + n] */
struct edge_listener {
	/* The trunks that use it. */
	struct edge_trunks trunks;
	__u32 address[4];
	/* Row of the drop counters. */
	__u32 counter;
	__u16 port;
	/* The next listener on the same port and protocol, numbered as in edge_port; specific addresses come before any. */
	__u16 next;
	__u8 family;
	__u8 protocol;
	/* 1: bound to the wildcard address of its family. */
	__u8 any;
	__u8 reserved[5];
};

/*
 * bounds4, bounds6: source addresses cut into intervals, in order: each goes from `start` (in host byte order) to the next
 * one's, the first from address zero. A binary search costs the same for any prefixes, of either family, and less than half of
 * what a BPF_MAP_TYPE_LPM_TRIE of 100,000 prefixes does.
 */
struct edge_bound4 {
	__u32 start;
	/* Index into the generation's part of `sets`: the union of all prefixes that cover the interval. */
	__u32 set;
};

struct edge_bound6 {
	__u64 start_high;
	__u64 start_low;
	__u32 set;
	__u32 reserved;
};

/* sets: edge_trunks, the first of a generation empty. */

/* flows: the media ports that are open. */
struct edge_flow_key {
	__u16 port;
	__u16 family;
};

struct edge_source {
	__u32 address[4];
	/* 0: any port. */
	__u16 port;
	__u16 reserved;
};

#define EDGE_FLOW_SOURCES 2

struct edge_flow {
	struct edge_source sources[EDGE_FLOW_SOURCES];
	/* Sources in use. */
	__u16 count;
	/* 1: any source. */
	__u16 any;
	/* For the fast path: 0, or what to do with a packet of this flow besides letting it pass. */
	__u32 relay;
};

/*
 * steer.bpf.c, whose maps are not pinned: they end with the daemon, as do the sockets in them. edge/src/media/steering.rs
 * declares the structs.
 */
#define EDGE_STEER_FAMILIES 2
#define EDGE_STEER_THREADS 64
/* Shared sockets of all media threads. */
#define EDGE_STEER_SOCKETS 1024
/* Windows of 2^26 ns, which is 67 ms. */
#define EDGE_STEER_WINDOW 26
/* Packets of a latched source in one window (10,000 per second) that go to `socket`; of anybody, before there is one, that are received. */
#define EDGE_STEER_PACKETS 671
/* Packets of others than the latched source in one window (1,000 per second) that are received at all. */
#define EDGE_STEER_STRANGERS 67

/* In the place of a socket: nobody may send to the port, which is a shared socket's own. */
#define EDGE_STEER_CLOSED 0xffff

/* steer_scope[0]: the addresses that media is at; zero: none of the family. */
struct edge_steer_scope {
	__u32 media4;
	__u32 media6[4];
};

/*
 * steered[port], or for IPv6 steered[EDGE_PORTS + port]: what is received at a media port by which socket, 0: the one that is
 * bound there, if any; n: sockets[n - 1].
 */
struct edge_steered {
	/* The latched source; port 0: none. */
	__u32 source[4];
	__u16 port;
	/* What comes from there; 0: as `others`. Or EDGE_STEER_CLOSED. */
	__u16 socket;
	/* What else comes: from others, and what the latched source sends too much. */
	__u16 others;
	/* The media thread whose port it is. */
	__u16 thread;
	/* Of the program: what it has counted in which window. */
	__u32 window;
	__u32 packets;
	__u32 strangers;
};

/* steer_refused[thread] (__u64): packets of others beyond what is received of them. */

#endif
