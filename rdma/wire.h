/* The wire format between kelpfs and kelpd (docs/protocol.md), version 1.
 *
 * Little-endian, fixed width, the same over every transport. A message is a header and a payload of
 * header.length bytes. Over a stream (TCP) the data bytes of a read's answer follow its message; over
 * verbs they are in the payload (inline) or pulled by the client (lease).
 *
 * Encoders write into a buffer that the caller gives; decoders check every length and count before
 * use and are pure. Encoders return 0 or -EMSGSIZE (too many, too long, buffer too small), decoders 0
 * or -EPROTO; out-parameters are untouched on failure. */
#ifndef KELP_RDMA_WIRE_H
#define KELP_RDMA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/fid.h"

#define WIRE_MAGIC UINT32_C(0x504c454b) /* "KELP" */
#define WIRE_VERSION 1

#define WIRE_PORT 18515

/* Limits that both sides know without being told. */
#define WIRE_MESSAGE_BYTES_MAX ((size_t)16 << 10) /* header and payload, without stream data */
#define WIRE_EXTENTS_MAX 16 /* of one read */
#define WIRE_COMPLETES_MAX 64 /* leases given back in one message */
#define WIRE_TOKEN_BYTES_MAX 1024
#define WIRE_ADDRESSES_MAX 8
#define WIRE_TEXT_BYTES_MAX 255
#define WIRE_EXTENT_BYTES_MAX ((uint64_t)256 << 20) /* of one extent */

enum wire_type {
	WIRE_HELLO = 1, /* client: first message of a connection */
	WIRE_HELLO_REPLY = 2, /* agent */
	WIRE_READ = 3, /* client; also gives leases back */
	WIRE_READ_REPLY = 4, /* agent */
	WIRE_COMPLETE = 5, /* client: gives leases back */
	WIRE_PING = 6, /* either side */
	WIRE_PONG = 7,
	WIRE_CREDIT = 8, /* either side: only the header's credits */
	WIRE_GOODBYE = 9, /* either side, then close: a reason */
};

/* What went wrong, for one extent, for a hello, or for the connection. */
enum wire_status {
	WIRE_OK = 0,
	WIRE_NOT_FOUND = 1, /* no such needle (unknown, deleted, expired, wrong cookie) */
	WIRE_NOT_SERVED = 2, /* this agent cannot serve it: ask the volume server */
	WIRE_RANGE = 3, /* the needle ends before the extent does */
	WIRE_DENIED = 4, /* token missing, wrong or out of date */
	WIRE_BUSY = 5, /* no staging memory now */
	WIRE_IO = 6, /* the disk failed, or the record does not hang together */
	WIRE_MALFORMED = 7, /* the peer broke the protocol */
	WIRE_VERSION_REFUSED = 8,
	WIRE_EXHAUSTED = 9, /* connection limit reached */
	WIRE_SHUTDOWN = 10, /* the agent ends */
	WIRE_IDLE = 11, /* closed for having been idle */
	WIRE_CORRUPT = 12, /* what is stored does not fit its checksum: ask another replica */
	WIRE_STATUS_MAX = 12,
};

const char *wire_status_text(enum wire_status s);
/* The errno of filer/source.h for a status, 0 for WIRE_OK. */
int wire_status_errno(enum wire_status s);

struct wire_header {
	uint8_t type; /* enum wire_type */
	uint8_t version;
	uint16_t credits; /* reads that the receiver may send more than before */
	uint32_t length; /* of the payload */
	uint64_t xid; /* of a request, echoed by its answer; 0 otherwise */
};
#define WIRE_HEADER_BYTES 24

/* What an agent or a client can do. */
enum wire_capability {
	WIRE_CAP_INLINE = 1 << 0, /* answers inside the reply message */
	WIRE_CAP_LEASE = 1 << 1, /* RDMA READ of leased staging memory */
	WIRE_CAP_STREAM = 1 << 2, /* answers behind the reply message in the stream */
};

struct wire_hello {
	uint8_t version_min, version_max;
	uint32_t capabilities;
	uint32_t inline_bytes_max; /* largest inline answer the client takes */
	const char *token; /* of the connection: signed with the volume read key; into the buffer */
	size_t token_len;
};

/* Where the agent listens for verbs connections. */
struct wire_address {
	char host[64]; /* numeric */
	uint16_t port;
};

struct wire_hello_reply {
	uint8_t status; /* enum wire_status */
	uint8_t version;
	bool token_needed; /* every extent must carry a token unless the hello did */
	uint32_t capabilities;
	uint32_t inline_bytes_max;
	uint32_t lease_ms;
	uint32_t sessions_max;
	uint32_t sessions_active;
	uint64_t transfer_bytes_max; /* of one extent */
	uint64_t staging_bytes_max; /* leased to one connection at once */
	uint64_t vendor_id; /* of the RDMA device, 0 without */
	char device[64]; /* "" without */
	char port_gid[48];
	uint32_t port_lid;
	char software[64]; /* e.g. "kelpd 0.1.0" */
	char text[WIRE_TEXT_BYTES_MAX + 1]; /* why not, where status is not WIRE_OK */
	size_t n_addresses;
	struct wire_address addresses[WIRE_ADDRESSES_MAX];
};

