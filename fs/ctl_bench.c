/* kelpctl bench: random reads of one size, so many at once, for so long.
 *
 * Threads: each read under way has one, which draws a needle and an offset, reads, and notes how long
 * that took. All start together, after each has read once to set up its connection. What is shared is
 * read-only but for the start and the stop. */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/ctl.h"
#include "fs/ctl_histogram.h"
#include "fs/ctl_path.h"
#include "fs/ctl_reach.h"
#include "fs/fetch.h"
#include "fs/memlock.h"
#include "rdma/device.h"
#include "rdma/verbs.h"

#define NEEDLES_MAX 65536
#define REGION 1 /* handle of the registered memory */
#define MEMORY_BYTES_MAX ((uint64_t)4 << 30)
#define ALIGN_BYTES 4096 /* of offsets, where the needle has room for that */
#define PROGRESS_MS 200
#define ERROR_PAUSE_MS 10 /* a server that refuses is not to be flooded */
#define NS_PER_S 1e9
#define NS_PER_US 1e3

struct bench_needle {
	struct fid fid;
	uint64_t len;
	struct server *server; /* NULL where only the filer is asked */
};

struct bench {
	const struct ctl_options *options;
	struct ctl_reach reach;
	struct bench_needle *needles; /* the longest first */
	size_t n_needles;
	size_t n_points, point; /* for the progress */
	/* What is read into: a slot for each thread. RDMA has it registered. */
	uint8_t *memory;
	size_t memory_bytes, slot_bytes;
	uint64_t errors; /* of all points */
	char first_error[256];
};

/* One combination. */
struct point {
	struct bench *bench;
	const struct ctl_way *way;
	uint64_t size;
	size_t depth;
	size_t n_needles; /* those that are long enough */
	pthread_mutex_t lock; /* protects ready and go */
	pthread_cond_t changed; /* ... either of them */
	size_t ready; /* workers that have read once */
	bool go;
	atomic_bool stop;

	/* Results. */
	double seconds;
	uint64_t errors;
	int error; /* the first; 0: none */
	char place[CTL_PLACE_BYTES]; /* ... and where */
	struct histogram latency_ns;
};

struct worker {
	struct point *point;
	pthread_t thread;
	uint64_t random;
	uint8_t *buf;
	uint64_t errors;
	int error;
	const struct server *error_server;
	struct histogram latency_ns;
};

/* --- what is read --- */

struct measure {
	bool gzip;
	uint64_t len;
};

static int measure_begin(void *arg, bool gzip, int64_t stored_len)
{
	(void)stored_len;
	*(struct measure *)arg = (struct measure){ .gzip = gzip };
	return 0;
}

static int measure_push(void *arg, const uint8_t *p, size_t n)
{
	(void)p;
	((struct measure *)arg)->len += n;
	return 0;
}

static int locate_needle(struct bench *b, struct bench_needle *n, struct deadline d, char *message,
			 size_t bytes)
{
	struct ctl_places places;

	if (b->options->via == VIA_PROXY)
		return 0;
	int err = ctl_reach_locate(&b->reach, n->fid.volume_id, d, &places);
	if (err)
		return ctl_fail(err, message, bytes, "volume %" PRIu32 ": %s", n->fid.volume_id,
				ctl_locate_error(err));
	n->server = places.servers[0];
	return 0;
}

/* Reads all of it once, because only that tells how long it is. */
static int measure_needle(struct bench *b, struct bench_needle *n, struct deadline d, char *message,
			  size_t bytes)
{
	const struct ctl_way *way = &b->reach.ways[0];
	struct measure m = { 0 };
	const struct needle_sink sink = { .begin = measure_begin, .push = measure_push, .arg = &m };
	char place[CTL_PLACE_BYTES], fid[FID_STR_MAX];
	int err = way->source.ops->read_whole(way->source.self, n->server, &n->fid, &sink, d);

	fid_format(&n->fid, fid);
	ctl_place_name(&b->reach, way, n->server, place);
	if (err)
		return ctl_fail(err, message, bytes, "%s: %s: %s", fid, place,
				ctl_read_error(way, err));
	if (m.gzip)
		return ctl_fail(-EINVAL, message, bytes,
				"%s: it is stored compressed: no range of it can be read", fid);
	n->len = m.len;
	return 0;
}

