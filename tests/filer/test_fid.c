#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/fid.h"

static int parse(const char *s, struct fid *ret)
{
	return fid_parse(s, strlen(s), ret);
}

static void assert_fid(const char *s, uint32_t volume_id, uint64_t key, uint32_t cookie)
{
	struct fid f = { 0 };

	assert_int_equal(parse(s, &f), 0);
	assert_int_equal(f.volume_id, volume_id);
	assert_true(f.key == key);
	assert_int_equal(f.cookie, cookie);
}

static void parses_volume_key_and_cookie(void **state)
{
	(void)state;
	assert_fid("3,01637037d6", 3, 0x01, 0x637037d6);
	assert_fid("4294967295,ffffffffffffffffdeadbeef", UINT32_MAX, UINT64_MAX, 0xdeadbeef);
}

static void accepts_upper_case_and_any_number_of_leading_zeros(void **state)
{
	(void)state;
	assert_fid("4,2ED391BF7", 4, 0x2, 0xed391bf7);
	assert_fid("4,0000000000000002ed391bf7", 4, 0x2, 0xed391bf7);
}

static void adds_the_delta_to_the_key(void **state)
{
	(void)state;
	assert_fid("7,95307650aa_1", 7, 0x96, 0x307650aa);
	assert_fid("7,95307650aa_0", 7, 0x95, 0x307650aa);
}

static void refuses_a_delta_that_overflows_the_key(void **state)
{
	struct fid f;

	(void)state;
	assert_int_equal(parse("7,ffffffffffffffff307650aa_1", &f), -EINVAL);
	assert_int_equal(parse("7,95307650aa_18446744073709551616", &f), -EINVAL);
}

static void reads_no_more_than_len_bytes(void **state)
{
	struct fid f;

	(void)state;
	assert_int_equal(fid_parse("3,01637037d6_5", 12, &f), 0);
	assert_true(f.key == 1);
	assert_int_equal(fid_parse("3,01637037d6", 0, &f), -EINVAL);
}

static void refuses_malformed_text_and_leaves_the_result_alone(void **state)
{
	static const char *const bad[] = {
		"",
		",",
		"3",
		"3,",
		",01637037d6",
		"3,637037d6",
		"-3,01637037d6",
		"+3,01637037d6",
		" 3,01637037d6",
		"3,01637037d6 ",
		"3,01637037g6",
		"3,0x637037d6aa",
		"3,01637037d6_",
		"3,01637037d6_x",
		"3,01637037d6_-1",
		"3,01637037d6_1_1",
		"3,4,01637037d6",
		"4294967296,01637037d6",
		"3/01637037d6",
		"3,01637037d6.jpg",
		"3,00000000000000000637037d6aa",
		"99999999999999999999999,01637037d6",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct fid f = { .key = 42 };

		if (parse(bad[i], &f) != -EINVAL)
			fail_msg("accepted '%s'", bad[i]);
		assert_true(f.key == 42);
	}
}

static void assert_format(struct fid f, const char *text)
{
	char buf[FID_STR_MAX];

	assert_int_equal(fid_format(&f, buf), strlen(text));
	assert_string_equal(buf, text);
}

static void formats_with_whole_key_bytes(void **state)
{
	(void)state;
	assert_format((struct fid){ .volume_id = 3, .key = 1, .cookie = 0x637037d6 },
		      "3,01637037d6");
	assert_format((struct fid){ .volume_id = 3, .key = 0x123, .cookie = 0xd6 },
		      "3,0123000000d6");
	assert_format((struct fid){ .volume_id = 0, .key = 0, .cookie = 0 }, "0,0000000000");
	assert_format((struct fid){ .volume_id = UINT32_MAX, .key = UINT64_MAX, .cookie = 1 },
		      "4294967295,ffffffffffffffff00000001");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_volume_key_and_cookie),
		cmocka_unit_test(accepts_upper_case_and_any_number_of_leading_zeros),
		cmocka_unit_test(adds_the_delta_to_the_key),
		cmocka_unit_test(refuses_a_delta_that_overflows_the_key),
		cmocka_unit_test(reads_no_more_than_len_bytes),
		cmocka_unit_test(refuses_malformed_text_and_leaves_the_result_alone),
		cmocka_unit_test(formats_with_whole_key_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
