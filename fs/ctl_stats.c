/* kelpctl stats: what a mount does, live: one line for each interval, in the manner of dstat. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/http.h"
#include "fs/control.h"
#include "fs/ctl.h"

#define STATS_BYTES_MAX ((size_t)16 << 20)
#define SOURCES_MAX 8
/* The heading is repeated in a terminal after so many lines. */
#define HEADING_EVERY 20
#define CELL_WIDTH 9

struct stats_source {
	bool is_file;
	char place[PATH_MAX]; /* of the file, or a URL */
	struct http_pool *http; /* NULL where is_file */
	unsigned timeout_ms;
};

/* What is shown of two samples. */
struct column {
	const char *title;
	void (*print)(char *buf, size_t bytes, const cJSON *before, const cJSON *now,
		      double seconds);
};

/* --- fetching --- */

static int read_file(const char *path, struct http_body *body)
{
	uint8_t piece[65536];
	ssize_t n;
	int err = 0, fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (!err && (n = read(fd, piece, sizeof(piece))) != 0)
		err = n < 0 ? -errno : http_body_append(body, piece, (size_t)n);
	close(fd);
	return err;
}

static int fetch(const struct stats_source *s, struct http_body *body)
{
	struct http_request r = { .url = s->place,
				  .on_body = http_body_append,
				  .arg = body,
				  .deadline = deadline_in_ms(s->timeout_ms) };
	struct http_head head;

	if (s->is_file)
		return read_file(s->place, body);
	int err = http_perform(s->http, &r, &head);
	return !err && head.status != 200 ? -EPROTO : err;
}

/* *ret: to be deleted. of_mount: no other will do. */
static int take_sample(const struct stats_source *s, bool of_mount, cJSON **ret, char *message,
		       size_t bytes)
{
	struct http_body body = { .max_bytes = STATS_BYTES_MAX };
	int err = fetch(s, &body);
	cJSON *tree = err ? NULL : cJSON_ParseWithLength((const char *)body.data, body.len);

	free(body.data);
	if (!err && (!tree || !cJSON_IsObject(tree))) {
		cJSON_Delete(tree);
		err = -EPROTO;
	}
	if (err)
		return ctl_fail(err, message, bytes, "%s: %s", s->place,
				err == -EPROTO ? "these are no statistics of kelpfs or kelpd"
					       : strerror(-err));
	if (of_mount && !cJSON_HasObjectItem(tree, "kelpfs_reads_total")) {
		cJSON_Delete(tree);
		return ctl_fail(-EPROTO, message, bytes,
				"%s: not the statistics of a mount (--json shows any)", s->place);
	}
	*ret = tree;
	return 0;
}

/* --- arithmetic --- */

static const cJSON *member(const cJSON *tree, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(tree, name);
}

