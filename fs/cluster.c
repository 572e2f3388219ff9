#include "fs/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cache/slab.h"
#include "filer/base/base.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/masters.h"
#include "filer/needle.h"
#include "filer/tls.h"
#include "filer/token.h"
#include "fs/fetch.h"
#include "fs/log.h"
#include "fs/memlock.h"
#include "fs/options.h"
#include "fs/rdma_map.h"
#include "rdma/client.h"
#include "rdma/device.h"
#include "rdma/spin.h"
#include "rdma/transport.h"
#include "rdma/verbs.h"

/* The first connection over a device also has it take the slab over, all pages of it. */
#define RDMA_PROBE_MS 3000

static int explain_security_toml(const char *path, unsigned line, int err, char *message,
				 size_t bytes)
{
	if (line)
		snprintf(message, bytes, "%s:%u: not understood", path, line);
	else
		snprintf(message, bytes, "%s: %s", path ? path : "read keys", strerror(-err));
	return err;
}

int cluster_open_tokens(const struct options *o, struct token_source **ret, char *message,
			size_t bytes)
{
	unsigned line = 0;
	int err = token_source_new(o->security_toml, &line, ret);

	return err ? explain_security_toml(o->security_toml, line, err, message, bytes) : 0;
}

/* A file that cannot be read would look like a certificate that was refused. */
static int check_readable(const char *path, char *message, size_t bytes)
{
	if (!path || access(path, R_OK) == 0)
		return 0;
	int err = -errno;
	snprintf(message, bytes, "%s: %s", path, strerror(-err));
	return err;
}

/* Options win over security.toml. */
static int open_http(const struct options *o, struct http_pool **ret, char *message, size_t bytes)
{
	struct tls_settings tls = { 0 };
	unsigned line = 0;
	int err = tls_settings_read(o->security_toml, &line, &tls);

	if (err)
		return explain_security_toml(o->security_toml, line, err, message, bytes);
	struct http_config cfg = {
		.ca_file = o->tls_ca ? o->tls_ca : tls.ca,
		.client_cert = o->tls_cert ? o->tls_cert : tls.cert,
		.client_key = o->tls_key ? o->tls_key : tls.key,
		.insecure = !o->tls_ca && tls.insecure,
		.connect_timeout_ms = o->connect_timeout_ms,
		.stall_timeout_ms = o->stall_timeout_ms,
		.idle_max_ms = HTTP_IDLE_MAX_MS,
		.handles_max = o->threads + o->prefetch_threads,
	};
	err = check_readable(cfg.ca_file, message, bytes);
	if (!err)
		err = check_readable(cfg.client_cert, message, bytes);
	if (!err)
		err = check_readable(cfg.client_key, message, bytes);
	if (!err)
		err = http_pool_new(&cfg, ret);
	tls_settings_free(&tls);
	return err;
}

/* None: every chunk goes through the filer, which must not hold up a mount. */
static size_t find_masters(const struct options *o, struct filer *filer,
			   struct endpoint masters[OPTION_MASTERS_MAX])
{
	size_t n = 0;

	if (o->volume_access == VOLUME_PROXY)
		return 0;
	if (o->n_masters) {
		memcpy(masters, o->masters, o->n_masters * sizeof(masters[0]));
		return o->n_masters;
	}
	if (!filer)
		return 0;
	if (filer_masters(filer, deadline_in_ms(MASTERS_TIMEOUT_MS), NULL, masters,
			  OPTION_MASTERS_MAX, &n))
		return 0;
	return n;
}

static int open_locator(const struct options *o, struct cluster *c)
{
	struct locate_config cfg = {
		.masters = c->masters,
		.volumes_https = o->filers[0].https,
		.use_public_url = o->volume_access == VOLUME_PUBLIC,
	};

	c->n_masters = find_masters(o, c->filer, c->masters);
	if (o->filers[0].https)
		for (size_t i = 0; i < c->n_masters; i++)
			c->masters[i].https = true;
	cfg.n_masters = c->n_masters;
	return locator_new(c->http, &cfg, &c->locator);
}

/* Are volume servers asked for chunks, now or as soon as the filer says where they are? */
static bool has_servers(const struct options *o, const struct cluster *c)
{
	return c->n_masters || (c->filer && o->volume_access != VOLUME_PROXY);
}

static void say_found(void *arg, size_t n)
{
	(void)arg;
	log_info("the filer names its masters now (%zu): data comes from the volume servers", n);
}

int cluster_search_masters(const struct options *o, struct cluster *c)
{
	struct masters_search_config cfg = {
		.filer = c->filer,
		.locator = c->locator,
		.https = o->filers[0].https,
		.on_found = say_found,
	};

	if (c->n_masters || !has_servers(o, c))
		return 0;
	log_warning("no master is known (no gRPC at the filer, no -o master=): data can "
		    "only come through the filer, which is asked again for them");
	return masters_search_new(&cfg, &c->search);
}

/* Where an agent wants a token for every needle and we have no key, the master gives one. */
static int token_for_needle(void *needles, const struct fid *fid, struct deadline d, char *buf,
			    size_t bytes)
{
	return needle_http_token(needles, fid, d, buf, bytes);
}

static bool map_agent(void *arg, const struct endpoint *server, struct endpoint *ret)
{
	return rdma_map_find(arg, server, ret);
}

