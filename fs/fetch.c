/* Thread model: a fetch runs on its caller's thread with its state on that stack; what fetches share
 * are atomic counters. */
#include "fs/fetch.h"

#include <errno.h>
#include <stdlib.h>

#include "cache/ssd.h"
#include "filer/base/base.h"
#include "fs/fetch_impl.h"
#include "fs/tier.h"

int fetcher_new(const struct fetch_config *cfg, struct fetcher **ret)
{
	if (cfg->n_sources >= FETCH_SOURCES_MAX) /* one is left for the SSD tier's counters */
		return -EINVAL;
	struct fetcher *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->n_sources = cfg->n_sources;
	f->verify_md5 = cfg->verify_md5;
	for (size_t i = 0; i < cfg->n_sources; i++) {
		f->sources[i] = cfg->sources[i];
		if (cfg->sources[i].per_server)
			f->locator = cfg->locator;
	}
	*ret = f;
	return 0;
}

void fetcher_free(struct fetcher *f)
{
	free(f);
}

void fetcher_set_ssd(struct fetcher *f, struct ssd *ssd)
{
	f->ssd = ssd;
}

struct ssd *fetcher_ssd(const struct fetcher *f)
{
	return f->ssd;
}

void fetcher_set_scratch(struct fetcher *f, struct scratch *s)
{
	f->scratch = s;
}

