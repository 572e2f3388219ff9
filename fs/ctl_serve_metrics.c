/* /stats and /metrics of kelpctl serve: one table, and what its rows point into. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <curl/curl.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "fs/ctl_serve.h"
#include "fs/ctl_serve_temp.h"
#include "fs/metrics.h"
#include "rdma/client.h"
#include "rdma/verbs.h"

#define HTTP_OK 200
#define HTTP_INTERNAL 500

struct snapshot {
	struct serve *serve;
	uint64_t start_s, resident_bytes;
	uint64_t active, limit, broken_off;
	uint64_t memory_bytes, memory_free_bytes;
	uint64_t rdma_registrations, rdma_abandoned_reads;
	struct fetch_stats fetch;
	struct temp_stats temp;
};

static uint64_t value_of(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void take_snapshot(struct serve *s, struct snapshot *ret)
{
	*ret = (struct snapshot){
		.serve = s,
		.start_s = (uint64_t)s->start_s,
		.resident_bytes = metrics_resident_bytes(),
		.active = atomic_load(&s->active),
		.limit = s->options->reads_max,
		.broken_off = value_of(&s->counters.broken_off),
		.rdma_registrations = verbs_registrations(),
		.rdma_abandoned_reads = verbs_abandoned_reads(),
		.memory_bytes = s->options->memory_bytes,
		.memory_free_bytes = serve_reader_free_bytes(&s->reader),
	};
	fetcher_stats(s->reader.fetcher, &ret->fetch);
	if (s->temp)
		temp_files_stats(s->temp, &ret->temp);
}

/* --- values with labels --- */

static void build_info(struct metric_sink *sink, const void *snapshot)
{
	const char *labels[] = { KELP_VERSION, curl_version_info(CURLVERSION_NOW)->version };

	(void)snapshot;
	metric_value(sink, 1, labels);
}

static void answers(struct metric_sink *sink, const void *snapshot)
{
	struct serve *s = ((const struct snapshot *)snapshot)->serve;

	for (unsigned i = 0; i < SERVE_STATUS_MAX; i++) {
		uint64_t n = value_of(&s->counters.by_status[i]);
		char status[8];

		snprintf(status, sizeof(status), "%u", i);
		if (n)
			metric_value(sink, n, (const char *[]){ status });
	}
}

static void answered_reads(struct metric_sink *sink, const void *snapshot)
{
	struct serve *s = ((const struct snapshot *)snapshot)->serve;

	for (int i = 0; i < SERVE_SOURCES; i++)
		metric_value(sink, value_of(&s->counters.by_source[i].reads),
			     (const char *[]){ serve_source_name((enum serve_source)i) });
}

static void answered_bytes(struct metric_sink *sink, const void *snapshot)
{
	struct serve *s = ((const struct snapshot *)snapshot)->serve;

	for (int i = 0; i < SERVE_SOURCES; i++)
		metric_value(sink, value_of(&s->counters.by_source[i].bytes),
			     (const char *[]){ serve_source_name((enum serve_source)i) });
}

static void answer_latency(struct metric_sink *sink, const void *snapshot)
{
	struct serve *s = ((const struct snapshot *)snapshot)->serve;

	for (int i = 0; i < SERVE_SOURCES; i++) {
		struct latency_counts counts;

		latency_read(&s->counters.by_source[i].latency, &counts);
		metric_latency(sink, &counts,
			       (const char *[]){ serve_source_name((enum serve_source)i) });
	}
}

static void source_reads(struct metric_sink *sink, const void *snapshot)
{
	const struct fetch_stats *f = &((const struct snapshot *)snapshot)->fetch;

	for (size_t i = 0; i < f->n_sources; i++)
		metric_value(sink, f->source[i].reads, &f->source[i].name);
}

static void source_bytes(struct metric_sink *sink, const void *snapshot)
{
	const struct fetch_stats *f = &((const struct snapshot *)snapshot)->fetch;

	for (size_t i = 0; i < f->n_sources; i++)
		metric_value(sink, f->source[i].bytes, &f->source[i].name);
}

static void source_failures(struct metric_sink *sink, const void *snapshot)
{
	const struct fetch_stats *f = &((const struct snapshot *)snapshot)->fetch;

	for (size_t i = 0; i < f->n_sources; i++)
		metric_value(sink, f->source[i].failures, &f->source[i].name);
}

static void agents_up(struct metric_sink *sink, const void *snapshot)
{
	const struct cluster *c = &((const struct snapshot *)snapshot)->serve->cluster;
	struct client_stats stats;

	if (c->rdma) {
		client_stats(c->rdma, &stats);
		metric_value(sink, stats.agents_up, (const char *[]){ "rdma" });
	}
	if (c->agents) {
		client_stats(c->agents, &stats);
		metric_value(sink, stats.agents_up, (const char *[]){ "tcp" });
	}
}

static void add_server_bytes(void *arg, struct server *server)
{
	metric_value(arg, server->bytes, (const char *[]){ server->url });
}

static void server_bytes(struct metric_sink *sink, const void *snapshot)
{
	const struct cluster *c = &((const struct snapshot *)snapshot)->serve->cluster;

	locator_each_server(c->locator, add_server_bytes, sink);
}

