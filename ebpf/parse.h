/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What a frame says about itself: addresses, protocol and ports, or why they cannot be told.
 *
 * Ports count only where they lie inside the frame and inside the length that the IP header states, since the stack cuts a
 * packet to that length before it looks for a socket. A stated length of zero stands for the frame's own (jumbograms and
 * segments merged by the host).
 */
#ifndef SIP_EDGE_PARSE_H
#define SIP_EDGE_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

enum seen {
	/* Not for a TCP or UDP socket, or a later fragment, or nothing the stack would deliver. */
	SEEN_FOREIGN,
	SEEN_PORTS,
	/* `fault` says why it cannot be judged. */
	SEEN_FAULT,
};

struct packet {
	__u32 source[4];
	__u32 destination[4];
	__u16 source_port;
	__u16 destination_port;
	/* 0 when not even the address could be reached. */
	__u8 family;
	/* 0 when unknown. */
	__u8 protocol;
	/* A source route will replace the destination. */
	__u8 rerouted;
	enum edge_reason fault;
};

/* Network-order masks of the IPv4 fragment field. */
#define IPV4_OFFSET bpf_htons(0x1fff)
#define IPV4_FRAGMENT bpf_htons(0x3fff)
#define IPV4_OFFSET_ONE bpf_htons(1)
#define IPV6_OFFSET bpf_htons(0xfff8)
#define IPV6_FRAGMENT bpf_htons(0xfff9)
#define IPV6_OFFSET_ONE bpf_htons(8)

/* Most bytes of options. */
#define IPV4_OPTIONS 40
#define IPV4_OPTION_END 0
#define IPV4_OPTION_NOP 1
#define IPV4_OPTION_LSRR 131
#define IPV4_OPTION_SSRR 137

#define UNSTATED 0xffffffffu

struct ports {
	__be16 source;
	__be16 destination;
};

/* The start of an extension header of any kind. */
struct extension {
	__u8 next;
	__u8 length;
	union {
		struct {
			__u8 routing_type;
			__u8 segments_left;
		};
		/* Offset in units of 8 bytes, and the flag for more. */
		__be16 fragment;
	};
	__u32 rest;
};

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

static __always_inline enum seen fault(struct packet *packet, enum edge_reason reason)
{
	packet->fault = reason;
	return SEEN_FAULT;
}

/* `left`: bytes from `at` to the end of the IP packet by its own account. */
static __always_inline enum seen parse_ports(void *at, void *end, __u32 left, int first_fragment, struct packet *packet)
{
	struct ports *ports = at;

	if (left < sizeof(*ports) || (void *)(ports + 1) > end)
		return fault(packet, first_fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED);
	packet->source_port = bpf_ntohs(ports->source);
	packet->destination_port = bpf_ntohs(ports->destination);
	return SEEN_PORTS;
}

/*
 * Options and extension headers are walked by callbacks of bpf_loop: the verifier then looks at one step and not at every path
 * through all of them.
 */
#define LOOP_ON 0
#define LOOP_END 1

/* Headers that start further into the frame are not looked at; less than the verifier lets a program reach. */
#define WALK_REACH 4095

/* The walk over IPv4 options. */
struct options {
	struct xdp_md *ctx;
	/* Where the next option starts in the frame. */
	__u32 offset;
	__u32 left;
	__u32 rerouted;
};

/* One option: a source route, or one that cannot be read, ends the walk. */
static long walk_option(__u32 index, void *state)
{
	struct options *options = state;
	void *end = (void *)(long)options->ctx->data_end;
	__u32 offset = options->offset, left = options->left, size = 1;
	__u8 *option;

	(void)index;
	if (!left || offset > WALK_REACH)
		return LOOP_END;
	option = (void *)(long)options->ctx->data + offset;
	if ((void *)(option + 1) > end || option[0] == IPV4_OPTION_END)
		return LOOP_END;
	if (option[0] != IPV4_OPTION_NOP) {
		options->rerouted = 1;
		if (option[0] == IPV4_OPTION_LSRR || option[0] == IPV4_OPTION_SSRR)
			return LOOP_END;
		if (left < 2 || (void *)(option + 2) > end)
			return LOOP_END;
		size = option[1];
		if (size < 2 || size > left)
			return LOOP_END;
		options->rerouted = 0;
	}
	options->offset = offset + size;
	options->left = left - size;
	return LOOP_ON;
}

