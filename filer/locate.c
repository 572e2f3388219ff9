/* Thread model: any thread looks up. One lock protects both tables and every volume in them; it is
 * never held over a request. A volume has at most one request under way (asking); others that need
 * its answer wait on one condition for all volumes, because lookups are rare. Lock order: the
 * locator's lock, then a breaker's. */
#include "filer/locate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cjson/cJSON.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "filer/http.h"

#define LOOKUP_BODY_MAX_BYTES (256 * KIB)
#define LOOKUP_TIMEOUT_MS 3000 /* of one master, where there is another */
#define WARM_UP_PAUSE_MS 250 /* a leader just elected says 503 for a while */
#define VOLUME_SERVER_PORT 8080
#define LOOKUP_URL_MAX (ENDPOINT_STR_MAX + FID_STR_MAX + 64)

#define HTTP_OK 200
#define HTTP_UNAUTHORIZED 401
#define HTTP_FORBIDDEN 403
#define HTTP_NOT_FOUND 404
#define HTTP_SERVER_ERROR 500
#define HTTP_UNAVAILABLE 503

/* Protected by the locator's lock, but for what fetches count. */
struct server_node {
	struct server server;
	bool named; /* by a master */
	int64_t asked_for_ms;
	UT_hash_handle hh; /* by server.url; protected by the locator's lock */
};

/* Protected by the locator's lock. */
struct volume {
	uint32_t id;
	unsigned pins; /* callers that hold a pointer while the lock is dropped */
	bool asking; /* a request is under way */
	uint64_t answers; /* requests that ended */
	int err; /* of the last answer; 0: set is there */
	struct location_set *set; /* NULL unless err is 0 */
	int64_t answered_ms;
	int64_t expires_ms;
	UT_hash_handle hh;
};

struct master {
	char url[ENDPOINT_STR_MAX]; /* immutable */
	struct breaker breaker;
};

/* Immutable but for the breakers. */
struct masters {
	size_t n; /* > 0 */
	struct master list[];
};

struct locator {
	struct http_pool *http;
	bool volumes_https;
	bool use_public_url;
	_Atomic(struct masters *) masters; /* NULL: none are known yet; set once */
	atomic_size_t preferred; /* the master that answered last */

	pthread_mutex_t lock;
	pthread_cond_t answered; /* some request ended */
	struct server_node *servers; /* protected by lock */
	size_t n_servers;
	struct volume *volumes; /* protected by lock; in order of insertion */
	size_t n_volumes;
};

/* --- masters --- */

static struct masters *masters_of(struct locator *l)
{
	return atomic_load_explicit(&l->masters, memory_order_acquire);
}

static void masters_free(struct masters *m)
{
	for (size_t i = 0; m && i < m->n; i++)
		breaker_destroy(&m->list[i].breaker);
	free(m);
}

int locator_set_masters(struct locator *l, const struct endpoint *masters, size_t n)
{
	struct masters *none = NULL;

	if (n == 0)
		return -EINVAL;
	struct masters *m = calloc(1, sizeof(*m) + n * sizeof(m->list[0]));
	if (!m)
		return -ENOMEM;
	m->n = n;
	for (size_t i = 0; i < n; i++) {
		endpoint_url(&masters[i], m->list[i].url);
		breaker_init(&m->list[i].breaker);
	}
	if (atomic_compare_exchange_strong(&l->masters, &none, m))
		return 0;
	masters_free(m);
	return -EALREADY;
}

/* --- making and freeing --- */

int locator_new(struct http_pool *http, const struct locate_config *cfg, struct locator **ret)
{
	struct locator *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	int err = cfg->n_masters ? locator_set_masters(l, cfg->masters, cfg->n_masters) : 0;
	if (err)
		goto free_locator;
	err = cond_init_monotonic(&l->answered);
	if (err)
		goto free_masters;
	err = -pthread_mutex_init(&l->lock, NULL);
	if (err)
		goto destroy_cond;
	l->http = http;
	l->volumes_https = cfg->volumes_https;
	l->use_public_url = cfg->use_public_url;
	*ret = l;
	return 0;

destroy_cond:
	pthread_cond_destroy(&l->answered);
free_masters:
	masters_free(masters_of(l));
free_locator:
	free(l);
	return err;
}

