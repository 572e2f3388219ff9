/* kelpctl ping and caps. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "filer/token.h"
#include "fs/cluster.h"
#include "fs/ctl.h"
#include "fs/ctl_agent.h"
#include "rdma/session.h"
#include "rdma/verbs.h"

#define NS_PER_MS 1e6

/* --- ping --- */

struct pings {
	const struct ctl_options *options;
	struct token_source *tokens;
	struct client_session *session; /* NULL: to be opened */
	char name[ENDPOINT_STR_MAX];
	uint64_t sent, answered;
	double min_ms, max_ms, sum_ms, squares;
};

static void pings_add(struct pings *p, double ms)
{
	p->min_ms = p->answered ? fmin(p->min_ms, ms) : ms;
	p->max_ms = fmax(p->max_ms, ms);
	p->sum_ms += ms;
	p->squares += ms * ms;
	p->answered++;
}

/* The connection is not part of the round trip. */
static int ping_once(struct pings *p, char *message, size_t bytes)
{
	struct deadline d = deadline_in_ms(p->options->timeout_ms);
	struct wire_hello_reply reply = { 0 };

	if (!p->session) {
		int err = ctl_agent_open(p->options->via, &p->options->agent, p->tokens, d,
					 &p->session, &reply, message, bytes);
		if (err)
			return err;
		if (!p->options->json && p->sent == 0)
			printf("PING %s (%s): %s, protocol %u\n", p->name,
			       ctl_via_name(p->options->via), reply.software, reply.version);
	}
	int64_t start_ns = now_ns();
	int err = client_session_ping(p->session, d);
	double ms = (double)(now_ns() - start_ns) / NS_PER_MS;
	if (err) {
		client_session_close(p->session, WIRE_OK);
		p->session = NULL;
		return ctl_fail(err, message, bytes, "%s: %s", p->name, strerror(-err));
	}
	pings_add(p, ms);
	if (!p->options->json)
		printf("answer from %s: seq=%" PRIu64 " time=%.3f ms\n", p->name, p->sent + 1, ms);
	return 0;
}

/* False: interrupted. */
static bool pause_between(unsigned ms, const sigset_t *signals)
{
	const struct timespec wait = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	return sigtimedwait(signals, NULL, &wait) < 0;
}

