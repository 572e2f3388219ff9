/* Thread model: a fetch runs on its caller's thread with its state on that stack; what fetches share
 * are atomic counters.
 *
 * A fetch goes in passes. A pass tries every source in order, the per-server ones with every replica
 * whose breaker allows it. When a pass has failed, the locations are asked for again. The next pass
 * follows at once if they changed or if servers at rest were left out, after a pause if something
 * failed that may recover, and not at all if every place gave a definite answer. */
#include "fs/fetch.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "cache/ssd.h"
#include "filer/breaker.h"
#include "filer/decode.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "fs/tier.h"

/* Part of the time that is left which one attempt may take while there is an alternative. */
#define SHARE_PERCENT 30
#define SHARE_MIN_MS 100
/* A server at rest must not hold up the read that probes it while another is well. */
#define PROBE_MS 250

#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 1000

#define MS_PER_S 1000
#define NS_PER_MS 1000000

/* A trimmed chunk shows less than its needle holds; this is what servers take by default. */
#define DECODE_PLAIN_MAX_BYTES (256 * MIB)
/* Deflate shrinks no better than that. */
#define GZIP_RATIO_MAX 1032
#define GZIP_MARGIN_BYTES 1024

struct source_counters {
	atomic_uint_fast64_t reads, bytes, failures;
	struct latency latency;
};

struct fetcher {
	struct source sources[FETCH_SOURCES_MAX]; /* immutable, as is all but the counters */
	size_t n_sources;
	struct locator *locator; /* NULL where no source is per server */
	bool verify_md5;
	struct ssd *ssd; /* NULL: none */
	atomic_size_t turn; /* which replica is tried first */
	atomic_uint_fast64_t failed;
	struct source_counters counters[FETCH_SOURCES_MAX];
	struct source_counters ssd_counters;
};

/* A whole needle on its way through the decoder. */
struct decoding {
	struct decode_window *windows;
	size_t n_windows;
	uint64_t want_offset;
	uint64_t want_bytes;
	uint64_t plain_limit;
	struct decoder *decoder; /* of the present attempt */
	bool all; /* is wanted, in a window made to measure */
	uint64_t all_max_bytes; /* ... of at most so many */
	struct decode_window whole;
	uint64_t got_bytes;
};

/* What went wrong in the present pass. */
struct outcome {
	bool absent; /* some place says that it has no such needle */
	bool denied;
	bool broken; /* wrong bytes, or too few */
	bool ended; /* ... the needle ends before the range */
	bool failed; /* something that may recover */
	bool timed_out; /* ... by now only for want of time */
	bool skipped; /* servers at rest were left out */
};

struct job {
	struct fetcher *f;
	const struct chunk *chunk;
	struct deadline deadline;
	struct location_set *set; /* NULL: none */
	int located; /* of the last lookup */
	struct outcome outcome;
	/* Bit i: what the i-th server of the set has did not fit a checksum, as far as anybody could
	 * read it; and of these: its own agent has looked at the disk. */
	uint64_t spoiled, rotten;

	struct decoding *decoding; /* NULL: ranges are read straight into range.bufs */
	struct needle_range range; /* what is still missing */
	size_t missing_bytes;
	struct read_buf head; /* range.bufs[0] as it was before bytes came */
	uint64_t moved_bytes; /* by the present attempt */

	struct fetch_needle *needle; /* NULL: a chunk of an entry */
};

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

static void count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
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

/* --- ranges --- */

/* Takes n bytes off the front of what is missing. The caller's buffers are moved along for that, and
 * put right again when they are full or the fetch ends. */
static void range_advance(struct job *j, size_t n)
{
	struct needle_range *r = &j->range;

	r->offset += n;
	j->missing_bytes -= n;
	while (r->n_bufs > 0 && n >= r->bufs->len) {
		n -= r->bufs->len;
		*r->bufs = j->head;
		r->bufs++;
		r->n_bufs--;
		if (r->n_bufs > 0)
			j->head = *r->bufs;
	}
	if (n > 0) {
		r->bufs->ptr += n;
		r->bufs->len -= n;
	}
}

