#include "rdma/completions.h"

#include <stdatomic.h>

#ifdef HAVE_VERBS
#include <infiniband/verbs.h>

static atomic_uint_fast64_t counts[COMPLETION_STATUSES_MAX];

void completion_note(unsigned status)
{
	if (status < COMPLETION_STATUSES_MAX)
		atomic_fetch_add_explicit(&counts[status], 1, memory_order_relaxed);
}

size_t completion_counts(struct completion_count ret[COMPLETION_STATUSES_MAX])
{
	size_t n = 0;

	for (unsigned i = 0; i < COMPLETION_STATUSES_MAX; i++) {
		uint64_t count = atomic_load_explicit(&counts[i], memory_order_relaxed);

		if (count || i == IBV_WC_SUCCESS)
			ret[n++] = (struct completion_count){
				.status = ibv_wc_status_str((enum ibv_wc_status)i), .n = count
			};
	}
	return n;
}

#else

void completion_note(unsigned status)
{
	(void)status;
}

size_t completion_counts(struct completion_count ret[COMPLETION_STATUSES_MAX])
{
	(void)ret;
	return 0;
}

#endif
