#include "filer/base/crc32c.h"

#include <endian.h>
#include <isa-l/crc.h>
#include <pthread.h>
#include <string.h>

#include "filer/base/base.h"

/* The library counts in int, and leaves the inversions to its caller. */
#define STEP_BYTES_MAX GIB

/* Bytes taken at once by table: a table for each. */
#define SLICES 16
#define POLYNOMIAL UINT32_C(0x82f63b78) /* reflected */

static uint32_t tables[SLICES][256]; /* set once */
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? POLYNOMIAL : 0);
		tables[0][i] = c;
	}
	for (size_t t = 1; t < SLICES; t++)
		for (size_t i = 0; i < 256; i++)
			tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xff];
}

/* Of the eight bytes of v, the lowest being the first, with t tables' bytes behind them. Left to itself gcc calls
 * it, and takes up to two thirds longer. */
static inline __attribute__((always_inline)) uint32_t step(uint64_t v, size_t t)
{
	return tables[t + 7][v & 0xff] ^ tables[t + 6][v >> 8 & 0xff] ^
	       tables[t + 5][v >> 16 & 0xff] ^ tables[t + 4][v >> 24 & 0xff] ^
	       tables[t + 3][v >> 32 & 0xff] ^ tables[t + 2][v >> 40 & 0xff] ^
	       tables[t + 1][v >> 48 & 0xff] ^ tables[t][v >> 56];
}

static uint64_t load(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

uint32_t crc32c_by_table(uint32_t crc, const void *p, size_t n)
{
	const unsigned char *at = p;

	pthread_once(&tables_once, make_tables);
	crc = ~crc;
	for (; n >= SLICES; n -= SLICES, at += SLICES)
		crc = step(load(at) ^ crc, 8) ^ step(load(at + 8), 0);
	for (; n > 0; n--, at++)
		crc = crc >> 8 ^ tables[0][(crc ^ *at) & 0xff];
	return ~crc;
}

static uint32_t by_library(uint32_t crc, const void *p, size_t n)
{
	const unsigned char *at = p;

	crc = ~crc;
	while (n > 0) {
		size_t bytes = min_u64(n, STEP_BYTES_MAX);

		/* It takes a pointer to what it only reads. */
		crc = crc32_iscsi((unsigned char *)at, (int)bytes, crc);
		at += bytes;
		n -= bytes;
	}
	return ~crc;
}

/* Without that, the library takes one byte at a time. */
static bool library_is_fast(void)
{
#ifdef __x86_64__
	return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
#else
	return true;
#endif
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	return library_is_fast() ? by_library(crc, p, n) : crc32c_by_table(crc, p, n);
}

bool crc32c_matches(uint32_t stored, uint32_t crc)
{
	uint32_t masked = ((crc >> 15) | (crc << 17)) + UINT32_C(0xa282ead8);

	return stored == crc || stored == masked;
}
