#include "filer/http_head.h"

#include <string.h>
#include <strings.h>

#include "filer/base/base.h"

void http_head_reset(struct http_head *head)
{
	*head = (struct http_head){
		.content_length = -1,
		.range_start = -1,
		.range_total = -1,
		.grpc_status = -1,
	};
}

bool http_parse_number(const char **s, const char *end, int64_t *ret)
{
	const char *p = *s;
	int64_t value = 0;

	for (; p < end && *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, *p - '0', &value))
			return false;
	if (p == *s)
		return false;
	*s = p;
	*ret = value;
	return true;
}

/* "bytes START-END/TOTAL", where START-END or TOTAL may be "*". */
static void parse_content_range(struct http_head *head, const char *s, size_t len)
{
	static const char unit[] = "bytes ";
	const char *end = s + len;
	int64_t first = -1, last = -1, total = -1;

	head->range_start = -1;
	head->range_total = -1;
	if (len < sizeof(unit) || strncasecmp(s, unit, sizeof(unit) - 1) != 0)
		return;
	s += sizeof(unit) - 1;
	if (*s == '*') {
		s++;
	} else if (!http_parse_number(&s, end, &first) || s == end || *s++ != '-' ||
		   !http_parse_number(&s, end, &last) || last < first) {
		return;
	}
	if (s == end || *s++ != '/')
		return;
	if (end - s == 1 && *s == '*')
		s++;
	else if (!http_parse_number(&s, end, &total) || last >= total)
		return;
	if (s != end)
		return;
	head->range_start = first;
	head->range_total = total;
}

/* A part of a value would mislead, so one that does not fit counts as absent. */
static void copy_whole(char *dst, size_t dst_bytes, const char *s, size_t len)
{
	if (len >= dst_bytes || memchr(s, '\0', len))
		len = 0;
	memcpy(dst, s, len);
	dst[len] = '\0';
}

static void parse_etag(struct http_head *head, const char *s, size_t len)
{
	if (len >= 2 && s[0] == '"' && s[len - 1] == '"') {
		s++;
		len -= 2;
	}
	/* A weak tag or a stray quote cannot be sent back in If-Match. */
	if (memchr(s, '"', len))
		len = 0;
	copy_whole(head->etag, sizeof(head->etag), s, len);
}

static void parse_grpc_status(struct http_head *head, const char *s, size_t len)
{
	const char *end = s + len;
	int64_t value;

	if (http_parse_number(&s, end, &value) && s == end && value <= INT32_MAX)
		head->grpc_status = (int)value;
}

static void parse_grpc_message(struct http_head *head, const char *s, size_t len)
{
	/* For a person to read: the beginning is better than nothing. */
	copy_whole(head->grpc_message, sizeof(head->grpc_message), s,
		   min_u64(len, sizeof(head->grpc_message) - 1));
}

bool http_name_is(const char *name, size_t len, const char *wanted)
{
	return len == strlen(wanted) && strncasecmp(name, wanted, len) == 0;
}

void http_head_take(struct http_head *head, const char *name, size_t name_len, const char *s,
		    size_t len)
{
	if (http_name_is(name, name_len, "Content-Range"))
		parse_content_range(head, s, len);
	else if (http_name_is(name, name_len, "Content-Encoding"))
		head->gzip = http_name_is(s, len, "gzip");
	else if (http_name_is(name, name_len, "Content-Type"))
		copy_whole(head->content_type, sizeof(head->content_type), s, len);
	else if (http_name_is(name, name_len, "ETag"))
		parse_etag(head, s, len);
	else if (http_name_is(name, name_len, "Authorization"))
		copy_whole(head->authorization, sizeof(head->authorization), s, len);
	else if (http_name_is(name, name_len, "Retry-After"))
		copy_whole(head->retry_after, sizeof(head->retry_after), s, len);
	else if (http_name_is(name, name_len, "grpc-status"))
		parse_grpc_status(head, s, len);
	else if (http_name_is(name, name_len, "grpc-message"))
		parse_grpc_message(head, s, len);
}
