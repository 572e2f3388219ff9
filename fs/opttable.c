#include "fs/opttable.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/optvalue.h"

int opt_fail(char *message, size_t bytes, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(message, bytes, format, ap);
	va_end(ap);
	return -EINVAL;
}

static int store_number(const struct opt *opt, const char *text, void *field)
{
	double v;
	int err = opt->kind == OPT_BYTES ? option_parse_bytes(text, &v)
					 : option_parse_number(text, &v);

	if (err)
		return err;
	if (opt->kind == OPT_MILLISECONDS)
		v *= 1000;
	if (v < opt->min || v > opt->max)
		return -ERANGE;
	if (opt->kind == OPT_UINT && v != floor(v))
		return -EINVAL;
	if (opt->kind == OPT_BYTES)
		*(uint64_t *)field = (uint64_t)v;
	else
		*(unsigned *)field = (unsigned)v;
	return 0;
}

int opt_store_string(const char *text, char **field)
{
	if (!*text)
		return -EINVAL;
	char *copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

int opt_store_path(const char *text, char **field)
{
	char *path, *cwd = NULL;

	if (!*text)
		return -EINVAL;
	if (text[0] != '/') {
		cwd = getcwd(NULL, 0);
		if (!cwd)
			return -errno;
	}
	int n = asprintf(&path, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", text);
	free(cwd);
	if (n < 0)
		return -ENOMEM;
	free(*field);
	*field = path;
	return 0;
}

/* text is NULL where no value is taken. */
static int store(const struct opt *opt, const char *text, void *target)
{
	void *field = (char *)target + opt->offset;

	if (!text && opt->kind != OPT_FLAG && opt->kind != OPT_SET)
		return -EINVAL;
	switch (opt->kind) {
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_SET:
		*(int *)field = (int)opt->min;
		return 0;
	case OPT_UINT:
	case OPT_BYTES:
	case OPT_MILLISECONDS:
		return store_number(opt, text, field);
	case OPT_STRING:
		return opt_store_string(text, field);
	case OPT_PATH:
		return opt_store_path(text, field);
	case OPT_OTHER:
		return opt->store(text, target);
	}
	return -EINVAL;
}

int opt_defaults(const struct opt_table *t, void *target)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct opt *opt = &t->rows[i];
		int err = opt->default_text ? store(opt, opt->default_text, target) : 0;

		if (err)
			return err;
	}
	return 0;
}

static bool in_scope(const struct opt *opt, unsigned scope, bool only)
{
	return opt->scope ? (opt->scope & scope) != 0 : !only;
}

/* *ret_value: behind the "=", or NULL. */
static const struct opt *find(const struct opt_table *t, unsigned scope, const char *arg,
			      const char **ret_value)
{
	bool is_long = arg[0] == '-' && arg[1] == '-';
	const char *equals = strchr(arg, '=');

	*ret_value = NULL;
	if (arg[0] != '-' || !arg[1])
		return NULL;
	for (size_t i = 0; i < t->n; i++) {
		const struct opt *opt = &t->rows[i];

		if (!in_scope(opt, scope, false))
			continue;
		if (!is_long) {
			if (arg[1] == opt->letter && !arg[2])
				return opt;
			continue;
		}
		const char *name = arg + 2;
		size_t len = equals ? (size_t)(equals - name) : strlen(name);
		if (strlen(opt->name) != len || memcmp(opt->name, name, len) != 0)
			continue;
		*ret_value = equals ? equals + 1 : NULL;
		return opt;
	}
	return NULL;
}

int opt_parse(const struct opt_table *t, unsigned scope, const char *arg, const char *next,
	      bool *ret_took_next, void *target, char *message, size_t bytes)
{
	const char *value;
	const struct opt *opt = find(t, scope, arg, &value);

	*ret_took_next = false;
	if (!opt)
		return -ENOENT;
	if (!opt->value && value)
		return opt_fail(message, bytes, "option --%s takes no value", opt->name);
	if (opt->value && !value) {
		value = next;
		*ret_took_next = true;
	}
	if (opt->value && !value)
		return opt_fail(message, bytes, "option --%s: expected --%s %s", opt->name,
				opt->name, opt->value);
	int err = store(opt, value, target);
	switch (err) {
	case 0:
	case -ENOMEM:
		return err;
	case -ERANGE:
		return opt_fail(message, bytes, "option --%s: %s is out of range", opt->name,
				value);
	case -E2BIG:
		return opt_fail(message, bytes, "option --%s: given too many times", opt->name);
	default:
		return opt_fail(message, bytes, "option --%s: expected %s, not %s", opt->name,
				opt->value, value);
	}
}

void opt_print_help(FILE *out, const struct opt_table *t, unsigned scope, bool only)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct opt *opt = &t->rows[i];
		char name[128];
		int n = 0;

		if (!in_scope(opt, scope, only))
			continue;
		if (opt->letter)
			n = snprintf(name, sizeof(name), "-%c, ", opt->letter);
		snprintf(name + n, sizeof(name) - (size_t)n, "--%s%s%s", opt->name,
			 opt->value ? " " : "", opt->value ? opt->value : "");
		fprintf(out, "  %-30s %s", name, opt->help);
		if (opt->default_text)
			fprintf(out, " (default %s)", opt->default_text);
		fputc('\n', out);
	}
}

void opt_print_man(FILE *out, const struct opt_table *t, unsigned scope, bool only)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct opt *opt = &t->rows[i];

		if (!in_scope(opt, scope, only))
			continue;
		fprintf(out, ".TP\n");
		if (opt->letter)
			fprintf(out, ".B \\-%c, \\-\\-", opt->letter);
		else
			fprintf(out, ".B \\-\\-");
		option_print_roff(out, opt->name);
		if (opt->value) {
			fprintf(out, " ");
			option_print_roff(out, opt->value);
		}
		fputc('\n', out);
		option_print_roff(out, opt->help);
		if (opt->default_text) {
			fprintf(out, " (default ");
			option_print_roff(out, opt->default_text);
			fputc(')', out);
		}
		fprintf(out, ".\n");
	}
}
