/* gRPC frames and status codes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "filer/grpc.h"

struct messages {
	size_t n;
	size_t lengths[8];
	uint8_t bytes[64];
	size_t n_bytes;
	int stop_with;
};

static int on_message(void *arg, const uint8_t *message, size_t len)
{
	struct messages *m = arg;

	if (m->stop_with)
		return m->stop_with;
	assert_true(m->n < ARRAY_LEN(m->lengths) && m->n_bytes + len <= sizeof(m->bytes));
	memcpy(m->bytes + m->n_bytes, message, len);
	m->n_bytes += len;
	m->lengths[m->n++] = len;
	return 0;
}

static const uint8_t stream[] = { 0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'd' };

static int push(const uint8_t *p, size_t len, size_t piece, size_t max, struct messages *m,
		bool *ret_whole)
{
	struct grpc_frames f = { .message_max_bytes = max, .on_message = on_message, .arg = m };
	int err = 0;

	for (size_t at = 0; at < len && !err; at += piece)
		err = grpc_frames_push(&f, p + at, piece < len - at ? piece : len - at);
	*ret_whole = grpc_frames_whole(&f);
	grpc_frames_release(&f);
	return err;
}

static void messages_come_out_whatever_the_pieces(void **state)
{
	(void)state;
	for (size_t piece = 1; piece <= sizeof(stream); piece++) {
		struct messages m = { 0 };
		bool whole;

		assert_int_equal(push(stream, sizeof(stream), piece, 3, &m, &whole), 0);
		assert_true(whole);
		assert_int_equal(m.n, 3);
		assert_int_equal(m.lengths[0], 3);
		assert_int_equal(m.lengths[1], 0);
		assert_int_equal(m.lengths[2], 1);
		assert_memory_equal(m.bytes, "abcd", 4);
	}
}

static void an_early_end_is_noticed(void **state)
{
	(void)state;
	for (size_t len = 1; len < sizeof(stream); len++) {
		struct messages m = { 0 };
		bool whole;

		assert_int_equal(push(stream, len, 2, 3, &m, &whole), 0);
		assert_int_equal(whole, len == 8 || len == 13);
	}
}

static void long_messages_are_refused_by_their_header(void **state)
{
	static const uint8_t huge[] = { 0, 0xff, 0xff, 0xff, 0xff };
	struct messages m = { 0 };
	bool whole;

	(void)state;
	assert_int_equal(push(huge, sizeof(huge), 1, GRPC_MESSAGE_MAX, &m, &whole), -EMSGSIZE);
	assert_int_equal(push(stream, sizeof(stream), 1, 2, &m, &whole), -EMSGSIZE);
}

static void compressed_messages_are_refused(void **state)
{
	static const uint8_t compressed[] = { 1, 0, 0, 0, 1, 'x' };
	struct messages m = { 0 };
	bool whole;

	(void)state;
	assert_int_equal(push(compressed, sizeof(compressed), 3, 10, &m, &whole), -EPROTO);
	assert_int_equal(m.n, 0);
}

static void the_callback_can_stop_the_stream(void **state)
{
	struct messages m = { .stop_with = -ECANCELED };
	bool whole;

	(void)state;
	assert_int_equal(push(stream, sizeof(stream), sizeof(stream), 10, &m, &whole), -ECANCELED);
}

static void statuses_become_errnos(void **state)
{
	(void)state;
	assert_int_equal(grpc_errno(0, ""), 0);
	assert_int_equal(grpc_errno(2, "filer: no entry is found in filer store"), -ENOENT);
	assert_int_equal(grpc_errno(2, "filer:%20no%20entry%20is%20found"), -ENOENT);
	assert_int_equal(grpc_errno(2, "leveldb: closed"), -EIO);
	assert_int_equal(grpc_errno(5, ""), -ENOENT);
	assert_int_equal(grpc_errno(7, ""), -EACCES);
	assert_int_equal(grpc_errno(16, ""), -EACCES);
	assert_int_equal(grpc_errno(12, ""), -EOPNOTSUPP);
	assert_int_equal(grpc_errno(13, ""), -EPROTO);
	assert_int_equal(grpc_errno(14, ""), -EIO);
	assert_int_equal(grpc_errno(99, ""), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_come_out_whatever_the_pieces),
		cmocka_unit_test(an_early_end_is_noticed),
		cmocka_unit_test(long_messages_are_refused_by_their_header),
		cmocka_unit_test(compressed_messages_are_refused),
		cmocka_unit_test(the_callback_can_stop_the_stream),
		cmocka_unit_test(statuses_become_errnos),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
