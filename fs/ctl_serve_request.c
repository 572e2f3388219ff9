#include "fs/ctl_serve_request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOLUME_SERVER_PORT 8080

struct query {
	const char *(*value)(void *arg, const char *name);
	void *arg;
	char *message;
	size_t bytes;
};

/* Decimal, or hexadecimal behind 0x. */
static int parse_number(const char *text, uint64_t max, uint64_t *ret)
{
	bool hex = strncasecmp(text, "0x", 2) == 0;
	const char *digits = hex ? text + 2 : text;
	const char *known = hex ? "0123456789abcdefABCDEF" : "0123456789";

	if (!*digits || digits[strspn(digits, known)])
		return -EINVAL;
	errno = 0;
	unsigned long long n = strtoull(digits, NULL, hex ? 16 : 10);
	if (errno || n > max)
		return -ERANGE;
	*ret = n;
	return 0;
}

static const char *get(const struct query *q, const char *name)
{
	const char *text = q->value(q->arg, name);

	return text && *text ? text : NULL;
}

static int take_number(const struct query *q, const char *name, uint64_t min, uint64_t max,
		       uint64_t *ret)
{
	const char *text = get(q, name);
	uint64_t n = 0;

	if (!text) {
		snprintf(q->message, q->bytes, "%s is missing (or file_id instead)", name);
		return -EINVAL;
	}
	if (parse_number(text, max, &n) || n < min) {
		snprintf(q->message, q->bytes,
			 "%s: not a number from %" PRIu64 " to %" PRIu64 ", decimal or with 0x",
			 name, min, max);
		return -EINVAL;
	}
	*ret = n;
	return 0;
}

static int take_optional(const struct query *q, const char *name, uint64_t *ret)
{
	*ret = 0;
	return get(q, name) ? take_number(q, name, 0, UINT64_MAX, ret) : 0;
}

static int take_fid(const struct query *q, struct fid *ret)
{
	const char *text = get(q, "file_id");
	uint64_t volume = 0, cookie = 0;

	if (text) {
		if (fid_parse(text, strlen(text), ret) == 0)
			return 0;
		snprintf(q->message, q->bytes, "file_id: not a file id, such as 3,01637037d6");
		return -EINVAL;
	}
	int err = take_number(q, "volume", 1, UINT32_MAX, &volume);
	if (!err)
		err = take_number(q, "needle", 1, UINT64_MAX, &ret->key);
	if (!err)
		err = take_number(q, "cookie", 0, UINT32_MAX, &cookie);
	ret->volume_id = (uint32_t)volume;
	ret->cookie = (uint32_t)cookie;
	return err;
}

static int take_server(const struct query *q, struct serve_request *ret)
{
	const char *text = get(q, "volume_server");

	if (!text)
		return 0;
	/* URLs may end in a slash. */
	size_t len = strlen(text);
	if (text[len - 1] == '/')
		len--;
	if (endpoint_parse(text, len, VOLUME_SERVER_PORT, &ret->server)) {
		snprintf(q->message, q->bytes,
			 "volume_server: not an address, such as http://host:8080");
		return -EINVAL;
	}
	ret->has_server = true;
	return 0;
}

int serve_request_parse(const char *(*value)(void *arg, const char *name), void *arg,
			struct serve_request *ret, char *message, size_t bytes)
{
	const struct query q = { .value = value, .arg = arg, .message = message, .bytes = bytes };
	struct serve_request r = { 0 };
	int err = take_fid(&q, &r.fid);

	if (!err)
		err = take_optional(&q, "offset", &r.offset);
	if (!err)
		err = take_optional(&q, "size", &r.size);
	if (!err)
		err = take_server(&q, &r);
	if (err)
		return err;
	*ret = r;
	return 0;
}
