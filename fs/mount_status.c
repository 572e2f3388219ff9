/* Threads: the HTTP server has one for each connection, because finding out how a mount is takes asking the
 * servers. One asks at a time, and its answer is everybody's for HEALTH_TTL_MS. */
#include "fs/mount_status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "filer/base/base.h"
#include "filer/breaker.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/volume_status.h"
#include "fs/httpd.h"
#include "fs/metrics.h"
#include "fs/mount.h"
#include "fs/mount_metrics.h"
#include "fs/options.h"

#define HEALTH_TTL_MS 500
#define FILER_MS 2000
/* Servers at rest are asked whether they are back: so many of them, and for so long each. */
#define PROBES_MAX 4
#define PROBE_MS 1000

struct mount_status {
	struct mount *mount;
	struct httpd *httpd;
	pthread_mutex_t lock; /* protects the three below; the breakers' are taken under it */
	char *health; /* JSON, NULL: none yet */
	bool is_well;
	int64_t health_at_ms;
};

/* --- health --- */

static bool probe_filer(struct mount *m, cJSON *tree)
{
	cJSON *filer = cJSON_AddObjectToObject(tree, "filer");
	struct entry *root;
	int err = filer_lookup(m->cluster.filer, m->options->path, deadline_in_ms(FILER_MS), &root);

	cJSON_AddBoolToObject(filer, "up", err == 0);
	if (err)
		cJSON_AddStringToObject(filer, "error", strerror(-err));
	else
		entry_put(root);
	return err == 0;
}

/* Returns whether that way is in use. */
static bool add_breaker(cJSON *breakers, const char *source, struct breaker *b)
{
	cJSON_AddStringToObject(breakers, source, breaker_state_name(breaker_state(b)));
	return !breaker_rests(b);
}

/* A server is up if one of the ways to it is in use, or if it says so itself: the breakers of a server
 * that nobody reads from now would never tell that it is back. Where only agents are read from, what the
 * server says over HTTP does not count. */
static bool describe_server(struct mount *m, struct server *server, cJSON *list, size_t *probes)
{
	cJSON *one = cJSON_CreateObject();
	cJSON *breakers = cJSON_AddObjectToObject(one, "breakers");
	bool by_http = m->options->agent != AGENT_REQUIRE && m->options->rdma != AGENT_REQUIRE;
	bool up = by_http && add_breaker(breakers, "http", &server->http);

	if (m->cluster.agents)
		up |= add_breaker(breakers, "tcp", &server->agent);
	if (m->cluster.rdma)
		up |= add_breaker(breakers, "rdma", &server->rdma);
	/* An agent that was never there has a breaker that never opens. */
	if (by_http && breaker_state(&server->http) != BREAKER_CLOSED)
		up = (*probes)++ < PROBES_MAX &&
		     volume_status_answers(m->cluster.http, server->url, deadline_in_ms(PROBE_MS));
	cJSON_AddStringToObject(one, "url", server->url);
	cJSON_AddBoolToObject(one, "up", up);
	cJSON_AddItemToArray(list, one);
	return up;
}

struct server_list {
	struct server *servers[LOCATE_SERVERS_MAX];
	size_t n;
};

static void add_server(void *arg, struct server *s)
{
	struct server_list *l = arg;

	if (l->n < LOCATE_SERVERS_MAX)
		l->servers[l->n++] = s;
}

/* Of those that are known: *ret_n; returns how many are up. */
static size_t describe_servers(struct mount *m, cJSON *tree, size_t *ret_n)
{
	cJSON *list = cJSON_AddArrayToObject(tree, "servers");
	struct server_list *l = calloc(1, sizeof(*l));
	size_t up = 0, probes = 0;

	*ret_n = 0;
	if (!l)
		return 0;
	locator_each_server(m->cluster.locator, add_server, l);
	for (size_t i = 0; i < l->n; i++)
		up += describe_server(m, l->servers[i], list, &probes);
	*ret_n = l->n;
	free(l);
	return up;
}

static int find_health(struct mount_status *s)
{
	cJSON *tree = cJSON_CreateObject();
	size_t n, up;

	cJSON_AddStringToObject(tree, "status", "");
	cJSON_AddStringToObject(tree, "version", KELP_VERSION);
	cJSON_AddStringToObject(tree, "source", s->mount->options->source);
	cJSON_AddStringToObject(tree, "mountpoint", s->mount->options->mountpoint);
	bool filer_up = probe_filer(s->mount, tree);
	up = describe_servers(s->mount, tree, &n);
	s->is_well = filer_up && (up > 0 || n == 0);
	cJSON_ReplaceItemInObject(tree, "status",
				  cJSON_CreateString(!s->is_well ? "failing"
						     : up < n    ? "degraded"
								 : "ok"));
	char *text = cJSON_Print(tree);
	cJSON_Delete(tree);
	if (!text)
		return -ENOMEM;
	free(s->health);
	s->health = text;
	s->health_at_ms = now_ms();
	return 0;
}

static void answer_health(struct httpd_request *r, void *arg)
{
	struct mount_status *s = arg;
	LOCK_SCOPE(&s->lock);

	if (!s->health || now_ms() - s->health_at_ms > HEALTH_TTL_MS) {
		if (find_health(s)) {
			httpd_error(r, 500, "out of memory");
			return;
		}
	}
	httpd_reply(r, &(struct httpd_reply){ .status = s->is_well ? 200 : 503,
					      .type = HTTPD_JSON,
					      .body = s->health,
					      .bytes = strlen(s->health) });
}

/* --- the rest --- */

static void answer_stats(struct httpd_request *r, void *arg)
{
	httpd_reply_text(r, 200, mount_stats_json(((struct mount_status *)arg)->mount), HTTPD_JSON);
}

static void answer_metrics(struct httpd_request *r, void *arg)
{
	httpd_reply_text(r, 200, mount_metrics_text(((struct mount_status *)arg)->mount),
			 METRICS_PROMETHEUS_TYPE);
}

static void answer_config(struct httpd_request *r, void *arg)
{
	httpd_reply_text(r, 200, mount_config_json(((struct mount_status *)arg)->mount),
			 HTTPD_JSON);
}

static const struct httpd_route routes[] = {
	{ "/health", HTTPD_GET, answer_health },
	{ "/stats", HTTPD_GET, answer_stats },
	{ "/metrics", HTTPD_GET, answer_metrics },
	{ "/config", HTTPD_GET, answer_config },
};

int mount_status_start(struct mount *m, struct mount_status **ret, char *message, size_t bytes)
{
	struct mount_status *s = calloc(1, sizeof(*s));
	int err = s ? -pthread_mutex_init(&s->lock, NULL) : -ENOMEM;

	if (err)
		goto free_status;
	s->mount = m;
	struct httpd_config cfg = {
		.host = m->options->status.host,
		.port = m->options->status.port,
		.routes = routes,
		.n_routes = ARRAY_LEN(routes),
		.arg = s,
		.blocking = true,
	};
	err = httpd_start(&cfg, &s->httpd, message, bytes);
	if (err)
		goto destroy_lock;
	*ret = s;
	return 0;

destroy_lock:
	pthread_mutex_destroy(&s->lock);
free_status:
	free(s);
	return err;
}

void mount_status_stop(struct mount_status *s)
{
	if (!s)
		return;
	httpd_stop(s->httpd);
	pthread_mutex_destroy(&s->lock);
	free(s->health);
	free(s);
}