/* Whether the options, which lie inside the frame, hold a source route or cannot be read to their end. */
static __noinline int ipv4_rerouted(struct xdp_md *ctx, __u32 offset, __u32 length)
{
	struct options options = { .ctx = ctx, .offset = offset, .left = length };

	bpf_loop(IPV4_OPTIONS, walk_option, &options, 0);
	return options.rerouted;
}

static __always_inline enum seen parse_ipv4(struct xdp_md *ctx, void *at, void *end, struct packet *packet)
{
	struct iphdr *ip = at;
	__u32 header, total, left = UNSTATED;
	__u16 fragment;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return SEEN_FOREIGN;
	packet->family = EDGE_FAMILY_IPV4;
	/* What an authentication header is in front of is not known yet. */
	packet->protocol = ip->protocol == IPPROTO_AH ? 0 : ip->protocol;
	packet->source[0] = ip->saddr;
	packet->destination[0] = ip->daddr;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_AH)
		return SEEN_FOREIGN;

	fragment = ip->frag_off & IPV4_FRAGMENT;
	if (fragment & IPV4_OFFSET) {
		if (ip->protocol == IPPROTO_TCP && (fragment & IPV4_OFFSET) == IPV4_OFFSET_ONE)
			return fault(packet, EDGE_OVERLAP);
		return SEEN_FOREIGN;
	}

	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || (total && total < header) || at + header > end)
		return fault(packet, EDGE_TRUNCATED);
	if (total)
		left = total - header;
	if (header > sizeof(*ip) && ipv4_rerouted(ctx, (void *)(ip + 1) - (void *)(long)ctx->data, header - sizeof(*ip)))
		packet->rerouted = 1;
	at += header;

	if (ip->protocol == IPPROTO_AH) {
		struct extension *ah = at;
		__u32 size;

		if (left < sizeof(*ah) || (void *)(ah + 1) > end)
			return fault(packet, fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED);
		size = (ah->length + 2) * 4;
		if (ah->next == IPPROTO_AH)
			return fault(packet, EDGE_TOO_DEEP);
		packet->protocol = ah->next;
		if (ah->next != IPPROTO_TCP && ah->next != IPPROTO_UDP)
			return SEEN_FOREIGN;
		if (left < size)
			return fault(packet, fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED);
		if (left != UNSTATED)
			left -= size;
		at += size;
	}
	return parse_ports(at, end, left, fragment, packet);
}

/* The walk over IPv6 extension headers. */
struct walk {
	struct xdp_md *ctx;
	/* Where the next header starts in the frame. */
	__u32 offset;
	__u32 left;
	__u8 next;
	__u8 first_fragment;
	__u8 rerouted;
	/* The protocol where it is known though the header itself is not here. */
	__u8 protocol;
	/* SEEN_PORTS: `next` has ports. */
	enum seen seen;
	enum edge_reason fault;
};

static __always_inline long walk_end(struct walk *walk, enum seen seen, enum edge_reason fault)
{
	walk->seen = seen;
	walk->fault = fault;
	return LOOP_END;
}

