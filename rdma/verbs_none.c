/* In the place of verbs.c, in a build without verbs. */
#include <errno.h>

#include "rdma/verbs.h"

static int none_connect(const struct client_address *a, int64_t stall_ms, struct deadline d,
			struct client_connection **ret)
{
	(void)a;
	(void)stall_ms;
	(void)d;
	(void)ret;
	return -EOPNOTSUPP;
}

/* Without a connection nothing else is called. */
const struct client_transport client_verbs = { .name = "rdma", .connect = none_connect };

int verbs_region_add(uint32_t region, void *base, size_t bytes)
{
	(void)region;
	(void)base;
	(void)bytes;
	return 0;
}

uint64_t verbs_locked_bytes(const struct verbs_memory *m)
{
	(void)m;
	return 0;
}

uint64_t verbs_registrations(void)
{
	return 0;
}

uint64_t verbs_abandoned_reads(void)
{
	return 0;
}

void verbs_release(void)
{
}

int verbs_set(const struct verbs_settings *s)
{
	(void)s;
	return 0;
}
