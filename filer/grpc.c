#include "filer/grpc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define GRPC_URL_MAX 512
#define GRPC_CONTENT_TYPE "application/grpc"

/* As gRPC numbers them. */
enum grpc_status {
	GRPC_OK = 0,
	GRPC_CANCELLED = 1,
	GRPC_UNKNOWN = 2,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_NOT_FOUND = 5,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
	GRPC_UNAVAILABLE = 14,
	GRPC_UNAUTHENTICATED = 16,
};

int grpc_errno(int status, const char *message)
{
	switch (status) {
	case GRPC_OK:
		return 0;
	case GRPC_UNKNOWN:
		/* Spaces may be sent as they are or percent-encoded. */
		return strstr(message, "no entry is found") || strstr(message, "no%20entry%20is")
			       ? -ENOENT
			       : -EIO;
	case GRPC_NOT_FOUND:
		return -ENOENT;
	case GRPC_PERMISSION_DENIED:
	case GRPC_UNAUTHENTICATED:
		return -EACCES;
	case GRPC_DEADLINE_EXCEEDED:
		return -ETIMEDOUT;
	case GRPC_UNIMPLEMENTED:
		return -EOPNOTSUPP;
	case GRPC_INVALID_ARGUMENT:
	case GRPC_INTERNAL:
		return -EPROTO;
	case GRPC_CANCELLED:
	case GRPC_RESOURCE_EXHAUSTED:
	case GRPC_UNAVAILABLE:
	default:
		return -EIO;
	}
}

static size_t message_length(const struct grpc_frames *f)
{
	return (size_t)f->header[1] << 24 | (size_t)f->header[2] << 16 | (size_t)f->header[3] << 8 |
	       f->header[4];
}

static int take_header(struct grpc_frames *f, const uint8_t **pp, const uint8_t *end)
{
	size_t n = min_u64(sizeof(f->header) - f->header_len, (uint64_t)(end - *pp));

	memcpy(f->header + f->header_len, *pp, n);
	f->header_len += n;
	*pp += n;
	if (f->header_len < sizeof(f->header))
		return 0;
	if (f->header[0] != 0)
		return -EPROTO;
	return message_length(f) > f->message_max_bytes ? -EMSGSIZE : 0;
}

/* The header is there. A message that lies within one piece is not copied. */
static int take_message(struct grpc_frames *f, const uint8_t **pp, const uint8_t *end)
{
	const size_t len = message_length(f);
	const uint8_t *message = *pp;
	size_t n = min_u64(len - f->partial.len, (uint64_t)(end - *pp));
	int err;

	*pp += n;
	if (n < len) {
		f->partial.max_bytes = f->message_max_bytes;
		err = http_body_append(&f->partial, message, n);
		if (err || f->partial.len < len)
			return err;
		message = f->partial.data;
	}
	f->header_len = 0;
	f->partial.len = 0;
	return f->on_message(f->arg, message, len);
}

int grpc_frames_push(struct grpc_frames *f, const uint8_t *p, size_t n)
{
	const uint8_t *end = p + n;
	int err = 0;

	while (!err && p < end) {
		if (f->header_len < sizeof(f->header))
			err = take_header(f, &p, end);
		if (!err && f->header_len == sizeof(f->header))
			err = take_message(f, &p, end);
	}
	return err;
}

bool grpc_frames_whole(const struct grpc_frames *f)
{
	return f->header_len == 0;
}

void grpc_frames_release(struct grpc_frames *f)
{
	free(f->partial.data);
	f->partial.data = NULL;
}

static int on_head(void *arg, const struct http_head *head)
{
	(void)arg;
	if (head->status == 401 || head->status == 403)
		return -EACCES;
	if (head->status >= 500)
		return -EIO;
	if (head->status != 200 ||
	    strncmp(head->content_type, GRPC_CONTENT_TYPE, strlen(GRPC_CONTENT_TYPE)) != 0)
		return -EPROTO;
	return 0;
}

static int on_body(void *arg, const uint8_t *p, size_t n)
{
	return grpc_frames_push(arg, p, n);
}

static uint8_t *frame_of(const uint8_t *message, size_t len)
{
	uint8_t *frame;

	if (len > GRPC_MESSAGE_MAX)
		return NULL;
	frame = malloc(GRPC_FRAME_HEADER_BYTES + len);
	if (!frame)
		return NULL;
	frame[0] = 0;
	frame[1] = (uint8_t)(len >> 24);
	frame[2] = (uint8_t)(len >> 16);
	frame[3] = (uint8_t)(len >> 8);
	frame[4] = (uint8_t)len;
	if (len > 0)
		memcpy(frame + GRPC_FRAME_HEADER_BYTES, message, len);
	return frame;
}

int grpc_perform(struct http_pool *http, const struct grpc_call *call)
{
	struct grpc_frames frames = {
		.message_max_bytes = GRPC_MESSAGE_MAX,
		.on_message = call->on_message,
		.arg = call->arg,
	};
	char url[GRPC_URL_MAX];
	struct http_head head;
	uint8_t *frame;
	int err;

	if ((size_t)snprintf(url, sizeof(url), "%s%s", call->base_url, call->method) >= sizeof(url))
		return -ENAMETOOLONG;
	frame = frame_of(call->request, call->request_len);
	if (!frame)
		return -ENOMEM;
	err = http_perform(
		http,
		&(struct http_request){ .url = url,
					.grpc = true,
					.body = frame,
					.body_len = GRPC_FRAME_HEADER_BYTES + call->request_len,
					.on_head = on_head,
					.on_body = on_body,
					.arg = &frames,
					.deadline = call->deadline,
					.silence_max_ms = call->silence_max_ms,
					.cancel = call->cancel },
		&head);
	free(frame);
	if (!err && head.grpc_status < 0)
		err = -EIO;
	if (!err)
		err = grpc_errno(head.grpc_status, head.grpc_message);
	if (!err && !grpc_frames_whole(&frames))
		err = -EPROTO;
	grpc_frames_release(&frames);
	return err;
}