static void volume_free(struct volume *v)
{
	location_set_put(v->set);
	free(v);
}

static void server_free(struct server_node *node)
{
	breaker_destroy(&node->server.rdma);
	breaker_destroy(&node->server.agent);
	breaker_destroy(&node->server.http);
	free(node);
}

/* The tables go first; the chains through their members stay. */
static void tables_free(struct locator *l)
{
	struct volume *v = l->volumes;
	struct server_node *node = l->servers;

	HASH_CLEAR(hh, l->volumes);
	HASH_CLEAR(hh, l->servers);
	while (v) {
		struct volume *next = v->hh.next;
		volume_free(v);
		v = next;
	}
	while (node) {
		struct server_node *next = node->hh.next;
		server_free(node);
		node = next;
	}
}

void locator_free(struct locator *l)
{
	if (!l)
		return;
	tables_free(l);
	masters_free(masters_of(l));
	pthread_cond_destroy(&l->answered);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* --- sets --- */

static struct location_set *set_get(struct location_set *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void location_set_put(struct location_set *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < s->n; i++)
		atomic_fetch_sub_explicit(&s->servers[i]->sets, 1, memory_order_release);
	free(s);
}

static bool set_has(const struct location_set *s, const struct server *server)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->servers[i] == server)
			return true;
	}
	return false;
}

/* Both without duplicates; the master gives no order. */
static bool set_equal(const struct location_set *a, const struct location_set *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		if (!set_has(b, a->servers[i]))
			return false;
	}
	return true;
}

static struct location_set *set_new(struct server *const *servers, size_t n)
{
	struct location_set *s = malloc(sizeof(*s) + n * sizeof(struct server *));

	if (!s)
		return NULL;
	atomic_init(&s->refs, 1);
	s->n = n;
	for (size_t i = 0; i < n; i++) {
		s->servers[i] = servers[i];
		atomic_fetch_add_explicit(&servers[i]->sets, 1, memory_order_relaxed);
	}
	return s;
}

/* --- servers --- */

/* All with the lock held. */
static struct server_node *server_find(struct locator *l, const char *url)
{
	struct server_node *node;

	HASH_FIND(hh, l->servers, url, strlen(url), node);
	return node;
}

/* NOLINTNEXTLINE(readability-function-size): the branches are those of the macro */
static bool server_add(struct locator *l, struct server_node *node)
{
	HASH_ADD_KEYPTR(hh, l->servers, node->server.url, strlen(node->server.url), node);
	if (!node->hh.tbl)
		return false;
	l->n_servers++;
	return true;
}

/* Makes room for one more. */
static bool server_evict(struct locator *l)
{
	struct server_node *oldest = NULL;

	for (struct server_node *node = l->servers; node; node = node->hh.next) {
		if (node->named ||
		    atomic_load_explicit(&node->server.sets, memory_order_acquire) > 0)
			continue;
		if (!oldest || node->asked_for_ms < oldest->asked_for_ms)
			oldest = node;
	}
	if (!oldest)
		return false;
	HASH_DEL(l->servers, oldest);
	l->n_servers--;
	server_free(oldest);
	return true;
}

/* The one node for that address. */
static int server_intern(struct locator *l, const struct endpoint *addr, struct server_node **ret)
{
	char url[ENDPOINT_STR_MAX];

	endpoint_url(addr, url);
	struct server_node *node = server_find(l, url);
	if (node) {
		node->asked_for_ms = now_ms();
		*ret = node;
		return 0;
	}
	if (l->n_servers >= LOCATE_SERVERS_MAX && !server_evict(l))
		return -EBUSY;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->asked_for_ms = now_ms();
	node->server.addr = *addr;
	memcpy(node->server.url, url, sizeof(url));
	if (!server_add(l, node)) {
		free(node);
		return -ENOMEM;
	}
	breaker_init(&node->server.http);
	breaker_init(&node->server.agent);
	breaker_init(&node->server.rdma);
	*ret = node;
	return 0;
}

/* NULL: no memory, or too many. */
static struct server *server_named(struct locator *l, const struct endpoint *addr)
{
	struct server_node *node;
	LOCK_SCOPE(&l->lock);

