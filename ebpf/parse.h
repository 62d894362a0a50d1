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
	/* More fragments follow. */
	__u8 first_fragment;
	enum edge_reason fault;
};

/* Network-order masks of the IPv4 fragment field. */
#define IPV4_OFFSET bpf_htons(0x1fff)
#define IPV4_FRAGMENT bpf_htons(0x3fff)
#define IPV4_OFFSET_ONE bpf_htons(1)
#define IPV6_OFFSET bpf_htons(0xfff8)
#define IPV6_FRAGMENT bpf_htons(0xfff9)
#define IPV6_OFFSET_ONE bpf_htons(8)

/* Most bytes of options, and most words. */
#define IPV4_OPTIONS 40
#define IPV4_OPTION_WORDS 10
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

/* It ends before its ports. */
static __always_inline enum seen cut_off(struct packet *packet)
{
	return fault(packet, packet->first_fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED);
}

/* `left`: bytes from `at` to the end of the IP packet by its own account. */
static __always_inline enum seen parse_ports(void *at, void *end, __u32 left, struct packet *packet)
{
	struct ports *ports = at;

	if (left < sizeof(*ports) || (void *)(ports + 1) > end)
		return cut_off(packet);
	packet->source_port = bpf_ntohs(ports->source);
	packet->destination_port = bpf_ntohs(ports->destination);
	return SEEN_PORTS;
}

/*
 * Without CAP_PERFMON the verifier lets no program add a variable to a packet pointer. So what nearly all packets look like is
 * followed in steps of fixed sizes, by pointers, and the rest is read with bpf_xdp_load_bytes, by its offset in the frame, which
 * takes some 10 ns a header. There options and extension headers are walked by callbacks of bpf_loop: the verifier then
 * looks at one step and not at every path through all of them.
 */
#define LOOP_ON 0
#define LOOP_END 1

/* The same for ports at a variable place. */
static __always_inline enum seen load_ports(struct xdp_md *ctx, __u32 offset, __u32 left, struct packet *packet)
{
	struct ports ports;

	if (left < sizeof(ports) || bpf_xdp_load_bytes(ctx, offset, &ports, sizeof(ports)))
		return cut_off(packet);
	packet->source_port = bpf_ntohs(ports.source);
	packet->destination_port = bpf_ntohs(ports.destination);
	return SEEN_PORTS;
}

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
	__u8 kind, size = 1;

	(void)index;
	if (!options->left || bpf_xdp_load_bytes(options->ctx, options->offset, &kind, sizeof(kind)))
		return LOOP_END;
	if (kind == IPV4_OPTION_END)
		return LOOP_END;
	if (kind != IPV4_OPTION_NOP) {
		options->rerouted = 1;
		if (kind == IPV4_OPTION_LSRR || kind == IPV4_OPTION_SSRR || options->left < 2)
			return LOOP_END;
		if (bpf_xdp_load_bytes(options->ctx, options->offset + 1, &size, sizeof(size)))
			return LOOP_END;
		if (size < 2 || size > options->left)
			return LOOP_END;
		options->rerouted = 0;
	}
	options->offset += size;
	options->left -= size;
	return LOOP_ON;
}

/*
 * Makes the compiler forget how a place was come to: it would compute it as start plus variable. And loops over such places are
 * unrolled: without CAP_PERFMON the verifier takes a loop's counter for unknown where the processor may speculate.
 */
#define STEP(value) asm volatile("" : "+r"(value))

/* With the size of an IPv4 header: its options may hold a source route. */
#define WALK_OPTIONS 0x100

/*
 * The rest of an IPv4 packet with options that need a look or an authentication header. `offset`: of the IP header in the frame;
 * `left`: of the packet behind the IP header.
 */
static __noinline enum seen parse_ipv4_long(struct xdp_md *ctx, __u32 offset, __u32 header, __u32 left,
					    struct packet *packet)
{
	struct options options = { .ctx = ctx, .offset = offset + sizeof(struct iphdr) };
	struct extension ah;
	__u32 size = header & ~WALK_OPTIONS;

	offset += size;
	if (offset > bpf_xdp_get_buff_len(ctx))
		return fault(packet, EDGE_TRUNCATED);
	if (header & WALK_OPTIONS) {
		options.left = size - sizeof(struct iphdr);
		bpf_loop(IPV4_OPTIONS, walk_option, &options, 0);
		packet->rerouted = options.rerouted;
	}
	if (packet->protocol)
		return load_ports(ctx, offset, left, packet);

	if (left < sizeof(ah) || bpf_xdp_load_bytes(ctx, offset, &ah, sizeof(ah)))
		return cut_off(packet);
	if (ah.next == IPPROTO_AH)
		return fault(packet, EDGE_TOO_DEEP);
	if (ah.next != IPPROTO_TCP && ah.next != IPPROTO_UDP)
		return SEEN_FOREIGN;
	packet->protocol = ah.next;
	size = (ah.length + 2) * 4;
	if (left < size)
		return cut_off(packet);
	return load_ports(ctx, offset + size, left == UNSTATED ? UNSTATED : left - size, packet);
}