static void range_restore(struct job *j)
{
	if (j->range.n_bufs > 0)
		*j->range.bufs = j->head;
}

static int attempt_range(struct job *j, const struct source *s, struct server *server,
			 struct deadline d)
{
	j->range.got = 0;
	int err = s->ops->read_range(s->self, server, &j->range, d);
	size_t got = j->range.got;
	if (got > j->missing_bytes || (!err && got < j->missing_bytes))
		return -EPROTO;
	j->moved_bytes = got;
	range_advance(j, got);
	return err;
}

/* --- whole needles --- */

/* Bad data is no fault of the transport: the server is well, and another replica may be right. */
static int decode_err(int err)
{
	return err == -EPROTO ? -EBADMSG : err;
}

/* Memory for all of it: not more than its stored bytes can become. Untouched pages cost nothing. */
static int make_whole_window(struct decoding *dec, bool gzip, int64_t stored_len)
{
	uint64_t bytes = dec->all_max_bytes;

	if (stored_len >= 0 && !gzip)
		bytes = min_u64(bytes, (uint64_t)stored_len);
	else if (stored_len >= 0 && (uint64_t)stored_len < bytes / GZIP_RATIO_MAX)
		bytes = min_u64(bytes, (uint64_t)stored_len * GZIP_RATIO_MAX + GZIP_MARGIN_BYTES);
	free(dec->whole.ptr);
	dec->whole = (struct decode_window){ .ptr = malloc(bytes ? bytes : 1), .len = bytes };
	dec->want_bytes = 0;
	return dec->whole.ptr ? 0 : -ENOMEM;
}

static int decode_begin(void *arg, bool gzip, int64_t stored_len)
{
	struct job *j = arg;
	struct decoding *dec = j->decoding;
	const struct chunk *c = j->chunk;
	struct decode_spec spec = {
		.cipher_key = c->cipher_key,
		/* Under encryption only the entry knows; else what came is what it says it is. */
		.gzip = c->cipher_key ? (c->flags & CHUNK_GZIP) != 0 : gzip,
		.plain_limit = dec->plain_limit,
		.want_offset = dec->want_offset,
		.windows = dec->windows,
		.n_windows = dec->n_windows,
		.md5 = j->f->verify_md5 && (c->flags & CHUNK_HAS_MD5) ? c->md5 : NULL,
	};

	if (c->cipher_key && gzip)
		return -EPROTO; /* nobody compresses what is encrypted */
	if (j->needle)
		j->needle->gzip |= gzip;
	if (dec->all) {
		int err = make_whole_window(dec, spec.gzip, stored_len);
		if (err)
			return err;
		spec.windows = &dec->whole;
		spec.n_windows = 1;
		if (!j->needle)
			spec.plain_limit = dec->whole.len;
	}
	decoder_free(dec->decoder);
	dec->decoder = NULL;
	return decoder_new(&spec, &dec->decoder);
}

static int decode_push(void *arg, const uint8_t *p, size_t n)
{
	struct job *j = arg;

	j->moved_bytes += n;
	return decode_err(decoder_push(j->decoding->decoder, p, n));
}

static int decoding_init(struct decoding *dec, const struct job *j, uint64_t offset,
			 const struct read_buf *bufs, size_t n_bufs)
{
	struct decode_window *windows = calloc(n_bufs, sizeof(*windows));

	if (!windows)
		return -ENOMEM;
	for (size_t i = 0; i < n_bufs; i++)
		windows[i] = (struct decode_window){ .ptr = bufs[i].ptr, .len = bufs[i].len };
	*dec = (struct decoding){
		.windows = windows,
		.n_windows = n_bufs,
		.want_offset = offset,
		.want_bytes = j->missing_bytes,
		.plain_limit = max_u64(j->chunk->size, DECODE_PLAIN_MAX_BYTES),
	};
	return 0;
}

