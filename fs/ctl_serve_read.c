/* Thread model: a read is its thread's own; the allowance is shared, under its lock. */
#include "fs/ctl_serve_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/locate.h"

int serve_reader_init(struct serve_reader *r, uint64_t memory_bytes)
{
	int err = cond_init_monotonic(&r->freed);

	if (err)
		return err;
	pthread_mutex_init(&r->lock, NULL);
	r->free_bytes = memory_bytes;
	return 0;
}

void serve_reader_destroy(struct serve_reader *r)
{
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->freed);
}

/* --- the allowance --- */

static int take_memory(struct serve_read *s, uint64_t bytes, struct deadline d)
{
	struct serve_reader *r = s->reader;
	LOCK_SCOPE(&r->lock);

	while (r->free_bytes < bytes)
		if (cond_wait_until(&r->freed, &r->lock, d) == -ETIMEDOUT)
			return -EBUSY;
	r->free_bytes -= bytes;
	s->taken_bytes += bytes;
	return 0;
}

static void give_memory(struct serve_read *s, uint64_t bytes)
{
	struct serve_reader *r = s->reader;
	LOCK_SCOPE(&r->lock);

	r->free_bytes += bytes;
	s->taken_bytes -= bytes;
	pthread_cond_broadcast(&r->freed);
}

uint64_t serve_reader_free_bytes(struct serve_reader *r)
{
	LOCK_SCOPE(&r->lock);

	return r->free_bytes;
}

/* --- where to read --- */

static const struct server *find_server(const struct location_set *set, const struct endpoint *e)
{
	for (size_t i = 0; i < set->n; i++)
		if (strcmp(set->servers[i]->addr.host, e->host) == 0 &&
		    set->servers[i]->addr.port == e->port)
			return set->servers[i];
	return NULL;
}

/* A request must not make us connect wherever it likes, with a token at that. */
static int choose_places(struct serve_read *s, const struct serve_request *q, struct deadline d)
{
	struct serve_reader *r = s->reader;
	bool is_fixed = r->fixed && (!q->has_server || find_server(r->fixed, &q->server));

	if (is_fixed) {
		s->needle.places = r->fixed;
		return 0;
	}
	if (q->has_server && r->any_server) {
		int err = locate_server(r->locator, &q->server, &s->places);

		s->needle.places = s->places;
		return err;
	}
	/* So that a volume that nobody has is told at once. */
	int err = locate_volume(r->locator, q->fid.volume_id, false, d, &s->places);
	if (err == -ENXIO) /* no master is known that could name servers */
		return q->has_server ? -EINVAL : 0;
	if (err)
		return err == -ENOENT ? err : 0;
	if (s->places->n == 0)
		return -ENOENT;
	s->needle.first = q->has_server ? find_server(s->places, &q->server) : NULL;
	return q->has_server && !s->needle.first ? -EINVAL : 0;
}

/* --- reading --- */

static int error_of(const struct serve_read *s, int err)
{
	return s->needle.ended ? -ERANGE : err;
}

static int read_block(struct serve_read *s, uint64_t pos, size_t len, struct deadline d)
{
	struct fetcher *f = s->reader->fetcher;
	struct read_buf buf = { .ptr = s->data,
				.len = len,
				.region = s->block.ptr ? SLAB_REGION : MEM_UNREGISTERED };
	int err = fetch_needle_range(f, &s->needle, s->offset + pos, &buf, 1, d);

	if (err)
		return error_of(s, err);
	s->data_pos = pos;
	s->data_len = len;
	return 0;
}

static int read_first_block(struct serve_read *s, struct deadline d)
{
	size_t len = min_u64(s->len, SERVE_BLOCK_BYTES);
	int err = take_memory(s, len, d);

	if (err)
		return err;
	s->data = slab_alloc(s->reader->slab, len, &s->block) ? malloc(len) : s->block.ptr;
	if (!s->data)
		return -ENOMEM;
	s->complete = len == s->len;
	return read_block(s, 0, len, d);
}