	if (server_intern(l, addr, &node))
		return NULL;
	node->named = true;
	return &node->server;
}

int locate_server(struct locator *l, const struct endpoint *addr, struct location_set **ret)
{
	struct server_node *node;
	LOCK_SCOPE(&l->lock);

	int err = server_intern(l, addr, &node);
	if (err)
		return err;
	struct location_set *set = set_new(&(struct server *){ &node->server }, 1);
	if (!set)
		return -ENOMEM;
	*ret = set;
	return 0;
}

void locator_each_server(struct locator *l, void (*cb)(void *arg, struct server *s), void *arg)
{
	LOCK_SCOPE(&l->lock);

	for (struct server_node *node = l->servers; node; node = node->hh.next)
		cb(arg, &node->server);
}

/* --- the master's answers --- */

static const char *row_url(const struct locator *l, const cJSON *row)
{
	const char *url = NULL;

	if (l->use_public_url)
		url = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "publicUrl"));
	if (!url || !url[0])
		url = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "url"));
	return url;
}

/* Erasure-coded volumes have a row for every shard, so that addresses repeat. Rows that cannot be
 * understood are left out as long as another can. */
static int set_from_rows(struct locator *l, const cJSON *rows, struct location_set **ret)
{
	struct server *servers[LOCATE_REPLICAS_MAX] = { 0 };
	const cJSON *row;
	size_t n = 0;

	cJSON_ArrayForEach(row, rows)
	{
		const char *url = row_url(l, row);
		struct endpoint addr;
		size_t i = 0;

		if (!url || endpoint_parse(url, strlen(url), VOLUME_SERVER_PORT, &addr) < 0)
			continue;
		addr.https = l->volumes_https;
		struct server *server = server_named(l, &addr);
		while (i < n && servers[i] != server)
			i++;
		if (server && i == n && n < LOCATE_REPLICAS_MAX)
			servers[n++] = server;
	}
	if (n == 0 && cJSON_GetArraySize(rows) > 0)
		return -EPROTO;
	struct location_set *set = set_new(servers, n);
	if (!set)
		return -ENOMEM;
	*ret = set;
	return 0;
}

static int set_from_json(struct locator *l, int status, const struct http_body *body,
			 struct location_set **ret)
{
	cJSON *json = cJSON_ParseWithLength((const char *)body->data, body->len);
	const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "locations");
	int err;

	if (cJSON_IsArray(rows) && status == HTTP_OK)
		err = set_from_rows(l, rows, ret);
	else if (cJSON_GetObjectItemCaseSensitive(json, "error"))
		err = -ENOENT;
	else
		err = -EPROTO; /* whatever that is, it is no master */
	cJSON_Delete(json);
	return err;
}

/* 0 for answers that must be looked into. -EAGAIN: the master is warming up. */
static int status_err(int status)
{
	if (status == HTTP_OK || status == HTTP_NOT_FOUND)
		return 0;
	if (status == HTTP_UNAVAILABLE)
		return -EAGAIN;
	if (status == HTTP_UNAUTHORIZED || status == HTTP_FORBIDDEN)
		return -EACCES;
	return status >= HTTP_SERVER_ERROR ? -EIO : -EPROTO;
}

/* What one lookup wants of the masters. */
struct question {
	uint32_t volume_id;
	const struct fid *token_fid; /* NULL: locations; else a read token for that */
	struct location_set *set; /* out */
	char *token; /* out */
	size_t token_bytes;
};

static void question_url(const struct question *q, const char *master, char url[LOOKUP_URL_MAX])
{
	char fid[FID_STR_MAX];

	if (!q->token_fid) {
		snprintf(url, LOOKUP_URL_MAX, "%s/dir/lookup?volumeId=%" PRIu32, master,
			 q->volume_id);
		return;
	}
	fid_format(q->token_fid, fid);
	snprintf(url, LOOKUP_URL_MAX, "%s/dir/lookup?fileId=%s&read=yes", master, fid);
}

