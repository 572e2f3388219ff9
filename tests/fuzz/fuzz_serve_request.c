/* Any bytes as the parameters of /read, one a line: what is accepted must be in its bounds. */
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "fs/ctl_serve_request.h"

#define MESSAGE_BYTES 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = { "file_id", "volume", "needle",       "cookie",
				     "offset",  "size",   "volume_server" };

/* arg: the lines, each NUL-terminated, NULL where there are no more. */
static const char *value(void *arg, const char *name)
{
	const char **lines = arg;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], name) == 0)
			return lines[i];
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *lines[ARRAY_LEN(names)] = { NULL };
	char message[MESSAGE_BYTES] = "", again[FID_STR_MAX];
	char *text = malloc(size + 1);
	struct serve_request r;
	size_t n = 0;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	for (char *p = text; p && n < ARRAY_LEN(names); n++) {
		lines[n] = p;
		p = strchr(p, '\n');
		if (p)
			*p++ = '\0';
	}
	if (serve_request_parse(value, lines, &r, message, sizeof(message)) == 0) {
		if (fid_format(&r.fid, again) >= sizeof(again) ||
		    (r.has_server && (!r.server.host[0] || !r.server.port)))
			abort();
	} else if (!message[0] || strlen(message) >= sizeof(message)) {
		abort();
	}
	free(text);
	return 0;
}