static double number(const cJSON *item)
{
	return item && cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* Of a counter, with the label where it has one; what has restarted meanwhile counts from 0. */
static double increase(const cJSON *before, const cJSON *now, const char *name, const char *label)
{
	const cJSON *a = before ? member(before, name) : NULL, *b = member(now, name);
	double from = number(label ? member(a, label) : a),
	       to = number(label ? member(b, label) : b);

	return to >= from ? to - from : to;
}

static double bucket_count(const cJSON *buckets, int i)
{
	return number(cJSON_GetArrayItem(cJSON_GetArrayItem(buckets, i), 1));
}

static double bucket_bound(const cJSON *buckets, int i)
{
	return number(cJSON_GetArrayItem(cJSON_GetArrayItem(buckets, i), 0));
}

/* In seconds; NAN where there was nothing. Evenly spread within a bucket; beyond the last bound, that. */
static double percentile(const cJSON *before, const cJSON *now, double part)
{
	const cJSON *latency = member(now, "kelpfs_read_seconds");
	const cJSON *old = before ? member(before, "kelpfs_read_seconds") : NULL;
	const cJSON *buckets = member(latency, "buckets"), *old_buckets = member(old, "buckets");
	double all = number(member(latency, "count")) - number(member(old, "count"));
	double below = 0, bound_below = 0;
	int n = cJSON_GetArraySize(buckets);

	if (all <= 0)
		return NAN;
	for (int i = 0; i < n; i++) {
		double count = bucket_count(buckets, i) - bucket_count(old_buckets, i);
		double bound = bucket_bound(buckets, i);

		if (count > below && count >= part * all)
			return bound_below +
			       (bound - bound_below) * (part * all - below) / (count - below);
		below = count;
		bound_below = bound;
	}
	return bound_below;
}

/* --- columns --- */

static void print_scaled(char *buf, size_t bytes, double value)
{
	static const char units[] = " KMGTP";
	size_t i = 0;

	while (value >= 999.5 && i + 2 < sizeof(units)) {
		value /= 1024;
		i++;
	}
	if (i == 0)
		snprintf(buf, bytes, "%.0f", value);
	else
		snprintf(buf, bytes, value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[i]);
}

static void print_seconds(char *buf, size_t bytes, double s)
{
	if (isnan(s))
		snprintf(buf, bytes, "-");
	else if (s < 0.001)
		snprintf(buf, bytes, "%.0fus", s * 1e6);
	else if (s < 1)
		snprintf(buf, bytes, s < 0.01 ? "%.1fms" : "%.0fms", s * 1e3);
	else
		snprintf(buf, bytes, "%.1fs", s);
}

static void print_reads(char *buf, size_t bytes, const cJSON *a, const cJSON *b, double seconds)
{
	snprintf(buf, bytes, "%.0f", increase(a, b, "kelpfs_reads_total", NULL) / seconds);
}

static void print_bytes(char *buf, size_t bytes, const cJSON *a, const cJSON *b, double seconds)
{
	print_scaled(buf, bytes, increase(a, b, "kelpfs_read_bytes_total", NULL) / seconds);
}

static void print_p50(char *buf, size_t bytes, const cJSON *a, const cJSON *b, double seconds)
{
	(void)seconds;
	print_seconds(buf, bytes, percentile(a, b, 0.5));
}

static void print_p99(char *buf, size_t bytes, const cJSON *a, const cJSON *b, double seconds)
{
	(void)seconds;
	print_seconds(buf, bytes, percentile(a, b, 0.99));
}

static void print_hits(char *buf, size_t bytes, const cJSON *a, const cJSON *b, double seconds)
{
	double hits = increase(a, b, "kelpfs_cache_hits_total", NULL);
	double all = hits + increase(a, b, "kelpfs_cache_misses_total", NULL) +
		     increase(a, b, "kelpfs_cache_waits_total", NULL);

	(void)seconds;
	if (all > 0)
		snprintf(buf, bytes, "%.0f%%", 100 * hits / all);
	else
		snprintf(buf, bytes, "-");
}

static void print_errors(char *buf, size_t bytes, const cJSON *a, const cJSON *b, double seconds)
{
	(void)seconds;
	snprintf(buf, bytes, "%.0f", increase(a, b, "kelpfs_read_errors_total", NULL));
}

static const struct column columns[] = {
	{ "reads/s", print_reads }, { "bytes/s", print_bytes }, { "p50", print_p50 },
	{ "p99", print_p99 },       { "hits", print_hits },     { "errors", print_errors },
};

/* Then bytes per second of each source that the mount has. */
static size_t sources_of(const cJSON *now, const char *names[SOURCES_MAX])
{
	const cJSON *source;
	size_t n = 0;

	cJSON_ArrayForEach(source, member(now, "kelpfs_source_bytes_total"))
	{
		if (n < SOURCES_MAX)
			names[n++] = source->string;
	}
	return n;
}

static void print_heading(const cJSON *now)
{
	const char *names[SOURCES_MAX];
	size_t n = sources_of(now, names);

	for (size_t i = 0; i < ARRAY_LEN(columns); i++)
		printf("%*s", CELL_WIDTH, columns[i].title);
	printf("  |");
	for (size_t i = 0; i < n; i++)
		printf("%*s", CELL_WIDTH, names[i]);
	printf("\n");
}

static void print_line(const cJSON *before, const cJSON *now, double seconds)
{
	const char *names[SOURCES_MAX];
	size_t n = sources_of(now, names);
	char cell[32];

	for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
		columns[i].print(cell, sizeof(cell), before, now, seconds);
		printf("%*s", CELL_WIDTH, cell);
	}
	printf("  |");
	for (size_t i = 0; i < n; i++) {
		print_scaled(cell, sizeof(cell),
			     increase(before, now, "kelpfs_source_bytes_total", names[i]) /
				     seconds);
		printf("%*s", CELL_WIDTH, cell);
	}
	printf("\n");
}

