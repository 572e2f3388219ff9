/* The wire format: what is encoded comes back, and what does not hang together is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "filer/base/base.h"
#include "rdma/wire.h"

#define XID UINT64_C(0x1122334455667788)

static const struct wire_header head = { .version = WIRE_VERSION, .credits = 513, .xid = XID };

/* A message of which every single byte can be looked at and changed. */
struct message {
	uint8_t bytes[WIRE_MESSAGE_BYTES_MAX + 1];
	size_t len;
};

static const uint8_t *payload(const struct message *m)
{
	return m->bytes + WIRE_HEADER_BYTES;
}

static size_t payload_len(const struct message *m)
{
	return m->len - WIRE_HEADER_BYTES;
}

static void assert_header(const struct message *m, enum wire_type type)
{
	struct wire_header h;

	assert_int_equal(wire_decode_header(m->bytes, m->len, &h), 0);
	assert_int_equal(h.type, type);
	assert_int_equal(h.version, WIRE_VERSION);
	assert_int_equal(h.credits, head.credits);
	assert_int_equal(h.xid, XID);
	assert_int_equal(h.length, payload_len(m));
}

static const struct wire_read two_extents = {
	.n_extents = 2,
	.extents = { { .fid = { .volume_id = 3,
				.key = UINT64_C(0x1234567890abcdef),
				.cookie = 0xfedcba98 },
		       .offset = UINT64_C(0x0102030405060708),
		       .length = 4096,
		       .flags = WIRE_EXTENT_READ_DELETED,
		       .token = "first",
		       .token_len = 5 },
		     { .fid = { .volume_id = 4, .key = 5, .cookie = 6 },
		       .flags = WIRE_EXTENT_WHOLE,
		       .token = "2",
		       .token_len = 1 } },
	.n_completes = 2,
	.completes = { 7, UINT64_MAX },
};

static const struct wire_read_reply two_results = {
	.n_results = 2,
	.results = { { .flags = WIRE_RESULT_GZIP | WIRE_RESULT_CRC_WHOLE | WIRE_RESULT_LEASE,
		       .crc32c = 0xc0ffee11,
		       .length = 100,
		       .needle_length = 200,
		       .lease_id = 0x1112131415161718,
		       .remote_addr = 0x2122232425262728,
		       .rkey = 0x31323334,
		       .lease_ms = 5000 },
		     { .status = WIRE_NOT_FOUND } },
};

static struct message read_message(const struct wire_read *r)
{
	struct message m;

	assert_int_equal(wire_encode_read(m.bytes, sizeof(m.bytes), head, r, &m.len), 0);
	return m;
}

static struct message reply_message(const struct wire_read_reply *r)
{
	struct message m;

	assert_int_equal(wire_encode_read_reply(m.bytes, sizeof(m.bytes), head, r, &m.len), 0);
	return m;
}

/* --- headers --- */

static void a_header_has_its_fixed_layout(void **state)
{
	static const uint8_t expected[WIRE_HEADER_BYTES] = {
		'K', 'E', 'L', 'P', 1,    WIRE_PING, 1,    2,    0,    0,    0,    0,
		0,   0,   0,   0,   0x88, 0x77,      0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
	};
	struct wire_header h = head;
	struct message m;

	(void)state;
	h.type = WIRE_PING;
	assert_int_equal(wire_encode_bare(m.bytes, sizeof(m.bytes), h, &m.len), 0);
	assert_int_equal(m.len, WIRE_HEADER_BYTES);
	assert_memory_equal(m.bytes, expected, sizeof(expected));
}

static void a_header_of_another_version_decodes(void **state)
{
	struct wire_header h = { .type = WIRE_HELLO, .version = 77 };
	uint8_t bytes[WIRE_HEADER_BYTES];

	(void)state;
	wire_encode_header(bytes, &h);
	h.version = 0;
	assert_int_equal(wire_decode_header(bytes, sizeof(bytes), &h), 0);
	assert_int_equal(h.version, 77);
}

static void assert_header_refused(struct wire_header h, size_t changed, uint8_t to)
{
	struct wire_header ret = { .xid = 99 };
	uint8_t bytes[WIRE_HEADER_BYTES];

	wire_encode_header(bytes, &h);
	if (changed < sizeof(bytes))
		bytes[changed] = to;
	assert_int_equal(wire_decode_header(bytes, sizeof(bytes), &ret), -EPROTO);
	assert_int_equal(ret.xid, 99);
}

