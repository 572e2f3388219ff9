/* kelpctl read. Nothing is written before all bytes are there and have passed their checks.
 *
 * A range is read into a slab, as the mount does it, and so is what an agent leases of a whole needle. How much
 * comes out of that is known at its end only: it is gathered in the heap. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/slab.h"
#include "filer/base/crc32c.h"
#include "filer/decode.h"
#include "filer/http.h"
#include "fs/ctl.h"
#include "fs/ctl_reach.h"
#include "fs/memlock.h"
#include "rdma/device.h"
#include "rdma/verbs.h"
#include "rdma/wire.h"

/* For a whole needle, of which nobody knows yet how long it is: twice the largest chunk of a filer's default. */
#define WHOLE_SLAB_BYTES (16 * MIB)
#define NS_PER_MS 1e6
#define GZIP_TRAILER_SIZE_BYTES 4

struct job {
	const struct ctl_options *options;
	struct deadline deadline;
	int64_t start_ns;
	char place[CTL_PLACE_BYTES]; /* that is asked, or was last */
	double took_ms; /* until it had answered */
	struct slab *slab;
	/* All of it is this job's. */
	uint8_t *slab_base;
	size_t slab_bytes;
	struct read_buf room; /* what a source has of it */
	struct http_body body; /* of a whole needle, as it comes */
	bool gzip;
	const uint8_t *data; /* what was asked for: in the slab, or in body */
	size_t len;
};

/* --- memory --- */

/* Before the first connection, because that has the memory registered. */
static int get_memory(struct job *j, char *message, size_t bytes)
{
	const struct ctl_options *o = j->options;
	unsigned devices = o->via & VIA_RDMA ? device_count_active(NULL) : 0;
	uint64_t wanted = o->size ? o->size : WHOLE_SLAB_BYTES;
	void *base;
	int err = slab_new_ordinary(max_u64(wanted, SLAB_BYTES_MIN), &j->slab);

	if (err)
		return ctl_fail(err, message, bytes, "%" PRIu64 " MiB of memory: %s", wanted / MIB,
				strerror(-err));
	slab_region(j->slab, &base, &j->slab_bytes);
	j->slab_base = base;
	const struct verbs_memory memory = { .region_bytes = j->slab_bytes,
					     .devices = devices,
					     .agents = o->has_agent ? 1 : VERBS_AGENTS_PRESUMED,
					     .connections = 1 };
	if (devices) {
		err = memlock_allow(&memory, message, bytes);
		if (err && !(o->via & ~(unsigned)VIA_RDMA))
			return err;
	}
	return o->via & VIA_RDMA ? verbs_region_add(SLAB_REGION, base, j->slab_bytes) : 0;
}

/* --- a whole needle --- */

static size_t room(void *arg, size_t bytes, const struct read_buf **ret)
{
	struct job *j = arg;

	if (bytes > j->slab_bytes)
		return 0;
	j->room = (struct read_buf){ .ptr = j->slab_base, .len = bytes, .region = SLAB_REGION };
	*ret = &j->room;
	return 1;
}

static int begin(void *arg, bool gzip, int64_t stored_len)
{
	struct job *j = arg;

	(void)stored_len;
	j->body.len = 0;
	j->gzip = gzip;
	return 0;
}

static int push(void *arg, const uint8_t *p, size_t n)
{
	struct job *j = arg;
	int err = http_body_append(&j->body, p, n);

	return err == -EMSGSIZE ? -EFBIG : err;
}

