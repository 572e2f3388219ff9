/* kelpctl serve: reads needles for others over HTTP, as the sidecar of SeaweedFS up to 4.44 was to.
 *
 * Threads: this one waits for signals and removes old files; the HTTP server has one for each connection. */
#include "fs/ctl_serve.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cache/scratch.h"
#include "cache/slab.h"
#include "filer/locate.h"
#include "filer/needle.h"
#include "filer/token.h"
#include "fs/ctl.h"
#include "fs/ctl_serve_temp.h"
#include "fs/launch.h"
#include "fs/log.h"
#include "fs/notify.h"
#include "rdma/client.h"
#include "rdma/device.h"
#include "rdma/verbs.h"

#define PAGE_BYTES 4096
/* Of the slab for each read. */
#define SLAB_READ_BYTES SERVE_BLOCK_BYTES
#define EXPIRE_MS 250 /* how often files are looked at */
#define NS_PER_MS 1000000L
/* Reads under way are ended within their own time; then who has not taken the answer is cut off. */
#define STOP_TAKE_MS 2000
/* Further connections than those that read: they are told that it is too much, ask how it goes. */
#define CONNECTIONS_SPARE 128

static const struct httpd_route routes[] = {
	{ "/read", HTTPD_GET, serve_answer_read },
	{ "/health", HTTPD_GET, serve_answer_health },
	{ "/stats", HTTPD_GET, serve_answer_stats },
	{ "/metrics", HTTPD_GET, serve_answer_metrics },
	{ "/cleanup", HTTPD_DELETE, serve_answer_cleanup },
};

/* --- memory --- */

/* Destinations of reads, to be registered with an RDMA device once; where it is full, memory of the heap
 * serves. Nothing of it is committed before it is used, but with a device, which locks all of it. */
static int open_memory(struct serve *s, char *message, size_t bytes)
{
	const struct ctl_options *o = s->options;
	uint64_t wanted = min_u64(o->memory_bytes, (uint64_t)o->reads_max * SLAB_READ_BYTES);
	bool ordinary = o->cluster.huge_pages == HUGE_PAGES_OFF;
	int err = (ordinary ? slab_new_ordinary : slab_new)(max_u64(wanted, SLAB_BYTES_MIN),
							    &s->slab);

	if (!err) {
		err = scratch_new(s->slab, NULL, &s->scratch);
		if (!err)
			return 0;
		slab_free(s->slab);
	}
	return ctl_fail(err, message, bytes, "memory for reads: %s", strerror(-err));
}

static void close_memory(struct serve *s)
{
	scratch_free(s->scratch);
	slab_free(s->slab);
}

/* --- the cluster --- */

static int found_active(void *arg, const struct device_port *p)
{
	(void)arg;
	return p->active;
}

static int open_cluster(struct serve *s, char *message, size_t bytes)
{
	const struct ctl_options *o = s->options;
	struct options cluster = o->cluster;
	void *base;
	size_t slab_bytes;

	cluster.threads = o->reads_max;
	cluster.agent = o->via & VIA_AGENT ? AGENT_AUTO : AGENT_OFF;
	cluster.rdma = o->via & VIA_RDMA ? AGENT_AUTO : AGENT_OFF;
	cluster.rdma_tos = RDMA_TOS_SYSTEM;
	cluster.agents_always = o->has_server || o->any_server;
	slab_region(s->slab, &base, &slab_bytes);
	/* What the slab has no room for is registered for the time of a read, and need not begin or end with a
	 * page. */
	cluster.slab_bytes = max_u64(slab_bytes, o->memory_bytes) +
			     2 * (uint64_t)o->reads_max * PAGE_BYTES;
	int err = cluster_open(&cluster, &s->cluster, message, bytes);
	if (err)
		return err;
	if (s->cluster.rdma)
		err = verbs_region_add(SLAB_REGION, base, slab_bytes);
	/* So that the first connection does not take long. */
	if (!err && s->cluster.rdma && device_walk(found_active, NULL) > 0)
		err = slab_populate_start(s->slab);
	if (!err)
		err = cluster_search_masters(&cluster, &s->cluster);
	if (err) {
		cluster_close(&s->cluster);
		return ctl_fail(err, message, bytes, "%s", strerror(-err));
	}
	return 0;
}

static int open_fetcher(struct serve *s, char *message, size_t bytes)
{
	const struct cluster *c = &s->cluster;
	unsigned via = s->options->via;
	struct source sources[4];
	struct fetch_config cfg = { .sources = sources, .locator = c->locator };

	if ((via & VIA_RDMA) && c->rdma)
		sources[cfg.n_sources++] = client_source(c->rdma);
	if ((via & VIA_TCP) && c->agents)
		sources[cfg.n_sources++] = client_source(c->agents);
	if (via & VIA_HTTP)
		sources[cfg.n_sources++] = needle_http_source(c->needles);
	if (via & VIA_PROXY)
		sources[cfg.n_sources++] = needle_proxy_source(c->needles);
	int err = fetcher_new(&cfg, &s->reader.fetcher);
	if (err)
		return ctl_fail(err, message, bytes, "%s", strerror(-err));
	fetcher_set_scratch(s->reader.fetcher, s->scratch);
	return 0;
}