static int attempt_decode(struct job *j, const struct source *s, struct server *server,
			  struct deadline d)
{
	const struct needle_sink sink = { .begin = decode_begin, .push = decode_push, .arg = j };
	struct decoding *dec = j->decoding;

	int err = s->ops->read_whole(s->self, server, &j->chunk->fid, &sink, d);
	if (!err)
		err = dec->decoder ? decode_err(decoder_finish(dec->decoder, &dec->got_bytes))
				   : -EPROTO;
	if (!err && dec->got_bytes < dec->want_bytes)
		err = -ENODATA;
	decoder_free(dec->decoder);
	dec->decoder = NULL;
	return err;
}

/* The rest of a range, from a needle whose entry did not tell that it is stored compressed. */
static int attempt_unpacked(struct job *j, const struct source *s, struct server *server,
			    struct deadline d)
{
	struct decoding dec;
	int err = decoding_init(&dec, j, j->range.offset, j->range.bufs, j->range.n_bufs);

	if (err)
		return err;
	j->decoding = &dec;
	err = attempt_decode(j, s, server, d);
	j->decoding = NULL;
	free(dec.windows);
	if (!err)
		range_advance(j, j->missing_bytes);
	return err;
}

/* --- one attempt --- */

/* Time for one attempt, or for one lookup. */
static struct deadline fair_share(struct deadline d)
{
	uint64_t ms = (uint64_t)deadline_left_ms(d) * SHARE_PERCENT / 100;

	return deadline_sooner(d, (int64_t)max_u64(ms, SHARE_MIN_MS));
}

/* Does the result speak against the server, rather than about the needle, the caller or us? */
static bool is_server_fault(const struct job *j, int err, int64_t elapsed_ms)
{
	switch (-err) {
	case 0:
	case ENOENT:
	case ENODATA:
	case EACCES:
	case EBUSY:
	case EBADMSG:
	case EUCLEAN:
	case EOPNOTSUPP:
	case ENOMEM:
		return false;
	case ETIMEDOUT:
		/* Our share of time was over, but bytes were coming. */
		return j->moved_bytes * MS_PER_S < (uint64_t)elapsed_ms * HTTP_STALL_BYTES_PER_S;
	default:
		return true;
	}
}

static void note_outcome(struct outcome *o, int err)
{
	switch (-err) {
	case EOPNOTSUPP:
		return;
	case ENOENT:
		o->absent = true;
		return;
	case EACCES:
		o->denied = true;
		return;
	case ENODATA:
		o->ended = true;
		o->broken = true;
		return;
	case EBADMSG:
	case EUCLEAN:
	case EPROTO:
		o->broken = true;
		return;
	default:
		o->timed_out = err == -ETIMEDOUT && (o->timed_out || !o->failed);
		o->failed = true;
	}
}

static uint64_t server_bit(const struct job *j, const struct server *server)
{
	for (size_t i = 0; j->set && i < j->set->n; i++)
		if (j->set->servers[i] == server)
			return UINT64_C(1) << i;
	return 0;
}

static void note_copy(struct job *j, const struct server *server, int err)
{
	uint64_t bit = server_bit(j, server);

	switch (-err) {
	case EUCLEAN:
		j->rotten |= bit;
		j->spoiled |= bit;
		break;
	case EBADMSG:
		j->spoiled |= bit;
		break;
	case EIO: /* which is what a volume server makes of it */
	case EOPNOTSUPP:
		break;
	default:
		/* Not answered at all: the bytes may have been spoiled on their way. */
		j->spoiled &= ~bit | j->rotten;
	}
}

static bool all_are_spoiled(const struct job *j)
{
	return j->set && j->set->n > 0 && (size_t)__builtin_popcountll(j->spoiled) == j->set->n;
}