static void refuses_headers_that_make_no_sense(void **state)
{
	struct wire_header good = { .type = WIRE_READ, .version = WIRE_VERSION };
	struct wire_header bad = good;
	uint8_t bytes[WIRE_HEADER_BYTES];

	(void)state;
	assert_header_refused(good, 0, 'k');
	assert_header_refused(good, 12, 1);
	bad.type = 0;
	assert_header_refused(bad, WIRE_HEADER_BYTES, 0);
	bad.type = WIRE_GOODBYE + 1;
	assert_header_refused(bad, WIRE_HEADER_BYTES, 0);
	bad = good;
	bad.length = WIRE_MESSAGE_BYTES_MAX - WIRE_HEADER_BYTES + 1;
	assert_header_refused(bad, WIRE_HEADER_BYTES, 0);
	wire_encode_header(bytes, &good);
	for (size_t i = 0; i < sizeof(bytes); i++)
		assert_int_equal(wire_decode_header(bytes, i, &bad), -EPROTO);
}

/* --- hello --- */

static void a_hello_comes_back(void **state)
{
	const struct wire_hello sent = { .version_min = 1,
					 .version_max = 3,
					 .capabilities = WIRE_CAP_STREAM | WIRE_CAP_LEASE,
					 .inline_bytes_max = 4096,
					 .token = "a.b.c",
					 .token_len = 5 };
	struct wire_hello got;
	struct message m;

	(void)state;
	assert_int_equal(wire_encode_hello(m.bytes, sizeof(m.bytes), head, &sent, &m.len), 0);
	assert_header(&m, WIRE_HELLO);
	assert_int_equal(payload_len(&m), WIRE_HELLO_BYTES + 5);
	assert_int_equal(wire_decode_hello(payload(&m), payload_len(&m), &got), 0);
	assert_int_equal(got.version_min, 1);
	assert_int_equal(got.version_max, 3);
	assert_int_equal(got.capabilities, sent.capabilities);
	assert_int_equal(got.inline_bytes_max, 4096);
	assert_int_equal(got.token_len, 5);
	assert_memory_equal(got.token, "a.b.c", 5);
	for (size_t i = 0; i < payload_len(&m); i++)
		assert_int_equal(wire_decode_hello(payload(&m), i, &got), -EPROTO);
	assert_int_equal(wire_decode_hello(payload(&m), payload_len(&m) + 1, &got), -EPROTO);
}

static void a_hello_needs_no_token(void **state)
{
	const struct wire_hello sent = { .version_min = 1, .version_max = 1 };
	struct wire_hello got;
	struct message m;

	(void)state;
	assert_int_equal(wire_encode_hello(m.bytes, sizeof(m.bytes), head, &sent, &m.len), 0);
	assert_int_equal(wire_decode_hello(payload(&m), payload_len(&m), &got), 0);
	assert_int_equal(got.token_len, 0);
}

static void refuses_a_hello_whose_versions_are_reversed(void **state)
{
	const struct wire_hello sent = { .version_min = 2, .version_max = 1 };
	struct wire_hello got;
	struct message m;

	(void)state;
	assert_int_equal(wire_encode_hello(m.bytes, sizeof(m.bytes), head, &sent, &m.len), 0);
	assert_int_equal(wire_decode_hello(payload(&m), payload_len(&m), &got), -EPROTO);
}

static void a_token_has_a_limit(void **state)
{
	static const char token[WIRE_TOKEN_BYTES_MAX + 1];
	struct wire_hello hello = { .token = token, .token_len = sizeof(token) };
	struct wire_read read = { .n_extents = 1 };
	struct message m;

	(void)state;
	read.extents[0] = (struct wire_extent){ .length = 1,
						.token = token,
						.token_len = sizeof(token) };
	assert_int_equal(wire_encode_hello(m.bytes, sizeof(m.bytes), head, &hello, &m.len),
			 -EMSGSIZE);
	assert_int_equal(wire_encode_read(m.bytes, sizeof(m.bytes), head, &read, &m.len),
			 -EMSGSIZE);
	read.extents[0].token_len = 0;
	m = read_message(&read);
	m.bytes[WIRE_HEADER_BYTES + 8 + 36] = 1;
	m.bytes[WIRE_HEADER_BYTES + 8 + 37] = 4; /* 1025 */
	memset(m.bytes + m.len, 0, sizeof(token));
	assert_int_equal(wire_decode_read(payload(&m), payload_len(&m) + sizeof(token), &read),
			 -EPROTO);
}

