/* Completions of RDMA work by status, of all connections of this process: what monitoring wants to see of a
 * network that loses packets or a device that refuses. Thread-safe. */
#ifndef KELP_RDMA_COMPLETIONS_H
#define KELP_RDMA_COMPLETIONS_H

#include <stddef.h>
#include <stdint.h>

#define COMPLETION_STATUSES_MAX 32

struct completion_count {
	const char *status; /* as libibverbs names it */
	uint64_t n;
};

/* status: of enum ibv_wc_status. */
void completion_note(unsigned status);

/* Those that there were, and success. Returns how many; 0 in a build without verbs. */
size_t completion_counts(struct completion_count ret[COMPLETION_STATUSES_MAX]);

#endif