static int take_fids(struct bench *b, char *message, size_t bytes)
{
	const struct ctl_options *o = b->options;
	int err = 0;

	b->needles = calloc(o->n_fids, sizeof(b->needles[0]));
	if (!b->needles)
		return -ENOMEM;
	for (size_t i = 0; i < o->n_fids && !err; i++) {
		struct bench_needle *n = &b->needles[b->n_needles++];
		struct deadline d = deadline_in_ms(o->timeout_ms);

		n->fid = o->fids[i];
		err = locate_needle(b, n, d, message, bytes);
		if (!err)
			err = measure_needle(b, n, d, message, bytes);
	}
	return err;
}

static int take_chunks(struct bench *b, const struct chunkmap *m, struct deadline d, char *message,
		       size_t bytes)
{
	b->needles = calloc(m->n_chunks + 1, sizeof(b->needles[0]));
	if (!b->needles)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_chunks && b->n_needles < NEEDLES_MAX; i++) {
		const struct chunk *c = &m->chunks[i];
		struct bench_needle *n = &b->needles[b->n_needles];

		if (chunk_is_encoded(c) || c->size == 0)
			continue;
		n->fid = c->fid;
		n->len = c->size;
		int err = locate_needle(b, n, d, message, bytes);
		if (err)
			return err;
		b->n_needles++;
	}
	return 0;
}

static int take_path(struct bench *b, char *message, size_t bytes)
{
	struct deadline d = deadline_in_ms(b->options->timeout_ms);
	struct ctl_path p;
	int err = ctl_path_open(&b->reach, d, &p, message, bytes);

	if (err)
		return err;
	err = take_chunks(b, p.map, d, message, bytes);
	ctl_path_close(&p);
	if (!err && !b->n_needles)
		err = ctl_fail(-EINVAL, message, bytes,
			       "%s: it has no chunks of which a range can be read (kelpctl locate "
			       "shows them)",
			       b->options->cluster.path);
	return err;
}

/* --- one point --- */

static uint64_t draw(struct worker *w, uint64_t below)
{
	/* xorshift64: fast, and of more than enough quality to spread reads. */
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % below;
}

static int read_one(struct worker *w, const struct bench_needle **ret_needle)
{
	const struct point *p = w->point;
	const struct bench_needle *n = &p->bench->needles[draw(w, p->n_needles)];
	uint64_t offset = draw(w, n->len - p->size + 1);
	struct read_buf buf = { .ptr = w->buf, .len = p->size, .region = REGION };
	struct needle_range range = {
		.fid = n->fid, .offset = offset - offset % ALIGN_BYTES, .bufs = &buf, .n_bufs = 1
	};

	*ret_needle = n;
	return p->way->source.ops->read_range(p->way->source.self, n->server, &range,
					      deadline_in_ms(p->bench->options->timeout_ms));
}

static void wait_for_go(struct point *p)
{
	LOCK_SCOPE(&p->lock);

	p->ready++;
	pthread_cond_broadcast(&p->changed);
	while (!p->go)
		pthread_cond_wait(&p->changed, &p->lock);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct point *p = w->point;
	const struct bench_needle *n;

	read_one(w, &n);
	wait_for_go(p);
	while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
		int64_t start_ns = now_ns();
		int err = read_one(w, &n);

		if (!err) {
			histogram_add(&w->latency_ns, (uint64_t)(now_ns() - start_ns));
			continue;
		}
		if (!w->error) {
			w->error = err;
			w->error_server = n->server;
		}
		w->errors++;
		sleep_ms(ERROR_PAUSE_MS, deadline_in_ms(ERROR_PAUSE_MS));
	}
	return NULL;
}

static void format_size(uint64_t size, char *buf, size_t bytes)
{
	if (size % MIB == 0)
		snprintf(buf, bytes, "%" PRIu64 "M", size / MIB);
	else if (size % KIB == 0)
		snprintf(buf, bytes, "%" PRIu64 "K", size / KIB);
	else
		snprintf(buf, bytes, "%" PRIu64, size);
}