static uint64_t read_counter(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void read_counters(struct fetch_stats *ret, const char *name, struct source_counters *c)
{
	size_t i = ret->n_sources++;

	ret->source[i].name = name;
	ret->source[i].reads = read_counter(&c->reads);
	ret->source[i].bytes = read_counter(&c->bytes);
	ret->source[i].failures = read_counter(&c->failures);
	latency_read(&c->latency, &ret->source[i].latency);
}

void fetcher_stats(struct fetcher *f, struct fetch_stats *ret)
{
	*ret = (struct fetch_stats){ .failed = read_counter(&f->failed) };
	if (f->ssd) {
		struct ssd_stats ssd;

		ssd_stats(f->ssd, &ssd);
		read_counters(ret, "ssd", &f->ssd_counters);
		ret->source[0].failures = ssd.corrupt;
	}
	for (size_t i = 0; i < f->n_sources; i++)
		read_counters(ret, f->sources[i].ops->name, &f->counters[i]);
}

/* --- what callers ask for --- */

/* Sum of the buffers' lengths; false when the range cannot exist. */
static bool range_bytes(uint64_t offset, const struct read_buf *bufs, size_t n_bufs, size_t *ret)
{
	uint64_t end = offset;
	size_t bytes = 0;

	for (size_t i = 0; i < n_bufs; i++) {
		bytes += bufs[i].len;
		if (__builtin_add_overflow(end, bufs[i].len, &end) || end > INT64_MAX)
			return false;
	}
	*ret = bytes;
	return true;
}

/* The first `got` bytes are there already. */
static int fetch_plain(struct job *j, uint64_t offset, struct read_buf *bufs, size_t n_bufs,
		       size_t got)
{
	j->range = (struct needle_range){
		.fid = j->chunk->fid,
		.offset = offset,
		.bufs = bufs,
		.n_bufs = n_bufs,
	};
	j->head = bufs[0];
	fetch_advance(j, got);
	int err = fetch_run(j);
	fetch_restore(j);
	return err;
}

static int fetch_encoded(struct job *j, uint64_t offset, const struct read_buf *bufs, size_t n_bufs)
{
	struct decoding dec;
	int err = fetch_decoding_init(&dec, j, offset, bufs, n_bufs);

	if (err)
		return err;
	j->decoding = &dec;
	err = fetch_run(j);
	j->decoding = NULL;
	free(dec.windows);
	return err;
}

/* What the SSD tier has of it, from the front. */
static size_t read_tier(struct fetcher *f, const struct chunk *c, uint64_t offset,
			const struct read_buf *bufs, size_t n_bufs)
{
	int64_t start_ns = now_ns();
	size_t got = f->ssd ? tier_read(f->ssd, c, offset, bufs, n_bufs) : 0;

	if (got == 0)
		return 0;
	count(&f->ssd_counters.reads, 1);
	count(&f->ssd_counters.bytes, got);
	latency_add(&f->ssd_counters.latency, now_ns() - start_ns);
	return got;
}

bool fetch_kept(struct fetcher *f, const struct chunk *c, uint64_t offset, struct read_buf *bufs,
		size_t n_bufs)
{
	size_t bytes;

	return range_bytes(offset, bufs, n_bufs, &bytes) &&
	       read_tier(f, c, offset, bufs, n_bufs) == bytes;
}

int fetch_chunk(struct fetcher *f, const struct chunk *c, uint64_t offset, struct read_buf *bufs,
		size_t n_bufs, struct deadline d)
{
	struct job j = { .f = f, .chunk = c, .deadline = d };

	if (!range_bytes(offset, bufs, n_bufs, &j.missing_bytes))
		return -EIO;
	if (j.missing_bytes == 0)
		return 0;
	size_t got = read_tier(f, c, offset, bufs, n_bufs);
	if (got == j.missing_bytes)
		return 0;
	if (chunk_is_encoded(c))
		return fetch_encoded(&j, offset, bufs, n_bufs);
	return fetch_plain(&j, offset, bufs, n_bufs, got);
}

/* All of it, as much as dec->all_max_bytes. */
static int fetch_all(struct job *j, struct decoding *dec, uint8_t **ret, size_t *ret_len)
{
	j->decoding = dec;
	int err = fetch_run(j);
	if (err) {
		free(dec->whole.ptr);
		return err;
	}
	size_t len = dec->got_bytes;
	uint8_t *fitted = realloc(dec->whole.ptr, len ? len : 1);
	if (fitted)
		dec->whole.ptr = fitted;
	*ret = dec->whole.ptr;
	*ret_len = len;
	return 0;
}

int fetch_manifest(void *fetcher, const struct chunk *manifest, size_t max_bytes, struct deadline d,
		   uint8_t **ret, size_t *ret_len)
{
	struct decoding dec = { .all = true, .all_max_bytes = max_bytes, .plain_limit = max_bytes };
	struct job j = { .f = fetcher, .chunk = manifest, .deadline = d };

	return fetch_all(&j, &dec, ret, ret_len);
}

/* --- needles by themselves --- */

int fetch_needle_range(struct fetcher *f, struct fetch_needle *n, uint64_t offset,
		       struct read_buf *bufs, size_t n_bufs, struct deadline d)
{
	const struct chunk c = { .fid = n->fid };
	struct job j = { .f = f, .chunk = &c, .deadline = d, .needle = n };

	n->ended = false;
	if (!range_bytes(offset, bufs, n_bufs, &j.missing_bytes))
		return -EIO;
	if (j.missing_bytes == 0)
		return 0;
	int err = fetch_plain(&j, offset, bufs, n_bufs, 0);
	n->ended = err == -EIO && j.outcome.ended && !j.outcome.failed;
	return err;
}

int fetch_needle_whole(struct fetcher *f, struct fetch_needle *n, size_t max_bytes,
		       struct deadline d, uint8_t **ret, size_t *ret_len)
{
	const struct chunk c = { .fid = n->fid };
	/* One byte more tells that there are too many. */
	struct decoding dec = { .all = true,
				.all_max_bytes = (uint64_t)max_bytes + 1,
				.plain_limit = DECODE_PLAIN_MAX_BYTES };
	struct job j = { .f = f, .chunk = &c, .deadline = d, .needle = n };
	uint8_t *data;
	size_t len;

	n->ended = false;
	int err = fetch_all(&j, &dec, &data, &len);
	if (err)
		return err;
	if (len > max_bytes) {
		free(data);
		return -EFBIG;
	}
	*ret = data;
	*ret_len = len;
	return 0;
}