static void add_breakers(void *arg, struct server *server)
{
	metric_value(arg, breaker_state(&server->rdma), (const char *[]){ server->url, "rdma" });
	metric_value(arg, breaker_state(&server->agent), (const char *[]){ server->url, "tcp" });
	metric_value(arg, breaker_state(&server->http), (const char *[]){ server->url, "http" });
}

static void breaker_states(struct metric_sink *sink, const void *snapshot)
{
	const struct cluster *c = &((const struct snapshot *)snapshot)->serve->cluster;

	locator_each_server(c->locator, add_breakers, sink);
}

/* --- the table --- */

#define AT(field) offsetof(struct snapshot, field)

/* clang-format off */
static const struct metric rows[] = {
	{ "kelpctl_build_info", METRIC_GAUGE,
	  "always 1; the labels say what runs", 0, build_info, { "version", "libcurl" } },
	{ "kelpctl_start_time_seconds", METRIC_GAUGE,
	  "when it was started, since the epoch", AT(start_s) },
	{ "kelpctl_resident_memory_bytes", METRIC_GAUGE,
	  "memory of the process that is in RAM", AT(resident_bytes) },

	{ "kelpctl_answers_total", METRIC_COUNTER,
	  "answers to /read", 0, answers, { "status" } },
	{ "kelpctl_answer_reads_total", METRIC_COUNTER,
	  "... with bytes, by where these came from", 0, answered_reads, { "source" } },
	{ "kelpctl_answer_bytes_total", METRIC_COUNTER,
	  "bytes that were sent", 0, answered_bytes, { "source" } },
	{ "kelpctl_answer_seconds", METRIC_HISTOGRAM,
	  "from the request to the beginning of its answer, where that has bytes", 0, answer_latency, { "source" } },
	{ "kelpctl_answers_broken_off_total", METRIC_COUNTER,
	  "answers that were begun and that no server could bring to their end", AT(broken_off) },
	{ "kelpctl_reads_active", METRIC_GAUGE,
	  "reads under way", AT(active) },
	{ "kelpctl_reads_limit", METRIC_GAUGE,
	  "most of them", AT(limit) },
	{ "kelpctl_memory_bytes", METRIC_GAUGE,
	  "most memory for their bytes", AT(memory_bytes) },
	{ "kelpctl_memory_free_bytes", METRIC_GAUGE,
	  "... of which so much is free", AT(memory_free_bytes) },

	{ "kelpctl_source_reads_total", METRIC_COUNTER,
	  "requests to each source that were answered", 0, source_reads, { "source" } },
	{ "kelpctl_source_bytes_total", METRIC_COUNTER,
	  "bytes as stored that came from each source", 0, source_bytes, { "source" } },
	{ "kelpctl_source_failures_total", METRIC_COUNTER,
	  "requests to each source that failed; the next replica or source is tried then", 0, source_failures, { "source" } },
	{ "kelpctl_fetch_failures_total", METRIC_COUNTER,
	  "parts of needles that no source could serve", AT(fetch.failed) },
	{ "kelpctl_agents_up", METRIC_GAUGE,
	  "agents that can be used", 0, agents_up, { "transport" } },
	{ "kelpctl_rdma_registrations_total", METRIC_COUNTER,
	  "buffers that were registered for one read, for want of room in the slab", AT(rdma_registrations) },
	{ "kelpctl_rdma_abandoned_reads_total", METRIC_COUNTER,
	  "RDMA READs that were given up under way; their buffers were kept until the queue pair was dead", AT(rdma_abandoned_reads) },
	{ "kelpctl_server_bytes_total", METRIC_COUNTER,
	  "bytes that came from each volume server, or the agent beside it", 0, server_bytes, { "server" } },
	{ "kelpctl_breaker_state", METRIC_GAUGE,
	  "of each way to each volume server: 0 closed (in use), 1 open (rests), 2 being probed", 0, breaker_states, { "server", "source" } },

	{ "kelpctl_temp_files", METRIC_GAUGE,
	  "files that are handed over at the moment", AT(temp.files) },
	{ "kelpctl_temp_bytes", METRIC_GAUGE,
	  "bytes in them", AT(temp.bytes) },
	{ "kelpctl_temp_files_added_total", METRIC_COUNTER,
	  "files that were handed over", AT(temp.added) },
	{ "kelpctl_temp_files_removed_total", METRIC_COUNTER,
	  "... and removed when the client said so", AT(temp.removed) },
	{ "kelpctl_temp_files_expired_total", METRIC_COUNTER,
	  "... and removed for their age", AT(temp.expired) },
};
/* clang-format on */

static const struct metric_table table = { rows, ARRAY_LEN(rows) };

cJSON *serve_metrics_json(struct serve *s)
{
	struct snapshot snapshot;

	take_snapshot(s, &snapshot);
	return metrics_json(&table, &snapshot);
}

void serve_answer_metrics(struct httpd_request *r, void *arg)
{
	struct snapshot snapshot;

	take_snapshot(arg, &snapshot);
	char *text = metrics_prometheus_text(&table, &snapshot);
	if (!text) {
		httpd_error(r, HTTP_INTERNAL, "no memory");
		return;
	}
	const struct httpd_reply reply = { .status = HTTP_OK,
					   .type = METRICS_PROMETHEUS_TYPE,
					   .body = text,
					   .bytes = strlen(text),
					   .owned = true };
	httpd_reply(r, &reply);
}

void serve_metrics_markdown(FILE *out)
{
	metrics_markdown(out, &table);
}