enum wire_extent_flag {
	WIRE_EXTENT_WHOLE = 1 << 0, /* the whole needle: offset and length are 0 */
	WIRE_EXTENT_READ_DELETED = 1 << 1, /* also if deleted, while it is there */
};

struct wire_extent {
	struct fid fid;
	uint64_t offset;
	uint64_t length;
	uint32_t flags; /* enum wire_extent_flag */
	const char *token;
	size_t token_len;
};

struct wire_read {
	size_t n_extents;
	struct wire_extent extents[WIRE_EXTENTS_MAX];
	size_t n_completes; /* piggybacked */
	uint64_t completes[WIRE_COMPLETES_MAX];
};

enum wire_result_flag {
	WIRE_RESULT_GZIP = 1 << 0, /* the needle is stored compressed */
	WIRE_RESULT_CRC_WHOLE = 1 << 1, /* crc32c is of the whole needle, as stored */
	WIRE_RESULT_CRC_RANGE = 1 << 2, /* crc32c is of exactly the bytes answered */
	WIRE_RESULT_LEASE = 1 << 3, /* bytes are to be pulled; else they follow */
};

struct wire_result {
	uint8_t status; /* enum wire_status; all else is 0 unless WIRE_OK */
	uint32_t flags; /* enum wire_result_flag */
	uint32_t crc32c;
	uint64_t length; /* bytes answered or leased */
	uint64_t needle_length; /* of the whole needle's stored data */
	uint64_t lease_id;
	uint64_t remote_addr;
	uint32_t rkey;
	uint32_t lease_ms; /* from the sending of the answer */
};

struct wire_read_reply {
	size_t n_results; /* one for each extent, in order */
	struct wire_result results[WIRE_EXTENTS_MAX];
};

struct wire_complete {
	size_t n;
	uint64_t leases[WIRE_COMPLETES_MAX];
};

struct wire_goodbye {
	uint8_t reason; /* enum wire_status */
	char text[WIRE_TEXT_BYTES_MAX + 1];
};

/* Header. Any version decodes, so that a peer of another one can be refused with a reason: header and
 * hello are the same in all of them. Which version it is, is the caller's to check. */
int wire_decode_header(const uint8_t *p, size_t len, struct wire_header *ret);
void wire_encode_header(uint8_t p[WIRE_HEADER_BYTES], const struct wire_header *h);

#define WIRE_HELLO_BYTES 12 /* payload of a hello without its token */
#define WIRE_REPLY_BYTES 8 /* payload of a read's answer without results and inline data */
#define WIRE_RESULT_BYTES 56 /* each result in it */

/* Whole messages: header (type and length are filled in) and payload. *ret_len: bytes of the message.
 * Texts lose what is not printable ASCII. For a read's answer h.length is, on the way in, the number of
 * bytes of inline data that the caller will put behind the message (0 over a stream). */
int wire_encode_hello(uint8_t *buf, size_t bytes, struct wire_header h, const struct wire_hello *m,
		      size_t *ret_len);
int wire_encode_hello_reply(uint8_t *buf, size_t bytes, struct wire_header h,
			    const struct wire_hello_reply *m, size_t *ret_len);
int wire_encode_read(uint8_t *buf, size_t bytes, struct wire_header h, const struct wire_read *m,
		     size_t *ret_len);
int wire_encode_read_reply(uint8_t *buf, size_t bytes, struct wire_header h,
			   const struct wire_read_reply *m, size_t *ret_len);
int wire_encode_complete(uint8_t *buf, size_t bytes, struct wire_header h,
			 const struct wire_complete *m, size_t *ret_len);
int wire_encode_goodbye(uint8_t *buf, size_t bytes, struct wire_header h,
			const struct wire_goodbye *m, size_t *ret_len);
/* Ping, pong and credit (h.type says which) have no payload. */
int wire_encode_bare(uint8_t *buf, size_t bytes, struct wire_header h, size_t *ret_len);

/* Payloads; exactly len bytes, nothing may be left over except inline data behind a read reply, whose
 * offset in the payload *ret_data tells. Pointers in the result lead into p. */
int wire_decode_hello(const uint8_t *p, size_t len, struct wire_hello *ret);
int wire_decode_hello_reply(const uint8_t *p, size_t len, struct wire_hello_reply *ret);
int wire_decode_read(const uint8_t *p, size_t len, struct wire_read *ret);
int wire_decode_read_reply(const uint8_t *p, size_t len, struct wire_read_reply *ret,
			   size_t *ret_data);
int wire_decode_complete(const uint8_t *p, size_t len, struct wire_complete *ret);
int wire_decode_goodbye(const uint8_t *p, size_t len, struct wire_goodbye *ret);

#endif
