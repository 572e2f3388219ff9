/* The RDMA devices of this machine, and how much memory may be registered with them. In a build
 * without verbs there are none. */
#ifndef KELP_RDMA_DEVICE_H
#define KELP_RDMA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/wire.h"

#define DEVICE_NAME_MAX 64
#define DEVICE_GIDS_MAX 32 /* of a port; there may be more */
#define DEVICE_PORTS_MAX 64

enum device_gid_type {
	DEVICE_GID_IB,
	DEVICE_GID_ROCE_V1,
	DEVICE_GID_ROCE_V2,
};

struct device_gid {
	enum device_gid_type type;
	char text[48];
	char netdev[16]; /* "" without */
};

/* One port of one device. */
struct device_port {
	char device[DEVICE_NAME_MAX];
	uint32_t vendor_id;
	uint8_t port;
	bool active;
	char state[24];
	char link_layer[16]; /* InfiniBand, Ethernet, iWARP */
	uint32_t lid;
	uint32_t mtu_bytes; /* of its packets */
	size_t n_gids;
	struct device_gid gids[DEVICE_GIDS_MAX];
};

/* Calls visit for every port; non-zero ends the walk and is returned. Returns 0, -ENOMEM, or
 * -EOPNOTSUPP: built without verbs. */
int device_walk(int (*visit)(void *arg, const struct device_port *p), void *arg);

/* Which GID speaks for a port: RoCE v2 of an IPv4 address, else RoCE v2, else the first. NULL: none. */
const struct device_gid *device_best_gid(const struct device_port *p);

/* The IP addresses where connections over the active ports can be made, at most max. */
size_t device_addresses(uint16_t port, struct wire_address *ret, size_t max);

/* Devices with an active port; only: that one alone, if not NULL. */
unsigned device_count_active(const char *only);

/* Whether so much memory may be registered, once the soft limit is raised as far as needed: 0, or -EPERM
 * with a message that says how much must be permitted (RLIMIT_MEMLOCK), and where. */
int device_allow_memlock(uint64_t bytes, char *message, size_t message_bytes);

#endif
