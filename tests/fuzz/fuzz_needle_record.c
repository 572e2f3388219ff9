/* Any bytes as the record of a needle: what is said to be data, and what is taken for its tail, lies
 * within what the index said. The input: version, the index's size (4 bytes), 20 bytes of header, and
 * the tail, which is cut or filled up to the length that the header leads to. */
#include <stdlib.h>

#include "rdma/agent/store.h"
#include "rdma/agent/volume_format.h"

#define PREFIX_BYTES (1 + 4 + STORE_HEADER_BYTES)
#define RECORD_AT 4096
#define NOW_NS UINT64_C(1700000000000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tail(const struct needle_place *p, struct needle_info *info, const uint8_t *tail,
		       size_t given)
{
	static uint8_t zeros[STORE_TAIL_BYTES_MAX];
	uint64_t offset;
	size_t len;

	store_tail_place(p, info, &offset, &len);
	if (len > STORE_TAIL_BYTES_MAX || offset != info->data_offset + info->data_bytes ||
	    offset + len > RECORD_AT + record_bytes(p->version, p->record_size))
		abort();
	/* A block of its own, so that one byte too many is noticed. */
	uint8_t *copy = malloc(len);
	if (!copy)
		return;
	memcpy(copy, zeros, len);
	memcpy(copy, tail, given < len ? given : len);
	if (store_parse_tail(p, copy, len, NOW_NS, info) == 0 && info->expires_at_ns != 0 &&
	    info->expires_at_ns <= NOW_NS)
		abort();
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct needle_info info;

	if (size < PREFIX_BYTES)
		return 0;
	const uint8_t *header = data + 5;
	const struct needle_place p = {
		.record_offset = RECORD_AT,
		.record_size = be32_at(data + 1) & INT32_MAX,
		.version = (uint8_t)(1 + data[0] % 3),
	};
	const struct fid fid = { .key = be64_at(header + 4), .cookie = be32_at(header) };
	if (store_parse_header(&p, &fid, header, &info) != 0)
		return 0;
	if (info.data_bytes > p.record_size)
		abort();
	check_tail(&p, &info, data + PREFIX_BYTES, size - PREFIX_BYTES);
	return 0;
}