static void note_counters(struct job *j, const struct source *s, struct server *server, int err,
			  bool fault, int64_t elapsed_ns)
{
	struct source_counters *c = &j->f->counters[s - j->f->sources];

	if (err != -EOPNOTSUPP)
		count(err ? &c->failures : &c->reads, 1);
	if (!err)
		latency_add(&c->latency, elapsed_ns);
	count(&c->bytes, j->moved_bytes);
	if (!server)
		return;
	if (!err)
		count(&server->reads, 1);
	else if (fault)
		count(&server->failures, 1);
	count(&server->bytes, j->moved_bytes);
}

/* What this attempt told of a needle that no entry describes. */
static void note_needle(struct job *j, const struct source *s, int err)
{
	struct fetch_needle *n = j->needle;

	if (!n)
		return;
	n->gzip |= j->range.gzip;
	if (j->range.plain_bytes)
		n->plain_bytes = j->range.plain_bytes;
	if (!err)
		n->source = s->ops->name;
}

static int attempt(struct job *j, const struct source *s, struct server *server, struct deadline d)
{
	struct breaker *b = server && s->ops->breaker ? s->ops->breaker(server) : NULL;
	int64_t start_ns = now_ns();

	j->moved_bytes = 0;
	int err = j->decoding ? attempt_decode(j, s, server, d) : attempt_range(j, s, server, d);
	if (err == -EMEDIUMTYPE)
		err = attempt_unpacked(j, s, server, d);
	int64_t elapsed_ns = now_ns() - start_ns;
	bool fault = is_server_fault(j, err, elapsed_ns / NS_PER_MS);
	if (b && fault)
		breaker_failure(b);
	else if (b && err != -EOPNOTSUPP && err != -ENOMEM)
		breaker_success(b);
	note_counters(j, s, server, err, fault, elapsed_ns);
	note_needle(j, s, err);
	if (err)
		note_outcome(&j->outcome, err);
	note_copy(j, server, err);
	return err;
}

/* --- one pass --- */

/* No use going on? */
static bool is_final(const struct job *j, int err)
{
	return err == 0 || err == -ENOMEM || deadline_passed(j->deadline);
}

/* One replica, if its breaker lets us. *tried tells whether it did. */
static int try_server(struct job *j, const struct source *s, struct server *server,
		      bool alternative, bool *tried)
{
	struct breaker *b = s->ops->breaker ? s->ops->breaker(server) : NULL;
	struct deadline d = alternative ? fair_share(j->deadline) : j->deadline;

	*tried = true;
	/* What reads the same disk without looking at checksums would find nothing wrong with it. */
	if (server_bit(j, server) & j->rotten) {
		j->outcome.broken = true;
		return -EUCLEAN;
	}
	if (b && breaker_state(b) != BREAKER_CLOSED) {
		*tried = breaker_allow(b);
		if (!*tried)
			return -EOPNOTSUPP;
		if (alternative)
			d = deadline_sooner(d, PROBE_MS);
	}
	return attempt(j, s, server, d);
}

/* The replica that is tried first. */
static size_t first_replica(const struct job *j)
{
	const struct location_set *set = j->set;

	for (size_t i = 0; j->needle && j->needle->first && i < set->n; i++)
		if (set->servers[i] == j->needle->first)
			return i;
	return atomic_fetch_add_explicit(&j->f->turn, 1, memory_order_relaxed);
}

/* Every replica, from another one each time; those at rest come last, and only when the caller has
 * found nothing else (desperate). more: other sources come after this one. */
static int try_replicas(struct job *j, const struct source *s, bool desperate, bool more)
{
	const struct location_set *set = j->set;
	size_t start = first_replica(j);
	uint64_t resting = 0; /* bit i: the i-th from start */
	int err = -EOPNOTSUPP;

	_Static_assert(LOCATE_REPLICAS_MAX <= 64, "a bit for every replica");
	for (size_t i = 0; i < set->n; i++) {
		struct server *server = set->servers[(start + i) % set->n];
		bool alternative = more || i + 1 < set->n || resting;
		bool tried;

		err = try_server(j, s, server, alternative, &tried);
		if (!tried)
			resting |= UINT64_C(1) << i;
		if (is_final(j, err))
			return err;
	}
	if (!desperate) {
		j->outcome.skipped |= resting != 0;
		return err;
	}
	for (size_t i = 0; resting; i++, resting >>= 1) {
		bool alternative = more || resting > 1;

		if (!(resting & 1))
			continue;
		err = attempt(j, s, set->servers[(start + i) % set->n],
			      alternative ? fair_share(j->deadline) : j->deadline);
		if (is_final(j, err))
			return err;
	}
	return err;
}