static void wait_for_end(const struct point *p, int64_t start_ns)
{
	const struct bench *b = p->bench;
	/* One more: a deadline counts whole milliseconds, and a point is never shorter than asked. */
	struct deadline end = deadline_in_ms(b->options->point_ms + 1);
	bool terminal = isatty(STDERR_FILENO);
	char size[32];

	format_size(p->size, size, sizeof(size));
	while (!deadline_passed(end)) {
		if (terminal)
			fprintf(stderr, "\r\033[K[%zu/%zu] %s, size %s, depth %zu: %.1f of %.1f s",
				b->point, b->n_points, ctl_via_name(p->way->via), size, p->depth,
				(double)(now_ns() - start_ns) / NS_PER_S,
				(double)b->options->point_ms / 1e3);
		sleep_ms(PROGRESS_MS, end);
	}
	if (terminal)
		fputs("\r\033[K", stderr);
}

static void gather(struct point *p, const struct worker *w)
{
	histogram_merge(&p->latency_ns, &w->latency_ns);
	p->errors += w->errors;
	if (!w->error || p->error)
		return;
	p->error = w->error;
	ctl_place_name(&p->bench->reach, p->way, w->error_server, p->place);
}

/* Returns the number of threads that were started; all of them, or *ret_err says why not. */
static size_t start_workers(struct point *p, struct worker *workers, int *ret_err)
{
	for (size_t n = 0; n < p->depth; n++) {
		struct worker *w = &workers[n];

		w->point = p;
		w->random = (n + 1) * UINT64_C(0x9e3779b97f4a7c15);
		w->buf = p->bench->memory + n * p->bench->slot_bytes;
		*ret_err = -pthread_create(&w->thread, NULL, work, w);
		if (*ret_err)
			return n;
	}
	return p->depth;
}

static void let_go(struct point *p, size_t wanted)
{
	LOCK_SCOPE(&p->lock);

	while (p->ready < wanted)
		pthread_cond_wait(&p->changed, &p->lock);
	p->go = true;
	pthread_cond_broadcast(&p->changed);
}

static int run_point(struct point *p)
{
	struct worker *workers = calloc(p->depth, sizeof(*workers));
	int err = 0;

	if (!workers)
		return -ENOMEM;
	size_t n = start_workers(p, workers, &err);
	if (err)
		atomic_store(&p->stop, true);
	let_go(p, n);
	int64_t start_ns = now_ns();
	if (!err)
		wait_for_end(p, start_ns);
	atomic_store_explicit(&p->stop, true, memory_order_relaxed);
	for (size_t i = 0; i < n; i++) {
		pthread_join(workers[i].thread, NULL);
		gather(p, &workers[i]);
	}
	p->seconds = (double)(now_ns() - start_ns) / NS_PER_S;
	free(workers);
	return err;
}

/* --- results --- */

