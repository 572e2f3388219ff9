/* What an open file's reader will want next, judged from what it has asked for.
 *
 * Pure arithmetic: no threads, no input or output; the caller serializes the calls for one file.
 * Several streams in one file are told apart, each going forward, backward or in even strides.
 * Requests may come out of order, as the kernel's own read-ahead sends them. A random reader gets
 * nothing fetched that it did not ask for. */
#ifndef KELP_READAHEAD_H
#define KELP_READAHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define READAHEAD_STREAMS 8
#define READAHEAD_RANGES_MAX 4
#define READAHEAD_HISTORY 8
#define READAHEAD_FIRST_BYTES ((uint64_t)256 << 10) /* while only hoped to be sequential */
#define READAHEAD_START_BYTES ((uint64_t)512 << 10) /* once it is */
/* A long window ends at multiples of that, which is how long most writers make their chunks: whoever asks
 * for a whole one gets it with the checksum that is stored, where a part has to be summed up, and the chunk
 * to be checked, before it is served. */
#define READAHEAD_UNIT_BYTES ((uint64_t)4 << 20)
#define READAHEAD_TOLERANCE_BYTES ((uint64_t)4 << 20) /* farthest from the frontier */

enum stream_kind {
	STREAM_UNUSED,
	STREAM_NEW, /* seen once or irregular: foretells nothing */
	STREAM_FORWARD,
	STREAM_BACKWARD,
	STREAM_STRIDED,
};

struct readahead_stream {
	enum stream_kind kind;
	uint64_t low, high; /* the bytes asked for last lie between; high is the frontier forward */
	uint64_t ahead; /* FORWARD: planned up to here; BACKWARD: down to here; STRIDED: next one */
	uint64_t grow_at; /* when the frontier gets there, the window doubles */
	uint64_t window; /* bytes beyond the frontier */
	uint64_t skipped; /* bytes of the way that were not asked for, beyond what is tolerated */
	uint64_t stalled; /* bytes asked for without getting any further */
	uint64_t used_at; /* tick of the last request */
	int64_t stride;
	uint64_t len; /* of the last request */
	unsigned score; /* how sure: sequential from SCORE_SURE on */
	bool first_at_zero;
};

struct readahead {
	struct readahead_stream streams[READAHEAD_STREAMS];
	struct {
		uint64_t offset, len;
	} history[READAHEAD_HISTORY]; /* of requests that belonged to no stream */
	unsigned history_next;
	uint64_t tick;
};

struct readahead_limits {
	uint64_t file_bytes;
	uint64_t window_max; /* 0: read ahead nothing */
	uint64_t block_bytes; /* the unit of fetching */
};

struct readahead_range {
	uint64_t offset, len;
};

struct readahead_plan {
	bool sequential; /* whole blocks are worth fetching for this request */
	size_t n_ranges; /* to be fetched in the background, most urgent first */
	struct readahead_range ranges[READAHEAD_RANGES_MAX];
};

void readahead_init(struct readahead *ra);

/* Takes note of a request and says what to do about it. len > 0; the range lies within the file. */
void readahead_note(struct readahead *ra, const struct readahead_limits *lim, uint64_t offset,
		    uint64_t len, struct readahead_plan *ret);

/* Streams that read ahead and have not come to their end: among them memory is divided. */
unsigned readahead_active(const struct readahead *ra);

#endif