static int take_token(struct question *q, const struct http_head *head)
{
	static const char scheme[] = "Bearer ";
	const char *token = head->authorization;

	if (head->status == HTTP_NOT_FOUND)
		return -ENOENT;
	if (strncasecmp(token, scheme, sizeof(scheme) - 1) == 0)
		token += sizeof(scheme) - 1;
	size_t len = strlen(token);
	if (len == 0)
		return -EACCES; /* this master gives no tokens */
	if (len >= q->token_bytes)
		return -EPROTO;
	memcpy(q->token, token, len + 1);
	return 0;
}

static int ask_master(struct locator *l, const char *master, struct question *q, struct deadline d)
{
	char url[LOOKUP_URL_MAX];
	struct http_body body = { .max_bytes = LOOKUP_BODY_MAX_BYTES };
	struct http_request r = {
		.url = url, .on_body = http_body_append, .arg = &body, .deadline = d
	};
	struct http_head head;

	question_url(q, master, url);
	int err = http_perform(l->http, &r, &head);
	if (!err)
		err = status_err(head.status);
	if (!err && q->token_fid)
		err = take_token(q, &head);
	else if (!err)
		err = set_from_json(l, head.status, &body, &q->set);
	free(body.data);
	return err == -EMSGSIZE ? -EPROTO : err;
}

/* Did the master speak, whatever it said? */
static bool is_answer(int err)
{
	return err == 0 || err == -ENOENT || err == -EAGAIN || err == -EACCES;
}

/* Which of two failures says more. A follower may not know a volume yet that another knows, so a
 * "no" is only believed when all that can be reached say it. */
static int failure_rank(int err)
{
	return err == -ENOENT ? 3 : err == -EAGAIN ? 2 : is_answer(err) ? 1 : 0;
}

/* Asks the masters in turn, from the one that answered last. Resting ones only when the caller has
 * nothing else. */
static int ask_round(struct locator *l, struct question *q, bool desperate, struct deadline d)
{
	struct masters *masters = masters_of(l);
	size_t start = atomic_load_explicit(&l->preferred, memory_order_relaxed);
	int ret = -EHOSTUNREACH;

	for (size_t i = 0; i < masters->n && !deadline_passed(d); i++) {
		size_t index = (start + i) % masters->n;
		struct master *m = &masters->list[index];
		bool last = i + 1 == masters->n;

		if (!breaker_allow(&m->breaker) && !desperate)
			continue;
		int err = ask_master(l, m->url, q,
				     last ? d : deadline_sooner(d, LOOKUP_TIMEOUT_MS));
		if (is_answer(err))
			breaker_success(&m->breaker);
		else if (err != -ENOMEM)
			breaker_failure(&m->breaker);
		if (err == 0) {
			atomic_store_explicit(&l->preferred, index, memory_order_relaxed);
			return 0;
		}
		if (ret == -EHOSTUNREACH || failure_rank(err) > failure_rank(ret))
			ret = err;
	}
	return ret;
}

static int ask(struct locator *l, struct question *q, bool desperate, struct deadline d)
{
	for (bool warming_up = false;; warming_up = true) {
		int err = ask_round(l, q, desperate, d);

		/* A last round for which there was no time says nothing new. */
		if (err && warming_up && deadline_passed(d))
			return -EBUSY;
		if (err != -EAGAIN)
			return err;
		if (deadline_left_ms(d) <= WARM_UP_PAUSE_MS)
			return -EBUSY;
		sleep_ms(jitter_ms(WARM_UP_PAUSE_MS), d);
	}
}

int locate_read_token(struct locator *l, const struct fid *fid, struct deadline d, char *buf,
		      size_t buf_bytes)
{
	struct question q = { .token_fid = fid, .token = buf, .token_bytes = buf_bytes };

	if (!masters_of(l))
		return -ENXIO;
	return ask(l, &q, false, d);
}

/* --- volumes; all of it with the lock held --- */

static struct volume *volume_find(struct locator *l, uint32_t id)
{
	struct volume *v;

	HASH_FIND(hh, l->volumes, &id, sizeof(id), v);
	return v;
}

/* NOLINTNEXTLINE(readability-function-size): the branches are those of the macro */
static bool volume_insert(struct locator *l, struct volume *v)
{
	HASH_ADD(hh, l->volumes, id, sizeof(v->id), v);
	return v->hh.tbl != NULL;
}

