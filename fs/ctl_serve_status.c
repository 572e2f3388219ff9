/* /health and /stats of kelpctl serve, in the form that the clients of the sidecar before it know, and with
 * more. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "filer/volume_status.h"
#include "fs/ctl.h"
#include "fs/ctl_serve.h"
#include "rdma/client.h"

#define HTTP_OK 200
#define HTTP_INTERNAL 500
#define HTTP_UNAVAILABLE 503
/* So many servers are asked for one answer, and for so long each. */
#define PROBES_MAX 4
#define PROBE_MS 1000

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
	unsigned known, resting;
	char asked[PROBES_MAX][ENDPOINT_STR_MAX]; /* of those at rest */
	unsigned n_asked;
};

static void note_server(void *arg, struct server *server)
{
	struct servers *all = arg;

	all->known++;
	if (breaker_state(&server->http) == BREAKER_CLOSED)
		return;
	all->resting++;
	if (all->n_asked < PROBES_MAX)
		memcpy(all->asked[all->n_asked++], server->url, sizeof(server->url));
}

/* A server at rest is asked whether it is back: who waits for that before it sends reads would wait for ever. */
static void ask_resting(struct serve *s, struct servers *all)
{
	for (unsigned i = 0; i < all->n_asked; i++)
		all->resting -= volume_status_answers(s->cluster.http, all->asked[i],
						      deadline_in_ms(PROBE_MS));
}

void serve_answer_health(struct httpd_request *r, void *arg)
{
	struct serve *s = arg;
	struct servers servers = { 0 };
	cJSON *tree = cJSON_CreateObject();

	locator_each_server(s->cluster.locator, note_server, &servers);
	ask_resting(s, &servers);
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

void serve_answer_stats(struct httpd_request *r, void *arg)
{
	struct serve *s = arg;
	cJSON *tree = serve_metrics_json(s);

	cJSON_AddBoolToObject(tree, "enabled", rdma_is_enabled(s));
	cJSON_AddBoolToObject(tree, "connected", agent_is_up(s));
	cJSON_AddStringToObject(tree, "client_type", "kelpd");
	add_timestamp(tree);
	answer_json(r, HTTP_OK, tree);
}
