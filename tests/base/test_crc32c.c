/* CRC-32C against known values, and its ways against each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"

#define BYTES_MAX 300
#define SHIFTS 9

/* RFC 3720, appendix B.4, and the usual check value. */
static const struct {
	const char *bytes;
	size_t len;
	uint32_t crc;
} known[] = {
	{ "", 0, 0 },
	{ "123456789", 9, 0xe3069283 },
	{ "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32, 0x8a9136aa },
	{ "\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377"
	  "\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377",
	  32, 0x62a8ab43 },
};

static void known_values_come_out(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		assert_int_equal(crc32c(0, known[i].bytes, known[i].len), known[i].crc);
		assert_int_equal(crc32c_by_table(0, known[i].bytes, known[i].len), known[i].crc);
	}
}

static void both_ways_agree_at_any_length_and_alignment(void **state)
{
	uint8_t data[BYTES_MAX + SHIFTS];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	for (size_t shift = 0; shift < SHIFTS; shift++)
		for (size_t len = 0; len < BYTES_MAX; len++)
			assert_int_equal(crc32c_by_table(7, data + shift, len),
					 crc32c(7, data + shift, len));
}

static void parts_continue_each_other(void **state)
{
	const char *text = "the parts of a needle come one behind the other";
	size_t len = strlen(text);

	(void)state;
	for (size_t cut = 0; cut <= len; cut++) {
		uint32_t crc = crc32c_by_table(0, text, cut);

		assert_int_equal(crc32c_by_table(crc, text + cut, len - cut), crc32c(0, text, len));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_values_come_out),
		cmocka_unit_test(both_ways_agree_at_any_length_and_alignment),
		cmocka_unit_test(parts_continue_each_other),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
