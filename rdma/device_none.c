#include "rdma/device.h"

#include <errno.h>

/* In the place of device.c, in a build without verbs. */

int device_walk(int (*visit)(void *arg, const struct device_port *p), void *arg)
{
	(void)visit;
	(void)arg;
	return -EOPNOTSUPP;
}

const struct device_gid *device_best_gid(const struct device_port *p)
{
	(void)p;
	return NULL;
}

size_t device_addresses(uint16_t port, struct wire_address *ret, size_t max)
{
	(void)port;
	(void)ret;
	(void)max;
	return 0;
}
