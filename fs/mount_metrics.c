#include "fs/mount_metrics.h"

#include <curl/curl.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "cache/ssd.h"
#include "filer/base/base.h"
#include "filer/breaker.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "fs/fetch.h"
#include "fs/inode.h"
#include "fs/latency.h"
#include "fs/metrics.h"
#include "fs/mount.h"
#include "fs/options.h"
#include "fs/reader.h"
#include "rdma/client.h"
#include "rdma/verbs.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "rows without each say where a uint64_t is");

struct snapshot {
	struct mount *mount;
	uint64_t start_s, resident_bytes;
	uint64_t reads, read_bytes, read_errors;
	struct latency_counts read_latency, cached_latency;
	struct fetch_stats fetch;
	struct reader_stats reader;
	struct blockcache_stats cache;
	struct ssd_stats ssd;
	uint64_t ssd_used_bytes, ssd_on;
	struct slab_stats slab;
	uint64_t rdma_registrations, rdma_abandoned_reads;
	struct inode_stats inodes;
	struct http_stats http;
	uint64_t open_files;
	struct {
		uint64_t max_read_bytes, max_background, readahead_bytes, threads, splice;
	} fuse;
};

static void take_snapshot(struct mount *m, struct snapshot *s)
{
	struct mount_counters *c = &m->counters;

	*s = (struct snapshot){
		.mount = m,
		.start_s = (uint64_t)m->start_s,
		.resident_bytes = metrics_resident_bytes(),
		.reads = atomic_load_explicit(&c->reads, memory_order_relaxed),
		.read_bytes = atomic_load_explicit(&c->read_bytes, memory_order_relaxed),
		.read_errors = atomic_load_explicit(&c->read_errors, memory_order_relaxed),
		.fuse = {
			.max_read_bytes = m->max_read_bytes,
			.max_background = m->options->max_background,
			.readahead_bytes = atomic_load(&m->readahead_kb) * KIB,
			.threads = m->options->threads,
			.splice = m->splice,
		},
	};
	latency_read(&c->read_latency, &s->read_latency);
	latency_read(&c->cached_latency, &s->cached_latency);
	fetcher_stats(m->cluster.fetcher, &s->fetch);
	blockcache_stats(m->cache, &s->cache);
	reader_stats(m->reader, &s->reader); /* after it: no more was used than was read ahead */
	slab_stats(m->slab, &s->slab);
	s->rdma_registrations = verbs_registrations();
	s->rdma_abandoned_reads = verbs_abandoned_reads();
	inode_table_stats(m->inodes, &s->inodes);
	http_pool_stats(m->cluster.http, &s->http);
	if (m->ssd) {
		ssd_stats(m->ssd, &s->ssd);
		s->ssd_used_bytes = s->ssd.segments * SSD_SEGMENT_BYTES;
		s->ssd_on = !s->ssd.off;
	}
	LOCK_SCOPE(&m->handles_lock);
	s->open_files = m->n_handles;
}

/* --- values with labels --- */

static void build_info(struct metric_sink *sink, const void *snapshot)
{
	const char *labels[] = { KELP_VERSION, fuse_pkgversion(),
				 curl_version_info(CURLVERSION_NOW)->version };

	(void)snapshot;
	metric_value(sink, 1, labels);
}

static void read_latency(struct metric_sink *sink, const void *snapshot)
{
	const struct snapshot *s = snapshot;

	metric_latency(sink, &s->read_latency, metric_no_labels);
}

static void source_reads(struct metric_sink *sink, const void *snapshot)
{
	const struct snapshot *s = snapshot;

	metric_value(sink, s->cached_latency.n, (const char *[]){ "cache" });
	for (size_t i = 0; i < s->fetch.n_sources; i++)
		metric_value(sink, s->fetch.source[i].reads, &s->fetch.source[i].name);
}

static void source_bytes(struct metric_sink *sink, const void *snapshot)
{
	const struct snapshot *s = snapshot;

	metric_value(sink, s->reader.bytes_cached, (const char *[]){ "cache" });
	for (size_t i = 0; i < s->fetch.n_sources; i++)
		metric_value(sink, s->fetch.source[i].bytes, &s->fetch.source[i].name);
}