static void run_pings(struct pings *p, char *message, size_t bytes)
{
	unsigned count = p->options->count;
	sigset_t signals, before;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, &before);
	for (;;) {
		if (ping_once(p, message, bytes) && !p->options->json)
			printf("no answer: seq=%" PRIu64 ": %s\n", p->sent + 1, message);
		fflush(stdout);
		p->sent++;
		if (count && p->sent == count)
			break;
		if (!pause_between(p->options->interval_ms, &signals))
			break;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int print_pings(const struct pings *p, char *message, size_t bytes)
{
	double n = p->answered ? (double)p->answered : 1, average = p->sum_ms / n;
	double deviation = sqrt(fmax(p->squares / n - average * average, 0));
	int err = 0;

	if (p->options->json) {
		cJSON *json = cJSON_CreateObject();

		cJSON_AddStringToObject(json, "agent", p->name);
		ctl_json_u64(json, "sent", p->sent);
		ctl_json_u64(json, "answered", p->answered);
		if (p->answered) {
			cJSON *times = cJSON_AddObjectToObject(json, "round_trip_ms");

			cJSON_AddNumberToObject(times, "min", p->min_ms);
			cJSON_AddNumberToObject(times, "avg", average);
			cJSON_AddNumberToObject(times, "max", p->max_ms);
			cJSON_AddNumberToObject(times, "mdev", deviation);
		}
		err = ctl_json_print(stdout, json);
	} else {
		printf("--- %s\n%" PRIu64 " sent, %" PRIu64 " answered, %.0f%% lost\n", p->name,
		       p->sent, p->answered,
		       100.0 * (double)(p->sent - p->answered) / (double)p->sent);
		if (p->answered)
			printf("round trip min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f ms\n", p->min_ms,
			       average, p->max_ms, deviation);
	}
	if (err)
		return ctl_fail(err, message, bytes, "standard output: %s", strerror(-err));
	return p->answered ? 0 : -EHOSTUNREACH;
}

int ctl_ping(const struct ctl_options *o, char *message, size_t bytes)
{
	struct pings p = { .options = o };
	int err = cluster_open_tokens(&o->cluster, &p.tokens, message, bytes);

	if (err)
		return err;
	ctl_endpoint_name(&o->agent, p.name);
	run_pings(&p, message, bytes);
	err = print_pings(&p, message, bytes);
	client_session_close(p.session, WIRE_OK);
	verbs_release();
	token_source_free(p.tokens);
	return err;
}

/* --- caps --- */

static cJSON *caps_json(const char *name, const struct wire_hello_reply *r)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} capabilities[] = {
		{ WIRE_CAP_INLINE, "inline" },
		{ WIRE_CAP_LEASE, "lease" },
		{ WIRE_CAP_STREAM, "stream" },
	};
	cJSON *json = cJSON_CreateObject();

	cJSON_AddStringToObject(json, "agent", name);
	cJSON_AddStringToObject(json, "software", r->software);
	ctl_json_u64(json, "version", r->version);
	cJSON_AddBoolToObject(json, "real_rdma",
			      r->n_addresses > 0 || (r->capabilities & WIRE_CAP_LEASE) != 0);
	cJSON_AddStringToObject(json, "device", r->device);
	ctl_json_u64(json, "vendor_id", r->vendor_id);
	cJSON_AddStringToObject(json, "port_gid", r->port_gid);
	ctl_json_u64(json, "port_lid", r->port_lid);
	cJSON *rdma = cJSON_AddArrayToObject(json, "rdma_addresses");
	for (size_t i = 0; i < r->n_addresses; i++) {
		char address[sizeof(r->addresses[i].host) + sizeof(" port 65535")];

		snprintf(address, sizeof(address), "%s port %u", r->addresses[i].host,
			 r->addresses[i].port);
		cJSON_AddItemToArray(rdma, cJSON_CreateString(address));
	}
	cJSON *list = cJSON_AddArrayToObject(json, "capabilities");
	for (size_t i = 0; i < ARRAY_LEN(capabilities); i++)
		if (r->capabilities & capabilities[i].bit)
			cJSON_AddItemToArray(list, cJSON_CreateString(capabilities[i].name));
	ctl_json_u64(json, "max_sessions", r->sessions_max);
	ctl_json_u64(json, "active_sessions", r->sessions_active);
	ctl_json_u64(json, "max_transfer_bytes", r->transfer_bytes_max);
	ctl_json_u64(json, "max_inline_bytes", r->inline_bytes_max);
	ctl_json_u64(json, "max_staging_bytes", r->staging_bytes_max);
	ctl_json_u64(json, "lease_ms", r->lease_ms);
	cJSON_AddBoolToObject(json, "token_needed", r->token_needed);
	return json;
}

static void print_list(const cJSON *list)
{
	const cJSON *item;
	const char *between = "";

	cJSON_ArrayForEach(item, list)
	{
		printf("%s%s", between, item->valuestring);
		between = ", ";
	}
	printf("%s\n", *between ? "" : "none");
}

/* One line a member, so that text and JSON say the same. */
static void print_lines(const cJSON *object)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, object)
	{
		printf("%-20s", item->string);
		if (cJSON_IsArray(item))
			print_list(item);
		else if (cJSON_IsBool(item))
			printf("%s\n", cJSON_IsTrue(item) ? "yes" : "no");
		else
			printf("%s\n", item->valuestring[0] ? item->valuestring : "none");
	}
}

int ctl_caps(const struct ctl_options *o, char *message, size_t bytes)
{
	struct wire_hello_reply reply = { 0 };
	char name[ENDPOINT_STR_MAX];
	struct client_session *session;
	struct token_source *tokens;
	int err = cluster_open_tokens(&o->cluster, &tokens, message, bytes);

	if (err)
		return err;
	err = ctl_agent_open(o->via, &o->agent, tokens, deadline_in_ms(o->timeout_ms), &session,
			     &reply, message, bytes);
	token_source_free(tokens);
	if (!err)
		client_session_close(session, WIRE_OK);
	verbs_release();
	if (err)
		return err;
	ctl_endpoint_name(&o->agent, name);
	cJSON *json = caps_json(name, &reply);
	if (o->json)
		return ctl_json_print(stdout, json);
	print_lines(json);
	cJSON_Delete(json);
	return 0;
}