/* All of the needle into memory, as much as max_bytes; then the part that is wanted. */
static int read_whole(struct serve_read *s, const struct serve_request *q, uint64_t max_bytes,
		      struct deadline d)
{
	size_t len;
	int err = take_memory(s, max_bytes, d);

	if (err)
		return err;
	err = fetch_needle_whole(s->reader->fetcher, &s->needle, max_bytes, d, &s->data, &len);
	if (err)
		return error_of(s, err);
	give_memory(s, max_bytes - len);
	if (q->offset > len || q->size > len - q->offset || (len > 0 && q->offset == len))
		return -ERANGE;
	s->len = q->size ? q->size : len - q->offset;
	s->data_offset = q->offset;
	s->data_len = s->len;
	s->complete = true;
	return 0;
}

/* How long the needle is; the last byte that is asked for has to be there. */
static int probe(struct serve_read *s, const struct serve_request *q, struct deadline d)
{
	uint8_t byte;
	struct read_buf buf = { .ptr = &byte, .len = 1 };
	uint64_t at = q->size ? q->offset + q->size - 1 : q->offset;

	return fetch_needle_range(s->reader->fetcher, &s->needle, at, &buf, 1, d);
}

static int read_large(struct serve_read *s, const struct serve_request *q, struct deadline d)
{
	uint64_t decode_max = s->reader->decode_bytes_max;
	int err = probe(s, q, d);
	bool is_empty = err && s->needle.ended && q->offset == 0 && q->size == 0;

	if (is_empty || (s->needle.gzip && !err))
		return read_whole(s, q, decode_max, d);
	if (err)
		return error_of(s, err);
	uint64_t total = s->needle.plain_bytes;
	if (q->size == 0 && total <= q->offset)
		return read_whole(s, q, decode_max, d); /* it was not told */
	s->len = q->size ? q->size : total - q->offset;
	if (s->len == total && total <= SERVE_WHOLE_BYTES_MAX)
		return read_whole(s, q, total, d);
	return read_first_block(s, d);
}

int serve_read_open(struct serve_reader *r, const struct serve_request *q, struct serve_read *ret)
{
	struct deadline d = deadline_in_ms(r->timeout_ms);
	struct serve_read s = {
		.reader = r, .needle.fid = q->fid, .offset = q->offset, .len = q->size
	};
	int err;

	if (q->offset > INT64_MAX || q->size > INT64_MAX - q->offset)
		return -ERANGE;
	err = choose_places(&s, q, d);
	if (!err)
		err = q->size && q->size <= SERVE_BLOCK_BYTES ? read_first_block(&s, d)
							      : read_large(&s, q, d);
	if (err) {
		serve_read_close(&s);
		return err;
	}
	*ret = s;
	return 0;
}

void serve_read_close(struct serve_read *s)
{
	if (s->block.ptr)
		slab_release(s->reader->slab, s->block);
	else
		free(s->data);
	s->block = (struct slab_buf){ 0 };
	s->data = NULL;
	location_set_put(s->places);
	s->places = NULL;
	if (s->taken_bytes)
		give_memory(s, s->taken_bytes);
}

ssize_t serve_read_next(struct serve_read *s, uint64_t pos, uint8_t *buf, size_t max)
{
	if (pos >= s->len)
		return -EIO;
	if (pos < s->data_pos || pos >= s->data_pos + s->data_len) {
		struct deadline d = deadline_in_ms(s->reader->timeout_ms);
		int err = read_block(s, pos, min_u64(s->len - pos, SERVE_BLOCK_BYTES), d);

		if (err)
			return err;
	}
	size_t at = pos - s->data_pos;
	size_t n = min_u64(max, s->data_len - at);
	memcpy(buf, s->data + s->data_offset + at, n);
	return (ssize_t)n;
}
