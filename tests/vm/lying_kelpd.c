/* kelpd, but for the lies that it tells over verbs: linked in the place of two encoders (--wrap), so that all else,
 * the bytes too, is the real one's. Over TCP it tells the truth.
 *
 * Environment: KELPD_LIE: the name of a lie; without, none is told */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "rdma/wire.h"

int __real_wire_encode_hello_reply(uint8_t *buf, size_t bytes, struct wire_header h,
				   const struct wire_hello_reply *m, size_t *ret_len);
int __wrap_wire_encode_hello_reply(uint8_t *buf, size_t bytes, struct wire_header h,
				   const struct wire_hello_reply *m, size_t *ret_len);
int __real_wire_encode_read_reply(uint8_t *buf, size_t bytes, struct wire_header h,
				  const struct wire_read_reply *m, size_t *ret_len);
int __wrap_wire_encode_read_reply(uint8_t *buf, size_t bytes, struct wire_header h,
				  const struct wire_read_reply *m, size_t *ret_len);

/* NULL in any of these: the truth. */
struct lie {
	const char *name;
	void (*hello)(struct wire_header *h, struct wire_hello_reply *m);
	void (*header)(struct wire_header *h);
	void (*result)(struct wire_result *r);
};

static void no_time(struct wire_header *h, struct wire_hello_reply *m)
{
	(void)h;
	m->lease_ms = 0;
}

static void no_room(struct wire_header *h, struct wire_hello_reply *m)
{
	(void)h;
	m->staging_bytes_max = 1;
	m->transfer_bytes_max = 1;
}

static void endless(struct wire_header *h, struct wire_hello_reply *m)
{
	h->credits = UINT16_MAX;
	m->inline_bytes_max = UINT32_MAX;
	m->transfer_bytes_max = UINT64_MAX;
	m->staging_bytes_max = UINT64_MAX;
}

static void credits(struct wire_header *h)
{
	h->credits = UINT16_MAX;
}

static void number(struct wire_header *h)
{
	h->xid++;
}

static void more(struct wire_result *r)
{
	r->length += 4096;
	r->needle_length += 4096;
}

static void less(struct wire_result *r)
{
	r->length--;
}

static void needle(struct wire_result *r)
{
	r->needle_length = 1;
}

static void checksum(struct wire_result *r)
{
	r->crc32c ^= 1;
}

static void no_checksum(struct wire_result *r)
{
	r->flags &= ~(uint32_t)(WIRE_RESULT_CRC_WHOLE | WIRE_RESULT_CRC_RANGE);
	r->crc32c = 0;
}

static void key(struct wire_result *r)
{
	r->rkey ^= 0x100;
}

static void address(struct wire_result *r)
{
	r->remote_addr += r->length;
}

static const struct lie lies[] = {
	{ .name = "lease time", .hello = no_time },
	{ .name = "no room", .hello = no_room },
	{ .name = "endless room", .hello = endless },
	{ .name = "credits", .header = credits },
	{ .name = "number", .header = number },
	{ .name = "longer", .result = more },
	{ .name = "shorter", .result = less },
	{ .name = "needle's length", .result = needle },
	{ .name = "checksum", .result = checksum },
	{ .name = "no checksum", .result = no_checksum },
	{ .name = "key", .result = key },
	{ .name = "address", .result = address },
};

static const struct lie *the_lie(void)
{
	static const struct lie truth;
	const char *name = getenv("KELPD_LIE");

	if (!name)
		return &truth;
	for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
		if (strcmp(lies[i].name, name) == 0)
			return &lies[i];
	}
	fprintf(stderr, "no lie is called %s\n", name);
	abort();
}

int __wrap_wire_encode_hello_reply(uint8_t *buf, size_t bytes, struct wire_header h,
				   const struct wire_hello_reply *m, size_t *ret_len)
{
	const struct lie *lie = the_lie();
	struct wire_hello_reply told = *m;

	if (lie->hello && (m->capabilities & WIRE_CAP_LEASE))
		lie->hello(&h, &told);
	return __real_wire_encode_hello_reply(buf, bytes, h, &told, ret_len);
}

/* Over TCP there are neither leases nor bytes in the message. */
static bool is_over_verbs(const struct wire_header *h, const struct wire_read_reply *m)
{
	return h->length > 0 || (m->results[0].flags & WIRE_RESULT_LEASE);
}

int __wrap_wire_encode_read_reply(uint8_t *buf, size_t bytes, struct wire_header h,
				  const struct wire_read_reply *m, size_t *ret_len)
{
	const struct lie *lie = the_lie();
	struct wire_read_reply told = *m;

	if (is_over_verbs(&h, m)) {
		if (lie->header)
			lie->header(&h);
		for (size_t i = 0; lie->result && i < told.n_results; i++) {
			if (told.results[i].status == WIRE_OK)
				lie->result(&told.results[i]);
		}
	}
	return __real_wire_encode_read_reply(buf, bytes, h, &told, ret_len);
}
