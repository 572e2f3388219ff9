#include "fs/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/needle.h"
#include "filer/token.h"
#include "fs/fetch.h"
#include "fs/options.h"

/* Finding the masters must not hold up a mount whose filer has no gRPC port open. */
#define MASTERS_TIMEOUT_MS 3000

static int open_tokens(const struct options *o, struct token_source **ret, char *message,
		       size_t bytes)
{
	unsigned line = 0;
	int err = token_source_new(o->security_toml, &line, ret);

	if (err && line)
		snprintf(message, bytes, "%s:%u: not understood", o->security_toml, line);
	else if (err)
		snprintf(message, bytes, "%s: %s", o->security_toml ? o->security_toml : "keys",
			 strerror(-err));
	return err;
}

static int open_locator(const struct options *o, struct cluster *c)
{
	struct endpoint masters[OPTION_MASTERS_MAX];
	struct locate_config cfg = {
		.masters = masters,
		.volumes_https = o->filers[0].https,
		.use_public_url = o->volume_access == VOLUME_PUBLIC,
	};

	if (o->volume_access == VOLUME_PROXY) {
		cfg.n_masters = 0;
	} else if (o->n_masters) {
		cfg.n_masters = o->n_masters;
		memcpy(masters, o->masters, o->n_masters * sizeof(masters[0]));
	} else if (filer_masters(c->filer, deadline_in_ms(MASTERS_TIMEOUT_MS), masters,
				 OPTION_MASTERS_MAX, &cfg.n_masters)) {
		cfg.n_masters = 0;
	}
	if (o->filers[0].https)
		for (size_t i = 0; i < cfg.n_masters; i++)
			masters[i].https = true;
	c->n_masters = cfg.n_masters;
	return locator_new(c->http, &cfg, &c->locator);
}

static int open_fetcher(const struct options *o, struct cluster *c)
{
	struct source sources[2];
	struct fetch_config cfg = {
		.sources = sources,
		.locator = c->locator,
		.verify_md5 = o->verify == VERIFY_MD5,
	};

	if (c->n_masters)
		sources[cfg.n_sources++] = needle_http_source(c->needles);
	sources[cfg.n_sources++] = needle_proxy_source(c->needles);
	return fetcher_new(&cfg, &c->fetcher);
}

int cluster_open(const struct options *o, struct cluster *ret, char *message, size_t bytes)
{
	struct cluster c = { 0 };
	struct http_config http = {
		.ca_file = o->tls_ca,
		.client_cert = o->tls_cert,
		.client_key = o->tls_key,
		.connect_timeout_ms = o->connect_timeout_ms,
		.stall_timeout_ms = o->stall_timeout_ms,
		.idle_max_ms = HTTP_IDLE_MAX_MS,
		.handles_max = o->threads + o->prefetch_threads,
	};
	struct filer_config filers = { .filers = o->filers, .n_filers = o->n_filers };
	int err;

	message[0] = '\0';
	err = open_tokens(o, &c.tokens, message, bytes);
	if (err)
		return err;
	err = http_pool_new(&http, &c.http);
	if (err)
		goto close_cluster;
	err = filer_new(c.http, c.tokens, &filers, &c.filer);
	if (err)
		goto close_cluster;
	err = open_locator(o, &c);
	if (err)
		goto close_cluster;
	err = needle_http_new(c.http, c.tokens, c.locator, c.filer, &c.needles);
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
	fetcher_free(c->fetcher);
	needle_http_free(c->needles);
	locator_free(c->locator);
	filer_free(c->filer);
	http_pool_free(c->http);
	token_source_free(c->tokens);
	*c = (struct cluster){ 0 };
}