static int open_reader(struct serve *s, char *message, size_t bytes)
{
	const struct ctl_options *o = s->options;
	struct serve_reader *r = &s->reader;
	int err = 0;

	r->locator = s->cluster.locator;
	r->slab = s->slab;
	r->any_server = o->any_server;
	r->timeout_ms = o->timeout_ms;
	r->decode_bytes_max = o->decode_bytes;
	if (o->has_server)
		err = locate_server(r->locator, &o->server, &r->fixed);
	if (!err)
		err = serve_reader_init(r, o->memory_bytes);
	if (err) {
		location_set_put(r->fixed);
		return ctl_fail(err, message, bytes, "%s", strerror(-err));
	}
	return 0;
}

static void close_reader(struct serve *s)
{
	serve_reader_destroy(&s->reader);
	location_set_put(s->reader.fixed);
}

/* --- running --- */

static void reread_keys(struct serve *s)
{
	unsigned line = 0;

	notify_reloading();
	int err = token_source_reload(s->cluster.tokens, &line);
	if (err)
		log_error("cannot read the keys again (line %u): %s; the old ones stay", line,
			  strerror(-err));
	else
		log_info("keys read again");
	notify_manager("READY=1");
}

static void wait_for_end(struct serve *s, const sigset_t *signals)
{
	const struct timespec wait = { .tv_nsec = EXPIRE_MS * NS_PER_MS };

	for (;;) {
		int signal = sigtimedwait(signals, NULL, &wait);

		if (signal == SIGTERM || signal == SIGINT)
			return;
		if (signal == SIGHUP)
			reread_keys(s);
		if (s->temp)
			temp_files_expire(s->temp, s->options->temp_age_ms);
	}
}

static void say_what_is_in_effect(const struct serve *s)
{
	const struct ctl_options *o = s->options;
	bool has_key = token_has_volume_key(s->cluster.tokens);
	bool needs_token = has_key && !o->no_token;
	bool loopback = strncmp(o->listen.host, "127.", 4) == 0 ||
			strcmp(o->listen.host, "::1") == 0 ||
			strcmp(o->listen.host, "localhost") == 0;
	struct slab_stats slab;

	slab_stats(s->slab, &slab);
	log_info("in effect: slab %zu MiB in pages of %zu KiB", slab.total_bytes / MIB,
		 slab.huge_page_bytes / KIB);
	log_info("serving on %s, port %u; reads %s; RDMA %s",
		 o->listen.host[0] ? o->listen.host : "*", o->listen.port,
		 needs_token ? "need a token" : "need no token",
		 s->has_device ? "where an agent offers it" : "not here: no active device");
	if (!loopback && !needs_token)
		log_warning("everybody who reaches this address can read every needle whose id "
			    "they know");
	if (o->claim_rdma)
		log_warning("X-RDMA-Used says true whatever the way (--claim-rdma)");
}

static int serve_until_told(struct serve *s, const sigset_t *signals, char *message, size_t bytes)
{
	const struct ctl_options *o = s->options;
	struct httpd_config cfg = {
		.host = o->listen.host,
		.port = o->listen.port,
		.routes = routes,
		.n_routes = ARRAY_LEN(routes),
		.arg = s,
		.blocking = true,
		.connections_max = o->reads_max + CONNECTIONS_SPARE,
		.idle_ms = o->client_ms,
		.reply_ms = o->timeout_ms + o->client_ms,
	};
	struct httpd *httpd;
	int err = httpd_start(&cfg, &httpd, message, bytes);

	if (err)
		return err;
	say_what_is_in_effect(s);
	notify_manager("READY=1");
	wait_for_end(s, signals);
	notify_manager("STOPPING=1");
	atomic_store(&s->stopping, true);
	httpd_drain(httpd, deadline_in_ms((int64_t)o->timeout_ms + STOP_TAKE_MS));
	httpd_stop(httpd);
	log_info("ended");
	return 0;
}

static int run(struct serve *s, const sigset_t *signals, char *message, size_t bytes)
{
	const struct ctl_options *o = s->options;
	int err = open_memory(s, message, bytes);

	if (err)
		return err;
	err = open_cluster(s, message, bytes);
	if (err)
		goto memory;
	err = open_reader(s, message, bytes);
	if (err)
		goto cluster;
	err = open_fetcher(s, message, bytes);
	if (err)
		goto reader;
	if (o->temp_dir)
		err = temp_files_open(o->temp_dir, &s->temp, message, bytes);
	if (err)
		goto fetcher;
	s->has_device = (o->via & VIA_RDMA) && device_walk(found_active, NULL) > 0;
	s->start_s = time(NULL);
	err = serve_until_told(s, signals, message, bytes);
	temp_files_close(s->temp);
fetcher:
	fetcher_free(s->reader.fetcher);
reader:
	close_reader(s);
cluster:
	cluster_close(&s->cluster);
memory:
	close_memory(s);
	return err;
}

int ctl_serve(const struct ctl_options *o, char *message, size_t bytes)
{
	struct serve *s = calloc(1, sizeof(*s));
	sigset_t signals;

	if (!s)
		return ctl_fail(-ENOMEM, message, bytes, "%s", strerror(ENOMEM));
	s->options = o;
	launch_raise_file_limit();
	log_open("kelpctl", LOG_LEVEL_INFO, false);
	/* Before any thread: all of them leave these to this one. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	int err = run(s, &signals, message, bytes);
	free(s);
	return err;
}
