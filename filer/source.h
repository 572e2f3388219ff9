/* A source of needle bytes: the one interface behind which an RDMA agent, a TCP agent, a volume
 * server's HTTP and the filer's proxy all stand.
 *
 * Destination-passing: the caller gives memory (and, for sources that need it, the key under which
 * that memory is registered) and the source fills it. Bytes are the STORED bytes of the needle; who
 * asks decodes (filer/decode.h). The order in which sources are tried lives in fs/fetch*.c and
 * nowhere else. */
#ifndef KELP_SOURCE_H
#define KELP_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/fid.h"

struct server; /* filer/locate.h */
struct breaker; /* filer/breaker.h */

/* Memory a source may write to. region: handle of the registered region it lies in (cache/slab.h),
 * MEM_UNREGISTERED for ordinary memory. */
#define MEM_UNREGISTERED 0u
struct read_buf {
	uint8_t *ptr;
	size_t len;
	uint32_t region;
};

/* A range of one needle's stored bytes, scattered over bufs in order. */
struct needle_range {
	struct fid fid;
	uint64_t offset;
	struct read_buf *bufs;
	size_t n_bufs;
	/* Out: bytes delivered, in order, from offset on; also set on failure, so that the next
	 * source can go on from there. */
	size_t got;
	/* Out: what the server said of the needle on the way; false and 0 where it said nothing. Sources
	 * only ever add to it. */
	bool gzip; /* it is stored compressed */
	uint64_t plain_bytes; /* its whole length, not compressed */
};

/* A whole needle, of a length that only its server knows. */
struct needle_sink {
	/* Called once before the first bytes: gzip says whether the bytes that follow are the gzip
	 * stream (else they are already plain). Non-zero aborts the read and becomes its result. */
	int (*begin)(void *arg, bool gzip, int64_t stored_len);
	int (*push)(void *arg, const uint8_t *p, size_t n);
	void *arg;
	/* Memory in which a source may gather that many bytes before it pushes them: *ret bufs, of just so
	 * many bytes together, which are the source's until its call returns or asks again (once for each
	 * try). Returns how many bufs; 0: there is none. Quick. NULL: likewise. Then a source that cannot do
	 * without takes memory of its own. */
	size_t (*room)(void *arg, size_t bytes, const struct read_buf **ret);
};

/* One of several reads. */
struct needle_item {
	struct needle_range range;
	int err; /* out */
};

/* Results of both reads:
 *   0            all bytes delivered and, where a checksum was at hand, verified
 *   -ENOENT      this server has no such needle (unknown, deleted, wrong cookie)
 *   -ENODATA     the needle ends before the range does
 *   -EMEDIUMTYPE a range of what is stored compressed: only all of it can be read here
 *   -EACCES      not authorised
 *   -EBUSY       the server asks for a pause (429)
 *   -EBADMSG     a checksum does not match
 *   -EUCLEAN     the server's stored copy does not fit its checksum: no source has it right there
 *   -EPROTO      an answer that no such server gives
 *   -EIO         the server failed (5xx, truncated body)
 *   -EOPNOTSUPP  this source cannot serve that at all; costs nothing
 *   -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EHOSTUNREACH ...: as the network says
 *   or what the sink returned. */
#define NEEDLE_ITEMS_MAX 16

struct source_ops {
	/* Label in logs, metrics and the X-Source header. */
	const char *name;

	/* Reads a range. server is NULL for sources that stand for no single server (the proxy).
	 * Blocking; must be over by d. Thread-safe. */
	int (*read_range)(void *self, struct server *server, struct needle_range *r,
			  struct deadline d);

	/* Reads the whole needle through the sink. Likewise. */
	int (*read_whole)(void *self, struct server *server, const struct fid *fid,
			  const struct needle_sink *sink, struct deadline d);

	/* Reads up to NEEDLE_ITEMS_MAX ranges of needles of one server together, each tried once: who needs
	 * one that failed asks for it alone. done is called once for each, as soon as its err is known.
	 * Likewise. NULL: not offered. */
	void (*read_many)(void *self, struct server *server, struct needle_item *const *items,
			  size_t n, void (*done)(void *arg, struct needle_item *item), void *arg,
			  struct deadline d);

	/* The breaker that rests that server for this source. NULL: the source has none, or minds
	 * its own behind -EOPNOTSUPP. */
	struct breaker *(*breaker)(struct server *server);
};

struct source {
	const struct source_ops *ops;
	void *self;
	bool per_server; /* tried once for every replica, else once for the needle */
};

#endif
