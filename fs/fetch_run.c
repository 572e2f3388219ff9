/* Thread model: see fs/fetch.c.
 *
 * A fetch goes in passes. A pass tries every source in order, the per-server ones with every replica
 * whose breaker allows it. When a pass has failed, the locations are asked for again. The next pass
 * follows at once if they changed or if servers at rest were left out, after a pause if something
 * failed that may recover, and not at all if every place gave a definite answer. */
#include "fs/fetch_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/breaker.h"
#include "filer/decode.h"
#include "filer/http.h"
#include "filer/locate.h"

/* A server at rest must not hold up the read that probes it while another is well. */
#define PROBE_MS 250

#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 1000

#define MS_PER_S 1000
#define NS_PER_MS 1000000

/* Deflate shrinks no better than that. */
#define GZIP_RATIO_MAX 1032
#define GZIP_MARGIN_BYTES 1024

/* --- ranges --- */

void fetch_advance(struct job *j, size_t n)
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

void fetch_restore(struct job *j)
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
	fetch_advance(j, got);
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

/* Nothing of what was there is read any more when it is asked for again. */
static size_t decode_room(void *arg, size_t bytes, const struct read_buf **ret)
{
	struct job *j = arg;
	struct scratch *scratch = j->f->scratch;
	struct decoding *dec = j->decoding;

	if (!scratch)
		return 0;
	scratch_give(scratch, &dec->room);
	if (scratch_take(scratch, bytes, &dec->room))
		return 0;
	for (size_t i = 0; i < dec->room.n; i++) {
		const struct slab_buf *piece = &dec->room.piece[i];
		size_t len = min_u64(bytes, piece->size);

		dec->room_bufs[i] = (struct read_buf){ .ptr = piece->ptr,
						       .len = len,
						       .region = SLAB_REGION };
		bytes -= len;
	}
	*ret = dec->room_bufs;
	return dec->room.n;
}

int fetch_decoding_init(struct decoding *dec, const struct job *j, uint64_t offset,
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
	const struct needle_sink sink = {
		.begin = decode_begin, .push = decode_push, .arg = j, .room = decode_room
	};
	struct decoding *dec = j->decoding;

	int err = s->ops->read_whole(s->self, server, &j->chunk->fid, &sink, d);
	if (!err)
		err = dec->decoder ? decode_err(decoder_finish(dec->decoder, &dec->got_bytes))
				   : -EPROTO;
	if (!err && dec->got_bytes < dec->want_bytes)
		err = -ENODATA;
	decoder_free(dec->decoder);
	dec->decoder = NULL;
	if (j->f->scratch)
		scratch_give(j->f->scratch, &dec->room);
	return err;
}

/* The rest of a range, from a needle whose entry did not tell that it is stored compressed. */
static int attempt_unpacked(struct job *j, const struct source *s, struct server *server,
			    struct deadline d)
{
	struct decoding dec;
	int err = fetch_decoding_init(&dec, j, j->range.offset, j->range.bufs, j->range.n_bufs);

	if (err)
		return err;
	j->decoding = &dec;
	err = attempt_decode(j, s, server, d);
	j->decoding = NULL;
	free(dec.windows);
	if (!err)
		fetch_advance(j, j->missing_bytes);
	return err;
}

/* --- one attempt --- */

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
	struct deadline d = alternative ? fetch_share(j->deadline) : j->deadline;

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
			      alternative ? fetch_share(j->deadline) : j->deadline);
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
			err = attempt(j, s, NULL, more ? fetch_share(j->deadline) : j->deadline);
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
				   fetch_share(j->deadline), &fresh);
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

int fetch_run(struct job *j)
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
