/* Any bytes as a file id and as an address: what is accepted must survive being formatted and parsed
 * again. */
#include <stdlib.h>
#include <string.h>

#include "filer/endpoint.h"
#include "filer/fid.h"

#define DEFAULT_PORT 8888

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_fid(const char *s, size_t len)
{
	struct fid f, again;
	char text[FID_STR_MAX];

	if (fid_parse(s, len, &f) != 0)
		return;
	size_t text_len = fid_format(&f, text);
	if (text_len != strlen(text) || fid_parse(text, text_len, &again) != 0 ||
	    again.key != f.key || again.volume_id != f.volume_id || again.cookie != f.cookie)
		abort();
}

static void check_endpoint(const char *s, size_t len)
{
	struct endpoint e, again;
	char url[ENDPOINT_STR_MAX];

	if (endpoint_parse(s, len, DEFAULT_PORT, &e) != 0)
		return;
	size_t url_len = endpoint_grpc_url(&e, url);
	if (url_len != strlen(url))
		abort();
	url_len = endpoint_url(&e, url);
	if (url_len != strlen(url) || endpoint_parse(url, url_len, 1, &again) != 0 ||
	    strcmp(again.host, e.host) != 0 || again.port != e.port || again.https != e.https)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_fid((const char *)data, size);
	check_endpoint((const char *)data, size);
	return 0;
}
