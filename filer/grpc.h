/* gRPC calls over the HTTP client: one message out, one or many back. Messages are serialized
 * protobuf; who calls packs and unpacks. Thread-safe, as http_perform is. */
#ifndef KELP_GRPC_H
#define KELP_GRPC_H

#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/http.h"

#define GRPC_FRAME_HEADER_BYTES 5
#define GRPC_MESSAGE_MAX ((size_t)64 << 20)

/* Takes a stream of frames (a flag byte, a length of four, the message) apart. */
struct grpc_frames {
	size_t message_max_bytes;
	/* One message, valid during the call. Non-zero ends the stream and becomes its result. */
	int (*on_message)(void *arg, const uint8_t *message, size_t len);
	void *arg;

	/* Private to grpc.c. */
	uint8_t header[GRPC_FRAME_HEADER_BYTES];
	size_t header_len;
	struct http_body partial; /* the part of the message that came in earlier pieces */
};

/* Takes the next piece. Returns 0, -EPROTO (a compressed frame, which nobody asked for), -EMSGSIZE,
 * -ENOMEM, or what on_message returned. */
int grpc_frames_push(struct grpc_frames *f, const uint8_t *p, size_t n);

/* Did the stream end between two messages? */
bool grpc_frames_whole(const struct grpc_frames *f);
void grpc_frames_release(struct grpc_frames *f);

struct grpc_call {
	const char *base_url; /* http://host:port of the gRPC port */
	const char *method; /* "/filer_pb.SeaweedFiler/ListEntries" */
	const uint8_t *request;
	size_t request_len;
	int (*on_message)(void *arg, const uint8_t *message, size_t len);
	void *arg;
	struct deadline deadline;
	/* As in struct http_request, for calls that last. */
	unsigned silence_max_ms;
	struct http_cancel *cancel;
};

/* Runs one call. Returns 0 when the server said that all went well; what on_message returned; -ENOENT,
 * -EACCES, -EOPNOTSUPP (no such method), -EIO and so on by its status; -EPROTO where no gRPC server
 * answers; or as http_perform. */
int grpc_perform(struct http_pool *http, const struct grpc_call *call);

/* The errno of a status and its text; the filer has no status of its own for a missing entry. */
int grpc_errno(int status, const char *message);

#endif
