#include "fs/ctl_reach.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "filer/breaker.h"
#include "filer/needle.h"
#include "fs/ctl.h"
#include "fs/ctl_agent.h"
#include "rdma/client.h"
#include "rdma/device.h"
#include "rdma/verbs.h"

static bool map_agent(void *arg, const struct endpoint *server, struct endpoint *ret)
{
	const struct ctl_reach *r = arg;

	(void)server;
	if (!r->options->has_agent)
		return false;
	*ret = r->options->agent;
	return true;
}

static int token_for_needle(void *arg, const struct fid *fid, struct deadline d, char *buf,
			    size_t bytes)
{
	const struct ctl_reach *r = arg;

	return needle_http_token(r->cluster.needles, fid, d, buf, bytes);
}

static void tell_answer(void *arg, const struct wire_result *result)
{
	const struct ctl_reach *r = arg;

	if (r->on_answer)
		r->on_answer(r->on_answer_arg, result);
}

/* An agent tells over TCP where it takes RDMA connections. */
static int open_clients(struct ctl_reach *r, bool alone)
{
	const struct ctl_options *o = r->options;
	bool required = alone || !(r->via & ~VIA_AGENT);
	struct client_config cfg = {
		.transport = &client_tcp,
		.map = map_agent,
		.map_arg = r,
		.extent_token = token_for_needle,
		.arg = r,
		.on_answer = tell_answer,
		.on_answer_arg = r,
		.tokens = r->cluster.tokens,
		.required = required,
		.connections_max = o->connections,
		.connect_ms = required ? o->timeout_ms : 0,
	};

	if (!(r->via & VIA_AGENT))
		return 0;
	int err = client_new(&cfg, &r->tcp);
	if (err || !(r->via & VIA_RDMA))
		return err;
	cfg.transport = &client_verbs;
	cfg.directory = r->tcp;
	/* --agent is where the directory asks, not where RDMA connections are taken. */
	cfg.map = NULL;
	return client_new(&cfg, &r->rdma);
}

static int found_one(void *arg, const struct device_port *p)
{
	(void)arg;
	return p->active;
}

static unsigned ways_of(const struct ctl_options *o)
{
	bool has_rdma = !o->via_any || device_walk(found_one, NULL) > 0;

	return has_rdma ? o->via : o->via & ~VIA_RDMA;
}

static void set_fixed(struct ctl_reach *r)
{
	const struct ctl_options *o = r->options;
	bool agent_alone = o->has_agent && !o->cluster.n_filers && !o->cluster.n_masters;

	if (!o->has_server && !agent_alone)
		return;
	r->has_fixed = true;
	r->fixed.addr = o->has_server ? o->server : o->agent;
	endpoint_url(&r->fixed.addr, r->fixed.url);
	breaker_init(&r->fixed.http);
	breaker_init(&r->fixed.agent);
	breaker_init(&r->fixed.rdma);
}

static void set_ways(struct ctl_reach *r)
{
	const struct cluster *c = &r->cluster;

	for (unsigned via = 1; via < VIA_END; via <<= 1) {
		struct ctl_way *way = &r->ways[r->n_ways];

		if (!(r->via & via))
			continue;
		way->via = (enum ctl_via)via;
		if (via & VIA_AGENT)
			way->source = client_source(via == VIA_RDMA ? r->rdma : r->tcp);
		else
			way->source = via == VIA_HTTP ? needle_http_source(c->needles)
						      : needle_proxy_source(c->needles);
		r->n_ways++;
	}
}

int ctl_reach_open(const struct ctl_options *o, unsigned depth, bool alone, struct ctl_reach *r,
		   char *message, size_t bytes)
{
	struct options cluster = o->cluster;

	*r = (struct ctl_reach){ .options = o };
	cluster.threads = depth;
	int err = cluster_open(&cluster, &r->cluster, message, bytes);
	if (err)
		return err;
	r->via = ways_of(o);
	err = open_clients(r, alone);
	if (err) {
		ctl_reach_close(r);
		return ctl_fail(err, message, bytes, "%s", strerror(-err));
	}
	set_fixed(r);
	set_ways(r);
	return 0;
}

void ctl_reach_close(struct ctl_reach *r)
{
	client_free(r->rdma);
	client_free(r->tcp);
	verbs_release();
	cluster_close(&r->cluster);
	if (!r->has_fixed)
		return;
	breaker_destroy(&r->fixed.http);
	breaker_destroy(&r->fixed.agent);
	breaker_destroy(&r->fixed.rdma);
}

int ctl_reach_locate(struct ctl_reach *r, uint32_t volume_id, struct deadline d,
		     struct ctl_places *ret)
{
	struct location_set *set;

	if (r->has_fixed) {
		ret->n = 1;
		ret->servers[0] = &r->fixed;
		return 0;
	}
	int err = locate_volume(r->cluster.locator, volume_id, false, d, &set);
	if (err)
		return err;
	ret->n = min_u64(set->n, LOCATE_REPLICAS_MAX);
	for (size_t i = 0; i < ret->n; i++)
		ret->servers[i] = set->servers[i];
	location_set_put(set);
	return ret->n ? 0 : -ENOENT;
}

void ctl_place_name(const struct ctl_reach *r, const struct ctl_way *way,
		    const struct server *server, char buf[CTL_PLACE_BYTES])
{
	const struct ctl_options *o = r->options;
	struct endpoint at = { .port = WIRE_PORT };
	char name[ENDPOINT_STR_MAX];

	switch (way->via) {
	case VIA_RDMA:
	case VIA_TCP:
		if (o->has_agent)
			at = o->agent;
		else
			memcpy(at.host, server->addr.host, sizeof(at.host));
		break;
	case VIA_HTTP:
		at = server->addr;
		break;
	default:
		at = o->cluster.filers[filer_current(r->cluster.filer)];
		break;
	}
	ctl_endpoint_name(&at, name);
	snprintf(buf, CTL_PLACE_BYTES, "%s (%s)", name, ctl_via_name(way->via));
}

const char *ctl_read_error(const struct ctl_way *way, int err)
{
	switch (err) {
	case -ENOENT:
		return "no such needle";
	case -ENODATA:
		return "the needle ends before that range";
	case -EACCES:
		return "not allowed (--security names the file with the read key)";
	case -EBUSY:
		return "busy";
	case -EBADMSG:
		return "the bytes do not match their checksum";
	case -EUCLEAN:
		return "the stored bytes do not match their checksum";
	case -EPROTO:
		return way->via & VIA_AGENT ? "what answers there is not kelpd"
					    : "an answer that SeaweedFS does not give";
	case -EOPNOTSUPP:
		return "no agent, or one that cannot serve it";
	case -EHOSTUNREACH:
		return way->via & VIA_AGENT ? "no agent could be reached (kelpctl ping tells why)"
					    : strerror(-err);
	case -EFBIG:
		return "larger than kelpctl reads";
	default:
		return strerror(-err);
	}
}

const char *ctl_locate_error(int err)
{
	switch (err) {
	case -ENOENT:
		return "the master knows no server that has it";
	case -ENXIO:
		return "no master is known (--master names one)";
	case -EBUSY:
		return "the master is still starting";
	default:
		return strerror(-err);
	}
}