/* One extension header. */
static long walk_extension(__u32 index, void *state)
{
	struct walk *walk = state;
	struct extension *extension;
	enum edge_reason cut = walk->first_fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED;
	__u32 offset = walk->offset, size;
	__u8 kind = walk->next;

	if (kind == IPPROTO_TCP || kind == IPPROTO_UDP)
		return walk_end(walk, SEEN_PORTS, 0);
	if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_FRAGMENT && kind != IPPROTO_DSTOPTS &&
	    kind != IPPROTO_AH)
		return walk_end(walk, SEEN_FOREIGN, 0);
	if (index >= EDGE_EXTENSIONS || offset > WALK_REACH)
		return walk_end(walk, SEEN_FAULT, EDGE_TOO_DEEP);

	extension = (void *)(long)walk->ctx->data + offset;
	if (walk->left < sizeof(*extension) || (void *)(extension + 1) > (void *)(long)walk->ctx->data_end)
		return walk_end(walk, SEEN_FAULT, cut);
	size = (extension->length + 1) * 8;
	if (kind == IPPROTO_AH) {
		size = (extension->length + 2) * 4;
	} else if (kind == IPPROTO_FRAGMENT) {
		__be16 fragment = extension->fragment;

		size = 8;
		if (fragment & IPV6_OFFSET) {
			walk->protocol = extension->next;
			if (extension->next == IPPROTO_TCP && (fragment & IPV6_OFFSET) == IPV6_OFFSET_ONE)
				return walk_end(walk, SEEN_FAULT, EDGE_OVERLAP);
			return walk_end(walk, SEEN_FOREIGN, 0);
		}
		if (fragment & IPV6_FRAGMENT) {
			walk->first_fragment = 1;
			cut = EDGE_SHORT_FRAGMENT;
		}
	} else if (kind == IPPROTO_ROUTING && extension->segments_left) {
		walk->rerouted = 1;
	}
	if (walk->left < size || (void *)extension + size > (void *)(long)walk->ctx->data_end)
		return walk_end(walk, SEEN_FAULT, cut);
	if (walk->left != UNSTATED)
		walk->left -= size;
	walk->next = extension->next;
	walk->offset = offset + size;
	return LOOP_ON;
}

static __noinline int walk_extensions(struct walk *walk)
{
	/* One more than are followed, to see what comes after the last. */
	bpf_loop(EDGE_EXTENSIONS + 1, walk_extension, walk, 0);
	return 0;
}

static __always_inline enum seen parse_ipv6(struct xdp_md *ctx, void *at, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = at;
	struct walk walk = { .ctx = ctx, .left = UNSTATED };

	if ((void *)(ip + 1) > end || ip->version != 6)
		return SEEN_FOREIGN;
	packet->family = EDGE_FAMILY_IPV6;
	__builtin_memcpy(packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip->daddr, sizeof(packet->destination));
	if (ip->payload_len)
		walk.left = bpf_ntohs(ip->payload_len);
	at = ip + 1;
	if (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP) {
		packet->protocol = ip->nexthdr;
		return parse_ports(at, end, walk.left, 0, packet);
	}

	walk.offset = at - (void *)(long)ctx->data;
	walk.next = ip->nexthdr;
	walk_extensions(&walk);
	packet->rerouted = walk.rerouted;
	packet->protocol = walk.protocol;
	if (walk.seen == SEEN_FAULT)
		return fault(packet, walk.fault);
	if (walk.seen != SEEN_PORTS)
		return SEEN_FOREIGN;
	packet->protocol = walk.next;
	if (walk.offset > WALK_REACH)
		return fault(packet, EDGE_TOO_DEEP);
	at = (void *)(long)ctx->data + walk.offset;
	return parse_ports(at, (void *)(long)ctx->data_end, walk.left, walk.first_fragment, packet);
}

static __always_inline enum seen parse(struct xdp_md *ctx, struct packet *packet)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = at;
	__be16 type;
	int tags;

	if ((void *)(ethernet + 1) > end)
		return SEEN_FOREIGN;
	type = ethernet->h_proto;
	at = ethernet + 1;
	for (tags = 0; type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD); tags++) {
		struct vlan_tag *tag = at;

		if (tags == EDGE_VLAN_TAGS)
			return fault(packet, EDGE_TOO_DEEP);
		if ((void *)(tag + 1) > end)
			return SEEN_FOREIGN;
		type = tag->type;
		at = tag + 1;
	}
	if (type == bpf_htons(ETH_P_IP))
		return parse_ipv4(ctx, at, end, packet);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(ctx, at, end, packet);
	return SEEN_FOREIGN;
}

#endif
