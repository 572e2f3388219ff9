#include "filer/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "filer/toml.h"

struct reading {
	struct tls_settings settings;
	bool enabled;
};

static int take_path(char **field, const struct toml_value *v)
{
	if (v->type != TOML_STRING)
		return -EINVAL;
	char *copy = v->string_len ? strdup(v->string) : NULL;
	if (v->string_len && !copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int take_flag(bool *field, const struct toml_value *v)
{
	if (v->type != TOML_BOOLEAN)
		return -EINVAL;
	*field = v->boolean;
	return 0;
}

static int take_setting(void *arg, const char *key, const struct toml_value *v)
{
	static const char section[] = "https.client.";
	struct reading *r = arg;
	if (strncasecmp(key, section, sizeof(section) - 1) != 0)
		return 0;
	key += sizeof(section) - 1;
	if (strcasecmp(key, "ca") == 0)
		return take_path(&r->settings.ca, v);
	if (strcasecmp(key, "cert") == 0)
		return take_path(&r->settings.cert, v);
	if (strcasecmp(key, "key") == 0)
		return take_path(&r->settings.key, v);
	if (strcasecmp(key, "insecure_skip_verify") == 0)
		return take_flag(&r->settings.insecure, v);
	if (strcasecmp(key, "enabled") == 0)
		return take_flag(&r->enabled, v);
	return 0;
}

int tls_settings_read(const char *security_toml, unsigned *ret_line, struct tls_settings *ret)
{
	struct reading r = { 0 };
	int err = security_toml ? toml_parse_file(security_toml, take_setting, &r, ret_line) : 0;

	if (err || !r.enabled)
		tls_settings_free(&r.settings);
	if (!err)
		*ret = r.settings;
	return err;
}

void tls_settings_free(struct tls_settings *t)
{
	free(t->ca);
	free(t->cert);
	free(t->key);
	*t = (struct tls_settings){ 0 };
}