static void source_failures(struct metric_sink *sink, const void *snapshot)
{
	const struct snapshot *s = snapshot;

	for (size_t i = 0; i < s->fetch.n_sources; i++)
		metric_value(sink, s->fetch.source[i].failures, &s->fetch.source[i].name);
}

static void source_latency(struct metric_sink *sink, const void *snapshot)
{
	const struct snapshot *s = snapshot;

	metric_latency(sink, &s->cached_latency, (const char *[]){ "cache" });
	for (size_t i = 0; i < s->fetch.n_sources; i++)
		metric_latency(sink, &s->fetch.source[i].latency, &s->fetch.source[i].name);
}

/* One value of each transport that agents are asked over. */
static void of_agents(struct metric_sink *sink, const void *snapshot,
		      uint64_t (*value)(const struct client_stats *s))
{
	const struct cluster *c = &((const struct snapshot *)snapshot)->mount->cluster;
	const struct {
		struct client *client;
		const char *transport;
	} ways[] = { { c->rdma, "rdma" }, { c->agents, "tcp" } };

	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		struct client_stats stats;

		if (!ways[i].client)
			continue;
		client_stats(ways[i].client, &stats);
		metric_value(sink, value(&stats), &ways[i].transport);
	}
}

static uint64_t known_of(const struct client_stats *s)
{
	return s->agents;
}

static uint64_t up_of(const struct client_stats *s)
{
	return s->agents_up;
}

static uint64_t connections_of(const struct client_stats *s)
{
	return s->connections;
}

static uint64_t connects_of(const struct client_stats *s)
{
	return s->connects;
}

static uint64_t connect_failures_of(const struct client_stats *s)
{
	return s->connect_failures;
}

static uint64_t exhausted_of(const struct client_stats *s)
{
	return s->exhausted;
}

static void agents_known(struct metric_sink *sink, const void *snapshot)
{
	of_agents(sink, snapshot, known_of);
}

static void agents_up(struct metric_sink *sink, const void *snapshot)
{
	of_agents(sink, snapshot, up_of);
}

static void agent_connections(struct metric_sink *sink, const void *snapshot)
{
	of_agents(sink, snapshot, connections_of);
}

static void agent_connects(struct metric_sink *sink, const void *snapshot)
{
	of_agents(sink, snapshot, connects_of);
}

static void agent_connect_failures(struct metric_sink *sink, const void *snapshot)
{
	of_agents(sink, snapshot, connect_failures_of);
}

static void agent_exhausted(struct metric_sink *sink, const void *snapshot)
{
	of_agents(sink, snapshot, exhausted_of);
}

/* --- values of servers --- */

struct server_value {
	struct metric_sink *sink;
	const struct cluster *cluster;
	uint64_t (*value)(struct server *s); /* of each server, */
	uint64_t (*of_breaker)(struct breaker *b); /* or of each breaker of a way that is used */
};

static void give_server_value(void *arg, struct server *server)
{
	const struct server_value *v = arg;
	const struct {
		bool used;
		const char *source;
		struct breaker *breaker;
	} ways[] = {
		{ v->cluster->rdma != NULL, "rdma", &server->rdma },
		{ v->cluster->agents != NULL, "tcp", &server->agent },
		{ true, "http", &server->http },
	};

	if (v->value) {
		metric_value(v->sink, v->value(server), (const char *[]){ server->url });
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(ways); i++)
		if (ways[i].used)
			metric_value(v->sink, v->of_breaker(ways[i].breaker),
				     (const char *[]){ server->url, ways[i].source });
}

static void of_servers(struct metric_sink *sink, const void *snapshot,
		       uint64_t (*value)(struct server *s),
		       uint64_t (*of_breaker)(struct breaker *b))
{
	const struct cluster *c = &((const struct snapshot *)snapshot)->mount->cluster;
	struct server_value v = {
		.sink = sink, .cluster = c, .value = value, .of_breaker = of_breaker
	};

	locator_each_server(c->locator, give_server_value, &v);
}

