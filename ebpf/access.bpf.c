// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The allowlist in XDP: a source that no trunk lists never reaches a socket of the edge. README.md beside this file states
 * the rules; the daemon decides again about everything that passes, so a doubt inside this program (a map that is not
 * there, a generation that is out of range) lets the packet pass.
 */
#include "layout.h"
#include "parse.h"

#define AF_INET 2
#define AF_INET6 10

/* Beyond every set. */
#define NO_SET 0x7fffffff

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct edge_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_GENERATIONS);
	__type(key, __u32);
	__type(value, struct edge_scope);
} scopes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_GENERATIONS * EDGE_PORTS);
	__type(key, __u32);
	__type(value, struct edge_port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_GENERATIONS * EDGE_LISTENERS);
	__type(key, __u32);
	__type(value, struct edge_listener);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_BOUNDS);
	__type(key, __u32);
	__type(value, struct edge_bound4);
} bounds4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_BOUNDS);
	__type(key, __u32);
	__type(value, struct edge_bound6);
} bounds6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_SETS);
	__type(key, __u32);
	__type(value, struct edge_trunks);
} sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EDGE_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct edge_flow_key);
	__type(value, struct edge_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EDGE_COUNTER_ROWS * EDGE_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

static __always_inline int drop(__u32 row, __u32 reason)
{
	__u32 key = row * EDGE_REASONS + reason;
	__u64 *count = bpf_map_lookup_elem(&drops, &key);

	if (count)
		*count += 1;
	return XDP_DROP;
}

static __always_inline int same_address(const __u32 *a, const __u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline int mapped(const __u32 *address)
{
	return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

/* Whether the packet's address, as far as it is known, is one where `listener` is reached. */
static __always_inline int reaches(const struct edge_listener *listener, const struct packet *packet)
{
	if (!packet->family)
		return 1;
	if (listener->family != packet->family)
		return 0;
	return listener->any || packet->rerouted || same_address(listener->address, packet->destination);
}

static __always_inline int reaches_media(const struct edge_scope *scope, const struct packet *packet)
{
	if (packet->protocol && packet->protocol != IPPROTO_UDP)
		return 0;
	if (packet->family == EDGE_FAMILY_IPV4) {
		if (scope->media4_scope == EDGE_MEDIA_ADDRESS && !packet->rerouted)
			return scope->media4 == packet->destination[0];
		return scope->media4_scope != EDGE_MEDIA_NONE;
	}
	if (packet->family == EDGE_FAMILY_IPV6) {
		if (scope->media6_scope == EDGE_MEDIA_ADDRESS && !packet->rerouted)
			return same_address(scope->media6, packet->destination);
		return scope->media6_scope != EDGE_MEDIA_NONE;
	}
	return scope->media4_scope != EDGE_MEDIA_NONE || scope->media6_scope != EDGE_MEDIA_NONE;
}

/* The number of the set of trunks that allow an IPv4 source. */
static __noinline __u32 set_of4(const struct packet *packet, const struct edge_scope *scope)
{
	__u32 source = bpf_ntohl(packet->source[0]);
	__u32 low = scope->bounds4_first, high = low + scope->bounds4, set = 0;

	for (int i = 0; i < EDGE_SEARCH_STEPS && low < high; i++) {
		__u32 middle = (low + high) / 2;
		struct edge_bound4 *bound = bpf_map_lookup_elem(&bounds4, &middle);

		if (!bound)
			return NO_SET;
		if (bound->start <= source) {
			set = bound->set;
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return set;
}

/* The same for IPv6. */
static __noinline __u32 set_of6(const struct packet *packet, const struct edge_scope *scope)
{
	__u64 source_high = (__u64)bpf_ntohl(packet->source[0]) << 32 | bpf_ntohl(packet->source[1]);
	__u64 source_low = (__u64)bpf_ntohl(packet->source[2]) << 32 | bpf_ntohl(packet->source[3]);
	__u32 low = scope->bounds6_first, high = low + scope->bounds6, set = 0;

	for (int i = 0; i < EDGE_SEARCH_STEPS && low < high; i++) {
		__u32 middle = (low + high) / 2;
		struct edge_bound6 *bound = bpf_map_lookup_elem(&bounds6, &middle);

		if (!bound)
			return NO_SET;
		if (bound->start_high < source_high ||
		    (bound->start_high == source_high && bound->start_low <= source_low)) {
			set = bound->set;
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return set;
}

/* Whether the host would route the packet on instead of taking it in: then no listener gets it. */
static __always_inline int routed_on(struct xdp_md *ctx, const struct packet *packet)
{
	struct bpf_fib_lookup route = {
		.l4_protocol = packet->protocol,
		.ifindex = ctx->ingress_ifindex,
	};
	long verdict;

	if (packet->family == EDGE_FAMILY_IPV4) {
		route.family = AF_INET;
		route.ipv4_src = packet->source[0];
		route.ipv4_dst = packet->destination[0];
	} else {
		route.family = AF_INET6;
		__builtin_memcpy(route.ipv6_src, packet->source, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, packet->destination, sizeof(route.ipv6_dst));
	}
	verdict = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	return verdict == BPF_FIB_LKUP_RET_SUCCESS || verdict == BPF_FIB_LKUP_RET_NO_NEIGH ||
	       verdict == BPF_FIB_LKUP_RET_FRAG_NEEDED;
}

static __always_inline int refuse(struct xdp_md *ctx, const struct packet *packet, const struct edge_listener *listener,
				  __u32 reason)
{
	if ((listener->any || packet->rerouted) && routed_on(ctx, packet))
		return XDP_PASS;
	return drop(listener->counter, reason);
}

static __noinline int refuse_media(struct xdp_md *ctx, const struct packet *packet, const struct edge_scope *scope, __u32 reason)
{
	/* Both, for the same reason as in listener_of. */
	__u8 guarded4 = *(volatile __u8 *)&scope->media4_scope, guarded6 = *(volatile __u8 *)&scope->media6_scope;
	__u8 guarded = packet->family == EDGE_FAMILY_IPV4 ? guarded4 : guarded6;

	if ((guarded == EDGE_MEDIA_ANY || packet->rerouted) && routed_on(ctx, packet))
		return XDP_PASS;
	return drop(EDGE_COUNTER_MEDIA, reason);
}

/* The search for a listener that a packet which cannot be judged may be for. */
struct search {
	const struct packet *packet;
	/* Of `listeners`. */
	__u32 first;
	struct edge_listener *found;
};

static long search_listener(__u32 index, void *state)
{
	struct search *search = state;
	__u32 key = search->first + index;
	struct edge_listener *listener = bpf_map_lookup_elem(&listeners, &key);

	if (!listener)
		return LOOP_END;
	if (search->packet->protocol && search->packet->protocol != listener->protocol)
		return LOOP_ON;
	if (!reaches(listener, search->packet))
		return LOOP_ON;
	search->found = listener;
	return LOOP_END;
}

/* A packet that cannot be judged: dropped when some port that it may be for is guarded. */
static __noinline int unjudged(struct xdp_md *ctx, const struct packet *packet, const struct edge_scope *scope,
			       __u32 generation)
{
	struct search search = { .packet = packet, .first = generation * EDGE_LISTENERS };

	bpf_loop(scope->listeners, search_listener, &search, 0);
	if (search.found && packet->family)
		return refuse(ctx, packet, search.found, packet->fault);
	if (!search.found && !reaches_media(scope, packet))
		return XDP_PASS;
	if (!packet->family)
		return drop(EDGE_COUNTER_ANY, packet->fault);
	return refuse_media(ctx, packet, scope, packet->fault);
}

static __always_inline int judge_signalling(struct xdp_md *ctx, const struct packet *packet,
					    const struct edge_listener *listener, const struct edge_scope *scope)
{
	const struct edge_trunks *users = &listener->trunks, *allowing;
	__u32 key = scope->sets_first;

	if (packet->rerouted)
		return refuse(ctx, packet, listener, EDGE_SOURCE_ROUTED);
	if (packet->family == EDGE_FAMILY_IPV4) {
		key += set_of4(packet, scope);
	} else {
		if (mapped(packet->source))
			return refuse(ctx, packet, listener, EDGE_MAPPED_SOURCE);
		key += set_of6(packet, scope);
	}
	allowing = bpf_map_lookup_elem(&sets, &key);
	if (!allowing || (allowing->words[0] & users->words[0]) | (allowing->words[1] & users->words[1]) |
				 (allowing->words[2] & users->words[2]) | (allowing->words[3] & users->words[3]))
		return XDP_PASS;
	return refuse(ctx, packet, listener, EDGE_UNLISTED);
}

/* Whether a UDP socket of the host would get the packet: that of its own DNS or NTP client, say. */
static __always_inline int awaited(struct xdp_md *ctx, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sock;
	__u32 size;

	if (packet->family == EDGE_FAMILY_IPV4) {
		tuple.ipv4.saddr = packet->source[0];
		tuple.ipv4.daddr = packet->destination[0];
		tuple.ipv4.sport = bpf_htons(packet->source_port);
		tuple.ipv4.dport = bpf_htons(packet->destination_port);
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, packet->source, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, packet->destination, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = bpf_htons(packet->source_port);
		tuple.ipv6.dport = bpf_htons(packet->destination_port);
		size = sizeof(tuple.ipv6);
	}
	sock = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return 0;
	bpf_sk_release(sock);
	return 1;
}

static __always_inline int judge_media(struct xdp_md *ctx, const struct packet *packet, const struct edge_scope *scope)
{
	struct edge_flow_key key = { .port = packet->destination_port, .family = packet->family };
	struct edge_flow *flow;

	if (packet->rerouted)
		return refuse_media(ctx, packet, scope, EDGE_SOURCE_ROUTED);
	if (packet->family == EDGE_FAMILY_IPV6 && mapped(packet->source))
		return refuse_media(ctx, packet, scope, EDGE_MAPPED_SOURCE);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return awaited(ctx, packet) ? XDP_PASS : refuse_media(ctx, packet, scope, EDGE_UNALLOCATED);
	if (flow->any)
		return XDP_PASS;
	for (int i = 0; i < EDGE_FLOW_SOURCES; i++) {
		const struct edge_source *source = &flow->sources[i];

		if (i < flow->count && same_address(source->address, packet->source) &&
		    (!source->port || source->port == packet->source_port))
			return XDP_PASS;
	}
	return refuse_media(ctx, packet, scope, EDGE_STRANGER);
}

static __always_inline struct edge_listener *listener_of(const struct packet *packet, __u32 generation)
{
	__u32 key = generation * EDGE_PORTS + packet->destination_port;
	struct edge_port *port = bpf_map_lookup_elem(&ports, &key), both;
	__u32 number;

	if (!port)
		return 0;
	/* Both at once: choosing between two pointers is something that the verifier allows with CAP_PERFMON only. */
	both = *(volatile struct edge_port *)port;
	number = packet->protocol == IPPROTO_TCP ? both.tcp : both.udp;
	for (int i = 0; i < EDGE_CHAIN && number; i++) {
		struct edge_listener *listener;

		key = generation * EDGE_LISTENERS + number - 1;
		listener = bpf_map_lookup_elem(&listeners, &key);
		if (!listener || reaches(listener, packet))
			return listener;
		number = listener->next;
	}
	return 0;
}

SEC("xdp")
int edge_access(struct xdp_md *ctx)
{
	struct packet packet = {};
	struct edge_listener *listener;
	struct edge_control *state;
	struct edge_scope *scope;
	__u32 generation, zero = 0;
	enum seen seen;

	seen = parse(ctx, &packet);
	if (seen == SEEN_FOREIGN)
		return XDP_PASS;

	state = bpf_map_lookup_elem(&control, &zero);
	if (!state)
		return XDP_PASS;
	generation = *(volatile __u32 *)&state->active - 1;
	if (generation >= EDGE_GENERATIONS)
		return XDP_PASS;
	scope = bpf_map_lookup_elem(&scopes, &generation);
	if (!scope)
		return XDP_PASS;
	if (seen == SEEN_FAULT)
		return unjudged(ctx, &packet, scope, generation);

	listener = listener_of(&packet, generation);
	if (listener)
		return judge_signalling(ctx, &packet, listener, scope);
	if (packet.destination_port >= scope->media_low && packet.destination_port <= scope->media_high &&
	    reaches_media(scope, &packet))
		return judge_media(ctx, &packet, scope);
	return XDP_PASS;
}

/* The yardstick of the benches, and the peer's end of a veth pair, which has to run some program for XDP_TX to reach it. */
SEC("xdp")
int edge_pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
