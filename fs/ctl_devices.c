/* kelpctl devices. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/ctl.h"
#include "rdma/device.h"

static const char *gid_type_name(enum device_gid_type type)
{
	switch (type) {
	case DEVICE_GID_IB:
		return "IB";
	case DEVICE_GID_ROCE_V1:
		return "RoCE v1";
	case DEVICE_GID_ROCE_V2:
		return "RoCE v2";
	}
	return "";
}

static int add_port(void *arg, const struct device_port *p)
{
	const struct device_gid *best = device_best_gid(p);
	cJSON *port = cJSON_CreateObject();

	cJSON_AddStringToObject(port, "device", p->device);
	ctl_json_u64(port, "vendor_id", p->vendor_id);
	ctl_json_u64(port, "port", p->port);
	cJSON_AddStringToObject(port, "state", p->state);
	cJSON_AddBoolToObject(port, "active", p->active);
	cJSON_AddStringToObject(port, "link_layer", p->link_layer);
	ctl_json_u64(port, "lid", p->lid);
	ctl_json_u64(port, "mtu", p->mtu_bytes);
	cJSON *gids = cJSON_AddArrayToObject(port, "gids");
	for (size_t i = 0; i < p->n_gids; i++) {
		const struct device_gid *g = &p->gids[i];
		cJSON *gid = cJSON_CreateObject();

		cJSON_AddStringToObject(gid, "gid", g->text);
		cJSON_AddStringToObject(gid, "type", gid_type_name(g->type));
		cJSON_AddStringToObject(gid, "interface", g->netdev);
		cJSON_AddBoolToObject(gid, "used", g == best);
		cJSON_AddItemToArray(gids, gid);
	}
	cJSON_AddItemToArray(arg, port);
	return 0;
}

static const char *member(const cJSON *object, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(object, name)->valuestring;
}

static void print_table(const cJSON *ports)
{
	const cJSON *port, *gid;

	cJSON_ArrayForEach(port, ports)
	{
		printf("%s port %s: %s, %s, vendor id %s, lid %s, mtu %s\n", member(port, "device"),
		       member(port, "port"), member(port, "state"), member(port, "link_layer"),
		       member(port, "vendor_id"), member(port, "lid"), member(port, "mtu"));
		cJSON_ArrayForEach(gid, cJSON_GetObjectItemCaseSensitive(port, "gids"))
		{
			bool used = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(gid, "used"));

			printf("  gid %s, %s%s%s%s\n", member(gid, "gid"), member(gid, "type"),
			       member(gid, "interface")[0] ? ", " : "", member(gid, "interface"),
			       used ? ", used" : "");
		}
	}
}

int ctl_devices(const struct ctl_options *o, char *message, size_t bytes)
{
	cJSON *ports = cJSON_CreateArray();
	int err = device_walk(add_port, ports);

	if (!err && o->json)
		return ctl_json_print(stdout, ports);
	if (err == -EOPNOTSUPP)
		ctl_fail(err, message, bytes,
			 "built without RDMA (libibverbs and librdmacm were not there)");
	else if (err)
		ctl_fail(err, message, bytes, "the RDMA devices cannot be listed: %s",
			 strerror(-err));
	else if (cJSON_GetArraySize(ports))
		print_table(ports);
	else
		printf("this machine has no RDMA device\n");
	cJSON_Delete(ports);
	return err;
}