static const struct wire_hello_reply full_reply = {
	.version = 1,
	.token_needed = true,
	.capabilities = WIRE_CAP_STREAM,
	.inline_bytes_max = 1,
	.lease_ms = 2,
	.sessions_max = 3,
	.sessions_active = 4,
	.transfer_bytes_max = UINT64_C(5) << 32,
	.staging_bytes_max = 6,
	.vendor_id = 7,
	.device = "rxe0",
	.port_gid = "fe80::1",
	.port_lid = 8,
	.software = "kelpd 0.1.0",
	.text = "welcome",
	.n_addresses = 2,
	.addresses = { { .host = "192.0.2.1", .port = 18516 },
		       { .host = "2001:db8::1", .port = 1 } },
};

static void a_hello_reply_comes_back(void **state)
{
	struct wire_hello_reply got;
	struct message m;

	(void)state;
	memset(&got, 0, sizeof(got));
	assert_int_equal(
		wire_encode_hello_reply(m.bytes, sizeof(m.bytes), head, &full_reply, &m.len), 0);
	assert_header(&m, WIRE_HELLO_REPLY);
	assert_int_equal(wire_decode_hello_reply(payload(&m), payload_len(&m), &got), 0);
	assert_true(got.token_needed);
	assert_int_equal(got.version, 1);
	assert_int_equal(got.capabilities, WIRE_CAP_STREAM);
	assert_int_equal(got.inline_bytes_max, 1);
	assert_int_equal(got.lease_ms, 2);
	assert_int_equal(got.sessions_max, 3);
	assert_int_equal(got.sessions_active, 4);
	assert_int_equal(got.transfer_bytes_max, full_reply.transfer_bytes_max);
	assert_int_equal(got.staging_bytes_max, 6);
	assert_int_equal(got.vendor_id, 7);
	assert_int_equal(got.port_lid, 8);
	assert_string_equal(got.device, "rxe0");
	assert_string_equal(got.port_gid, "fe80::1");
	assert_string_equal(got.software, "kelpd 0.1.0");
	assert_string_equal(got.text, "welcome");
	assert_int_equal(got.n_addresses, 2);
	assert_string_equal(got.addresses[0].host, "192.0.2.1");
	assert_int_equal(got.addresses[0].port, 18516);
	assert_string_equal(got.addresses[1].host, "2001:db8::1");
	for (size_t i = 0; i < payload_len(&m); i++)
		assert_int_equal(wire_decode_hello_reply(payload(&m), i, &got), -EPROTO);
}

static void assert_reply_refused(size_t offset, uint8_t value)
{
	struct wire_hello_reply got;
	struct message m;

	assert_int_equal(
		wire_encode_hello_reply(m.bytes, sizeof(m.bytes), head, &full_reply, &m.len), 0);
	m.bytes[WIRE_HEADER_BYTES + offset] = value;
	assert_int_equal(wire_decode_hello_reply(payload(&m), payload_len(&m), &got), -EPROTO);
}

static void refuses_a_hello_reply_that_lies(void **state)
{
	(void)state;
	assert_reply_refused(0, WIRE_STATUS_MAX + 1);
	assert_reply_refused(2, 2); /* unknown flag */
	assert_reply_refused(3, 1); /* fewer addresses than are there */
	assert_reply_refused(3, 255);
	assert_reply_refused(52, 0x1b); /* an escape sequence for the terminal */
	assert_reply_refused(52 + 63, 'x'); /* a name without its NUL */
	assert_reply_refused(52 + 10, 'x'); /* something behind it */
}

