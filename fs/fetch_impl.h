/* What the files of a fetch share; nobody else includes it. fs/fetch.c has what callers ask for, fs/fetch_run.c
 * the passes over all sources, fs/fetch_batch.c many small needles at once. */
#ifndef KELP_FETCH_IMPL_H
#define KELP_FETCH_IMPL_H

#include <stdatomic.h>

#include "cache/scratch.h"
#include "filer/base/base.h"
#include "filer/decode.h"
#include "fs/fetch.h"

/* A trimmed chunk shows less than its needle holds; this is what servers take by default. */
#define DECODE_PLAIN_MAX_BYTES (256 * MIB)

/* Part of the time that is left which one attempt may take while there is an alternative. */
#define SHARE_PERCENT 30
#define SHARE_MIN_MS 100

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
	struct scratch *scratch; /* NULL: none */
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
	/* Where the source has the stored bytes in the present attempt. */
	struct scratch_room room;
	struct read_buf room_bufs[SCRATCH_PIECES_MAX];
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

static inline void count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Time for one attempt, or for one lookup. */
static inline struct deadline fetch_share(struct deadline d)
{
	uint64_t ms = (uint64_t)deadline_left_ms(d) * SHARE_PERCENT / 100;

	return deadline_sooner(d, (int64_t)max_u64(ms, SHARE_MIN_MS));
}

/* Tries until all is there, nothing is left to try, or time is over. Returns 0 or -errno, as fetch.h says. */
int fetch_run(struct job *j);

/* Takes n bytes off the front of what is missing. The caller's buffers are moved along for that, and
 * put right again when they are full or the fetch ends. */
void fetch_advance(struct job *j, size_t n);
void fetch_restore(struct job *j);

/* For what is missing of j. Free dec->windows. Returns 0 or -ENOMEM. */
int fetch_decoding_init(struct decoding *dec, const struct job *j, uint64_t offset,
			const struct read_buf *bufs, size_t n_bufs);

#endif