static uint64_t reads_of(struct server *s)
{
	return atomic_load_explicit(&s->reads, memory_order_relaxed);
}

static uint64_t bytes_of(struct server *s)
{
	return atomic_load_explicit(&s->bytes, memory_order_relaxed);
}

static uint64_t failures_of(struct server *s)
{
	return atomic_load_explicit(&s->failures, memory_order_relaxed);
}

static uint64_t state_of(struct breaker *b)
{
	return breaker_state(b);
}

static void server_reads(struct metric_sink *sink, const void *snapshot)
{
	of_servers(sink, snapshot, reads_of, NULL);
}

static void server_bytes(struct metric_sink *sink, const void *snapshot)
{
	of_servers(sink, snapshot, bytes_of, NULL);
}

static void server_failures(struct metric_sink *sink, const void *snapshot)
{
	of_servers(sink, snapshot, failures_of, NULL);
}

static void breaker_states(struct metric_sink *sink, const void *snapshot)
{
	of_servers(sink, snapshot, NULL, state_of);
}

static void openings(struct metric_sink *sink, const void *snapshot)
{
	of_servers(sink, snapshot, NULL, breaker_openings);
}

/* --- the table --- */

#define AT(field) offsetof(struct snapshot, field)

/* clang-format off */
static const struct metric rows[] = {
	{ "kelpfs_build_info", METRIC_GAUGE,
	  "always 1; the labels say what runs", 0, build_info, { "version", "libfuse", "libcurl" } },
	{ "kelpfs_start_time_seconds", METRIC_GAUGE,
	  "when the mount was made, since the epoch", AT(start_s) },
	{ "kelpfs_resident_memory_bytes", METRIC_GAUGE,
	  "memory of the process that is in RAM", AT(resident_bytes) },

	{ "kelpfs_reads_total", METRIC_COUNTER,
	  "reads of the kernel that were answered; what its page cache has it does not ask for", AT(reads) },
	{ "kelpfs_read_bytes_total", METRIC_COUNTER,
	  "bytes that those were answered with", AT(read_bytes) },
	{ "kelpfs_read_errors_total", METRIC_COUNTER,
	  "reads of the kernel that failed", AT(read_errors) },
	{ "kelpfs_read_seconds", METRIC_HISTOGRAM,
	  "from a read's arrival to its answer", 0, read_latency },

	{ "kelpfs_source_reads_total", METRIC_COUNTER,
	  "requests to each source that were answered; cache: reads that the block cache alone answered", 0, source_reads, { "source" } },
	{ "kelpfs_source_bytes_total", METRIC_COUNTER,
	  "bytes as stored that came from each source, for readers and readahead; cache: bytes that readers found there", 0, source_bytes, { "source" } },
	{ "kelpfs_source_failures_total", METRIC_COUNTER,
	  "requests to each source that failed; the next replica or source is tried then", 0, source_failures, { "source" } },
	{ "kelpfs_source_seconds", METRIC_HISTOGRAM,
	  "time of each request that was answered", 0, source_latency, { "source" } },
	{ "kelpfs_fetch_failures_total", METRIC_COUNTER,
	  "pieces of chunks that no source could serve", AT(fetch.failed) },

	{ "kelpfs_cache_hits_total", METRIC_COUNTER,
	  "blocks that a reader found in the block cache", AT(cache.hits) },
	{ "kelpfs_cache_misses_total", METRIC_COUNTER,
	  "blocks that a reader did not find", AT(cache.misses) },
	{ "kelpfs_cache_waits_total", METRIC_COUNTER,
	  "blocks that were being fetched already when a reader wanted them", AT(cache.waits) },
	{ "kelpfs_cache_bypasses_total", METRIC_COUNTER,
	  "blocks for which the slab had no room, so that they were read around the cache", AT(cache.bypasses) },
	{ "kelpfs_cache_evictions_total", METRIC_COUNTER,
	  "blocks that made room for others", AT(cache.evictions) },
	{ "kelpfs_cache_failures_total", METRIC_COUNTER,
	  "blocks that could not be filled", AT(cache.failures) },
	{ "kelpfs_cache_blocks", METRIC_GAUGE,
	  "blocks in the cache", AT(cache.blocks) },
	{ "kelpfs_cache_bytes", METRIC_GAUGE,
	  "memory of the blocks in the cache", AT(cache.bytes) },
	{ "kelpfs_cache_block_bytes", METRIC_GAUGE,
	  "size of a whole block", AT(cache.block_bytes) },

	{ "kelpfs_ssd_on", METRIC_GAUGE,
	  "1: there is an SSD tier (-o cache_dir=), and its disk has not failed", AT(ssd_on) },
	{ "kelpfs_ssd_hits_total", METRIC_COUNTER,
	  "blocks that were found in it", AT(ssd.hits) },
	{ "kelpfs_ssd_misses_total", METRIC_COUNTER,
	  "reads of it that ended at a block that was not there", AT(ssd.misses) },
	{ "kelpfs_ssd_written_bytes_total", METRIC_COUNTER,
	  "bytes of blocks that were written to it", AT(ssd.bytes_written) },
	{ "kelpfs_ssd_dropped_total", METRIC_COUNTER,
	  "blocks that were not written because the disk was slower than the cluster", AT(ssd.dropped) },
	{ "kelpfs_ssd_refused_total", METRIC_COUNTER,
	  "blocks that were not written because what is there is worth more", AT(ssd.refused) },
	{ "kelpfs_ssd_corrupt_total", METRIC_COUNTER,
	  "blocks that were not as they had been written; they were read from the cluster", AT(ssd.corrupt) },
	{ "kelpfs_ssd_evictions_total", METRIC_COUNTER,
	  "segments of 16 MiB that made room for others", AT(ssd.evictions) },
	{ "kelpfs_ssd_blocks", METRIC_GAUGE,
	  "blocks in it", AT(ssd.blocks) },
	{ "kelpfs_ssd_used_bytes", METRIC_GAUGE,
	  "what its segments take of the disk", AT(ssd_used_bytes) },

	{ "kelpfs_readahead_bytes_total", METRIC_COUNTER,
	  "memory of blocks that were fetched ahead of readers", AT(cache.prefetched_bytes) },
	{ "kelpfs_readahead_used_bytes_total", METRIC_COUNTER,
	  "... that a reader then wanted", AT(cache.prefetch_used_bytes) },
	{ "kelpfs_readahead_wasted_bytes_total", METRIC_COUNTER,
	  "... that were given up unread", AT(cache.prefetch_wasted_bytes) },
	{ "kelpfs_readahead_failures_total", METRIC_COUNTER,
	  "requests for readahead that failed", AT(reader.prefetch_failures) },

	{ "kelpfs_slab_bytes", METRIC_GAUGE,
	  "memory for file data (-o slab=)", AT(slab.total_bytes) },
	{ "kelpfs_slab_used_bytes", METRIC_GAUGE,
	  "... in use, by the cache and by reads under way", AT(slab.used_bytes) },
	{ "kelpfs_slab_page_bytes", METRIC_GAUGE,
	  "size of its pages", AT(slab.huge_page_bytes) },
	{ "kelpfs_slab_refusals_total", METRIC_COUNTER,
	  "times it had no room; something is evicted or read around it then", AT(slab.failed) },

	{ "kelpfs_inodes", METRIC_GAUGE,
	  "names that the kernel knows", AT(inodes.inodes) },
	{ "kelpfs_inode_entry_bytes", METRIC_GAUGE,
	  "memory of what is known of them", AT(inodes.entry_bytes) },
	{ "kelpfs_open_files", METRIC_GAUGE,
	  "files that are open", AT(open_files) },

	{ "kelpfs_http_requests_total", METRIC_COUNTER,
	  "HTTP requests through libcurl: to filers, masters, and volume servers where the short way was not taken", AT(http.requests) },
	{ "kelpfs_http_failures_total", METRIC_COUNTER,
	  "... without a complete answer", AT(http.failures) },
	{ "kelpfs_http_connections_total", METRIC_COUNTER,
	  "connections made for them", AT(http.connections) },

	{ "kelpfs_agents", METRIC_GAUGE,
	  "volume servers beside which an agent was looked for", 0, agents_known, { "transport" } },
	{ "kelpfs_agents_up", METRIC_GAUGE,
	  "... and is", 0, agents_up, { "transport" } },
	{ "kelpfs_agent_connections", METRIC_GAUGE,
	  "sessions with agents", 0, agent_connections, { "transport" } },
	{ "kelpfs_agent_connects_total", METRIC_COUNTER,
	  "sessions that were begun", 0, agent_connects, { "transport" } },
	{ "kelpfs_agent_connect_failures_total", METRIC_COUNTER,
	  "attempts to begin one that failed", 0, agent_connect_failures, { "transport" } },
	{ "kelpfs_agent_exhausted_total", METRIC_COUNTER,
	  "reads for which every session was in full use", 0, agent_exhausted, { "transport" } },
	{ "kelpfs_rdma_registrations_total", METRIC_COUNTER,
	  "buffers that were registered for one read, for want of room in the slab", AT(rdma_registrations) },
	{ "kelpfs_rdma_abandoned_reads_total", METRIC_COUNTER,
	  "RDMA READs that were given up under way; their buffers were kept until the queue pair was dead", AT(rdma_abandoned_reads) },
	{ "kelpfs_rdma_completions_total", METRIC_COUNTER,
	  "completed work requests, by the status that the device gave", 0, metric_rdma_completions, { "status" } },

	{ "kelpfs_server_reads_total", METRIC_COUNTER,
	  "requests that each volume server, or the agent beside it, answered", 0, server_reads, { "server" } },
	{ "kelpfs_server_bytes_total", METRIC_COUNTER,
	  "bytes that came from it", 0, server_bytes, { "server" } },
	{ "kelpfs_server_failures_total", METRIC_COUNTER,
	  "requests that failed through its fault", 0, server_failures, { "server" } },
	{ "kelpfs_breaker_state", METRIC_GAUGE,
	  "of each way to each volume server: 0 closed (in use), 1 open (rests), 2 being probed", 0, breaker_states, { "server", "source" } },
	{ "kelpfs_breaker_openings_total", METRIC_COUNTER,
	  "times that it opened", 0, openings, { "server", "source" } },

	{ "kelpfs_fuse_max_read_bytes", METRIC_GAUGE,
	  "largest read of the kernel", AT(fuse.max_read_bytes) },
	{ "kelpfs_fuse_max_background", METRIC_GAUGE,
	  "readahead requests that the kernel keeps under way", AT(fuse.max_background) },
	{ "kelpfs_fuse_readahead_bytes", METRIC_GAUGE,
	  "the kernel's own readahead for the mount, in effect", AT(fuse.readahead_bytes) },
	{ "kelpfs_fuse_threads", METRIC_GAUGE,
	  "requests of the kernel worked on at once, at most", AT(fuse.threads) },
	{ "kelpfs_fuse_splice", METRIC_GAUGE,
	  "1: data is handed to the kernel by splice", AT(fuse.splice) },
};
/* clang-format on */

static const struct metric_table table = { rows, ARRAY_LEN(rows) };

/* --- text --- */

char *mount_stats_json(struct mount *m)
{
	struct snapshot s;

	take_snapshot(m, &s);
	return metrics_json_text(&table, &s);
}

char *mount_metrics_text(struct mount *m)
{
	struct snapshot s;

	take_snapshot(m, &s);
	return metrics_prometheus_text(&table, &s);
}

static void add_option(void *arg, const char *name, const char *value, enum option_source source)
{
	cJSON *option = cJSON_AddObjectToObject(arg, name);

	cJSON_AddStringToObject(option, "value", value);
	cJSON_AddStringToObject(option, "origin",
				source == OPTION_COMMAND_LINE ? "command line" : "default");
}

char *mount_config_json(struct mount *m)
{
	cJSON *tree = cJSON_CreateObject();

	if (!tree)
		return NULL;
	options_each(m->options, add_option, tree);
	char *text = cJSON_Print(tree);
	cJSON_Delete(tree);
	return text;
}

void mount_metrics_markdown(FILE *out)
{
	metrics_markdown(out, &table);
}