static void texts_lose_what_is_not_printable(void **state)
{
	const struct wire_goodbye sent = { .reason = WIRE_SHUTDOWN, .text = "a\x1b[2Jb\n" };
	struct wire_goodbye got;
	struct message m;

	(void)state;
	assert_int_equal(wire_encode_goodbye(m.bytes, sizeof(m.bytes), head, &sent, &m.len), 0);
	assert_header(&m, WIRE_GOODBYE);
	assert_int_equal(wire_decode_goodbye(payload(&m), payload_len(&m), &got), 0);
	assert_int_equal(got.reason, WIRE_SHUTDOWN);
	assert_string_equal(got.text, "a?[2Jb?");
	assert_int_equal(wire_decode_goodbye(payload(&m), payload_len(&m) - 1, &got), -EPROTO);
	m.bytes[WIRE_HEADER_BYTES] = WIRE_STATUS_MAX + 1;
	assert_int_equal(wire_decode_goodbye(payload(&m), payload_len(&m), &got), -EPROTO);
}

/* --- reads --- */

static void a_read_comes_back(void **state)
{
	struct message m = read_message(&two_extents);
	struct wire_read got;

	(void)state;
	memset(&got, 0, sizeof(got));
	assert_header(&m, WIRE_READ);
	assert_int_equal(wire_decode_read(payload(&m), payload_len(&m), &got), 0);
	assert_int_equal(got.n_extents, 2);
	for (size_t i = 0; i < got.n_extents; i++) {
		const struct wire_extent *a = &got.extents[i], *b = &two_extents.extents[i];

		assert_memory_equal(&a->fid, &b->fid, sizeof(a->fid));
		assert_int_equal(a->offset, b->offset);
		assert_int_equal(a->length, b->length);
		assert_int_equal(a->flags, b->flags);
		assert_int_equal(a->token_len, b->token_len);
		assert_memory_equal(a->token, b->token, b->token_len);
	}
	assert_int_equal(got.n_completes, 2);
	assert_int_equal(got.completes[0], 7);
	assert_int_equal(got.completes[1], UINT64_MAX);
	for (size_t i = 0; i < payload_len(&m); i++)
		assert_int_equal(wire_decode_read(payload(&m), i, &got), -EPROTO);
	assert_int_equal(wire_decode_read(payload(&m), payload_len(&m) + 1, &got), -EPROTO);
}

static void assert_extent_refused(const struct wire_extent *e)
{
	struct wire_read read = { .n_extents = 1 };
	struct wire_read got = { .n_extents = 99 };

	read.extents[0] = *e;
	struct message m = read_message(&read);
	assert_int_equal(wire_decode_read(payload(&m), payload_len(&m), &got), -EPROTO);
	assert_int_equal(got.n_extents, 99);
}

static void refuses_extents_that_cannot_be(void **state)
{
	(void)state;
	assert_extent_refused(&(struct wire_extent){ .length = 0 });
	assert_extent_refused(&(struct wire_extent){ .length = WIRE_EXTENT_BYTES_MAX + 1 });
	assert_extent_refused(&(struct wire_extent){ .offset = UINT64_MAX, .length = 2 });
	assert_extent_refused(&(struct wire_extent){ .offset = INT64_MAX, .length = 1 });
	assert_extent_refused(&(struct wire_extent){ .length = 1, .flags = 4 });
	assert_extent_refused(&(struct wire_extent){ .length = 1, .flags = WIRE_EXTENT_WHOLE });
	assert_extent_refused(&(struct wire_extent){ .offset = 1, .flags = WIRE_EXTENT_WHOLE });
}

static void counts_have_limits(void **state)
{
	struct wire_read read = { .n_extents = WIRE_EXTENTS_MAX + 1 };
	struct wire_read_reply reply = { .n_results = WIRE_EXTENTS_MAX + 1 };
	struct wire_complete complete = { .n = WIRE_COMPLETES_MAX + 1 };
	struct message m;

	(void)state;
	assert_int_equal(wire_encode_read(m.bytes, sizeof(m.bytes), head, &read, &m.len),
			 -EMSGSIZE);
	assert_int_equal(wire_encode_read_reply(m.bytes, sizeof(m.bytes), head, &reply, &m.len),
			 -EMSGSIZE);
	assert_int_equal(wire_encode_complete(m.bytes, sizeof(m.bytes), head, &complete, &m.len),
			 -EMSGSIZE);
	memset(&m, 0, sizeof(m));
	m.bytes[0] = WIRE_EXTENTS_MAX + 1;
	assert_int_equal(
		wire_decode_read_reply(m.bytes, 8 + (size_t)56 * m.bytes[0], &reply, &m.len),
		-EPROTO);
	assert_int_equal(wire_decode_read(m.bytes, 8 + (size_t)40 * m.bytes[0], &read), -EPROTO);
	m.bytes[0] = WIRE_COMPLETES_MAX + 1;
	assert_int_equal(wire_decode_complete(m.bytes, 8 + (size_t)8 * m.bytes[0], &complete),
			 -EPROTO);
	memset(&m, 0, sizeof(m));
	assert_int_equal(wire_decode_read_reply(m.bytes, 8, &reply, &m.len), -EPROTO);
	assert_int_equal(wire_decode_read(m.bytes, 8, &read), -EPROTO);
	assert_int_equal(wire_decode_complete(m.bytes, 8, &complete), -EPROTO);
}