/* --- running --- */

/* Since the start, where that is known. */
static double seconds_up(const cJSON *now)
{
	double up = (double)time(NULL) - number(member(now, "kelpfs_start_time_seconds"));

	return up > 1 ? up : 1;
}

static int show_once(const struct stats_source *s, bool json, char *message, size_t bytes)
{
	cJSON *now = NULL;
	int err = take_sample(s, !json, &now, message, bytes);

	if (err)
		return err;
	if (json)
		return ctl_json_print(stdout, now);
	print_heading(now);
	print_line(NULL, now, seconds_up(now));
	cJSON_Delete(now);
	return 0;
}

static int watch(const struct stats_source *s, const struct ctl_options *o, char *message,
		 size_t bytes)
{
	bool terminal = isatty(STDOUT_FILENO);
	cJSON *before = NULL;
	int64_t before_ns = now_ns();
	int err = take_sample(s, true, &before, message, bytes);

	for (unsigned i = 0; !err && (!o->count || i < o->count); i++) {
		cJSON *now = NULL;

		if (i == 0 || (terminal && i % HEADING_EVERY == 0))
			print_heading(before);
		err = fflush(stdout) ? -errno : 0;
		if (err)
			break;
		sleep_ms(o->interval_ms, deadline_in_ms(o->interval_ms));
		int64_t at_ns = now_ns();
		err = take_sample(s, true, &now, message, bytes);
		if (err)
			break;
		print_line(before, now, (double)(at_ns - before_ns) / 1e9);
		cJSON_Delete(before);
		before = now;
		before_ns = at_ns;
	}
	cJSON_Delete(before);
	return err;
}

/* A mountpoint is a directory; an address is none. */
static int find_source(const struct ctl_options *o, struct stats_source *s, char *message,
		       size_t bytes)
{
	struct http_config cfg = { 0 };
	char url[ENDPOINT_STR_MAX];
	struct stat st;

	if (o->status.port && stat(o->where, &st) != 0) {
		endpoint_url(&o->status, url);
		snprintf(s->place, sizeof(s->place), "%s/stats", url);
		return http_pool_new(&cfg, &s->http);
	}
	int n = snprintf(s->place, sizeof(s->place), "%s/" CONTROL_NAME "/stats", o->where);
	if (n >= (int)sizeof(s->place))
		return -ENAMETOOLONG;
	s->is_file = true;
	if (access(s->place, F_OK) != 0 && errno != EIO)
		return ctl_fail(-errno, message, bytes,
				"%s: no mount of kelpfs that tells (control=off?), and no address "
				"(ADDR:PORT)",
				o->where);
	return 0;
}

int ctl_stats(const struct ctl_options *o, char *message, size_t bytes)
{
	struct stats_source s = { .timeout_ms = o->timeout_ms };
	int err = find_source(o, &s, message, bytes);

	if (!err)
		err = o->once || o->json ? show_once(&s, o->json, message, bytes)
					 : watch(&s, o, message, bytes);
	if (s.http)
		http_pool_free(s.http);
	return err;
}
