/* Threads: the HTTP server has one, on which every answer is made: none of them waits for anything but the
 * local file system. */
#include "fs/kelpd_status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "filer/base/base.h"
#include "fs/httpd.h"
#include "fs/kelpd_options.h"
#include "fs/metrics.h"
#include "rdma/agent/agent.h"
#include "rdma/agent/store.h"

struct kelpd_status {
	struct kelpd_status_config cfg; /* immutable, as is all of it */
	int64_t start_s;
	struct httpd *httpd;
};

/* --- metrics --- */

struct snapshot {
	struct agent *agent;
	uint64_t start_s, resident_bytes;
	uint64_t connections, active, connections_max;
	uint64_t bytes_memory, bytes_file;
	uint64_t staging_bytes, staging_max_bytes, unstaged;
	uint64_t leases, leases_given, leases_returned, leases_expired;
	struct store_stats store;
};

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "rows without each say where a uint64_t is");

static uint64_t read_counter(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void take_snapshot(const struct kelpd_status *status, struct snapshot *s)
{
	struct agent *a = status->cfg.agent;
	struct agent_counters *c = &a->counters;

	*s = (struct snapshot){
		.agent = a,
		.start_s = (uint64_t)status->start_s,
		.resident_bytes = metrics_resident_bytes(),
		.connections = read_counter(&c->connections),
		.active = atomic_load(&a->active),
		.connections_max = a->cfg.connections_max,
		.bytes_memory = read_counter(&c->bytes_memory),
		.bytes_file = read_counter(&c->bytes_file),
		.staging_bytes = atomic_load(&a->staging.used_bytes),
		.staging_max_bytes = a->staging.max_bytes,
		.unstaged = read_counter(&c->unstaged),
		/* In this order: what is given back was given before. */
		.leases_returned = read_counter(&c->leases_returned),
		.leases_expired = read_counter(&c->leases_expired),
	};
	s->leases_given = read_counter(&c->leases);
	s->leases = s->leases_given - s->leases_returned - s->leases_expired;
	store_stats(status->cfg.store, &s->store);
}

static void build_info(struct metric_sink *sink, const void *snapshot)
{
	(void)snapshot;
	metric_value(sink, 1, (const char *[]){ KELP_VERSION });
}

static void refusals(struct metric_sink *sink, const void *snapshot)
{
	struct agent_counters *c = &((const struct snapshot *)snapshot)->agent->counters;

	metric_value(sink, read_counter(&c->refused), (const char *[]){ "limit" });
	metric_value(sink, read_counter(&c->version_refused), (const char *[]){ "version" });
	metric_value(sink, read_counter(&c->malformed), (const char *[]){ "malformed" });
	metric_value(sink, read_counter(&c->stalled), (const char *[]){ "stalled" });
}

static void reads(struct metric_sink *sink, const void *snapshot)
{
	struct agent_counters *c = &((const struct snapshot *)snapshot)->agent->counters;

	for (unsigned i = 0; i <= WIRE_STATUS_MAX; i++) {
		const char *name = wire_status_text((enum wire_status)i);

		if (i == WIRE_OK || read_counter(&c->by_status[i]))
			metric_value(sink, read_counter(&c->by_status[i]), &name);
	}
}

static void sent_bytes(struct metric_sink *sink, const void *snapshot)
{
	const struct snapshot *s = snapshot;

	metric_value(sink, s->bytes_memory, (const char *[]){ "memory" });
	metric_value(sink, s->bytes_file, (const char *[]){ "page_cache" });
}

#define AT(field) offsetof(struct snapshot, field)

/* clang-format off */
static const struct metric rows[] = {
	{ "kelpd_build_info", METRIC_GAUGE,
	  "always 1; the label says what runs", 0, build_info, { "version" } },
	{ "kelpd_start_time_seconds", METRIC_GAUGE,
	  "when it was started, since the epoch", AT(start_s) },
	{ "kelpd_resident_memory_bytes", METRIC_GAUGE,
	  "memory of the process that is in RAM", AT(resident_bytes) },

	{ "kelpd_sessions", METRIC_GAUGE,
	  "connections of clients, over TCP and RDMA", AT(active) },
	{ "kelpd_sessions_max", METRIC_GAUGE,
	  "... at most (--max-connections)", AT(connections_max) },
	{ "kelpd_sessions_total", METRIC_COUNTER,
	  "connections that were accepted", AT(connections) },
	{ "kelpd_sessions_refused_total", METRIC_COUNTER,
	  "connections that were refused (limit, version) or cut off (malformed, stalled)", 0, refusals, { "reason" } },

	{ "kelpd_reads_total", METRIC_COUNTER,
	  "extents that were asked for, by what they came to", 0, reads, { "status" } },
	{ "kelpd_sent_bytes_total", METRIC_COUNTER,
	  "bytes of answers, by where they were sent from; what clients pull over RDMA counts as memory", 0, sent_bytes, { "from" } },

	{ "kelpd_staging_bytes", METRIC_GAUGE,
	  "memory that answers wait in", AT(staging_bytes) },
	{ "kelpd_staging_max_bytes", METRIC_GAUGE,
	  "... at most (--staging)", AT(staging_max_bytes) },
	{ "kelpd_staging_refusals_total", METRIC_COUNTER,
	  "answers for which there was none; over RDMA they are refused as busy", AT(unstaged) },
	{ "kelpd_leases", METRIC_GAUGE,
	  "answers in memory that clients may pull over RDMA now", AT(leases) },
	{ "kelpd_leases_total", METRIC_COUNTER,
	  "leases given", AT(leases_given) },
	{ "kelpd_leases_returned_total", METRIC_COUNTER,
	  "... that clients gave back", AT(leases_returned) },
	{ "kelpd_leases_expired_total", METRIC_COUNTER,
	  "... that ran out, or were taken back with their connection", AT(leases_expired) },
	{ "kelpd_rdma_completions_total", METRIC_COUNTER,
	  "completed work requests, by the status that the device gave", 0, metric_rdma_completions, { "status" } },

	{ "kelpd_volumes", METRIC_GAUGE,
	  "volumes that are served", AT(store.volumes) },
	{ "kelpd_volumes_refused", METRIC_GAUGE,
	  "volumes that are left to the volume server: erasure-coded, tiered, being copied", AT(store.refused) },
	{ "kelpd_needles", METRIC_GAUGE,
	  "live needles in them", AT(store.needles) },
	{ "kelpd_index_bytes", METRIC_GAUGE,
	  "memory of their index", AT(store.index_bytes) },
	{ "kelpd_volume_reloads_total", METRIC_COUNTER,
	  "volumes that were opened anew: vacuumed, moved", AT(store.reloads) },
	{ "kelpd_lookups_total", METRIC_COUNTER,
	  "needles looked up in the index", AT(store.lookups) },
	{ "kelpd_lookup_misses_total", METRIC_COUNTER,
	  "... that were not there", AT(store.misses) },
};
/* clang-format on */

static const struct metric_table table = { rows, ARRAY_LEN(rows) };

void kelpd_metrics_markdown(FILE *out)
{
	metrics_markdown(out, &table);
}

/* --- answers --- */

/* A volume server whose disk is gone says so itself; that it is looked for here tells it from an agent that
 * has nothing to serve. */
static bool describe_directories(const struct kelpd_options *o, cJSON *tree)
{
	cJSON *list = cJSON_AddArrayToObject(tree, "directories");
	bool all_up = true;

	for (size_t i = 0; i < o->n_dirs; i++) {
		cJSON *one = cJSON_CreateObject();
		bool up = access(o->dirs[i], R_OK | X_OK) == 0;

		cJSON_AddStringToObject(one, "path", o->dirs[i]);
		if (!up)
			cJSON_AddStringToObject(one, "error", strerror(errno));
		cJSON_AddBoolToObject(one, "up", up);
		cJSON_AddItemToArray(list, one);
		all_up &= up;
	}
	return all_up;
}

static void answer_health(struct httpd_request *r, void *arg)
{
	const struct kelpd_status *status = arg;
	cJSON *tree = cJSON_CreateObject();
	struct snapshot s;

	take_snapshot(status, &s);
	bool up = describe_directories(status->cfg.options, tree);
	cJSON_AddStringToObject(tree, "status", up ? "ok" : "failing");
	cJSON_AddStringToObject(tree, "version", KELP_VERSION);
	cJSON_AddBoolToObject(tree, "rdma", status->cfg.has_rdma);
	cJSON_AddNumberToObject(tree, "volumes", (double)s.store.volumes);
	cJSON_AddNumberToObject(tree, "sessions", (double)s.active);
	cJSON_AddBoolToObject(tree, "full", s.active >= s.connections_max);
	httpd_reply_text(r, up ? 200 : 503, cJSON_Print(tree), HTTPD_JSON);
	cJSON_Delete(tree);
}

static void answer_stats(struct httpd_request *r, void *arg)
{
	struct snapshot s;

	take_snapshot(arg, &s);
	httpd_reply_text(r, 200, metrics_json_text(&table, &s), HTTPD_JSON);
}

static void answer_metrics(struct httpd_request *r, void *arg)
{
	struct snapshot s;

	take_snapshot(arg, &s);
	httpd_reply_text(r, 200, metrics_prometheus_text(&table, &s), METRICS_PROMETHEUS_TYPE);
}

static const struct httpd_route routes[] = {
	{ "/health", HTTPD_GET, answer_health },
	{ "/stats", HTTPD_GET, answer_stats },
	{ "/metrics", HTTPD_GET, answer_metrics },
};

int kelpd_status_start(const struct kelpd_status_config *cfg, struct kelpd_status **ret,
		       char *message, size_t bytes)
{
	struct kelpd_status *s = calloc(1, sizeof(*s));

	if (!s) {
		snprintf(message, bytes, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	s->cfg = *cfg;
	s->start_s = (int64_t)time(NULL);
	struct httpd_config http = {
		.host = cfg->options->status.host,
		.port = cfg->options->status.port,
		.routes = routes,
		.n_routes = ARRAY_LEN(routes),
		.arg = s,
	};
	int err = httpd_start(&http, &s->httpd, message, bytes);
	if (err) {
		free(s);
		return err;
	}
	*ret = s;
	return 0;
}

void kelpd_status_stop(struct kelpd_status *s)
{
	if (!s)
		return;
	httpd_stop(s->httpd);
	free(s);
}