/* The last bytes of a gzip stream tell how much comes out of it; the decoder checks that. */
static int inflate_body(struct job *j)
{
	const uint8_t *end = j->body.data + j->body.len;
	struct decoder *decoder;
	uint64_t got = 0;

	if (j->body.len < GZIP_TRAILER_SIZE_BYTES)
		return -EPROTO;
	uint32_t len = (uint32_t)end[-4] | (uint32_t)end[-3] << 8 | (uint32_t)end[-2] << 16 |
		       (uint32_t)end[-1] << 24;
	if (len > CTL_NEEDLE_BYTES_MAX)
		return -EFBIG;
	CLEANUP_FREE uint8_t *plain = malloc((size_t)len + 1);
	if (!plain)
		return -ENOMEM;
	const struct decode_window window = { .ptr = plain, .len = len };
	const struct decode_spec spec = {
		.gzip = true, .plain_limit = len, .windows = &window, .n_windows = len > 0
	};
	int err = decoder_new(&spec, &decoder);
	if (err)
		return err;
	err = decoder_push(decoder, j->body.data, j->body.len);
	if (!err)
		err = decoder_finish(decoder, &got);
	decoder_free(decoder);
	if (err || got != len)
		return err ? err : -EPROTO;
	free(j->body.data);
	j->body = (struct http_body){
		.data = plain, .len = len, .cap = (size_t)len + 1, .max_bytes = j->body.max_bytes
	};
	plain = NULL;
	return 0;
}

/* The part that was asked for. */
static int cut(struct job *j)
{
	uint64_t offset = j->options->offset, size = j->options->size;

	if (offset > j->body.len || size > j->body.len - offset)
		return -ENODATA;
	j->len = size ? size : j->body.len - offset;
	j->data = j->len ? j->body.data + offset : NULL;
	return 0;
}

static int read_whole(struct job *j, const struct source *s, struct server *server)
{
	const struct needle_sink sink = { .begin = begin, .push = push, .arg = j, .room = room };
	int err = s->ops->read_whole(s->self, server, &j->options->fids[0], &sink, j->deadline);

	if (!err && j->gzip && !j->options->raw)
		err = inflate_body(j);
	return err ? err : cut(j);
}

/* --- a range --- */

static int read_range(struct job *j, const struct source *s, struct server *server)
{
	const struct ctl_options *o = j->options;
	struct read_buf buf = { .ptr = j->slab_base, .len = o->size, .region = SLAB_REGION };
	struct needle_range range = {
		.fid = o->fids[0], .offset = o->offset, .bufs = &buf, .n_bufs = 1
	};

	int err = s->ops->read_range(s->self, server, &range, j->deadline);
	if (err)
		return err;
	j->data = buf.ptr;
	j->len = o->size;
	return 0;
}

/* An agent has no ranges of what is stored compressed. */
static int attempt(struct job *j, const struct source *s, struct server *server)
{
	if (j->options->size && !j->options->raw) {
		int err = read_range(j, s, server);

		if (err != -EMEDIUMTYPE)
			return err;
	}
	return read_whole(j, s, server);
}

/* --- what is said of it --- */

static double elapsed_ms(const struct job *j)
{
	return (double)(now_ns() - j->start_ns) / NS_PER_MS;
}

/* What an agent answered: for what it leases, all that a READ of it needs. */
static void say_answer(void *arg, const struct wire_result *r)
{
	const struct job *j = arg;
	char crc[64] = "none";

	if (r->flags & (WIRE_RESULT_CRC_RANGE | WIRE_RESULT_CRC_WHOLE))
		snprintf(crc, sizeof(crc), "0x%08" PRIx32 "%s", r->crc32c,
			 r->flags & WIRE_RESULT_CRC_RANGE ? "" : " (of the whole needle)");
	if (r->flags & WIRE_RESULT_LEASE)
		fprintf(stderr,
			"kelpctl: %s: lease 0x%" PRIx64 ", address 0x%" PRIx64 ", rkey 0x%" PRIx32
			", length %" PRIu64 " of %" PRIu64 ", CRC32C %s, expires in %" PRIu32
			" ms\n",
			j->place, r->lease_id, r->remote_addr, r->rkey, r->length, r->needle_length,
			crc, r->lease_ms);
	else
		fprintf(stderr,
			"kelpctl: %s: no lease, length %" PRIu64 " of %" PRIu64 ", CRC32C %s\n",
			j->place, r->length, r->needle_length, crc);
}

