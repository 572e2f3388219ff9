/* /health and /stats of kelpctl serve, in the form that the clients of the sidecar before it know, and with
 * more. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "fs/ctl.h"
#include "fs/ctl_serve.h"
#include "fs/ctl_serve_temp.h"
#include "rdma/client.h"

#define MS_PER_S 1000.0
#define HTTP_OK 200
#define HTTP_INTERNAL 500
#define HTTP_UNAVAILABLE 503

static uint64_t value_of(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add_timestamp(cJSON *object)
{
	char text[32];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	cJSON_AddStringToObject(object, "timestamp", text);
}

/* Frees the tree. */
static void answer_json(struct httpd_request *r, unsigned status, cJSON *tree)
{
	char *text = tree ? cJSON_Print(tree) : NULL;

	cJSON_Delete(tree);
	if (!text) {
		httpd_error(r, HTTP_INTERNAL, "no memory");
		return;
	}
	const struct httpd_reply reply = {
		.status = status, .type = HTTPD_JSON, .body = text, .bytes = strlen(text)
	};
	httpd_reply(r, &reply);
	cJSON_free(text);
}

/* --- what works --- */

static bool rdma_is_enabled(const struct serve *s)
{
	return s->has_device || s->options->claim_rdma;
}

/* An agent, over whatever leads to it: that is what the engine of the sidecar was. */
static bool agent_is_up(const struct serve *s)
{
	struct client_stats stats = { 0 };

	if (s->cluster.rdma)
		client_stats(s->cluster.rdma, &stats);
	if (!stats.agents_up && s->cluster.agents && !s->has_device)
		client_stats(s->cluster.agents, &stats);
	return stats.agents_up > 0;
}

struct servers {
	cJSON *array; /* NULL: only count */
	unsigned known, resting;
};

static void note_server(void *arg, struct server *server)
{
	struct servers *all = arg;
	enum breaker_state http = breaker_state(&server->http);

	all->known++;
	all->resting += http == BREAKER_OPEN;
	if (!all->array)
		return;
	cJSON *o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "url", server->url);
	ctl_json_u64(o, "reads", server->reads);
	ctl_json_u64(o, "bytes", server->bytes);
	ctl_json_u64(o, "failures", server->failures);
	cJSON_AddStringToObject(o, "http", breaker_state_name(http));
	cJSON_AddStringToObject(o, "agent", breaker_state_name(breaker_state(&server->agent)));
	cJSON_AddStringToObject(o, "rdma", breaker_state_name(breaker_state(&server->rdma)));
	cJSON_AddItemToArray(all->array, o);
}

void serve_answer_health(struct httpd_request *r, void *arg)
{
	struct serve *s = arg;
	struct servers servers = { 0 };
	cJSON *tree = cJSON_CreateObject();

	locator_each_server(s->cluster.locator, note_server, &servers);
	bool down = servers.known > 0 && servers.resting == servers.known;
	const char *status = atomic_load(&s->stopping) ? "stopping"
			     : down                    ? "unhealthy"
						       : "healthy";
	bool healthy = strcmp(status, "healthy") == 0;
	cJSON_AddStringToObject(tree, "status", status);
	add_timestamp(tree);
	cJSON *rdma = cJSON_AddObjectToObject(tree, "rdma");
	cJSON_AddBoolToObject(rdma, "enabled", rdma_is_enabled(s));
	cJSON_AddBoolToObject(rdma, "connected", agent_is_up(s));
	cJSON_AddStringToObject(rdma, "type", "kelpd");
	cJSON *cluster = cJSON_AddObjectToObject(tree, "volume_servers");
	ctl_json_u64(cluster, "known", servers.known);
	ctl_json_u64(cluster, "resting", servers.resting);
	answer_json(r, healthy ? HTTP_OK : HTTP_UNAVAILABLE, tree);
}

/* --- figures --- */

static void add_reads(struct serve *s, cJSON *tree)
{
	cJSON *reads = cJSON_AddObjectToObject(tree, "reads");

	ctl_json_u64(reads, "active", atomic_load(&s->active));
	ctl_json_u64(reads, "limit", s->options->reads_max);
	ctl_json_u64(reads, "broken_off", value_of(&s->counters.broken_off));
	cJSON *statuses = cJSON_AddObjectToObject(reads, "by_status");
	for (unsigned i = 0; i < SERVE_STATUS_MAX; i++) {
		uint64_t n = value_of(&s->counters.by_status[i]);
		char name[8];

		snprintf(name, sizeof(name), "%u", i);
		if (n)
			ctl_json_u64(statuses, name, n);
	}
	cJSON *sources = cJSON_AddObjectToObject(reads, "by_source");
	for (int i = 0; i < SERVE_SOURCES; i++) {
		const char *name = serve_source_name((enum serve_source)i);
		cJSON *o = cJSON_AddObjectToObject(sources, name);

		ctl_json_u64(o, "reads", value_of(&s->counters.by_source[i].reads));
		ctl_json_u64(o, "bytes", value_of(&s->counters.by_source[i].bytes));
	}
}

/* What was asked of the cluster for that. */
static void add_fetches(struct serve *s, cJSON *tree)
{
	struct fetch_stats stats;
	cJSON *all = cJSON_AddObjectToObject(tree, "fetches");

	fetcher_stats(s->reader.fetcher, &stats);
	for (size_t i = 0; i < stats.n_sources; i++) {
		cJSON *o = cJSON_AddObjectToObject(all, stats.source[i].name);

		ctl_json_u64(o, "reads", stats.source[i].reads);
		ctl_json_u64(o, "bytes", stats.source[i].bytes);
		ctl_json_u64(o, "failures", stats.source[i].failures);
	}
	ctl_json_u64(all, "failed", stats.failed);
}

static void add_temp_files(const struct serve *s, cJSON *tree)
{
	struct temp_stats stats;

	if (!s->temp)
		return;
	temp_files_stats(s->temp, &stats);
	cJSON *o = cJSON_AddObjectToObject(tree, "temp_files");
	ctl_json_u64(o, "files", stats.files);
	ctl_json_u64(o, "bytes", stats.bytes);
	ctl_json_u64(o, "added", stats.added);
	ctl_json_u64(o, "removed", stats.removed);
	ctl_json_u64(o, "expired", stats.expired);
}

void serve_answer_stats(struct httpd_request *r, void *arg)
{
	struct serve *s = arg;
	cJSON *tree = cJSON_CreateObject();
	struct servers servers = { 0 };

	cJSON_AddBoolToObject(tree, "enabled", rdma_is_enabled(s));
	cJSON_AddBoolToObject(tree, "connected", agent_is_up(s));
	cJSON_AddStringToObject(tree, "client_type", "kelpd");
	add_timestamp(tree);
	cJSON_AddNumberToObject(tree, "uptime_s", (double)(now_ms() - s->start_ms) / MS_PER_S);
	add_reads(s, tree);
	add_fetches(s, tree);
	servers.array = cJSON_AddArrayToObject(tree, "volume_servers");
	locator_each_server(s->cluster.locator, note_server, &servers);
	add_temp_files(s, tree);
	answer_json(r, HTTP_OK, tree);
}
