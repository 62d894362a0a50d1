// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Which socket a media packet is for. Media threads have a few sockets that all their flows share: the packets of a latched
 * source go to one, what comes to a port that is not latched yet to another, so that neither can fill the queue of the other.
 * Where a port has a socket of its own, what is not of the latched source stays with that. The relay checks every source
 * again, so a doubt here lets the kernel look up as always.
 */
#include "layout.h"

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_STEER_FAMILIES * EDGE_PORTS);
	/* The daemon writes it in its own memory. */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct edge_steered);
} steered SEC(".maps");

/* The shared sockets: several per media thread. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, EDGE_STEER_SOCKETS);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct edge_steer_scope);
} steer_scope SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EDGE_STEER_THREADS);
	__type(key, __u32);
	__type(value, __u64);
} steer_refused SEC(".maps");

/*
 * Whether a field of the context is `value`. The compiler must not make one read of a computed address out of two, as it does where
 * both are compared next: the verifier refuses it.
 */
#define IS(field, value)                                                                                               \
	({                                                                                                             \
		__u32 read = (field);                                                                                  \
		asm volatile("" : "+r"(read));                                                                         \
		read == (value);                                                                                       \
	})

/* Where the flow of the packet is in `steered`; negative: its address is none of ours. */
static __always_inline int index_of(const struct bpf_sk_lookup *ctx, const struct edge_steer_scope *scope)
{
	__u32 port = ctx->local_port & (EDGE_PORTS - 1);

	if (ctx->family == AF_INET) {
		if (!scope->media4 || !IS(ctx->local_ip4, scope->media4))
			return -1;
		return port;
	}
	if (ctx->family != AF_INET6)
		return -1;
	if (!IS(ctx->local_ip6[0], scope->media6[0]) || !IS(ctx->local_ip6[1], scope->media6[1]) ||
	    !IS(ctx->local_ip6[2], scope->media6[2]) || !IS(ctx->local_ip6[3], scope->media6[3]))
		return -1;
	return EDGE_PORTS + port;
}

static __always_inline int is_from(const struct bpf_sk_lookup *ctx, const struct edge_steered *flow)
{
	if (bpf_ntohs(ctx->remote_port) != flow->port)
		return 0;
	if (ctx->family == AF_INET)
		return IS(ctx->remote_ip4, flow->source[0]);
	return IS(ctx->remote_ip6[0], flow->source[0]) && IS(ctx->remote_ip6[1], flow->source[1]) &&
	       IS(ctx->remote_ip6[2], flow->source[2]) && IS(ctx->remote_ip6[3], flow->source[3]);
}

static __always_inline int refuse(const struct edge_steered *flow)
{
	__u32 thread = flow->thread;
	__u64 *refused = bpf_map_lookup_elem(&steer_refused, &thread);

	if (refused)
		__sync_fetch_and_add(refused, 1);
	return SK_DROP;
}

SEC("sk_lookup")
int edge_steer(struct bpf_sk_lookup *ctx)
{
	struct edge_steer_scope *scope;
	struct edge_steered *flow;
	struct bpf_sock *socket;
	__u32 key = 0, latched, window;
	int index;

	if (ctx->protocol != IPPROTO_UDP)
		return SK_PASS;
	scope = bpf_map_lookup_elem(&steer_scope, &key);
	if (!scope)
		return SK_PASS;
	index = index_of(ctx, scope);
	if (index < 0)
		return SK_PASS;
	key = index;
	flow = bpf_map_lookup_elem(&steered, &key);
	if (!flow)
		return SK_PASS;
	/* Read once: the daemon writes the socket last, and takes it away first. */
	latched = *(volatile __u16 *)&flow->socket;
	key = *(volatile __u16 *)&flow->others;
	if (!latched && !key)
		return SK_PASS;
	if (latched == EDGE_STEER_CLOSED)
		return SK_DROP;
	/* Counted without a lock: two CPUs may lose each other's packet, which a limit can bear. */
	window = bpf_ktime_get_coarse_ns() >> EDGE_STEER_WINDOW;
	if (flow->window != window) {
		flow->window = window;
		flow->packets = 0;
		flow->strangers = 0;
	}
	if (latched && is_from(ctx, flow)) {
		/* No audio: what it sends too much may meet others of its kind, not the queue that all share. */
		if (++flow->packets <= EDGE_STEER_PACKETS)
			key = latched;
	} else if (++flow->strangers > (latched ? EDGE_STEER_STRANGERS : EDGE_STEER_PACKETS)) {
		/*
		 * The daemon counts strangers, but not at any price. A peer that is not known yet is among them, so these are let come
		 * more often.
		 */
		return refuse(flow);
	}
	if (!key)
		return SK_PASS;
	key--;
	socket = bpf_map_lookup_elem(&sockets, &key);
	if (!socket)
		return SK_PASS;
	bpf_sk_assign(ctx, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