/* Makes room for one more: the oldest that nobody holds goes. */
static bool volume_evict(struct locator *l)
{
	for (struct volume *v = l->volumes; v; v = v->hh.next) {
		if (v->pins == 0) {
			HASH_DEL(l->volumes, v);
			l->n_volumes--;
			volume_free(v);
			return true;
		}
	}
	return false;
}

static struct volume *volume_get(struct locator *l, uint32_t id)
{
	struct volume *v = volume_find(l, id);

	if (v)
		return v;
	if (l->n_volumes >= LOCATE_VOLUMES_MAX && !volume_evict(l))
		return NULL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return NULL;
	v->id = id;
	v->err = -EAGAIN; /* never asked */
	if (!volume_insert(l, v)) {
		free(v);
		return NULL;
	}
	l->n_volumes++;
	return v;
}

static bool volume_usable(const struct volume *v, bool refresh)
{
	int64_t now = now_ms();

	if (now >= v->expires_ms)
		return false;
	return !refresh || now - v->answered_ms < LOCATE_REFRESH_MIN_MS;
}

/* Takes over set, which is there if err is 0. */
static void volume_answered(struct volume *v, int err, struct location_set *set)
{
	v->answers++;
	v->asking = false;
	v->answered_ms = now_ms();
	if (err == 0 && v->set && set_equal(v->set, set)) {
		/* The same object again, so that callers see by its address that nothing changed. */
		location_set_put(set);
		v->expires_ms = v->answered_ms + LOCATE_TTL_MS;
	} else if (err == 0) {
		location_set_put(v->set);
		v->set = set;
		v->err = 0;
		v->expires_ms = v->answered_ms + (set->n ? LOCATE_TTL_MS : LOCATE_NEGATIVE_TTL_MS);
	} else if (err == -ENOENT) {
		location_set_put(v->set);
		v->set = NULL;
		v->err = err;
		v->expires_ms = v->answered_ms + LOCATE_NEGATIVE_TTL_MS;
	} else if (v->set) {
		/* No master to be had: what was true is likely to be true still. */
		v->expires_ms = v->answered_ms + LOCATE_NEGATIVE_TTL_MS;
	} else {
		v->err = err;
		v->expires_ms = 0; /* only for those who waited for it */
	}
}

static int volume_result(struct volume *v, struct location_set **ret)
{
	if (v->err)
		return v->err;
	*ret = set_get(v->set);
	return 0;
}

/* Drops the lock for as long as the masters take. */
static void volume_ask(struct locator *l, struct volume *v, bool refresh, struct deadline d)
{
	struct question q = { .volume_id = v->id };

	v->asking = true;
	pthread_mutex_unlock(&l->lock);
	int err = ask(l, &q, refresh, d);
	pthread_mutex_lock(&l->lock);
	volume_answered(v, err, q.set);
	pthread_cond_broadcast(&l->answered);
}

/* Waits for the request under way, if there is one, else makes one. */
static int volume_refresh(struct locator *l, struct volume *v, bool refresh, struct deadline d)
{
	uint64_t answers = v->answers;

	if (!v->asking) {
		volume_ask(l, v, refresh, d);
		return 0;
	}
	/* cppcheck-suppress knownConditionTrueFalse ; who asks changes it while we wait */
	while (v->answers == answers) {
		if (cond_wait_until(&l->answered, &l->lock, d) == -ETIMEDOUT)
			return -ETIMEDOUT;
	}
	return 0;
}

int locate_volume(struct locator *l, uint32_t volume_id, bool refresh, struct deadline d,
		  struct location_set **ret)
{
	if (!masters_of(l))
		return -ENXIO;
	LOCK_SCOPE(&l->lock);
	struct volume *v = volume_get(l, volume_id);
	if (!v)
		return -ENOMEM;
	if (volume_usable(v, refresh) || (v->asking && v->set && !refresh))
		return volume_result(v, ret);
	v->pins++;
	int err = volume_refresh(l, v, refresh, d);
	if (!err)
		err = volume_result(v, ret);
	v->pins--;
	return err;
}
