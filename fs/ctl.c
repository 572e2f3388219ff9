#include "fs/ctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

int ctl_fail(int err, char *message, size_t bytes, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(message, bytes, format, ap);
	va_end(ap);
	return err;
}

void ctl_endpoint_name(const struct endpoint *e, char buf[ENDPOINT_STR_MAX])
{
	char url[ENDPOINT_STR_MAX];

	endpoint_url(e, url);
	snprintf(buf, ENDPOINT_STR_MAX, "%s", strstr(url, "://") + 3);
}

void ctl_json_u64(cJSON *object, const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	cJSON_AddRawToObject(object, name, text);
}

int ctl_json_print(FILE *out, cJSON *tree)
{
	char *text = cJSON_Print(tree);
	int err = 0;

	cJSON_Delete(tree);
	if (!text)
		return -ENOMEM;
	if (fprintf(out, "%s\n", text) < 0 || fflush(out) != 0)
		err = -EIO;
	cJSON_free(text);
	return err;
}
