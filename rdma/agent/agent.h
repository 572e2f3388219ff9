/* What all connections of one agent share: what it serves from, its limits and its counters. */
#ifndef KELP_AGENT_H
#define KELP_AGENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/token.h"
#include "rdma/agent/check.h"
#include "rdma/agent/staging.h"
#include "rdma/agent/store.h"
#include "rdma/wire.h"

#define AGENT_CONNECTIONS_MAX 1024
#define AGENT_IDLE_MS (5 * 60 * 1000)
#define AGENT_STAGING_BYTES ((size_t)64 << 20)
#define AGENT_STAGING_CONNECTION_BYTES ((size_t)1 << 20)
/* Where answers are leased, which have to be in memory whole; granted by demand: 16 reads of
 * 1 MiB, and as many that are being given back. */
#define AGENT_LEASE_CONNECTION_BYTES ((size_t)34 << 20)
#define AGENT_SMALL_BYTES ((size_t)64 << 10)
#define AGENT_CREDITS 16
#define AGENT_LEASE_MS 5000
/* From accepting a connection to a complete hello. */
#define AGENT_HELLO_MS 10000
/* A client that takes nothing of its answers for so long is given up. */
#define AGENT_STALL_MS 30000
/* Over the limit so many more are told why; the rest is closed at once. */
#define AGENT_REFUSALS_MAX 64

struct agent_config {
	struct store *store; /* borrowed, as is tokens */
	struct token_source *tokens;
	/* 0 in any of these: the default above. */
	unsigned connections_max;
	unsigned idle_ms;
	size_t staging_bytes_max; /* of all connections together */
	size_t staging_connection_bytes_max;
	size_t lease_connection_bytes_max; /* likewise, over a transport that leases */
	size_t small_bytes_max; /* answers up to this are read into memory, checked and sent whole */
	unsigned lease_ms;
	const char *software; /* borrowed */
};

/* Each is added to by any thread, without order. */
struct agent_counters {
	atomic_uint_fast64_t connections; /* accepted */
	atomic_uint_fast64_t refused; /* for the limit */
	atomic_uint_fast64_t version_refused;
	atomic_uint_fast64_t malformed; /* connections that broke the protocol */
	atomic_uint_fast64_t stalled; /* connections whose client took no answers */
	atomic_uint_fast64_t reads; /* extents, by what they came to: */
	atomic_uint_fast64_t by_status[WIRE_STATUS_MAX + 1];
	atomic_uint_fast64_t bytes_memory; /* sent from memory */
	atomic_uint_fast64_t bytes_file; /* sent from the page cache */
	atomic_uint_fast64_t leases; /* given, of which: */
	atomic_uint_fast64_t leases_returned;
	atomic_uint_fast64_t leases_expired; /* or taken back with their connection */
	atomic_uint_fast64_t unstaged; /* answers for which there was no memory */
};

struct agent {
	struct agent_config cfg; /* immutable, with defaults filled in */
	struct staging_budget staging;
	struct checker checker;
	atomic_uint active; /* connections that are there, with those being refused */
	struct agent_counters counters;
	/* The RDMA device, and where verbs connections are taken; immutable once listeners run. */
	char device[64]; /* "" without */
	char port_gid[48];
	uint32_t port_lid;
	uint64_t vendor_id;
	size_t n_addresses;
	struct wire_address addresses[WIRE_ADDRESSES_MAX];
};

void agent_init(struct agent *a, const struct agent_config *cfg);

static inline void agent_count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