/* Whether one of the bytes of `word` is `byte` (and, rarely, where none is: one right above such a byte may differ in a bit). */
static __always_inline int has_byte(__u32 word, __u8 byte)
{
	__u32 zero = word ^ (0x01010101u * byte);

	return ((zero - 0x01010101u) & ~zero & 0x80808080u) != 0;
}

/*
 * What follows IPv4 options, which start at `at`. Without a byte that could be the kind of a source route there is none, and the walk
 * over the options is spared: whoever fills them with no-ops gains nothing.
 */
static __always_inline enum seen parse_ipv4_options(struct xdp_md *ctx, __u32 offset, void *at, void *end, __u32 header,
						    __u32 left, struct packet *packet)
{
	__u32 words = (header - sizeof(struct iphdr)) / sizeof(__u32);

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < IPV4_OPTION_WORDS; i++) {
		__u32 *word = at;

		if (i == words)
			break;
		if ((void *)(word + 1) > end)
			return fault(packet, EDGE_TRUNCATED);
		if (has_byte(*word, IPV4_OPTION_LSRR) || has_byte(*word, IPV4_OPTION_SSRR))
			return parse_ipv4_long(ctx, offset, header | WALK_OPTIONS, left, packet);
		at = word + 1;
		STEP(at);
	}
	if (!packet->protocol)
		return parse_ipv4_long(ctx, offset, header, left, packet);
	return parse_ports(at, end, left, packet);
}

/* `offset`: where `at` is in the frame. */
static __always_inline enum seen parse_ipv4(struct xdp_md *ctx, __u32 offset, void *at, void *end, struct packet *packet)
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
	packet->first_fragment = fragment != 0;

	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || (total && total < header))
		return fault(packet, EDGE_TRUNCATED);
	if (total)
		left = total - header;
	if (header != sizeof(*ip) || ip->protocol == IPPROTO_AH)
		return parse_ipv4_options(ctx, offset, ip + 1, end, header, left, packet);
	return parse_ports(ip + 1, end, left, packet);
}

/* The walk over IPv6 extension headers. */
struct walk {
	struct xdp_md *ctx;
	/* Where the next header starts in the frame, and where the frame ends. */
	__u32 offset;
	__u32 end;
	__u32 left;
	__u8 next;
	/* Headers so far. */
	__u8 followed;
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

#define LEADS_ON (1ull << IPPROTO_HOPOPTS | 1ull << IPPROTO_ROUTING | 1ull << IPPROTO_FRAGMENT | 1ull << IPPROTO_DSTOPTS | 1ull << IPPROTO_AH)

/* Whether `kind` is a header that leads to another. */
static __always_inline int leads_on(__u32 kind)
{
	return kind < 64 && (LEADS_ON >> kind & 1);
}

/* One extension header of kind `walk->next`, the first 8 bytes of which are in the packet and at `extension`. */
static __always_inline long walk_on(struct walk *walk, const struct extension *extension)
{
	enum edge_reason cut = walk->first_fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED;
	__u32 size = (extension->length + 1) * 8;
	__u8 kind = walk->next;

	if (kind == IPPROTO_AH) {
		size = (extension->length + 2) * 4;
	} else if (kind == IPPROTO_FRAGMENT) {
		size = 8;
		if (extension->fragment & IPV6_OFFSET) {
			walk->protocol = extension->next;
			if (extension->next == IPPROTO_TCP && (extension->fragment & IPV6_OFFSET) == IPV6_OFFSET_ONE)
				return walk_end(walk, SEEN_FAULT, EDGE_OVERLAP);
			return walk_end(walk, SEEN_FOREIGN, 0);
		}
		if (extension->fragment & IPV6_FRAGMENT) {
			walk->first_fragment = 1;
			cut = EDGE_SHORT_FRAGMENT;
		}
	} else if (kind == IPPROTO_ROUTING && extension->segments_left) {
		walk->rerouted = 1;
	}
	if (walk->left < size || walk->offset + size > walk->end)
		return walk_end(walk, SEEN_FAULT, cut);
	if (walk->left != UNSTATED)
		walk->left -= size;
	walk->next = extension->next;
	walk->offset += size;
	walk->followed++;
	return LOOP_ON;
}

/* The next extension header, or what comes after the last. */
static long walk_extension(__u32 index, void *state)
{
	struct walk *walk = state;
	struct extension extension;

	(void)index;
	if (walk->next == IPPROTO_TCP || walk->next == IPPROTO_UDP)
		return walk_end(walk, SEEN_PORTS, 0);
	if (!leads_on(walk->next))
		return walk_end(walk, SEEN_FOREIGN, 0);
	if (walk->followed >= EDGE_EXTENSIONS)
		return walk_end(walk, SEEN_FAULT, EDGE_TOO_DEEP);
	if (walk->left < sizeof(extension) || bpf_xdp_load_bytes(walk->ctx, walk->offset, &extension, sizeof(extension)))
		return walk_end(walk, SEEN_FAULT, walk->first_fragment ? EDGE_SHORT_FRAGMENT : EDGE_TRUNCATED);
	return walk_on(walk, &extension);
}

/*
 * The rest of an IPv6 packet from an extension header on that is not of a usual size. `offset`: of that header in the frame; `first`:
 * its first 8 bytes; `place`: its kind, from bit 8 on how many came before, from bit 32 on the bytes from there to the packet's end.
 */
static __noinline enum seen parse_ipv6_long(struct xdp_md *ctx, __u32 offset, __u64 place, __u64 first,
					    struct packet *packet)
{
	struct walk walk = {
		.ctx = ctx,
		.offset = offset,
		.end = bpf_xdp_get_buff_len(ctx),
		.left = place >> 32,
		.next = place,
		.followed = place >> 8,
		.first_fragment = packet->first_fragment,
		.rerouted = packet->rerouted,
	};