static int try_sources(struct job *j, bool desperate)
{
	struct fetcher *f = j->f;
	int err = -EIO;

	j->outcome = (struct outcome){ 0 };
	for (size_t i = 0; i < f->n_sources; i++) {
		const struct source *s = &f->sources[i];
		bool more = i + 1 < f->n_sources;

		/* The proxy does not say which replica it reads. */
		if (!s->per_server && j->rotten)
			continue;
		if (!s->per_server)
			err = attempt(j, s, NULL, more ? fair_share(j->deadline) : j->deadline);
		else if (j->set && j->set->n > 0)
			err = try_replicas(j, s, desperate, more);
		else
			continue;
		if (is_final(j, err))
			return err;
	}
	return err;
}

/* --- all passes --- */

/* Replaces the set. True if it is another one than before. */
static bool locate(struct job *j, bool refresh)
{
	struct location_set *old = j->set;
	struct location_set *fresh = NULL;

	if (j->needle && j->needle->places) {
		j->set = j->needle->places;
		return false;
	}
	if (!j->f->locator) {
		j->located = -ENXIO;
		return false;
	}
	j->located = locate_volume(j->f->locator, j->chunk->fid.volume_id, refresh,
				   fair_share(j->deadline), &fresh);
	if (j->located && j->located != -ENOENT)
		return false; /* no news: the old set, if there is one, is as good as before */
	if (fresh != old)
		j->spoiled = j->rotten = 0;
	j->set = fresh;
	location_set_put(old);
	return fresh != old;
}

/* May the next pass fare better although nothing is known to have changed? */
static bool may_recover(const struct job *j)
{
	if (all_are_spoiled(j))
		return false;
	if (j->outcome.failed)
		return true;
	if (j->located == -ENXIO)
		return false;
	/* A volume that no server has any more, or whose only server is being restarted: the master
	 * says the same. So it is gone only if a place that was asked for the needle says so too. */
	bool nowhere = j->located == -ENOENT || (!j->located && j->set->n == 0);
	return (nowhere && !j->outcome.absent) || (!nowhere && j->located);
}

static int result(const struct job *j)
{
	const struct outcome *o = &j->outcome;

	if (may_recover(j))
		return o->timed_out ? -ETIMEDOUT : -EIO;
	if (o->denied)
		return -EACCES;
	return o->absent && !o->broken ? -ENOENT : -EIO;
}

static int run(struct job *j)
{
	int64_t pause_ms = PAUSE_MIN_MS;
	bool desperate = false;
	int err;

	if (deadline_passed(j->deadline))
		return -ETIMEDOUT;
	locate(j, false);
	for (;;) {
		err = try_sources(j, desperate);
		if (is_final(j, err))
			break;
		bool again = locate(j, true) || (j->outcome.skipped && !desperate);
		desperate = true;
		if (again)
			continue;
		if (!may_recover(j))
			break;
		sleep_ms(jitter_ms(pause_ms), j->deadline);
		if (deadline_passed(j->deadline))
			break;
		pause_ms = (int64_t)min_u64((uint64_t)pause_ms * 2, PAUSE_MAX_MS);
	}
	if (!j->needle || j->set != j->needle->places)
		location_set_put(j->set);
	if (err && err != -ENOMEM)
		err = result(j);
	if (err)
		count(&j->f->failed, 1);
	return err;
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
	range_advance(j, got);
	int err = run(j);
	range_restore(j);
	return err;
}