static void nothing_is_written_beyond_the_buffer(void **state)
{
	struct message whole = read_message(&two_extents);
	struct message m;

	(void)state;
	for (size_t i = 0; i < whole.len; i++) {
		memset(m.bytes, 0x5a, sizeof(m.bytes));
		m.len = 99;
		assert_int_equal(wire_encode_read(m.bytes, i, head, &two_extents, &m.len),
				 -EMSGSIZE);
		assert_int_equal(m.len, 99);
		for (size_t j = i; j < whole.len; j++)
			assert_int_equal(m.bytes[j], 0x5a);
	}
	assert_int_equal(wire_encode_read(m.bytes, whole.len, head, &two_extents, &m.len), 0);
}

static void leases_given_back_come_back(void **state)
{
	const struct wire_complete sent = { .n = 3, .leases = { 1, 2, UINT64_C(1) << 63 } };
	struct wire_complete got;
	struct message m;

	(void)state;
	assert_int_equal(wire_encode_complete(m.bytes, sizeof(m.bytes), head, &sent, &m.len), 0);
	assert_header(&m, WIRE_COMPLETE);
	assert_int_equal(wire_decode_complete(payload(&m), payload_len(&m), &got), 0);
	assert_int_equal(got.n, 3);
	assert_int_equal(got.leases[2], UINT64_C(1) << 63);
	assert_int_equal(wire_decode_complete(payload(&m), payload_len(&m) - 1, &got), -EPROTO);
	assert_int_equal(wire_decode_complete(payload(&m), payload_len(&m) + 1, &got), -EPROTO);
}

/* --- answers --- */

static void an_answer_comes_back(void **state)
{
	struct message m = reply_message(&two_results);
	struct wire_read_reply got;
	size_t data;

	(void)state;
	memset(&got, 0, sizeof(got));
	assert_header(&m, WIRE_READ_REPLY);
	assert_int_equal(wire_decode_read_reply(payload(&m), payload_len(&m), &got, &data), 0);
	assert_int_equal(data, payload_len(&m));
	assert_int_equal(data, WIRE_REPLY_BYTES + 2 * WIRE_RESULT_BYTES);
	assert_int_equal(got.n_results, 2);
	assert_int_equal(got.results[0].status, WIRE_OK);
	assert_int_equal(got.results[0].flags, two_results.results[0].flags);
	assert_int_equal(got.results[0].crc32c, 0xc0ffee11);
	assert_int_equal(got.results[0].length, 100);
	assert_int_equal(got.results[0].needle_length, 200);
	assert_int_equal(got.results[0].lease_id, 0x1112131415161718);
	assert_int_equal(got.results[0].remote_addr, 0x2122232425262728);
	assert_int_equal(got.results[0].rkey, 0x31323334);
	assert_int_equal(got.results[0].lease_ms, 5000);
	assert_int_equal(got.results[1].status, WIRE_NOT_FOUND);
	for (size_t i = 0; i < payload_len(&m); i++)
		assert_int_equal(wire_decode_read_reply(payload(&m), i, &got, &data), -EPROTO);
}

static void an_answer_tells_where_inline_data_begins(void **state)
{
	const struct wire_read_reply sent = { .n_results = 1,
					      .results = { { .length = 5, .needle_length = 5 } } };
	struct wire_header h = head, got_head;
	struct wire_read_reply got;
	struct message m;
	size_t data;

	(void)state;
	h.length = 5;
	assert_int_equal(wire_encode_read_reply(m.bytes, sizeof(m.bytes), h, &sent, &m.len), 0);
	memcpy(m.bytes + m.len, "12345", 5);
	assert_int_equal(wire_decode_header(m.bytes, m.len, &got_head), 0);
	assert_int_equal(got_head.length, payload_len(&m) + 5);
	assert_int_equal(wire_decode_read_reply(payload(&m), got_head.length, &got, &data), 0);
	assert_memory_equal(payload(&m) + data, "12345", 5);
	h.length = WIRE_MESSAGE_BYTES_MAX;
	assert_int_equal(wire_encode_read_reply(m.bytes, sizeof(m.bytes), h, &sent, &m.len),
			 -EMSGSIZE);
}