	if (walk_on(&walk, (struct extension *)&first) == LOOP_ON)
		bpf_loop(EDGE_EXTENSIONS, walk_extension, &walk, 0);
	packet->rerouted = walk.rerouted;
	packet->protocol = walk.protocol;
	if (walk.seen == SEEN_FAULT)
		return fault(packet, walk.fault);
	if (walk.seen != SEEN_PORTS)
		return SEEN_FOREIGN;
	packet->protocol = walk.next;
	packet->first_fragment = walk.first_fragment;
	return load_ports(ctx, walk.offset, walk.left, packet);
}

static __always_inline enum seen parse_ipv6(struct xdp_md *ctx, __u32 offset, void *at, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = at;
	__u32 kind, followed, left = UNSTATED;
	__u64 first;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return SEEN_FOREIGN;
	packet->family = EDGE_FAMILY_IPV6;
	__builtin_memcpy(packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip->daddr, sizeof(packet->destination));
	if (ip->payload_len)
		left = bpf_ntohs(ip->payload_len);
	kind = ip->nexthdr;
	at = ip + 1;
	offset += sizeof(*ip);
	/* Headers of 8 and 24 bytes leave the next one at a fixed place. */
#pragma clang loop unroll(full)
	for (followed = 0; followed <= EDGE_EXTENSIONS; followed++) {
		struct extension *extension = at;

		if (!leads_on(kind))
			break;
		if (followed == EDGE_EXTENSIONS)
			return fault(packet, EDGE_TOO_DEEP);
		if (left < sizeof(*extension) || (void *)(extension + 1) > end)
			return cut_off(packet);
		if (kind == IPPROTO_AH || (kind != IPPROTO_FRAGMENT && extension->length && extension->length != 2)) {
			first = *(__u64 *)at;
			goto unusual;
		}
		if (kind == IPPROTO_FRAGMENT) {
			if (extension->fragment & IPV6_OFFSET) {
				packet->protocol = extension->next;
				if (extension->next == IPPROTO_TCP && (extension->fragment & IPV6_OFFSET) == IPV6_OFFSET_ONE)
					return fault(packet, EDGE_OVERLAP);
				return SEEN_FOREIGN;
			}
			if (extension->fragment & IPV6_FRAGMENT)
				packet->first_fragment = 1;
		} else if (kind == IPPROTO_ROUTING && extension->segments_left) {
			packet->rerouted = 1;
		}
		at = extension + 1;
		STEP(at);
		if (kind != IPPROTO_FRAGMENT && extension->length) {
			at += 16;
			STEP(at);
			if (left < 24 || at > end)
				return cut_off(packet);
			if (left != UNSTATED)
				left -= 16;
			offset += 16;
		}
		kind = extension->next;
		if (left != UNSTATED)
			left -= sizeof(*extension);
	}
	if (kind != IPPROTO_TCP && kind != IPPROTO_UDP)
		return SEEN_FOREIGN;
	packet->protocol = kind;
	return parse_ports(at, end, left, packet);
unusual:
	offset += followed * sizeof(struct extension);
	return parse_ipv6_long(ctx, offset, (__u64)left << 32 | followed << 8 | kind, first, packet);
}

static __always_inline enum seen parse(struct xdp_md *ctx, struct packet *packet)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = at;
	__u32 offset;
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
	offset = sizeof(*ethernet) + tags * sizeof(struct vlan_tag);
	if (type == bpf_htons(ETH_P_IP))
		return parse_ipv4(ctx, offset, at, end, packet);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(ctx, offset, at, end, packet);
	return SEEN_FOREIGN;
}

#endif
