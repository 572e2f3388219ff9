/* Any bytes as a message from an agent: what a client accepts must be encoded to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "rdma/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_same(int err, const uint8_t *data, const uint8_t *again, size_t len)
{
	if (err || memcmp(data, again, len) != 0)
		abort();
}

static void check_reply(const uint8_t *data, const struct wire_header *h)
{
	uint8_t again[WIRE_MESSAGE_BYTES_MAX];
	struct wire_read_reply m;
	struct wire_header head = *h;
	size_t data_at, len;

	if (wire_decode_read_reply(data + WIRE_HEADER_BYTES, h->length, &m, &data_at) != 0)
		return;
	for (size_t i = 0; i < m.n_results; i++)
		if (m.results[i].length > m.results[i].needle_length)
			abort();
	head.length -= (uint32_t)data_at;
	int err = wire_encode_read_reply(again, sizeof(again), head, &m, &len);
	require_same(err, data, again, WIRE_HEADER_BYTES + data_at);
}

static void check_hello_reply(const uint8_t *data, const struct wire_header *h)
{
	uint8_t again[WIRE_MESSAGE_BYTES_MAX];
	struct wire_hello_reply m;
	size_t len;

	if (wire_decode_hello_reply(data + WIRE_HEADER_BYTES, h->length, &m) != 0)
		return;
	int err = wire_encode_hello_reply(again, sizeof(again), *h, &m, &len);
	require_same(err, data, again, WIRE_HEADER_BYTES + h->length);
}

static void check_goodbye(const uint8_t *data, const struct wire_header *h)
{
	uint8_t again[WIRE_MESSAGE_BYTES_MAX];
	struct wire_goodbye m;
	size_t len;

	if (wire_decode_goodbye(data + WIRE_HEADER_BYTES, h->length, &m) != 0)
		return;
	int err = wire_encode_goodbye(again, sizeof(again), *h, &m, &len);
	require_same(err, data, again, WIRE_HEADER_BYTES + h->length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_header h;

	if (wire_decode_header(data, size, &h) != 0 || h.length > size - WIRE_HEADER_BYTES)
		return 0;
	if (h.type == WIRE_READ_REPLY)
		check_reply(data, &h);
	else if (h.type == WIRE_HELLO_REPLY)
		check_hello_reply(data, &h);
	else if (h.type == WIRE_GOODBYE)
		check_goodbye(data, &h);
	return 0;
}
