/* The reads of leases that one connection has under way, and the numbers of their work requests.
 *
 * A completion names its work request by nothing but a number. Each use of a place in the table has a
 * number of its own, so that a late completion, or one that a device makes up, is never taken for that
 * of the read which has the place now. Not thread-safe. */
#ifndef KELP_RDMA_PULLS_H
#define KELP_RDMA_PULLS_H

#include <stdbool.h>
#include <stdint.h>

struct ibv_mr;

#define PULLS_MAX 32
#define PULL_SGES_MAX 8

/* One posted read. */
struct pull {
	uint32_t id; /* of this use, or of the last; the place is in its lower bits */
	bool used;
	bool last; /* of its lease */
	uint64_t cookie;
	unsigned n_own;
	struct ibv_mr *own[PULL_SGES_MAX]; /* memory registered for it alone */
};

/* All zeros: empty. */
struct pulls {
	struct pull pull[PULLS_MAX];
};

/* A free place with a new id and nothing else set; NULL: there is none. */
struct pull *pulls_take(struct pulls *p);

/* The one that is under way with that id; NULL: none is. */
struct pull *pulls_find(struct pulls *p, uint32_t id);

/* How many are under way. */
unsigned pulls_count(const struct pulls *p);

/* Its place is free. */
void pulls_give(struct pull *pull);

#endif
