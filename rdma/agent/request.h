/* One read of a client, from its message to the last byte of its answer. Used by the session alone,
 * and by its thread alone. */
#ifndef KELP_REQUEST_H
#define KELP_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/agent/check.h"
#include "rdma/agent/disk.h"
#include "rdma/agent/lease.h"
#include "rdma/agent/store.h"
#include "rdma/agent/transport.h"
#include "rdma/wire.h"

/* So much of a record's end is read together with its start. Tails are longer only where a name, a
 * type or headers of an upload are long. */
#define TAIL_GUESS_BYTES 256

struct request;

/* What requests need of their session. */
struct request_host {
	struct agent *agent;
	struct disk *disk;
	const struct transport *transport;
	struct connection *connection;
	bool authorised; /* by the hello's token: extents need none */
	bool lost; /* the connection is gone */
	size_t inline_bytes_max; /* of one answer, where answers do not follow in a stream */
	struct leases leases;
	/* A request is REQUEST_OVER: may be freed or started again. */
	void (*over)(struct request *r);
};

enum piece_state {
	PIECE_NEW,
	PIECE_READING, /* the record, or its head and tail, and perhaps a range of its data */
	PIECE_READING_TAIL, /* again: longer than guessed */
	PIECE_CHECKING, /* all of the needle, of which a part is wanted */
	PIECE_DONE, /* the result is set */
};

/* How an extent's bytes get to the client. */
enum piece_way {
	WAY_RECORD, /* the whole record is read into memory */
	WAY_RANGE, /* the range is read into memory */
	WAY_FILE, /* from the page cache to the stream */
};

/* One extent. */
struct piece {
	struct request *request;
	enum piece_state state;
	enum piece_way way;
	bool pinned;
	bool lease; /* in memory of its own, to be pulled */
	bool without_tail; /* what it says is remembered */
	unsigned pending; /* disk reads */
	int error; /* of a disk read */
	struct wire_extent extent; /* its token is gone */
	struct needle_place place;
	struct needle_info info;
	uint64_t record_bytes;
	size_t memory_bytes; /* that it needs: record or range */
	uint8_t *memory; /* in staged, or in the request's block */
	struct staged staged; /* of a lease */
	struct staged long_tail;
	struct disk_read reads[3];
	struct check check;
	uint8_t head[STORE_HEADER_BYTES];
	uint8_t tail[TAIL_GUESS_BYTES];
};

enum request_state {
	REQUEST_OVER, /* or new */
	REQUEST_READING, /* at least one piece is not done */
	REQUEST_ANSWERING, /* the transport has the answer */
};

struct request {
	struct request_host *host;
	enum request_state state;
	uint64_t xid;
	size_t pieces_max;
	size_t n_pieces;
	size_t pieces_left;
	struct staged block; /* what all answers in memory share, but for leases */
	struct output out;
	struct wire_read_reply reply;
	struct request *next; /* the session's */
	struct piece pieces[];
};

/* Returns NULL without memory. */
struct request *request_new(struct request_host *host, size_t pieces_max);
void request_free(struct request *r);

/* Starts to work on m, of at most pieces_max extents. host->over() may be called before it returns. */
void request_start(struct request *r, uint64_t xid, const struct wire_read *m);

#endif
