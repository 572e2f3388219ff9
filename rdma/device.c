#include "rdma/device.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <infiniband/verbs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"

#define MTU_BYTES_MIN 256 /* IBV_MTU_256 is 1, each further one twice as much */

static const char *layer_name(const struct ibv_context *ctx, uint8_t layer)
{
	if (ctx->device->transport_type == IBV_TRANSPORT_IWARP)
		return "iWARP";
	return layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet" : "InfiniBand";
}

static enum device_gid_type gid_type(uint32_t type)
{
	switch (type) {
	case IBV_GID_TYPE_ROCE_V1:
		return DEVICE_GID_ROCE_V1;
	case IBV_GID_TYPE_ROCE_V2:
		return DEVICE_GID_ROCE_V2;
	default:
		return DEVICE_GID_IB;
	}
}

static void list_gids(struct ibv_context *ctx, int table_length, struct device_port *p)
{
	for (int i = 0; i < table_length && p->n_gids < DEVICE_GIDS_MAX; i++) {
		struct ibv_gid_entry e;
		struct device_gid *g = &p->gids[p->n_gids];
		char name[IF_NAMESIZE];

		/* Entries that are not in use are refused. */
		if (ibv_query_gid_ex(ctx, p->port, (uint32_t)i, &e, 0))
			continue;
		g->type = gid_type(e.gid_type);
		inet_ntop(AF_INET6, e.gid.raw, g->text, sizeof(g->text));
		g->netdev[0] = '\0';
		if (e.ndev_ifindex && if_indextoname(e.ndev_ifindex, name))
			snprintf(g->netdev, sizeof(g->netdev), "%s", name);
		p->n_gids++;
	}
}

static int visit_ports(struct ibv_context *ctx, struct device_port *p,
		       int (*visit)(void *arg, const struct device_port *p), void *arg)
{
	struct ibv_device_attr device;
	struct ibv_port_attr attr;
	int err = ibv_query_device(ctx, &device) ? -EIO : 0;

	for (unsigned i = 1; !err && i <= device.phys_port_cnt && i <= DEVICE_PORTS_MAX; i++) {
		if (ibv_query_port(ctx, (uint8_t)i, &attr))
			continue;
		*p = (struct device_port){
			.vendor_id = device.vendor_id,
			.port = (uint8_t)i,
			.active = attr.state == IBV_PORT_ACTIVE,
			.lid = attr.lid,
			.mtu_bytes = MTU_BYTES_MIN << (attr.active_mtu - IBV_MTU_256),
		};
		snprintf(p->device, sizeof(p->device), "%s", ibv_get_device_name(ctx->device));
		snprintf(p->state, sizeof(p->state), "%s", ibv_port_state_str(attr.state));
		snprintf(p->link_layer, sizeof(p->link_layer), "%s",
			 layer_name(ctx, attr.link_layer));
		list_gids(ctx, attr.gid_tbl_len, p);
		err = visit(arg, p);
	}
	return err;
}

int device_walk(int (*visit)(void *arg, const struct device_port *p), void *arg)
{
	struct device_port p;
	int n = 0, err = 0;
	struct ibv_device **list = ibv_get_device_list(&n);

	/* Without the kernel's part there is no list, and no device either. */
	if (!list)
		return errno == ENOMEM ? -ENOMEM : 0;
	for (int i = 0; i < n && !err; i++) {
		struct ibv_context *ctx = ibv_open_device(list[i]);

		if (!ctx)
			continue;
		err = visit_ports(ctx, &p, visit, arg);
		ibv_close_device(ctx);
	}
	ibv_free_device_list(list);
	return err;
}

static bool is_v4_mapped(const struct device_gid *g)
{
	return strncmp(g->text, "::ffff:", 7) == 0;
}

const struct device_gid *device_best_gid(const struct device_port *p)
{
	const struct device_gid *best = p->n_gids ? &p->gids[0] : NULL;

	for (size_t i = 0; i < p->n_gids; i++) {
		const struct device_gid *g = &p->gids[i];

		if (g->type != DEVICE_GID_ROCE_V2)
			continue;
		if (is_v4_mapped(g))
			return g;
		if (best->type != DEVICE_GID_ROCE_V2)
			best = g;
	}
	return best;
}

/* --- addresses --- */

struct address_list {
	const struct ifaddrs *interfaces;
	uint16_t port;
	struct wire_address *ret;
	size_t n, max;
};

static void add_address(struct address_list *l, const struct sockaddr *a)
{
	char host[INET6_ADDRSTRLEN];
	const void *bytes;

	if (a->sa_family == AF_INET) {
		bytes = &((const struct sockaddr_in *)a)->sin_addr;
	} else if (a->sa_family == AF_INET6) {
		const struct in6_addr *v6 = &((const struct sockaddr_in6 *)a)->sin6_addr;
		/* Of no use without the name of an interface. */
		if (IN6_IS_ADDR_LINKLOCAL(v6))
			return;
		bytes = v6;
	} else {
		return;
	}
	if (l->n == l->max || !inet_ntop(a->sa_family, bytes, host, sizeof(host)))
		return;
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->ret[i].host, host) == 0)
			return;
	snprintf(l->ret[l->n].host, sizeof(l->ret[l->n].host), "%s", host);
	l->ret[l->n++].port = l->port;
}

static bool has_netdev(const struct device_port *p, const char *name)
{
	for (size_t i = 0; i < p->n_gids; i++)
		if (strcmp(p->gids[i].netdev, name) == 0)
			return true;
	return false;
}

/* The addresses of the interfaces that a port's GIDs belong to. */
static int list_addresses(void *arg, const struct device_port *p)
{
	struct address_list *l = arg;

	if (!p->active)
		return 0;
	for (const struct ifaddrs *i = l->interfaces; i; i = i->ifa_next)
		if (i->ifa_addr && (i->ifa_flags & IFF_UP) && has_netdev(p, i->ifa_name))
			add_address(l, i->ifa_addr);
	return 0;
}

size_t device_addresses(uint16_t port, struct wire_address *ret, size_t max)
{
	struct address_list l = { .port = port, .ret = ret, .max = max };
	struct ifaddrs *interfaces;

	if (getifaddrs(&interfaces))
		return 0;
	l.interfaces = interfaces;
	device_walk(list_addresses, &l);
	freeifaddrs(interfaces);
	return l.n;
}