static void assert_result_refused(const struct wire_result *r)
{
	struct wire_read_reply reply = { .n_results = 1 };
	struct wire_read_reply got = { .n_results = 99 };
	size_t data = 99;

	reply.results[0] = *r;
	struct message m = reply_message(&reply);
	assert_int_equal(wire_decode_read_reply(payload(&m), payload_len(&m), &got, &data),
			 -EPROTO);
	assert_int_equal(got.n_results, 99);
	assert_int_equal(data, 99);
}

static void refuses_results_that_cannot_be(void **state)
{
	(void)state;
	assert_result_refused(&(struct wire_result){ .status = WIRE_STATUS_MAX + 1 });
	assert_result_refused(&(struct wire_result){ .status = WIRE_IO, .length = 1 });
	assert_result_refused(&(struct wire_result){ .status = WIRE_IO, .needle_length = 1 });
	assert_result_refused(&(struct wire_result){ .status = WIRE_IO, .flags = 1 });
	assert_result_refused(&(struct wire_result){ .flags = 16 });
	assert_result_refused(
		&(struct wire_result){ .flags = WIRE_RESULT_CRC_WHOLE | WIRE_RESULT_CRC_RANGE });
	assert_result_refused(&(struct wire_result){ .length = 2, .needle_length = 1 });
	assert_result_refused(&(struct wire_result){ .length = WIRE_EXTENT_BYTES_MAX + 1,
						     .needle_length = WIRE_EXTENT_BYTES_MAX + 1 });
	assert_result_refused(&(struct wire_result){ .needle_length = UINT64_C(1) << 32 });
	assert_result_refused(&(struct wire_result){ .rkey = 1 }); /* without a lease */
	assert_result_refused(&(struct wire_result){ .flags = WIRE_RESULT_LEASE,
						     .remote_addr = UINT64_MAX,
						     .length = 1,
						     .needle_length = 1 });
}

/* --- statuses --- */

static void every_status_has_a_text_and_an_errno(void **state)
{
	(void)state;
	assert_int_equal(wire_status_errno(WIRE_OK), 0);
	for (int s = 1; s <= WIRE_STATUS_MAX; s++) {
		assert_true(wire_status_errno(s) < 0);
		assert_true(strlen(wire_status_text(s)) > 5);
	}
	assert_int_equal(wire_status_errno(WIRE_NOT_SERVED), -EOPNOTSUPP);
	assert_int_equal(wire_status_errno(WIRE_EXHAUSTED), -EUSERS);
	assert_int_equal(wire_status_errno(WIRE_STATUS_MAX + 1), -EPROTO);
	assert_string_equal(wire_status_text(WIRE_STATUS_MAX + 1), "unknown status");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_has_its_fixed_layout),
		cmocka_unit_test(a_header_of_another_version_decodes),
		cmocka_unit_test(refuses_headers_that_make_no_sense),
		cmocka_unit_test(a_hello_comes_back),
		cmocka_unit_test(a_hello_needs_no_token),
		cmocka_unit_test(refuses_a_hello_whose_versions_are_reversed),
		cmocka_unit_test(a_token_has_a_limit),
		cmocka_unit_test(a_hello_reply_comes_back),
		cmocka_unit_test(refuses_a_hello_reply_that_lies),
		cmocka_unit_test(texts_lose_what_is_not_printable),
		cmocka_unit_test(a_read_comes_back),
		cmocka_unit_test(refuses_extents_that_cannot_be),
		cmocka_unit_test(counts_have_limits),
		cmocka_unit_test(nothing_is_written_beyond_the_buffer),
		cmocka_unit_test(leases_given_back_come_back),
		cmocka_unit_test(an_answer_comes_back),
		cmocka_unit_test(an_answer_tells_where_inline_data_begins),
		cmocka_unit_test(refuses_results_that_cannot_be),
		cmocka_unit_test(every_status_has_a_text_and_an_errno),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
