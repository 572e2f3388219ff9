/* Any bytes as the header of an answer: whatever is taken keeps its promises, is the same when more
 * bytes follow, and is not taken before it is whole. */
#include <stdlib.h>
#include <string.h>

#include "filer/range.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static bool ends(const char *s, size_t bytes)
{
	return memchr(s, '\0', bytes) != NULL;
}

static void check(const struct http_head *h)
{
	require(h->status >= 200 && h->status <= 599);
	require(h->content_length >= 0);
	require(h->range_start >= -1 && h->range_total >= -1);
	require(h->range_total < 0 || h->range_start < h->range_total);
	require(ends(h->content_type, sizeof(h->content_type)));
	require(ends(h->etag, sizeof(h->etag)));
	require(ends(h->authorization, sizeof(h->authorization)));
	require(ends(h->retry_after, sizeof(h->retry_after)));
}

/* A copy of just these bytes, so that a read beyond them is seen. */
static ssize_t parse(const uint8_t *data, size_t size, struct http_head *head, bool *keep)
{
	char *copy = malloc(size ? size : 1);

	require(copy != NULL);
	memcpy(copy, data, size);
	ssize_t len = range_parse_head(copy, size, head, keep);
	free(copy);
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http_head head, again;
	bool keep, keep_again;

	ssize_t len = parse(data, size, &head, &keep);
	if (len <= 0)
		return 0;
	require((size_t)len <= size && memcmp(data + len - 4, "\r\n\r\n", 4) == 0);
	check(&head);
	require(parse(data, (size_t)len, &again, &keep_again) == len);
	require(keep == keep_again && memcmp(&head, &again, sizeof(head)) == 0);
	for (ssize_t part = 0; part < len; part++)
		require(parse(data, (size_t)part, &again, &keep_again) == 0);
	return 0;
}
