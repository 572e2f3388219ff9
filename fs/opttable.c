#include "fs/opttable.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
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
	else if (opt->kind == OPT_SECONDS)
		*(double *)field = v;
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

/* The words of opt->value, as in "off|auto|require"; *ret is the index of text among them. */
static int store_choice(const struct opt *opt, const char *text, int *ret)
{
	size_t text_len = strlen(text);
	int i = 0;

	for (const char *p = opt->value;; p++, i++) {
		size_t len = strcspn(p, "|");

		if (len == text_len && memcmp(p, text, len) == 0) {
			*ret = i;
			return 0;
		}
		p += len;
		if (!*p)
			return -EINVAL;
	}
}

static void format_choice(const struct opt *opt, int choice, char *buf, size_t bytes)
{
	const char *p = opt->value;

	for (int i = 0; i < choice; i++)
		p += strcspn(p, "|") + 1;
	snprintf(buf, bytes, "%.*s", (int)strcspn(p, "|"), p);
}

/* text is NULL where no value was given. */
static int store(const struct opt *opt, const char *text, void *target)
{
	bool takes_value = opt->kind != OPT_FLAG && opt->kind != OPT_SET;
	void *field = (char *)target + opt->offset;

	if (takes_value != (text != NULL))
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
	case OPT_SECONDS:
	case OPT_MILLISECONDS:
		return store_number(opt, text, field);
	case OPT_CHOICE:
		return store_choice(opt, text, field);
	case OPT_STRING:
		return opt_store_string(text, field);
	case OPT_PATH:
		return opt_store_path(text, field);
	case OPT_OTHER:
		return opt->store(text, target);
	}
	return -EINVAL;
}

void opt_format(const struct opt *opt, const void *target, char *buf, size_t bytes)
{
	const void *field = (const char *)target + opt->offset;
	const char *text = NULL;

	switch (opt->kind) {
	case OPT_FLAG:
		text = *(const bool *)field ? "on" : "off";
		break;
	case OPT_SET:
		text = *(const int *)field == (int)opt->min ? "on" : "off";
		break;
	case OPT_UINT:
		if (*(const unsigned *)field == UINT_MAX)
			text = "auto";
		else
			snprintf(buf, bytes, "%u", *(const unsigned *)field);
		break;
	case OPT_BYTES:
		snprintf(buf, bytes, "%" PRIu64, *(const uint64_t *)field);
		break;
	case OPT_SECONDS:
		snprintf(buf, bytes, "%g", *(const double *)field);
		break;
	case OPT_MILLISECONDS:
		snprintf(buf, bytes, "%g", *(const unsigned *)field / 1000.0);
		break;
	case OPT_CHOICE:
		format_choice(opt, *(const int *)field, buf, bytes);
		break;
	case OPT_STRING:
	case OPT_PATH:
		text = *(char *const *)field ? *(char *const *)field : "";
		break;
	case OPT_OTHER:
		buf[0] = '\0';
		if (opt->format)
			opt->format(target, buf, bytes);
		break;
	}
	if (text)
		snprintf(buf, bytes, "%s", text);
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

static const struct opt *find_letter(const struct opt_table *t, unsigned scope, char letter)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->rows[i].letter == letter && in_scope(&t->rows[i], scope, false))
			return &t->rows[i];
	}
	return NULL;
}

/* text is "name" or "name=value"; *ret_value: behind the "=", or NULL. */
static const struct opt *find_name(const struct opt_table *t, unsigned scope, const char *text,
				   const char **ret_value)
{
	size_t len = strcspn(text, "=");

	for (size_t i = 0; i < t->n; i++) {
		const struct opt *opt = &t->rows[i];

		if (strlen(opt->name) != len || memcmp(opt->name, text, len) != 0 ||
		    !in_scope(opt, scope, false))
			continue;
		*ret_value = text[len] ? text + len + 1 : NULL;
		return opt;
	}
	return NULL;
}

/* What stands between name and value. */
static const char *joint(const struct opt_table *t)
{
	return t->in_list ? "=" : " ";
}

/* As store(), with a message. */
static int store_or_explain(const struct opt_table *t, const struct opt *opt, const char *value,
			    void *target, char *message, size_t bytes)
{
	const char *dashes = t->in_list ? "" : "--";
	int err = store(opt, value, target);

	switch (err) {
	case 0:
	case -ENOMEM:
		return err;
	case -ERANGE:
		return opt_fail(message, bytes, "option %s%s%s%s: the value is out of range",
				dashes, opt->name, joint(t), value);
	case -E2BIG:
		return opt_fail(message, bytes, "option %s%s%s%s: given too many times", dashes,
				opt->name, joint(t), value);
	default:
		return opt_fail(message, bytes, "option %s%s%s%s: expected %s%s%s%s", dashes,
				opt->name, value ? joint(t) : "", value ? value : "", dashes,
				opt->name, opt->value ? joint(t) : "",
				opt->value ? opt->value : "");
	}
}

int opt_parse(const struct opt_table *t, unsigned scope, const char *arg, const char *next,
	      bool *ret_took_next, void *target, char *message, size_t bytes)
{
	const char *value = NULL;
	const struct opt *opt = NULL;

	*ret_took_next = false;
	if (arg[0] == '-' && arg[1] == '-')
		opt = find_name(t, scope, arg + 2, &value);
	else if (arg[0] == '-' && arg[1] && !arg[2])
		opt = find_letter(t, scope, arg[1]);
	if (!opt)
		return -ENOENT;
	if (!opt->value && value)
		return opt_fail(message, bytes, "option --%s takes no value", opt->name);
	if (opt->value && !value) {
		value = next;
		*ret_took_next = true;
	}
	return store_or_explain(t, opt, value, target, message, bytes);
}

int opt_assign(const struct opt_table *t, const char *text, void *target, size_t *ret_row,
	       char *message, size_t bytes)
{
	const char *value;
	const struct opt *opt = find_name(t, 0, text, &value);

	if (!opt)
		return -ENOENT;
	int err = store_or_explain(t, opt, value, target, message, bytes);
	if (!err)
		*ret_row = (size_t)(opt - t->rows);
	return err;
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
		snprintf(name + n, sizeof(name) - (size_t)n, "%s%s%s%s", t->in_list ? "" : "--",
			 opt->name, opt->value ? joint(t) : "", opt->value ? opt->value : "");
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
		fprintf(out, ".TP\n.B ");
		if (opt->letter)
			fprintf(out, "\\-%c, ", opt->letter);
		option_print_roff(out, t->in_list ? "" : "--");
		option_print_roff(out, opt->name);
		if (opt->value) {
			fputs(joint(t), out);
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
