#include "filer/fid.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define COOKIE_DIGITS 8
#define KEY_DIGITS_MAX 16
#define DELTA_DIGITS_MAX 20

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The caller limits len to 16 digits. */
static bool parse_hex(const char *s, size_t len, uint64_t *ret)
{
	uint64_t value = 0;

	for (size_t i = 0; i < len; i++) {
		int digit = hex_value(s[i]);
		if (digit < 0)
			return false;
		value = value << 4 | (unsigned)digit;
	}
	*ret = value;
	return len > 0;
}

static bool parse_decimal(const char *s, size_t len, uint64_t max, uint64_t *ret)
{
	uint64_t value = 0;

	if (len == 0 || len > DELTA_DIGITS_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		unsigned digit = (unsigned)(s[i] - '0');
		if (value > (max - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*ret = value;
	return true;
}

int fid_parse(const char *s, size_t len, struct fid *ret)
{
	const char *comma = memchr(s, ',', len);
	uint64_t volume_id, key, cookie, delta = 0;

	if (!comma)
		return -EINVAL;
	const char *hex = comma + 1;
	size_t rest = len - (size_t)(hex - s);
	const char *underscore = memchr(hex, '_', rest);
	size_t hex_len = underscore ? (size_t)(underscore - hex) : rest;

	if (hex_len <= COOKIE_DIGITS || hex_len > KEY_DIGITS_MAX + COOKIE_DIGITS)
		return -EINVAL;
	if (!parse_decimal(s, (size_t)(comma - s), UINT32_MAX, &volume_id) ||
	    !parse_hex(hex, hex_len - COOKIE_DIGITS, &key) ||
	    !parse_hex(hex + hex_len - COOKIE_DIGITS, COOKIE_DIGITS, &cookie))
		return -EINVAL;
	if (underscore && !parse_decimal(underscore + 1, rest - hex_len - 1, UINT64_MAX, &delta))
		return -EINVAL;
	if (__builtin_add_overflow(key, delta, &key))
		return -EINVAL;
	*ret = (struct fid){
		.key = key,
		.volume_id = (uint32_t)volume_id,
		.cookie = (uint32_t)cookie,
	};
	return 0;
}

size_t fid_format(const struct fid *f, char buf[FID_STR_MAX])
{
	int key_bytes = 1;

	while (key_bytes < 8 && f->key >> (8 * key_bytes))
		key_bytes++;
	return (size_t)snprintf(buf, FID_STR_MAX, "%" PRIu32 ",%0*" PRIx64 "%08" PRIx32,
				f->volume_id, 2 * key_bytes, f->key, f->cookie);
}
