/* Any bytes as a message from a client: what an agent accepts must be encoded to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "rdma/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_same(int err, const uint8_t *data, const uint8_t *again, size_t len)
{
	if (err || memcmp(data, again, len) != 0)
		abort();
}

static void check_hello(const uint8_t *data, const struct wire_header *h)
{
	uint8_t again[WIRE_MESSAGE_BYTES_MAX];
	struct wire_hello m;
	size_t len;

	if (wire_decode_hello(data + WIRE_HEADER_BYTES, h->length, &m) != 0)
		return;
	int err = wire_encode_hello(again, sizeof(again), *h, &m, &len);
	require_same(err, data, again, WIRE_HEADER_BYTES + h->length);
}

static void check_read(const uint8_t *data, const struct wire_header *h)
{
	uint8_t again[WIRE_MESSAGE_BYTES_MAX];
	struct wire_read m;
	size_t len;

	if (wire_decode_read(data + WIRE_HEADER_BYTES, h->length, &m) != 0)
		return;
	int err = wire_encode_read(again, sizeof(again), *h, &m, &len);
	require_same(err, data, again, WIRE_HEADER_BYTES + h->length);
}

static void check_complete(const uint8_t *data, const struct wire_header *h)
{
	uint8_t again[WIRE_MESSAGE_BYTES_MAX];
	struct wire_complete m;
	size_t len;

	if (wire_decode_complete(data + WIRE_HEADER_BYTES, h->length, &m) != 0)
		return;
	int err = wire_encode_complete(again, sizeof(again), *h, &m, &len);
	require_same(err, data, again, WIRE_HEADER_BYTES + h->length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_header h;

	if (wire_decode_header(data, size, &h) != 0 || h.length > size - WIRE_HEADER_BYTES)
		return 0;
	if (h.type == WIRE_HELLO)
		check_hello(data, &h);
	else if (h.type == WIRE_READ)
		check_read(data, &h);
	else if (h.type == WIRE_COMPLETE)
		check_complete(data, &h);
	return 0;
}