static int fetch_encoded(struct job *j, uint64_t offset, const struct read_buf *bufs, size_t n_bufs)
{
	struct decoding dec;
	int err = decoding_init(&dec, j, offset, bufs, n_bufs);

	if (err)
		return err;
	j->decoding = &dec;
	err = run(j);
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

/* --- many small ones at once --- */

/* Several needles on their way to where each of them goes. */
struct batch {
	struct fetcher *f;
	const struct source *source;
	struct server *server;
	bool away; /* the server does not answer */
	void (*done)(void *arg, struct needle_item *item);
	void *arg;
};

static void batch_item_done(void *arg, struct needle_item *item)
{
	struct batch *b = arg;
	struct source_counters *c = &b->f->counters[b->source - b->f->sources];

	if (item->err == -EOPNOTSUPP)
		return; /* the next source may have something to say */
	b->away |= item->err == -ETIMEDOUT || item->err == -ECONNREFUSED ||
		   item->err == -EHOSTUNREACH;
	count(item->err ? &c->failures : &c->reads, 1);
	count(&c->bytes, item->range.got);
	if (!item->err)
		count(&b->server->reads, 1);
	count(&b->server->bytes, item->range.got);
	b->done(b->arg, item);
}

/* Which server to ask for the item; NULL: none that is well. */
static struct server *server_for(const struct source *s, const struct location_set *set,
				 size_t turn)
{
	for (size_t i = 0; set && i < set->n; i++) {
		struct server *server = set->servers[(turn + i) % set->n];
		struct breaker *b = s->ops->breaker ? s->ops->breaker(server) : NULL;

		if (!b || breaker_state(b) == BREAKER_CLOSED)
			return server;
	}
	return NULL;
}

/* Offers the items that nobody has tried yet to one source, server by server. */
static void batch_try(struct batch *b, struct needle_item *items, struct location_set *const *sets,
		      size_t n, struct deadline d)
{
	const struct source *s = b->source;
	size_t turn = atomic_fetch_add_explicit(&b->f->turn, 1, memory_order_relaxed);
	bool offered[FETCH_BATCH_MAX] = { false };

	for (size_t i = 0; i < n; i++) {
		struct needle_item *group[NEEDLE_ITEMS_MAX];
		size_t n_group = 0;

		b->server = server_for(s, sets[i], turn);
		for (size_t k = i; b->server && k < n && n_group < NEEDLE_ITEMS_MAX; k++) {
			if (offered[k] || items[k].err != -EOPNOTSUPP ||
			    server_for(s, sets[k], turn) != b->server)
				continue;
			offered[k] = true;
			group[n_group++] = &items[k];
		}
		if (n_group == 0)
			continue;
		if (deadline_passed(d))
			return; /* that says nothing of this server */
		b->away = false;
		s->ops->read_many(s->self, b->server, group, n_group, batch_item_done, b, d);
		if (b->away && s->ops->breaker)
			breaker_failure(s->ops->breaker(b->server));
	}
}

void fetch_batch(struct fetcher *f, struct needle_item *items, size_t n,
		 void (*done)(void *arg, struct needle_item *item), void *arg, struct deadline d)
{
	struct batch b = { .f = f, .done = done, .arg = arg };
	struct location_set *sets[FETCH_BATCH_MAX] = { NULL };

	for (size_t i = 0; i < n; i++) {
		items[i].err = -EOPNOTSUPP;
		if (f->locator && locate_volume(f->locator, items[i].range.fid.volume_id, false,
						fair_share(d), &sets[i]))
			sets[i] = NULL;
	}
	for (size_t i = 0; i < f->n_sources; i++) {
		b.source = &f->sources[i];
		if (b.source->per_server && b.source->ops->read_many)
			batch_try(&b, items, sets, n, d);
	}
	for (size_t i = 0; i < n; i++) {
		location_set_put(sets[i]);
		if (items[i].err == -EOPNOTSUPP)
			done(arg, &items[i]);
	}
}

/* All of it, as much as dec->all_max_bytes. */
static int fetch_all(struct job *j, struct decoding *dec, uint8_t **ret, size_t *ret_len)
{
	j->decoding = dec;
	int err = run(j);
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
