#include "filer/base/crc32c.h"

#include <isa-l/crc.h>

#include "filer/base/base.h"

/* The library counts in int, and leaves the inversions to its caller. */
#define STEP_BYTES_MAX GIB

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	const unsigned char *at = p;

	crc = ~crc;
	while (n > 0) {
		size_t step = min_u64(n, STEP_BYTES_MAX);

		/* It takes a pointer to what it only reads. */
		crc = crc32_iscsi((unsigned char *)at, (int)step, crc);
		at += step;
		n -= step;
	}
	return ~crc;
}

bool crc32c_matches(uint32_t stored, uint32_t crc)
{
	uint32_t masked = ((crc >> 15) | (crc << 17)) + UINT32_C(0xa282ead8);

	return stored == crc || stored == masked;
}
