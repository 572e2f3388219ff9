/* Any bytes as a security.toml: strings are terminated, limits hold, a failure names a line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/toml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check_value(void *arg, const char *key, const struct toml_value *v)
{
	(void)arg;
	if (strlen(key) == 0 || strlen(key) >= TOML_KEY_MAX || strlen(v->string) != v->string_len)
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned line = 0;
	int err = toml_parse((const char *)data, size, check_value, NULL, &line);

	if (err ? (err != -EINVAL || line == 0) : line != 0)
		abort();
	return 0;
}