static void say_end(const struct job *j)
{
	fprintf(stderr, "kelpctl: success: %zu bytes from %s, CRC32C 0x%08" PRIx32 ", %.3f ms\n",
		j->len, j->place, crc32c(0, j->data, j->len), j->took_ms);
}

/* --- every way in turn --- */

static void add_reason(char *message, size_t bytes, const char *place, const char *reason)
{
	size_t n = strlen(message);

	snprintf(message + n, bytes - n, "%s%s: %s", n ? "; " : "", place, reason);
}

static int try_at(struct ctl_reach *r, const struct ctl_way *way, struct server *server,
		  struct job *j, char *message, size_t bytes)
{
	ctl_place_name(r, way, server, j->place);
	int err = attempt(j, &way->source, server);
	j->took_ms = elapsed_ms(j);
	if (err)
		add_reason(message, bytes, j->place, ctl_read_error(way, err));
	return err;
}

static int try_all(struct ctl_reach *r, struct job *j, char *message, size_t bytes)
{
	uint32_t volume = j->options->fids[0].volume_id;
	struct ctl_places places = { 0 };
	int err = -ENOENT, located = 0;

	if (r->via & (VIA_AGENT | VIA_HTTP))
		located = ctl_reach_locate(r, volume, j->deadline, &places);
	if (located) {
		char name[32];

		snprintf(name, sizeof(name), "volume %" PRIu32, volume);
		add_reason(message, bytes, name, ctl_locate_error(located));
		err = located;
	}
	for (size_t i = 0; i < r->n_ways; i++) {
		const struct ctl_way *way = &r->ways[i];
		size_t n = way->source.per_server ? places.n : 1;

		for (size_t k = 0; k < n; k++) {
			struct server *server = way->source.per_server ? places.servers[k] : NULL;

			err = try_at(r, way, server, j, message, bytes);
			if (!err)
				return 0;
		}
	}
	return err;
}

/* --- where it goes --- */

static int write_out(const struct job *j, char *message, size_t bytes)
{
	const char *path = j->options->output;
	FILE *out = path ? fopen(path, "wbe") : stdout;

	if (!out)
		return ctl_fail(-errno, message, bytes, "%s: %s", path, strerror(errno));
	bool failed = (j->len && fwrite(j->data, 1, j->len, out) != j->len) || fflush(out) != 0;
	int err = failed ? -errno : 0;
	if (path && fclose(out) != 0 && !err)
		err = -errno;
	if (err)
		return ctl_fail(err, message, bytes, "%s: %s", path ? path : "standard output",
				strerror(-err));
	return 0;
}

static int read_and_write(struct job *j, struct ctl_reach *r, char *message, size_t bytes)
{
	char fid[FID_STR_MAX];

	fid_format(&j->options->fids[0], fid);
	snprintf(message, bytes, "%s", "");
	j->deadline = deadline_in_ms(j->options->timeout_ms);
	j->start_ns = now_ns();
	if (j->options->verbose) {
		r->on_answer = say_answer;
		r->on_answer_arg = j;
	}
	int err = try_all(r, j, message, bytes);
	if (!err) {
		err = write_out(j, message, bytes);
		if (!err && j->options->verbose)
			say_end(j);
		return err;
	}
	if (j->options->verbose)
		fprintf(stderr, "kelpctl: failure: 0 bytes, %.3f ms\n", elapsed_ms(j));
	CLEANUP_FREE char *reasons = strdup(message);

	snprintf(message, bytes, "%s: %s", fid, reasons ? reasons : strerror(-err));
	return err;
}

int ctl_read(const struct ctl_options *o, char *message, size_t bytes)
{
	struct job j = { .options = o, .body = { .max_bytes = CTL_NEEDLE_BYTES_MAX } };
	struct ctl_reach r;
	int err = get_memory(&j, message, bytes);

	if (!err)
		err = ctl_reach_open(o, 1, false, &r, message, bytes);
	if (!err) {
		err = read_and_write(&j, &r, message, bytes);
		ctl_reach_close(&r);
	}
	free(j.body.data);
	slab_free(j.slab);
	return err;
}
