/* In the place of verbs.c, in a build without verbs. */
#include <errno.h>

#include "rdma/agent/verbs.h"

static int none_listen(struct agent *a, const struct listener_config *cfg, struct listener **ret)
{
	(void)a;
	(void)cfg;
	(void)ret;
	return -ENODEV;
}

uint64_t agent_verbs_locked_bytes(const struct agent *a)
{
	(void)a;
	return 0;
}

/* Without a listener nothing else is called. */
const struct transport agent_verbs = { .name = "rdma", .listen = none_listen };
