/* The leases of one connection: staged answers that its client pulls, until it gives them back or their
 * time is over. */
#ifndef KELP_LEASE_H
#define KELP_LEASE_H

#include <stddef.h>
#include <stdint.h>

#include "rdma/agent/transport.h"

#define LEASES_MAX 64 /* of one connection */

struct lease {
	uint64_t id; /* 0: free */
	int64_t until_ms;
	struct staged staged;
};

struct leases {
	uint64_t last_id;
	size_t n;
	struct lease *table; /* LEASES_MAX, made with the first lease */
};

/* Takes s over. Returns the lease's id, never 0, or 0 where there is no room; s stays the caller's
 * then. */
uint64_t lease_begin(struct leases *l, const struct staged *s, int64_t until_ms);

/* The staged memory is the caller's again. Returns 0, or -ENOENT: unknown, or over already. */
int lease_end(struct leases *l, uint64_t id, struct staged *ret);

/* One lease whose time is over at now, or any at INT64_MAX; likewise. */
int lease_expire(struct leases *l, int64_t now, struct staged *ret);

/* None may be left. */
void leases_free(struct leases *l);

#endif