static const struct {
	const char *name;
	double part;
} percentiles[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p99.9", 0.999 } };

static double reads_per_s(const struct point *p)
{
	return (double)p->latency_ns.n / p->seconds;
}

static double mib_per_s(const struct point *p)
{
	return reads_per_s(p) * (double)p->size / (double)MIB;
}

static double in_us(uint64_t ns)
{
	return (double)ns / NS_PER_US;
}

static cJSON *point_json(const struct point *p)
{
	const struct histogram *h = &p->latency_ns;
	cJSON *json = cJSON_CreateObject();

	cJSON_AddStringToObject(json, "via", ctl_via_name(p->way->via));
	ctl_json_u64(json, "size", p->size);
	ctl_json_u64(json, "depth", p->depth);
	cJSON_AddNumberToObject(json, "seconds", p->seconds);
	ctl_json_u64(json, "reads", h->n);
	ctl_json_u64(json, "bytes", h->n * p->size);
	ctl_json_u64(json, "errors", p->errors);
	cJSON_AddNumberToObject(json, "reads_per_s", reads_per_s(p));
	cJSON_AddNumberToObject(json, "mib_per_s", mib_per_s(p));
	cJSON *latency = cJSON_AddObjectToObject(json, "latency_us");
	cJSON_AddNumberToObject(latency, "min", in_us(h->min));
	cJSON_AddNumberToObject(latency, "mean", h->n ? h->sum / (double)h->n / NS_PER_US : 0);
	for (size_t i = 0; i < ARRAY_LEN(percentiles); i++)
		cJSON_AddNumberToObject(latency, percentiles[i].name,
					in_us(histogram_percentile(h, percentiles[i].part)));
	cJSON_AddNumberToObject(latency, "max", in_us(h->max));
	return json;
}

static void print_head(void)
{
	printf("%-6s %6s %6s %10s %10s %7s", "WAY", "SIZE", "DEPTH", "READS/S", "MIB/S", "ERRORS");
	for (size_t i = 0; i < ARRAY_LEN(percentiles); i++)
		printf(" %9s", percentiles[i].name);
	printf(" %9s us\n", "max");
}

static void print_point(const struct point *p)
{
	char size[32];

	format_size(p->size, size, sizeof(size));
	printf("%-6s %6s %6zu %10.0f %10.1f %7" PRIu64, ctl_via_name(p->way->via), size, p->depth,
	       reads_per_s(p), mib_per_s(p), p->errors);
	for (size_t i = 0; i < ARRAY_LEN(percentiles); i++)
		printf(" %9.1f", in_us(histogram_percentile(&p->latency_ns, percentiles[i].part)));
	printf(" %9.1f\n", in_us(p->latency_ns.max));
	fflush(stdout);
}

/* --- all points --- */

static bool table_wanted(const struct ctl_options *o)
{
	return !o->json_file || strcmp(o->json_file, "-") != 0;
}

/* p is filled in but for its results. One at which nothing could be read ends the benchmark. */
static int measure_point(struct bench *b, struct point *p, cJSON *points, char *message,
			 size_t bytes)
{
	while (p->n_needles < b->n_needles && b->needles[p->n_needles].len >= p->size)
		p->n_needles++;
	int err = run_point(p);
	if (err)
		return ctl_fail(err, message, bytes, "%zu threads: %s", p->depth, strerror(-err));
	if (!p->latency_ns.n)
		return p->error ? ctl_fail(p->error, message, bytes, "%s: %s", p->place,
					   ctl_read_error(p->way, p->error))
				: ctl_fail(-ETIMEDOUT, message, bytes,
					   "no read ended in that time (--seconds)");
	if (p->error && !b->errors)
		ctl_fail(p->error, b->first_error, sizeof(b->first_error), "%s: %s", p->place,
			 ctl_read_error(p->way, p->error));
	b->errors += p->errors;
	if (table_wanted(b->options))
		print_point(p);
	cJSON_AddItemToArray(points, point_json(p));
	return 0;
}

static int run_one(struct bench *b, const struct ctl_way *way, uint64_t size, size_t depth,
		   cJSON *points, char *message, size_t bytes)
{
	CLEANUP_FREE struct point *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	b->point++;
	p->bench = b;
	p->way = way;
	p->size = size;
	p->depth = depth;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	int err = measure_point(b, p, points, message, bytes);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	return err;
}

static int run_all(struct bench *b, cJSON *points, char *message, size_t bytes)
{
	const struct ctl_options *o = b->options;
	int err = 0;

	b->n_points = b->reach.n_ways * o->n_sizes * o->n_depths;
	if (table_wanted(o))
		print_head();
	for (size_t w = 0; w < b->reach.n_ways; w++)
		for (size_t s = 0; s < o->n_sizes; s++)
			for (size_t d = 0; d < o->n_depths && !err; d++)
				err = run_one(b, &b->reach.ways[w], o->sizes[s], o->depths[d],
					      points, message, bytes);
	return err;
}

static int longer_first(const void *a, const void *b)
{
	uint64_t la = ((const struct bench_needle *)a)->len;
	uint64_t lb = ((const struct bench_needle *)b)->len;

	return (la < lb) - (la > lb);
}

static int check_sizes(const struct bench *b, char *message, size_t bytes)
{
	const struct ctl_options *o = b->options;
	uint64_t longest = b->needles[0].len;
	char size[32];

	for (size_t i = 0; i < o->n_sizes; i++) {
		if (o->sizes[i] <= longest)
			continue;
		format_size(o->sizes[i], size, sizeof(size));
		return ctl_fail(-EINVAL, message, bytes,
				"size %s: no needle has as much (the longest: %" PRIu64
				" bytes); --sizes chooses others",
				size, longest);
	}
	return 0;
}

/* Opened before anything is measured: it would be a pity to have no place for the results. */
static int open_json(const struct ctl_options *o, FILE **ret, char *message, size_t bytes)
{
	*ret = NULL;
	if (!o->json_file)
		return 0;
	*ret = table_wanted(o) ? fopen(o->json_file, "we") : stdout;
	return *ret ? 0 : ctl_fail(-errno, message, bytes, "%s: %s", o->json_file, strerror(errno));
}

static int write_json(const struct bench *b, FILE *out, cJSON *points, char *message, size_t bytes)
{
	cJSON *json = cJSON_CreateObject();

	cJSON_AddStringToObject(json, "program", "kelpctl " KELP_VERSION);
	ctl_json_u64(json, "needles", b->n_needles);
	cJSON_AddItemToObject(json, "points", points);
	int err = ctl_json_print(out, json);
	return err ? ctl_fail(err, message, bytes, "%s: %s", b->options->json_file, strerror(-err))
		   : 0;
}

static int bench(struct bench *b, char *message, size_t bytes)
{
	const struct ctl_options *o = b->options;
	FILE *out;
	int err = o->n_fids ? take_fids(b, message, bytes) : take_path(b, message, bytes);

	if (!err) {
		qsort(b->needles, b->n_needles, sizeof(b->needles[0]), longer_first);
		err = check_sizes(b, message, bytes);
	}
	if (!err)
		err = open_json(o, &out, message, bytes);
	if (err)
		return err;
	cJSON *points = cJSON_CreateArray();
	err = run_all(b, points, message, bytes);
	if (out && !err)
		err = write_json(b, out, points, message, bytes);
	else
		cJSON_Delete(points);
	if (out && out != stdout && fclose(out) != 0 && !err)
		err = ctl_fail(-errno, message, bytes, "%s: %s", o->json_file, strerror(errno));
	if (!err && b->errors)
		err = ctl_fail(-EIO, message, bytes, "%" PRIu64 " reads failed, the first: %s",
			       b->errors, b->first_error);
	return err;
}

static uint64_t largest(const uint64_t *values, size_t n)
{
	uint64_t max = 0;

	for (size_t i = 0; i < n; i++)
		max = max_u64(max, values[i]);
	return max;
}

/* Before the first connection, because that has the memory registered. */
static int get_memory(struct bench *b, char *message, size_t bytes)
{
	const struct ctl_options *o = b->options;
	uint64_t size = largest(o->sizes, o->n_sizes), depth = largest(o->depths, o->n_depths);

	b->slot_bytes = (size + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
	b->memory_bytes = b->slot_bytes * depth;
	if (b->memory_bytes > MEMORY_BYTES_MAX)
		return ctl_fail(-ENOMEM, message, bytes,
				"so many reads of that size at once need %zu MiB of memory; more "
				"than %" PRIu64 " are too much (--sizes, --depths)",
				b->memory_bytes / MIB, MEMORY_BYTES_MAX / MIB);
	if (o->via & VIA_RDMA) {
		const struct verbs_memory memory = { .region_bytes = b->memory_bytes,
						     .devices = device_count_active(NULL),
						     .agents = o->has_agent ? 1
									    : VERBS_AGENTS_PRESUMED,
						     .connections = o->connections };
		int err = memlock_allow(&memory, message, bytes);
		if (err)
			return err;
	}
	void *p = mmap(NULL, b->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	if (p == MAP_FAILED)
		return ctl_fail(-errno, message, bytes, "%zu MiB of memory: %s",
				b->memory_bytes / MIB, strerror(errno));
	b->memory = p;
	return o->via & VIA_RDMA ? verbs_region_add(REGION, p, b->memory_bytes) : 0;
}

int ctl_bench(const struct ctl_options *o, char *message, size_t bytes)
{
	struct bench b = { .options = o };
	unsigned depth = (unsigned)largest(o->depths, o->n_depths);
	int err = get_memory(&b, message, bytes);

	if (!err)
		err = ctl_reach_open(o, depth, true, &b.reach, message, bytes);
	if (!err) {
		err = bench(&b, message, bytes);
		ctl_reach_close(&b.reach);
	}
	free(b.needles);
	if (b.memory)
		munmap(b.memory, b.memory_bytes);
	return err;
}
