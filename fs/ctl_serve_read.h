/* The bytes that kelpctl serve answers with.
 *
 * A small range is read at once. A whole needle of up to SERVE_WHOLE_BYTES_MAX too, for then it is checked
 * against its checksum before anything is sent. What is larger comes in blocks, each read when the one before
 * has been taken, so that it holds one block of memory however large it is. What is stored compressed is
 * decoded whole. All of that memory comes from one allowance; a read waits until its part is free. */
#ifndef KELP_CTL_SERVE_READ_H
#define KELP_CTL_SERVE_READ_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cache/slab.h"
#include "filer/base/base.h"
#include "fs/ctl_serve_request.h"
#include "fs/fetch.h"

#define SERVE_BLOCK_BYTES (1 * MIB)
#define SERVE_WHOLE_BYTES_MAX (8 * MIB)

struct locator;
struct location_set;

/* Where reads go, and what they may take. */
struct serve_reader {
	struct fetcher *fetcher;
	struct locator *locator;
	struct slab *slab; /* where blocks lie, while it has room */
	bool any_server; /* take every address that a request names */
	struct location_set *fixed; /* the volume server that has every needle; NULL: none */
	unsigned timeout_ms; /* of one read from the cluster */
	uint64_t decode_bytes_max; /* largest needle that is decoded */

	pthread_mutex_t lock; /* protects free_bytes */
	pthread_cond_t freed;
	uint64_t free_bytes;
};

/* memory_bytes: the allowance; at least what the largest read takes. The other fields are the caller's.
 * Returns 0 or -errno. */
int serve_reader_init(struct serve_reader *r, uint64_t memory_bytes);
void serve_reader_destroy(struct serve_reader *r);

/* Of the allowance, now. */
uint64_t serve_reader_free_bytes(struct serve_reader *r);

/* A read under way, of one thread at a time. */
struct serve_read {
	struct serve_reader *reader;
	struct fetch_needle needle; /* source: where the bytes came from */
	struct location_set *places; /* owned; NULL: none */
	uint64_t offset; /* in the needle */
	uint64_t len; /* of the answer */
	uint8_t *data; /* what has been read of it: in block, or malloced */
	struct slab_buf block; /* ptr NULL: none */
	uint64_t data_pos; /* in the answer */
	size_t data_len;
	size_t data_offset; /* in data, where the answer begins: of what was decoded whole */
	uint64_t taken_bytes; /* of the allowance */
	bool complete; /* data is all of the answer */
};

/* Finds the needle and reads the first block of what is asked for. Returns 0, or
 *   -EINVAL   volume_server is none of that volume
 *   -ENOENT   no such needle, or volume
 *   -ERANGE   the needle ends before the range does
 *   -EFBIG    stored compressed, and too large to be decoded
 *   -EBUSY    no memory for it in time
 *   -EACCES, -ETIMEDOUT, -EIO, -ENOMEM */
int serve_read_open(struct serve_reader *r, const struct serve_request *q, struct serve_read *ret);
void serve_read_close(struct serve_read *s);

/* Up to max bytes from pos on, in order. Returns how many, or -errno. */
ssize_t serve_read_next(struct serve_read *s, uint64_t pos, uint8_t *buf, size_t max);

#endif