static int check_memlock(const struct options *o, char *message, size_t bytes)
{
	const struct verbs_memory memory = { .region_bytes = slab_rounded_bytes(o->slab_bytes),
					     .devices = device_count_active(o->rdma_device),
					     .agents = VERBS_AGENTS_PRESUMED,
					     .connections = CLIENT_CONNECTIONS_MAX };

	return memlock_allow(&memory, message, bytes);
}

/* There is nobody else to ask: whoever reads waits as long as he may. 0: the client's default. */
static unsigned connect_ms(const struct options *o, bool required)
{
	return required ? o->timeout_ms : 0;
}

static int open_rdma(const struct options *o, struct client_config cfg, struct cluster *c,
		     char *message, size_t bytes)
{
	struct verbs_settings verbs = {
		.device = o->rdma_device,
		.tos = o->rdma_tos == RDMA_TOS_SYSTEM ? -1 : (int)o->rdma_tos,
		.spin_us = SPIN_US,
	};
	int err = check_memlock(o, message, bytes);

	if (err && o->rdma != AGENT_REQUIRE) {
		log_warning("%s; reads go over TCP and HTTP meanwhile", message);
		message[0] = '\0';
		return 0;
	}
	if (!err)
		err = verbs_set(&verbs);
	if (!err && o->rdma_map)
		err = rdma_map_read(o->rdma_map, &c->rdma_map, message, bytes);
	if (err)
		return err;
	cfg.transport = &client_verbs;
	cfg.directory = c->agents;
	cfg.required = o->rdma == AGENT_REQUIRE;
	cfg.connections_few = CLIENT_CONNECTIONS_FEW;
	cfg.connect_ms = connect_ms(o, cfg.required);
	cfg.probe_ms = RDMA_PROBE_MS;
	if (c->rdma_map) {
		cfg.map = map_agent;
		cfg.map_arg = c->rdma_map;
	}
	return client_new(&cfg, &c->rdma);
}

static int open_agents(const struct options *o, struct cluster *c, char *message, size_t bytes)
{
	struct client_config cfg = {
		.transport = &client_tcp,
		.port = (uint16_t)o->agent_port,
		.extent_token = token_for_needle,
		.arg = c->needles,
		.tokens = c->tokens,
		/* With rdma=require it is but a directory, which RDMA cannot do without. */
		.required = o->agent == AGENT_REQUIRE || o->rdma == AGENT_REQUIRE,
	};

	if (o->agent == AGENT_OFF || (!has_servers(o, c) && !o->agents_always))
		return 0;
	cfg.connect_ms = connect_ms(o, cfg.required);
	int err = client_new(&cfg, &c->agents);
	if (err || o->rdma == AGENT_OFF)
		return err;
	return open_rdma(o, cfg, c, message, bytes);
}

/* The order in which sources are tried. */
static int open_fetcher(const struct options *o, struct cluster *c)
{
	bool rdma_only = o->rdma == AGENT_REQUIRE;
	struct source sources[4];
	struct fetch_config cfg = {
		.sources = sources,
		.locator = c->locator,
		.verify_md5 = o->verify == VERIFY_MD5,
	};

	if (c->rdma)
		sources[cfg.n_sources++] = client_source(c->rdma);
	if (c->agents && !rdma_only)
		sources[cfg.n_sources++] = client_source(c->agents);
	if (o->agent != AGENT_REQUIRE && !rdma_only) {
		if (has_servers(o, c))
			sources[cfg.n_sources++] = needle_http_source(c->needles);
		sources[cfg.n_sources++] = needle_proxy_source(c->needles);
	}
	return fetcher_new(&cfg, &c->fetcher);
}

int cluster_open(const struct options *o, struct cluster *ret, char *message, size_t bytes)
{
	struct cluster c = { 0 };
	struct filer_config filers = { .filers = o->filers, .n_filers = o->n_filers };
	int err;

	message[0] = '\0';
	err = cluster_open_tokens(o, &c.tokens, message, bytes);
	if (err)
		return err;
	err = open_http(o, &c.http, message, bytes);
	if (err)
		goto close_cluster;
	if (o->n_filers)
		err = filer_new(c.http, c.tokens, &filers, &c.filer);
	if (err)
		goto close_cluster;
	err = open_locator(o, &c);
	if (err)
		goto close_cluster;
	err = needle_http_new(c.http, c.tokens, c.locator, c.filer, &c.needles);
	if (err)
		goto close_cluster;
	err = open_agents(o, &c, message, bytes);
	if (err)
		goto close_cluster;
	err = open_fetcher(o, &c);
	if (err)
		goto close_cluster;
	*ret = c;
	return 0;

close_cluster:
	cluster_close(&c);
	if (!message[0])
		snprintf(message, bytes, "cannot set up the connection to the cluster: %s",
			 strerror(-err));
	return err;
}

void cluster_close(struct cluster *c)
{
	masters_search_free(c->search);
	fetcher_free(c->fetcher);
	client_free(c->rdma);
	client_free(c->agents);
	if (c->rdma)
		verbs_release();
	rdma_map_free(c->rdma_map);
	needle_http_free(c->needles);
	locator_free(c->locator);
	filer_free(c->filer);
	http_pool_free(c->http);
	token_source_free(c->tokens);
	*c = (struct cluster){ 0 };
}
